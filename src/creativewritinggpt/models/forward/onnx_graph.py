"""Forward passes as ONNX graphs, made of our own matrices.

    x [rows, tokens, width] → layers, each reading and growing its keys and values → logits

The graph computes what the families' forward passes do: one token in each row, or several
in a single row, of which only the last one's logits are computed. Activations are rounded by nodes
to 8 bits with one scale per row and multiplied by ``MatMulIntegerToFloat``; the head is a
``MatMulNBits``. ``GroupQueryAttention`` writes keys and values in place and knows the length of
each row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper
from torch import Tensor

from .families import Forward, LlamaForward
from .onnx_int8 import GROUP, Int8Groups, Int8PerRow

OPERATORS = "com.microsoft"
_FLOAT = TensorProto.FLOAT


class Graph:
    """Nodes and weights of a graph while it is put together.

    Attributes:
        weights: Arrays by name, handed to the runtime beside the graph: a message may not exceed
            2 GB, and nothing is copied.
        zeros: The input that holds the offset of each row.
    """

    opset = 21

    def __init__(self) -> None:
        self.weights: dict[str, np.ndarray[Any, Any]] = {}
        self.lists: dict[str, Any] = {}
        self.nodes: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.zeros = ""

    def begin(self, width: int) -> str:
        """Add the inputs ``x`` and ``zeros``; the name of the former."""
        self.input("x", _FLOAT, ["rows", "tokens", width])
        # The offset of each row: the operator wants one where it wants a scale.
        self.zeros = "zeros"
        self.input(self.zeros, TensorProto.UINT8, ["rows", "tokens", 1])
        return "x"

    def input(self, name: str, kind: int, shape: list[str | int]) -> None:
        """Add an input."""
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))

    def output(self, name: str, shape: list[str | int]) -> None:
        """Declare an output; float32."""
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

    def product(
        self, name: str, matrix: Any, x: str, *, balanced: bool = False, factor: str = ""
    ) -> str:
        """``x`` through a matrix.

        Args:
            name: Of the matrix, for its weights.
            matrix: An ``Int8PerRow``, or the ``Int8Groups`` of the head.
            x: The activations.
            balanced: Whether the norm before has applied the matrix's balance already.
            factor: A factor for each row of ``x`` that is still to be applied, if any.
        """
        if isinstance(matrix, Int8PerRow):
            if not balanced:
                x = self.balanced(name, matrix, x)
            y = self.by_row(name, matrix, x, factor)
            if matrix.offset is None:
                return y
            return self.node("Add", [y, self.weight(f"{name}.bias", matrix.offset)])
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
            domain=OPERATORS,
            K=inputs,
            N=outputs,
            bits=8,
            block_size=GROUP,
            accuracy_level=4,
        )

    def gated(self, name: str, matrix: Any, x: str) -> tuple[str, str]:
        """The second half of a matrix's outputs times SiLU of the first, for balanced ``x``.

        Returns:
            The name of the product, and of a factor for each row that is still to be applied, if
            any: a matrix that rounds by row can do so afterwards.
        """
        if matrix.offset is not None:
            return self.gated_at_once(name, matrix, x), ""
        whole, scale = self._rounded(matrix, x)
        half = matrix.shape[0] // 2
        gate = self._whole_product(f"{name}.gate", matrix, whole, slice(half))
        up = self._whole_product(f"{name}.up", matrix, whole, slice(half, None))
        return self._silu_times(self.node("Mul", [gate, scale]), up), scale

    def gated_at_once(self, name: str, matrix: Any, x: str) -> str:
        """The same as one product, with no factor left."""
        both = self.product(name, matrix, x, balanced=True)
        gate = self.node("Split", [both], 2, axis=-1, num_outputs=2)
        return self._silu_times(gate, f"{gate}.1")

    def _silu_times(self, gate: str, up: str) -> str:
        y = self.node("QuickGelu", [gate], domain=OPERATORS, alpha=1.0)
        return self.node("Mul", [y, up])

    def balanced(self, name: str, matrix: Int8PerRow, x: str) -> str:
        """``x`` times the matrix's balance, where no norm has applied it."""
        if matrix.balance is None:
            return x
        return self.node("Mul", [x, self.weight(f"{name}.balance", matrix.balance)])

    def by_row(self, name: str, matrix: Int8PerRow, x: str, factor: str = "") -> str:
        """Balanced ``x`` through a matrix, without its bias."""
        whole, scale = self._rounded(matrix, x)
        y = self._whole_product(name, matrix, whole, slice(None))
        if factor:
            scale = self.node("Mul", [scale, factor])
        return self.node("Mul", [y, scale])

    def _rounded(self, matrix: Int8PerRow, x: str) -> tuple[str, str]:
        """Whole numbers for ``x``, and the scale of each row."""
        if matrix.spread is not None:
            x = self._spread(x, matrix.spread)
        largest = self.node("ReduceMax", [self.node("Abs", [x]), self.numbers([-1])], keepdims=1)
        scale = self.node("Mul", [largest, self.number(1 / matrix.levels)])
        # One block of columns: the whole row.
        given = [x, scale, self.zeros]
        return self.node("QuantizeLinear", given, axis=2, block_size=matrix.shape[1]), scale

    def _whole_product(self, name: str, matrix: Int8PerRow, whole: str, part: slice) -> str:
        """Whole numbers times some of a matrix's outputs."""
        given = [
            whole,
            self.weight(f"{name}.codes", matrix.codes[:, part]),
            self.number(1.0),
            self.weight(f"{name}.scales", matrix.scales[part]),
            self.number(matrix.levels + 1, TensorProto.UINT8),
        ]
        return self.node("MatMulIntegerToFloat", given, domain=OPERATORS)

    def number(self, value: float, kind: int = _FLOAT) -> str:
        """Add a single number, which the graph holds itself; its name."""
        name = f"number.{value}"
        self.lists[name] = helper.make_tensor(name, kind, [], [value])
        return name

    def _spread(self, x: str, spread: Tensor) -> str:
        blocks = self.node("Reshape", [x, self.numbers([0, 0, -1, len(spread)])])
        spread_name = self.weight(f"spread.{len(spread)}", spread)
        blocks = self.node("MatMul", [blocks, spread_name])
        return self.node("Reshape", [blocks, self.numbers([0, 0, -1])])

    def last(self, *names: str) -> list[str]:
        """The last token of each row; all that follows is of these alone."""
        return self.only(self.numbers([-1]), *names)

    def only(self, index: str, *names: str) -> list[str]:
        """Some tokens of each row; all that follows is of these alone."""
        self.zeros = self.node("Gather", [self.zeros, index], axis=1)
        return [self.node("Gather", [name, index], axis=1) for name in names]

    def attention(
        self, number: int, forward: Any, query: list[str], rotation: list[str] | None
    ) -> str:
        """Attention of a layer; its keys and values are read and written in the same memory."""
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
                domain=OPERATORS,
                num_heads=forward.query_heads,
                kv_num_heads=forward.heads,
                do_rotary=int(rotation is not None),
                rotary_interleaved=int(rotation is not None),
            )
        )
        return name

    def normed(
        self, name: str, x: str, more: str | None, norm: Sequence[Tensor], matrix: Any,
        epsilon: float,
    ) -> tuple[str, str]:  # fmt: skip
        """The norm of ``x + more`` as a matrix takes it, and the sum itself.

        Args:
            name: Of the norm, for its weights.
            x: The residual stream.
            more: The layer output that is added to it.
            norm: Weights and shifts; weights alone for a norm that subtracts no mean.
            matrix: The matrix that follows.
            epsilon: Added to the mean square.
        """
        if isinstance(matrix, Int8PerRow) and matrix.balance is not None:
            norm = [each * matrix.balance for each in norm]
        weights = [self.weight(f"{name}.{i}", value.float()) for i, value in enumerate(norm)]
        kind = f"{'Simplified' if len(norm) == 1 else ''}LayerNormalization"
        if more is None:
            return self.node(kind, [x, *weights], epsilon=epsilon), x
        given = [x, more, *weights]
        y = self.node(f"Skip{kind}", given, 4, OPERATORS, epsilon=epsilon)
        return y, f"{y}.3"

    def message(self) -> bytes:
        """The graph as onnxruntime takes it."""
        kinds = {
            np.dtype(np.float32): _FLOAT,
            np.dtype(np.uint8): TensorProto.UINT8,
            np.dtype(np.int8): TensorProto.INT8,
        }
        elsewhere = []
        for name, value in self.weights.items():
            tensor = TensorProto(name=name, data_type=kinds[value.dtype], dims=value.shape)
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="memory")
            elsewhere.append(tensor)
        graph = helper.make_graph(
            self.nodes,
            "forward",
            self.inputs,
            self.outputs,
            [*elsewhere, *self.lists.values()],
        )
        sets = [helper.make_opsetid("", self.opset), helper.make_opsetid(OPERATORS, 1)]
        model = helper.make_model(graph, opset_imports=sets, ir_version=10)
        return bytes(model.SerializeToString())


def forward_graph(forward: Forward) -> Graph:
    """The graph of a forward pass whose matrices are in the format ``onnx``."""
    graph = Graph()
    graph.input("last", TensorProto.INT32, ["rows"])
    graph.input("longest", TensorProto.INT32, [])
    x, more = layers(graph, forward)
    norm, epsilon = _last_norm(forward)
    y, _ = graph.normed("norm.head", x, more, norm, forward.head, epsilon)
    logits = graph.product("head", forward.head, y, balanced=True)
    graph.output(logits, ["rows", 1, forward.vocabulary])
    return graph


def layers(graph: Graph, forward: Forward) -> tuple[str, str]:
    """Add the input and the layers; the names of the last residual and what is added to it."""
    x = graph.begin(int(forward.token_embedding.shape[1]))
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
        if number == len(forward.layers) - 1:
            mixed, x = graph.last(mixed, x)
        more = graph.product(f"out.{number}", out, mixed)
        wide, x = normed(f"up.{number}", x, more, norm_2, up)
        y = graph.node("FastGelu", [wide], domain=OPERATORS)
        more = graph.product(f"down.{number}", down, y)
    return x, str(more)


def _last_norm(forward: Any) -> tuple[Sequence[Tensor], float]:
    """Weights and epsilon of the norm before the head."""
    if isinstance(forward, LlamaForward):
        # The norms' weights are in the matrices, times √width.
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
        if number == len(forward.layers) - 1:
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
    """Queries, keys and values, the first two normalised per head (Qwen 3)."""
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


def chain(matrices: Sequence[Int8Groups | Int8PerRow]) -> Graph:
    """The graph of one matrix after the other; ``[rows, tokens, width]``."""
    graph = Graph()
    name = graph.begin(int(matrices[0].shape[1]))
    for number, matrix in enumerate(matrices):
        name = graph.product(f"matrix.{number}", matrix, name)
    graph.output(name, ["rows", "tokens", int(matrices[-1].shape[0])])
    return graph
