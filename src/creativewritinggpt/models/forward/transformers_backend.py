"""The backend for every causal model of transformers, with or without an adapter.

It calls the model as it is, so it is also the reference for the faster backends. Rows of different
lengths share the cache's columns; a column that a row does not use is masked, and positions are
counted per row.

Trade-off: the library's cache grows by copying, and masks are built at each step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from transformers import DynamicCache


class TransformersBackend:
    """Any ``PreTrainedModel`` or ``PeftModel`` for causal language modelling.

    Args:
        model: The model.
        autocast: A context to call it in, for another precision than that of its weights.
    """

    name = "transformers"

    def __init__(
        self,
        model: Any,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.model = model
        self.autocast = autocast
        self.vocabulary = int(model.config.vocab_size)
        self.device = next(model.parameters()).device

    def read(self, ids: Sequence[int], capacity: int) -> tuple[TransformersContext, torch.Tensor]:
        """A context that has read ``ids``, and ``[1, vocabulary]`` logits after the last."""
        context = self.start(capacity)
        return context, context.prefill(ids)

    def start(self, capacity: int) -> TransformersContext:
        """An empty context of one row; this cache needs no capacity."""
        return TransformersContext(self, DynamicCache(), torch.ones(1, 0, dtype=torch.bool))

    def join(self, contexts: Sequence[TransformersContext]) -> TransformersContext:
        """One context with the rows of all of ``contexts``: shorter ones get masked columns."""
        width = max(context.used.shape[1] for context in contexts)
        cache = DynamicCache()
        for layer in range(max(len(context.cache.layers) for context in contexts)):
            keys, values = [], []
            for context in contexts:
                missing = width - context.used.shape[1]
                part = context.cache.layers[layer]
                keys.append(torch.nn.functional.pad(part.keys, (0, 0, missing, 0)))
                values.append(torch.nn.functional.pad(part.values, (0, 0, missing, 0)))
            cache.update(torch.cat(keys), torch.cat(values), layer)
        used = torch.cat(
            [
                torch.nn.functional.pad(context.used, (width - context.used.shape[1], 0))
                for context in contexts
            ]
        )
        return TransformersContext(self, cache, used)


class TransformersContext:
    """Rows that a model of transformers has read.

    Args:
        backend: Whose model reads.
        cache: Keys and values, all rows with the same number of columns.
        used: bool ``[rows, columns]``: whether the column holds a token of the row.
    """

    def __init__(self, backend: TransformersBackend, cache: Any, used: torch.Tensor) -> None:
        self.backend = backend
        self.cache = cache
        self.used = used

    @property
    def lengths(self) -> list[int]:
        """Tokens read, for each row."""
        return [int(length) for length in self.used.sum(1)]

    def prefill(self, ids: Sequence[int]) -> torch.Tensor:
        """Read ``ids`` after what the only row holds; ``[1, vocabulary]`` logits."""
        return self._read(torch.tensor([list(ids)]))

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Read one more token in each row; ``[rows, vocabulary]`` logits."""
        return self._read(torch.tensor([[token] for token in tokens]))

    def _read(self, ids: torch.Tensor) -> torch.Tensor:
        rows, count = ids.shape
        lengths = self.used.sum(1, keepdim=True)
        self.used = torch.cat([self.used, torch.ones(rows, count, dtype=torch.bool)], 1)
        device = self.backend.device
        with torch.inference_mode(), self.backend.autocast():
            output = self.backend.model(
                input_ids=ids.to(device),
                position_ids=(lengths + torch.arange(count)).to(device),
                attention_mask=self.used.long().to(device),
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        logits: torch.Tensor = output.logits[:, -1].float().cpu()
        return logits

    def fork(self, rows: Sequence[int], capacity: int | None = None) -> TransformersContext:
        """A context of its own with copies of ``rows``; this cache needs no capacity."""
        index = torch.tensor(list(rows))
        used = self.used[index]
        # Columns that no chosen row uses are not copied.
        columns = used.any(0)
        cache = DynamicCache()
        for number, layer in enumerate(self.cache.layers):
            where = index.to(layer.keys.device)
            keys, values = layer.keys[where], layer.values[where]
            if not bool(columns.all()):
                kept = columns.to(keys.device)
                keys, values = keys[:, :, kept], values[:, :, kept]
            cache.update(keys, values, number)
        return TransformersContext(self.backend, cache, used[:, columns])

    def truncate(self, row: int, length: int) -> None:
        """Forget all but the first ``length`` tokens of ``row``."""
        columns = self.used[row].nonzero().flatten()
        self.used[row, columns[length:]] = False
        filled = self.used.any(0).nonzero()
        width = int(filled[-1]) + 1 if len(filled) else 0
        if width < self.used.shape[1]:
            self.used = self.used[:, :width]
            for layer in self.cache.layers:
                layer.keys = layer.keys[:, :, :width]
                layer.values = layer.values[:, :, :width]
