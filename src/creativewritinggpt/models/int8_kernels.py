"""The two products of whole numbers that torch has for processors, and which is faster here.

``int_mm`` multiplies signed rows and gives int32. It is the faster one where the processor has
AVX512-VNNI or AMX, and a plain loop, many times slower than float32, where it has not. ``scaled``
is oneDNN's product of unsigned rows, which has kernels for AVX2 as well. Processors without
instructions for sums of four products add pairs of them in 16 bits, where 255 · 127 twice does not
fit: there, rows have 7 bits instead of 8, which doubles their rounding. Whether that is needed
is tried and not looked up.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

import torch
from torch import Tensor


class Kernel(Protocol):
    """Products of whole numbers.

    Attributes:
        levels: The largest whole number in a row.
        offset: What is added to a row's numbers.
        dtype: What they are kept in.
    """

    levels: int
    offset: int
    dtype: torch.dtype

    def pack(self, weight: Tensor, rows: int) -> Any:
        """What :meth:`multiply` takes, from int8 ``[in, out]``, for so many rows mostly."""

    def multiply(self, rows: Tensor, packed: Any, space: Tensor) -> Tensor:
        """``[rows, in]`` to exact ``[rows, out]``, int32 or float32, in ``space`` or new memory.

        ``space`` is int32 ``[rows, out]``.
        """


class IntMm:
    """``torch._int_mm``."""

    levels, offset, dtype = 127, 0, torch.int8

    def pack(self, weight: Tensor, rows: int) -> Tensor:
        """As it is."""
        return weight

    def multiply(self, rows: Tensor, packed: Tensor, space: Tensor) -> Tensor:
        """int32, in ``space``."""
        return torch._int_mm(rows, packed, out=space)


class Scaled:
    """``onednn.qlinear_pointwise``, with scales of one.

    Args:
        levels: 127, or 63 where sums of two products have 16 bits.
    """

    dtype = torch.uint8

    def __init__(self, levels: int) -> None:
        self.levels, self.offset = levels, levels + 1

    def pack(self, weight: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """In oneDNN's order, with a scale and a zero for each output."""
        inputs, outputs = weight.shape
        packed = torch.ops.onednn.qlinear_prepack(weight.T.contiguous(), [rows, inputs])
        return packed, torch.ones(outputs), torch.zeros(outputs, dtype=torch.int64)

    def multiply(self, rows: Tensor, packed: tuple[Tensor, Tensor, Tensor], space: Tensor) -> Tensor:
        """float32, in new memory."""
        weight, scales, zeros = packed
        product: Tensor = torch.ops.onednn.qlinear_pointwise(
            rows, 1.0, self.offset, weight, scales, zeros, None,
            1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return product


def fitting(kernel: Kernel) -> bool:
    """Whether the largest sums come out exactly here."""
    inputs, outputs, rows = 256, 64, 32
    weight = torch.full((inputs, outputs), 127, dtype=torch.int8)
    weight[:, ::2] = -127
    x = torch.full((rows, inputs), kernel.levels)
    x[::2] = -kernel.levels
    space = torch.empty(rows, outputs, dtype=torch.int32)
    whole = (x + kernel.offset).to(kernel.dtype)
    found = kernel.multiply(whole, kernel.pack(weight, rows), space)
    return torch.equal(found.long(), x @ weight.long())


@functools.cache
def scaled() -> Scaled | None:
    """oneDNN's product with as many levels as fit here, if this torch has it."""
    for levels in (127, 63):
        try:
            if fitting(kernel := Scaled(levels)):
                return kernel
        except (RuntimeError, AttributeError):  # torch has it not, or not for this processor
            return None
    return None


def kernels() -> dict[str, Kernel]:
    """What there is here, by name."""
    found: dict[str, Kernel] = {"int_mm": IntMm()}
    if (other := scaled()) is not None:
        found[f"scaled, {other.levels} levels"] = other
    return found
