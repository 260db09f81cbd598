"""The forward pass of a model as an ONNX graph, from the matrices of our own.

    x [rows, tokens, width] → layers, each reading and growing its keys and values → logits

The graph is that of ``gpt2_forward`` and ``llama_forward``: one token in each row or, with matrices
that are fast for many rows, several in a single one, of which the last one's logits are wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor

from .basis import Rotated
from .gpt2_forward import GPT2Forward
from .llama_forward import LlamaForward
from .onnx_matrices import ByRow, Grouped
from .onnx_nodes import OPERATORS, Graph


def forward_graph(forward: GPT2Forward | LlamaForward) -> Graph:
    """A forward pass whose matrices are :class:`~.matrices.Grouped` or :class:`~.matrices.ByRow`.

    With the former it is that of one token in each row.
    """
    graph = Graph()
    x = graph.begin(forward.width, forward.layers[0][-1])
    if isinstance(forward.basis, Rotated):
        entrance = forward.basis.enter(torch.eye(forward.width))
        x = graph.node("MatMul", [x, graph.weight("entrance", entrance)])
    graph.input("last", TensorProto.INT32, ["rows"])
    graph.input("longest", TensorProto.INT32, [])
    logits = (_llama if isinstance(forward, LlamaForward) else _gpt2)(graph, forward, x)
    graph.output(logits, ["rows", 1, forward.vocabulary])
    return graph


def _gpt2(graph: Graph, forward: Any, x: str) -> str:
    """The layers of GPT-2; the name of the logits."""

    def normed(name: str, x: str, more: str | None, norm: Any) -> tuple[str, str]:
        """The norm of ``x + more``, and the sum itself."""
        if norm is None:
            ones = graph.weight("ones", torch.ones(forward.width))
            return graph.normed("Simplified", x, more, [ones], forward.epsilon)
        weights = [graph.weight(f"{name}.{i}", value) for i, value in enumerate(norm)]
        return graph.normed("", x, more, weights, forward.epsilon)

    more = None
    for number, (norm_1, qkv, out, norm_2, up, down) in enumerate(forward.layers):
        y, x = normed(f"norm_1.{number}", x, more, norm_1)
        heads = graph.product(f"qkv.{number}", qkv, y)
        mixed = graph.attention(number, forward, [heads, "", ""], None)
        if graph.zeros and number == len(forward.layers) - 1:
            mixed, x = graph.last(mixed, x)
        more = graph.product(f"out.{number}", out, mixed)
        y, x = normed(f"norm_2.{number}", x, more, norm_2)
        y = graph.node("FastGelu", [graph.product(f"up.{number}", up, y)], domain=OPERATORS)
        more = graph.product(f"down.{number}", down, graph.turned(y, forward.basis.inner))
    y, _ = normed("last_norm", x, more, forward.last_norm)
    return graph.product("head", forward.head, y)


def _llama(graph: Graph, forward: Any, x: str) -> str:
    """The layers of Llama; the name of the logits."""
    # The norms' weights are in the matrices, times the square root of the width.
    ones = graph.weight("ones", torch.full((forward.width,), forward.width**-0.5))
    epsilon = forward.head_epsilon
    angles = torch.arange(forward.positions).unsqueeze(1).float() * forward.frequencies
    rotation = [
        graph.weight("cos", angles.cos() * forward.rotation_scale),
        graph.weight("sin", angles.sin() * forward.rotation_scale),
    ]

    def normed(x: str, more: str | None) -> tuple[str, str]:
        """The norm of ``x + more``, and the sum itself."""
        return graph.normed("Simplified", x, more, [ones], epsilon)

    more = None
    for number, (qkv, head_norms, out, gate_and_up, down) in enumerate(forward.layers):
        y, x = normed(x, more)
        query = [graph.product(f"qkv.{number}", qkv, y), "", ""]
        if head_norms is not None:
            query = _with_normed_heads(graph, forward, number, query[0], head_norms)
        mixed = graph.attention(number, forward, query, rotation)
        if graph.zeros and number == len(forward.layers) - 1:
            mixed, x = graph.last(mixed, x)
        more = graph.product(f"out.{number}", out, mixed)
        y, x = normed(x, more)
        both = graph.product(f"gate_and_up.{number}", gate_and_up, y)
        gate = graph.node("Split", [both], 2, axis=-1, num_outputs=2)
        y = graph.node("QuickGelu", [gate], domain=OPERATORS, alpha=1.0)
        y = graph.node("Mul", [y, f"{gate}.1"])
        more = graph.product(f"down.{number}", down, graph.turned(y, forward.basis.inner))
    y, _ = normed(x, more)
    return graph.product("head", forward.head, y)


def _with_normed_heads(
    graph: Graph, forward: LlamaForward, number: int, both: str, weights: Tensor
) -> list[str]:
    """Queries, keys and values, the first two divided by their heads' lengths (Qwen 3)."""
    counts = [forward.query_heads, forward.heads, forward.heads]
    sizes = graph.numbers([count * forward.size for count in counts])
    query = graph.node("Split", [both, sizes], 3, axis=-1)
    parts = []
    for name, heads, row in (
        (query, forward.query_heads, 0),
        (f"{query}.1", forward.heads, forward.query_heads),
    ):
        shape = graph.numbers([0, 0, heads, forward.size])
        flat = graph.numbers([0, 0, heads * forward.size])
        scale = graph.weight(f"head_norm.{number}.{row}", weights[row])
        y = graph.node("Reshape", [name, shape])
        y = graph.node(
            "SimplifiedLayerNormalization", [y, scale], epsilon=forward.head_epsilon, axis=-1
        )
        parts.append(graph.node("Reshape", [y, flat]))
    return [*parts, f"{query}.2"]


def chain(matrices: Sequence[Grouped | ByRow]) -> Graph:
    """Some rows through one matrix after the other; ``[rows, 1, width]``."""
    graph = Graph()
    name = graph.begin(int(matrices[0].shape[1]), matrices[0])
    for number, matrix in enumerate(matrices):
        name = graph.product(f"matrix.{number}", matrix, name)
    graph.output(name, ["rows", "tokens", int(matrices[-1].shape[0])])
    return graph
