"""Documents cut into pieces, and where each piece goes: the arithmetic of packing.

Pieces are placed longest first, each into the fullest row that still takes it (best fit
decreasing).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .tokens import TokenizedDocuments

Array = npt.NDArray[np.int64]


def ranges(starts: Array, counts: Array) -> Array:
    """``start, start + 1, …`` for each start, as many as its count, one after another."""
    total = int(counts.sum())
    before = np.cumsum(counts) - counts
    numbers: Array = np.arange(total, dtype=np.int64) + np.repeat(starts - before, counts)
    return numbers


class Pieces(NamedTuple):
    """What documents are cut into before they are placed in rows; every array is [pieces].

    Attributes:
        documents: The document of each piece.
        starts: The first pair of the piece, counted within its document.
        lengths: The number of pairs in the piece.
    """

    documents: Array
    starts: Array
    lengths: Array

    def take(self, chosen: Array) -> Pieces:
        """The pieces with these numbers."""
        return Pieces(*(array[chosen] for array in self))

    def target_counts(self, tokens: TokenizedDocuments, mask_prompt: bool) -> Array:
        """[pieces] how many targets each has."""
        if not mask_prompt:
            return self.lengths
        prompts = np.asarray(tokens.prompt_lengths, dtype=np.int64)[self.documents]
        counts: Array = self.lengths - np.clip(prompts - self.starts, 0, self.lengths)
        return counts


def cut(
    tokens: TokenizedDocuments,
    *,
    max_length: int,
    mask_prompt: bool = False,
    documents: Array | None = None,
) -> Pieces:
    """Cut documents into pieces of at most a row; those without a target are left out.

    Args:
        tokens: The ids of the documents.
        max_length: Positions in a row, at least 1.
        mask_prompt: Whether the prompt's tokens are no targets.
        documents: The numbers of the documents, repeats allowed; without it, each once.
    """
    chosen = np.arange(len(tokens)) if documents is None else np.asarray(documents, dtype=np.int64)
    offsets = np.asarray(tokens.offsets, dtype=np.int64)
    pairs = offsets[chosen + 1] - offsets[chosen] + 1
    counts = -(-pairs // max_length)
    places = np.repeat(np.arange(len(pairs), dtype=np.int64), counts)
    starts = ranges(np.zeros_like(counts), counts) * max_length
    pieces = Pieces(chosen[places], starts, np.minimum(max_length, pairs[places] - starts))
    if mask_prompt:
        pieces = pieces.take(np.flatnonzero(pieces.target_counts(tokens, mask_prompt)))
    return pieces


def place(lengths: Array, max_length: int, order: Array) -> tuple[Array, Array]:
    """Row and column of each piece by best fit; ``order`` has the longest first."""
    rows = np.empty(len(lengths), dtype=np.int64)
    columns = np.empty(len(lengths), dtype=np.int64)
    open_rows: dict[int, list[int]] = {}
    # Bit r is set while a row has exactly r free positions: the fullest row that takes a piece is
    # the lowest set bit from its length up.
    free = 0
    made = 0
    for piece, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        fitting = free >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            candidates = open_rows[room]
            row = candidates.pop()
            if not candidates:
                free &= ~(1 << room)
        else:
            row, room = made, max_length
            made += 1
        rows[piece], columns[piece] = row, max_length - room
        left = room - length
        if left:
            open_rows.setdefault(left, []).append(row)
            free |= 1 << left
    return rows, columns
