"""Passes of a prefix cache by our own forward pass in fp32, on the weights of the light form.

A session and the studio write without the transformers model, whose import and building take
seconds. A short answer about a word (:mod:`.why`) needs no gradients and no attention weights, so
that it is computed on the same merged weights that writing uses, in fp32.

Trade-off: a second way beside that of transformers' modules (:mod:`.prefix_cache`), with the same
numbers but for rounding. A session's first answer waits for no import (figures:
docs/performance.md), and the light form stays: afterwards nothing is packed and read again.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..devices import memory
from ..models.forward.families import FAMILIES, Forward
from ..models.forward.weights import Unsupported
from ..models.scoring import Head

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel

# Of the free memory, how much passes take.
_SHARE = 0.5
# Tensors of a layer that live at once, in widths of the model.
_WIDTHS = 40
# The forward pass of the model that was asked last, by the state of its weights and adapters.
_KEPT: weakref.WeakKeyDictionary[Any, tuple[tuple[Any, ...], Forward]] = weakref.WeakKeyDictionary()

KeysValues = tuple[Tensor, Tensor]


def native_passes(model: LoadedModel) -> NativePasses | None:
    """The passes of a model in its light form that computes in fp32; None for any other."""
    weights = model.files
    if weights is None or model.device.precision != "fp32":
        return None
    state = weights.state()
    known = _KEPT.get(weights.owner)
    if known is None or known[0] != state:
        try:
            with torch.inference_mode():
                known = state, FAMILIES[weights.config.model_type](weights, "fp32")
        except (KeyError, Unsupported):
            return None
        _KEPT[weights.owner] = known
    return NativePasses(known[1])


class NativePasses:
    """Passes over variants of a text.

    Args:
        forward: In fp32.

    Attributes:
        head: The output head, of the states that the passes give.
    """

    def __init__(self, forward: Forward) -> None:
        matrix: Any = forward.head
        self.head = Head(matrix.weight, matrix.bias)
        self._forward = forward
        self._layers: list[KeysValues] = []

    def read(self, ids: Tensor) -> Tensor:
        """Read a text ``[tokens]`` and keep its keys and values; states ``[tokens, width]``."""
        attention = _BranchAttention(1, len(ids), [], 0, None)
        states = self._states(ids[None], 0, attention)
        self._layers = [(keys[0], values[0]) for keys, values in attention.made]
        return states[0]

    def branch(self, ids: Tensor, begin: int, wanted: Tensor) -> Tensor:
        """States ``[rows, places, width]``; see :meth:`.prefix_cache.PrefixCache.branch`."""
        rows, tokens = ids.shape
        attention = _BranchAttention(rows, tokens, self._layers, begin, wanted)
        return self._states(ids, begin, attention)

    def most_rows(self, tokens: int) -> int:
        """How many rows of so many tokens fit in memory at once, at least 1."""
        vocabulary, width = self.head.weight.shape
        needed = 4 * _WIDTHS * width * tokens + 12 * vocabulary
        return max(1, int(memory()[1] * _SHARE / needed))

    @torch.inference_mode()
    def _states(self, ids: Tensor, begin: int, attention: _BranchAttention) -> Tensor:
        rows, tokens = ids.shape
        positions = torch.arange(begin, begin + tokens).repeat(rows)
        states = self._forward.before_head(
            self._forward.hidden(ids.reshape(-1), positions, attention)
        )
        return states.view(rows, -1, states.shape[-1])


class _BranchAttention:
    """Attention of rows of the same length that go on from the same prefix.

    Args:
        rows: Their number.
        tokens: New tokens of each.
        prefix: Keys and values ``[heads, tokens, size]`` of each layer of the text.
        begin: Tokens of it that they share.
        wanted: Places in a row whose states are wanted; None for all.
    """

    def __init__(
        self,
        rows: int,
        tokens: int,
        prefix: Sequence[KeysValues],
        begin: int,
        wanted: Tensor | None,
    ) -> None:
        self.rows, self.tokens, self.begin = rows, tokens, begin
        self.prefix = prefix
        self.places = wanted
        self.mask = torch.ones(tokens, begin + tokens, dtype=torch.bool).tril(begin)
        # The pass's own keys and values of each layer, where all states are wanted.
        self.made: list[KeysValues] = []

    def wanted(self, x: Tensor) -> Tensor:
        """The wanted places of each row, row after row."""
        if self.places is None:
            return x
        by_row = x.view(self.rows, self.tokens, *x.shape[1:])
        return by_row[:, self.places].flatten(0, 1)

    def __call__(self, layer: int, query: Tensor, new: Tensor) -> Tensor:
        """See :class:`~..models.forward.families.Attention`."""
        heads, size = query.shape[1:]
        queries = query.view(self.rows, -1, heads, size).transpose(1, 2)
        own = new.view(self.rows, self.tokens, 2, -1, size).permute(2, 0, 3, 1, 4)
        keys, values = own[0], own[1]
        if self.begin:
            keys, values = (
                torch.cat([part[:, : self.begin].expand(self.rows, -1, -1, -1), mine], 2)
                for part, mine in zip(self.prefix[layer], own, strict=True)
            )
        if self.places is None:
            self.made.append((keys, values))
        mask = self.mask if queries.shape[2] == self.tokens else self.mask[self.places]
        mixed = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, enable_gqa=heads > keys.shape[1]
        )
        return mixed.transpose(1, 2).reshape(-1, heads * size)
