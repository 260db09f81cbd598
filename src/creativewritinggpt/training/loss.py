"""Training loss: summed cross-entropy without the whole matrix of logits.

    hidden [N, d] ──chunk──► logits [C, V] ──► nats, softmax − one-hot ──► gradient [C, d]

Logits exist for one chunk of positions at a time: the loss is a plain sum, so the gradient of the
hidden states follows from a chunk's logits at once and is all that is kept for the backward pass. A
frozen head takes two matrix products this way instead of three.

Trade-off: the backward pass can't be differentiated again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..data.rows.packing import IGNORE, PackedRows
from ..models.attention import packed_inputs
from ..models.loaded_model import LoadedModel
from ..models.scoring import body_and_head
from .fast.attention import end_to_end

Head = Callable[[Tensor], Tensor]
"""Logits of hidden states, [C, d] to float32 [C, V]; the caller may modify the result."""

CHUNK = 512
"""Positions per chunk: 100 MB of float32 logits for a vocabulary of 50,000."""


def _log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities in float32, in place where the logits are float32."""
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
            # Memory reused for the logits of all chunks: allocating it costs more than the work.
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
    """Sum of negative log-probabilities, with its gradient computed in the forward pass.

    Products run in autocast's dtype where it is on, sums and exponentials in float32.

    Args:
        hidden: Hidden states after the last norm, [N, d].
        weight: The head, [V, d]; gets a gradient only where it requires one.
        bias: The head's bias, [V], or None.
        targets: Token ids, [N].
        chunk: Positions per chunk.
        head_forward: Computes the logits instead of ``weight``; the gradient still uses ``weight``.

    Returns:
        The sum in nats (scalar, float32).
    """
    result: Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, targets, chunk, head_forward
    )
    return result


def summed_loss(model: LoadedModel, batch: PackedRows) -> Tensor:
    """Sum of the negative log-probabilities of the rows' target tokens, in nats.

    Args:
        model: The model.
        batch: Packed rows, [rows, tokens].
    """
    body, weight, bias = body_and_head(model.model)
    if model.fast_body is not None:
        documents = end_to_end(batch)
        hidden, targets = model.fast_body(documents), documents.targets
        chosen = targets != IGNORE
        with model.device.autocast():
            return chunked_cross_entropy(
                hidden[chosen], weight, bias, targets[chosen], head_forward=model.fast_body.head
            )
    ids, targets, positions, segments = (
        torch.from_numpy(array).to(model.device.torch_device)
        for array in (batch.input_ids, batch.targets, batch.position_ids, batch.segment_ids)
    )
    with model.device.autocast():
        hidden = body(input_ids=ids, **packed_inputs(segments, positions, model.model))
        chosen = targets != IGNORE
        return chunked_cross_entropy(hidden[chosen], weight, bias, targets[chosen])
