"""How long a command takes until there is something to see: processes of their own, by turns.

    python bench/start.py [--repeats 9] [--only import help first-token torch] [--json]

- `import`: seconds of `import creativewritinggpt` in a new interpreter.
- `help`: seconds of `cwgpt --help`, from the command to its end.
- `first-token`: seconds from `cwgpt generate PROMPT --model starter` to the first text after the
  prompt. The model's files are in the system's cache, after a first run that is not counted.
- `torch`: seconds of `import torch` in a new interpreter: the part of the former that is not ours.

Medians, and the fastest.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

from measuring import machine

PROMPT = "The lamp went out, and"
TARGETS = {"import": 0.05, "help": 0.15, "first-token": 2.5, "torch": None}
"""Seconds that each case may take."""


def importing(module: str) -> float:
    """Seconds of an import."""
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(done.stdout)


def command() -> str:
    """``cwgpt`` of this interpreter."""
    return str(Path(sysconfig.get_path("scripts")) / "cwgpt")


def helping() -> float:
    """Seconds of ``cwgpt --help``."""
    began = time.perf_counter()
    subprocess.run([command(), "--help"], check=True, capture_output=True)
    return time.perf_counter() - began


def first_token(flags: list[str]) -> float:
    """Seconds to the first text after the prompt."""
    began = time.perf_counter()
    with subprocess.Popen(
        [command(), "generate", PROMPT, "--model", "starter", "--max-new-tokens", "8", *flags],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        shown = b""
        while len(shown) <= len(PROMPT):
            new = os.read(process.stdout.fileno(), 4096)
            if not new:
                raise RuntimeError("cwgpt generate wrote nothing")
            shown += new
        took = time.perf_counter() - began
        process.stdout.read()
    if process.returncode:
        raise RuntimeError(f"cwgpt generate ended with {process.returncode}")
    return took


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--only", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--flags", nargs=argparse.REMAINDER, default=[], help="of cwgpt generate")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    cases: dict[str, Callable[[], float]] = {
        "import": lambda: importing("creativewritinggpt"), "help": helping,
        "first-token": lambda: first_token(arguments.flags), "torch": lambda: importing("torch"),
    }  # fmt: skip
    found: dict[str, list[float]] = {name: [] for name in arguments.only}
    for _ in range(arguments.repeats + 1):
        for name, times in found.items():
            times.append(cases[name]())
    rows = {
        name: {
            "seconds": statistics.median(times[1:]), "fastest_seconds": min(times[1:]),
            "target": TARGETS[name],
        }
        for name, times in found.items()
    }  # fmt: skip
    on = machine()
    if arguments.json:
        print(json.dumps({"machine": on, **rows}, indent=2))
        return
    print(f"on {on['processor']}, {on['cores']} cores, {on['threads']} threads")
    for name, row in rows.items():
        target = TARGETS[name]
        said = "" if target is None else f"; target {target:.2f} s"
        print(f"{name}: {row['seconds']:.3f} s, fastest {row['fastest_seconds']:.3f} s{said}")


if __name__ == "__main__":
    main()
