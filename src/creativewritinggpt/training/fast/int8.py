"""Frozen products in int8, forward and backward, for processors whose int8 is much faster.

The gradient of the input needs the weight scaled along its other side, so there are two copies of a
byte a weight, together half of an fp32 one. What it trades away: the rounding of activations and
gradients (about 1 % of each product, see :mod:`~...models.int8`), which the tuned model is trained
through and then used without.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...models.forward.int8 import Int8Product, Workspace


class Int8:
    """A frozen projection multiplied in int8.

    Args:
        weight: float32 ``[out, in]``, any strides.
        bias: ``[out]`` or None.
        workspace: Where blocks are worked on.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, workspace: Workspace) -> None:
        self._by_output = Int8Product(weight, bias, workspace)
        self._by_input = Int8Product(weight.T, None, workspace)

    def forward(self, x: Tensor) -> Tensor:
        """``[tokens, in]`` to ``[tokens, out]``, float32."""
        return self._by_output(x)

    def backward(self, dy: Tensor) -> Tensor:
        """``[tokens, out]`` to ``[tokens, in]``, float32."""
        return self._by_input(dy)


class Int8Head:
    """The logits of a frozen head in int8, in one place of memory for all calls.

    Args:
        weight: float32 ``[vocabulary, width]``.
        workspace: Where blocks are worked on.
    """

    def __init__(self, weight: Tensor, workspace: Workspace) -> None:
        self._product = Int8Product(weight, None, workspace)
        self._logits = torch.empty(0, len(weight))

    def __call__(self, x: Tensor) -> Tensor:
        """``[tokens, width]`` to ``[tokens, vocabulary]``, float32, until the next call."""
        if len(self._logits) < len(x):
            self._logits = self._logits.new_empty(len(x), self._logits.shape[1])
        return self._product(x, self._logits[: len(x)])
