"""Keys and values of the tokens read so far, in memory that is allocated once.

One tensor holds all layers; a step writes one column of it and reads the columns so far as views,
so nothing is allocated or moved. Rows of the same length are attended to together, rows of
different lengths one after the other: a row's numbers never depend on its neighbours' lengths.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class KeyValueCache:
    """Keys and values of a few rows.

    Args:
        layers: Layers of the model.
        heads: Key and value heads per layer.
        size: Width of a head.
        rows: Number of texts.
        capacity: Tokens per row at most.
        dtype: Of the entries.
    """

    def __init__(
        self, layers: int, heads: int, size: int, rows: int, capacity: int, dtype: torch.dtype
    ) -> None:
        self.heads = heads
        self.capacity = capacity
        # [layer, keys then values, row, head, token, size]: the keys of a layer lie in one piece.
        self.entries = torch.empty(layers, 2, rows, heads, capacity, size, dtype=dtype)

    def copy(self, rows: Sequence[int], lengths: Sequence[int], capacity: int) -> KeyValueCache:
        """A cache of its own with some of the rows."""
        layers, _, _, heads, _, size = self.entries.shape
        other = KeyValueCache(layers, heads, size, len(rows), capacity, self.entries.dtype)
        for new, old in enumerate(rows):
            other.take(new, self, old, min(lengths[new], capacity))
        return other

    def take(self, row: int, other: KeyValueCache, theirs: int, length: int) -> None:
        """Copy the first ``length`` tokens of another cache's row ``theirs`` into ``row``."""
        self.entries[:, :, row, :, :length] = other.entries[:, :, theirs, :, :length]


class PrefillAttention:
    """Attention of several new tokens of one row.

    Args:
        cache: A cache of one row.
        start: Tokens that it holds already.
        count: New tokens.
    """

    def __init__(self, cache: KeyValueCache, start: int, count: int) -> None:
        end = start + count
        self.heads = cache.heads
        self.new = cache.entries[:, :, 0, :, start:end]
        self.keys = cache.entries[:, 0, 0, :, :end]
        self.values = cache.entries[:, 1, 0, :, :end]
        self.mask = None
        if start:
            self.mask = torch.ones(count, end, dtype=torch.bool).tril(start)

    def wanted(self, x: Tensor) -> Tensor:
        """The last token's row: only the logits after it are used."""
        return x[-1:]

    def __call__(self, layer: int, query: Tensor, new: Tensor) -> Tensor:
        """Attend to the tokens before and the new tokens themselves.

        Args:
            layer: Its number.
            query: ``[tokens, query heads, size]``, or of the last token alone.
            new: ``[tokens, key heads then value heads, size]``.

        Returns:
            ``[tokens, query heads × size]``.
        """
        tokens, heads, size = query.shape
        self.new[layer] = new.view(-1, 2, self.heads, size).permute(1, 2, 0, 3)
        keys = self.keys[layer].to(query.dtype)  # the cache may be more exact than the products
        values = self.values[layer].to(query.dtype)
        mixed = F.scaled_dot_product_attention(
            query.transpose(0, 1).unsqueeze(0),
            keys.unsqueeze(0),
            values.unsqueeze(0),
            attn_mask=self.mask if tokens > 1 else None,
            is_causal=self.mask is None and tokens > 1,
            enable_gqa=heads > self.heads,
        )
        return mixed[0].transpose(0, 1).reshape(tokens, -1)


class DecodeAttention:
    """Attention of one new token in each of several rows.

    Args:
        cache: The rows' cache.
        lengths: Tokens that each row holds already.
    """

    def __init__(self, cache: KeyValueCache, lengths: Sequence[int]) -> None:
        self.heads = cache.heads
        groups: dict[int, list[int]] = {}
        for row, length in enumerate(lengths):
            groups.setdefault(length, []).append(row)
        self.parts = []
        for length, rows in groups.items():
            contiguous = rows[-1] - rows[0] == len(rows) - 1
            for some in [rows] if contiguous else [[row] for row in rows]:
                part = cache.entries[:, :, some[0] : some[-1] + 1]
                self.parts.append(
                    (
                        slice(some[0], some[-1] + 1),
                        part[:, :, :, :, length].unbind(0),
                        part[:, 0, :, :, : length + 1].unbind(0),
                        part[:, 1, :, :, : length + 1].unbind(0),
                    )
                )

    def wanted(self, x: Tensor) -> Tensor:
        """All rows."""
        return x

    def __call__(self, layer: int, query: Tensor, new: Tensor) -> Tensor:
        """Attend to each row's tokens, the new one included.

        Args:
            layer: Its number.
            query: ``[rows, query heads, size]``.
            new: ``[rows, key heads then value heads, size]``.

        Returns:
            ``[rows, query heads × size]``.
        """
        rows, _, size = query.shape
        # Query heads that share a key head stand where several queries of one head would.
        query = query.view(rows, self.heads, -1, size)
        new = new.view(rows, 2, self.heads, size).transpose(0, 1)
        if len(self.parts) == 1:
            _, column, keys, values = self.parts[0]
            column[layer].copy_(new)
            mixed = F.scaled_dot_product_attention(query, keys[layer], values[layer])
            return mixed.reshape(rows, -1)
        outcomes = []
        for where, column, keys, values in self.parts:
            column[layer].copy_(new[:, where])
            outcomes.append(
                F.scaled_dot_product_attention(query[where], keys[layer], values[layer])
            )
        order = [row for where, *_ in self.parts for row in range(where.start, where.stop)]
        mixed = torch.cat(outcomes)
        if order != sorted(order):
            mixed = mixed[torch.tensor(order).argsort()]
        return mixed.reshape(rows, -1)


Attention = PrefillAttention | DecodeAttention
