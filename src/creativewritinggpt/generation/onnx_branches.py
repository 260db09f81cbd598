"""Many rows that go on from one text, as one graph that onnxruntime runs.

    x [rows, tokens, width] → layers, all reading the same keys and values → sums at some places

The layers are those of :mod:`.onnx_graph`, with matrices that are fast for many rows. Nothing is
written in place: keys and values of the text come in once and are seen by every row before its own.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor

from .native_backend import NativeBackend
from .onnx_graph import layers
from .onnx_nodes import OPERATORS, Graph
from .onnx_steps import offsets, session_of

KeysAndValues = tuple[Tensor, Tensor]
_sessions: weakref.WeakKeyDictionary[NativeBackend, Any] = weakref.WeakKeyDictionary()


class _BranchGraph(Graph):
    """A graph whose rows share what comes before them."""

    # The first with an attention whose rows may have several tokens and a past.
    opset = 23

    def attention(
        self, number: int, forward: Any, query: list[str], rotation: list[str] | None
    ) -> str:
        """Attention of a layer; the rows' own keys and values are outputs after the text's."""
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
        name = self.node("Attention", given, 3, q_num_heads=queries, kv_num_heads=heads)
        for output in (f"{name}.1", f"{name}.2"):
            self.output(output, ["rows", heads, "all", size])
        return name

    def last(self, *names: str) -> list[str]:
        """The places that are wanted; what follows is of these alone."""
        return self.only("places", *names)


def branch_graph(forward: Any) -> Graph:
    """A forward pass of many rows, whose matrices are :class:`~.onnx_matrices.ByRow`."""
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
    """Rows that go on from one text.

    Args:
        backend: Of the kind ``by-row``.
    """

    def __init__(self, backend: NativeBackend) -> None:
        self.forward: Any = backend.forward
        if backend not in _sessions:
            graph = branch_graph(self.forward)
            _sessions[backend] = session_of(graph, torch.get_num_threads())
        self.session = _sessions[backend]
        self.names = [output.name for output in self.session.get_outputs()]

    def __call__(
        self, ids: Tensor, before: list[KeysAndValues], places: Tensor, *, keep: bool = False
    ) -> tuple[Tensor, list[KeysAndValues]]:
        """Read some rows.

        Args:
            ids: int64 ``[rows, tokens]``.
            before: Keys and values that all see, ``[1, heads, begin, size]`` for each layer.
            places: Which tokens of a row are wanted, int64.
            keep: Whether the rows' keys and values are wanted as well.

        Returns:
            What the last norm is given, float32 ``[rows, places, width]``, and with ``keep`` keys
            and values of all tokens, ``[rows, heads, begin + tokens, size]`` for each layer.
        """
        rows, tokens = ids.shape
        begin = before[0][0].shape[2]
        positions = torch.arange(begin, begin + tokens).repeat(rows, 1)
        hidden = torch.ones(tokens, begin + tokens, dtype=torch.bool).triu(begin + 1)
        inputs = {
            "x": self.forward.embed(ids, positions),
            "mask": torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf),
            "expand": torch.tensor([rows, 1, 1, 1]),
            "places": places,
            **offsets(True, rows, tokens),
        }
        if not hasattr(self.forward, "position_embedding"):
            inputs["positions"] = positions
        for number, both in enumerate(before):
            for kind, part in zip(("keys", "values"), both, strict=True):
                inputs[f"{kind}.{number}"] = part
        arrays = {name: part.contiguous().numpy() for name, part in inputs.items()}
        found = self.session.run(None if keep else self.names[-1:], arrays)
        *own, states = (torch.from_numpy(array) for array in found)
        return states, list(zip(own[::2], own[1::2], strict=True))
