"""Products with a frozen weight, forward and backward, in the format that was chosen for them."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Frozen(Protocol):
    """A frozen projection ``[out, in]`` with its bias."""

    def forward(self, x: Tensor) -> Tensor:
        """``[tokens, in]`` to ``[tokens, out]``; the result is the caller's to change."""

    def backward(self, dy: Tensor) -> Tensor:
        """The gradient of the input from that of the output; the caller's to change."""


class Dense:
    """The product as torch computes it, fp32 or bf16.

    Args:
        weight: ``[out, in]``, any strides.
        bias: ``[out]`` or None.
        dtype: The format of the product.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        self.weight = weight.to(dtype)
        self.bias = None if bias is None else bias.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``[tokens, in]`` to ``[tokens, out]``."""
        if self.bias is None:
            return x @ self.weight.T
        return torch.addmm(self.bias, x, self.weight.T)

    def backward(self, dy: Tensor) -> Tensor:
        """``[tokens, out]`` to ``[tokens, in]``."""
        return dy @ self.weight
