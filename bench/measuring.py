"""What every benchmark here shares: the machine, processes of their own, the table, the JSON.

Each contender runs in a process of its own, so that no one's threads, caches or patches help or
hurt another. A worker prints one JSON object on its last line.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from creativewritinggpt import console


def read_bandwidth(megabytes: int = 512) -> float:
    """Bytes a second of a plain read of memory by all threads: the best of five."""
    import torch

    block = torch.ones(megabytes * 2**20 // 4)
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        block.sum()
        best = max(best, block.nbytes / (time.perf_counter() - started))
    return best


def processor() -> str:
    """What the processor calls itself."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            names = [line.partition(":")[2].strip() for line in stream if "model name" in line]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def instructions() -> list[str]:
    """The sets of instructions for products that the processor has."""
    known = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            flags = next((set(line.split()) for line in stream if line.startswith("flags")), set())
    except OSError:
        return []
    return [name for name in known if name in flags]


def machine() -> dict[str, Any]:
    """The machine and the versions that a figure belongs to."""
    import psutil
    import torch

    packages = (
        "torch",
        "transformers",
        "peft",
        "onnxruntime",
        "ctranslate2",
        "llama-cpp-python",
        "captum",
        "inseq",
    )
    return {
        "processor": processor(),
        "instructions": instructions(),
        "cores": psutil.cpu_count(logical=False),
        "threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "read_bytes_per_second": read_bandwidth(),
        "load_before": psutil.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: version for name in packages if (version := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def in_own_process(script: str, arguments: Sequence[str], seconds: float) -> dict[str, Any]:
    """Run ``script --worker ARGUMENTS`` and read its result; a failure is ``skipped``."""
    command = [sys.executable, script, "--worker", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return {"skipped": f"took longer than {seconds:.0f} s"}
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        if done.returncode < 0:
            said = f"ended by signal {-done.returncode} (9: out of memory)"
        return {"skipped": said[:200]}
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def median(values: Sequence[float]) -> float:
    """The middle value; the mean of the two middle ones."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def timed(work: Callable[..., Any], *arguments: Any) -> float:
    """Seconds that ``work(*arguments)`` takes."""
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started


def show(title: str, rows: Sequence[dict[str, Any]], metrics: Sequence[str]) -> None:
    """The rows as a table on stderr."""
    console.table(
        title,
        ["contender", "model", "case", *metrics],
        [
            [row["contender"], row["model"], row["case"], *(_cell(row, m) for m in metrics)]
            for row in rows
        ],
    )


def _cell(row: dict[str, Any], metric: str) -> str:
    if "skipped" in row:
        return "skipped"
    value = row.get(metric)
    return "" if value is None else f"{value:,.3g}" if value < 10 else f"{value:,.1f}"
