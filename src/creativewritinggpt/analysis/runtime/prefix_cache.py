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

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ...console import CountCallback
from ...errors import InputError
from ...models.forward.weights import Unsupported
from ...models.loaded_model import LoadedModel
from ..methods.rough import rough_kind
from .memory import in_batches, micro_batch
from .native_passes import own_passes
from .transformers_passes import TransformersPasses

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


class Passes(Protocol):
    """How a text and its variants go through the model."""

    def read(self, ids: Tensor, wanted: Tensor) -> Tensor:
        """Read a text from its start, and keep its keys and values.

        Args:
            ids: ``[tokens]``.
            wanted: Places ``[places]`` in the text, in ascending order.

        Returns:
            Hidden states there after the last norm, float32 ``[places, width]``.
        """

    def branch(self, ids: Tensor, begin: int, wanted: Tensor) -> Tensor:
        """Read rows that go on from the first ``begin`` tokens of the text that was read.

        Args:
            ids: ``[rows, tokens]``.
            begin: Tokens that they share with the text.
            wanted: Places ``[places]`` in a row, in ascending order.

        Returns:
            Hidden states there, float32 ``[rows, places, width]``.
        """


def passes_for(writer: LoadedModel, *, exact: bool, rounded: bool) -> Passes:
    """Our own forward pass where it knows the model, else transformers'.

    Args:
        writer: The model.
        exact: Compute in fp32, whatever the writer's precision.
        rounded: Compute in the format that this processor is fastest in.
    """
    full = exact or rounded or writer.device.precision == "fp32"
    if full and writer.device.torch_device.type == "cpu" and not writer.model.training:
        try:
            return own_passes(writer, rough_kind(writer) if rounded else "fp32")
        except Unsupported:
            pass
    return TransformersPasses(writer, exact=exact)


class Reading:
    """One reading of a text, on which passes over its variants are built.

    Args:
        writer: The model, in ``eval()`` mode; its adapter works unless this is made and used
            within ``writer.base()``.
        ids: The text as the model reads it, start token included.
        indices: Where predictions are wanted, in ascending order: index j predicts token j + 1.
        exact: Compute in fp32, whatever the writer's precision.
        rounded: Compute in the format that this processor is fastest in; without effect where
            only transformers knows the model.

    Attributes:
        states: Hidden states at ``indices``, float32 ``[indices, width]``.

    Raises:
        InputError: An index lies outside the text.
    """

    def __init__(
        self,
        writer: LoadedModel,
        ids: Sequence[int],
        indices: Sequence[int],
        *,
        exact: bool = False,
        rounded: bool = False,
    ) -> None:
        if not indices or indices[0] < 0 or indices[-1] >= len(ids):
            raise InputError(
                f"predictions {list(indices)} are asked of a text of {len(ids)} tokens",
                f"choose some from 0 to {len(ids) - 1}",
            )
        self.writer, self.exact = writer, exact
        self.ids = np.asarray(ids[: indices[-1] + 1], dtype=np.int64)
        self.indices = np.asarray(indices, dtype=np.int64)
        self._passes = passes_for(writer, exact=exact, rounded=rounded)
        self.states = self._passes.read(self._tensor(self.ids), self._tensor(self.indices))

    def beginnings(self, variants: np.ndarray) -> np.ndarray:
        """Where each variant first differs, ``[variants]``; the text's length where nowhere."""
        differs = variants[:, : len(self.ids)] != self.ids
        return np.where(differs.any(1), differs.argmax(1), len(self.ids))

    def cost(self, variants: np.ndarray) -> int:
        """How many tokens the passes over ``variants`` read at least."""
        return int((len(self.ids) - self.beginnings(variants)).sum())

    def passes(self, variants: np.ndarray, progress: CountCallback | None = None) -> Iterator[Pass]:
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
        wanted = self._tensor(self.indices[first:] - begin)
        states = self._passes.branch(self._tensor(ids), begin, wanted)
        return Pass(rows, slice(first, len(self.indices)), states[1:], states[0])

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, device=self.writer.device.torch_device)
