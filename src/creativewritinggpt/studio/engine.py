"""The studio's model: loaded in a thread, behind a scheduler; jobs that are seen and stopped.

Nothing here imports torch before a model is asked for, so that the page is there before the model.
What needs one while it is loaded waits for it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..config.fields import MachineSettings
from ..errors import Closing, InputError, RunError
from .answers import error_record
from .events import EventLog
from .jobs import Job, Jobs

if TYPE_CHECKING:
    from ..generation.decoder import Request
    from ..generation.results import Generated, Piece
    from ..generation.sampling.settings import GenerationSettings
    from ..models.loaded_model import LoadedModel
    from ..server.scheduler import Job as Writing
    from ..server.scheduler import Scheduler, Task

BASE = "base"
"""The adapters of a model without any of them."""
_MOST_SERVED = 3  # forms of models whose weights are kept ready

Adapters = Mapping[str, float] | str
Work = Callable[["LoadedModel", str], Generator[None, None, Any]]


@dataclasses.dataclass(eq=False)
class _Loaded:
    """A loaded model and what its adapters are set to."""

    name: str
    number: int
    model: LoadedModel
    adapters: dict[str, float]
    set_to: Adapters | None = None
    off: contextlib.ExitStack | None = None

    def select(self, adapters: Adapters) -> None:
        """Compute with these adapters; called in the scheduler's thread."""
        from ..generation.style import blend

        if adapters == self.set_to:
            return
        self.set_to = None
        if self.off is not None:
            self.off.close()
            self.off = None
        if adapters == BASE:
            self.off = contextlib.ExitStack()
            self.off.enter_context(self.model.base())
        elif adapters and isinstance(adapters, Mapping):
            blend(self.model, list(adapters.items()))
        self.set_to = adapters if isinstance(adapters, str) else dict(adapters)


class Engine:
    """The models of a studio.

    Args:
        events: The event log.
        jobs: The jobs.
        machine: Device, precision, threads, caches.
        load: Loads a model by name, given the machine; for tests.

    Attributes:
        state: ``none``, ``loading``, ``ready`` or ``failed``.
        name: Name of the model, or of the one that is loaded.
        tokens_per_second: Speed of the last writing, all rows together.
        weights: The weight format while writing.
    """

    def __init__(
        self,
        events: EventLog,
        jobs: Jobs,
        machine: MachineSettings | None = None,
        load: Callable[[str, MachineSettings], LoadedModel] | None = None,
    ) -> None:
        self.events, self.jobs = events, jobs
        self.machine = machine or MachineSettings()
        self._load_model = load or _load_model
        self.state, self.name = "none", ""
        self.message: str = ""
        self.advice: str | None = None
        self.tokens_per_second = 0.0
        self.weights = "auto"
        self.on_change: Callable[[], None] = lambda: None
        self._scheduler: Scheduler | None = None
        self._models: dict[str, _Loaded] = {}
        self._current: _Loaded | None = None
        self._served: dict[tuple[Any, ...], str] = {}
        self._waiting: list[tuple[Callable[[], None], Callable[[Exception], None]]] = []
        self._tasks: dict[str, Task | Writing] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()
        self._loading = threading.Lock()
        self._hurried = threading.Event()
        self._closed = False

    # The model.

    @property
    def model(self) -> LoadedModel | None:
        """The model that writes; None until one is loaded."""
        return self._current.model if self._current is not None else None

    @property
    def adapters(self) -> dict[str, float]:
        """Weights of the adapters that are on, by folder."""
        return dict(self._current.adapters) if self._current is not None else {}

    @property
    def signature(self) -> tuple[Any, ...]:
        """A value that differs where the model, its adapters or their weights do."""
        current = self._current
        return () if current is None else (current.number, *sorted(current.adapters.items()))

    def record(self) -> dict[str, Any]:
        """The model as the page gets it."""
        model = self.model
        return {
            "name": self.name, "state": self.state, "message": self.message,
            "advice": self.advice, "adapters": self.adapters,
            "context_length": model.context_length if model else None,
            "base": model.base_name if model else None,
            "has_adapter": bool(model and model.has_adapter),
            "tokens_per_second": round(self.tokens_per_second, 2),
        }  # fmt: skip

    def load(
        self, name: str, then: Callable[[], None] = lambda: None, patience: float = 0.0
    ) -> threading.Thread:
        """Load a model in a thread and write with it; the one before writes until then.

        Args:
            name: Name of the model.
            then: Called when it is there.
            patience: Seconds that it leaves the machine to the page, which :meth:`hurry` ends.
        """
        with self._lock:
            self.name, self.state = name, "loading"
            self.message, self.advice = f"loading {name}", None
        self._tell()
        thread = threading.Thread(
            target=self._load, args=(name, then, patience), name="loading", daemon=True
        )
        thread.start()
        return thread

    def hurry(self) -> None:
        """Load at once: the page is there, or somebody waits for the model."""
        self._hurried.set()

    def _load(self, name: str, then: Callable[[], None], patience: float) -> None:
        self._hurried.wait(patience)
        if self._closed or self.name != name:
            return
        try:
            loaded = self.loaded(name)
        except Exception as error:
            self._failed(name, error)
            return
        with self._lock:
            if self.name != name:  # another was asked for since
                return
            self._current = loaded
            self.state, self.message = "ready", ""
            self._forget_others()
        self._tell()
        then()
        self._go_on(None)

    def _failed(self, name: str, error: Exception) -> None:
        said = error_record(error)
        before = self._current
        with self._lock:
            if self.name != name:
                return
            self.message, self.advice = said["message"], said["advice"]
            self.state = "failed" if before is None else "ready"
            self.name = name if before is None else before.name
        self.events.publish("note", text=self.message, level="error", advice=self.advice)
        self._tell()
        self._go_on(None if before else RunError(said["message"], said["advice"]))

    def _go_on(self, error: Exception | None) -> None:
        """Let what waited for the model go on, or fail."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for begin, fail in waiting:
            try:
                if error is not None:
                    raise error
                begin()
            except Exception as reason:
                fail(reason)

    def loaded(self, name: str) -> _Loaded:
        """A model by its name, loaded now if it is not yet; takes seconds.

        Raises:
            UserError: It can't be loaded.
        """
        with self._loading:
            with self._lock:
                if name in self._models:
                    return self._models[name]
            model = self._load_model(name, self.machine)
            weights = {model.adapter: 1.0} if model.adapter else {}
            loaded = _Loaded(name, next(self._numbers), model, weights)
            self._start()
            with self._lock:
                self._models[name] = loaded
            return loaded

    def _start(self) -> None:
        from ..server.scheduler import Scheduler

        with self._lock:
            if self._closed:
                raise Closing("studio")
            if self._scheduler is None:
                self._scheduler = Scheduler([], max_queue=1000)
                self._scheduler.start()

    def _forget_others(self) -> None:
        """Free all models but the current one."""
        for key in [key for key in self._models if self._models[key] is not self._current]:
            gone = self._models.pop(key)
            for form in [form for form in self._served if form[0] == gone.number]:
                self._remove(form)

    def _tell(self) -> None:
        self.events.publish("model", **self.record())
        self.on_change()

    def when_ready(self, begin: Callable[[], None], fail: Callable[[Exception], None]) -> None:
        """Call ``begin`` now, or in another thread as soon as the model is loaded.

        Args:
            begin: What needs the model.
            fail: Called with the reason where there will be none, or where ``begin`` fails later.

        Raises:
            InputError: There is no model.
            Closing: The studio ends.
        """
        if self._closed:
            raise Closing("studio")
        with self._lock:
            if self.state == "loading" and self._current is None:
                self._waiting.append((begin, fail))
                self.hurry()
                return
            if self._current is None:
                raise InputError(
                    self.message or "there is no model yet", self.advice or "choose a model"
                )
        begin()

    # Styles.

    def set_adapters(self, adapters: Mapping[str, float]) -> None:
        """Write with these adapters, by folder, from the next text on.

        Raises:
            InputError: One of them can't be used; those before stay.
        """
        current = self._current
        if current is None:
            raise InputError("there is no model yet", "wait until it is loaded")
        wanted = {folder: float(weight) for folder, weight in adapters.items()}
        before = dict(current.adapters)

        def work(model: LoadedModel, job: str) -> Generator[None, None, None]:
            try:
                current.select(wanted)
            except BaseException:
                current.select(before or BASE)
                raise
            yield

        self.wait_for(work)
        with self._lock:
            current.adapters = wanted
            self._trim()
        self._tell()

    def set_style(self, strength: float) -> None:
        """Give all adapters that are on this weight: 0 is the base model, 1 as trained.

        Raises:
            InputError: There is none, or the weight is out of range.
        """
        if not self.adapters:
            raise InputError(
                f"{self.name} has no adapter whose strength could be set",
                "choose a model that was trained here",
            )
        self.set_adapters(dict.fromkeys(self.adapters, strength))

    # Work.

    def served(
        self,
        adapters: Adapters | None = None,
        loaded: _Loaded | None = None,
        weights: str | None = None,
    ) -> str:
        """The scheduler's name for a model with some adapters; by default as it writes now."""
        with self._lock:
            one = loaded or self._current
            assert one is not None and self._scheduler is not None
            chosen: Adapters = dict(one.adapters) if adapters is None else adapters
            parts = chosen if isinstance(chosen, str) else tuple(sorted(chosen.items()))
            form = (one.number, parts, weights or self.weights)
            if form in self._served:
                self._served[form] = self._served.pop(form)  # now the last to be forgotten
                return self._served[form]
            from ..server.scheduler import ServedModel

            name = f"{one.name} {next(self._numbers)}"
            self._scheduler.add(ServedModel(name, one.model, lambda: one.select(chosen), form[2]))
            self._served[form] = name
            self._trim()
            return name

    def _trim(self) -> None:
        """Forget forms of the model that were not used for longest."""
        busy = {task.model for task in self._tasks.values()}
        now = self._current
        own = None
        if now is not None:
            own = (now.number, tuple(sorted(now.adapters.items())), self.weights)
        for form in list(self._served):
            if len(self._served) <= _MOST_SERVED:
                return
            if self._served[form] not in busy and form != own and form != list(self._served)[-1]:
                self._remove(form)

    def _remove(self, form: tuple[Any, ...]) -> None:
        name = self._served.pop(form)
        if self._scheduler is not None:
            self._scheduler.remove(name)

    def write(
        self,
        requests: Sequence[Request],
        settings: GenerationSettings,
        on_piece: Callable[[Piece], None],
        on_end: Callable[[list[Generated], Exception | None], None],
        *,
        served: str | None = None,
        alternatives: int = 0,
    ) -> Callable[[], None]:
        """Write texts; the callbacks come in the scheduler's thread.

        Returns:
            A function that stops it after the current token or block.
        """
        from ..server.scheduler import Job as Writing

        scheduler = self._scheduler
        assert scheduler is not None
        number = f"w{next(self._numbers)}"

        def end(results: list[Generated], error: Exception | None) -> None:
            self._tasks.pop(number, None)
            if results:
                speed = sum(result.tokens_per_second for result in results)
                self.tokens_per_second = speed or self.tokens_per_second
            on_end(results, error)

        job = Writing(served or self.served(), requests, settings, on_piece, end, alternatives)
        self._tasks[number] = job
        try:
            scheduler.submit(job)
        except BaseException:
            self._tasks.pop(number, None)
            raise

        def stop() -> None:
            job.cancel("studio")
            scheduler.wake()

        return stop

    def task(self, kind: str, work: Work, priority: int, message: str = "") -> str:
        """Do other work on the model, between the units of which it can be stopped.

        It waits while texts are written.

        Args:
            kind: Type of the job.
            work: Makes the generator of its units, given the model and the job's id.
            priority: Work of lower numbers comes first.
            message: What to say about it.

        Returns:
            The job's id.

        Raises:
            InputError: There is no model.
        """
        job = self.jobs.begin(kind, message=message)

        def on_end(result: Any, error: Exception | None) -> None:
            self._end_job(job, error)

        def fail(error: Exception) -> None:
            self._end_job(job, error)

        def begin() -> None:
            if not job.over:
                self._submit(work, priority, on_end, job)

        job.stop = lambda: self.jobs.tell(job, state="stopped")
        try:
            self.when_ready(begin, fail)
        except BaseException as error:
            self.jobs.tell(job, state="failed", message=str(error))
            raise
        return job.id

    def _submit(
        self,
        work: Work,
        priority: int,
        on_end: Callable[[Any, Exception | None], None],
        job: Job | None = None,
    ) -> Task:
        from ..server.scheduler import Task

        scheduler = self._scheduler
        assert scheduler is not None
        number = f"t{next(self._numbers)}"

        def units(model: LoadedModel) -> Generator[None, None, Any]:
            if job is not None:
                self.jobs.tell(job, state="running")
            result = yield from work(model, job.id if job else "")
            return result

        def end(result: Any, error: Exception | None) -> None:
            self._tasks.pop(number, None)
            on_end(result, error)

        task = Task(self.served(), units, end, priority, waits=True)
        self._tasks[number] = task

        def stop() -> None:
            task.cancel()
            scheduler.wake()

        if job is not None:
            job.stop = stop
        try:
            scheduler.submit(task)
        except BaseException:
            self._tasks.pop(number, None)
            raise
        return task

    def _end_job(self, job: Job, error: Exception | None) -> None:
        if error is None:
            self.jobs.tell(job, state="done")
        elif isinstance(error, Closing) or str(error) == "cancelled":
            self.jobs.tell(job, state="stopped")
        else:
            said = error_record(error)
            self.jobs.tell(job, state="failed", message=said["message"], advice=said["advice"])

    def idle_work(self, work: Work, priority: int = 9) -> Callable[[], None]:
        """Do work that nobody waits for; a function that stops it."""
        scheduler = self._scheduler
        assert scheduler is not None
        task = self._submit(work, priority, lambda result, error: None)

        def stop() -> None:
            task.cancel()
            scheduler.wake()

        return stop

    def wait_for(self, work: Work, priority: int = -1, seconds: float = 120.0) -> Any:
        """The result of work on the model, which comes before all other.

        Raises:
            Exception: What ended it.
        """
        found: list[Any] = []
        ended = threading.Event()

        def on_end(result: Any, error: Exception | None) -> None:
            found[:] = [result, error]
            ended.set()

        self._submit(work, priority, on_end)
        if not ended.wait(seconds):
            raise RunError("the model is busy", "stop what runs and try again")
        if found[1] is not None:
            raise found[1]
        return found[0]

    def backend(self, served: str) -> Any:
        """The forward pass of a served form; for callbacks and work in the scheduler's thread."""
        assert self._scheduler is not None
        return self._scheduler.backend(served)

    def stop(self, id: str) -> None:
        """Stop a job; one that is unknown or over is left."""
        job = self.jobs.find(id)
        if job is not None and not job.over:
            job.stop()

    @property
    def busy(self) -> bool:
        """Whether the model has work."""
        return bool(self._tasks)

    def close(self, seconds: float = 5.0) -> None:
        """End all work and the scheduler; what was read of long stories is kept in the cache."""
        self._closed = True
        self.hurry()
        self._go_on(Closing("studio"))
        end = time.monotonic() + seconds
        if self._scheduler is not None and self._scheduler.alive:
            self._scheduler.close(max(0.0, end - time.monotonic()))
            if not self._scheduler.alive and self.model is not None:
                from ..models.forward.backends import store_readings

                store_readings()


def _load_model(name: str, machine: MachineSettings) -> LoadedModel:
    from ..models.loading import load_from_settings

    return load_from_settings(name, machine)
