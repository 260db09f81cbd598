"""Readers with known faults, by which the sandbox is tried itself."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from .sandbox import Target


def _writes(case: Any, folder: Path) -> None:
    (folder.parent / "outside.txt").write_text(str(case))


def _says(case: Any, folder: Path) -> None:
    from creativewritinggpt.errors import InputError

    raise InputError("")


def _fails(case: Any, folder: Path) -> None:
    raise KeyError(case)


def _connects(case: Any, folder: Path) -> None:
    import socket

    with socket.socket() as made, contextlib.suppress(OSError):
        made.settimeout(0.01)
        made.connect(("192.0.2.1", 9))


def _goes_on(case: Any, folder: Path) -> None:
    while True:
        folder.exists()


def _takes(case: Any, folder: Path) -> None:
    bytearray(1 << 40)


_kept: list[bytearray] = []


def _keeps(case: Any, folder: Path) -> None:
    for size in (1 << 26, 1 << 16, 1 << 10):
        with contextlib.suppress(MemoryError):
            while True:
                _kept.append(bytearray(size))
    raise MemoryError


TARGETS = (
    Target("bad-writer", st.integers(), _writes),
    Target("bad-error", st.integers(), _says),
    Target("bad-exit", st.integers(), _fails),
    Target("bad-connection", st.integers(), _connects),
    Target("bad-loop", st.integers(), _goes_on),
    Target("bad-memory", st.integers(), _takes),
    Target("bad-hoard", st.integers(), _keeps),
)
