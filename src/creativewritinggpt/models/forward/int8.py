"""Products with a frozen weight in int8, for many rows, on processors whose int8 is much faster.

    x ⊙ b ≈ r ⊙ q,   W ⊘ b ≈ c ⊙ p          q, p whole numbers up to 127 (on some processors 90)
    x Wᵀ  ≈ Σ over groups  r ⊙ (q pᵀ)  ⊙ cᵀ

Each row has a scale r of its own, each output a scale c. Language models have a few input columns
that are far larger than the others, and three things keep them from costing those their digits:
- b, the root of each weight column's length, goes from the weights to the activations beforehand,
  so that neither side has all of the spread (as in SmoothQuant, Xiao et al. 2023, without its
  calibration);
- where a weight has more outputs than inputs, the largest columns of a block are multiplied in
  float32 (as in LLM.int8(), Dettmers et al. 2022), by the same rounded weights;
- where it has no more outputs than inputs, the inputs are multiplied in groups, each with a row
  scale of its own.

Rows are taken in blocks whose numbers stay in the processor's cache, in memory that is set aside
once. What it trades away: about 1 % of rounding in each product (with numbers up to 90, see
:mod:`~.int8_kernels`, 1.4 %), and a row's result depends, within that rounding, on the rows of its
block.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...autotune import fastest, measured
from .int8_kernels import Kernel, kernels

BLOCK = 256
"""Rows that are multiplied at once."""

_OUTLIERS = 8
_GROUPS = range(256, 63, -1)
# Far from where reciprocals overflow.
_TINY = 2.0**-100

_Groups = Sequence[Any]
# The largest columns and their weights, which are multiplied exactly.
_Exact = tuple[Tensor, Tensor] | None


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
    """``x Wᵀ + bias`` for a weight that does not change.

    Args:
        weight: float32 ``[out, in]``, any strides.
        bias: ``[out]`` or None.
        workspace: Where blocks are worked on.
        fine: Whether the inputs of a weight with no more outputs than inputs go in groups: nearer
            to the exact product, and slower.
        kernel: What multiplies whole numbers; without it the fastest here.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        workspace: Workspace,
        *,
        fine: bool = True,
        kernel: Kernel | None = None,
    ) -> None:
        self.kernel = kernel or fastest_kernel(torch.get_num_threads())
        self.outputs, self.inputs = weight.shape
        self.workspace = workspace
        self.bias = None if bias is None else bias.float()
        lengths = torch.linalg.vector_norm(weight, dim=0)
        # A column of zeros stays one, whatever stands before it.
        self.balance = torch.where(lengths > _TINY, lengths, 1.0).sqrt_()
        balanced = weight / self.balance
        largest = torch.maximum(balanced.amax(1), balanced.amin(1).neg_())
        self.scale = largest.clamp_(min=_TINY).div_(self.kernel.weight_levels)
        whole = balanced.div_(self.scale.unsqueeze(1)).round_().to(torch.int8)
        self.group = self.inputs
        if fine and self.outputs <= self.inputs:
            self.group = next((n for n in _GROUPS if self.inputs % n == 0), self.inputs)
        self.outliers = min(_OUTLIERS, self.inputs) if self.group == self.inputs else 0
        # [in, out] each, by slices of the outputs and in them by groups of the inputs.
        width = self.kernel.width
        plain = [part.T.contiguous() for part in torch.split(whole, width)]
        self.packed = [
            [self.kernel.pack(part, scale, BLOCK) for part in torch.split(each, self.group)]
            for each, scale in zip(plain, torch.split(self.scale, width), strict=True)
        ]
        self.columns = plain if self.outliers else []

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        return self.outputs, self.inputs

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """``[rows, in]`` to ``[rows, out]``, float32.

        Args:
            x: float32, or what torch multiplies with float32.
            out: Where the result goes; without it, new memory.
        """
        y = x.new_empty(len(x), self.outputs, dtype=torch.float32) if out is None else out
        for start in range(0, len(x), BLOCK):
            self._block(x[start : start + BLOCK], y[start : start + BLOCK])
        return y

    def _block(self, x: Tensor, y: Tensor) -> None:
        rows, take = len(x), self.workspace.take
        rest = torch.mul(x, self.balance, out=take("x", torch.float32, self.inputs)[:rows])
        if self.outliers:
            columns = _largest(rest, 0).topk(self.outliers).indices
            beside = rest.index_select(1, columns)
            rest.index_fill_(1, columns, 0.0)
        in_groups = rest.view(rows, -1, self.group)
        scales = _largest(in_groups, 2).clamp_(min=_TINY).div_(self.kernel.levels)
        in_groups.mul_(scales.reciprocal().unsqueeze_(2)).round_()
        whole = take("x", torch.int8, self.inputs).view(-1, BLOCK, self.group)[:, :rows]
        whole = self.kernel.encode(whole.copy_(in_groups.transpose(0, 1)))
        into = self._scaled if self.kernel.scales else self._whole
        start = 0
        for index, packed in enumerate(self.packed):
            outputs = slice(start, start + self.kernel.width)
            exact = None
            if self.outliers:
                exact = beside, self.columns[index].index_select(0, columns).float()
            into(whole, packed, scales, exact, outputs, y[:, outputs])
            start = outputs.stop

    def _scaled(
        self, whole: Tensor, packed: _Groups, scales: Tensor, exact: _Exact, part: slice, y: Tensor
    ) -> None:
        """Some outputs, by a kernel that multiplies by their scales."""
        so_far = None if self.bias is None else self.bias[part]
        if exact is not None:
            beside, weights = exact
            weights.mul_(self.scale[part])
            if so_far is None:
                torch.mm(beside, weights, out=y)
            else:
                torch.addmm(so_far, beside, weights, out=y)
            so_far = y
        for group, weight in enumerate(packed):
            products = self.kernel.multiply(whole[group], weight, None)
            row_scale = scales[:, group].unsqueeze(1)
            if so_far is None:
                torch.mul(products, row_scale, out=y)
            else:
                torch.addcmul(so_far, products, row_scale, out=y)
            so_far = y

    def _whole(
        self, whole: Tensor, packed: _Groups, scales: Tensor, exact: _Exact, part: slice, y: Tensor
    ) -> None:
        """Some outputs, by a kernel that gives whole numbers."""
        rows, outputs = y.shape
        space = self.workspace.take("y", torch.int32, outputs)[:rows]
        for group, weight in enumerate(packed):
            products = self.kernel.multiply(whole[group], weight, space)
            row_scale = scales[:, group].unsqueeze(1)
            if group == 0:
                y.copy_(products).mul_(row_scale)
            else:
                more = self.workspace.take("y", torch.float32, outputs)[:rows].copy_(products)
                y.addcmul_(more, row_scale)
        if exact is not None:
            y.addmm_(*exact)
        if self.bias is None:
            y.mul_(self.scale[part])
        else:
            torch.addcmul(self.bias[part], y, self.scale[part], out=y)


def seconds(threads: int) -> dict[str, float]:
    """Seconds for the product that :func:`~..devices.product_seconds` measures, by kernel.

    With all that is done around it, and measured once on this machine.
    """

    def work(kernel: Kernel) -> float:
        x, weight = torch.ones(512, 768), torch.ones(2304, 768)
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            product = Int8Product(weight, None, Workspace(), kernel=kernel)
            return fastest(functools.partial(product, x))
        finally:
            torch.set_num_threads(before)

    ways = {name: functools.partial(work, kernel) for name, kernel in kernels().items()}
    return measured("a product in int8", ways, threads)


@functools.cache
def fastest_kernel(threads: int) -> Kernel:
    """The kernel that is fastest here, looked up once a process."""
    known, found = kernels(), seconds(threads)
    return known[min(found, key=lambda name: found[name])]


def _largest(x: Tensor, dim: int) -> Tensor:
    """The largest magnitude along a dimension."""
    return torch.maximum(x.amax(dim), x.amin(dim).neg_())
