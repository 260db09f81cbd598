"""Passes over variants of a text by our own forward pass, on a processor.

The forward pass that reads prompts takes tokens in a flat list and leaves it to an attention object
what each sees; here that is a shared beginning and, after it, each row's own tokens. In the last
layer only the places that are asked for go on. It knows the families of ``generation`` and merges
the adapter into copies of the weights, which is the memory it costs. Rough passes multiply what
differs from the text in fewer bits, by torch or by onnxruntime.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...models.forward.backends import backend_for
from ...models.forward.linear import Matrix
from ...models.forward.native_backend import NativeBackend
from ...models.forward.weights import Unsupported
from ...models.loaded_model import LoadedModel
from .differences import At, Different, Kept, with_matrices

_KeysAndValues = tuple[Tensor, Tensor]


class NativePasses:
    """A text that was read once, and rows that go on from somewhere in it.

    Args:
        model: The model, without a wrapper around it.
        backend: What was made of it.
    """

    def __init__(self, model: Any, backend: NativeBackend) -> None:
        self._forward: Any = backend.forward
        body = model.base_model
        last = getattr(body, "ln_f", None) or body.norm
        # What goes through it is fp32 here, whatever a model in memory is in.
        self._last_norm = last if last.weight.dtype == torch.float32 else deepcopy(last).float()
        self._layers: list[_KeysAndValues] = []

    def read(self, ids: Tensor, wanted: Tensor) -> Tensor:
        """Read a text; see :class:`~.suffixes.Passes`."""
        self._layers = []
        states, self._layers = self._pass(ids[None], 0, wanted)
        return states[0]

    def branch(self, ids: Tensor, begin: int, wanted: Tensor) -> Tensor:
        """Read rows that go on from ``begin``; see :class:`~.suffixes.Passes`."""
        return self._pass(ids, begin, wanted)[0]

    def _pass(self, ids: Tensor, begin: int, wanted: Tensor) -> tuple[Tensor, list[_KeysAndValues]]:
        rows, tokens = ids.shape
        attention = _Branches(self._forward.heads, self._layers, begin, rows, tokens, wanted)
        positions = torch.arange(begin, begin + tokens).repeat(rows)
        # Not inference_mode: what a model keeps from a pass would be useless for training later.
        with torch.no_grad():
            x = self._forward.hidden(ids.flatten(), positions, attention)
            states: Tensor = self._last_norm(x.view(rows, len(wanted), -1))
        return states.float(), attention.own


class RoughPasses(NativePasses):
    """Passes whose products are rough where rows differ from the text, by torch.

    The plain twin of :class:`OnnxPasses`.

    Args:
        model: The model, without a wrapper around it.
        exact: What was made of it in fp32.
        rough: The same in a format for many rows.
    """

    def __init__(self, model: Any, exact: NativeBackend, rough: NativeBackend) -> None:
        super().__init__(model, exact)
        self._exact, self._rough = self._forward, rough
        self._at = At(0, 0, 0, torch.empty(0))

    def read(self, ids: Tensor, wanted: Tensor) -> Tensor:
        """Read a text; see :class:`~.suffixes.Passes`."""
        kept: list[Kept] = []

        def keep(number: int, matrix: Matrix) -> Matrix:
            kept.append(Kept(matrix))
            return kept[-1]

        self._forward = with_matrices(self._exact, keep)
        # All places, for any of them may be wanted of a row.
        states = super().read(ids, torch.arange(len(ids)))
        self._prepare([each.product for each in kept])
        return states[wanted]

    def branch(self, ids: Tensor, begin: int, wanted: Tensor) -> Tensor:
        """Read rows that go on from ``begin``; see :class:`~.suffixes.Passes`."""
        self._at.rows, self._at.tokens = ids.shape
        self._at.begin, self._at.places = begin, wanted
        return super().branch(ids, begin, wanted)

    def _prepare(self, products: list[tuple[Tensor, Tensor]]) -> None:
        def different(number: int, matrix: Matrix) -> Matrix:
            return Different(matrix, products[number], self._at)

        self._forward = with_matrices(self._rough.forward, different)


class OnnxPasses(RoughPasses):
    """The same by onnxruntime, with matrices of the kind ``int8_per_row``."""

    def branch(self, ids: Tensor, begin: int, wanted: Tensor) -> Tensor:
        """Read rows that go on from ``begin``; see :class:`~.suffixes.Passes`."""
        with torch.no_grad():
            states: Tensor = self._last_norm(self._branches(ids, begin, wanted))
        return states

    def _prepare(self, products: list[tuple[Tensor, Tensor]]) -> None:
        from ...models.forward.onnx.branches import Branches

        self._branches = Branches(self._rough, products, self._layers)


def own_passes(writer: LoadedModel, kind: str = "fp32") -> NativePasses:
    """Passes by our own forward pass.

    Args:
        writer: The model, on a processor.
        kind: ``fp32``, or in rough numbers ``prefill`` or ``int8_per_row``.

    Raises:
        Unsupported: Our own forward pass does not know the model.
    """
    backends = [backend_for(writer, name, required=False) for name in ("fp32", kind)]
    exact, rough = (each if isinstance(each, NativeBackend) else None for each in backends)
    if exact is None or rough is None:
        raise Unsupported("this model")
    return passes_of(writer.bare, exact, rough)


def passes_of(model: Any, exact: NativeBackend, rough: NativeBackend) -> NativePasses:
    """Passes by what was made of a model, in fp32 and for many rows."""
    if rough.name == "fp32":
        return NativePasses(model, exact)
    return (OnnxPasses if rough.name == "int8_per_row" else RoughPasses)(model, exact, rough)


def knows(writer: LoadedModel) -> bool:
    """Whether our own forward pass knows the model."""
    return isinstance(backend_for(writer, "fp32", required=False), NativeBackend)


class _Branches:
    """Attention of equally long rows that go on from a shared beginning.

    Args:
        heads: Key and value heads of a layer.
        layers: Keys and values of the text, ``[1, heads, tokens, size]`` for each layer.
        begin: How many of its tokens the rows see.
        rows: How many rows.
        tokens: Of each row.
        wanted: Places in a row whose results are wanted, ``[places]``.

    Attributes:
        own: The rows' own keys and values, by layer; kept only where there is no beginning and
            one row: that is the reading which later rows go on from.
    """

    def __init__(
        self,
        heads: int,
        layers: list[_KeysAndValues],
        begin: int,
        rows: int,
        tokens: int,
        wanted: Tensor,
    ) -> None:
        self.heads, self.rows, self.tokens, self.places = heads, rows, tokens, wanted
        self.prefix = [(keys[:, :, :begin], values[:, :, :begin]) for keys, values in layers]
        self.begin = begin
        self.own: list[_KeysAndValues] = []
        self.mask = torch.ones(tokens, begin + tokens, dtype=torch.bool).tril(begin)

    def wanted(self, x: Tensor) -> Tensor:
        """The wanted places of each row."""
        return x.view(self.rows, self.tokens, *x.shape[1:])[:, self.places].flatten(0, 1)

    def __call__(self, layer: int, query: Tensor, new: Tensor) -> Tensor:
        """What the tokens take from those before them and themselves.

        Args:
            layer: Which.
            query: ``[rows · tokens, query heads, size]``, or of the wanted places alone.
            new: ``[rows · tokens, key heads then value heads, size]``.

        Returns:
            ``[rows · tokens, query heads × size]``, or of the wanted places.
        """
        count, query_heads, size = query.shape
        own = new.view(self.rows, self.tokens, 2, self.heads, size).permute(2, 0, 3, 1, 4)
        keys, values = own.unbind(0)
        if self.rows == 1 and not self.begin:
            self.own.append((keys, values))
        if self.begin:
            keys, values = (
                torch.cat([part.expand(self.rows, -1, -1, -1), mine], dim=2)
                for part, mine in zip(self.prefix[layer], (keys, values), strict=True)
            )
        query = query.view(self.rows, -1, query_heads, size).transpose(1, 2)
        all_places = count == self.rows * self.tokens
        mixed = F.scaled_dot_product_attention(
            query,
            keys,
            values,
            attn_mask=self.mask if all_places else self.mask[self.places],
            enable_gqa=query_heads > self.heads,
        )
        return mixed.transpose(1, 2).reshape(count, -1)
