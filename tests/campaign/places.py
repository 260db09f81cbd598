"""Odd surroundings: names, file systems, pipes, clocks, little memory, and two programs at once."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from launches import free_port

from . import cases, kills, material, scenarios
from . import layer as layers
from .frame import Bench, Child, Ended, Fault, Part, Stop, Trial, command, one_line
from .scenarios import CPU, Scenario

NAMES = {
    "255 bytes": "n" * 250 + ".json", "255 bytes of é": "é" * 125 + ".json",
    "256 bytes": "n" * 251 + ".json", "240 bytes": "n" * 235 + ".json",
    "Chinese": "故事.json", "Russian": "история.json", "Arabic": "قصة.json", "emoji": "📖🕯.json",
    "decomposed": "cafe\u0301.json", "line end": "one\ntwo.json", "carriage return": "a\rb.json",
    "tab": "a\tb.json", "quotes": "\"it's\".json", "spaces": "  a  b .json", "dash": "-v.json",
    "percent": "%s{0}$HOME.json", "brackets": "[a-z]*?.json", "not UTF-8": b"\xff\xfe.json",
    "escape": "\x1b[31mred.json", "right to left": "\u202egpj.json", "tilde": "~nobody.json",
    "dots": "...json", "backslash": "a\\b.json",
}  # fmt: skip
"""Names of files."""


def _name(key: str) -> str:
    name = NAMES[key]
    return os.fsdecode(name) if isinstance(name, bytes) else name


def _taken(folder: Path, name: str) -> bool:
    """Whether the file system takes a name."""
    try:
        (folder / "probe").mkdir(exist_ok=True)
        (folder / "probe" / name).touch()
    except OSError:
        return False
    finally:
        shutil.rmtree(folder / "probe")
    return True


def odd_name(bench: Bench, what: str, key: str, folder: Path) -> None:
    """A command reads or writes what has an odd name: it works or is refused in one line."""
    material.cache(folder)
    name = _name(key)
    if what in ("text", "run"):
        try:
            (folder / name).write_bytes(material.stories(bench).read_bytes())
        except OSError:  # longer than the file system takes
            if key != "256 bytes" and _taken(folder, name):
                raise
            return
    before = set(os.listdir(folder))
    ended = bench.command(
        cases.words_for(bench, what, name), folder, stdin=b"Hello\n/save\n",
        environment={"CWGPT_CACHE": str(folder / "cache")},
    )  # fmt: skip
    said = one_line(ended, talks=what == "story")
    if key != "256 bytes" and not _taken(folder, name):
        told = "takes no file of that name" in said + ended.out + ended.err or key == "not UTF-8"
        if ended.code == 0 or not told:
            raise Fault(f"the disk does not take the name, and it says {said!r}")
        return
    new = set(os.listdir(folder)) - before
    # Some drivers of Windows' file systems write names in small letters.
    found = {name, name.casefold()} if cases.alike(folder) else {name}
    if ended.code == 0 and what in ("story", "out", "results") and not found & new:
        raise Fault(f"it wrote {sorted(new)}, not {name!r}")
    if ended.code != 0 and key not in ("255 bytes", "256 bytes", "255 bytes of é", "not UTF-8"):
        raise Fault(f"a usual name is refused: {said or ended.out[-300:]}")
    if ended.code != 0 and [one for one in new if one != f"run-{name}"]:
        raise Fault(f"refused ({said}), and left {sorted(new)}")
    if left := scenarios.left_over(folder):
        raise Fault(f"there is still {', '.join(left)}")


# ---- file systems


def _without_links() -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    os.symlink = refused
    os.link = refused


def _without_locks(number: int) -> None:
    import fcntl

    def refused(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    fcntl.flock = refused


def _without_folder_sync() -> None:
    real = os.fsync

    def fsync(fd: Any) -> None:
        number = fd if isinstance(fd, int) else fd.fileno()
        if os.path.isdir(f"/proc/self/fd/{number}"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(number)

    os.fsync = fsync


def _without_modes() -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    os.chmod = refused


def _days(days: float) -> Callable[[], None]:
    def jump() -> None:
        real, calls = time.time, [0]

        def jumping() -> float:
            calls[0] += 1
            return real() + days * 86400 * (calls[0] % 7)

        time.time = jumping
        time.time_ns = lambda: int(jumping() * 1e9)

    return jump


def _sleeping() -> None:
    """A monotonic clock that jumps by an hour, as after a laptop's sleep."""
    real, calls = time.monotonic, [0]

    def jumping() -> float:
        calls[0] += 1
        return real() + 3600 * (calls[0] // 5)

    time.monotonic = jumping


SURROUNDINGS: dict[str, tuple[Callable[[], None], bool]] = {
    "no links": (_without_links, True),
    "no locks": (lambda: _without_locks(errno.ENOSYS), True),
    "locks fail": (lambda: _without_locks(errno.ENOLCK), False),
    "no sync of folders": (_without_folder_sync, True),
    "no modes": (_without_modes, True),
    "clock forward": (_days(1), True), "clock back": (_days(-400), True),
    "clock stops and leaps": (_sleeping, True),
}  # fmt: skip
"""What a child does to itself before it begins, and whether it must succeed."""


def surrounded(bench: Bench, scenario: Scenario, key: str, folder: Path) -> None:
    """A scenario in odd surroundings has its usual result, or says in one line why not."""
    prepare, must = SURROUNDINGS[key]
    kills.laid_out(bench, scenario, folder)
    ended = bench.fork(
        scenario.first(bench, folder), folder, prepare=prepare, stdin=scenario.stdin,
        environment={"CWGPT_CACHE": str(folder / "cache")},
    )  # fmt: skip
    said = one_line(ended, talks=scenario.talks)
    scenario.whole(folder)
    # A cache that can't be locked is done without.
    cached = must or scenario is not scenarios.PACKED
    if ended.code == 0 and cached:
        scenario.same(kills.reference(bench, scenario).folder, folder)
    elif ended.code != 0 and must:
        raise Fault(f"it refuses: {said}")
    if left := [name for name in scenarios.left_over(folder) if not name.endswith(".lock")]:
        raise Fault(f"there is still {', '.join(left)}")


# ---- memory and pipes


def little_memory(bench: Bench, scenario: Scenario, spare: int, folder: Path) -> None:
    """A limit on the address space: success or one line, and then the next run goes on."""
    kills.laid_out(bench, scenario, folder)
    ended = bench.fork(
        scenario.first(bench, folder), folder, memory=spare, stdin=scenario.stdin,
        environment={"CWGPT_CACHE": str(folder / "cache")},
    )  # fmt: skip
    try:
        # Native code (tokenizers, safetensors, onnxruntime) aborts where it gets no memory.
        if ended.signal != signal.SIGABRT:
            one_line(ended, talks=scenario.talks)
    except Fault as fault:
        raise Fault(f"with {spare >> 20} MB to spare: {fault}") from fault
    kills.check(bench, scenario, folder, ended, f"{spare >> 20} MB to spare")


PIPES = {"one byte": "head -c 1", "nothing": "true", "slow": "sleep 0.5; cat"}
STREAMS = ("full device", "closed", "both closed", "stdin closed", "stdin of zeros")


def pipe(bench: Bench, key: str, verb: str, folder: Path) -> None:
    """A command whose output goes nowhere ends soon, without a traceback."""
    material.cache(folder)
    words = {
        "stream": ["generate", "The lamp", f"--model={material.model(bench)}",
                   "--max-new-tokens=60", "--seed=1", *CPU],
        "json": ["generate", "The lamp", f"--model={material.model(bench)}", "--json", "--n=4",
                 "--max-new-tokens=40", "--seed=1", *CPU],
        "data": ["data", "inspect", str(material.stories(bench)), "--json"],
        "session": ["generate", f"--model={material.parrot(bench)}", "--story=s.json",
                    "--max-new-tokens=8", *CPU],
    }[verb]  # fmt: skip

    def body() -> int:
        if key == "full device":
            os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
        elif key in ("closed", "both closed"):
            os.close(1)
            sys.stdout = None  # type: ignore[assignment]
            if key == "both closed":
                sys.stderr = None  # type: ignore[assignment]
        elif key == "stdin closed":
            os.close(0)
            sys.stdin = None  # type: ignore[assignment]
        elif key == "stdin of zeros":
            zeros = subprocess.Popen(["head", "-c", "100000", "/dev/zero"], stdout=subprocess.PIPE)
            assert zeros.stdout is not None
            os.dup2(zeros.stdout.fileno(), 0)
        else:
            other = subprocess.Popen(
                ["sh", "-c", PIPES[key]], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
            )
            assert other.stdin is not None
            os.dup2(other.stdin.fileno(), 1)
            other.stdin.close()
            if key == "nothing":
                other.wait()
        if sys.stdout is not None:
            sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        return command(words)()

    ended = bench.fork(
        body, folder, limit=40, stdin=b"Hello\n\n/stats\n",
        environment={"CWGPT_CACHE": str(folder / "cache")},
    )  # fmt: skip
    if "Traceback" in ended.err or "this should not happen" in ended.err:
        raise Fault(f"{key}: {ended.err[-500:]!r}")
    allowed = (0, 1, 2, 129, 130, 141)  # 129: a session whose terminal is gone
    if ended.code not in allowed or (ended.code == 0 and key == "full device"):
        raise Fault(f"{key}: exit code {ended.code}, signal {ended.signal}: {ended.err[-300:]!r}")
    if "Exception ignored" in ended.err:
        raise Fault(f"{key}: {ended.err[-300:]!r}")


# ---- two at once


def both(bench: Bench, scenario: Scenario, folder: Path) -> None:
    """The same command twice at once: one result, and the other is refused or has it as well."""
    kills.laid_out(bench, scenario, folder)
    environment = {"CWGPT_CACHE": str(folder / "cache")}
    started = [
        bench.start(scenario.first(bench, folder), folder, stdin=scenario.stdin,
                    environment=environment)
        for _ in range(2)
    ]  # fmt: skip
    ended = [child.wait(60) for child in started]
    for one in ended:
        one_line(one, talks=scenario.talks)
    if all(one.code for one in ended):
        raise Fault(f"both are refused: {[one.err[-200:] for one in ended]}")
    scenario.whole(folder)
    scenario.same(kills.reference(bench, scenario).folder, folder)
    if left := scenarios.left_over(folder):
        raise Fault(f"there is still {', '.join(left)}")


def shared_cache(bench: Bench, scenario: Scenario, act: str, at: int, folder: Path) -> None:
    """Two processes need one entry of a cache; one is killed, the other has it all the same."""
    places = [folder / "a", folder / "b"]
    for place in places:
        place.mkdir()
        kills.laid_out(bench, scenario, place)
    shutil.rmtree(places[1] / "cache")
    os.symlink(places[0] / "cache", places[1] / "cache")
    environment = {"CWGPT_CACHE": str(places[0] / "cache")}
    plan = layers.Plan((places[0] / "cache",), at, act)
    first = bench.start(scenario.first(bench, places[0]), places[0], plan=plan,
                        environment=environment)  # fmt: skip
    second = bench.start(scenario.first(bench, places[1]), places[1], environment=environment)
    first.wait(60)
    ended = second.wait(60)
    if said := one_line(ended):
        raise Fault(f"the other process: {said}")
    scenario.whole(places[1])
    scenario.same(kills.reference(bench, scenario).folder, places[1])


def _rank(bench: Bench, folder: Path, rank: int, port: str, *more: str) -> Child:
    environment = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank),
        "CWGPT_CACHE": str(folder / "cache"),
    }  # fmt: skip
    body = scenarios.training("processes", *more).first(bench, folder)
    return bench.start(body, folder, environment=environment)


def _together(bench: Bench, folder: Path, *more: str, stop: tuple[int, Stop] | None) -> list[Ended]:
    port = free_port()
    ranks = [_rank(bench, folder, rank, port, *more) for rank in range(2)]
    ended: list[Ended] = []
    order = ranks if stop is None or stop[0] == 0 else ranks[::-1]
    for child in order:
        stops = [stop[1]] if stop is not None and child is ranks[stop[0]] else []
        ended.append(child.wait(90, stops))
    return ended


def processes(bench: Bench, rank: int, share: float, folder: Path) -> None:
    """One of two processes of a training is killed; the other says so, and a resume goes on."""

    def make(place: Path) -> tuple[Path, float]:
        material.cache(place)
        (place / "out").mkdir()
        ended = _together(bench, place, stop=None)
        if any(one.code for one in ended):
            raise Fault(f"two processes do not run: {[one.err[-400:] for one in ended]}")
        return place, max(one.seconds for one in ended)

    whole, seconds = bench.shared("reference-processes", make)
    material.cache(folder)
    (folder / "out").mkdir()
    ended = _together(bench, folder, stop=(rank, Stop(share * seconds, signal.SIGKILL)))
    if ended[1].code is None or "Traceback" in ended[1].err:
        raise Fault(f"the other: signal {ended[1].signal}: {ended[1].err[-300:]!r}")
    if ended[0].signal == signal.SIGKILL and ended[1].code != 0:
        one_line(ended[1])
    scenarios.whole_files(folder)
    for one in _together(bench, folder, "--resume", stop=None):
        if one.code:
            raise Fault(f"the resume: {one.err[-300:]!r}")
    scenarios.training().same(whole, folder)
    if left := scenarios.left_over(folder):
        raise Fault(f"there is still {', '.join(left)}")


def changed_by_another(bench: Bench, folder: Path) -> None:
    """A story that another program writes while a session has it is not overwritten."""
    material.cache(folder)
    path = folder / "s.json"
    words = ["generate", f"--model={material.parrot(bench)}", "--story=s.json",
             "--max-new-tokens=8", *CPU]  # fmt: skip

    def body() -> int:
        from creativewritinggpt.story import file

        real, count = file.StoryFile.save, [0]

        def save(self: Any, story: Any) -> None:
            count[0] += 1
            if count[0] == 3:
                path.write_text('{"other": "program"}')
            real(self, story)

        file.StoryFile.save = save  # type: ignore[method-assign]
        return command(words)()

    ended = bench.fork(body, folder, stdin=b"Hello\n\n\n/save else.json\n")
    one_line(ended, talks=True)
    if path.read_text() != '{"other": "program"}':
        raise Fault("what another program wrote is overwritten")
    if "was changed by something else" not in ended.out + ended.err:
        raise Fault(f"it is not said: {ended.out[-300:]!r}")
    if not (folder / "else.json").exists():
        raise Fault("the story could not be saved elsewhere")


def trials(bench: Bench) -> Iterator[Trial]:
    """All of them, in an order that the seed decides."""
    draw = bench.draw("places")
    found: list[Trial] = []
    for key in NAMES:
        for what in ("story", "out", "text", "run", "results", "export"):
            run = functools.partial(odd_name, bench, what, key)
            found.append(Trial(f"names/{what}/{key}", run))
    for scenario in scenarios.ALL:
        for key in SURROUNDINGS:
            run = functools.partial(surrounded, bench, scenario, key)
            found.append(Trial(f"surroundings/{key}/{scenario.name}", run))
        for number in range(max(1, round(6 * bench.rounds))):
            spare = int(2 ** draw.uniform(18, 30))
            run = functools.partial(little_memory, bench, scenario, spare)
            found.append(Trial(f"memory/{scenario.name}/{number}-{spare}", run))
        found.append(Trial(f"two/{scenario.name}", functools.partial(both, bench, scenario)))
    for scenario in (scenarios.training(), scenarios.STARTER, scenarios.PACKED):
        for number in range(max(1, round(12 * bench.rounds))):
            act, at = draw.choice(["die", "torn"]), draw.randint(1, 30)
            run = functools.partial(shared_cache, bench, scenario, act, at)
            found.append(Trial(f"shared/{scenario.name}/{number}-{act}-{at}", run, kills=1))
    for number in range(max(1, round(8 * bench.rounds))):
        rank, share = draw.randint(0, 1), draw.uniform(0.1, 1)
        run = functools.partial(processes, bench, rank, share)
        found.append(Trial(f"processes/{number}-{rank}-{share:.3f}", run, kills=1))
    for key in (*PIPES, *STREAMS):
        for verb in ("stream", "json", "data", "session"):
            run = functools.partial(pipe, bench, key, verb)
            found.append(Trial(f"pipes/{key}/{verb}", run))
    found += cases.trials(bench)
    found.append(Trial("two/story-and-editor", functools.partial(changed_by_another, bench)))
    draw.shuffle(found)
    shorts = {"pipes/one byte/stream", "pipes/full device/json", "two/story-and-editor",
              "names/story/line end", "two/generate", "case/session", "case/out"}  # fmt: skip
    with contextlib.suppress(GeneratorExit):
        for trial in found:
            short = trial.name in shorts
            yield Trial(trial.name, trial.run, short, trial.count, trial.kills)


PART = Part("places", "odd names, file systems, pipes, clocks, little memory, two at once", trials)
