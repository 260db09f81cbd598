"""The two products of whole numbers that torch has for processors, and which is faster here.

``int_mm`` multiplies signed rows and gives int32. It is the faster one where the processor has
AVX512-VNNI or AMX, and a plain loop, many times slower than float32, where it has not. ``scaled``
is oneDNN's product of unsigned rows, which has kernels for AVX2 as well. Processors without
instructions for sums of four products add pairs of them in 16 bits, where 255 · 127 twice does not
fit: there, numbers go up to 90 on either side (181 · 90 twice fits), which rounds 1.4 times as
much. Whether that is needed is tried and not looked up.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

import torch
from torch import Tensor

# Where sums of two products have 16 bits; the offset makes rows of up to 181.
_FITTING = 90


class Kernel(Protocol):
    """Products of whole numbers, times a scale for each output where that costs nothing.

    Attributes:
        levels: The largest whole number in a row.
        weight_levels: The largest whole number in a weight.
        scales: Whether :meth:`multiply` multiplies by the scales of the outputs.
        width: Outputs that are best multiplied at once.
    """

    levels: int
    weight_levels: int
    scales: bool
    width: int

    def pack(self, weight: Tensor, scale: Tensor, rows: int) -> Any:
        """What :meth:`multiply` takes.

        Args:
            weight: int8 ``[in, out]``.
            scale: float32 ``[out]``.
            rows: How many are multiplied at once, mostly.
        """

    def encode(self, rows: Tensor) -> Tensor:
        """int8 rows as :meth:`multiply` takes them, in the same memory."""

    def multiply(self, rows: Tensor, packed: Any, space: Tensor | None) -> Tensor:
        """``[rows, in]`` to ``[rows, out]``: int32 in ``space``, or float32 in new memory."""


class IntMm:
    """``torch._int_mm``."""

    # More outputs would push a block's numbers out of the cache.
    levels, weight_levels, scales, width = 127, 127, False, 1024

    def pack(self, weight: Tensor, scale: Tensor, rows: int) -> Tensor:
        """As it is."""
        return weight

    def encode(self, rows: Tensor) -> Tensor:
        """As they are."""
        return rows

    def multiply(self, rows: Tensor, packed: Tensor, space: Tensor | None) -> Tensor:
        """int32, in ``space``."""
        return torch._int_mm(rows, packed, out=space)


class Scaled:
    """``onednn.qlinear_pointwise``.

    Args:
        levels: The largest whole number in a row.
        weight_levels: The largest whole number in a weight.
    """

    scales, width = True, 4096

    def __init__(self, levels: int, weight_levels: int) -> None:
        self.levels, self.weight_levels = levels, weight_levels

    def pack(self, weight: Tensor, scale: Tensor, rows: int) -> tuple[Tensor, ...]:
        """In oneDNN's order, with a scale, a zero and a shift for each output."""
        inputs, outputs = weight.shape
        packed = torch.ops.onednn.qlinear_prepack(weight.T.contiguous(), [rows, inputs])
        # What the rows' offset adds. Told of a zero point, oneDNN sums it up in each product.
        shift = weight.sum(0).mul_(-self.levels - 1) * scale
        return packed, scale.clone(), torch.zeros(outputs, dtype=torch.int64), shift

    def encode(self, rows: Tensor) -> Tensor:
        """With an offset that makes them positive."""
        # Torch is slow at float32 to uint8. In 8 bits -128 is 128.
        return rows.add_((self.levels + 129) % 256 - 128).view(torch.uint8)

    def multiply(
        self, rows: Tensor, packed: tuple[Tensor, ...], space: Tensor | None = None
    ) -> Tensor:
        """float32, in new memory."""
        weight, scale, zeros, shift = packed
        product: Tensor = torch.ops.onednn.qlinear_pointwise(
            rows, 1.0, 0, weight, scale, zeros, shift, 1.0, 0, torch.float32, "none", [], ""
        )
        return product


def fitting(kernel: Kernel) -> bool:
    """Whether the largest sums come out exactly here."""
    inputs, outputs, rows = 256, 64, 32
    weight = torch.full((inputs, outputs), kernel.weight_levels, dtype=torch.int8)
    weight[:, ::2] = -kernel.weight_levels
    x = torch.full((rows, inputs), kernel.levels)
    x[::2] = -kernel.levels
    space = torch.empty(rows, outputs, dtype=torch.int32)
    packed = kernel.pack(weight, torch.ones(outputs), rows)
    found = kernel.multiply(kernel.encode(x.to(torch.int8)), packed, space)
    return torch.equal(found.long(), x @ weight.long())


@functools.cache
def scaled() -> Scaled | None:
    """The product of oneDNN with as many levels as fit here, if this torch has it."""
    for levels in (127, _FITTING):
        try:
            if fitting(kernel := Scaled(levels, levels)):
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
