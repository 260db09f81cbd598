"""One decoding step of a model as an ONNX graph, from the matrices of our own forward pass.

    x [rows, 1, width] → layers, each reading and growing its keys and values → logits

The graph is that of ``gpt2_forward`` and ``llama_forward`` for one token in each row. Weights are
multiplied in 8 bits by onnxruntime's ``MatMulNBits``, which rounds activations to 8 bits too, with
one scale for each 32 of them: whole-number products, and yet as exact as weights of 8 bits allow.
``GroupQueryAttention`` writes keys and values in place and knows the length of each row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper
from torch import Tensor

from .gpt2_forward import GPT2Forward
from .llama_forward import LlamaForward
from .matrices import GROUP, Grouped

_OPERATORS = "com.microsoft"
_FLOAT, _INT = TensorProto.FLOAT, TensorProto.INT32


class Graph:
    """Nodes and weights of a graph while it is put together.

    Attributes:
        weights: What the graph reads, by name; handed to the runtime beside the graph, so that
            nothing is copied into a message that may not grow beyond 2 GB.
    """

    def __init__(self) -> None:
        self.weights: dict[str, np.ndarray[Any, Any]] = {}
        self.lists: dict[str, Any] = {}
        self.nodes: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def input(self, name: str, kind: int, shape: list[str | int]) -> None:
        """Add an input."""
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))

    def output(self, name: str, shape: list[str | int]) -> None:
        """Say that what has this name is an output; float32."""
        self.outputs.append(helper.make_tensor_value_info(name, _FLOAT, shape))

    def node(
        self,
        operator: str,
        inputs: list[str],
        outputs: int = 1,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Add a node; the name of its first output, to which the others add a number."""
        name = f"{operator}_{len(self.nodes)}"
        names = [name, *(f"{name}.{number}" for number in range(1, outputs))]
        self.nodes.append(helper.make_node(operator, inputs, names, domain=domain, **attributes))
        return name

    def weight(self, name: str, value: Tensor) -> str:
        """Add a weight; its name."""
        self.weights[name] = np.ascontiguousarray(value.detach().numpy())
        return name

    def numbers(self, values: list[int]) -> str:
        """Add a short list of whole numbers, which the graph holds itself; its name."""
        name = f"numbers.{'.'.join(map(str, values))}"
        self.lists[name] = helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
        return name

    def product(self, name: str, matrix: Any, x: str) -> str:
        """``x`` through a matrix."""
        outputs, inputs = matrix.shape
        given = [
            x,
            self.weight(f"{name}.codes", matrix.codes),
            self.weight(f"{name}.scales", matrix.scales),
        ]
        if matrix.offset is not None:
            given += ["", "", self.weight(f"{name}.bias", matrix.offset)]
        return self.node(
            "MatMulNBits",
            given,
            domain=_OPERATORS,
            K=inputs,
            N=outputs,
            bits=8,
            block_size=GROUP,
            accuracy_level=4,
        )

    def attention(
        self, number: int, forward: Any, query: list[str], rotation: list[str] | None
    ) -> str:
        """Attention of a layer; its keys and values go in and out under the same memory."""
        shape: list[str | int] = ["rows", forward.heads, "capacity", forward.size]
        for kind in ("keys", "values"):
            self.input(f"{kind}.{number}", _FLOAT, shape)
            self.output(f"new_{kind}.{number}", shape)
        given = [*query, f"keys.{number}", f"values.{number}", "last", "longest"]
        name = f"attention.{number}"
        self.nodes.append(
            helper.make_node(
                "GroupQueryAttention",
                given + (rotation or []),
                [name, f"new_keys.{number}", f"new_values.{number}"],
                domain=_OPERATORS,
                num_heads=forward.query_heads,
                kv_num_heads=forward.heads,
                do_rotary=int(rotation is not None),
                rotary_interleaved=int(rotation is not None),
            )
        )
        return name

    def message(self) -> bytes:
        """The graph as onnxruntime takes it."""
        kinds = {np.dtype(np.float32): _FLOAT, np.dtype(np.uint8): TensorProto.UINT8}
        elsewhere = []
        for name, value in self.weights.items():
            tensor = TensorProto(name=name, data_type=kinds[value.dtype], dims=value.shape)
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="memory")
            elsewhere.append(tensor)
        graph = helper.make_graph(
            self.nodes,
            "writing",
            self.inputs,
            self.outputs,
            [*elsewhere, *self.lists.values()],
        )
        sets = [helper.make_opsetid("", 18), helper.make_opsetid(_OPERATORS, 1)]
        model = helper.make_model(graph, opset_imports=sets, ir_version=9)
        return bytes(model.SerializeToString())


def step_graph(forward: GPT2Forward | LlamaForward) -> Graph:
    """The step of a forward pass whose matrices are :class:`~.matrices.Grouped`."""
    graph = Graph()
    graph.input("x", _FLOAT, ["rows", 1, int(forward.token_embedding.shape[1])])
    graph.input("last", _INT, ["rows"])
    graph.input("longest", _INT, [])
    logits = _llama(graph, forward) if isinstance(forward, LlamaForward) else _gpt2(graph, forward)
    graph.output(logits, ["rows", 1, forward.vocabulary])
    return graph


def _gpt2(graph: Graph, forward: GPT2Forward) -> str:
    """The layers of GPT-2; the name of the logits."""

    def normed(name: str, x: str, more: str | None, norm: tuple[Tensor, Tensor]) -> tuple[str, str]:
        """The norm of ``x + more``, and the sum itself."""
        weights = [graph.weight(f"{name}.{i}", value.float()) for i, value in enumerate(norm)]
        if more is None:
            given = [x, *weights]
            return graph.node("LayerNormalization", given, epsilon=forward.epsilon), x
        given = [x, more, *weights]
        y = graph.node("SkipLayerNormalization", given, 4, _OPERATORS, epsilon=forward.epsilon)
        return y, f"{y}.3"

    x, more = "x", None
    for number, (norm_1, qkv, out, norm_2, up, down) in enumerate(forward.layers):
        y, x = normed(f"norm_1.{number}", x, more, norm_1)
        heads = graph.product(f"qkv.{number}", qkv, y)
        mixed = graph.attention(number, forward, [heads, "", ""], None)
        more = graph.product(f"out.{number}", out, mixed)
        y, x = normed(f"norm_2.{number}", x, more, norm_2)
        y = graph.node("FastGelu", [graph.product(f"up.{number}", up, y)], domain=_OPERATORS)
        more = graph.product(f"down.{number}", down, y)
    y, _ = normed("last_norm", x, more, forward.last_norm)
    return graph.product("head", forward.head, y)


def _llama(graph: Graph, forward: LlamaForward) -> str:
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
        if more is None:
            return graph.node("SimplifiedLayerNormalization", [x, ones], epsilon=epsilon), x
        given = [x, more, ones]
        y = graph.node("SkipSimplifiedLayerNormalization", given, 4, _OPERATORS, epsilon=epsilon)
        return y, f"{y}.3"

    x, more = "x", None
    for number, (qkv, head_norms, out, gate_and_up, down) in enumerate(forward.layers):
        y, x = normed(x, more)
        query = [graph.product(f"qkv.{number}", qkv, y), "", ""]
        if head_norms is not None:
            query = _with_normed_heads(graph, forward, number, query[0], head_norms)
        mixed = graph.attention(number, forward, query, rotation)
        more = graph.product(f"out.{number}", out, mixed)
        y, x = normed(x, more)
        both = graph.product(f"gate_and_up.{number}", gate_and_up, y)
        gate = graph.node("Split", [both], 2, axis=-1, num_outputs=2)
        y = graph.node("QuickGelu", [gate], domain=_OPERATORS, alpha=1.0)
        y = graph.node("Mul", [y, f"{gate}.1"])
        more = graph.product(f"down.{number}", down, y)
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
        shape = graph.numbers([-1, 1, heads, forward.size])
        flat = graph.numbers([-1, 1, heads * forward.size])
        scale = graph.weight(f"head_norm.{number}.{row}", weights[row])
        y = graph.node("Reshape", [name, shape])
        y = graph.node(
            "SimplifiedLayerNormalization", [y, scale], epsilon=forward.head_epsilon, axis=-1
        )
        parts.append(graph.node("Reshape", [y, flat]))
    return [*parts, f"{query}.2"]


def chain(matrices: Sequence[Grouped]) -> Graph:
    """Some rows through one matrix after the other, ``x`` to ``y``; ``[rows, width]``."""
    graph, name = Graph(), "x"
    graph.input("x", _FLOAT, ["rows", int(matrices[0].shape[1])])
    for number, matrix in enumerate(matrices):
        name = graph.product(f"matrix.{number}", matrix, name)
    graph.output(name, ["rows", int(matrices[-1].shape[0])])
    return graph
