"""The held-out rows that validations during training score: all of them, or a fair part.

A few dozen chapters are more tokens than a processor scores in a minute, and a run validates many
times. A bound takes pieces (at most a row of a document each) at random, of each source in
proportion to its tokens, so that the loss is an unbiased estimate of that of all held-out text. The
choice depends on the seed, the documents and the settings only: base and tuned model, every
validation and every process score the same tokens. ``cwgpt evaluate`` scores all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .rows.packing import PackedRows, lay_out
from .rows.pieces import Pieces, cut
from .rows.tokens import TokenizedDocuments


@dataclass(frozen=True)
class HeldOut:
    """What validations score.

    Attributes:
        rows: The packed rows.
        tokens: The held-out tokens that are targets, each document's end counted as one.
        scored: Those of them that are in the rows.
    """

    rows: PackedRows
    tokens: int
    scored: int

    def to_dict(self) -> dict[str, Any]:
        """The counts, ready for JSON."""
        return {"tokens": self.tokens, "scored": self.scored}


def held_out_rows(
    tokens: TokenizedDocuments,
    sources: Sequence[str],
    *,
    most: int | None,
    max_length: int,
    bos_id: int,
    eos_id: int,
    mask_prompt: bool = False,
    seed: int = 0,
) -> HeldOut:
    """Pack held-out documents, or a part of them.

    Args:
        tokens: The ids of the documents.
        sources: [documents] the source of each.
        most: Tokens to be scored, at most about so many (a piece of each source always is);
            without it, all.
        max_length: Positions in a row.
        bos_id: The token that a document begins with.
        eos_id: The token that a document ends with.
        mask_prompt: Leave prompts out of the targets.
        seed: Which pieces are taken, and which share a row.
    """
    pieces = cut(tokens, max_length=max_length, mask_prompt=mask_prompt)
    total = int(pieces.target_counts(tokens, mask_prompt).sum())
    if most is not None and total > most:
        pieces = pieces.take(_part(pieces, sources, most / total, seed))
    plan = lay_out(
        tokens,
        pieces,
        max_length=max_length,
        bos_id=bos_id,
        eos_id=eos_id,
        mask_prompt=mask_prompt,
        seed=seed,
    )
    scored = int(pieces.target_counts(tokens, mask_prompt).sum())
    return HeldOut(plan.take(slice(None)), total, scored)


def _part(
    pieces: Pieces, sources: Sequence[str], share: float, seed: int
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Numbers of random pieces that hold a share of each source's tokens, one of each at least."""
    names = {name: number for number, name in enumerate(dict.fromkeys(sources))}
    belongs = np.array([names[name] for name in sources], dtype=np.int64)[pieces.documents]
    chosen = [np.zeros(0, dtype=np.int64)]
    for number in names.values():
        own = np.flatnonzero(belongs == number)
        own = own[np.random.default_rng([seed, number]).permutation(len(own))]
        # A piece that is nothing but an end of text says nothing of a source by itself.
        own = own[np.argsort(pieces.lengths[own] == 1, kind="stable")]
        sums = np.cumsum(pieces.lengths[own])
        fitting = int(np.searchsorted(sums, share * sums[-1], side="right")) if len(own) else 0
        chosen.append(own[: max(1, fitting)])
    return np.sort(np.concatenate(chosen))
