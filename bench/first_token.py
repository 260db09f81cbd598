"""How long the first token of a long prompt takes, two contenders by turns in one process.

    python bench/first_token.py [--repeats 15] [--models …] [--contenders ours transformers]

A prompt's time is a second or less, and a shared machine is slower by a third for seconds at a
time: what is run one after the other, each time on the same new prompt of 500 tokens, meets the
same moments. `ratio` is the second contender's median by the first's.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from generate_contenders import CONTENDERS, MODELS, make_contender, sample_prompts
from measuring import median, show, timed

TOKENS = 500
# Threads of one runtime wait busily for a moment after its work, on the other's cores.
PAUSE = 0.3


def by_turns(model: str, names: list[str], repeats: int) -> list[dict[str, Any]]:
    """Measure the contenders on one model; a row for each."""
    contenders = {name: make_contender(name, model) for name in names}
    prompts = sample_prompts(TOKENS)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats + 1):
        for name, contender in contenders.items():
            times[name].append(timed(contender.write, prompts[turn % len(prompts)], 1, 1))
            time.sleep(PAUSE)
    rows = []
    for name, found in times.items():
        kept = found[1:]  # the first is a warm-up
        row = {"contender": name, "model": model, "case": "first token", "seconds": median(kept)}
        rows.append({**row, "fastest_seconds": min(kept)})
    rows[1]["ratio"] = rows[1]["seconds"] / rows[0]["seconds"]
    return rows


def main() -> None:
    """Measure and print the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument(
        "--contenders", nargs=2, choices=CONTENDERS, default=["ours", "transformers"]
    )
    parser.add_argument("--worker", nargs=2, metavar=("CONTENDER", "MODEL"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        peer, model = arguments.worker
        ratio = by_turns(model, ["ours", peer], arguments.repeats)[1]["ratio"]
        sys.stdout.write("\n" + json.dumps({"ratio": ratio}) + "\n")
        return
    for model in arguments.models:
        rows = by_turns(model, arguments.contenders, arguments.repeats)
        show("first token of 500", rows, ("seconds", "fastest_seconds", "ratio"))


if __name__ == "__main__":
    main()
