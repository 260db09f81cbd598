"""``cwgpt choices``: what the writer's choices hold, and how they would be used."""

from __future__ import annotations

import argparse
import sys

from .. import console
from ..errors import InputError
from ..files import check_writable, from_home, true_path
from .main import add_json, short_usage


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    short_usage(parser, "FILE ... [flags]")
    parser.description = (
        "Report the choices in stories and in files of choices: how many of which kind, how they\n"
        "would be used to learn the writer's taste, what is left out and why, and how sure one\n"
        "can be with so many. Where a story was written before choices were recorded, they are\n"
        "read from its tree of passages."
    )
    parser.epilog = (
        "examples:\n"
        "  cwgpt choices stories/*.json\n"
        "  cwgpt choices picks.jsonl --json\n"
        "  cwgpt choices stories/ferry.json --out pairs.jsonl"
    )
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="stories (.json), or choices (.jsonl)"
    )
    parser.add_argument(
        "--out", metavar="FILE",
        help="write the usable choices there as pairs: prompt, chosen, rejected",
    )  # fmt: skip
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Read, report, and write pairs."""
    from ..story.choice_files import read_any, write_pairs
    from ..story.choice_report import render, report
    from ..story.decisions import Decisions

    names = list({true_path(from_home(name)): name for name in arguments.files}.values())
    out = None if arguments.out is None else from_home(arguments.out)
    if out is not None:
        if out.exists():
            raise InputError(f"{out} is there already", "name another file")
        check_writable(out.parent)
    found = Decisions()
    for name in names:
        found.add(read_any(name))
    found.drop_contradicting()
    result = report(found, names)
    if out is not None:
        result["pairs"] = write_pairs(found.used, out)
        console.note(f"{console.counted(result['pairs'], 'pair')} written: {out}")
    if arguments.json:
        console.print_json(result)
    else:
        text = render(result)
        sys.stdout.write(console.printable(text) if sys.stdout.isatty() else text)
    return 0
