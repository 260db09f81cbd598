"""Device, number format and threads of the work, with the reason for each choice.

The choice is made by what the machine can do and never by its name: bf16 is taken only where the
processor or the GPU has instructions for it and, on a processor, where it is measured to be faster.
Processors that list the same instructions differ several times in their worth. What is measured is
kept in the cache under the processor's name, so that the same command makes the same choice on the
same machine; remove the file to measure again.

Trade-off: the same command may compute in bf16 on one machine and in fp32 on another; so every
choice carries a sentence that says why, is shown to the user and recorded with the run. A
measurement takes about a tenth of a second per implementation, once, or twice its duration where
this processor is slow at it.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import hashlib
import json
import math
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

from .errors import InputError, UserError
from .files import cache_folder, read_json, write_json

# Instructions that multiply bf16 matrices; oneDNN uses them through torch.
_CPU_BF16 = {"avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX-BF16"}

# What bf16 must gain to be worth its rounding.
_WORTH_BF16 = 1.15

# Where the two versions of Linux's control groups state a container's limit and its use.
_CGROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
)


@dataclasses.dataclass(frozen=True)
class DeviceChoice:
    """A device, a precision and a number of threads, each with the reason for it.

    Attributes:
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: ``fp32``, or ``bf16``: fp32 weights, heavy products in bf16 (autocast).
        threads: Processor threads for torch.
        reasons: A sentence for each of ``device``, ``precision`` and ``threads``.
        approximate: Whether faster formats with nearly the same results may be used where they
            are made for it, as int8 for writing: nobody asked for a precision.
    """

    device: str
    precision: str
    threads: int
    reasons: dict[str, str]
    approximate: bool = False

    @property
    def torch_device(self) -> torch.device:
        """The device as torch takes it."""
        return torch.device(self.device)

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Run the block's heavy products in the chosen precision."""
        if self.precision != "bf16":
            yield
            return
        with torch.autocast(self.torch_device.type, dtype=torch.bfloat16):
            yield

    def apply(self) -> None:
        """Set torch's threads and its current GPU to the choice."""
        torch.set_num_threads(self.threads)
        if self.torch_device.type == "cuda" and self.torch_device.index is not None:
            torch.cuda.set_device(self.torch_device.index)


def choose(
    device: str | None = None, precision: str = "auto", threads: int | None = None
) -> DeviceChoice:
    """Choose device, precision and threads; what is given is taken, or refused with the reason.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; without it the best there is.
        precision: ``auto``, ``fp32`` or ``bf16``.
        threads: Processor threads; without it one for each core this process may use.

    Raises:
        InputError: A device that this machine or this torch does not have, or a precision that the
            device can't compute in.
    """
    name, device_reason = _choose_device(device)
    count, threads_reason = _choose_threads(threads)
    chosen, precision_reason = _choose_precision(name, precision, count)
    reasons = {"device": device_reason, "precision": precision_reason, "threads": threads_reason}
    return DeviceChoice(name, chosen, count, reasons, precision == "auto")


def _choose_device(wanted: str | None) -> tuple[str, str]:
    """The device and the sentence why."""
    if wanted is None:
        if torch.cuda.is_available():
            return "cuda", f"a GPU was found: {_gpu(0)}"
        if torch.backends.mps.is_available():
            return "mps", "an Apple GPU was found"
        return "cpu", f"no GPU was found: {_why_no_cuda()}"
    name = wanted.strip().lower()
    if name == "cpu":
        return "cpu", "asked for"
    if name == "mps":
        if torch.backends.mps.is_available():
            return "mps", "asked for"
        why = (
            "macOS or this Mac does not offer it"
            if torch.backends.mps.is_built()
            else "this torch is built without it"
        )
        raise InputError(
            f"device is 'mps', but there is no Apple GPU here: {why}",
            "leave --device out to use what there is",
        )
    match = re.fullmatch(r"cuda(?::(\d+))?", name)
    if not match:
        raise InputError(f"device is '{wanted}'", "choose cpu, cuda, cuda:N (a number) or mps")
    if not torch.cuda.is_available():
        raise InputError(
            f"device is '{wanted}', but {_why_no_cuda()}", "leave --device out to use what there is"
        )
    count, index = torch.cuda.device_count(), int(match.group(1) or 0)
    if index >= count:
        raise InputError(
            f"device is '{wanted}', but there {'is 1 GPU' if count == 1 else f'are {count} GPUs'}",
            f"the last one is cuda:{count - 1}",
        )
    return name, f"asked for: {_gpu(index)}"


def _gpu(index: int) -> str:
    """Name and memory of a CUDA device."""
    properties = torch.cuda.get_device_properties(index)
    return f"{properties.name}, {properties.total_memory / 1e9:.0f} GB"


def _why_no_cuda() -> str:
    """Why CUDA can't be used here."""
    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        return "this torch is built without CUDA"
    return "torch finds no CUDA device or driver"


def _choose_precision(device: str, wanted: str, threads: int) -> tuple[str, str]:
    """The precision and the sentence why."""
    if wanted not in ("auto", "fp32", "bf16"):
        raise InputError(f"precision is '{wanted}'", "choose auto, fp32 or bf16")
    if wanted == "fp32":
        return "fp32", "asked for"
    kind = device.partition(":")[0]
    has, reason = {"cpu": _cpu_bf16, "cuda": _cuda_bf16, "mps": _mps_bf16}[kind]()
    if wanted == "auto":
        if kind == "cpu" and has:
            return _faster_on_cpu(threads, reason)
        # Apple GPUs are not faster in bf16 on every chip; available with --precision bf16.
        if kind == "mps":
            return "fp32", "the safe choice on an Apple GPU; --precision bf16 saves memory"
        return ("bf16" if has else "fp32"), reason
    if has:
        return "bf16", "asked for"
    if kind == "mps":
        raise InputError(f"precision is 'bf16', but {reason}", "use --precision fp32")
    return "bf16", f"asked for, though {reason}: expect it to be slower than fp32"


def _cpu_bf16() -> tuple[bool, str]:
    """Whether the processor multiplies in bf16, and the sentence that says so."""
    ask = getattr(torch.cpu, "get_capabilities", None)
    if ask is None:
        return False, f"torch {torch.__version__} can't tell whether the processor has bf16"
    capabilities = ask()
    names = [name for key, name in _CPU_BF16.items() if capabilities.get(key)]
    if names:
        return True, f"the processor multiplies in bf16: {', '.join(names)}"
    return False, "the processor has no instructions for bf16"


def _faster_on_cpu(threads: int, reason: str) -> tuple[str, str]:
    """The format that this processor multiplies faster in, and the sentence that says so."""
    seconds = product_seconds(threads)
    ratio = seconds["fp32"] / seconds["bf16"]
    if ratio >= _WORTH_BF16:
        return "bf16", f"{reason}, {ratio:.1f} times as fast as fp32"
    return "fp32", f"{reason}, but only {ratio:.1f} times as fast as fp32"


def product_seconds(threads: int) -> dict[str, float]:
    """Seconds for one matrix product of a training step in fp32 and in bf16, measured once."""

    def seconds(dtype: torch.dtype) -> float:
        rows, weight = (torch.ones(size, 768, dtype=dtype) for size in (512, 2304))
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return fastest(lambda: torch.nn.functional.linear(rows, weight))
        finally:
            torch.set_num_threads(before)

    ways = {"fp32": torch.float32, "bf16": torch.bfloat16}
    return measured(
        "products",
        {name: functools.partial(seconds, dtype) for name, dtype in ways.items()},
        threads,
    )


def _cuda_bf16() -> tuple[bool, str]:
    """Whether the GPU computes in bf16 by itself, and the sentence that says so."""
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return True, "the GPU computes in bf16"
    return False, "the GPU has no bf16 of its own"


def _mps_bf16() -> tuple[bool, str]:
    """Whether this macOS has bf16 on its GPU, and the sentence that says so."""
    if torch.backends.mps.is_macos_or_newer(14, 0):
        return True, "the GPU computes in bf16"
    return False, "bf16 on an Apple GPU needs macOS 14"


def _choose_threads(wanted: int | None) -> tuple[int, str]:
    """The number of threads and the sentence why."""
    if wanted is not None:
        if wanted < 1:
            raise InputError(f"the number of threads is {wanted}", "it must be at least 1")
        return wanted, "asked for"
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdigit() and int(told) > 0:
        return int(told), f"OMP_NUM_THREADS is {told}"
    usable = usable_cores()
    # Two threads on one core share its arithmetic, so that hyper-threads only add waiting.
    physical = psutil.cpu_count(logical=False) or usable
    count = max(1, min(usable, physical))
    return count, "one for each core" if physical <= usable else "as many as this process may use"


def usable_cores() -> int:
    """Logical cores that the affinity mask and the container's quota leave to this process."""
    if sys.platform == "linux":
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    quota = read_system_file("/sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit() and int(quota[1]) > 0:
        count = min(count, max(1, math.ceil(int(quota[0]) / int(quota[1]))))
    return count


def read_system_file(path: str) -> str:
    """What a small system file says, or nothing where it does not exist."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def memory(device: str = "cpu") -> tuple[int, int]:
    """Memory that this process can have, as ``(total, free)`` bytes.

    For a CUDA device it is the GPU's; else the machine's, or the container's where that is less.
    """
    if device.startswith("cuda"):
        free, total = torch.cuda.mem_get_info(torch.device(device))
        return total, free
    machine = psutil.virtual_memory()
    total, free = machine.total, machine.available
    for folder, limit_name, used_name in _CGROUPS:
        limit_file, used_file = f"{folder}/{limit_name}", f"{folder}/{used_name}"
        limit, used = read_system_file(limit_file).strip(), read_system_file(used_file).strip()
        if limit.isdigit() and used.isdigit() and int(limit) < total:
            total, free = int(limit), min(free, max(0, int(limit) - int(used)))
    return total, free


def keep_freed_memory() -> None:
    """Let the C library keep the memory that this process frees, for what it asks for next.

    Else glibc hands each large tensor's memory back to the system and gets other, zeroed memory for
    the next one; its pages cost a tenth of a training step. Elsewhere nothing is changed.
    """
    # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h.
    for option, size in ((-1, 2**31 - 1), (-3, 2**30)):
        _glibc("mallopt", option, size)


def release_freed_memory() -> None:
    """Hand all free pages back to the system, also those between others that are in use.

    Kept memory gets more with time, since tensors of changing sizes don't fit into what is free.
    """
    _glibc("malloc_trim", 0)


def _glibc(name: str, *arguments: int) -> None:
    """Call a function of the C library, where that is glibc."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            getattr(ctypes.CDLL(None), name)(*arguments)


def peak_memory_bytes(device: str = "cpu") -> int:
    """The most memory that this process has had so far, in bytes.

    For a CUDA device it is what torch allocated there; else the resident memory of the process.
    """
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(torch.device(device)))
    # Not ru_maxrss: on Linux a child inherits its parent's peak there.
    match = re.search(r"^VmHWM:\s+(\d+) kB", read_system_file("/proc/self/status"), re.MULTILINE)
    if match:
        return int(match.group(1)) * 1024
    info: Any = psutil.Process().memory_info()
    if hasattr(info, "peak_wset"):
        return int(info.peak_wset)
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # bytes on macOS


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the machine or the device is out of memory."""
    text = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError)
        and any(part in text for part in ("out of memory", "not enough memory", "can't allocate"))
    )


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
