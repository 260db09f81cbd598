"""Weights of 8 bits in the two formats that onnxruntime multiplies, rounded activations and all.

Groups of 32 weights with a scale each are as exact as 8 bits allow, and good for a few rows. One
scale for an output and one for a row make plain products of whole numbers, fast for any number of
rows; but language models have a few columns of activations that are many times larger than the
others and leave them hardly a digit of such a scale. Two things are done about those:

    x Wᵀ = (x b) (W / b)ᵀ = (x b H) (W / b · H)ᵀ

- b, the length of each weight column, goes from the weights to the activations, so that a column
  counts in them for as much as it does in the product (as in SmoothQuant, Xiao et al. 2023, arXiv
  2211.10438, without its calibration);
- H, a Hadamard matrix for each 32 columns, is orthogonal and symmetric and spreads over all of them
  what still stands out (as in QuaRot, Ashkboos et al. 2024, arXiv 2404.00456).

The weights are changed once; a norm's weights take b along, and H costs a few products a step. What
the matrices before can do instead is in :mod:`.folding`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# Inputs that share a scale, and those that one Hadamard matrix spreads.
GROUP = 32
_SPREAD = 32

_Many = Callable[[Tensor, Tensor | None], Callable[[Tensor], Tensor]]
_TINY = torch.finfo(torch.float32).tiny


class Grouped:
    """A matrix in 8 bits with one scale for each group of inputs, which onnxruntime multiplies.

    Called, it multiplies in the format for many rows, or without one by its own rounded weights.
    ``codes`` are uint8 ``[out, groups, 32]`` around 128, ``scales`` float32 ``[out, groups]``,
    ``offset`` the float32 bias.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, many: _Many | None) -> None:
        self.shape = tuple(weight.shape)
        self.many = None if many is None else many(weight, bias)
        self.codes, self.scales = quantize_groups(weight)
        self.offset = bias

    def __call__(self, x: Tensor) -> Tensor:
        """``[rows, in]`` to ``[rows, out]``."""
        if self.many is not None:
            return self.many(x)
        weight = (self.codes.float() - 128).mul_(self.scales.unsqueeze(-1)).flatten(1)
        return F.linear(x, weight[:, : self.shape[1]], self.offset)


class ByRow:
    """A matrix in 8 bits with one scale for each output, for rows in 8 bits with one scale each.

    Processors without instructions for sums of four products (VNNI and the like) add neighbouring
    pairs of them in 16 bits. So rows have whole numbers up to 113, made positive by an offset of
    114, and weights up to 127 of which two neighbours add up to no more than 144: 227 · 144 fits.

    Called, it computes what onnxruntime does with it.

    ``balance`` are b, float32 ``[in]``, or None, ``spread`` H of one block, or None, ``codes`` int8
    ``[in, out]``, ``scales`` float32 ``[out]``, ``offset`` the float32 bias.

    Args:
        weight: float32 ``[out, in]``.
        bias: float32 ``[out]``, or None.
        balance: Whether what comes in is not balanced yet.
        spread: Whether it is not spread yet.
    """

    levels = 113
    _most, _most_of_two = 127, 144

    def __init__(
        self, weight: Tensor, bias: Tensor | None, *, balance: bool = True, spread: bool = True
    ) -> None:
        self.shape = tuple(weight.shape)
        self.balance = lengths(weight) if balance else None
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


def lengths(weight: Tensor) -> Tensor:
    """The length of each column of ``[out, in]`` weights, float32 ``[in]``; 1 for one of zeros."""
    found = torch.linalg.vector_norm(weight, dim=0)
    return torch.where(found > _TINY, found, 1.0)


def _largest(columns: Tensor) -> Tensor:
    """The largest magnitude of each output's weights, which stand one below the other."""
    # Along this dimension several times faster than aminmax.
    return torch.maximum(columns.amax(0), columns.amin(0).neg_())


def quantize_groups(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round each group of an output's weights to whole multiples of one scale.

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
