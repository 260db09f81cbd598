"""Work for pools of processes; a module of its own, so that a worker imports little."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from creativewritinggpt.errors import InputError


def killed(victims: list[str]) -> Callable[[str], str]:
    """Work that ends the process it runs in, where that is a worker."""

    def work(task: str) -> str:
        if task in victims and multiprocessing.parent_process() is not None:
            os._exit(1)
        return task.upper()

    return work


def broken(_: str) -> Callable[[str], str]:
    """Work that a worker can't begin."""
    if multiprocessing.parent_process() is not None:
        raise RuntimeError("a worker that can't begin")
    return str.upper


def wrong(number: str) -> Callable[[str], str]:
    """Work that fails from a task on."""

    def work(task: str) -> str:
        if int(task) >= int(number):
            raise InputError(f"task {task} is wrong", "mend it")
        return task

    return work


def slow() -> Callable[[int], int]:
    """Work that takes a while."""

    def work(task: int) -> int:
        time.sleep(0.05)
        return task

    return work


def parent_killer(parent: int) -> Callable[[str], str]:
    """Work that kills the process that started the worker, then waits to be ended with it."""

    def work(task: str) -> str:
        if os.getpid() != parent:
            Path(task).write_text(str(os.getpid()))
            os.kill(parent, signal.SIGKILL)
            time.sleep(60)
        return task

    return work
