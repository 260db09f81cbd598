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

from ...devices import product_seconds
from . import int8
from .onnx.matrices import Int8Groups, Int8PerRow

_TINY = torch.finfo(torch.float32).tiny
# Up to so many rows the int8 kernel is as fast as bf16 on the processors measured, or faster.
INT8_ROWS = 8

_DENSE = {"fp32": torch.float32, "bf16": torch.bfloat16}
# A product in int8 that is 1.6 times as fast made a prompt no more than 1.15 times as fast.
_WORTH_INT8 = 2.0
# A matrix with more outputs for each input than this is the head.
_MOST_OUTPUTS = 16

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


class Prefill:
    """A matrix in the format for many rows; the head, of which one row is wanted, is dense."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, format: str, workspace: int8.Workspace
    ) -> None:
        self.dtype = _DENSE.get(format, torch.float32)
        rounded = format == "int8" and not _is_head(weight)
        self.product: Matrix = (
            int8.Int8Product(weight, bias, workspace)
            if rounded
            else Dense(weight, bias, self.dtype)
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
        Prefill, format=prefill or prefill_format(), workspace=int8.Workspace()
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
    in_int8 = int8.product_seconds(threads)
    if in_int8 * _WORTH_INT8 <= min(seconds.values()):
        seconds["int8"] = in_int8
    return min(seconds, key=lambda name: seconds[name])
