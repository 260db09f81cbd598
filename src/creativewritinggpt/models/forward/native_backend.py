"""What the engine asks of a model, and the fast backend for processors.

The engine needs the full logits of each step and a cache that it can cut and copy. Rows are texts
that are written side by side, each with its own length. The native backend runs our own forward
pass on merged weights: a token costs the products, one attention per layer and a handful of small
operations between them.

Keys and values lie in memory that is allocated once: a step writes one column of it and reads the
columns so far as views, so nothing is allocated or moved. Rows of the same length are attended to
together, rows of different lengths one after the other: a row's numbers never depend on its
neighbours' lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .families import FAMILIES, Forward
from .onnx_int8 import BoundForward, OnnxForward
from .packed import forward_pass
from .readings import LEAST_TOKENS, readings_of
from .weights import Unsupported, Weights

# A prompt is read in blocks that end at multiples of this, whether from its start or from where an
# earlier reading of the same text ended: the numbers are the same to the last bit.
BLOCK = 256
# Texts whose reading is kept; each takes up to the model's context length of keys and values.
_KEPT = 2
# Tokens of memory that a kept reading may have to spare; beyond it is copied.
_MOST_SPARE = 512


class Context(Protocol):
    """Rows of tokens that a model has read, with their keys and values."""

    @property
    def lengths(self) -> list[int]:
        """Tokens read, for each row."""

    def prefill(self, ids: Sequence[int]) -> Tensor:
        """Read ``ids`` after the tokens of the only row.

        Returns:
            float32 ``[1, vocabulary]``: the logits after the last of them.
        """

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Read one more token in each row.

        Returns:
            float32 ``[rows, vocabulary]``: the logits after it. The next step may overwrite them.
        """

    def fork(self, rows: Sequence[int], capacity: int | None = None) -> Context:
        """A context of its own whose rows are copies of ``rows`` (one may come several times).

        Args:
            rows: Their numbers, in order.
            capacity: Tokens it may grow to; without it as many as this one.
        """

    def truncate(self, row: int, length: int) -> None:
        """Forget all but the first ``length`` tokens of ``row``."""


class Backend(Protocol):
    """A model, ready to continue texts."""

    name: str
    vocabulary: int

    def read(self, ids: Sequence[int], capacity: int) -> tuple[Context, Tensor]:
        """Read a text, reusing an earlier reading of its beginning where there is one.

        Returns:
            A context of one row that may grow to ``capacity`` tokens, and float32
            ``[1, vocabulary]`` logits after the last token.
        """

    def begin(
        self, ids: Sequence[int], capacity: int, owner: str = ""
    ) -> tuple[Context, Tensor | None]:
        """The part of a text that need not be read again, as :meth:`read`.

        Returns:
            A context of one row that holds the first tokens of ``ids``, perhaps none, and the
            logits after the last of them where it holds all.
        """

    def keep(self, ids: Sequence[int], context: Any, logits: Tensor, owner: str = "") -> None:
        """Keep the reading of a text for the next ones of the same owner that begin like it.

        Args:
            ids: The text.
            context: A context of one row that has read it and nothing else.
            logits: ``[1, vocabulary]`` after its last token.
            owner: Whose it is.
        """

    def start(self, capacity: int) -> Context:
        """An empty context of one row that may grow to ``capacity`` tokens."""

    def join(self, contexts: Sequence[Any]) -> Context:
        """One context with the rows of all of ``contexts`` (of this backend), in order."""


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
        """See :class:`.families.Attention`."""
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
        """See :class:`.families.Attention`; one token per row."""
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


def onnx_fits(config: Any) -> bool:
    """Whether onnxruntime's operators know a model's family and the width of its heads."""
    family = FAMILIES.get(config.model_type)
    if family is None or not family.onnx_heads:  # 0: no ONNX graph
        return False
    return family.head_size(config) % family.onnx_heads == 0


class NativeBackend:
    """A model of a known family on merged weights.

    Args:
        weights: Of the model.
        kind: The format of its products (see :func:`~.linear.matrix_factory`).

    Attributes:
        kept: Number of readings that are kept; each takes up to the context length of keys and
            values.

    Raises:
        Unsupported: The family, or something in the model, is not known here.
    """

    def __init__(self, weights: Weights, kind: str) -> None:
        family = FAMILIES.get(weights.config.model_type)
        if family is None:
            raise Unsupported(f"the family {weights.config.model_type}")
        if kind == "onnx" and not onnx_fits(weights.config):
            raise Unsupported("heads of this size in onnxruntime")
        with torch.inference_mode():
            self.forward: Forward = forward_pass(weights, kind)
            self.onnx = None
            if kind == "onnx":
                from .onnx_graph import forward_graph

                graph = forward_graph(self.forward)
                self.onnx = OnnxForward(self.forward, graph, torch.get_num_threads())
        self.name = kind
        self.vocabulary = self.forward.vocabulary
        self.kept = _KEPT
        self._kept: list[tuple[list[int], NativeContext, Tensor, str]] = []
        self._stored = readings_of(weights, kind)

    def read(self, ids: Sequence[int], capacity: int) -> tuple[NativeContext, Tensor]:
        """Read a text from its start, or from where it parts from one that was read before.

        Args:
            ids: At least one token.
            capacity: Tokens that the context may grow to.

        Returns:
            A context of one row and ``[1, vocabulary]`` logits after the last token.
        """
        context, logits = self.begin(ids, capacity)
        if logits is None:
            logits = context.prefill(ids[context.lengths[0] :])
            self.keep(ids, context, logits)
        return context, logits

    def begin(
        self, ids: Sequence[int], capacity: int, owner: str = ""
    ) -> tuple[NativeContext, Tensor | None]:
        """What earlier readings hold of the beginning of a text, up to the end of a block.

        Long texts of no named owner are looked for on disk, too (see :mod:`.readings`).
        """
        ids = list(ids)
        mine = [entry for entry in self._kept if entry[3] == owner]
        if not owner and self._stored is not None and len(ids) >= LEAST_TOKENS:
            known = max((_common(ids, entry[0]) for entry in mine), default=0)
            found = self._stored.find(ids, known + LEAST_TOKENS)
            if found is not None:
                self._kept = [self._restored(*found), *self._kept][: max(self.kept, 1)]
                mine = [self._kept[0], *mine]
        for entry in mine:
            if entry[0] == ids:
                return entry[1].fork([0], capacity), entry[2]
        common = [_common(ids, entry[0]) // BLOCK * BLOCK for entry in mine]
        if max(common, default=0) == 0:
            return self.start(capacity), None
        best = common.index(max(common))
        context = mine[best][1].fork([0], capacity)
        context.truncate(0, common[best])
        return context, None

    def keep(
        self, ids: Sequence[int], context: NativeContext, logits: Tensor, owner: str = ""
    ) -> None:
        """Keep a reading in place of the oldest one, in the context's memory or a small copy."""
        spare = context.cache.capacity - len(ids)
        held = context.fork([0], len(ids)) if spare > _MOST_SPARE else context.hold()
        entry = (list(ids), held, logits, owner)
        self._kept = [entry, *self._kept][: self.kept]

    def _restored(
        self, ids: list[int], entries: Tensor, logits: Tensor
    ) -> tuple[list[int], NativeContext, Tensor, str]:
        """A reading from the disk as one that is kept."""
        cache = self._cache(1, len(ids))
        cache.entries[:, :, 0] = entries
        return ids, NativeContext(self, cache, [len(ids)]).hold(), logits, ""

    def store_readings(self) -> int:
        """Write the kept readings of no named owner to the disk; how many were written."""
        if self._stored is None:
            return 0
        written: list[list[int]] = []
        for ids, context, logits, owner in self._kept:
            # Of a story that grew the newest is enough.
            grew = any(2 * _common(ids, other) > len(ids) for other in written)
            if not owner and not grew:
                entries = context.cache.entries[:, :, 0, :, : len(ids)]
                if self._stored.keep(ids, entries, logits):
                    written.append(ids)
        return len(written)

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
        return KeyValueCache(len(f.layers), f.heads, f.size, rows, capacity, f.dtype)


class NativeContext:
    """Rows that the model has read, in a cache of fixed size."""

    def __init__(self, backend: NativeBackend, cache: KeyValueCache, lengths: list[int]) -> None:
        self.backend = backend
        self.cache = cache
        self._lengths = lengths
        self._bound: BoundForward | None = None
        self._held = 0

    @property
    def lengths(self) -> list[int]:
        """Tokens read, for each row."""
        return list(self._lengths)

    @torch.inference_mode()
    def prefill(self, ids: Sequence[int]) -> Tensor:
        """Read ``ids`` after the tokens of the only row; ``[1, vocabulary]`` logits."""
        forward = self.backend.forward
        logits = torch.empty(0)
        left = list(ids)
        while left:
            start = self._lengths[0]
            count = min(len(left), BLOCK - start % BLOCK)
            part, left = torch.tensor(left[:count]), left[count:]
            self._lengths[0] += count
            if self.backend.onnx is not None:
                self._bound = self._bound or self.backend.onnx.bind(self.cache.entries)
                logits = self._bound(part.unsqueeze(0), torch.tensor([start]))
                continue
            positions = torch.arange(start, start + count)
            x = forward.hidden(part, positions, PrefillAttention(self.cache, start, count))
            if not left:
                logits = forward.logits(x[-1:])
        # Bound memory is overwritten by the next pass.
        return logits if self._bound is None else logits.clone()

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """Read one more token in each row; ``[rows, vocabulary]`` logits."""
        positions = torch.tensor(self._lengths)
        if self.backend.onnx is not None:
            self._bound = self._bound or self.backend.onnx.bind(self.cache.entries)
            logits = self._bound(torch.tensor(tokens).unsqueeze(1), positions)
        else:
            forward, attention = self.backend.forward, DecodeAttention(self.cache, self._lengths)
            logits = forward.logits(forward.hidden(torch.tensor(tokens), positions, attention))
        self._lengths = [length + 1 for length in self._lengths]
        return logits

    def fork(self, rows: Sequence[int], capacity: int | None = None) -> NativeContext:
        """A context of its own with copies of ``rows``, of the same capacity or another."""
        lengths = [self._lengths[row] for row in rows]
        cache = self.cache.copy(rows, lengths, capacity or self.cache.capacity)
        return NativeContext(self.backend, cache, lengths)

    def hold(self) -> NativeContext:
        """The only row as it is now, in the same memory, to be forked later and nothing else."""
        self._held = self._lengths[0]
        return NativeContext(self.backend, self.cache, self.lengths)

    def truncate(self, row: int, length: int) -> None:
        """Forget all but the first ``length`` tokens of ``row``."""
        if length < self._held:  # the next tokens would overwrite what is held
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
