"""The norms before the projections, each with its backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .kernels import Kernels

_layer_norm_backward: Any = torch.ops.aten.native_layer_norm_backward


class Norm(Protocol):
    """A norm over the columns, its result in the format of the products."""

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The normed ``[tokens, width]``, and what its backward pass needs beside the input."""

    def again(self, x: Tensor, statistics: Sequence[Tensor]) -> Tensor:
        """The normed input once more."""

    def backward(self, dy: Tensor, x: Tensor, statistics: Sequence[Tensor]) -> Tensor:
        """The input's gradient, float32; the caller's to change."""


class LayerNorm:
    """Subtract the mean, divide by the deviation, scale and shift (frozen).

    Args:
        module: torch's LayerNorm.
        dtype: The format of the products.
    """

    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        self.weight, self.bias = module.weight.detach(), module.bias.detach()
        self.epsilon, self.dtype = float(module.eps), dtype
        self.shape = [len(self.weight)]

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See :class:`Norm`."""
        y, mean, scale = torch.native_layer_norm(
            x, self.shape, self.weight, self.bias, self.epsilon
        )
        return y.to(self.dtype), (mean, scale)

    def again(self, x: Tensor, statistics: Sequence[Tensor]) -> Tensor:
        """See :class:`Norm`."""
        return F.layer_norm(x, self.shape, self.weight, self.bias, self.epsilon).to(self.dtype)

    def backward(self, dy: Tensor, x: Tensor, statistics: Sequence[Tensor]) -> Tensor:
        """See :class:`Norm`."""
        dx: Tensor = _layer_norm_backward(
            dy.float(), x, self.shape, *statistics, self.weight, self.bias, [True, False, False]
        )[0]
        return dx


class RmsNorm:
    """Divide by the root of the mean square, scale (frozen).

    Args:
        module: transformers' RMS norm of the Llama family.
        dtype: The format of the products.
        kernels: Functions between the products.
    """

    def __init__(self, module: Any, dtype: torch.dtype, kernels: Kernels) -> None:
        self.weight, self.dtype, self.kernels = module.weight.detach(), dtype, kernels
        self.epsilon = float(module.variance_epsilon)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See :class:`Norm`."""
        scale = self.kernels.rms_scale(x, self.epsilon)
        return self.again(x, (scale,)), (scale,)

    def again(self, x: Tensor, statistics: Sequence[Tensor]) -> Tensor:
        """See :class:`Norm`."""
        return self.kernels.rms_norm(x, statistics[0], self.weight).to(self.dtype)

    def backward(self, dy: Tensor, x: Tensor, statistics: Sequence[Tensor]) -> Tensor:
        """See :class:`Norm`."""
        return self.kernels.rms_norm_backward(dy, x, statistics[0], self.weight)
