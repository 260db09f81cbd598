"""Many rows that go on from one text, as one graph that onnxruntime runs.

    x [rows, tokens, width] → layers, all reading the same keys and values → sums at some places

The layers are those of :mod:`.graph`, with matrices that are fast for many rows. Keys and
values of the text come in once and are seen by every row before its own. What goes through a matrix
is how the rows differ from the text there, and what the text's own product was is added to it: see
``analysis.differences``.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor

from ..native_backend import NativeBackend
from .graph import OPERATORS, Graph, layers
from .matrices import Int8PerRow
from .session import offsets, session_of

KeysAndValues = tuple[Tensor, Tensor]
_sessions: weakref.WeakKeyDictionary[NativeBackend, Any] = weakref.WeakKeyDictionary()


class _BranchGraph(Graph):
    """A graph whose rows share what comes before them.

    Attributes:
        products: Its matrices, in order.
    """

    # The first with an attention whose rows may have several tokens and a past.
    opset = 23

    def __init__(self) -> None:
        super().__init__()
        self.products: list[Int8PerRow] = []
        self._places = "tokens"

    def product(
        self, name: str, matrix: Int8PerRow, x: str, *, balanced: bool = False, factor: str = ""
    ) -> str:
        """The text's own product and that of the difference from it."""
        number = len(self.products)
        self.products.append(matrix)
        for kind, size in zip(("y", "x"), matrix.shape, strict=True):
            self.input(f"{kind}.{number}", TensorProto.FLOAT, [self._places, size])
        if not balanced:
            x = self.balanced(name, matrix, x)
        difference = self.node("Sub", [x, f"x.{number}"])
        return self.node("Add", [self.by_row(name, matrix, difference), f"y.{number}"])

    def gated(self, name: str, matrix: Int8PerRow, x: str) -> tuple[str, str]:
        """As one product: the text's own has to be added before the gate."""
        return self.gated_at_once(name, matrix, x), ""

    def attention(
        self, number: int, forward: Any, query: list[str], rotation: list[str] | None
    ) -> str:
        """Attention of a layer."""
        queries, heads, size = forward.query_heads, forward.heads, forward.size
        if not query[1]:
            sizes = self.numbers([queries * size, heads * size, heads * size])
            first = self.node("Split", [query[0], sizes], 3, axis=-1)
            query = [first, f"{first}.1", f"{first}.2"]
        if rotation is not None:
            for part, count in enumerate((queries, heads)):
                given = [query[part], "positions", *rotation]
                turned = {"interleaved": 1, "num_heads": count, "rotary_embedding_dim": size}
                query[part] = self.node("RotaryEmbedding", given, domain=OPERATORS, **turned)
        past = []
        for kind in ("keys", "values"):
            self.input(f"{kind}.{number}", TensorProto.FLOAT, [1, heads, "begin", size])
            past.append(self.node("Expand", [f"{kind}.{number}", "expand"]))
        given = [*query, "mask", *past]
        return self.node("Attention", given, 3, q_num_heads=queries, kv_num_heads=heads)

    def last(self, *names: str) -> list[str]:
        """The places that are wanted; what follows is of these alone."""
        self._places = "places"
        return self.only("places", *names)


def branch_graph(forward: Any) -> _BranchGraph:
    """A forward pass of many rows, whose matrices are :class:`~.matrices.Int8PerRow`."""
    graph = _BranchGraph()
    graph.input("mask", TensorProto.FLOAT, ["tokens", "all"])
    graph.input("expand", TensorProto.INT64, [4])
    graph.input("places", TensorProto.INT64, ["places"])
    if not hasattr(forward, "position_embedding"):
        graph.input("positions", TensorProto.INT64, ["rows", "tokens"])
    x, more = layers(graph, forward)
    total = graph.node("Add", [x, more])
    graph.output(total, ["rows", "places", int(forward.token_embedding.shape[1])])
    return graph


class Branches:
    """Rows that go on from one text, which was read before.

    Args:
        backend: Of the kind ``int8_per_row``.
        products: What goes into each matrix and what comes out of it where the text itself is
            read, by the exact ones: ``[tokens, in]`` and ``[tokens, out]``, layer by layer.
        before: The text's keys and values, ``[1, heads, tokens, size]`` for each layer.
    """

    def __init__(
        self,
        backend: NativeBackend,
        products: Sequence[tuple[Tensor, Tensor]],
        before: Sequence[KeysAndValues],
    ) -> None:
        self.forward: Any = backend.forward
        if backend not in _sessions:
            graph = branch_graph(self.forward)
            session = session_of(graph, torch.get_num_threads())
            _sessions[backend] = session, [matrix.balance for matrix in graph.products]
        self.session, balances = _sessions[backend]
        self.products = [
            (x * balance, y) for (x, y), balance in zip(products, balances, strict=True)
        ]
        self.before = before

    def __call__(self, ids: Tensor, begin: int, places: Tensor) -> Tensor:
        """Read some rows.

        Args:
            ids: int64 ``[rows, tokens]``.
            begin: Tokens that they share with the text.
            places: Which tokens of a row are wanted, int64.

        Returns:
            What the last norm is given, float32 ``[rows, places, width]``.
        """
        rows, tokens = ids.shape
        positions = torch.arange(begin, begin + tokens).repeat(rows, 1)
        hidden = torch.ones(tokens, begin + tokens, dtype=torch.bool).triu(begin + 1)
        inputs = {
            "x": self.forward.embed(ids, positions),
            "mask": torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf),
            "expand": torch.tensor([rows, 1, 1, 1]),
            "places": places,
            "zeros": offsets(rows, tokens),
        }
        if not hasattr(self.forward, "position_embedding"):
            inputs["positions"] = positions
        for number, both in enumerate(self.before):
            for kind, part in zip(("keys", "values"), both, strict=True):
                inputs[f"{kind}.{number}"] = part[:, :, :begin].contiguous()
        # Of the last layer only its first matrix sees all places.
        everywhere = len(self.products) - len(self.products) // len(self.before) + 1
        for number, both in enumerate(self.products):
            for kind, part in zip("xy", both, strict=True):
                at = part[begin : begin + tokens]
                inputs[f"{kind}.{number}"] = at if number < everywhere else at[places]
        [states] = self.session.run(None, {name: part.numpy() for name, part in inputs.items()})
        return torch.from_numpy(states)
