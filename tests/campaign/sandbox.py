"""Hostile inputs, a batch at a time, in a process with limits and an audit hook.

A batch is ``python -m campaign.sandbox TARGET SEED CASES SECONDS`` with ``tests`` on the path. Its
process has little memory beyond what it starts with, a limit of processor time for each case, and
reports as a fault whatever is no success and no one-line error: another exception, a case that
takes too long, a file written outside its folder, a connection, a started program, a pickle. What
hangs in native code or dies is ended by the parent, which knows from a file which case it was.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import psutil
from hypothesis import HealthCheck, Phase, Verbosity, strategies

TESTS = Path(__file__).resolve().parents[1]
SOURCE = TESTS.parent / "src"
MEMORY = 1_500_000_000
"""Bytes of address space that a batch may take beyond what it starts with."""
CASE_SECONDS = 10
"""Processor time of a case."""
STALE_SECONDS = 90
"""Processor seconds without a new case after which a batch is ended from outside; or seconds by the
clock in which it did nothing at all."""
LONGEST_MESSAGE = 2000
"""Characters of an error's line; a path in it may have some hundred."""


@dataclass(frozen=True)
class Target:
    """A reader under attack.

    Attributes:
        name: Its name in results.
        cases: Strategy of its inputs.
        act: Reads one of them in an empty folder; raises ``UserError`` where it refuses.
        prepare: Called once before the limits are set: imports, tiny models.
        pace: Cases a batch asks for.
    """

    name: str
    cases: strategies.SearchStrategy[Any]
    act: Callable[[Any, Path], None]
    prepare: Callable[[], None] = lambda: None
    pace: int = 150


class Hostile(AssertionError):
    """What a reader did with an input that it must not do."""


class _TooSlow(BaseException):
    """A case has used up its processor time."""


@dataclass
class Result:
    """What a batch of cases came to.

    Attributes:
        target, seed: What was run; together they repeat it.
        cases, refused: Cases run, and those that ended in a one-line error.
        faults: Of each kind found the smallest input and its traceback.
    """

    target: str
    seed: int
    cases: int = 0
    refused: int = 0
    faults: list[dict[str, str]] = field(default_factory=list)


_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_PATHS = {"os.mkdir": (0,), "os.rename": (0, 1), "os.remove": (0,), "os.rmdir": (0,),
          "os.link": (0, 1), "os.symlink": (1,), "os.truncate": (0,), "os.chmod": (0,)}  # fmt: skip
_NEVER = (
    "socket.connect", "socket.getaddrinfo", "socket.sendto", "subprocess.Popen", "os.system",
    "os.exec", "os.posix_spawn", "pickle.find_class", "marshal.loads", "webbrowser.open",
)  # fmt: skip


class Guard:
    """An audit hook that notes what a case must not do; hooks can't be removed, but rest.

    Args:
        folder: Where files may be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = os.path.realpath(folder)
        self.active = False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _inside(self, path: Any) -> bool:
        if isinstance(path, int) or path is None:
            return True
        place = os.path.realpath(os.fsdecode(path))
        return place.startswith((self.folder + os.sep, "/dev/")) or place == self.folder

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = isinstance(flags, int) and flags & _WRITES
            if writes and not self._inside(path):
                self.seen.append(f"opened {path!r} for writing")
        elif event in _PATHS:
            outside = [a for i in _PATHS[event] if not self._inside(a := arguments[i])]
            if outside and not str(outside[0]).endswith((".pyc", "__pycache__")):
                self.seen.append(f"{event} {outside!r}")
        elif event in _NEVER and not (event == "marshal.loads" and _importing()):
            # A case of the studio or the server may use this process's own event loop.
            if event == "socket.connect" and str(arguments[1]).startswith("('127.0.0.1'"):
                return
            self.seen.append(f"{event} {arguments!r}"[:300])
        elif event == "exec" and getattr(arguments[0], "co_filename", "") == "<string>":
            caller = sys._getframe(1).f_globals.get("__name__", "")
            if caller.startswith("creativewritinggpt"):
                self.seen.append(f"exec in {caller}")

    def check(self) -> None:
        """Raise for what was seen since the last call."""
        seen, self.seen = self.seen, []
        if seen:
            raise Hostile(f"outside its folder: {'; '.join(seen[:5])}")


def _importing() -> bool:
    frame: Any = sys._getframe(2)
    while frame is not None:
        if "importlib" in frame.f_globals.get("__name__", ""):
            return True
        frame = frame.f_back
    return False


def limit_memory(more: int = MEMORY) -> None:
    """Let this process take ``more`` bytes of address space, and no more."""
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def lift_memory_limit() -> None:
    """Let this process take what it likes again, to write down what it found."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    gc.collect()


@contextlib.contextmanager
def processor_time(seconds: float = CASE_SECONDS) -> Iterator[None]:
    """Raise :class:`Hostile` where the block takes more processor time."""

    def ring(*_: Any) -> None:
        raise _TooSlow

    signal.signal(signal.SIGPROF, ring)
    # Again and again, since code may catch everything.
    signal.setitimer(signal.ITIMER_PROF, seconds, 0.5)
    try:
        yield
    except _TooSlow as error:
        signal.setitimer(signal.ITIMER_PROF, 0)  # else the next ring ends the batch
        where = "".join(traceback.format_tb(error.__traceback__)[-6:])
        raise Hostile(f"took more than {seconds} s\n{where}") from None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def attempt(target: Target, case: Any, folder: Path, guard: Guard) -> bool:
    """Run one case in an empty folder; whether it was refused in one line.

    Raises:
        Hostile: It ended in any other way, or touched what it must not.
    """
    from creativewritinggpt.errors import UserError

    for old in list(folder.iterdir()):
        shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    refused = False
    guard.seen.clear()
    guard.active = True
    try:
        with processor_time():
            target.act(case, folder)
    except UserError as error:
        refused = True
        for line in (error.message, error.advice or "x"):
            if not line.strip() or "\n" in line or len(line) > LONGEST_MESSAGE:
                raise Hostile(f"not one line: {line[:200]!r} ({len(line)} characters)") from error
    finally:
        guard.active = False
    guard.check()
    return refused


def run_batch(
    target: Target, seed: int, cases: int, seconds: float, work: Path, progress: Path | None = None
) -> Result:
    """Run cases of a target in this process, and shrink what fails.

    Args:
        target: What is attacked.
        seed: Repeats the same cases.
        cases: How many at most.
        seconds: When no new case is begun.
        work: An empty folder for the cases.
        progress: Told of each case before it is run.
    """
    result = Result(target.name, seed)
    guard = Guard(work)
    found: dict[str, dict[str, str]] = {}
    end = time.monotonic() + seconds

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=cases, deadline=None, database=None, verbosity=Verbosity.quiet,
        phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck),
        report_multiple_bugs=True, print_blob=False,
    )  # fmt: skip
    @hypothesis.given(target.cases)
    def check(case: Any) -> None:
        if time.monotonic() > end and not found:
            return
        if progress is not None:
            progress.write_text(json.dumps({"target": target.name, "seed": seed,
                                            "case": repr(case)[:20_000],
                                            "cases": result.cases}))  # fmt: skip
        result.cases += 1
        try:
            result.refused += attempt(target, case, work, guard)
        except Exception as error:
            own = [f for f in traceback.extract_tb(error.__traceback__)
                   if "creativewritinggpt" in f.filename]  # fmt: skip
            place = f"{Path(own[-1].filename).name}:{own[-1].name}" if own else ""
            kind = f"{type(error).__name__} at {place}: {str(error).splitlines()[:1]}"
            key = f"{type(error).__name__} {place}"
            found[key] = {"kind": kind[:400], "case": repr(case)[:20_000],
                          "traceback": traceback.format_exc()[-6000:]}  # fmt: skip
            raise

    with contextlib.suppress(Exception, ExceptionGroup):
        check()
    result.faults = list(found.values())
    return result


class Stale:
    """Whether a batch hangs: by its processor time, since other programs may keep it from its own.

    Args:
        pid: Its process.
        progress: The file that it writes before each case.
    """

    def __init__(self, pid: int, progress: Path) -> None:
        self._process, self._progress = psutil.Process(pid), progress
        self._touched = 0.0
        self._used, self._used_then = 0.0, 60.0  # it imports before its first case
        self._idle_since = time.monotonic()

    def now(self) -> bool:
        """Whether it has hung since the last call."""
        try:
            times = self._process.cpu_times()
        except psutil.NoSuchProcess:
            return False
        touched = self._progress.stat().st_mtime if self._progress.exists() else 0.0
        used = times.user + times.system
        if touched != self._touched:
            self._touched, self._used_then = touched, used
        if used > self._used + 0.5:
            self._used, self._idle_since = used, time.monotonic()
        idle = time.monotonic() - self._idle_since > STALE_SECONDS
        return idle or used - self._used_then > STALE_SECONDS


def in_process(
    name: str, seed: int, cases: int, seconds: float, *, where: Path | None = None
) -> list[Result]:
    """Run a batch of each of some targets in one limited process, and end it where it hangs.

    Args:
        name: The targets, parted by commas.
        seed: Of all of them.
        cases: Of each; 0 asks for as many as its pace says.
        seconds: For all of them.
        where: Folder for what the process writes.
    """
    with tempfile.TemporaryDirectory(dir=where, prefix="hostile-") as folder:
        place = Path(folder)
        env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(SOURCE), str(TESTS))),
               "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
        command = [sys.executable, "-m", "campaign.sandbox", name, str(seed), str(cases),
                   str(seconds), folder]  # fmt: skip
        log = place / "log"
        with log.open("wb") as stream:
            child = subprocess.Popen(command, env=env, stdout=stream, stderr=stream, cwd=TESTS)
        progress, results = place / "progress", place / "results"
        stale = Stale(child.pid, progress)
        hung = False
        while child.poll() is None:
            time.sleep(0.1)
            if stale.now():
                hung = True
                child.kill()
                child.wait()
        found = [Result(**json.loads(line)) for line in _lines(results)]
        if child.returncode:
            last = json.loads(progress.read_text()) if progress.exists() else {}
            why = "hung" if hung else f"died with {child.returncode}"
            tail = log.read_text("utf-8", "replace")[-3000:]
            fault = {"kind": why, "case": last.get("case", ""), "traceback": tail}
            target = last.get("target", name)
            found.append(Result(target, seed, last.get("cases", 0), 0, [fault]))
        return found


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def main() -> int:
    """Run the batches of a process; the results are lines of JSON."""
    from campaign.inputs import target

    names, seed, cases, seconds, folder = sys.argv[1:]
    place = Path(folder)
    work = place / "work"
    work.mkdir()
    home = work.parent / "home"
    home.mkdir()
    os.environ |= {"HOME": str(home), "XDG_CACHE_HOME": str(work), "CWGPT_CACHE": str(work / "c"),
                   "TMPDIR": str(work), "HF_HUB_OFFLINE": "1", "HF_HOME": str(home),
                   "NO_COLOR": "1"}  # fmt: skip
    tempfile.tempdir = str(work)
    os.chdir(work)
    targets = [target(name) for name in names.split(",")]
    for one in targets:
        one.prepare()
    # Deep nesting must be refused by the readers, not end the process.
    end = time.monotonic() + float(seconds)
    for number, one in enumerate(targets):
        asked = int(cases) or one.pace
        share = max(1.0, (end - time.monotonic()) / (len(targets) - number))
        limit_memory()
        result = run_batch(one, int(seed), asked, share, work, place / "progress")
        lift_memory_limit()
        with (place / "results").open("a") as stream:
            stream.write(json.dumps(vars(result)) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
