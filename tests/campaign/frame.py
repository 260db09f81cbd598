"""The campaign's frame: parts, their trials, children that are forked, and what is recorded.

A trial is one fault: its name says all that was drawn, so that the seed and the name repeat it. A
child is forked from a process that has imported everything (:mod:`preloaded`), which takes
milliseconds; that process itself computes nothing with PyTorch, whose threads don't survive a fork.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from . import layer as layers

_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


class Fault(Exception):
    """What must not happen, in one sentence."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One fault, or several of a kind.

    Attributes:
        name: Tells it from all others, and says what was drawn: ``training/die/17``.
        run: Does it in an empty folder; raises :class:`Fault`. What it returns is recorded.
        short: Whether the short form runs it.
        count: Number of faults or inputs in it.
        kills: Number of processes killed in it.
    """

    name: str
    run: Callable[[Path], Any]
    short: bool = False
    count: int = 1
    kills: int = 0


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the campaign.

    Attributes:
        name: What ``--only`` takes.
        title: What is tried, for people.
        trials: Makes its trials.
        on_demand: Whether it runs only when ``--only`` names it.
    """

    name: str
    title: str
    trials: Callable[[Bench], Iterable[Trial]]
    on_demand: bool = False


@dataclasses.dataclass
class Ended:
    """A child that has ended.

    Attributes:
        code: Its exit code; None where a signal ended it.
        signal: The signal that ended it, or 0.
        out: What it wrote to stdout.
        err: What it wrote to stderr.
        seconds: How long it ran.
        calls: Kind and path of each writing call that the layer saw.
        unflushed: Files that were renamed before they were flushed.
    """

    code: int | None
    signal: int
    out: str
    err: str
    seconds: float
    calls: list[tuple[str, str]]
    unflushed: list[str]


@dataclasses.dataclass(frozen=True)
class Stop:
    """A signal that is sent to a child.

    Attributes:
        after: Seconds after its start.
        number: The signal.
    """

    after: float
    number: int = signal.SIGKILL


class Child:
    """A forked process.

    Args:
        body: What it does; returns its exit code.
        folder: Its working folder.
        plan: Faults of its file layer.
        stdin: What it reads.
        memory: Bytes of memory that it may have beyond what it starts with.
        environment: Variables of its own.
        prepare: Called in it before the layer is installed.
    """

    def __init__(
        self, body: Callable[[], int], folder: Path, *, plan: layers.Plan | None = None,
        stdin: bytes = b"", memory: int | None = None, environment: dict[str, str] | None = None,
        prepare: Callable[[], None] | None = None, said: Path | None = None,
    ) -> None:  # fmt: skip
        self.said = said or Path(tempfile.mkdtemp(prefix="campaign-said-"))
        (self.said / "stdin").write_bytes(stdin)
        self.began = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid:
            return
        code = 70
        try:
            os.setsid()
            # It ends with the campaign, however that ends.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            for number, name, flags in (
                (0, "stdin", os.O_RDONLY),
                (1, "out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
                (2, "err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
            ):
                os.dup2(os.open(self.said / name, flags, 0o600), number)
            sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
            sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.chdir(folder)
            os.environ.update(environment or {})
            if memory is not None:
                limit_memory(memory)
            if prepare is not None:
                prepare()
            if plan is not None:
                log = os.open(self.said / "calls", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                layers.install(plan, log)
            code = body()
            sys.stdout.flush()
            sys.stderr.flush()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            with contextlib.suppress(BaseException):
                traceback.print_exc()
                sys.stderr.flush()
        finally:
            os._exit(code if isinstance(code, int) else 70)

    def ended(self) -> bool:
        """Whether it has ended."""
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    def send(self, number: int) -> None:
        """Send it a signal."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, limit: float = 120, stops: Sequence[Stop] = ()) -> Ended:
        """Wait for its end.

        Args:
            limit: Seconds from now.
            stops: Signals to send meanwhile.

        Raises:
            Fault: It takes longer than ``limit`` seconds, or a process of its own outlives it.
        """
        left = sorted(stops, key=lambda stop: stop.after)
        until = time.monotonic() + limit
        while not self.ended():
            while left and time.monotonic() - self.began >= left[0].after:
                self.send(left.pop(0).number)
            if time.monotonic() > until:
                self._kill_group()
                os.waitpid(self.pid, 0)
                raise Fault(f"it hangs: not done after {limit:.0f} s; {self.read('err')[-300:]!r}")
            time.sleep(0.002)
        _, status = os.waitpid(self.pid, 0)
        seconds = time.monotonic() - self.began
        until = time.monotonic() + 15
        while self._group_lives():
            if time.monotonic() > until:
                self._kill_group()
                raise Fault("a process that it started outlives it")
            time.sleep(0.01)
        lines = [line.split("\t") for line in self.read("calls").splitlines()]
        ended = Ended(
            os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
            os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
            self.read("out"), self.read("err"), seconds,
            [(kind, path) for number, kind, path in lines if number.isdigit()],
            [f"{path} as {target}" for kind, path, target in lines if kind == "unflushed"],
        )  # fmt: skip
        shutil.rmtree(self.said, ignore_errors=True)
        return ended

    def read(self, name: str) -> str:
        """What it has written so far: ``out``, ``err`` or ``calls``."""
        with contextlib.suppress(FileNotFoundError):
            return (self.said / name).read_text("utf-8", "replace")
        return ""

    def _group_lives(self) -> bool:
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def limit_memory(spare: int) -> None:
    """Let this process have only so many bytes of address space beyond what it has."""
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + spare
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


class Bench:
    """What trials share: the seed, models and texts made once, children.

    Args:
        seed: Seed of all that is drawn.
        folder: A folder for what trials share.
        rounds: Factor for the number of random trials.
    """

    def __init__(self, seed: int, folder: Path, rounds: float = 1.0) -> None:
        self.seed, self.folder, self.rounds = seed, folder, rounds
        self._made: dict[str, Any] = {}

    def draw(self, name: str) -> random.Random:
        """Random numbers that the seed and a name decide."""
        return random.Random(f"{self.seed}/{name}")

    def shared(self, name: str, make: Callable[[Path], Any]) -> Any:
        """A value made once, in a folder of its own that trials must not change."""
        if name not in self._made:
            folder = self.folder / re.sub(r"\W+", "-", name)
            folder.mkdir()
            try:
                self._made[name] = make(folder)
            except Fault as fault:
                self._made[name] = fault
        if isinstance(self._made[name], Fault):
            raise self._made[name]
        return self._made[name]

    def environment(self) -> dict[str, str]:
        """Variables of all children: a home and a cache that hold only the machine's measures."""
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        return {
            "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "HF_HOME": str(home / "hf"),
            "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "CWGPT_CACHE": str(home / "cwgpt"),
            "OMP_NUM_THREADS": "1", "TERM": "dumb",
        }  # fmt: skip

    def start(self, body: Callable[[], int], folder: Path, **more: Any) -> Child:
        """A child at work; see :class:`Child`."""
        environment = {**self.environment(), **more.pop("environment", {})}
        return Child(body, folder, environment=environment, **more)

    def fork(
        self, body: Callable[[], int], folder: Path, *, limit: float = 120,
        stops: Sequence[Stop] = (), **more: Any,
    ) -> Ended:  # fmt: skip
        """Run ``body`` in a child, to its end."""
        return self.start(body, folder, **more).wait(limit, stops)

    def command(self, words: Sequence[object], folder: Path, **more: Any) -> Ended:
        """Run ``cwgpt`` with these words in a child."""
        return self.fork(command(words), folder, **more)


def command(words: Sequence[object]) -> Callable[[], int]:
    """The body of a child that is ``cwgpt`` with these words."""

    def body() -> int:
        from creativewritinggpt.cli.main import main

        texts = [str(word) for word in words]
        sys.argv = ["cwgpt", *texts]
        return main(texts)

    return body


def one_line(
    ended: Ended, codes: Sequence[int] = (0, 1, 2, 130), talks: bool = False
) -> str:  # fmt: skip
    """The sentence with which a child refused, or "" where it succeeded.

    Args:
        ended: The child.
        codes: Exit codes that may be.
        talks: Whether it may say several errors, and on stdout too.

    Raises:
        Fault: It ended by a signal or with another code, with a traceback, with no error or with
            more than one, or with one that says nothing.
    """
    tail = ended.err[-600:]
    if ended.code not in codes:
        raise Fault(f"exit code {ended.code}, signal {ended.signal}: {tail!r}")
    if "Traceback (most recent call last)" in ended.err + ended.out:
        raise Fault(f"a traceback: {tail!r}")
    found = re.findall(r"^(?:.*: )?error: (.*)$", ended.err, re.MULTILINE)
    if "this should not happen" in ended.err + ended.out:
        raise Fault(f"an error that nobody has thought of: {found or ended.out[-300:]}")
    if ended.code in (1, 2) and len(found) != 1 and not talks:
        raise Fault(f"exit code {ended.code} with {len(found)} errors: {tail!r}")
    return str(found[0]) if found else ""


@dataclasses.dataclass
class Record:
    """Results in a file, one JSON line for each trial: what is there is not done again."""

    path: Path | None
    seed: int
    done: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path is not None and self.path.exists():
            for line in self.path.read_text("utf-8").splitlines():
                with contextlib.suppress(ValueError, KeyError):
                    row = json.loads(line)
                    if row["seed"] == self.seed:
                        self.done[row["trial"]] = row

    def add(self, trial: Trial, fault: str | None, seconds: float, figures: Any = None) -> None:
        """Keep a result."""
        row = {
            "trial": trial.name, "seed": self.seed, "count": trial.count, "kills": trial.kills,
            "fault": fault, "seconds": round(seconds, 3),
        }  # fmt: skip
        if figures is not None:
            row["figures"] = figures
        if isinstance(figures, dict):
            row["kills"] = figures.get("killed", trial.kills)
        self.done[trial.name] = row
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def run(
    parts: Sequence[Part], bench: Bench, record: Record, until: float, *, short: bool,
    pattern: str | None, again: bool, say: Callable[[str], None],
) -> list[tuple[str, str]]:  # fmt: skip
    """Run trials until the time is over; the parts take turns.

    Returns:
        Name and fault of the trials that failed.
    """
    faults: list[tuple[str, str]] = []
    turns: list[tuple[Part, Iterator[Trial]]] = [(part, iter(part.trials(bench))) for part in parts]
    while turns and time.monotonic() < until:
        for turn in list(turns):
            _, trials = turn
            wanted = (
                trial for trial in trials
                if (trial.short or not short)
                and (pattern is None or re.search(pattern, trial.name))
                and (again or trial.name not in record.done)
            )  # fmt: skip
            trial = next(wanted, None)
            if trial is None:
                turns.remove(turn)
                continue
            fault, seconds, figures = _run(trial, bench)
            record.add(trial, fault, seconds, figures)
            say(f"{'FAULT' if fault else 'ok'}  {trial.name}  {seconds:.1f} s"
                + (f"\n      {fault}" if fault else ""))  # fmt: skip
            if fault:
                faults.append((trial.name, fault))
            if time.monotonic() >= until:
                break
    return faults


def _run(trial: Trial, bench: Bench) -> tuple[str | None, float, Any]:
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="trial-", dir=bench.folder))
    fault = figures = None
    try:
        figures = trial.run(folder)
    except Fault as found:
        fault = str(found)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        fault = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return fault, time.monotonic() - began, figures
