"""``cwgpt doctor``: what this machine has."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from ..console import printable, size


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
    from .doctor_report import examine

    found = examine(cache_dir=arguments.cache_dir)
    found["writing"] = _writing(found)
    sys.stdout.write((json.dumps(found) if arguments.json else _render(found)) + "\n")
    return 0


def _writing(found: dict[str, Any]) -> dict[str, str] | None:
    """The formats in which this processor reads prompts and writes; None on other devices."""
    if found["device"] != "cpu":
        return None
    import torch

    from ..models.forward.linear import format_for_many
    from ..models.forward.onnx import session
    from ..models.forward.weight_format import fastest_weights

    torch.set_num_threads(found["threads"])
    if not session.available():
        found["advice"].append(
            "writing may be faster with onnxruntime: pip install 'creativewritinggpt[fast]'"
        )
    steps = fastest_weights(found["threads"])
    # The others are made for few rows.
    prompts = steps if steps in ("fp32", "rotated") else format_for_many()
    return {"prompts": prompts, "steps": steps}


def _render(found: dict[str, Any]) -> str:
    """The findings as lines of text."""
    reasons, memory, cache = found["reasons"], found["memory"], found["cache"]
    starter, hub = found["starter"], found["hub"]
    writing = found["writing"]
    rows = [
        ("device", f"{found['device']} ({reasons['device']})"),
        ("precision", f"{found['precision']} ({reasons['precision']})"),
        ("threads", f"{found['threads']} ({reasons['threads']})"),
        *(
            [("writing", f"{writing['steps']}, prompts in {writing['prompts']} (measured)")]
            if writing
            else []
        ),
        ("memory", f"{size(memory['free_bytes'])} free of {size(memory['total_bytes'])}"),
        ("cache", f"{cache['folder']}, {size(cache['free_bytes'])} free"),
        ("starter", "in the cache" if starter["cached"] else "not in the cache yet"),
        ("model hub", f"{hub['endpoint']}: {hub['reason']}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in found["versions"].items())),
    ]
    lines = [f"{name:<10} {printable(text)}" for name, text in rows]
    return "\n".join([*lines, "", *(f"- {advice}" for advice in found["advice"])])
