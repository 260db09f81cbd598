"""Windows through the model the plain way: rows of one width, padded, with any kind of attention.

It is the twin of :mod:`.passes` for models whose attention can't be run window by window. The price
is padding, and that the last digits of a window's numbers depend on what shares its rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ...data.rows.packing import IGNORE, PackedRows
from ...models.loaded_model import LoadedModel
from ...models.scoring import token_nll
from .windows import Window

_TOKENS = 4096
"""Tokens that go through the model at once, where a window is not longer."""


def plan_rows(lengths: Sequence[int]) -> Iterator[list[int]]:
    """The plain way: windows of like length together, as many as fill a few passes when padded."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    while order:
        count = max(1, _TOKENS // lengths[order[0]])
        yield order[:count]
        order = order[count:]


def score_rows(writer: LoadedModel, windows: Sequence[Window]) -> list[npt.NDArray[np.float64]]:
    """Score windows in padded rows, through any kind of attention."""
    values = token_nll(writer, as_rows(windows, writer.eos_id), len(windows))
    return [row[: len(window.inputs)] for row, window in zip(values, windows, strict=True)]


def as_rows(windows: Sequence[Window], eos_id: int) -> PackedRows:
    """Windows as rows of one width, padded on the right; padding is never a target."""
    shape = (len(windows), max(len(window.inputs) for window in windows))
    rows = PackedRows(
        input_ids=np.full(shape, eos_id, dtype=np.int64),
        targets=np.full(shape, IGNORE, dtype=np.int64),
        position_ids=np.zeros(shape, dtype=np.int64),
        segment_ids=np.zeros(shape, dtype=np.int32),
        document_ids=np.full(shape, -1, dtype=np.int32),
        is_eos=np.zeros(shape, dtype=bool),
    )
    for row, window in enumerate(windows):
        length = len(window.inputs)
        rows.input_ids[row, :length] = window.inputs
        rows.targets[row, :length] = window.targets
        rows.position_ids[row, :length] = np.arange(length)
        rows.segment_ids[row, :length] = 1
        rows.document_ids[row, :length] = window.document
        if window.end >= 0:
            rows.is_eos[row, window.end] = True
    return rows
