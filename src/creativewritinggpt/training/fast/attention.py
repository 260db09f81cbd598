"""Causal attention document by document, in blocks of queries, forward and backward.

    keys →      ■ . .      A block of queries meets the keys up to its own end only, so that half of
    queries     ■ ■ .      the work between distant blocks is never done; within the last block of
       ↓        ■ ■ ■      keys a small mask hides the later ones.

The probabilities are kept for the backward pass, which then takes less than torch's fused kernel
that computes them again. What it trades away: memory grows with the square of a document's length,
so long documents take the fused kernel, and so do short ones, for which it is faster. Heads that
share keys and values (grouped-query attention) read them repeated, and their gradients are summed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .varlen import Group

BLOCK = 128
"""Queries in a block."""

IN_BLOCKS = range(129, 1025)
"""Lengths of the documents that are taken in blocks."""

_fused: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_fused_backward: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclasses.dataclass(frozen=True)
class Heads:
    """How the columns of the joined projection are cut.

    Attributes:
        queries: Query heads.
        keys: Key and value heads; ``queries`` is a multiple of it.
        size: Columns of a head.
        scale: What the products of queries and keys are multiplied by.
    """

    queries: int
    keys: int
    size: int
    scale: float

    @property
    def all(self) -> int:
        """Heads of queries, keys and values."""
        return self.queries + 2 * self.keys

    def split(self, qkv: Tensor, group: Group) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of a group; each ``[documents, heads, length, size]``."""
        part = qkv[group.tokens].view(group.count, group.length, self.all, self.size)
        sizes = [self.queries, self.keys, self.keys]
        q, k, v = torch.split(part.transpose(1, 2), sizes, dim=1)
        times = self.queries // self.keys
        if times > 1:
            k, v = (x.repeat_interleave(times, dim=1) for x in (k, v))
        return q, k, v

    def rows(self, x: Tensor, group: Group) -> Tensor:
        """The query heads' columns of a group, ``[documents, heads, length, size]``."""
        shape = (group.count, group.length, self.queries, self.size)
        return x[group.tokens].view(shape).transpose(1, 2)

    def stack(self, x: Tensor) -> Tensor:
        """Documents and heads as one dimension: ``[documents × heads, length, size]``."""
        return x.reshape(-1, x.shape[2], self.size)


def attend(qkv: Tensor, groups: Sequence[Group], heads: Heads) -> tuple[Tensor, list[Tensor]]:
    """Attention within each document.

    Args:
        qkv: ``[tokens, all heads × size]``.
        groups: The documents.
        heads: How the columns are cut.

    Returns:
        ``[tokens, query heads × size]``, and what the backward pass needs: for each group the
        probabilities of its blocks, or the logarithms of the softmax's sums.
    """
    mixed = qkv.new_empty(len(qkv), heads.queries * heads.size)
    kept: list[Tensor] = []
    for group in groups:
        q, k, v = heads.split(qkv, group)
        if group.length not in IN_BLOCKS:
            out, log_sum = _fused(q, k, v, 0.0, True, scale=heads.scale)
            kept.append(log_sum)
            heads.rows(mixed, group).copy_(out)
            continue
        q, k, v = heads.stack(q), heads.stack(k), heads.stack(v)
        out = torch.empty_like(q)
        for start in range(0, group.length, BLOCK):
            end = min(start + BLOCK, group.length)
            scores = torch.bmm(q[:, start:end], k[:, :end].transpose(1, 2)).mul_(heads.scale)
            scores[:, :, start:].add_(_later(end - start, scores))
            # Each row is read whole before it is written.
            probabilities = torch.softmax(scores, -1, out=scores)
            out[:, start:end] = torch.bmm(probabilities, v[:, :end])
            kept.append(probabilities)
        heads.rows(mixed, group).copy_(out.view(group.count, heads.queries, group.length, -1))
    return mixed, kept


def attend_backward(
    d_mixed: Tensor,
    qkv: Tensor,
    mixed: Tensor,
    kept: Sequence[Tensor],
    groups: Sequence[Group],
    heads: Heads,
) -> Tensor:
    """The gradient of :func:`attend` with respect to ``qkv``."""
    d_qkv = torch.empty_like(qkv)
    given = iter(kept)
    for group in groups:
        q, k, v = heads.split(qkv, group)
        out, d_out = heads.rows(mixed, group), heads.rows(d_mixed, group)
        if group.length not in IN_BLOCKS:
            gradients = _fused_backward(
                d_out, q, k, v, out, next(given), 0.0, True, scale=heads.scale
            )
        else:
            q, k, v, out, d_out = (heads.stack(x) for x in (q, k, v, out, d_out))
            gradients = tuple(
                x.view(group.count, heads.queries, group.length, heads.size)
                for x in _blocks_backward(q, k, v, out, d_out, given, heads.scale)
            )
        _put(d_qkv, gradients, group, heads)
    return d_qkv


def _blocks_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    d_out: Tensor,
    kept: Iterator[Tensor],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values; all ``[documents × heads, length, size]``."""
    dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    # With p = softmax(s):  ds = p · (dp − Σ p dp), and Σ p dp = Σ out · d_out.
    shared = (out * d_out).sum(-1, keepdim=True)
    for start in range(0, q.shape[1], BLOCK):
        end = min(start + BLOCK, q.shape[1])
        block, keys = slice(start, end), slice(0, end)
        probabilities, d_block = next(kept), d_out[:, block]
        dv[:, keys] += torch.bmm(probabilities.transpose(1, 2), d_block)
        d_scores = torch.bmm(d_block, v[:, keys].transpose(1, 2))
        d_scores.sub_(shared[:, block]).mul_(probabilities).mul_(scale)
        dq[:, block] = torch.bmm(d_scores, k[:, keys])
        dk[:, keys] += torch.bmm(d_scores.transpose(1, 2), q[:, block])
    return dq, dk, dv


def _put(d_qkv: Tensor, gradients: Sequence[Tensor], group: Group, heads: Heads) -> None:
    """Write the gradients of a group where its columns are."""
    dq, dk, dv = gradients
    times = heads.queries // heads.keys
    if times > 1:
        dk, dv = (
            x.reshape(group.count, heads.keys, times, group.length, heads.size).sum(2)
            for x in (dk, dv)
        )
    place = d_qkv[group.tokens].view(group.count, group.length, heads.all, heads.size)
    parts = torch.split(place, [heads.queries, heads.keys, heads.keys], dim=2)
    for part, value in zip(parts, (dq, dk, dv), strict=True):
        part.copy_(value.transpose(1, 2))


def _later(size: int, like: Tensor) -> Tensor:
    """−∞ where a key comes after its query, else 0; ``[size, size]``."""
    return torch.full((size, size), -torch.inf, dtype=like.dtype, device=like.device).triu_(1)
