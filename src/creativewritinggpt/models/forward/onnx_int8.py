"""8-bit matrices that onnxruntime multiplies, with 8-bit activations, and its forward passes.

One scale per output and one per row of activations make plain products of whole numbers, fast for
any number of rows. But language models have a few columns of activations that are many times larger
than the others and leave these hardly a digit of such a scale. Two things are done about them:

    x Wᵀ = (x b) (W / b)ᵀ = (x b H) (W / b · H)ᵀ

- b, the norm of each weight column, goes from the weights to the activations, so that a column
  counts in them for as much as it does in the product (as in SmoothQuant, Xiao et al. 2023, arXiv
  2211.10438, without its calibration);
- H, a Hadamard matrix for each 32 columns, is orthogonal and symmetric and spreads over all of them
  what still stands out (as in QuaRot, Ashkboos et al. 2024, arXiv 2404.00456).

Where one matrix's outputs reach the next only through sums and products, the former can do this
once, when it is made, instead of each pass (exact but for the last bits of float32):
- the matrix that makes attention's values makes them balanced and spread;
- the up-projection makes what the gate is multiplied by balanced;
- everything that is added to GPT-2's residual stream is given a mean of zero, so that its norms
  need to subtract none, and the norms' shifts go into the bias of the matrix that follows.

The head is a matrix of groups: one scale per 32 inputs, as exact as 8 bits allow.

A step of a small model is so short that what torch does around each product would take as long as
the product; onnxruntime runs the whole step as one call, on memory that is bound once per context.

Trade-off: activations of 8 bits, and two optional packages. Starter on 2 cores of Zen 4 (Zen 3):
first token of 500 2.8 (1.7) times as fast as transformers, one text 4 (3) times as fast as fp32.
"""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .weights import Projection

_OLDEST = (1, 24)
_KINDS = {torch.float32: np.float32, torch.int32: np.int32, torch.uint8: np.uint8}
# The format whose matrices are made from folded weights.
FOLDED = "onnx"
# Inputs that share a scale, and those that one Hadamard matrix spreads.
GROUP = 32
_SPREAD = 32
_TINY = torch.finfo(torch.float32).tiny


class Int8Groups:
    """A matrix in 8 bits with one scale per group of 32 inputs.

    ``codes`` are uint8 ``[out, groups, 32]`` around 128, ``scales`` float32 ``[out, groups]``,
    ``offset`` the float32 bias. Called, it multiplies by its own rounded weights.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.shape = tuple(weight.shape)
        self.codes, self.scales = quantize_groups(weight)
        self.offset = bias

    def __call__(self, x: Tensor) -> Tensor:
        """``[rows, in]`` to ``[rows, out]``."""
        weight = (self.codes.float() - 128).mul_(self.scales.unsqueeze(-1)).flatten(1)
        return F.linear(x, weight[:, : self.shape[1]], self.offset)


class Int8PerRow:
    """A matrix in 8 bits with one scale per output, for rows in 8 bits with one scale each.

    Processors without instructions for sums of four products (VNNI and the like) add neighbouring
    pairs of them in 16 bits. So rows have whole numbers up to 113, made positive by an offset of
    114, and weights up to 127 of which two neighbours add up to no more than 144: 227 · 144 fits.

    ``balance`` is b, float32 ``[in]``, or None; ``spread`` is H of one block, or None; ``codes``
    are int8 ``[in, out]``, ``scales`` float32 ``[out]``, ``offset`` the float32 bias. Called, it
    computes what onnxruntime does with it.

    Args:
        weight: float32 ``[out, in]``.
        bias: float32 ``[out]``, or None.
        balance: Whether the inputs still have to be balanced.
        spread: Whether they still have to be spread.
    """

    levels = 113
    _most, _most_of_two = 127, 144

    def __init__(
        self, weight: Tensor, bias: Tensor | None, *, balance: bool = True, spread: bool = True
    ) -> None:
        self.shape = tuple(weight.shape)
        self.balance = column_norms(weight) if balance else None
        self.spread = hadamard(math.gcd(weight.shape[1], _SPREAD)) if spread else None
        columns = (weight if self.balance is None else weight / self.balance).t()
        if self.spread is not None:
            blocks = columns.reshape(-1, len(self.spread), len(weight))
            columns = (self.spread @ blocks).view(-1, len(weight))
        even = len(columns) // 2 * 2
        pairs = columns[0:even:2] + columns[1:even:2]
        # Rounding adds half to each.
        most = [_largest(columns) / self._most, _largest(pairs) / (self._most_of_two - 1)]
        self.scales = torch.maximum(*most).clamp_(min=_TINY * 127)
        self.codes = columns.div(self.scales).round_().to(torch.int8).contiguous()
        self.offset = bias

    def __call__(self, x: Tensor) -> Tensor:
        """``[rows, in]`` to ``[rows, out]``."""
        if self.balance is not None:
            x = x * self.balance
        if self.spread is not None:
            x = (x.view(len(x), -1, len(self.spread)) @ self.spread).view(x.shape)
        largest = x.abs().amax(1, keepdim=True).div_(self.levels)
        whole = (x / largest).round_().nan_to_num_(0.0)
        y = (whole @ self.codes.float()).mul_(self.scales).mul_(largest)
        return y if self.offset is None else y.add_(self.offset)


def hadamard(size: int) -> Tensor:
    """The orthogonal, symmetric matrix of ±1/√size; ``size`` is a power of two."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / math.sqrt(size)


def column_norms(weight: Tensor) -> Tensor:
    """The norm of each column of ``[out, in]`` weights, float32 ``[in]``; 1 for zeros."""
    found = torch.linalg.vector_norm(weight, dim=0)
    return torch.where(found > _TINY, found, 1.0)


def _largest(columns: Tensor) -> Tensor:
    """The largest magnitude of each output's weights, ``[in, out]`` to ``[out]``."""
    # Along this dimension several times faster than aminmax.
    return torch.maximum(columns.amax(0), columns.amin(0).neg_())


def quantize_groups(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round each group of 32 weights to whole multiples of one scale.

    Args:
        weight: float32 ``[out, in]``; the last group is filled up with zeros.

    Returns:
        uint8 ``[out, groups, 32]`` codes, of which 128 stands for zero, and float32
        ``[out, groups]`` scales.
    """
    rest = -weight.shape[1] % GROUP
    groups = (F.pad(weight, (0, rest)) if rest else weight).reshape(len(weight), -1, GROUP)
    least, most = torch.aminmax(groups, dim=-1)  # half the time of the largest absolute value
    scales = torch.maximum(most, -least).clamp_(min=_TINY * 127).div_(127)
    codes = groups.div(scales.unsqueeze(-1)).round_().add_(128)
    return codes.to(torch.uint8), scales


def spread_values(
    joined: Projection, out: Projection, heads: int, size: int
) -> tuple[Projection, Projection]:
    """Make attention's values balanced and spread for the output projection.

    Args:
        joined: The projection to queries, keys and values.
        out: The output projection; several query heads may share a head of values.
        heads: Value heads.
        size: Of a head.
    """
    weight, bias = joined
    count = heads * size
    taking = out[0].reshape(len(out[0]), heads, -1, size)
    balance = column_norms(taking.transpose(1, 2).reshape(-1, count)).view(heads, size)
    spread = hadamard(size & -size)  # the largest power of two that a head is a multiple of

    def made(rows: Tensor) -> Tensor:
        balanced = rows.view(heads, size, -1) * balance.unsqueeze(-1)
        blocks = balanced.view(-1, len(spread), rows[0].numel())
        return (spread @ blocks).view(rows.shape)

    weight = torch.cat([weight[:-count], made(weight[-count:])])
    if bias is not None:
        bias = torch.cat([bias[:-count], made(bias[-count:])])
    taking = taking / balance.unsqueeze(1)
    taking = taking.view(len(taking), -1, len(spread)) @ spread
    return (weight, bias), (taking.view(out[0].shape), out[1])


def balance_gate(both: Projection, down: Projection) -> tuple[Projection, Projection]:
    """Make the up-projection's outputs balanced for the down-projection.

    Args:
        both: The gate's outputs, then those of the up-projection.
        down: The down-projection.
    """
    balance = column_norms(down[0])
    factor = torch.cat([torch.ones_like(balance), balance])
    weight, bias = both
    both = weight * factor.unsqueeze(1), None if bias is None else bias * factor
    return both, (down[0] / balance, down[1])


def centre(weights: Projection) -> Projection:
    """The projection with its outputs' mean subtracted."""
    weight, bias = weights
    return weight - weight.mean(0), None if bias is None else bias - bias.mean()


def add_shift(weights: Projection, shift: Tensor) -> Projection:
    """The projection for inputs from which ``shift``, ``[in]``, was left out."""
    weight, bias = weights
    more = weight @ shift
    return weight, more if bias is None else bias + more


def onnx_available() -> bool:
    """Whether onnx and an onnxruntime that multiplies weights of 8 bits are installed."""
    if any(importlib.util.find_spec(name) is None for name in ("onnxruntime", "onnx")):
        return False
    import onnxruntime

    version = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
    return version >= _OLDEST


def session_of(graph: Any, threads: int) -> Any:
    """A session that runs a :class:`~.onnx_graph.Graph` on so many threads."""
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # which only its builds for Windows have
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Between steps the processor is the samplers'.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(v) for v in graph.weights.values()]
    options.add_external_initializers(list(graph.weights), values)
    return onnxruntime.InferenceSession(
        graph.message(), options, providers=["CPUExecutionProvider"]
    )


def offsets(rows: int, tokens: int) -> Tensor:
    """The graph's input ``zeros``, uint8 ``[rows, tokens, 1]``."""
    return torch.full((rows, tokens, 1), Int8PerRow.levels + 1, dtype=torch.uint8)


class OnnxForward:
    """The forward pass of one model, by onnxruntime.

    Args:
        forward: Our own forward pass, with matrices in the format ``onnx``.
        graph: Its graph.
        threads: Processor threads.
    """

    def __init__(self, forward: Any, graph: Any, threads: int) -> None:
        self.forward = forward
        self.session = session_of(graph, threads)
        self.logits = self.session.get_outputs()[-1].name

    def bind(self, entries: Tensor) -> BoundForward:
        """Passes over the rows of a cache's ``entries``."""
        return BoundForward(self, entries)


class BoundForward:
    """A forward pass whose inputs and outputs lie in fixed memory.

    Args:
        model: The model.
        entries: Keys and values, ``[layer, 2, row, head, capacity, size]``; several tokens at once
            go into a cache of one row only.
    """

    def __init__(self, model: OnnxForward, entries: Tensor) -> None:
        rows = entries.shape[2]
        self.model = model
        self.last = torch.zeros(rows, dtype=torch.int32)
        self.longest = torch.zeros((), dtype=torch.int32)
        self.logits = torch.zeros(rows, model.forward.vocabulary)
        self._binding = model.session.io_binding()
        self._in("last", self.last)
        self._in("longest", self.longest)
        self._out(model.logits, self.logits, (rows, 1, model.forward.vocabulary))
        self._entries = entries  # must live as long as what is bound to them
        for layer in range(len(entries)):
            for number, kind in enumerate(("keys", "values")):
                part = entries[layer, number]
                self._in(f"{kind}.{layer}", part)
                self._out(f"new_{kind}.{layer}", part, tuple(part.shape))
        self._make_room(1)

    def _make_room(self, tokens: int) -> None:
        """Bind inputs for so many tokens of each row."""
        rows, forward = len(self.last), self.model.forward
        self.x = torch.zeros(rows, tokens, int(forward.token_embedding.shape[1]))
        self._inputs = {"x": self.x, "zeros": offsets(rows, tokens)}
        for name, tensor in self._inputs.items():
            self._in(name, tensor)

    def __call__(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Read some more tokens of each row.

        Args:
            tokens: int64 ``[rows, tokens]``.
            lengths: Tokens that each row holds already, int64 ``[rows]``.

        Returns:
            float32 ``[rows, vocabulary]`` after the last of them, overwritten by the next call.
        """
        count = tokens.shape[1]
        if count != self.x.shape[1]:
            self._make_room(count)
        positions = lengths.unsqueeze(1) + torch.arange(count)
        self.x.copy_(self.model.forward.embed(tokens, positions))
        self.last.copy_(positions[:, -1])
        self.longest.fill_(int(lengths.max()) + count)
        self.model.session.run_with_iobinding(self._binding)
        return self.logits

    def _in(self, name: str, tensor: Tensor) -> None:
        kind = _KINDS[tensor.dtype]
        shape = tuple(tensor.shape)
        self._binding.bind_input(name, "cpu", 0, kind, shape, tensor.data_ptr())

    def _out(self, name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
        self._binding.bind_output(name, "cpu", 0, np.float32, shape, tensor.data_ptr())
