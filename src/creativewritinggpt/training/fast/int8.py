"""Frozen products in int8, forward and backward, for processors whose int8 is much faster.

    x ≈ r ⊙ q,   W ≈ p ⊙ c        q, p whole numbers up to 127; r a scale a token, c a scale a row
    x Wᵀ ≈ r ⊙ (q pᵀ) ⊙ cᵀ  +  x[:, outliers] W[:, outliers]ᵀ

Every token gets a scale of its own, every output of the weight too; the gradient of the input needs
the weight scaled along its other side, so there are two copies of a byte a weight, together half of
an fp32 one. Language models have a few input columns that are far larger than all others; the
largest of a micro-step are left out of the rounding and multiplied in fp32. What it trades away:
the rounding of activations and gradients (about 1 % each), which the tuned model is trained through
and then used without.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .kernels import Kernels

OUTLIERS = 16


class Int8:
    """A frozen projection multiplied in int8.

    Args:
        weight: float32 ``[out, in]``, any strides.
        bias: ``[out]`` or None.
        kernels: Functions to and from int8.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, kernels: Kernels) -> None:
        self.weight, self.bias, self.kernels = weight, bias, kernels
        by_output, output_scale = kernels.rows_to_int8(weight.contiguous(), None)
        by_input, input_scale = kernels.rows_to_int8(weight.T.contiguous(), None)
        self.output_scale, self.input_scale = output_scale.view(-1), input_scale.view(-1)
        # As the kernel reads them: [in, out] forward, [out, in] backward.
        self.by_output = by_output.T.contiguous()
        self.by_input = by_input.T.contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """``[tokens, in]`` to ``[tokens, out]``, float32."""
        whole, scale, outliers = rounded(x, self.kernels)
        products = torch._int_mm(whole, self.by_output)
        y: Tensor = self.kernels.from_products(products, scale, self.output_scale, self.bias)
        return y.addmm_(x[:, outliers], self.weight[:, outliers].T)

    def backward(self, dy: Tensor) -> Tensor:
        """``[tokens, out]`` to ``[tokens, in]``, float32."""
        whole, scale = self.kernels.rows_to_int8(dy, None)
        products = torch._int_mm(whole, self.by_input)
        dx: Tensor = self.kernels.from_products(products, scale, self.input_scale, None)
        return dx


class Int8Head:
    """The logits of a frozen head in int8, in one place of memory for all calls.

    Args:
        weight: float32 ``[vocabulary, width]``.
        kernels: Functions to and from int8.
    """

    def __init__(self, weight: Tensor, kernels: Kernels) -> None:
        self.weight, self.kernels = weight, kernels
        whole, scale = kernels.rows_to_int8(weight, None)
        self.whole, self.scale = whole.T.contiguous(), scale.view(-1)
        self._products = torch.empty(0, len(weight), dtype=torch.int32)
        self._logits = torch.empty(0, len(weight))

    def __call__(self, x: Tensor) -> Tensor:
        """``[tokens, width]`` to ``[tokens, vocabulary]``, float32, until the next call."""
        if len(self._logits) < len(x):
            self._products = self._products.new_empty(len(x), len(self.weight))
            self._logits = self._logits.new_empty(len(x), len(self.weight))
        products, logits = self._products[: len(x)], self._logits[: len(x)]
        whole, scale, outliers = rounded(x, self.kernels)
        torch._int_mm(whole, self.whole, out=products)
        self.kernels.write_products(logits, products, scale, self.scale)
        return logits.addmm_(x[:, outliers], self.weight[:, outliers].T)


def rounded(x: Tensor, kernels: Kernels) -> tuple[Tensor, Tensor, Tensor]:
    """Rows in int8 without their outliers.

    Returns:
        int8 like ``x``, float32 ``[rows, 1]`` scales, and the columns left out (0 in the first).
    """
    outliers = kernels.largest(x).topk(min(OUTLIERS, x.shape[1])).indices
    keep = x.new_ones(x.shape[1]).index_fill_(0, outliers, 0.0)
    whole, scale = kernels.rows_to_int8(x, keep)
    return whole, scale, outliers
