"""Changes of neighbouring weights that leave a model what it is and spare each pass some work.

Rounding to 8 bits with one scale a row wants activations of which no column stands out; see
:mod:`.onnx_matrices`. Where one matrix's outputs reach the next through nothing but sums and
products with them, what makes them so can go into the former once, instead of being done in each
pass:
- values are mixed and nothing else is done to them, so the matrix that makes them can make them
  balanced and spread;
- what a gate is multiplied by can come balanced;
- if all that is added to the sum along GPT-2's layers has a mean of zero, its norms need to
  subtract none, and their shifts can go through the matrix that follows, into its bias.

All of it is exact but for the last bits of float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .matrices import hadamard, lengths

# The kind of matrices that are made from changed weights.
FOLDED = "rotated"

Weights = tuple[Tensor, Tensor | None]
"""``[out, in]``, and the bias."""


def spread_values(joined: Weights, out: Weights, heads: int, size: int) -> tuple[Weights, Weights]:
    """Let values come as the matrix that takes them wants them: balanced and spread.

    Args:
        joined: Queries, keys and values.
        out: What multiplies the mixed values; several query heads may share a head of values.
        heads: Of values.
        size: Of a head.
    """
    weight, bias = joined
    count = heads * size
    taking = out[0].reshape(len(out[0]), heads, -1, size)
    balance = lengths(taking.transpose(1, 2).reshape(-1, count)).view(heads, size)
    spread = hadamard(size & -size)  # the largest power of two that a head is a multiple of

    def made(rows: Tensor) -> Tensor:
        balanced = rows.view(heads, size, -1) * balance.unsqueeze(-1)
        blocks = balanced.view(-1, len(spread), rows[0].numel())
        return (spread @ blocks).view(rows.shape)

    weight = torch.cat([weight[:-count], made(weight[-count:])])
    if bias is not None:
        bias = torch.cat([bias[:-count], made(bias[-count:])])
    taking = taking / balance.unsqueeze(1)
    taking = taking.view(len(taking), -1, len(spread)) @ spread
    return (weight, bias), (taking.view(out[0].shape), out[1])


def balanced_gate(both: Weights, down: Weights) -> tuple[Weights, Weights]:
    """Let what a gate is multiplied by come balanced for the matrix after it.

    Args:
        both: The gate's rows, then as many that it is multiplied by.
        down: What multiplies the product of the two.
    """
    balance = lengths(down[0])
    factor = torch.cat([torch.ones_like(balance), balance])
    weight, bias = both
    both = weight * factor.unsqueeze(1), None if bias is None else bias * factor
    return both, (down[0] / balance, down[1])


def centred(weights: Weights) -> Weights:
    """Outputs less their mean."""
    weight, bias = weights
    return weight - weight.mean(0), None if bias is None else bias - bias.mean()


def with_shift(weights: Weights, shift: Tensor) -> Weights:
    """A matrix whose inputs come without ``shift``, ``[in]``."""
    weight, bias = weights
    more = weight @ shift
    return weight, more if bias is None else bias + more
