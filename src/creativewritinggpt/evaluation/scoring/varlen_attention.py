"""Causal attention of windows that lie end to end in a pass and see nothing of each other.

Each window is copied to a place of its own, so that its numbers don't depend on where in the pass
it lies. The price is these copies, and a call for each window.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def attend_apart(
    query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], scale: float | None = None
) -> Tensor:
    """What the tokens of each window take from those before them and themselves.

    Args:
        query: ``[1, heads, tokens, size]``.
        key: ``[1, key heads, tokens, size]``; ``heads`` is a multiple of the key heads.
        value: The same shape.
        lengths: Tokens of each window.
        scale: What the products of queries and keys are multiplied by; 1 / √size without it.

    Returns:
        ``[1, tokens, heads, size]``.
    """
    grouped = query.shape[1] > key.shape[1]
    results = []
    for q, k, v in zip(
        *(torch.split(part, list(lengths), dim=2) for part in (query, key, value)), strict=True
    ):
        found = F.scaled_dot_product_attention(
            q.contiguous(),
            k.contiguous(),
            v.contiguous(),
            is_causal=True,
            scale=scale,
            enable_gqa=grouped,
        )
        results.append(found.transpose(1, 2))
    return torch.cat(results, dim=1)
