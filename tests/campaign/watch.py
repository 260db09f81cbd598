"""Memory, open files and files on disk of a process that works for long."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .frame import Child, Fault

GROWTH = 24
"""Megabytes that a process may grow by after the first fifth of a run."""


class Watch:
    """Memory, open files and files on disk of a child.

    Args:
        child: The child.
        folder: Whose files are counted.
        ready: Whether every kind of work has been done once, so that nothing is loaded any more.
    """

    def __init__(
        self, child: Child, folder: Path, ready: Callable[[], bool] = lambda: True
    ) -> None:
        self.child, self.folder, self.ready = child, folder, ready
        self.rows: list[dict[str, float]] = []

    def look(self, done: float) -> None:
        """Note what it uses now, when so much is done."""
        try:
            status = Path(f"/proc/{self.child.pid}/status").read_text()
            handles = len(os.listdir(f"/proc/{self.child.pid}/fd"))
        except OSError:
            return
        lines = [line for line in status.splitlines() if line.startswith("VmRSS")]
        if not lines:
            return
        memory = int(lines[0].split()[1]) // 1024
        files = sum(1 for path in self.folder.rglob("*") if path.is_file())
        self.rows.append(
            {"done": round(done, 3), "ready": self.ready(), "memory_mb": memory,
             "handles": handles, "files": files}
        )  # fmt: skip

    def judge(self, seconds: float, more: int = 0) -> dict[str, Any]:
        """The figures: medians of the first and of the last quarter of the looks that count.

        Those count at which every kind of work had been done once, after a fifth of the run. What
        is there for a moment, such as a checkpoint that is being written, is none of a median.

        Args:
            seconds: How long it took.
            more: Megabytes that it may grow by beside :data:`GROWTH`.

        Raises:
            Fault: Something has grown.
        """
        settled = [row for row in self.rows if row["done"] >= 0.2 and row["ready"]]
        quarter = len(settled) // 4
        if quarter < 2:
            raise Fault(f"too few looks: {self.rows}")
        first, last = _medians(settled[:quarter]), _medians(settled[-quarter:])
        for name, most in (("memory_mb", GROWTH + more), ("handles", 1), ("files", 2)):
            if last[name] > first[name] + most:
                raise Fault(f"{name} grows: {first} became {last}")
        peak = max(row["memory_mb"] for row in self.rows)
        return {
            "seconds": round(seconds, 1), "looks": [self.rows[0], first, last], "peak_mb": peak
        }  # fmt: skip


def _medians(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median_low(row[name] for row in rows) for name in rows[0]}
