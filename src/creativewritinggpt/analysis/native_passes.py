"""Passes over variants of a text by our own forward pass, on a processor.

The forward pass that reads prompts takes tokens in a flat list and leaves it to an attention object
what each sees; here that is a shared beginning and, after it, each row's own tokens. In the last
layer only the places that are asked for go on. It knows the families of ``generation`` and merges
the adapter into copies of the weights, which is the memory it costs. The same in 8 bits is run by
onnxruntime, where that is installed.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..generation.backends import backend_for
from ..generation.matrices import Unsupported
from ..generation.native_backend import NativeBackend
from ..models.writer import Writer

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
        self._last_norm = getattr(body, "ln_f", None) or body.norm
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


class OnnxPasses:
    """The same by onnxruntime.

    Args:
        model: The model, without a wrapper around it.
        backend: What was made of it, of the kind ``by-row``.
    """

    def __init__(self, model: Any, backend: NativeBackend) -> None:
        from ..generation.onnx_branches import Branches

        body = model.base_model
        self._branches = Branches(backend)
        self._last_norm = getattr(body, "ln_f", None) or body.norm
        shape = (1, backend.forward.heads, 0, backend.forward.size)
        self._none = [(torch.zeros(shape), torch.zeros(shape)) for _ in backend.forward.layers]
        self._layers: list[_KeysAndValues] = []

    def read(self, ids: Tensor, wanted: Tensor) -> Tensor:
        """Read a text; see :class:`~.suffixes.Passes`."""
        with torch.no_grad():
            x, self._layers = self._branches(ids[None], self._none, wanted, keep=True)
            states: Tensor = self._last_norm(x)
        return states[0]

    def branch(self, ids: Tensor, begin: int, wanted: Tensor) -> Tensor:
        """Read rows that go on from ``begin``; see :class:`~.suffixes.Passes`."""
        before = [(keys[:, :, :begin], values[:, :, :begin]) for keys, values in self._layers]
        with torch.no_grad():
            states: Tensor = self._last_norm(self._branches(ids, before, wanted)[0])
        return states


def own_passes(writer: Writer, kind: str) -> NativePasses | OnnxPasses:
    """Passes by our own forward pass.

    Args:
        writer: The model, on a processor.
        kind: ``fp32``, or for many rows ``many`` or ``by-row`` (see ``matrices.maker``).

    Raises:
        Unsupported: Our own forward pass does not know the model.
    """
    backend = backend_for(writer, kind, required=False)
    if not isinstance(backend, NativeBackend):
        raise Unsupported("this model")
    return passes_of(writer.bare, backend)


def passes_of(model: Any, backend: NativeBackend) -> NativePasses | OnnxPasses:
    """Passes by what was made of a model."""
    return (OnnxPasses if backend.name == "by-row" else NativePasses)(model, backend)


def knows(writer: Writer) -> bool:
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
