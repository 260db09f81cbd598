"""Pool of worker processes for work on large corpora; results in the order of the tasks.

Cleaning and comparing texts are plain Python for the most part, which does one thing at a time in a
process. A worker costs half a second to start and the memory of a small Python, so there are none
for less than 4 MB of text. A task is a pure function of what it is given, so the results do not
depend on the number of workers, and a task whose worker ended is done by this process.

This process does a task itself where all workers have two to do; it runs some tasks ahead of the
result that is next.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, TypeVar

from ...errors import UserError

WORTH_IT = 4_000_000
"""Characters or bytes of text from which workers are started."""

_MOST_WORKERS = 7
_AHEAD = 12
"""Tasks per worker that may be ahead of the next result."""

Task = TypeVar("Task")
Result = TypeVar("Result")
Work = Callable[[Task], Result]


def in_order(
    tasks: Iterable[Task],
    make: Callable[..., Work[Task, Result]],
    arguments: tuple[Any, ...],
    *,
    size: int,
    processes: int | None = None,
    here: Work[Task, Result] | None = None,
) -> Iterator[Result]:
    """Results of tasks, computed by this process and by workers, in order.

    Args:
        tasks: What is to be done; taken a few ahead of the results.
        make: Makes the function that does a task. Like its arguments, the tasks and the results it
            is pickled: a function at the top of a module.
        arguments: Its arguments, the same for all tasks.
        size: How much text all tasks have; for little there are no workers.
        processes: Processes in all, this one included; one for each core without it.
        here: What does a task in this process, where that is there already.

    Raises:
        UserError: That of the first task, in order, that has one.
    """
    made = functools.cache(lambda: here or make(*arguments))
    workers = _workers(size, processes)
    if not workers:
        yield from (made()(task) for task in tasks)
        return
    executor = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _begin, (make, arguments)
    )
    waiting: deque[tuple[Task, Future[Result]]] = deque()

    def finished() -> Result:
        task, future = waiting.popleft()
        try:
            return future.result()
        except UserError:
            raise
        except Exception:  # the worker has ended, or could not even begin
            return made()(task)

    source = iter(tasks)
    try:
        while True:
            try:
                task = next(source)
            except (StopIteration, UserError) as error:
                end = error
                break
            busy = sum(not future.done() for _, future in waiting)
            given = _submit(executor, task) if busy < 2 * workers else None
            waiting.append((task, given or _done(made(), task)))
            while waiting and (waiting[0][1].done() or len(waiting) > _AHEAD * workers):
                yield finished()
        while waiting:
            yield finished()
        if isinstance(end, UserError):  # after the results of the tasks before it
            raise end
    finally:
        executor.shutdown(cancel_futures=True)


def _done(work: Work[Task, Result], task: Task) -> Future[Result]:
    """A task done by this process; its error is kept for its turn."""
    future: Future[Result] = Future()
    try:
        future.set_result(work(task))
    except UserError as error:
        future.set_exception(error)
    return future


def _workers(size: int, processes: int | None) -> int:
    """How many workers to start beside this process."""
    if size < WORTH_IT or processes == 1:
        return 0
    if processes is None:
        from ...devices import usable_cores  # imports torch

        processes = usable_cores()
    return min(_MOST_WORKERS, processes - 1)


def _submit(executor: ProcessPoolExecutor, task: Any) -> Future[Any] | None:
    """Hand a task to a worker, starting one if need be; None where that can't be done."""
    with _plain_start(), contextlib.suppress(OSError, RuntimeError, AssertionError):
        return executor.submit(_do, task)
    return None


@contextlib.contextmanager
def _plain_start() -> Iterator[None]:
    """Start processes without the caller's main module and with SIGINT blocked.

    A worker would import the main module, that is run a plain script a second time. Ctrl-C reaches
    all processes of a terminal; only this one handles it.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if _HAS_MASK else None
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        if blocked is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


_HAS_MASK = hasattr(signal, "pthread_sigmask")  # not on Windows

_work: Work[Any, Any] | None = None


def _begin(make: Callable[..., Work[Any, Any]], arguments: tuple[Any, ...]) -> None:
    """In a worker: make what does its tasks."""
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _work = make(*arguments)


def _end_with_parent() -> None:
    """End this worker where the process that started it was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _do(task: Any) -> Any:
    """In a worker: do a task."""
    assert _work is not None
    return _work(task)
