"""``cwgpt doctor``: what this machine has."""

from __future__ import annotations

import argparse
import json
import sys


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.description = (
        "Say which device, precision and threads would be used and why, how much memory and disk\n"
        "is free, whether the starter is cached and the model hub can be reached, and what to do."
    )
    parser.add_argument("--cache-dir", metavar="FOLDER", help="look at this cache folder")
    parser.add_argument("--json", action="store_true", help="print as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Examine and report."""
    from ..doctor import examine, render

    found = examine(cache_dir=arguments.cache_dir)
    sys.stdout.write(json.dumps(found) + "\n" if arguments.json else render(found) + "\n")
    return 0
