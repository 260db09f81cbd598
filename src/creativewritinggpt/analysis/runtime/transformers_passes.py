"""Passes over variants of a text by transformers' own modules: any model, on any device.

The plain twin of :mod:`.native_passes`, and the way for models and devices that it doesn't know.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from ...models.loaded_model import LoadedModel
from ...models.scoring import body_and_head


class TransformersPasses:
    """A text that was read once, and rows that go on from somewhere in it.

    Args:
        writer: The model.
        exact: Compute in the weights' own precision, whatever the writer's.
    """

    def __init__(self, writer: LoadedModel, *, exact: bool) -> None:
        self.writer, self.exact = writer, exact
        self._body, _, _ = body_and_head(writer.model)
        self._layers: list[tuple[Tensor, Tensor]] = []

    def read(self, ids: Tensor, wanted: Tensor) -> Tensor:
        """Read a text; see :class:`~.suffixes.Passes`."""
        cache = DynamicCache()
        states = self._read(ids[None], cache)
        self._layers = [(layer.keys, layer.values) for layer in cache.layers]
        return states[0, wanted].float()

    def branch(self, ids: Tensor, begin: int, wanted: Tensor) -> Tensor:
        """Read rows that go on from ``begin``; see :class:`~.suffixes.Passes`."""
        prefix = [
            _Prefix(keys[:, :, :begin], values[:, :, :begin]) for keys, values in self._layers
        ]
        with _only_last_places(self.writer.bare, wanted):
            states = self._read(ids, DynamicCache() if begin == 0 else _cache_of(prefix))
        return states[:, wanted].float()

    def _read(self, ids: Tensor, cache: DynamicCache) -> Tensor:
        """Hidden states of ``ids`` after what the cache holds, ``[rows, tokens, width]``."""
        precision = contextlib.nullcontext() if self.exact else self.writer.device.autocast()
        # Not inference_mode: what a model keeps from a pass would be useless for training later.
        with torch.no_grad(), precision, _fused_activations(self.writer.bare):
            states: Tensor = self._body(input_ids=ids, past_key_values=cache, use_cache=True)
        return states


class _Prefix(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer, lent to a pass of any number of rows and never added to."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """The prefix before each row's own keys and values."""
        return _joined(self.keys, key_states), _joined(self.values, value_states)


def _joined(prefix: Tensor, own: Tensor) -> Tensor:
    return torch.cat([prefix.to(own.dtype).expand(len(own), -1, -1, -1), own], dim=-2)


def _cache_of(layers: list[_Prefix]) -> DynamicCache:
    cache = DynamicCache()
    cache.layers = list(layers)
    return cache


@contextlib.contextmanager
def _only_last_places(model: Any, wanted: Tensor) -> Iterator[None]:
    """The last layer's MLP at some places only: nobody reads what it makes of the others.

    Args:
        model: A model whose layers have an ``mlp`` each; others are left as they are.
        wanted: Places ``[places]`` in a row.
    """
    body = model.base_model
    layers = getattr(body, "h", None) or getattr(body, "layers", None)
    last = getattr(layers[-1], "mlp", None) if layers else None
    if last is None or "forward" in vars(last):
        yield
        return
    whole: Callable[[Tensor], Tensor] = last.forward

    def forward(states: Tensor) -> Tensor:
        if states.shape[1] == len(wanted):
            return whole(states)
        result = torch.zeros_like(states)
        some = whole(states[:, wanted])
        result[:, wanted] = some.to(result.dtype)
        return result

    last.forward = forward
    try:
        yield
    finally:
        del last.forward


@contextlib.contextmanager
def _fused_activations(model: Any) -> Iterator[None]:
    """GPT-2's activation as one operation: written out, it takes as long as a matrix product."""
    slow = [
        module
        for module in model.modules()
        if type(module).__name__ == "NewGELUActivation" and "forward" not in vars(module)
    ]
    for module in slow:
        module.forward = _gelu
    try:
        yield
    finally:
        for module in slow:
            del module.forward


def _gelu(values: Tensor) -> Tensor:
    return F.gelu(values, approximate="tanh")
