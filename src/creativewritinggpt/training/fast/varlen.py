"""Packed rows as documents laid end to end, those of one length beside each other.

    rows      a a a b b .          end to end   a a a  c c c  b b      (no padding)
              c c c . . .          groups       [2 × 3]       [1 × 2]

A group of documents of one length is a plain reshape of the long list of tokens, so attention takes
it without copying and without a mask, and does no work between documents. Many different lengths
mean many small calls; that costs less than the padding it saves.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from ...data.rows.packing import PackedRows


@dataclasses.dataclass(frozen=True)
class Group:
    """Documents of one length that follow each other.

    Attributes:
        start: Where the first one begins in the list of tokens.
        count: How many there are.
        length: Tokens of each.
    """

    start: int
    count: int
    length: int

    @property
    def tokens(self) -> slice:
        """The place of all of them in the list of tokens."""
        return slice(self.start, self.start + self.count * self.length)


@dataclasses.dataclass(frozen=True)
class Documents:
    """The tokens of a micro-step without padding.

    Attributes:
        input_ids: ``[tokens]``.
        targets: ``[tokens]``, ``IGNORE`` where there is none.
        position_ids: ``[tokens]``, from 0 in each document.
        groups: Documents by length, in order.
    """

    input_ids: Tensor
    targets: Tensor
    position_ids: Tensor
    groups: tuple[Group, ...]


def end_to_end(rows: PackedRows) -> Documents:
    """Take the padding out of packed rows and sort their documents by length.

    Args:
        rows: Packed rows; the pieces of a row follow each other in ``segment_ids``.
    """
    width = rows.segment_ids.shape[1]
    # A number of its own for each piece of each row, 0 in the padding.
    pieces = rows.segment_ids.astype(np.int64)
    keys = np.where(pieces > 0, pieces + np.arange(len(pieces))[:, None] * (width + 1), 0)
    flat = keys.reshape(-1)
    places = np.flatnonzero(flat)
    starts = np.flatnonzero(np.diff(flat[places], prepend=-1))
    lengths = np.diff(np.append(starts, len(places)))
    order = np.argsort(-lengths, kind="stable")
    # Where each token of the sorted documents stands in the rows.
    ends = np.cumsum(lengths[order])
    within = np.arange(len(places)) - np.repeat(ends - lengths[order], lengths[order])
    chosen = places[np.repeat(starts[order], lengths[order]) + within]
    sizes, counts = np.unique(lengths, return_counts=True)
    groups, start = [], 0
    for size, count in zip(sizes[::-1].tolist(), counts[::-1].tolist(), strict=True):
        groups.append(Group(start, count, size))
        start += size * count
    return Documents(
        input_ids=torch.from_numpy(rows.input_ids.reshape(-1)[chosen]),
        targets=torch.from_numpy(rows.targets.reshape(-1)[chosen]),
        position_ids=torch.from_numpy(rows.position_ids.reshape(-1)[chosen]),
        groups=tuple(groups),
    )
