"""The two halves of a transformer block, each one function with its backward pass.

    x → x + out(attention(qkv(norm(x))))            x → x + down(act(up(norm(x))))

Kept for the backward pass are the input, what the middle product gave, attention's result and
probabilities, and dropout's noise as bytes; the normed input and the activation are computed again.
The sum along the blocks stays float32, products take their own format.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .attention import Heads, attend, attend_backward
from .lora_linear import Projections
from .norms_rope import Norm
from .rope import Rotation
from .varlen import Group


@dataclasses.dataclass(frozen=True)
class AttentionHalf:
    """Norm, joined projection, attention, output projection."""

    norm: Norm
    qkv: Projections
    out: Projections
    heads: Heads

    def __call__(
        self, x: Tensor, groups: Sequence[Group], rotation: Rotation | None, training: bool
    ) -> Tensor:
        """``[tokens, width]`` to ``[tokens, width]``."""
        parameters = self.qkv.parameters + self.out.parameters
        result: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
            x, self, groups, rotation, training, *parameters
        )
        return result


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        half: AttentionHalf,
        groups: Sequence[Group],
        rotation: Rotation | None,
        training: bool,
        *parameters: Tensor,
    ) -> Tensor:
        normed, statistics = half.norm.forward(x)
        in_noise = half.qkv.noise(normed, training)
        qkv, in_hidden = half.qkv.forward(normed, in_noise)
        del normed
        if rotation is not None:
            rotation.turn_(qkv, half.heads)
        mixed, kept = attend(qkv, groups, half.heads)
        out_noise = half.out.noise(mixed, training)
        y, out_hidden = half.out.forward(mixed, out_noise)
        ctx.half, ctx.groups, ctx.rotation = half, groups, rotation
        ctx.counts = len(statistics)
        ctx.save_for_backward(
            x, qkv, mixed, in_noise, out_noise, in_hidden, out_hidden, *statistics, *kept
        )
        return y.float().add_(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        half: AttentionHalf = ctx.half
        x, qkv, mixed, in_noise, out_noise, in_hidden, out_hidden, *rest = ctx.saved_tensors
        statistics, kept = rest[: ctx.counts], rest[ctx.counts :]
        wants_input = ctx.needs_input_grad[0]
        low = dy.to(qkv.dtype)
        below = wants_input or bool(half.qkv.adapters)
        d_mixed, d_hidden = half.out.backward_input(low, out_noise, out_hidden, below)
        out_gradients = half.out.backward_parameters(low, mixed, out_noise, out_hidden, d_hidden)
        in_gradients: list[Tensor] = []
        dx = dy if wants_input else None
        if d_mixed is not None:
            d_qkv = attend_backward(d_mixed, qkv, mixed, kept, ctx.groups, half.heads)
            if ctx.rotation is not None:
                ctx.rotation.turn_back_(d_qkv, half.heads)
            dx, in_gradients = _through_norm(
                half.norm, half.qkv, d_qkv, dy, x, statistics, in_noise, in_hidden, wants_input
            )
        return dx, None, None, None, None, *in_gradients, *out_gradients


@dataclasses.dataclass(frozen=True)
class MlpHalf:
    """Norm, joined projection up, activation, projection down."""

    norm: Norm
    up: Projections
    down: Projections
    activation: Callable[[Tensor], Tensor]
    activation_again: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

    def __call__(self, x: Tensor, training: bool) -> Tensor:
        """``[tokens, width]`` to ``[tokens, width]``."""
        parameters = self.up.parameters + self.down.parameters
        result: Tensor = _Mlp.apply(x, self, training, *parameters)  # type: ignore[no-untyped-call]
        return result


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, half: MlpHalf, training: bool, *parameters: Tensor) -> Tensor:
        normed, statistics = half.norm.forward(x)
        up_noise = half.up.noise(normed, training)
        wide, up_hidden = half.up.forward(normed, up_noise)
        del normed
        active = half.activation(wide)
        down_noise = half.down.noise(active, training)
        y, down_hidden = half.down.forward(active, down_noise)
        ctx.half = half
        ctx.save_for_backward(x, wide, up_noise, down_noise, up_hidden, down_hidden, *statistics)
        return y.float().add_(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        half: MlpHalf = ctx.half
        x, wide, up_noise, down_noise, up_hidden, down_hidden, *statistics = ctx.saved_tensors
        wants_input = ctx.needs_input_grad[0]
        low = dy.to(wide.dtype)
        below = wants_input or bool(half.up.adapters)
        d_active, d_hidden = half.down.backward_input(low, down_noise, down_hidden, below)
        up_gradients: list[Tensor] = []
        dx = dy if wants_input else None
        if d_active is None:
            active, d_wide = half.activation(wide), None
        else:
            active, d_wide = half.activation_again(d_active, wide)
            del d_active
        down_gradients = half.down.backward_parameters(
            low, active, down_noise, down_hidden, d_hidden
        )
        del active
        if d_wide is not None:
            dx, up_gradients = _through_norm(
                half.norm, half.up, d_wide, dy, x, statistics, up_noise, up_hidden, wants_input
            )
        return dx, None, None, *up_gradients, *down_gradients


def _through_norm(
    norm: Norm,
    projections: Projections,
    dy: Tensor,
    around: Tensor,
    x: Tensor,
    statistics: Sequence[Tensor],
    noise: Tensor | None,
    hidden: Tensor,
    wants_input: bool,
) -> tuple[Tensor | None, list[Tensor]]:
    """Back through projections and the norm before them.

    Args:
        norm: The norm.
        projections: What reads its result.
        dy: The gradient of the projections' output.
        around: The gradient that goes around both, along the sum.
        x: The norm's input.
        statistics: What the norm's forward pass kept.
        noise: Bytes of the projections' dropout.
        hidden: What the projections returned beside their output.
        wants_input: Whether the input's gradient is wanted.

    Returns:
        The gradient of the input, with what goes around, and those of the parameters.
    """
    d_normed, d_hidden = projections.backward_input(dy, noise, hidden, wants_input)
    normed = norm.again(x, statistics) if projections.adapters else x
    gradients = projections.backward_parameters(dy, normed, noise, hidden, d_hidden)
    if d_normed is None:
        return None, gradients
    return norm.backward(d_normed, x, statistics).add_(around), gradients
