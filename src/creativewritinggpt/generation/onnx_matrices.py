"""Weights of 8 bits in the two formats that onnxruntime multiplies, rounded activations and all.

Groups of 32 weights with a scale each are as exact as 8 bits allow, and good for a few rows. One
scale for an output and one for a row make plain products of whole numbers, fast for any number of
rows; they ask for activations in which no column stands out.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# Inputs that share a scale.
GROUP = 32

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

    For activations in which no column stands out (see :mod:`.basis`). Rows have whole numbers up to
    120, made positive by an offset. Processors without instructions for sums of four products (VNNI
    and the like) add neighbouring pairs of them in 16 bits and stop at the largest number there is;
    so neighbouring weights add up to no more than 168. What still goes beyond, where two weights
    and two activations are near their largest together, is some 4 pairs in a million in the
    starter, and a fortieth of what rounding does. The same row always gets the same bits.

    Called, it computes what onnxruntime does with it, but for that.

    ``codes`` are int8 ``[in, out]``, ``scales`` float32 ``[out]``, ``offset`` the float32 bias.
    """

    levels = 120
    _most, _most_of_two = 127, 168

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.shape = tuple(weight.shape)
        columns = weight.t().contiguous()
        even = len(columns) // 2 * 2
        pairs = columns[0:even:2] + columns[1:even:2]
        # Rounding adds half to each.
        most = [_largest(columns) / self._most, _largest(pairs) / (self._most_of_two - 1)]
        self.scales = torch.maximum(*most).clamp_(min=_TINY * 127)
        self.codes = columns.div_(self.scales).round_().to(torch.int8)
        self.offset = bias

    def __call__(self, x: Tensor) -> Tensor:
        """``[rows, in]`` to ``[rows, out]``."""
        largest = x.abs().amax(1, keepdim=True).div_(self.levels)
        whole = (x / largest).round_().nan_to_num_(0.0)
        y = (whole @ self.codes.float()).mul_(self.scales).mul_(largest)
        return y if self.offset is None else y.add_(self.offset)


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
