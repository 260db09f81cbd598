"""The rows of each optimizer step, of a prepared or a streamed corpus.

Rows of a prepared corpus are numbered, and which of them a step takes is a function of the seed and
the step. A stream gives the next rows, so its position is part of a checkpoint: that after the last
step that was applied, of all processes together.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .packing import RowPlan, Rows
from .stream import StreamedRows, together

if TYPE_CHECKING:
    from ...distributed import ProcessGroup


class Batches:
    """What the training loop takes rows from.

    Attributes:
        max_length: Positions in a row.
    """

    max_length: int

    def step(self, step: int) -> tuple[Rows, np.ndarray, int]:
        """The rows of a step.

        Args:
            step: Optimizer steps taken so far, from 0.

        Returns:
            Rows, the numbers of this process's among them, and the target tokens of all processes.
        """
        raise NotImplementedError

    def first(self, count: int) -> tuple[Rows, np.ndarray]:
        """This process's part of the first ``count`` rows, which stay to be trained on."""
        raise NotImplementedError

    def applied(self) -> None:
        """Note that the step asked for last has been applied."""

    def state(self) -> dict[str, Any] | None:
        """The position for a checkpoint, of all processes, each of which must call this."""
        return None

    def restore(self, state: dict[str, Any] | None) -> None:
        """Continue from a position.

        Raises:
            InputError: There are more processes than stream shards.
        """

    def stats(self) -> dict[str, Any] | None:
        """What this process has read of each source, where that is not known beforehand."""
        return None


class PreparedBatches(Batches):
    """Rows of a corpus that was prepared before training; their position is the step's number.

    Args:
        rows: The rows of the whole run.
        rows_of_step: The numbers of the rows of a step.
        group: The processes that share a step's rows.
    """

    def __init__(
        self, rows: RowPlan, rows_of_step: Callable[[int], np.ndarray], group: ProcessGroup
    ) -> None:
        self._rows, self._rows_of_step = rows, rows_of_step
        self._mine = slice(group.rank, None, group.size)
        self.max_length = rows.max_length
        self._targets = functools.cache(rows.target_counts)

    def step(self, step: int) -> tuple[Rows, np.ndarray, int]:
        """See :class:`Batches`."""
        indices = self._rows_of_step(step)
        return self._rows, indices[self._mine], int(self._targets()[indices].sum())

    def first(self, count: int) -> tuple[Rows, np.ndarray]:
        """See :class:`Batches`."""
        return self._rows, self._rows_of_step(0)[:count][self._mine]


class StreamedBatches(Batches):
    """Rows of a corpus that is read while it is trained on.

    Args:
        open_rows: Opens this process's rows of a stream of so many shards.
        rows_per_step: Rows of a step, of all processes.
        group: The processes that share them.
    """

    def __init__(
        self, open_rows: Callable[[int], StreamedRows], rows_per_step: int, group: ProcessGroup
    ) -> None:
        self._open_rows, self._rows_per_step, self._group = open_rows, rows_per_step, group
        self._rows = open_rows(group.size)
        self.max_length = self._rows.max_length
        self._applied = self._rows.state()

    def step(self, step: int) -> tuple[Rows, np.ndarray, int]:
        """See :class:`Batches`."""
        rows = self._rows.take(self._rows_per_step)
        tokens = self._group.all_reduce(np.array([rows.target_counts().sum()]))
        return rows, np.arange(len(rows)), int(tokens[0])

    def first(self, count: int) -> tuple[Rows, np.ndarray]:
        """See :class:`Batches`."""
        rows = self._rows.take(count)
        self._rows.restore(self._applied)
        return rows, np.arange(len(rows))

    def applied(self) -> None:
        """See :class:`Batches`."""
        self._applied = self._rows.state()

    def state(self) -> dict[str, Any] | None:
        """See :class:`Batches`."""
        states = self._group.all_gather_text(json.dumps(self._applied))
        return together([json.loads(state) for state in states])

    def restore(self, state: dict[str, Any] | None) -> None:
        """See :class:`Batches`."""
        if state is not None:
            self._rows = self._open_rows(state["lanes"])
            self._rows.restore(state)
            self._applied = self._rows.state()

    def stats(self) -> dict[str, Any] | None:
        """See :class:`Batches`."""
        return self._rows.stats()
