"""The jobs of the studio: what it does for the page, seen and stopped by id."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Callable
from typing import Any

from .events import EventLog

_MOST_JOBS = 50  # that are listed


@dataclasses.dataclass(eq=False)
class Job:
    """Something that the studio does for the page.

    Attributes:
        id: Its id.
        type: ``continue``, ``version``, ``drafts``, ``compare``, ``heat`` and so on.
        state: ``queued``, ``running``, ``done``, ``stopped`` or ``failed``.
        message: What to say about it.
        advice: What to do about it.
        at: Where in the text it writes, in UTF-16 code units.
        rows: What it writes beside the text.
        order: Indices of the rows, best first; empty while they are as they are written.
        learnt: What the writer's choices taught about them.
    """

    id: str
    type: str
    state: str = "queued"
    message: str = ""
    advice: str | None = None
    at: int | None = None
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    order: list[int] = dataclasses.field(default_factory=list)
    learnt: str = ""
    stop: Callable[[], None] = lambda: None
    ended: threading.Event = dataclasses.field(default_factory=threading.Event)

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state in ("done", "stopped", "failed")

    def record(self) -> dict[str, Any]:
        """It as the page gets it."""
        names = ("id", "type", "state", "message", "advice", "at", "rows", "order", "learnt")
        return {name: getattr(self, name) for name in names}


class Jobs:
    """The last jobs; each change of one is told.

    Args:
        events: Where it is told.
    """

    def __init__(self, events: EventLog) -> None:
        self._events = events
        self._jobs: dict[str, Job] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def begin(self, type: str, **fields: Any) -> Job:
        """A new job."""
        with self._lock:
            job = Job(f"{self._events.epoch[:4]}{next(self._numbers)}", type, **fields)
            self._jobs[job.id] = job
            over = [one for one in self._jobs.values() if one.over]
            for old in over[: max(0, len(self._jobs) - _MOST_JOBS)]:
                del self._jobs[old.id]
        self.tell(job)
        return job

    def tell(self, job: Job, **changes: Any) -> None:
        """Change a job and tell it; one that has ended stays as it is."""
        with self._lock:
            if job.over:
                return
            for name, value in changes.items():
                setattr(job, name, value)
        self._events.publish("job", **job.record())
        if job.over:
            job.ended.set()

    def find(self, id: str) -> Job | None:
        """The job of an id."""
        return self._jobs.get(id)

    def listed(self) -> list[Job]:
        """All of them, oldest first."""
        with self._lock:
            return list(self._jobs.values())
