"""The scheduler: one thread that owns the model and divides it among the requests.

Generations of a model are rows of one batch, which they join and leave between two decoding steps
(see :mod:`..generation.decoder`); several models take turns, a step each. Other work on the model
(scores, explanations) comes as a generator that yields between its units: a unit runs between two
steps while texts are written, and one after the other while none are.

Models come and go while it runs. One model may be served under several names that differ in what
``select`` makes of it: other adapters, another strength.

The scheduler knows no protocol: the server's protocols and the studio use it alike.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from .. import console
from ..errors import Closing, InputError, RunError, UserError
from ..generation.decoder import Decoder, Request, Writing
from ..generation.results import Generated, Piece
from ..generation.sampling.samplers import Chain
from ..generation.sampling.settings import GenerationSettings
from ..models.forward.native_backend import Backend, NativeBackend
from .metrics import Metrics

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel

MOST_ROWS = 16
"""Rows that are written at once."""
KEPT_READINGS = 8
"""Prompts whose readings are kept for those that begin like them."""

Work = Generator[None, None, Any]
"""Work on the model that yields between its units and returns its result."""


class QueueFull(UserError):
    """More requests wait than the server takes."""

    def __init__(self, retry_after: int) -> None:
        super().__init__("the queue is full", f"try again in {retry_after} s")
        self.retry_after = retry_after


@dataclasses.dataclass(eq=False)
class Job:
    """Texts that one request asks for.

    Attributes:
        model: Name of the served model.
        requests: The texts to be continued, by token ids.
        settings: Their settings.
        on_piece: Called in the scheduler's thread with each new piece; the index of a piece is the
            place of its request.
        on_end: Called once in the scheduler's thread: with the results, or with an error.
        alternatives: Number of alternatives to record per token.
        token_bias: Added to the logits of these token ids.
        seconds: Time after which the writing ends.
    """

    model: str
    requests: Sequence[Request]
    settings: GenerationSettings
    on_piece: Callable[[Piece], None]
    on_end: Callable[[list[Generated], Exception | None], None]
    alternatives: int = 0
    token_bias: dict[int, float] | None = None
    seconds: float | None = None
    submitted: float = dataclasses.field(default_factory=time.monotonic)
    cancelled_by: str | None = None
    _writings: list[Writing] = dataclasses.field(default_factory=list)
    _results: dict[int, Generated] = dataclasses.field(default_factory=dict)
    _last_token: dict[int, float] = dataclasses.field(default_factory=dict)

    def cancel(self, by: str) -> None:
        """End the job with what is written; may be called from any thread, also twice."""
        if self.cancelled_by is None:
            self.cancelled_by = by


@dataclasses.dataclass(eq=False)
class Task:
    """Other work on a model.

    Attributes:
        model: Name of the served model.
        work: Makes the generator of its units, given the model, in the scheduler's thread.
        on_end: Called once in the scheduler's thread: with the result, or with an error.
        priority: Tasks of lower numbers come first.
        waits: Whether it waits while texts are written, and does not run between their steps.
    """

    model: str
    work: Callable[[LoadedModel], Work]
    on_end: Callable[[Any, Exception | None], None]
    priority: int = 0
    waits: bool = False
    cancelled: bool = False
    _units: Work | None = None

    def cancel(self) -> None:
        """End the task after the current unit."""
        self.cancelled = True


@dataclasses.dataclass(eq=False)
class ServedModel:
    """A model under the name that clients call it by.

    Attributes:
        name: The name.
        model: The loaded model; several names may share it.
        select: Makes the adapters of this name the active ones.
        weights: The weight format while writing.
    """

    name: str
    model: LoadedModel
    select: Callable[[], None] = lambda: None
    weights: str = "auto"
    created: int = dataclasses.field(default_factory=lambda: int(time.time()))


class Scheduler:
    """Divides the models among the requests, in a thread of its own.

    Args:
        models: The served models, by name.
        metrics: Where to count.
        max_queue: Jobs that may wait for their first block.
        most_rows: Rows of a model that are written at once.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        metrics: Metrics | None = None,
        *,
        max_queue: int = 32,
        most_rows: int = MOST_ROWS,
    ) -> None:
        self.models = {served.name: served for served in models}
        self.metrics = metrics or Metrics()
        self.max_queue = max_queue
        self.most_rows = most_rows
        self._selected: str | None = None
        self._threads = 0
        self._leaving: list[str] = []
        self._decoders: dict[str, Decoder] = {}
        self._chains: dict[tuple[str, str, str], Chain] = {}
        self._inbox: list[Job | Task] = []
        self._tasks: list[tuple[int, int, Task]] = []
        self._numbers = itertools.count()
        self._condition = threading.Condition()
        self._closing = self._stopped = False
        self._waiting = self._running = 0
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self.metrics.gauges["num_requests_running"] = lambda: self._running
        self.metrics.gauges["num_requests_waiting"] = lambda: self._waiting

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, work: Job | Task) -> None:
        """Hand over a job or a task; may be called from any thread.

        Raises:
            QueueFull: Too many jobs wait.
            Closing: The scheduler is closing.
            InputError: No model of that name is served.
        """
        with self._condition:
            if work.model not in self.models or work.model in self._leaving:
                raise InputError(
                    f"no model {work.model!r}", f"served: {', '.join(self.models) or 'none'}"
                )
            if self._closing:
                raise Closing
            if self._waiting + len(self._inbox) >= self.max_queue:
                raise QueueFull(1 + self._waiting // 4)
            self._inbox.append(work)
            self._condition.notify()

    def add(self, served: ServedModel) -> None:
        """Serve a further model; may be called from any thread.

        Raises:
            InputError: Another model has that name.
        """
        with self._condition:
            if served.name in self.models:
                raise InputError(f"a model {served.name!r} is served already")
            self.models[served.name] = served

    def remove(self, name: str) -> None:
        """Serve a model no longer: what is written with it ends with what is there.

        Its memory is free after the next step. May be called from any thread.
        """
        with self._condition:
            if name in self.models:
                self._leaving.append(name)
                self._condition.notify()

    def backend(self, name: str) -> Backend:
        """The forward pass that texts of a model are written with; for tasks alone."""
        return self._decoder(name).backend

    def wake(self) -> None:
        """Let the thread look at cancelled work."""
        with self._condition:
            self._condition.notify()

    def close(self, seconds: float = 5.0) -> None:
        """Take no more work, let the rest go on for some seconds, then end it and the thread."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join(seconds)
        with self._condition:
            self._stopped = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join(seconds + 30)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    # What follows runs in the scheduler's thread.

    def _run(self) -> None:
        for served in list(self.models.values()):
            self._use_threads(served)
        while True:
            with self._condition:
                while not (
                    self._inbox or self._leaving or self._busy() or self._closing or self._stopped
                ):
                    self._condition.wait()
                arrived, self._inbox = self._inbox, []
                self._waiting += len(arrived)  # until they are counted after this step
                leaving, self._leaving = self._leaving, []
                if self._stopped or (self._closing and not arrived and not self._busy()):
                    break
            for work in arrived:
                self._admit(work)
            for name in leaving:
                self._drop(name)
            for name, decoder in list(self._decoders.items()):
                if decoder.writings:
                    self._advance(name, decoder)
            self._run_unit()
            self._count_waiting()
        self._end_all(arrived)

    def _use_threads(self, served: ServedModel) -> None:
        """Compute with at least as many threads as a model asks for."""
        if served.model.device.threads > self._threads:
            # OpenMP keeps the number of threads by calling thread.
            self._threads = served.model.device.threads
            torch.set_num_threads(self._threads)

    def _drop(self, name: str) -> None:
        """End the work on a model that is no longer served, and forget it."""
        self.models.pop(name, None)
        gone = RunError(f"the model {name!r} is no longer served")
        for _, _, task in [entry for entry in self._tasks if entry[2].model == name]:
            if task._units is not None:
                task._units.close()
            self._finish(task, None, gone)
        decoder = self._decoders.pop(name, None)
        if self._selected == name:
            self._selected = None
        self._chains = {key: one for key, one in self._chains.items() if key[0] != name}
        if decoder is None:
            return
        for writing in decoder.writings:
            writing.owner.cancel("model")
        for writing, piece in decoder.interrupt():
            self._deliver(writing, piece, time.monotonic())

    def _busy(self) -> bool:
        return bool(self._tasks) or self._writes()

    def _writes(self) -> bool:
        return any(decoder.writings for decoder in self._decoders.values())

    def _count_waiting(self) -> None:
        jobs = {
            id(writing.owner): writing.owner
            for decoder in self._decoders.values()
            for writing in decoder.writings
        }
        begun = sum(any(w.begun for w in job._writings) for job in jobs.values())
        self._running, self._waiting = begun, len(jobs) - begun

    def _admit(self, work: Job | Task) -> None:
        if work.model not in self.models:  # removed since it was handed over
            gone = RunError(f"the model {work.model!r} is no longer served")
            if isinstance(work, Task):
                work.on_end(None, gone)
            else:
                work.on_end([], gone)
            return
        if isinstance(work, Task):
            heapq.heappush(self._tasks, (work.priority, next(self._numbers), work))
            return
        try:
            decoder = self._decoder(work.model)
            chain = self._chain(work, decoder)
            work._writings = [
                decoder.add(
                    index, request, work.settings, chain, alternatives=work.alternatives, owner=work
                )
                for index, request in enumerate(work.requests)
            ]
        except Exception as error:
            for writing in work._writings:
                writing.cancel()
            work.on_end([], error)
            return
        for writing in work._writings:
            self.metrics.count("prompt_tokens_total", writing.prompt_tokens)

    def _decoder(self, name: str) -> Decoder:
        if name not in self._decoders:
            from ..models.forward.backends import backend_for
            from ..models.forward.linear import INT8_ROWS

            served = self.models[name]
            self._use_threads(served)
            self._select(name)
            backend = backend_for(served.model, served.weights)
            most = self.most_rows
            if backend.name == "int8":  # with more rows another kernel would round otherwise
                most = min(most, INT8_ROWS)
            if isinstance(backend, NativeBackend):
                backend.kept = KEPT_READINGS
            self._decoders[name] = Decoder(served.model, backend, warn=console.note, most_rows=most)
        return self._decoders[name]

    def _select(self, name: str) -> None:
        if self._selected != name:
            self.models[name].select()
            self._selected = name

    def _chain(self, job: Job, decoder: Decoder) -> Chain:
        """The samplers of a job, the same object for jobs with equal samplers."""
        values = job.settings.to_dict()
        for name in ("seed", "stop", "banned", "max_new_tokens", "min_new_tokens"):
            del values[name]
        key = job.model, str(sorted(values.items())), str(sorted((job.token_bias or {}).items()))
        if key not in self._chains:
            if len(self._chains) >= 64:
                self._chains.clear()
            self._chains[key] = decoder.chain(job.settings, job.token_bias)
        return self._chains[key]

    def _advance(self, name: str, decoder: Decoder) -> None:
        """A step of one model's batch."""
        now = time.monotonic()
        for writing in decoder.writings:
            job: Job = writing.owner
            if job.seconds is not None and now - job.submitted > job.seconds:
                job.cancel("deadline")
            if job.cancelled_by is not None:
                writing.cancel()
        if decoder.backend.name == "transformers":
            self._select(name)
        try:
            pieces = decoder.advance()
        except Exception as error:
            jobs = {id(w.owner): w.owner for w in decoder.writings}
            del self._decoders[name]
            for job in jobs.values():
                job.on_end([], error)
            return
        self.metrics.count("steps_total")
        self.metrics.count("rows_total", len(pieces))
        now = time.monotonic()
        for writing, piece in pieces:
            self._deliver(writing, piece, now)

    def _deliver(self, writing: Writing, piece: Piece, now: float) -> None:
        job: Job = writing.owner
        if piece.result is None or piece.result.finish_reason != "interrupted":
            self.metrics.count("generation_tokens_total")
            if job.cancelled_by is not None:
                self.metrics.count("tokens_after_cancel_total")
            if piece.index in job._last_token:
                passed = now - job._last_token[piece.index]
                self.metrics.observe("inter_token_latency_seconds", passed)
            else:
                self.metrics.observe("time_to_first_token_seconds", now - job.submitted)
            job._last_token[piece.index] = now
        if piece.text or piece.tokens or piece.result is not None:
            job.on_piece(piece)
        if piece.result is None:
            return
        job._results[piece.index] = piece.result
        self.metrics.count("request_success_total", 1, f'reason="{piece.result.finish_reason}"')
        if len(job._results) == len(job.requests):
            self.metrics.observe("e2e_request_latency_seconds", now - job.submitted)
            if job.cancelled_by is not None:
                self.metrics.count("cancelled_total", 1, f'by="{job.cancelled_by}"')
            job.on_end([job._results[index] for index in sorted(job._results)], None)

    def _run_unit(self) -> None:
        """One unit of the first task."""
        while self._tasks and self._tasks[0][2].cancelled:
            task = heapq.heappop(self._tasks)[2]
            if task._units is not None:
                task._units.close()
            task.on_end(None, RunError("cancelled"))
        if not self._tasks or (self._tasks[0][2].waits and self._writes()):
            return
        task = self._tasks[0][2]
        try:
            self._use_threads(self.models[task.model])
            self._select(task.model)
            if task._units is None:
                task._units = task.work(self.models[task.model].model)
            next(task._units)
        except StopIteration as end:
            self._finish(task, end.value, None)
        except Exception as error:
            self._finish(task, None, error)

    def _finish(self, task: Task, result: Any, error: Exception | None) -> None:
        self._tasks = [entry for entry in self._tasks if entry[2] is not task]
        heapq.heapify(self._tasks)
        task.on_end(result, error)

    def _end_all(self, arrived: Sequence[Job | Task]) -> None:
        """End what is left when the scheduler closes."""
        for work in arrived:
            if isinstance(work, Task):
                work.on_end(None, Closing())
            else:
                work.on_end([], Closing())
        for decoder in self._decoders.values():
            for job in {id(w.owner): w.owner for w in decoder.writings}.values():
                job.cancel("shutdown")
                job.on_end([], Closing())
        for _, _, task in self._tasks:
            task.on_end(None, Closing())
