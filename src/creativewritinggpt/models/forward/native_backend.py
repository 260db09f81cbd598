"""The fast backend for a processor: our own forward pass on merged weights.

What transformers does around the products takes longer than the products themselves once a weight
is 8 bits. Here a token costs the products, one attention a layer and a handful of small operations
between them. It knows the GPT-2, Llama and Qwen families; for others there is the transformers
backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from .gpt2 import GPT2Forward
from .kv_cache import Attention, KeyValueCache, Reading, Stepping
from .linear import Unsupported
from .llama import LlamaForward
from .onnx.session import BY_ONNXRUNTIME, Bound, Steps, knows

# A prompt is read in blocks that end at multiples of this, whether from its start or from where an
# earlier reading of the same text ended: the numbers are the same to the last bit.
BLOCK = 256
# Texts whose reading is kept; each takes up to the model's window of keys and values.
_KEPT = 2
_FAMILIES: dict[str, type[GPT2Forward] | type[LlamaForward]] = {
    "gpt2": GPT2Forward,
    "llama": LlamaForward,
    "qwen2": LlamaForward,
    "qwen3": LlamaForward,
}


class Forward(Protocol):
    """A family's forward pass."""

    token_embedding: Tensor
    query_heads: int
    layers: list[Any]
    heads: int
    size: int
    vocabulary: int
    dtype: torch.dtype

    def hidden(self, ids: Tensor, positions: Tensor, attention: Attention) -> Tensor:
        """The last layer's output; ``[tokens, width]``."""

    def logits(self, x: Tensor) -> Tensor:
        """Next-token logits; float32 ``[rows, vocabulary]``."""

    def before_head(self, x: Tensor) -> Tensor:
        """What the head multiplies; ``[rows, width]``."""


class NativeBackend:
    """A model of a known family on merged weights.

    Args:
        model: A ``PreTrainedModel``, with or without LoRA in it.
        kind: ``fp32``, ``bf16``, ``int8``, or ``onnx`` for steps by onnxruntime; for passes over
            many rows ``many``, ``by-row``, ``fp32-blocks`` or ``bf16-blocks`` (see
            ``matrices.maker``).

    Raises:
        Unsupported: The family, or something in the model, is not known here.
    """

    def __init__(self, model: Any, kind: str) -> None:
        family = _FAMILIES.get(model.config.model_type)
        if family is None:
            raise Unsupported(f"the family {model.config.model_type}")
        if kind in BY_ONNXRUNTIME and not knows(model.config):
            raise Unsupported("heads of this size in onnxruntime")
        with torch.inference_mode():
            self.forward: Forward = family(model, kind)
            self.steps = None
            if kind in BY_ONNXRUNTIME:
                self.steps = Steps(self.forward, torch.get_num_threads())
        self.name = kind
        self.vocabulary = self.forward.vocabulary
        self._kept: list[tuple[list[int], NativeContext, Tensor]] = []

    def read(self, ids: Sequence[int], capacity: int) -> tuple[NativeContext, Tensor]:
        """Read a text from its start, or from where it parts from one that was read before.

        Args:
            ids: At least one token.
            capacity: Tokens that the context may grow to.

        Returns:
            A context of one row and ``[1, vocabulary]`` logits after the last token.
        """
        ids = list(ids)
        for entry in self._kept:
            if entry[0] == ids:
                return entry[1].fork([0], capacity), entry[2]
        common = [_common(ids, entry[0]) // BLOCK * BLOCK for entry in self._kept]
        if max(common, default=0) > 0:
            best = common.index(max(common))
            context = self._kept[best][1].fork([0], capacity)
            context.truncate(0, common[best])
        else:
            context = self.start(capacity)
        logits = context.prefill(ids[context.lengths[0] :])
        self._kept = [(ids, context.hold(), logits), *self._kept][:_KEPT]
        return context, logits

    def start(self, capacity: int) -> NativeContext:
        """An empty context of one row that may grow to ``capacity`` tokens."""
        return NativeContext(self, self._cache(1, capacity), [0])

    def join(self, contexts: Sequence[NativeContext]) -> NativeContext:
        """One context with the rows of all of ``contexts``, in order."""
        lengths = [length for context in contexts for length in context.lengths]
        cache = self._cache(len(lengths), max(context.cache.capacity for context in contexts))
        row = 0
        for context in contexts:
            for old, used in enumerate(context.lengths):
                cache.take(row, context.cache, old, used)
                row += 1
        return NativeContext(self, cache, lengths)

    def _cache(self, rows: int, capacity: int) -> KeyValueCache:
        f = self.forward
        dtype = f.dtype if self.steps is None else torch.float32
        return KeyValueCache(len(f.layers), f.heads, f.size, rows, capacity, dtype)


class NativeContext:
    """Rows that the model has read, in a cache of fixed size."""

    def __init__(self, backend: NativeBackend, cache: KeyValueCache, lengths: list[int]) -> None:
        self.backend = backend
        self.cache = cache
        self._lengths = lengths
        self._bound: Bound | None = None
        self._held = 0

    @property
    def lengths(self) -> list[int]:
        """Tokens read, for each row."""
        return list(self._lengths)

    @torch.inference_mode()
    def prefill(self, ids: Sequence[int]) -> Tensor:
        """Read ``ids`` after what the only row holds; ``[1, vocabulary]`` logits."""
        forward, steps = self.backend.forward, self.backend.steps
        logits = torch.empty(0)
        left = list(ids)
        while left:
            start = self._lengths[0]
            count = min(len(left), BLOCK - start % BLOCK)
            part, left = torch.tensor(left[:count]), left[count:]
            self._lengths[0] += count
            if steps is not None and steps.reads:
                self._bound = self._bound or steps.bind(self.cache)
                logits = self._bound(part.unsqueeze(0), torch.tensor([start]))
                continue
            positions = torch.arange(start, start + count)
            x = forward.hidden(part, positions, Reading(self.cache, start, count))
            if not left:
                logits = forward.logits(x[-1:])
        # What is bound is written over by the next pass.
        return logits if self._bound is None else logits.clone()

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """Read one more token in each row; ``[rows, vocabulary]`` logits."""
        if self.backend.steps is not None:
            self._bound = self._bound or self.backend.steps.bind(self.cache)
            tokens_and_lengths = torch.tensor(tokens).unsqueeze(1), torch.tensor(self._lengths)
            logits = self._bound(*tokens_and_lengths)
            self._lengths = [length + 1 for length in self._lengths]
            return logits
        forward = self.backend.forward
        positions = torch.tensor(self._lengths)
        x = forward.hidden(torch.tensor(tokens), positions, Stepping(self.cache, self._lengths))
        self._lengths = [length + 1 for length in self._lengths]
        return forward.logits(x)

    def fork(self, rows: Sequence[int], capacity: int | None = None) -> NativeContext:
        """A context of its own with copies of ``rows``, of the same capacity or another."""
        lengths = [self._lengths[row] for row in rows]
        cache = self.cache.copy(rows, lengths, capacity or self.cache.capacity)
        return NativeContext(self.backend, cache, lengths)

    def hold(self) -> NativeContext:
        """What the only row holds now, in the same memory, to be forked later and nothing else."""
        self._held = self._lengths[0]
        return NativeContext(self.backend, self.cache, self.lengths)

    def truncate(self, row: int, length: int) -> None:
        """Forget all but the first ``length`` tokens of ``row``."""
        if length < self._held:  # what comes next would be written over what is held
            self.cache = self.cache.copy([0], self._lengths, self.cache.capacity)
            self._bound, self._held = None, 0
        self._lengths[row] = length


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts have in common from their start."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
