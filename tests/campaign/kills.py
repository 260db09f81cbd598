"""Kills and failing calls: at each call that writes, and at random moments, then going on.

A scenario runs once undisturbed, with its calls counted. Then it runs for one call after the other
that is the last, or fails; and it is stopped by SIGKILL and SIGTERM at random moments. Each time
all files must be whole, the next run must go on to the very same result, and no temporary file may
be left when that has ended.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from . import layer as layers
from . import material, scenarios
from .frame import Bench, Ended, Fault, Part, Stop, Trial, one_line
from .scenarios import Scenario

DEATHS = ("die", "torn", "term")
ERRORS = {
    "full": layers.NEEDS_SPACE, "half": {"write", "native"}, "quota": layers.NEEDS_SPACE,
    "io": layers.NEEDS_SPACE | {"fsync"}, "denied": layers.NEEDS_LEAVE,
    "readonly": layers.NEEDS_SPACE | layers.NEEDS_LEAVE, "gone": {"open", "mkdir", "replace"},
}  # fmt: skip
SAMPLED = 12
"""Trials of each kind of error for a scenario, where not all calls are taken."""
MOMENTS = 12
"""Trials at random moments of each scenario and signal."""
IN_A_ROW = 12
"""Kills of such a trial, before a run that may end."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """An undisturbed run: its folder, calls and length."""

    folder: Path
    calls: list[tuple[str, str]]
    seconds: float
    unflushed: list[str]


def laid_out(bench: Bench, scenario: Scenario, folder: Path) -> tuple[Path, ...]:
    """The folders of a scenario; those whose calls count."""
    material.cache(folder)
    for name in scenario.watch:
        if name.endswith("/"):
            (folder / name).mkdir()
    return tuple(folder / name.rstrip("/") for name in scenario.watch)


def first(
    bench: Bench, scenario: Scenario, folder: Path, plan: layers.Plan | None, *stops: Stop
) -> Ended:
    """The disturbed run."""
    return disturbed(bench, scenario, scenario.first(bench, folder), folder, plan, *stops)


def disturbed(
    bench: Bench, scenario: Scenario, body: Callable[[], int], folder: Path,
    plan: layers.Plan | None, *stops: Stop,
) -> Ended:  # fmt: skip
    """A run under the layer, with signals."""
    return bench.fork(
        body, folder, plan=plan, stdin=scenario.stdin, stops=stops,
        environment={"CWGPT_CACHE": str(folder / "cache")},
    )  # fmt: skip


def reference(bench: Bench, scenario: Scenario) -> Reference:
    """The undisturbed run of a scenario, made once."""

    def make(folder: Path) -> Reference:
        plan = layers.Plan(laid_out(bench, scenario, folder))
        ended = first(bench, scenario, folder, plan)
        if ended.code != 0:
            raise Fault(f"{scenario.name} does not run: {ended.err[-800:]}")
        return Reference(folder, ended.calls, ended.seconds, ended.unflushed)

    found: Reference = bench.shared(f"reference-{scenario.name}", make)
    return found


def check(bench: Bench, scenario: Scenario, folder: Path, ended: Ended, why: str) -> None:
    """All is whole, the next run goes on to the same result, nothing is left behind."""
    if ended.unflushed:
        raise Fault(f"renamed before it was flushed: {ended.unflushed[0]}")
    scenario.whole(folder)
    body = scenario.again(bench, folder)
    again = bench.fork(
        body, folder, stdin=scenario.stdin, environment={"CWGPT_CACHE": str(folder / "cache")}
    )
    said = one_line(again)
    if again.code != 0:
        raise Fault(f"after {why} the next run refused: {said}")
    scenario.whole(folder)
    scenario.same(reference(bench, scenario).folder, folder)
    if left := scenarios.left_over(folder):
        raise Fault(f"after {why} and the next run there is still {', '.join(left)}")


def at_call(bench: Bench, scenario: Scenario, act: str, number: int, folder: Path) -> None:
    """One run whose call ``number`` is its last, or fails."""
    calls = reference(bench, scenario).calls
    kind, path = calls[number - 1]
    watch = laid_out(bench, scenario, folder)
    ended = first(bench, scenario, folder, layers.Plan(watch, number, act))
    name = Path(path.split(" -> ")[-1]).name
    why = f"{act} at call {number} ({kind} {name})"
    if act in ("die", "torn"):
        if ended.signal != signal.SIGKILL and len(ended.calls) >= number:
            raise Fault(f"{why}: it did not die, {ended.code}")
    elif act == "term":
        _ended_by_term(ended, why)
    else:
        try:
            one_line(ended, talks=scenario.talks)
        except Fault as fault:
            raise Fault(f"{why}: {fault}") from fault
        if act == "gone":
            for place in watch:
                place.mkdir(exist_ok=True)
    check(bench, scenario, folder, ended, why)


def _ended_by_term(ended: Ended, why: str) -> None:
    if ended.signal not in (0, signal.SIGTERM) or ended.code not in (None, 0, 1, 2, 130, 143):
        raise Fault(f"{why}: exit code {ended.code}, signal {ended.signal}: {ended.err[-300:]!r}")
    if "Traceback" in ended.err:
        raise Fault(f"{why}: a traceback: {ended.err[-500:]!r}")


def at_moment(
    bench: Bench, scenario: Scenario, shares: list[float], folder: Path
) -> dict[str, int]:
    """Runs that are killed, one after the other, each after a share of the usual time.

    Returns:
        How many were killed, and had not ended before.
    """
    killed = 0
    watch = laid_out(bench, scenario, folder)
    seconds = reference(bench, scenario).seconds
    for place, share in enumerate(shares):
        body = (scenario.again if place else scenario.first)(bench, folder)
        stop = Stop(share * seconds)
        ended = disturbed(bench, scenario, body, folder, layers.Plan(watch), stop)
        if not (ended.signal == signal.SIGKILL or ended.code == 0):
            raise Fault(f"run {place + 1}: exit code {ended.code}: {ended.err[-300:]!r}")
        killed += int(ended.signal == signal.SIGKILL)
        if ended.unflushed:
            raise Fault(f"renamed before it was flushed: {ended.unflushed[0]}")
        scenario.whole(folder)
    after = ", ".join(f"{100 * share:.1f}" for share in shares)
    check(bench, scenario, folder, ended, f"kills after {after} % of the time")
    return {"killed": killed}


def asked_to_end(bench: Bench, scenario: Scenario, share: float, folder: Path) -> None:
    """One run that gets SIGTERM after a share of its usual time."""
    watch = laid_out(bench, scenario, folder)
    stop = Stop(share * reference(bench, scenario).seconds, signal.SIGTERM)
    ended = first(bench, scenario, folder, layers.Plan(watch), stop)
    why = f"SIGTERM after {100 * share:.1f} % of the time"
    _ended_by_term(ended, why)
    check(bench, scenario, folder, ended, why)


def flushed(bench: Bench, scenario: Scenario, folder: Path) -> None:
    """The undisturbed run renames nothing that is not flushed, and leaves nothing behind."""
    found = reference(bench, scenario)
    if found.unflushed:
        raise Fault(f"renamed before it was flushed: {found.unflushed[0]}")
    if left := scenarios.left_over(found.folder):
        raise Fault(f"an undisturbed run leaves {', '.join(left)}")
    scenario.whole(found.folder)
    # The next run after a whole one changes nothing of its result.
    shutil.copytree(found.folder, folder / "copy")


def trials_of(bench: Bench, scenario: Scenario) -> Iterator[Trial]:
    """All trials of a scenario, in an order that the seed decides."""
    name = scenario.name
    yield Trial(f"{name}/flushed", functools.partial(flushed, bench, scenario), short=True)
    try:
        calls = reference(bench, scenario).calls
    except Fault:  # the trial above has said it
        return
    draw = bench.draw(f"kills/{name}")
    found: list[Trial] = []
    for act in (*DEATHS, *ERRORS):
        kinds = ERRORS.get(act)
        if act == "torn":
            kinds = {"write", "native"}
        numbers = [i for i, (kind, _) in enumerate(calls, 1) if kinds is None or kind in kinds]
        if act not in ("die", "torn"):
            most = max(1, round(SAMPLED * bench.rounds))
            numbers = sorted(draw.sample(numbers, min(most, len(numbers))))
        for number in numbers:
            run = functools.partial(at_call, bench, scenario, act, number)
            found.append(Trial(f"{name}/{act}/{number}", run, kills=int(act in DEATHS)))
    for count in range(max(1, round(MOMENTS * bench.rounds))):
        shares = [draw.uniform(0, 1.05) for _ in range(IN_A_ROW)]
        run = functools.partial(at_moment, bench, scenario, shares)
        found.append(Trial(f"{name}/sigkill/{count}", run, count=IN_A_ROW, kills=IN_A_ROW))
        ask = functools.partial(asked_to_end, bench, scenario, draw.uniform(0, 1.05))
        found.append(Trial(f"{name}/sigterm/{count}", ask, kills=1))
    draw.shuffle(found)
    for place, trial in enumerate(found):
        yield dataclasses.replace(trial, short=place < scenario.short)


def trials(bench: Bench) -> Iterator[Trial]:
    """The trials of all scenarios in turn."""
    turns = [trials_of(bench, scenario) for scenario in scenarios.ALL]
    while turns:
        for turn in list(turns):
            trial = next(turn, None)
            if trial is None:
                turns.remove(turn)
            else:
                yield trial


PART = Part("kills", "kills and failing calls of each command that writes", trials)
