"""How fast training is beside another busy program, against alone.

    python bench/busy.py [--busy 1] [--steps 4] [--json]

The engine of `cwgpt train` takes steps of 1,024 tokens on the starter, alone and beside programs
that count as fast as they can, with threads that wait as torch has them by itself (`spinning`) and
as `cwgpt train` sets them when it finds them busy (`as trained`). Medians of the steps after the
first; `share` is of the speed alone, as trained.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from measuring import in_own_process, machine, median, show

ROWS, LENGTH = 2, 512


def work(steps: int) -> dict[str, Any]:
    """Train for some steps in this process."""
    import random

    import train_contenders

    train_contenders.MODELS["starter"] = (ROWS, 16, 32)
    draw = random.Random(0)
    texts = [[draw.randrange(20, 40_000) for _ in range(LENGTH - 1)] for _ in range(ROWS * steps)]
    course = train_contenders.run("ours", "starter", texts, steps)
    seconds = median(course.seconds[1:])
    return {"seconds": seconds, "tokens_per_second": ROWS * LENGTH / seconds, **course.notes}


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many programs that do nothing but count."""
    command = [sys.executable, "-c", "while True: pass"]
    programs = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def main() -> None:
    """Train alone and beside busy programs and print the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--busy", type=int, default=1, metavar="N", help="busy programs beside")
    parser.add_argument("--steps", type=int, default=4, metavar="N")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--worker", nargs=1, metavar="STEPS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        sys.stdout.write("\n" + json.dumps(work(int(arguments.worker[0]))) + "\n")
        return
    from creativewritinggpt import wait_without_spinning

    rows: list[dict[str, Any]] = []
    for name in ("as trained", "spinning"):
        for count in (0, arguments.busy):
            before = dict(os.environ)
            with busy(count):
                if name == "as trained":
                    wait_without_spinning()
                found = in_own_process(__file__, [str(arguments.steps)], seconds=300)
            os.environ.clear()
            os.environ.update(before)
            case = f"beside {count}" if count else "alone"
            rows.append({"contender": name, "model": "starter", "case": case, **found})
    if "tokens_per_second" in rows[0]:
        for row in rows:
            if "tokens_per_second" in row:
                row["share"] = row["tokens_per_second"] / rows[0]["tokens_per_second"]
    show("training", rows, ("seconds", "tokens_per_second", "share"))
    if arguments.json:
        sys.stdout.write(json.dumps({"machine": machine(), "rows": rows}) + "\n")


if __name__ == "__main__":
    main()
