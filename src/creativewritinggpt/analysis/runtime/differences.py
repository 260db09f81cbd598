"""Products of how rows differ from one text, in rough numbers that hardly show.

    W x = W x₀ + W (x - x₀)

x₀ is what the text itself brings to a matrix at that place, and W x₀ was computed exactly when the
text was read. A variant differs from it by little, and rounded with a scale of its own the
difference keeps all its digits: the error is a hundredth of the change, where it would be a
hundredth of everything, which is as much as most replaced tokens change. The price is what is kept
of the text: for each token and matrix all inputs and outputs.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...models.forward.linear import Matrix


@dataclasses.dataclass
class At:
    """Which places of the text the rows of a pass stand at.

    Attributes:
        rows: Rows of the pass.
        begin: Where they begin.
        tokens: Of each row.
        places: Those of a row that go on in the last layer, ``[places]``.
    """

    rows: int
    begin: int
    tokens: int
    places: Tensor


class Kept:
    """A matrix that keeps what goes in and what comes out.

    Attributes:
        product: ``[tokens, in]`` and ``[tokens, out]`` of its last call.
    """

    def __init__(self, matrix: Matrix) -> None:
        self._matrix = matrix
        self.product = (torch.empty(0), torch.empty(0))

    def __call__(self, x: Tensor) -> Tensor:
        """What the matrix makes of ``x``."""
        y = self._matrix(x)
        # What follows works in the same memory.
        self.product = x, y.clone()
        return y


class Different:
    """A matrix that multiplies differences from a text.

    Args:
        matrix: Rough.
        product: What the exact one made of the text, as in :class:`Kept`.
        at: Where the rows stand, kept up to date by whoever makes passes.
    """

    def __init__(self, matrix: Matrix, product: tuple[Tensor, Tensor], at: At) -> None:
        self._matrix, self._at = matrix, at
        self._x, y = product
        # The bias is in the text's product already.
        self._y = y - matrix(torch.zeros(1, self._x.shape[1])).float()

    def __call__(self, x: Tensor) -> Tensor:
        """``[rows · tokens, in]``, or of the wanted places, to ``[…, out]``."""
        at = self._at
        where = torch.arange(at.begin, at.begin + at.tokens)
        if len(x) != at.rows * at.tokens:
            where = where[at.places]
        difference = x.view(at.rows, len(where), -1) - self._x[where]
        y = self._matrix(difference.flatten(0, 1)).float().view(at.rows, len(where), -1)
        return y.add_(self._y[where]).flatten(0, 1)


def with_matrices(forward: Any, change: Callable[[int, Matrix], Matrix]) -> Any:
    """A copy of a forward pass with other matrices in its layers, fp32 between them.

    In bf16 what goes into a matrix would be rounded before the text is subtracted from it.

    Args:
        forward: Of the GPT-2 or the Llama family.
        change: From a matrix's number, counted through all layers, and itself to what takes its
            place.
    """
    result = copy.copy(forward)
    result.dtype = torch.float32
    numbers = iter(range(len(forward.layers) * len(forward.layers[0])))
    result.layers = [
        tuple(change(next(numbers), part) if callable(part) else part for part in layer)
        for layer in forward.layers
    ]
    return result
