"""Cross-entropy of a large vocabulary without the large matrix of logits.

    hidden [N, d] ──chunk──► logits [C, V] ──► nats, softmax − one-hot ──► gradient [C, d]

The head of a language model turns every position into a row of 50,000 numbers; kept for the
backward pass they are most of the memory of a small model's training step. Here they live for one
chunk only: since the loss is a plain sum, the gradient with respect to the hidden states is known
as soon as the logits are, and is all that is kept. A frozen head costs two matrix products this way
instead of three. The price: a backward pass through this function can't be differentiated again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Head = Callable[[Tensor], Tensor]
"""Logits of hidden states, [C, d] to float32 [C, V]; the result is the caller's to change."""

CHUNK = 512
"""Positions that go through the head at once: at 50,000 columns, 100 MB of float32."""


def plain_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
) -> Tensor:
    """The same sum with all logits at once: what :func:`chunked_cross_entropy` must equal.

    Args:
        hidden: Hidden states after the last norm, [N, d].
        weight: The head, [V, d].
        bias: The head's bias, [V], or None.
        targets: Token ids, [N].

    Returns:
        The sum of the negative log-probabilities, in nats (scalar, float32).
    """
    logits = torch.nn.functional.linear(hidden, weight, bias).float()
    return torch.nn.functional.cross_entropy(logits, targets, reduction="sum")


def _log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities in float32, in the place of float32 logits."""
    if logits.dtype != torch.float32:
        return torch.log_softmax(logits, -1, dtype=torch.float32)
    # Each row is read whole before it is written.
    return torch.log_softmax(logits, -1, out=logits)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        chunk: int,
        head_forward: Head | None,
    ) -> Tensor:
        device = hidden.device.type
        dtype = (
            torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        )
        with torch.autocast(device, enabled=False):
            head = weight.to(dtype)
            hidden_gradient = torch.empty_like(hidden)
            wants_weight, wants_bias = ctx.needs_input_grad[1], ctx.needs_input_grad[2]
            weight_gradient = torch.zeros_like(weight) if wants_weight else None
            bias_gradient = torch.zeros_like(bias) if wants_bias and bias is not None else None
            total = torch.zeros((), dtype=torch.float32, device=hidden.device)
            # One place for the logits of all chunks: fresh memory of that size costs more than
            # what is done with it.
            size = (min(chunk, len(hidden)), len(weight))
            place = hidden.new_empty(size if head_forward is None else 0, dtype=dtype)
            for start in range(0, hidden.shape[0], chunk):
                part = hidden[start : start + chunk].to(dtype)  # [C, d]
                wanted = targets[start : start + chunk, None]  # [C, 1]
                if head_forward is not None:
                    logits = head_forward(hidden[start : start + chunk])
                else:
                    logits = torch.mm(part, head.T, out=place[: len(part)])  # [C, V]
                if bias is not None:
                    logits.add_(bias.to(logits.dtype))
                gradient = _log_softmax(logits)
                total -= gradient.gather(1, wanted).sum()
                gradient.exp_().scatter_add_(1, wanted, gradient.new_full(wanted.shape, -1.0))
                gradient = gradient.to(dtype)
                hidden_gradient[start : start + chunk] = gradient @ head
                if weight_gradient is not None:
                    weight_gradient += (gradient.T @ part).to(weight.dtype)
                if bias_gradient is not None:
                    bias_gradient += gradient.sum(0).to(bias_gradient.dtype)
        ctx.gradients = (hidden_gradient, weight_gradient, bias_gradient)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias = (
            None if gradient is None else gradient * scale.to(gradient.dtype)
            for gradient in ctx.gradients
        )
        return hidden, weight, bias, None, None, None


def chunked_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    chunk: int = CHUNK,
    head_forward: Head | None = None,
) -> Tensor:
    """The sum of negative log-probabilities, its gradient computed in the forward pass.

    Products run in autocast's number format where it is on, sums and exponentials in float32.

    Args:
        hidden: Hidden states after the last norm, [N, d].
        weight: The head, [V, d]; gets a gradient only where it requires one.
        bias: The head's bias, [V], or None.
        targets: Token ids, [N].
        chunk: Positions that go through the head at once.
        head_forward: Another way from hidden states to logits; the gradient goes through ``weight``
            all the same.

    Returns:
        The sum in nats (scalar, float32).
    """
    result: Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, targets, chunk, head_forward
    )
    return result
