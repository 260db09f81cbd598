"""Many variants of one text through the model, computing only what differs from it.

A variant that changes the token at position i leaves everything before it as it was, so its pass
begins there, on the keys and values that one reading of the text has left::

    text       a b c d e        read once, keys and values kept
    variants       x d e        both begin at c and share a b
                   y d e

Rows of a pass begin at the same place and are equally long, so that nothing is padded; short ones
of neighbouring beginnings go together, since a product of few rows costs nearly as much as one of
many. Every pass carries the unchanged text along as one more row: what is reported is the
difference between rows of the same pass, in which rounding errors of bf16 largely cancel, and how
far that row lies from the first reading says how large they are. The price is the bookkeeping, and
one row more a pass.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from ..errors import InputError
from ..models.scoring import body_and_head
from ..models.writer import Writer
from .memory import in_batches, micro_batch

# Passes of fewer tokens are joined with their neighbours.
_WORTH_A_PASS = 192
# Tokens of a pass on a processor: more only leave its caches.
_TOKENS_ON_A_PROCESSOR = 1024
_MOST_ROWS = 4096


@dataclasses.dataclass(frozen=True)
class Pass:
    """What one pass made of some variants.

    Attributes:
        rows: Which variants, ``[rows]``.
        places: Which of the reading's ``indices`` the pass reaches, as a slice of them: what lies
            before its first changed token is untouched.
        states: Hidden states at those indices, float32 ``[rows, places, width]``.
        original: Those of the unchanged text in the same pass, float32 ``[places, width]``.
    """

    rows: np.ndarray
    places: slice
    states: Tensor
    original: Tensor


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


class Reading:
    """One reading of a text, on which passes over its variants are built.

    Args:
        writer: The model, in ``eval()`` mode; its adapter works unless this is made and used
            within ``writer.base()``.
        ids: The text as the model reads it, start token included.
        indices: Where predictions are wanted, in ascending order: index j predicts token j + 1.
        exact: Compute in the weights' own precision, whatever the writer's.

    Attributes:
        states: Hidden states at ``indices``, float32 ``[indices, width]``.

    Raises:
        InputError: An index lies outside the text.
    """

    def __init__(
        self, writer: Writer, ids: Sequence[int], indices: Sequence[int], *, exact: bool = False
    ) -> None:
        if not indices or indices[0] < 0 or indices[-1] >= len(ids):
            raise InputError(
                f"predictions {list(indices)} are asked of a text of {len(ids)} tokens",
                f"choose some from 0 to {len(ids) - 1}",
            )
        self.writer, self.exact = writer, exact
        self.ids = np.asarray(ids[: indices[-1] + 1], dtype=np.int64)
        self.indices = np.asarray(indices, dtype=np.int64)
        self._body, _, _ = body_and_head(writer.model)
        cache = DynamicCache()
        states = self._read(self.ids[None], cache)
        self._layers = [(layer.keys, layer.values) for layer in cache.layers]
        self.states = states[0, torch.as_tensor(self.indices, device=states.device)].float()

    @contextlib.contextmanager
    def precision(self) -> Iterator[None]:
        """The precision of the passes: the writer's, or that of the weights."""
        with contextlib.nullcontext() if self.exact else self.writer.device.autocast():
            yield

    def beginnings(self, variants: np.ndarray) -> np.ndarray:
        """Where each variant first differs, ``[variants]``; the text's length where nowhere."""
        differs = variants[:, : len(self.ids)] != self.ids
        return np.where(differs.any(1), differs.argmax(1), len(self.ids))

    def cost(self, variants: np.ndarray) -> int:
        """How many tokens the passes over ``variants`` read at least."""
        return int((len(self.ids) - self.beginnings(variants)).sum())

    def passes(
        self, variants: np.ndarray, progress: Callable[[int, int], None] | None = None
    ) -> Iterator[Pass]:
        """Hidden states of variants, in passes whose size the memory allows.

        Args:
            variants: ``[variants, tokens]``, in-place replacements: each as long as the text or
                longer, position for position.
            progress: Called with the tokens done and those to do.

        Yields:
            Each variant that can differ at one of the indices in exactly one pass.
        """
        beginnings = self.beginnings(variants)
        total, done = self.cost(variants), 0
        for group in self._groups(beginnings):
            begin = int(beginnings[group].min())
            size = self._size(begin)

            def work(start: int, stop: int, rows: np.ndarray = group, at: int = begin) -> Pass:
                return self._pass(variants, rows[start:stop], at)

            yield from in_batches(len(group), size, work)
            done += int((len(self.ids) - beginnings[group]).sum())
            if progress is not None:
                progress(done, total)

    def _size(self, begin: int) -> int:
        """Variants in a pass that begins there; the unchanged row comes on top."""
        tokens = len(self.ids) - begin
        most = _MOST_ROWS
        if self.writer.device.torch_device.type == "cpu":
            most = max(1, _TOKENS_ON_A_PROCESSOR // tokens)
        return max(1, micro_batch(self.writer, tokens, gradients=False, most=most) - 1)

    def _groups(self, beginnings: np.ndarray) -> Iterator[np.ndarray]:
        """Variants that go through the model together, the shortest suffixes first."""
        length = len(self.ids)
        order = np.argsort(-beginnings, kind="stable")
        order = order[beginnings[order] < length]
        group: list[int] = []
        for row in order.tolist():
            begin = int(beginnings[row])
            if group:
                start = int(beginnings[group[-1]])
                worth = begin != start and len(group) * (length - start) >= _WORTH_A_PASS
                if worth or len(group) >= self._size(begin):
                    yield np.array(group)
                    group = []
            group.append(row)
        if group:
            yield np.array(group)

    def _pass(self, variants: np.ndarray, rows: np.ndarray, begin: int) -> Pass:
        end = len(self.ids)
        first = int(np.searchsorted(self.indices, begin))
        ids = np.concatenate([self.ids[None, begin:], variants[rows, begin:end]])
        prefix = [
            _Prefix(keys[:, :, :begin], values[:, :, :begin]) for keys, values in self._layers
        ]
        device = self.writer.device.torch_device
        wanted = torch.as_tensor(self.indices[first:] - begin, device=device)
        with _only_last_places(self.writer.bare, wanted):
            states = self._read(ids, DynamicCache() if begin == 0 else _cache_of(prefix))
        states = states[:, wanted].float()
        return Pass(rows, slice(first, len(self.indices)), states[1:], states[0])

    def _read(self, ids: np.ndarray, cache: DynamicCache) -> Tensor:
        """Hidden states of ``ids`` after what the cache holds, ``[rows, tokens, width]``."""
        tensor = torch.as_tensor(ids, device=self.writer.device.torch_device)
        # Not inference_mode: what a model keeps from a pass would be useless for training later.
        with torch.no_grad(), self.precision(), _fused_activations(self.writer.bare):
            states: Tensor = self._body(input_ids=tensor, past_key_values=cache, use_cache=True)
        return states


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
