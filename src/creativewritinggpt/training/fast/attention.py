"""Causal attention of documents laid end to end (varlen attention), forward and backward.

    rows      a a a b b .          end to end   a a a  c c c  b b      (little padding)
              c c c . . .          groups       [2 × 3]       [1 × 2]

Documents of one length form a group, a plain view ``[documents, heads, length, size]`` of the list
of tokens, so attention needs neither copies nor a mask between documents. Within a document it
works in blocks of queries:

    keys →      ■ . .      A block of queries meets only the keys up to its own end, so half of the
    queries     ■ ■ .      products are never made; a mask is needed only in the diagonal blocks.
       ↓        ■ ■ ■

Trade-off: the probabilities are kept for the backward pass, which is faster than recomputing them
as torch's fused kernel does, but takes memory with the square of the length; so the fused kernel
takes long documents, and short ones, for which it is faster.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data.rows.packing import PackedRows

BLOCK = 128
"""Queries per block."""

IN_BLOCKS = range(129, 1025)
"""Lengths of documents that are attended in blocks."""

_fused: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_fused_backward: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclasses.dataclass(frozen=True)
class Group:
    """Documents of one length, one after another in the list of tokens.

    Attributes:
        start: Index of the first token.
        count: Number of documents.
        length: Tokens per document.
    """

    start: int
    count: int
    length: int

    @property
    def tokens(self) -> slice:
        """Indices of their tokens."""
        return slice(self.start, self.start + self.count * self.length)


@dataclasses.dataclass(frozen=True)
class Documents:
    """Tokens of a micro-batch, without most of the padding.

    Attributes:
        input_ids: ``[tokens]``.
        targets: ``[tokens]``, ``IGNORE`` where there is none.
        position_ids: ``[tokens]``, from 0 in each document.
        places: ``[tokens]``, index of each in the flattened rows.
        groups: Documents by length, in order; then one of padding, where there is any.
    """

    input_ids: Tensor
    targets: Tensor
    position_ids: Tensor
    places: Tensor
    groups: tuple[Group, ...]


def end_to_end(rows: PackedRows, multiple: int = 1) -> Documents:
    """Documents of packed rows end to end, longest first.

    Args:
        rows: Packed rows; the documents of a row are numbered in order in ``segment_ids``.
        multiple: What the number of tokens is to be a multiple of; as much padding is kept, as a
            document without targets, where there is enough.
    """
    width = rows.segment_ids.shape[1]
    # A number per document of each row, 0 in the padding.
    segments = rows.segment_ids.astype(np.int64)
    keys = np.where(segments > 0, segments + np.arange(len(segments))[:, None] * (width + 1), 0)
    flat = keys.reshape(-1)
    places = np.flatnonzero(flat)
    starts = np.flatnonzero(np.diff(flat[places], prepend=-1))
    lengths = np.diff(np.append(starts, len(places)))
    order = np.argsort(-lengths, kind="stable")
    # Index of each token of the sorted documents in the flattened rows.
    ends = np.cumsum(lengths[order])
    within = np.arange(len(places)) - np.repeat(ends - lengths[order], lengths[order])
    chosen = places[np.repeat(starts[order], lengths[order]) + within]
    sizes, counts = np.unique(lengths, return_counts=True)
    groups, start = [], 0
    for size, count in zip(sizes[::-1].tolist(), counts[::-1].tolist(), strict=True):
        groups.append(Group(start, count, size))
        start += size * count
    padding = np.flatnonzero(flat == 0)[: -start % multiple]
    if len(padding):
        groups.append(Group(start, 1, len(padding)))
        chosen = np.concatenate([chosen, padding])
    return Documents(
        input_ids=torch.from_numpy(rows.input_ids.reshape(-1)[chosen]),
        targets=torch.from_numpy(rows.targets.reshape(-1)[chosen]),
        position_ids=torch.from_numpy(rows.position_ids.reshape(-1)[chosen]),
        places=torch.from_numpy(chosen),
        groups=tuple(groups),
    )


@dataclasses.dataclass(frozen=True)
class Heads:
    """Layout of the columns of the query-key-value projection.

    Attributes:
        queries: Number of query heads.
        keys: Number of key heads and of value heads; divides ``queries`` (grouped-query attention).
        size: Columns per head.
        scale: Factor of the scores.
    """

    queries: int
    keys: int
    size: int
    scale: float

    @property
    def all(self) -> int:
        """Number of query, key and value heads."""
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
        """View of a group's query-head columns, ``[documents, heads, length, size]``."""
        shape = (group.count, group.length, self.queries, self.size)
        return x[group.tokens].view(shape).transpose(1, 2)

    def stack(self, x: Tensor) -> Tensor:
        """Documents and heads as one dimension: ``[documents × heads, length, size]``."""
        return x.reshape(-1, x.shape[2], self.size)


def attend(qkv: Tensor, groups: Sequence[Group], heads: Heads) -> tuple[Tensor, list[Tensor]]:
    """Causal attention within each document.

    Args:
        qkv: ``[tokens, all heads × size]``.
        groups: The documents.
        heads: Layout of the columns.

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
        q, k, v = heads.stack(q) * heads.scale, heads.stack(k), heads.stack(v)
        out = torch.empty_like(q)
        for start in range(0, group.length, BLOCK):
            end = min(start + BLOCK, group.length)
            scores = torch.bmm(q[:, start:end], k[:, :end].transpose(1, 2))
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
    scaled = q * scale
    for start in range(0, q.shape[1], BLOCK):
        end = min(start + BLOCK, q.shape[1])
        block, keys = slice(start, end), slice(0, end)
        probabilities, d_block = next(kept), d_out[:, block]
        dv[:, keys] += torch.bmm(probabilities.transpose(1, 2), d_block)
        d_scores = torch.bmm(d_block, v[:, keys].transpose(1, 2))
        d_scores.sub_(shared[:, block]).mul_(probabilities)
        dq[:, block] = torch.bmm(d_scores, k[:, keys])
        dk[:, keys] += torch.bmm(d_scores.transpose(1, 2), scaled[:, block])
    return dq.mul_(scale), dk, dv


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
