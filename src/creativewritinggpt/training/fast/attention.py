"""Causal attention of documents laid end to end (varlen attention), forward and backward.

    rows      a a a b b .          end to end   a a a  c c c  b b      (little padding)
              c c c . . .          groups       [2 × 3]       [1 × 2]

Documents of one length form a group, a plain view of the list of tokens, so attention needs no mask
between documents. Within a document it works in blocks of queries; those that share a key
(grouped-query attention) are rows of one product:

    keys →      ■ . .      A block of queries meets only the keys up to its own end, so half of the
    queries     ■ ■ .      products are never made; a mask is needed only in the diagonal blocks.
       ↓        ■ ■ ■

Trade-off: the probabilities are kept for the backward pass, which is faster than recomputing them
as torch's fused kernel does, but takes memory with the square of the length; so the fused kernel
takes long documents.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data.rows.packing import PackedRows

BLOCK = 128
"""Queries per block."""

IN_BLOCKS = range(1, 1025)
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

    def parts(self, qkv: Tensor, group: Group) -> tuple[Tensor, Tensor, Tensor]:
        """Views of a group's queries, keys and values.

        Returns:
            ``[documents, length, keys, queries / keys, size]``, and twice
            ``[documents, length, keys, size]``.
        """
        all_heads = qkv[group.tokens].view(group.count, group.length, self.all, self.size)
        q, k, v = torch.split(all_heads, [self.queries, self.keys, self.keys], dim=2)
        return q.view(*q.shape[:2], self.keys, -1, self.size), k, v

    def mixed(self, x: Tensor, group: Group) -> Tensor:
        """View of a group's ``[tokens, query heads × size]`` in the shape of the queries."""
        shape = (group.count, group.length, self.keys, self.queries // self.keys, self.size)
        return x[group.tokens].view(shape)


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
        q, k, v = heads.parts(qkv, group)
        out = heads.mixed(mixed, group)
        if group.length not in IN_BLOCKS:
            found, log_sum = _fused(*_per_query(q, k, v), 0.0, True, scale=heads.scale)
            kept.append(log_sum)
            out.copy_(found.transpose(1, 2).view_as(out))
            continue
        k, v = _by_head(k), _by_head(v)
        for block in _blocks(group.length):
            queries = _rows(q[:, block]).mul_(heads.scale)
            scores = torch.bmm(queries, k[:, : block.stop].transpose(1, 2))
            # The queries that share a key stand below each other.
            mask = _later(block.stop - block.start, scores)
            diagonal = scores.view(len(k), -1, *mask.shape[:1], block.stop)[..., block.start :]
            diagonal.add_(mask)
            # Each row is read whole before it is written.
            probabilities = torch.softmax(scores, -1, out=scores)
            _put_rows(out[:, block], torch.bmm(probabilities, v[:, : block.stop]))
            kept.append(probabilities)
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
        parts, d_parts = heads.parts(qkv, group), heads.parts(d_qkv, group)
        out, d_out = heads.mixed(mixed, group), heads.mixed(d_mixed, group)
        if group.length in IN_BLOCKS:
            probabilities = [next(given) for _ in _blocks(group.length)]
            _blocks_backward(parts, d_parts, out, d_out, probabilities, heads.scale)
        else:
            _fused_backward_into(parts, d_parts, out, d_out, next(given), heads.scale)
    return d_qkv


Parts = tuple[Tensor, Tensor, Tensor]


def _blocks_backward(
    parts: Parts, d_parts: Parts, out: Tensor, d_out: Tensor, kept: Sequence[Tensor], scale: float
) -> None:
    """Write the gradients of a group's queries, keys and values into ``d_parts``."""
    q, k, v = parts[0], _by_head(parts[1]), _by_head(parts[2])
    dk, dv = torch.zeros_like(k), torch.zeros_like(v)
    for block, probabilities in zip(_blocks(q.shape[1]), kept, strict=True):
        keys, d_block = slice(0, block.stop), _rows(d_out[:, block])
        # With p = softmax(s):  ds = p · (dp − Σ p dp), and Σ p dp = Σ out · d_out.
        shared = (_rows(out[:, block]) * d_block).sum(-1, keepdim=True)
        d_scores = torch.bmm(d_block, v[:, keys].transpose(1, 2))
        d_scores.sub_(shared).mul_(probabilities)
        dv[:, keys].baddbmm_(probabilities.transpose(1, 2), d_block)
        dk[:, keys].baddbmm_(d_scores.transpose(1, 2), _rows(q[:, block]))
        _put_rows(d_parts[0][:, block], torch.bmm(d_scores, k[:, keys]).mul_(scale))
    for place, value in ((d_parts[1], dk.mul_(scale)), (d_parts[2], dv)):
        place.copy_(value.view(len(place), -1, *value.shape[1:]).transpose(1, 2))


def _fused_backward_into(
    parts: Parts, d_parts: Parts, out: Tensor, d_out: Tensor, log_sum: Tensor, scale: float
) -> None:
    """The same where the fused kernel has read the group."""
    gradients = _fused_backward(
        d_out.flatten(2, 3).transpose(1, 2), *_per_query(*parts),
        out.flatten(2, 3).transpose(1, 2), log_sum, 0.0, True, scale=scale,
    )  # fmt: skip
    dq, dk, dv = (one.transpose(1, 2).reshape(out.shape) for one in gradients)
    d_parts[0].copy_(dq)
    d_parts[1].copy_(dk.sum(3))
    d_parts[2].copy_(dv.sum(3))


def _blocks(length: int) -> list[slice]:
    """Blocks of queries."""
    return [slice(start, min(start + BLOCK, length)) for start in range(0, length, BLOCK)]


def _by_head(x: Tensor) -> Tensor:
    """Keys or values with documents and heads as one dimension: ``[·, length, size]``."""
    return x.transpose(1, 2).reshape(-1, x.shape[1], x.shape[3])


def _rows(q: Tensor) -> Tensor:
    """A copy of queries with those that share a key below each other: ``[·, rows, size]``."""
    documents, length, keys, times, size = q.shape
    rows = q.new_empty(documents * keys, times * length, size)  # reshape would not always copy
    rows.view(documents, keys, times, length, size).copy_(q.permute(0, 2, 3, 1, 4))
    return rows


def _put_rows(place: Tensor, rows: Tensor) -> None:
    """What :func:`_rows` gives back into the shape of the queries."""
    documents, length, keys, times, size = place.shape
    place.copy_(rows.view(documents, keys, times, length, size).permute(0, 3, 1, 2, 4))


def _per_query(q: Tensor, k: Tensor, v: Tensor) -> Parts:
    """As the fused kernel takes them, ``[documents, query heads, length, size]``."""
    times = q.shape[3]
    if times > 1:
        k, v = (x.repeat_interleave(times, dim=2) for x in (k, v))
    return q.flatten(2, 3).transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def _later(size: int, like: Tensor) -> Tensor:
    """−∞ where a key comes after its query, else 0; ``[size, size]``."""
    return torch.full((size, size), -torch.inf, dtype=like.dtype, device=like.device).triu_(1)
