"""Child processes of the studio: started apart from it, known again by pid and start time.

A child is a ``cwgpt`` command in a session of its own, so that neither Ctrl-C nor the end of the
studio reaches it. Its output goes to files. A pid alone does not name a process, since it is used
again; with the time at which the process started it does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from ..errors import RunError
from ..files import disk_errors

OUTPUT, LOG = "output.json", "log.txt"
"""Files in a run's folder: what the child wrote to stdout and to stderr."""

_SAME_START = 2.0
"""Seconds by which two readings of a start time may differ: the clock may have been set between."""

_NEW_GROUP = int(getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0))  # of Windows
_POLITE = 5
"""Niceness of a child, so that it yields to the model that writes."""


@dataclasses.dataclass(frozen=True)
class Identity:
    """A process: its pid, and when it started (seconds since the epoch)."""

    pid: int
    started: float


class Processes:
    """Children of this studio and of earlier ones."""

    def __init__(self) -> None:
        self._own: dict[int, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()

    def start(
        self, words: Sequence[str], folder: Path, cwd: Path, extra: Mapping[str, str] | None = None
    ) -> Identity:
        """Start ``python WORDS``; its output goes to files in ``folder``, the log is continued.

        Args:
            words: Arguments of this Python.
            folder: Of the run.
            cwd: Working folder of the child.
            extra: Further environment variables.

        Raises:
            RunError: The system starts no further process, or the disk is full.
        """
        environment = {
            **os.environ, "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1",
            **(extra or {}),
        }  # fmt: skip
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            output = (folder / OUTPUT).open("wb")
        with output, (folder / LOG).open("ab") as log:
            try:
                child = subprocess.Popen(
                    # -P: a file of the writer's folder must not stand in for a library.
                    [sys.executable, "-P", *words],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=log,
                    cwd=cwd,
                    env=environment,
                    start_new_session=os.name == "posix",
                    creationflags=_NEW_GROUP,
                )
            except OSError as error:
                raise RunError(
                    f"the system starts no further process: {error.strerror or error}",
                    "end other programs and try again",
                ) from error
        with self._lock:
            self._own[child.pid] = child
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(child.pid)
            if os.name == "posix":
                process.nice(_POLITE)
            return Identity(child.pid, process.create_time())
        return Identity(child.pid, 0.0)  # it has ended already

    def alive(self, one: Identity) -> bool:
        """Whether the process still runs."""
        with self._lock:
            child = self._own.get(one.pid)
        if child is not None and child.poll() is not None:  # this also reaps it
            with self._lock:
                self._own.pop(one.pid, None)
        return _find(one) is not None

    def interrupt(self, one: Identity) -> bool:
        """Send what Ctrl-C sends, to the process and those that it started; False if it is gone."""
        if _find(one) is None:
            return False
        with contextlib.suppress(OSError):
            if os.name == "posix":
                os.killpg(one.pid, signal.SIGINT)
            else:
                os.kill(one.pid, signal.CTRL_BREAK_EVENT)  # type: ignore[attr-defined,unused-ignore]
        return True

    def end(self, one: Identity, seconds: float = 5.0) -> None:
        """End a process at once, with those that it started."""
        process = _find(one)
        if process is None:
            return
        with contextlib.suppress(psutil.Error):
            family = [*process.children(recursive=True), process]
            for each in family:
                with contextlib.suppress(psutil.Error):
                    each.kill()
            psutil.wait_procs(family, timeout=seconds)
        self.alive(one)


def _find(one: Identity) -> psutil.Process | None:
    """The process, unless it has ended or its pid belongs to another one now."""
    try:
        process = psutil.Process(one.pid)
        if abs(process.create_time() - one.started) > _SAME_START:
            return None
        return None if process.status() == psutil.STATUS_ZOMBIE else process
    except psutil.Error:
        return None
