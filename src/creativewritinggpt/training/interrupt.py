"""Ctrl-C and the system's request to end: the run stops after its step, with everything saved."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

_SAME = 1.0
"""Seconds in which further signals are the same request: launchers pass on what the terminal has
already told every process."""


class Interrupt:
    """A signal asks the loop to stop after the step; a later one stops at once.

    Attributes:
        asked: Whether somebody has asked.
    """

    def __init__(self) -> None:
        self.asked = False
        self._at = 0.0

    @contextlib.contextmanager
    def listening(self) -> Iterator[Interrupt]:
        """Listen while the block runs (only the main thread can)."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return

        def ask(number: int, frame: FrameType | None) -> None:
            now = time.monotonic()
            if self.asked and now - self._at > _SAME:
                raise KeyboardInterrupt
            if not self.asked:
                self.asked, self._at = True, now

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
