"""Other processes that take a share of the data work: reading, comparing, tokenizing.

Python does one thing at a time in a process, and cleaning and tokenizing are plain Python for the
most part. A worker costs a third of a second to start and the memory of a small Python, so they are
used for megabytes of text only. What they do is a pure function of what they are told: the results
are the same with and without them, and what to do where a worker fails is the asker's business.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

from .wire import Array, Message, receive, send

# Less text than this is done before a worker has started.
WORTH_IT = 4_000_000
_MOST = 7
# Seconds after which a worker without work is ended; the next step of a run comes sooner.
_PATIENCE = 10.0
# Messages of a worker that wait here to be used.
_WAITING = 32

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from creativewritinggpt.data.rows.worker import main; main()"
)


class WorkerError(Exception):
    """A worker ended, or could not do what it was asked."""


class Worker:
    """One process and the messages that come from it.

    Attributes:
        asked: Questions asked that have an answer.
        answered: Questions answered in full.
    """

    def __init__(self) -> None:
        """Start it; it is ready when its first answer comes."""
        import json

        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps([entry for entry in sys.path if entry])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._messages: queue.Queue[Message | None] = queue.Queue(_WAITING)
        self._closed = False
        self.asked = self.answered = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        stream = self._process.stdout
        message: Message | None = None
        while not self._closed and stream is not None:
            with contextlib.suppress(OSError, ValueError):
                message = receive(stream)
            while not self._closed:
                with contextlib.suppress(queue.Full):
                    self._messages.put(message, timeout=0.5)
                    break
            if message is None:
                return

    def tell(self, task: str, header: dict[str, Any] | None = None, *arrays: Array) -> None:
        """Tell it something that has no answer.

        Raises:
            WorkerError: It has ended.
        """
        stream = self._process.stdin
        try:
            if stream is None:
                raise OSError("no pipe")
            send(stream, {"task": task, **(header or {})}, *arrays)
        except (OSError, ValueError) as error:
            raise WorkerError(f"a data worker ended: {error}") from error

    def ask(self, task: str, header: dict[str, Any] | None = None, *arrays: Array) -> None:
        """Ask for something.

        Raises:
            WorkerError: It has ended.
        """
        self.asked += 1
        self.tell(task, header, *arrays)

    def answer(self) -> Message:
        """The next answer, in the order of the questions.

        Raises:
            WorkerError: It has ended or says that it failed.
        """
        message = self._messages.get()
        if message is None:
            self._messages.put(None)
            raise WorkerError("a data worker ended")
        if "failed" in message[0]:
            raise WorkerError(str(message[0]["failed"]))
        self.answered += message[0].get("last", True)
        return message

    def close(self) -> None:
        """End it, whatever it is doing."""
        self._closed = True
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError, ValueError):
                if stream is not None:
                    stream.close()
        self._process.wait()


class _Idle:
    """Workers between two pieces of work; they are ended when none comes for a while."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._workers: list[Worker] = []
        self._timer: threading.Timer | None = None

    def take(self, count: int) -> list[Worker]:
        with self._lock:
            taken, self._workers = self._workers[:count], self._workers[count:]
        while len(taken) < count:
            taken.append(Worker())
        return taken

    def give_back(self, workers: list[Worker]) -> None:
        with self._lock:
            self._workers += workers
            if self._timer is not None:
                self._timer.cancel()
            self._timer = threading.Timer(_PATIENCE, self.end)
            self._timer.daemon = True
            self._timer.start()

    def end(self) -> None:
        with self._lock:
            ended, self._workers = self._workers, []
        for worker in ended:
            worker.close()


_idle = _Idle()
atexit.register(_idle.end)


@contextlib.contextmanager
def workers(size: int, processes: int | None = None) -> Iterator[list[Worker]]:
    """Workers beside this process, for work on ``size`` characters or bytes of text.

    Args:
        size: How much text; for little there are none.
        processes: Processes in all, this one included; one for each core without it.

    Yields:
        The workers; every answer must have been taken when the block is left, else they are ended.
    """
    count = min(_MOST, (processes or cores()) - 1) if size >= WORTH_IT else 0
    started: list[Worker] = []
    with contextlib.suppress(OSError):
        started = _idle.take(count)
    try:
        yield started
    except BaseException:
        for worker in started:
            worker.close()
        raise
    usable = [worker for worker in started if worker.asked == worker.answered]
    for worker in started:
        if worker not in usable:
            worker.close()
    if usable:
        _idle.give_back(usable)


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
