"""Validation loss: deterministic, without dropout, weighted by tokens, end-of-text apart."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from ..data.rows.packing import IGNORE, PackedRows
from ..distributed import SINGLE_PROCESS, ProcessGroup
from ..models.loaded_model import LoadedModel
from ..models.scoring import token_nll


@dataclasses.dataclass(frozen=True)
class Validation:
    """Losses in nats a token."""

    loss: float
    eos_loss: float | None
    domains: dict[str, float]

    @property
    def perplexity(self) -> float:
        """Exp of the loss, kept finite for a model that has broken down."""
        return math.exp(min(self.loss, 700.0))


def validate(
    writer: LoadedModel,
    rows: PackedRows,
    domains: np.ndarray,
    names: list[str],
    batch_size: int,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Validation:
    """Score held-out rows.

    Args:
        writer: The model.
        rows: Packed validation documents.
        domains: Index into ``names`` for each document.
        names: Names of the domains.
        batch_size: Rows a forward pass; it does not change the result.
        group: The processes that share the rows.

    Returns:
        Losses over text tokens, over end-of-text tokens, and over text tokens by domain.
    """
    writer.model.eval()
    mine = slice(group.rank, None, group.size)
    part, nll = rows.take(mine), np.zeros(rows.targets.shape, dtype=np.float64)
    if len(part):
        nll[mine] = token_nll(writer, part, batch_size)
    nll = group.all_reduce(nll)
    scored = rows.targets != IGNORE
    text = scored & ~rows.is_eos
    ends = scored & rows.is_eos
    if not text.any():
        text = scored
    by_domain: dict[str, float] = {}
    domain_of = np.where(rows.document_ids >= 0, domains[rows.document_ids], -1)
    for index, name in enumerate(names):
        chosen = text & (domain_of == index)
        if chosen.any():
            by_domain[name] = float(nll[chosen].sum() / chosen.sum())
    return Validation(
        loss=float(nll[text].sum() / text.sum()),
        eos_loss=float(nll[ends].sum() / ends.sum()) if ends.any() else None,
        domains=by_domain,
    )
