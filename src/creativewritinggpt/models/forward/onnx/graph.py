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

from ..gpt2 import GPT2Forward
from ..llama import LlamaForward
from .matrices import ByRow, Grouped
from .nodes import OPERATORS, Graph


def forward_graph(forward: GPT2Forward | LlamaForward) -> Graph:
    """A forward pass in a format of onnxruntime's.

    With :class:`~.onnx_matrices.Grouped` matrices it is that of one token in each row.
    """
    graph = Graph()
    graph.input("last", TensorProto.INT32, ["rows"])
    graph.input("longest", TensorProto.INT32, [])
    x, more = layers(graph, forward)
    norm, epsilon = _last_norm(forward)
    y, _ = graph.normed("norm.head", x, more, norm, forward.head, epsilon)
    logits = graph.product("head", forward.head, y, balanced=True)
    graph.output(logits, ["rows", 1, forward.vocabulary])
    return graph


def layers(graph: Graph, forward: GPT2Forward | LlamaForward) -> tuple[str, str]:
    """Add the input and the layers; the names of the sum before the last and of its own part."""
    x = graph.begin(int(forward.token_embedding.shape[1]), forward.layers[0][-1])
    return (_llama if isinstance(forward, LlamaForward) else _gpt2)(graph, forward, x)


def _gpt2(graph: Graph, forward: Any, x: str) -> tuple[str, str]:
    """The layers of GPT-2."""

    def normed(
        name: str, x: str, more: str | None, norm: Sequence[Tensor], matrix: Any
    ) -> tuple[str, str]:
        """A matrix after the norm of ``x + more``, and the sum itself."""
        y, x = graph.normed(f"norm.{name}", x, more, norm, matrix, forward.epsilon)
        return graph.product(name, matrix, y, balanced=True), x

    more = None
    for number, (norm_1, qkv, out, norm_2, up, down) in enumerate(forward.layers):
        heads, x = normed(f"qkv.{number}", x, more, norm_1, qkv)
        mixed = graph.attention(number, forward, [heads, "", ""], None)
        if graph.zeros and number == len(forward.layers) - 1:
            mixed, x = graph.last(mixed, x)
        more = graph.product(f"out.{number}", out, mixed)
        wide, x = normed(f"up.{number}", x, more, norm_2, up)
        y = graph.node("FastGelu", [wide], domain=OPERATORS)
        more = graph.product(f"down.{number}", down, y)
    return x, str(more)


def _last_norm(forward: Any) -> tuple[Sequence[Tensor], float]:
    """Weights of the norm before the head, and what it adds to the mean square."""
    if isinstance(forward, LlamaForward):
        # The norms' weights are in the matrices, times the square root of the width.
        return [torch.full((forward.width,), forward.width**-0.5)], forward.head_epsilon
    return forward.last_norm, forward.epsilon


def _llama(graph: Graph, forward: Any, x: str) -> tuple[str, str]:
    """The layers of Llama."""
    norm, epsilon = _last_norm(forward)
    angles = torch.arange(forward.positions).unsqueeze(1).float() * forward.frequencies
    rotation = [
        graph.weight("cos", angles.cos() * forward.rotation_scale),
        graph.weight("sin", angles.sin() * forward.rotation_scale),
    ]

    more = None
    for number, (qkv, head_norms, out, gate_and_up, down) in enumerate(forward.layers):
        y, x = graph.normed(f"norm.qkv.{number}", x, more, norm, qkv, epsilon)
        heads = graph.product(f"qkv.{number}", qkv, y, balanced=True)
        query = [heads, "", ""]
        if head_norms is not None:
            query = _with_normed_heads(graph, forward, number, heads, head_norms)
        mixed = graph.attention(number, forward, query, rotation)
        if graph.zeros and number == len(forward.layers) - 1:
            mixed, x = graph.last(mixed, x)
        more = graph.product(f"out.{number}", out, mixed)
        name = f"gate_and_up.{number}"
        y, x = graph.normed(f"norm.{name}", x, more, norm, gate_and_up, epsilon)
        y, factor = graph.gated(name, gate_and_up, y)
        more = graph.product(f"down.{number}", down, y, factor=factor)
    return x, str(more)


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
    """Some rows through one matrix after the other; ``[rows, tokens, width]``."""
    graph = Graph()
    name = graph.begin(int(matrices[0].shape[1]), matrices[0])
    for number, matrix in enumerate(matrices):
        name = graph.product(f"matrix.{number}", matrix, name)
    graph.output(name, ["rows", "tokens", int(matrices[-1].shape[0])])
    return graph
