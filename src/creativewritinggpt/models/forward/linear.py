"""Matrices in the number format that they are multiplied in.

Writing one token reads every weight once, so the fewer bits a weight has the faster it goes. With
few rows every format computes each row as if it were alone: a text does not depend on how many
others are written beside it.

Trade-off: formats made for a few rows keep a second copy of the weights for prompts, in the format
in which this processor multiplies many rows fastest: int8 with int8 activations, bf16 or fp32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ...devices import fastest, measured, product_seconds
from .onnx_int8 import Int8Groups, Int8PerRow

_TINY = torch.finfo(torch.float32).tiny
# Up to so many rows the int8 kernel is as fast as bf16 on the processors measured, or faster.
INT8_ROWS = 8

_DENSE = {"fp32": torch.float32, "bf16": torch.bfloat16}
# A product in int8 that is 1.6 times as fast made a prompt no more than 1.15 times as fast.
_WORTH_INT8 = 2.0
# A matrix with more outputs for each input than this is the head.
_MOST_OUTPUTS = 16

BLOCK = 256
"""Rows that are multiplied at once."""

_LEVELS = 127
# More outputs at once would push a block's numbers out of the cache.
_WIDTH = 1024
_OUTLIERS = 8
_GROUPS = range(256, 63, -1)
# Far from where reciprocals overflow.
_FAR = 2.0**-100

Matrix = Callable[[Tensor], Tensor]
MakeMatrix = Callable[[Tensor, Tensor | None], Matrix]


class Dense:
    """A matrix in the format of its activations: fp32 or bf16."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        self.weight = weight.to(dtype).contiguous()
        self.bias = None if bias is None else bias.to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """``[rows, in]`` to ``[rows, out]``."""
        return F.linear(x, self.weight, self.bias)


class Int8:
    """A matrix of int8 with one bf16 scale per output, and a second copy for many rows."""

    def __init__(self, weight: Tensor, bias: Tensor | None, prefill: MakeMatrix) -> None:
        self.scales, self.weight = quantize(weight)
        self.prefill = prefill(weight, bias)
        self.bias = None if bias is None else bias.to(torch.bfloat16)

    def __call__(self, x: Tensor) -> Tensor:
        """``[rows, in]`` to ``[rows, out]``, all in bf16."""
        if len(x) > INT8_ROWS:
            return self.prefill(x).to(x.dtype)
        product: Tensor = torch.ops.aten._weight_int8pack_mm(x, self.weight, self.scales)
        return product if self.bias is None else product.add_(self.bias)


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round each output's weights to whole multiples of one scale.

    Args:
        weight: float32 ``[out, in]``.

    Returns:
        bf16 ``[out]`` scales and int8 ``[out, in]``. The scale is rounded to bf16 first, so that
        its own rounding is no error.
    """
    largest = weight.abs().amax(1).clamp(min=_TINY)
    scales = (largest / 127).to(torch.bfloat16)
    # A scale that was rounded down would push the largest weight past 127.
    low = scales.float() * 127 < largest
    scales = torch.where(low, torch.nextafter(scales, torch.full_like(scales, torch.inf)), scales)
    whole = torch.round(weight / scales.float().unsqueeze(1)).clamp_(-127, 127)
    return scales, whole.to(torch.int8).contiguous()


class Workspace:
    """Memory for one block at a time, shared by the matrices of a model."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, torch.dtype, int], Tensor] = {}

    def take(self, use: str, dtype: torch.dtype, columns: int) -> Tensor:
        """``[BLOCK, columns]``, of any content."""
        key = (use, dtype, columns)
        if key not in self._kept:
            self._kept[key] = torch.zeros(BLOCK, columns, dtype=dtype)
        return self._kept[key]


class Int8Product:
    """``x Wᵀ + bias`` in int8 for many rows and a weight that does not change.

    x ⊙ b ≈ r ⊙ q,   W ⊘ b ≈ c ⊙ p          q, p whole numbers up to 127
    x Wᵀ  ≈ Σ over groups  r ⊙ (q pᵀ)  ⊙ cᵀ

    Each row has a scale r of its own, each output a scale c. Language models have a few input
    columns that are far larger than the others, and three things keep them from costing those their
    digits:
    - b, the root of each weight column's norm, goes from the weights to the activations beforehand,
      so that neither side has all of the spread (as in SmoothQuant, Xiao et al. 2023, without its
      calibration);
    - where a weight has more outputs than inputs, the largest columns of a block are multiplied in
      float32 (as in LLM.int8(), Dettmers et al. 2022), by the same rounded weights;
    - where it has no more outputs than inputs, the inputs are multiplied in groups, each with a row
      scale of its own.

    ``torch._int_mm`` multiplies the whole numbers: the fastest way where the processor has
    AVX512-VNNI or AMX, and a plain loop, many times slower than float32, where it has not. Rows are
    taken in blocks that stay in the processor's cache, in memory that is allocated once.

    Trade-off: about 1 % of rounding in each product, and a row's result depends, within that
    rounding, on the rows of its block.

    Args:
        weight: float32 ``[out, in]``, any strides.
        bias: ``[out]`` or None.
        workspace: Memory for blocks.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, workspace: Workspace) -> None:
        self.outputs, self.inputs = weight.shape
        self.workspace = workspace
        self.bias = None if bias is None else bias.float()
        norms = torch.linalg.vector_norm(weight, dim=0)
        # A column of zeros stays one, whatever its factor.
        self.balance = torch.where(norms > _FAR, norms, 1.0).sqrt_()
        balanced = weight / self.balance
        largest = torch.maximum(balanced.amax(1), balanced.amin(1).neg_())
        self.scale = largest.clamp_(min=_FAR).div_(_LEVELS)
        whole = balanced.div_(self.scale.unsqueeze(1)).round_().to(torch.int8)
        self.group = self.inputs
        if self.outputs <= self.inputs:
            self.group = next((n for n in _GROUPS if self.inputs % n == 0), self.inputs)
        self.outliers = min(_OUTLIERS, self.inputs) if self.group == self.inputs else 0
        # [in, out] each, by slices of the outputs.
        self.weights = [part.T.contiguous() for part in torch.split(whole, _WIDTH)]

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        return self.outputs, self.inputs

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """``[rows, in]`` to ``[rows, out]``, float32.

        Args:
            x: float32, or a dtype that torch multiplies with float32.
            out: Where the result goes; without it, new memory.
        """
        y = x.new_empty(len(x), self.outputs, dtype=torch.float32) if out is None else out
        for start in range(0, len(x), BLOCK):
            self._block(x[start : start + BLOCK], y[start : start + BLOCK])
        return y

    def _block(self, x: Tensor, y: Tensor) -> None:
        rows, take = len(x), self.workspace.take
        rest = torch.mul(x, self.balance, out=take("x", torch.float32, self.inputs)[:rows])
        columns = beside = None
        if self.outliers:
            columns = _largest(rest, 0).topk(self.outliers).indices
            beside = rest.index_select(1, columns)
            rest.index_fill_(1, columns, 0.0)
        in_groups = rest.view(rows, -1, self.group)
        scales = _largest(in_groups, 2).clamp_(min=_FAR).div_(_LEVELS)
        in_groups.mul_(scales.reciprocal().unsqueeze_(2)).round_()
        whole = take("x", torch.int8, self.inputs).view(-1, BLOCK, self.group)[:, :rows]
        whole.copy_(in_groups.transpose(0, 1))
        start = 0
        for weight in self.weights:
            part = slice(start, start + _WIDTH)
            self._slice(whole, weight, scales, y[:, part])
            if columns is not None and beside is not None:
                y[:, part].addmm_(beside, weight.index_select(0, columns).float())
            if self.bias is None:
                y[:, part].mul_(self.scale[part])
            else:
                torch.addcmul(self.bias[part], y[:, part], self.scale[part], out=y[:, part])
            start = part.stop

    def _slice(self, whole: Tensor, weight: Tensor, scales: Tensor, y: Tensor) -> None:
        """Some outputs, before their scales: the groups' products times the rows' scales."""
        rows, outputs = y.shape
        space = self.workspace.take("y", torch.int32, outputs)[:rows]
        for group, inputs in enumerate(torch.split(weight, self.group)):
            products = torch._int_mm(whole[group], inputs, out=space)
            row_scale = scales[:, group].unsqueeze(1)
            if group == 0:
                y.copy_(products).mul_(row_scale)
            else:
                more = self.workspace.take("y", torch.float32, outputs)[:rows].copy_(products)
                y.addcmul_(more, row_scale)


def int8_seconds(threads: int) -> float:
    """Seconds in int8 for the product that :func:`~...devices.product_seconds` measures.

    With everything that is done around it, and measured once on this machine.
    """

    def work() -> float:
        x, weight = torch.ones(512, 768), torch.ones(2304, 768)
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return fastest(functools.partial(Int8Product(weight, None, Workspace()), x))
        finally:
            torch.set_num_threads(before)

    return measured("a product in int8", {"int_mm": work}, threads)["int_mm"]


def _largest(x: Tensor, dim: int) -> Tensor:
    """The largest magnitude along a dimension."""
    return torch.maximum(x.amax(dim), x.amin(dim).neg_())


class Prefill:
    """A matrix in the format for many rows; the head, of which one row is wanted, is dense."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, format: str, workspace: Workspace
    ) -> None:
        self.dtype = _DENSE.get(format, torch.float32)
        rounded = format == "int8" and not _is_head(weight)
        self.product: Matrix = (
            Int8Product(weight, bias, workspace) if rounded else Dense(weight, bias, self.dtype)
        )

    def __call__(self, x: Tensor) -> Tensor:
        """``[rows, in]`` to ``[rows, out]``."""
        return self.product(x.to(self.dtype))


def matrix_factory(kind: str, prefill: str | None = None) -> tuple[MakeMatrix, torch.dtype]:
    """A function that makes matrices of a format, and the dtype of their activations.

    Args:
        kind: ``fp32``, ``bf16``, ``int8`` or ``onnx``.
        prefill: With ``int8``, the format for many rows: ``fp32``, ``bf16`` or ``int8``; without it
            the fastest here.
    """
    if kind in _DENSE:
        dtype = _DENSE[kind]
        return functools.partial(Dense, dtype=dtype), dtype
    if kind == "onnx":
        return _per_row, torch.float32
    make: MakeMatrix = functools.partial(
        Prefill, format=prefill or prefill_format(), workspace=Workspace()
    )
    return functools.partial(_int8, prefill=make), torch.bfloat16


def _is_head(weight: Tensor) -> bool:
    return len(weight) > _MOST_OUTPUTS * weight.shape[1]


def _per_row(weight: Tensor, bias: Tensor | None) -> Matrix:
    # Of the head one row is wanted, and its rounding counts the most.
    return Int8Groups(weight, bias) if _is_head(weight) else Int8PerRow(weight, bias)


def _int8(weight: Tensor, bias: Tensor | None, prefill: MakeMatrix) -> Matrix:
    # The kernel reads 32 inputs at once and past the end of a row that is no multiple of it.
    if weight.shape[1] % 32:
        return Dense(weight, bias, torch.bfloat16)
    return Int8(weight, bias, prefill)


def prefill_format() -> str:
    """The format in which this processor multiplies many rows fastest.

    int8 counts only where it is so much faster that it is worth its rounding.
    """
    threads = torch.get_num_threads()
    seconds = dict(product_seconds(threads))
    in_int8 = int8_seconds(threads)
    if in_int8 * _WORTH_INT8 <= min(seconds.values()):
        seconds["int8"] = in_int8
    return min(seconds, key=lambda name: seconds[name])
