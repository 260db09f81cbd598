"""Messages between this process and its data workers: a small header in JSON, then arrays.

Nothing that could run code crosses, and texts travel as they lie on disk. The price beside
``multiprocessing`` is that every message says what it holds; in return a worker starts without the
caller's main module, so that a plain script may use it.
"""

from __future__ import annotations

import json
import struct
from typing import IO, Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Message = tuple[dict[str, Any], list[Array]]


def send(stream: IO[bytes], header: dict[str, Any], *arrays: Array) -> None:
    """Write one message.

    Args:
        stream: Where to.
        header: What it says, ready for JSON.
        *arrays: One-dimensional arrays of numbers.
    """
    shapes = [[array.dtype.str, len(array)] for array in arrays]
    head = json.dumps({"header": header, "arrays": shapes}).encode()
    stream.write(struct.pack("<Q", len(head)) + head)
    for array in arrays:
        stream.write(np.ascontiguousarray(array).tobytes())
    stream.flush()


def receive(stream: IO[bytes]) -> Message | None:
    """Read one message, or None where the stream has ended."""
    size = _read(stream, 8)
    if size is None:
        return None
    head = _read(stream, struct.unpack("<Q", size)[0])
    if head is None:
        return None
    described = json.loads(head)
    arrays = []
    for kind, count in described["arrays"]:
        dtype = np.dtype(kind)
        content = _read(stream, dtype.itemsize * count)
        if content is None:
            return None
        arrays.append(np.frombuffer(content, dtype=dtype))
    return described["header"], arrays


def _read(stream: IO[bytes], size: int) -> bytes | None:
    content = stream.read(size)
    return content if len(content) == size else None
