"""The thread that keeps the story on disk, and does what may wait until the writer pauses.

A change is on disk within :data:`SAVE_SECONDS`. The story is copied under the lock (its passages
are never changed, so that is a copy of a list), and written without it: nobody waits for the disk.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from .. import console

SAVE_SECONDS = 0.8
"""Longest time from a change to its save."""
PAUSE_SECONDS = 0.3
"""Time without a change after which it is saved at once, and the outline told."""
RETRY_SECONDS = 5.0
"""Time between two attempts where the file can't be written."""


class Keeper:
    """Runs a save after changes, and other deferred work, in a thread of its own.

    Args:
        save: Saves; whether it succeeded.
        pause: Called when the writer pauses.
    """

    def __init__(self, save: Callable[[], bool], pause: Callable[[], None]) -> None:
        self._save, self._pause = save, pause
        self._condition = threading.Condition()
        self._saving = threading.Lock()  # held while a save runs
        self._first = self._last = 0.0  # times of the first and last change that is not saved
        self._dirty = self._paused = False
        self._retry = 0.0
        self._after: list[Callable[[], None]] = []
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
        self._thread.start()

    def touch(self) -> None:
        """The story has changed."""
        with self._condition:
            now = time.monotonic()
            if not self._dirty:
                self._first = now
            self._dirty, self._paused, self._last = True, False, now
            self._condition.notify()

    def save_then(self, after: Callable[[], None]) -> None:
        """Save now, and call ``after`` when that was tried."""
        with self._condition:
            self._dirty, self._first = True, 0.0
            self._after.append(after)
            self._condition.notify()

    def flush(self) -> bool:
        """Save in this thread, where there is something to be saved; whether all is on disk."""
        return self._saved()

    def _saved(self) -> bool:
        """Save where there is something to be saved, one save at a time; whether all is on disk."""
        with self._saving:
            with self._condition:
                if not self._dirty:
                    return True
                self._dirty = False
            done = self._save()
            if not done:
                with self._condition:
                    self._dirty = True
                    self._retry = time.monotonic() + RETRY_SECONDS
            return done

    def close(self) -> None:
        """End the thread; what is not saved is saved by :meth:`flush`."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        self._thread.join(10)

    def _due(self) -> float | None:
        """When something is to be done; None for never."""
        times = []
        if self._dirty:
            due = min(self._first + SAVE_SECONDS, self._last + PAUSE_SECONDS)
            times.append(max(due, self._retry))
        if self._after:
            times.append(0.0)
        if not self._paused and self._last:
            times.append(self._last + PAUSE_SECONDS)
        return min(times, default=None)

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._closed:
                    due = self._due()
                    left = None if due is None else due - time.monotonic()
                    if left is not None and left <= 0:
                        break
                    self._condition.wait(left)
                if self._closed:
                    return
                now = time.monotonic()
                paused = not self._paused and bool(self._last) and now >= self._last + PAUSE_SECONDS
                self._paused = self._paused or paused
                after, self._after = self._after, []
                due = min(self._first + SAVE_SECONDS, self._last + PAUSE_SECONDS)
                wanted = self._dirty and (bool(after) or now >= max(due, self._retry))
            try:
                if wanted:
                    self._saved()
                for one in after:
                    one()
                if paused:
                    self._pause()
            except Exception as error:  # nothing may end the thread that saves
                console.note(f"the studio failed at something: {type(error).__name__}: {error}")
