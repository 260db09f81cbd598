"""Ctrl-C and requests to end, without losing what is being written.

While the model writes, Ctrl-C only raises a flag that is looked at between two tokens, so that the
passage so far is kept; a second one breaks off for good, for when reading a long text takes its
time. A request to end (SIGTERM, SIGHUP) stops the writing in the same way and then ends the
session; at the prompt it ends it at once. Exit codes are 128 + the signal's number, as in a shell.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


class Signals:
    """Who is told what when a signal comes.

    Attributes:
        stop: Whether the writing should stop.
        code: The exit code, once somebody has asked the session to end.
        at_prompt: What to do when that happens at the prompt; raising is the default.
    """

    def __init__(self) -> None:
        self.stop = False
        self.code: int | None = None
        self.at_prompt: Callable[[int], None] | None = None
        self._writing = False

    @contextlib.contextmanager
    def watched(self) -> Iterator[Signals]:
        """Take requests to end until the block ends."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
        before = {name: signal.signal(getattr(signal, name), self._end) for name in names}
        try:
            yield self
        finally:
            for name, handler in before.items():
                signal.signal(getattr(signal, name), handler)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Let Ctrl-C stop the writing until the block ends, which is to look at :attr:`stop`."""
        self.stop = self.code is not None
        main = threading.current_thread() is threading.main_thread()
        before: Any = signal.signal(signal.SIGINT, self._stop) if main else None
        self._writing = True
        try:
            yield
        finally:
            self._writing = False
            if main:
                signal.signal(signal.SIGINT, before)

    def _stop(self, *_: Any) -> None:
        if self.stop:
            raise KeyboardInterrupt
        self.stop = True

    def _end(self, number: int, _: Any) -> None:
        self.code = 128 + number
        if self._writing:
            self.stop = True
        elif self.at_prompt is not None:
            self.at_prompt(self.code)
        else:
            raise SystemExit(self.code)
