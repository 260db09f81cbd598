"""The basis that a forward pass computes in: the model's own, or one in which no column stands out.

Language models have a few columns of activations that are many times larger than the others; with
one scale for a whole row of 8 bits, those leave the others hardly a digit. An orthogonal rotation Q
of the sum along the layers changes nothing that the model computes when the matrices around it are
rotated too:

    norm(x) Wᵀ = norm(x Q) (W Q)ᵀ              norm without weights: it divides by the length
    (x + y Bᵀ) Q = x Q + y (Qᵀ B)ᵀ

and spreads what stood out over all columns. So do rotations within each head, for the values and
the matrix that reads them. Both are done once, in the weights (QuaRot, Ashkboos et al. 2024, arXiv
2404.00456). What goes into an MLP's second matrix can't be rotated beforehand and is at each step.

Norms that subtract the mean are without one where everything that is added to the sum has mean 0,
which is done in the weights as well (SliceGPT, Ashkboos et al. 2024, arXiv 2401.15024).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Flat:
    """An orthogonal, symmetric matrix without large entries, as a Kronecker product of two.

    Args:
        size: Of the matrix.

    Attributes:
        outer: The matrix of the discrete Hartley transform, of what is left of the size.
        inner: A Hadamard matrix, of the largest power of two that divides the size, at most 64.
    """

    def __init__(self, size: int) -> None:
        block = math.gcd(size, 64)
        self.outer, self.inner = hartley(size // block), hadamard(block)

    def rows(self, x: Tensor) -> Tensor:
        """``[..., size]``, each row multiplied by it."""
        blocks = x.reshape(*x.shape[:-1], len(self.outer), len(self.inner))
        return (self.outer @ (blocks @ self.inner)).view(x.shape)

    def columns(self, x: Tensor) -> Tensor:
        """``[size, any]``, it times each column: the faster way for large ones."""
        blocks = self.inner @ x.reshape(len(self.outer), len(self.inner), -1)
        return (self.outer @ blocks.view(len(self.outer), -1)).view(x.shape)


class Basis:
    """The model's own basis: how weights, in float32 ``[out, in]``, are changed for it.

    Attributes:
        inner: What an MLP's inner columns are multiplied by, if by anything.
    """

    inner: Flat | None = None

    def enter(self, x: Tensor) -> Tensor:
        """Rows ``[..., width]`` that the layers begin with."""
        return x

    def reads(self, weight: Tensor) -> Tensor:
        """A weight that multiplies the sum along the layers, after a norm without weights."""
        return weight

    def writes(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """A weight whose outputs are added to the sum."""
        return weight, bias

    def values(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """A weight whose last outputs are the heads' values."""
        return weight, bias

    def reads_values(self, weight: Tensor) -> Tensor:
        """A weight that multiplies what attention has made of the values."""
        return weight

    def reads_inner(self, weight: Tensor) -> Tensor:
        """A weight that multiplies an MLP's inner columns."""
        return weight


class Rotated(Basis):
    """A basis in which no column stands out.

    Args:
        width: Of the sum along the layers.
        size: Of a head.
        value_heads: Heads that have values of their own.
        inner: Columns within an MLP.
        centred: Whether the model's norms subtract the mean.
    """

    def __init__(
        self, width: int, size: int, value_heads: int, inner: int, *, centred: bool
    ) -> None:
        self._value_columns, self._centred = value_heads * size, centred
        # Without signs, what all columns have in common would end up in a single one.
        generator = torch.Generator().manual_seed(0)
        self._signs = torch.randint(0, 2, (width,), generator=generator).mul_(2).sub_(1).float()
        self._sum, self._head, self.inner = Flat(width), Flat(size), Flat(inner)

    def enter(self, x: Tensor) -> Tensor:
        """Rows ``[..., width]``, rotated."""
        if self._centred:
            x = x - x.mean(-1, keepdim=True)
        return self.reads(x.reshape(-1, x.shape[-1])).reshape(x.shape)

    def reads(self, weight: Tensor) -> Tensor:
        """``W Q``."""
        return self._turn(weight.t()).t()

    def writes(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """``Qᵀ W``, and the bias."""
        if self._centred:
            weight = weight - weight.mean(0)
        return self._turn(weight), None if bias is None else self.enter(bias)

    def values(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The values' outputs, each head rotated."""
        weight = weight.clone()
        part = weight[-self._value_columns :]
        part.copy_(self._heads(part.t()).t())
        if bias is not None:
            bias = bias.clone()
            part = bias[-self._value_columns :]
            part.copy_(self._heads(part))
        return weight, bias

    def reads_values(self, weight: Tensor) -> Tensor:
        """What undoes that."""
        return self._heads(weight)

    def reads_inner(self, weight: Tensor) -> Tensor:
        """What undoes :attr:`inner`."""
        assert self.inner is not None
        return self.inner.columns(weight.t()).t()

    def _heads(self, x: Tensor) -> Tensor:
        size = len(self._head.outer) * len(self._head.inner)
        return self._head.rows(x.reshape(*x.shape[:-1], -1, size)).view(x.shape)

    def _turn(self, columns: Tensor) -> Tensor:
        """``Qᵀ X``."""
        return self._sum.columns(columns * self._signs.unsqueeze(1))


def hadamard(size: int) -> Tensor:
    """The orthogonal, symmetric matrix of ±1/√size; ``size`` is a power of two."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / math.sqrt(size)


def hartley(size: int) -> Tensor:
    """The matrix of the discrete Hartley transform: orthogonal and symmetric for any size.

    No entry is larger than ``√(2/size)``.
    """
    index = torch.arange(size)
    angles = (torch.outer(index, index) % size).double() * (2 * math.pi / size)
    return ((angles.cos() + angles.sin()) / math.sqrt(size)).float()
