"""Parts of a forward pass as nodes of an ONNX graph, while the graph is put together.

Both formats of weights multiply whole numbers of 8 bits. ``MatMulNBits`` rounds activations with
one scale for each 32 of them; ``MatMulIntegerToFloat`` has one for each row, which is rounded by
nodes before it. ``GroupQueryAttention`` writes keys and values in place and knows the length of
each row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper
from torch import Tensor

from .matrices import GROUP, ByRow

OPERATORS = "com.microsoft"
_FLOAT = TensorProto.FLOAT


class Graph:
    """Nodes and weights of a graph while it is put together.

    Attributes:
        weights: What the graph reads, by name; handed to the runtime beside the graph, so that
            nothing is copied into a message that may not grow beyond 2 GB.
        zeros: The input that holds the offset of each row, if rows have one.
    """

    opset = 21

    def __init__(self) -> None:
        self.weights: dict[str, np.ndarray[Any, Any]] = {}
        self.lists: dict[str, Any] = {}
        self.nodes: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.zeros = ""

    def begin(self, width: int, matrix: Any) -> str:
        """Add the input, for matrices like this one; its name."""
        self.input("x", _FLOAT, ["rows", "tokens", width])
        if isinstance(matrix, ByRow):
            # The offset of each row: the operator wants one where it wants a scale.
            self.zeros = "zeros"
            self.input(self.zeros, TensorProto.UINT8, ["rows", "tokens", 1])
        return "x"

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

    def product(
        self, name: str, matrix: Any, x: str, *, balanced: bool = False, factor: str = ""
    ) -> str:
        """``x`` through a matrix.

        Args:
            name: Of the matrix, for its weights.
            matrix: Grouped or by row.
            x: What is multiplied.
            balanced: Whether the norm before it has applied the matrix's balance already.
            factor: What each row of ``x`` is still to be multiplied by; nothing if empty.
        """
        if isinstance(matrix, ByRow):
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
            The name of the product, and of what its rows are still to be multiplied by, if any.
            What is rounded by row next can have that afterwards, as a number for each row.
        """
        if not isinstance(matrix, ByRow) or matrix.offset is not None:
            return self.gated_at_once(name, matrix, x), ""
        whole, scale = self._rounded(matrix, x)
        half = matrix.shape[0] // 2
        gate = self._whole_product(f"{name}.gate", matrix, whole, slice(half))
        up = self._whole_product(f"{name}.up", matrix, whole, slice(half, None))
        return self._silu_times(self.node("Mul", [gate, scale]), up), scale

    def gated_at_once(self, name: str, matrix: Any, x: str) -> str:
        """The same as one product, with nothing left to do."""
        both = self.product(name, matrix, x, balanced=True)
        gate = self.node("Split", [both], 2, axis=-1, num_outputs=2)
        return self._silu_times(gate, f"{gate}.1")

    def _silu_times(self, gate: str, up: str) -> str:
        y = self.node("QuickGelu", [gate], domain=OPERATORS, alpha=1.0)
        return self.node("Mul", [y, up])

    def balanced(self, name: str, matrix: ByRow, x: str) -> str:
        """What no norm has multiplied by the matrix's balance, by it."""
        if matrix.balance is None:
            return x
        return self.node("Mul", [x, self.weight(f"{name}.balance", matrix.balance)])

    def by_row(self, name: str, matrix: ByRow, x: str, factor: str = "") -> str:
        """``x``, balanced, through a matrix whose bias is left out."""
        whole, scale = self._rounded(matrix, x)
        y = self._whole_product(name, matrix, whole, slice(None))
        if factor:
            scale = self.node("Mul", [scale, factor])
        return self.node("Mul", [y, scale])

    def _rounded(self, matrix: ByRow, x: str) -> tuple[str, str]:
        """Whole numbers for ``x``, and the scale of each row."""
        if matrix.spread is not None:
            x = self._spread(x, matrix.spread)
        largest = self.node("ReduceMax", [self.node("Abs", [x]), self.numbers([-1])], keepdims=1)
        scale = self.node("Mul", [largest, self.number(1 / matrix.levels)])
        # One block of columns: the whole row.
        given = [x, scale, self.zeros]
        return self.node("QuantizeLinear", given, axis=2, block_size=matrix.shape[1]), scale

    def _whole_product(self, name: str, matrix: ByRow, whole: str, part: slice) -> str:
        """Whole numbers by some of a matrix's outputs."""
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
        """The last token of each row; what follows is of these alone."""
        return self.only(self.numbers([-1]), *names)

    def only(self, index: str, *names: str) -> list[str]:
        """Some tokens of each row; what follows is of these alone."""
        self.zeros = self.node("Gather", [self.zeros, index], axis=1)
        return [self.node("Gather", [name, index], axis=1) for name in names]

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
        """The norm of ``x + more`` as a matrix wants it, and the sum itself.

        Args:
            name: Of the norm, for its weights.
            x: The sum so far.
            more: What is added to it.
            norm: Weights and shifts; weights alone for a norm that subtracts no mean.
            matrix: What multiplies it.
            epsilon: What is added to the mean square.
        """
        if isinstance(matrix, ByRow) and matrix.balance is not None:
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
            "writing",
            self.inputs,
            self.outputs,
            [*elsewhere, *self.lists.values()],
        )
        sets = [helper.make_opsetid("", self.opset), helper.make_opsetid(OPERATORS, 1)]
        model = helper.make_model(graph, opset_imports=sets, ir_version=10)
        return bytes(model.SerializeToString())
