"""Passes of a prefix cache by transformers' modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from ..models.loaded_model import LoadedModel
from ..models.scoring import body_and_head
from .forward import fused_gelu


class ModulePasses:
    """Passes over variants of a text.

    Args:
        model: The model, in ``eval()`` mode, and the precision of the passes.

    Attributes:
        head: The output head, of the states that the passes give.
    """

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self._body, self.head = body_and_head(model.model)
        self._layers: list[tuple[Tensor, Tensor]] = []

    def read(self, ids: Tensor) -> Tensor:
        """Read a text ``[tokens]`` and keep its keys and values; states ``[tokens, width]``."""
        cache = DynamicCache()
        states = self._read(ids[None], cache)
        self._layers = [(layer.keys, layer.values) for layer in cache.layers]
        return states[0]

    def branch(self, ids: Tensor, begin: int, wanted: Tensor) -> Tensor:
        """States ``[rows, places, width]``; see :meth:`.prefix_cache.PrefixCache.branch`."""
        cache = DynamicCache()
        if begin:
            cache.layers = [
                _Prefix(keys[:, :, :begin], values[:, :, :begin]) for keys, values in self._layers
            ]
        return self._read(ids, cache)[:, wanted]

    def _read(self, ids: Tensor, cache: DynamicCache) -> Tensor:
        """Hidden states of ``ids`` after what the cache holds, ``[rows, tokens, width]``."""
        # Not inference_mode: what a model keeps from a pass would be useless for training later.
        with torch.no_grad(), self.model.device.autocast(), fused_gelu(self.model):
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
        return _after(self.keys, key_states), _after(self.values, value_states)


def _after(prefix: Tensor, own: Tensor) -> Tensor:
    """Keys or values of a shared prefix before those of each row."""
    return torch.cat([prefix.to(own.dtype).expand(len(own), -1, -1, -1), own], dim=-2)
