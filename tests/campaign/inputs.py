"""The campaign of hostile inputs: every reader, batch after batch, with recorded seeds."""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from .frame import Bench, Fault, Part, Trial
from .sandbox import Result, Target, in_process

TURNS = 10
"""Batches of each target in a campaign of usual length."""
ROOMS = ("texts", "stories", "models", "requests", "commands")
"""The modules ``hostile_NAME`` that hold targets."""


@functools.cache
def targets() -> dict[str, Target]:
    """All targets by name."""
    found: dict[str, Target] = {}
    for room in ROOMS:
        module = importlib.import_module(f".hostile_{room}", __package__)
        found |= {one.name: one for one in module.TARGETS}
    return found


def target(name: str) -> Target:
    """The target of that name."""
    if name.startswith("bad-"):
        from .hostile_faulty import TARGETS

        return next(one for one in TARGETS if one.name == name)
    return targets()[name]


def run(
    seed: int,
    minutes: float,
    *,
    names: Sequence[str] = (),
    record: Path | None = None,
    cases: int = 0,
) -> list[Result]:
    """Run batches of all targets in turn until the time is up.

    Args:
        seed: Of the first batch of each target; later ones count on.
        minutes: When no new batch is begun. A batch takes some seconds.
        names: The targets, ``A+B`` in one process; default: all, a room in each process.
        record: A file to which each batch adds a line of JSON.
        cases: Of a batch; default: the target's pace.

    Returns:
        What each batch came to.
    """
    chosen = list(names or rooms())
    results: list[Result] = []
    end = time.monotonic() + 60 * minutes
    turn = 0
    while time.monotonic() < end:
        name = chosen[turn % len(chosen)].replace("+", ",")
        batch = in_process(name, seed + turn // len(chosen), cases, end - time.monotonic())
        results += batch
        if record is not None:
            with record.open("a", encoding="utf-8") as stream:
                stream.writelines(json.dumps(vars(one)) + "\n" for one in batch)
        if any(one.faults and not one.cases for one in batch):
            break  # it does not even start
        turn += 1
    return results


def rooms() -> list[str]:
    """The names of all targets, those of a module in one text, parted by ``+``."""
    found: dict[str, list[str]] = {}
    for name, one in targets().items():
        found.setdefault(one.act.__module__, []).append(name)
    return ["+".join(names) for names in found.values()]


def trials(bench: Bench) -> Iterator[Trial]:
    """Batches of every target, with seeds that count on from the campaign's."""
    for turn in range(round(TURNS * bench.rounds)):
        for one in targets().values():
            seed = bench.seed * 1000 + turn
            yield Trial(
                f"inputs/{one.name}/seed-{seed}",
                functools.partial(_trial, one.name, seed),
                count=one.pace,
            )


def _trial(name: str, seed: int, folder: Path) -> None:
    [result] = in_process(name, seed, 0, 600, where=folder)
    for fault in result.faults:
        raise Fault(f"{fault['kind']}: {fault['case'][:300]}")


PART = Part("inputs", "hostile input for every reader, in batches", trials)


def main() -> int:
    """Run a campaign from the command line, and say what was found."""
    parser = argparse.ArgumentParser(prog="python -m campaign.inputs", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--targets", default="", help="names parted by commas; A+B in one process")
    parser.add_argument("--cases", type=int, default=0, help="of a batch")
    parser.add_argument("--record", type=Path, help="file of JSON lines that grows")
    given = parser.parse_args()
    names = [name for name in given.targets.split(",") if name]
    results = run(given.seed, given.minutes, names=names, record=given.record, cases=given.cases)
    say = sys.stdout.write
    for one in results:
        say(f"{one.target} seed {one.seed}: {one.cases} cases, {one.refused} refused\n")
        for fault in one.faults:
            say(f"FAULT {fault['kind']}\n{fault['traceback'][-1800:]}\n{fault['case'][:600]}\n")
    say(f"{sum(one.cases for one in results)} cases\n")
    return 1 if any(one.faults for one in results) else 0


if __name__ == "__main__":
    raise SystemExit(main())
