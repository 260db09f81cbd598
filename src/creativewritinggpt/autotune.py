"""Measurements of which of several implementations is fastest on this machine, kept in the cache.

Processors that list the same instructions differ several times in their worth, so a choice by name
is wrong on some. Measurements are kept under the processor's name, so that the same command makes
the same choice on the same machine; remove the file to measure again.

Trade-off: about a tenth of a second per implementation, once, or twice its duration where this
processor is slow at it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .errors import UserError
from .files import cache_folder, read_json, write_json


def fastest(work: Callable[[], Any], repeats: int = 12, limit: float = 0.3) -> float:
    """Seconds of the fastest of some repeats, without the first.

    After ``limit`` seconds there are no more repeats; if the first alone took that long, it counts.
    """
    times: list[float] = []
    while len(times) <= repeats and sum(times) < limit:
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times[1:] or times)


def measured(
    question: str, ways: Mapping[str, Callable[[], float]], threads: int
) -> dict[str, float]:
    """The seconds of each implementation here, from the cache where it has them.

    Args:
        question: A key for the cache.
        ways: A function that measures it, by name.
        threads: Processor threads in use.
    """
    import torch

    key = f"{question}, {', '.join(ways)}; {threads} threads; torch {torch.__version__}"
    path = cache_file()
    known = _known(path)
    found = known.get(key)
    if isinstance(found, dict) and set(found) == set(ways):
        return {name: float(seconds) for name, seconds in found.items()}
    found = {name: measure() for name, measure in ways.items()}
    # A machine may be busy for a moment: the best of two rounds, in turn.
    found = {name: min(seconds, ways[name]()) for name, seconds in found.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {**_known(path), key: found})
    except (OSError, UserError):
        pass  # then it is measured again next time
    return found


@functools.cache
def processor() -> str:
    """The processor's name, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    except (OSError, UnicodeDecodeError):
        pass
    return platform.processor() or platform.machine()


def cache_file() -> Path:
    """The file of what was measured on this machine."""
    try:
        flags = next(
            line
            for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines()
            if line.startswith(("flags", "Features"))
        )
    except (OSError, UnicodeDecodeError, StopIteration):
        flags = platform.machine()
    # Virtual machines of one name can differ in what they pass on.
    name = hashlib.sha256(f"{processor()}\n{os.cpu_count()}\n{flags}".encode()).hexdigest()[:12]
    return cache_folder() / f"machine-{name}.json"


def _known(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (UserError, OSError, json.JSONDecodeError):
        return {}
    return content if isinstance(content, dict) else {}
