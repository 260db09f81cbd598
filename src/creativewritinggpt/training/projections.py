"""LoRA projections that do in one step what PEFT's layers do in many.

    y = x Wᵀ + b + s · (m ⊙ x) Aᵀ Bᵀ          m: dropout mask, s: scale / (1 − p)

PEFT computes the adapter's branch in float32 beside the base product: it casts and keeps a copy of
the input for every projection, and draws a float for every dropout decision. On a CPU that takes
longer than the products themselves. Here the input is kept once, the mask as bytes cut from random
64-bit words, everything runs in the number format of the base product, and the backward pass is
written out. The parameters stay PEFT's own, so that saving, loading and merging know nothing of it.
What it trades away: the dropout probability is rounded to 1/256, and a layer with several adapters,
DoRA or another variant keeps PEFT's path.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..models.loaded_model import LoadedModel


class _LoraProjection(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # [N, in]
        base: Tensor,  # [in, out], frozen
        bias: Tensor | None,  # [out]
        first: Tensor,  # A, [r, in]
        second: Tensor,  # B, [out, r]
        scale: float,
        mask: Tensor | None,  # [N, in], bool
    ) -> Tensor:
        dtype = base.dtype
        down, up = first.to(dtype), second.to(dtype)
        y = x @ base if bias is None else torch.addmm(bias.to(dtype), x, base)
        hidden = (x if mask is None else x * mask) @ down.T  # [N, r]
        y.addmm_(hidden, up.T, alpha=scale)
        ctx.save_for_backward(x, base, down, up, hidden, mask)
        ctx.scale = scale
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, base, down, up, hidden, mask = ctx.saved_tensors
        d_hidden = (dy @ up).mul_(ctx.scale)  # [N, r]
        d_first = d_second = dx = None
        if ctx.needs_input_grad[3]:
            d_first = (d_hidden.T @ (x if mask is None else x * mask)).float()
        if ctx.needs_input_grad[4]:
            d_second = (dy.T @ hidden).float().mul_(ctx.scale)
        if ctx.needs_input_grad[0]:
            dx = dy @ base.T
            if mask is None:
                dx.addmm_(d_hidden, down)
            else:
                dx.addcmul_(d_hidden @ down, mask.to(dx.dtype))
        return dx, None, None, d_first, d_second, None, None


def random_bytes(shape: torch.Size, device: torch.device) -> Tensor:
    """Bytes of which each value is as likely as any other, cut from 64-bit words.

    Args:
        shape: Of the result.
        device: Where it is needed.
    """
    count = shape.numel()
    words = torch.empty((count + 7) // 8, dtype=torch.int64, device=device)
    # All 64 bits: without bounds, random_ would leave the sign bit at 0.
    words.random_(torch.iinfo(torch.int64).min, None)
    return words.view(torch.uint8)[:count].view(shape)


def dropout_mask(shape: torch.Size, threshold: int, device: torch.device) -> Tensor:
    """Which inputs stay, from random bytes.

    Args:
        shape: Of the mask.
        threshold: Of 256 byte values, how many drop the input.
        device: Where the mask is needed.

    Returns:
        A boolean mask of ``shape``, True with probability 1 − threshold / 256.
    """
    return random_bytes(shape, device) >= threshold


class _LastInput:
    """The input in the products' number format, cast once for all projections that share it."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._source: Tensor | None = None
        self._cast: Tensor | None = None

    def get(self, x: Tensor) -> Tensor:
        """``x`` as [N, in]."""
        if self._cast is None or self._source is not x:
            self._source, self._cast = x, x.reshape(-1, x.shape[-1]).to(self.dtype)
        return self._cast

    def forget(self) -> None:
        """Let go of the tensors."""
        self._source = self._cast = None


class _Fused:
    """The forward of one PEFT layer, standing in for its own."""

    def __init__(self, layer: Any, adapter: str, inputs: _LastInput, transposed: bool) -> None:
        self.layer, self.adapter, self.inputs = layer, adapter, inputs
        self.plain = layer.forward
        weight = layer.get_base_layer().weight.detach()
        # [in, out]: GPT-2's Conv1D keeps it so, Linear keeps its transpose.
        self.base = (weight if transposed else weight.T).to(inputs.dtype)
        self.bias = getattr(layer.get_base_layer(), "bias", None)
        dropout = layer.lora_dropout[adapter]
        self.threshold = round(256 * float(getattr(dropout, "p", 0.0)))

    def __call__(self, x: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        layer = self.layer
        # Outside autocast the other layers compute in fp32, and so must this one.
        lowered = torch.is_autocast_enabled(x.device.type) or self.base.dtype == torch.float32
        if layer.disable_adapters or layer.merged or arguments or keywords or not lowered:
            result: Tensor = self.plain(x, *arguments, **keywords)
            return result
        flat = self.inputs.get(x)
        mask, scale = None, float(layer.scaling[self.adapter])
        if layer.training and self.threshold:
            mask = dropout_mask(flat.shape, self.threshold, flat.device)
            scale *= 256 / (256 - self.threshold)
        with torch.autocast(x.device.type, enabled=False):
            y = _LoraProjection.apply(  # type: ignore[no-untyped-call]
                flat,
                self.base,
                self.bias,
                layer.lora_A[self.adapter].weight,
                layer.lora_B[self.adapter].weight,
                scale,
                mask,
            )
        shaped: Tensor = y.view(*x.shape[:-1], y.shape[-1])
        return shaped


def is_plain_lora(layer: Any) -> bool:
    """Whether a PEFT layer is one LoRA adapter on a frozen projection, and nothing more."""
    from peft.tuners.lora import Linear

    if type(layer) is not Linear or list(layer.lora_A) != layer.active_adapters:
        return False
    variants = getattr(layer, "lora_variant", {})
    biases = [layer.lora_B[name].bias for name in layer.lora_B]
    return len(layer.lora_A) == 1 and not variants and biases == [None]


@contextlib.contextmanager
def fused_projections(writer: LoadedModel) -> Iterator[int]:
    """Let the block's passes through the writer's adapter take the fused path.

    Args:
        writer: A model with a LoRA adapter; one without is left as it is.

    Yields:
        The number of projections that take it.
    """
    from transformers.pytorch_utils import Conv1D

    inputs = _LastInput(torch.bfloat16 if writer.device.precision == "bf16" else torch.float32)
    changed = []
    try:
        for layer in writer.model.modules() if writer.has_adapter else ():
            if hasattr(layer, "lora_A") and is_plain_lora(layer):
                transposed = isinstance(layer.get_base_layer(), Conv1D)
                layer.forward = _Fused(layer, next(iter(layer.lora_A)), inputs, transposed)
                changed.append(layer)
        yield len(changed)
    finally:
        for layer in changed:
            del layer.forward
        inputs.forget()
