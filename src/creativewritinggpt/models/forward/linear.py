"""The weights of a model, merged with its adapter, in the number format they are multiplied in.

Writing one token reads every weight once, so the fewer bits a weight has the faster it goes. int8
keeps one scale for each output; activations stay bf16. For what onnxruntime multiplies see
:mod:`.onnx_matrices`. The price is memory: most are made for a few rows, so prompts are multiplied
by a second copy of the weights, in the format of many rows that this processor is fastest in: int8
with int8 activations, bf16 or fp32.

With few rows all of these compute each as if it were alone: what a row gets does not depend on how
many others are written beside it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...devices import product_seconds
from . import int8
from .onnx.matrices import ByRow, Grouped

_TINY = torch.finfo(torch.float32).tiny
# Up to so many rows the int8 kernel is as fast as bf16 on the processors measured, or faster.
INT8_ROWS = 8

_DENSE = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Rows that are multiplied at once where their numbers must not depend on how many there are.
ROWS_AT_ONCE = 512
# A product in int8 that is 1.6 times as fast made a prompt no more than 1.15 times as fast.
_WORTH_INT8 = 2.0
# A matrix with more outputs for each input than this is the head.
_MOST_OUTPUTS = 16

Matrix = Callable[[Tensor], Tensor]
Many = Callable[[Tensor, Tensor | None], Matrix]


class Unsupported(Exception):
    """A model that has parts which the fast backends don't know."""


def weight_and_bias(module: Any) -> tuple[Tensor, Tensor | None]:
    """The projection that ``module`` computes, adapters merged; float32 ``[out, in]`` and bias.

    Raises:
        Unsupported: It is neither a projection of torch or transformers nor plain LoRA on one.
    """
    from transformers.pytorch_utils import Conv1D

    if type(module) is nn.Linear:
        return module.weight.detach().float(), _detached(module.bias)
    if isinstance(module, Conv1D):
        return module.weight.detach().float().t(), _detached(module.bias)
    base = getattr(module, "base_layer", None)
    if base is None or not hasattr(module, "lora_A"):
        raise Unsupported(type(module).__name__)
    weight, bias = weight_and_bias(base)
    for name in merged_here(module):
        if getattr(module, "use_dora", {}).get(name) or name in getattr(module, "lora_variant", {}):
            raise Unsupported("a variant of LoRA")
        if getattr(module, "lora_bias", {}).get(name):
            raise Unsupported("LoRA with a bias")
        low, high = module.lora_A[name].weight, module.lora_B[name].weight
        scale = module.scaling[name]
        weight = weight + scale * (high.detach().float() @ low.detach().float())
    return weight, bias


def merged_here(module: Any) -> list[str]:
    """The adapters that count in this layer and are not already in its base weight."""
    if module.disable_adapters or module.merged:
        return []
    return [name for name in module.active_adapters if name in module.lora_A]


def adapter_state(model: nn.Module) -> tuple[Any, ...]:
    """What changes when the model's weights, or the weight of its adapters, change."""
    layers: list[tuple[str, float]] = []
    versions = 0
    module: Any
    # One walk over the modules: this is asked for each text.
    for module in model.modules():
        if "lora_A" in module._modules:
            layers += [(name, module.scaling[name]) for name in merged_here(module)]
        # An optimizer changes parameters in place, which torch counts.
        own = module._parameters.values()
        versions += sum(p._version for p in own if p is not None and not p.is_inference())
    return (*layers, versions)


def _detached(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach().float()


def joined(modules: Sequence[nn.Module]) -> tuple[Tensor, Tensor | None]:
    """Several projections of the same input as one, outputs one after the other."""
    parts = [weight_and_bias(module) for module in modules]
    weight = torch.cat([weight for weight, _ in parts])
    if all(bias is None for _, bias in parts):
        return weight, None
    return weight, torch.cat(
        [weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in parts]
    )


class Dense:
    """A matrix in the format of its activations: fp32 or bf16."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        self.weight = weight.to(dtype).contiguous()
        self.bias = None if bias is None else bias.to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """``[rows, in]`` to ``[rows, out]``."""
        return F.linear(x, self.weight, self.bias)


class InBlocks:
    """A dense matrix that always multiplies as many rows at a time.

    Libraries of linear algebra cut products of other shapes in other ways. Here what a row gets
    does not depend, to the last bit, on how many others there are. Weights stay where they are if
    they can: GPT-2's are not even turned.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        self.weight = weight.to(dtype)
        self.bias = None if bias is None else bias.to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """``[rows, in]`` to ``[rows, out]``; the rows are whole blocks."""
        result = x.new_empty(len(x), len(self.weight))
        weight = self.weight.t()
        for part, out in zip(
            *(torch.split(each, ROWS_AT_ONCE) for each in (x, result)), strict=True
        ):
            if self.bias is None:
                torch.mm(part, weight, out=out)
            else:
                torch.addmm(self.bias, part, weight, out=out)
        return result


class Int8:
    """A matrix of int8 with one bf16 scale for each output, and in another format for many rows."""

    def __init__(self, weight: Tensor, bias: Tensor | None, many: Many) -> None:
        self.scales, self.weight = quantize(weight)
        self.many = many(weight, bias)
        self.bias = None if bias is None else bias.to(torch.bfloat16)

    def __call__(self, x: Tensor) -> Tensor:
        """``[rows, in]`` to ``[rows, out]``, all in bf16."""
        if len(x) > INT8_ROWS:
            return self.many(x).to(x.dtype)
        product: Tensor = torch.ops.aten._weight_int8pack_mm(x, self.weight, self.scales)
        return product if self.bias is None else product.add_(self.bias)


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round each output's weights to whole multiples of one scale.

    Args:
        weight: float32 ``[out, in]``.

    Returns:
        bf16 ``[out]`` scales and int8 ``[out, in]``. The scale is rounded to bf16 first, so that
        its own rounding is no error.
    """
    largest = weight.abs().amax(1).clamp(min=_TINY)
    scales = (largest / 127).to(torch.bfloat16)
    # A scale that was rounded down would push the largest weight past 127.
    low = scales.float() * 127 < largest
    scales = torch.where(low, torch.nextafter(scales, torch.full_like(scales, torch.inf)), scales)
    whole = torch.round(weight / scales.float().unsqueeze(1)).clamp_(-127, 127)
    return scales, whole.to(torch.int8).contiguous()


def maker(
    kind: str, many: str | None = None
) -> tuple[Callable[[Tensor, Tensor | None], Matrix], torch.dtype]:
    """How to make a matrix, and what it multiplies.

    Args:
        kind: ``fp32``, ``bf16``, ``int8``, ``onnx``, ``rotated``, or for many rows and nothing
            else ``many``: as fast as torch can be, and ``by-row``: as ``rotated``, of weights that
            are not folded and with a dense head; ``fp32-blocks``, ``bf16-blocks``:
            :class:`InBlocks`.
        many: With ``int8``, ``onnx`` and ``many``, the format for many rows: ``fp32``, ``bf16`` or
            ``int8``; without it the fastest here.
    """
    if kind in _DENSE:
        dtype = _DENSE[kind]
        return functools.partial(Dense, dtype=dtype), dtype
    if kind.endswith("-blocks"):
        dtype = _DENSE[kind.removesuffix("-blocks")]
        return functools.partial(InBlocks, dtype=dtype), dtype
    if kind in ("rotated", "by-row"):
        return functools.partial(_by_row, grouped=kind == "rotated"), torch.float32
    many = many or format_for_many(rough=kind == "many")
    make_many: Many = functools.partial(
        ForMany, format=many, workspace=int8.Workspace(), fine=kind != "many"
    )
    if kind == "many":
        return make_many, _DENSE.get(many, torch.float32)
    if kind == "onnx":
        return functools.partial(Grouped, many=make_many), _DENSE.get(many, torch.float32)
    return functools.partial(_int8, many=make_many), torch.bfloat16


def _by_row(weight: Tensor, bias: Tensor | None, grouped: bool) -> Matrix:
    # Of the head one row is wanted, and its rounding counts the most.
    if len(weight) <= _MOST_OUTPUTS * weight.shape[1]:
        return ByRow(weight, bias)
    return Grouped(weight, bias, None) if grouped else Dense(weight, bias, torch.float32)


class ForMany:
    """A matrix in the format for many rows; the head, of which one row is wanted, is dense."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        format: str,
        workspace: int8.Workspace,
        fine: bool = True,
    ) -> None:
        self.dtype = _DENSE.get(format, torch.float32)
        rounded = format == "int8" and len(weight) <= _MOST_OUTPUTS * weight.shape[1]
        self.product: Matrix = (
            int8.Int8Product(weight, bias, workspace, fine=fine)
            if rounded
            else Dense(weight, bias, self.dtype)
        )

    def __call__(self, x: Tensor) -> Tensor:
        """``[rows, in]`` to ``[rows, out]``."""
        return self.product(x.to(self.dtype))


def _int8(weight: Tensor, bias: Tensor | None, many: Many) -> Matrix:
    # The kernel reads 32 inputs at once and past the end of a row that is no multiple of it.
    if weight.shape[1] % 32:
        return Dense(weight, bias, torch.bfloat16)
    return Int8(weight, bias, many)


def format_for_many(rough: bool = False) -> str:
    """The format in which this processor multiplies many rows fastest.

    Args:
        rough: Whether int8 counts wherever it is faster; else only where it is so much faster that
            it is worth its rounding.
    """
    threads = torch.get_num_threads()
    seconds = dict(product_seconds(threads))
    in_int8 = min(int8.seconds(threads).values())
    if rough or in_int8 * _WORTH_INT8 <= min(seconds.values()):
        seconds["int8"] = in_int8
    return min(seconds, key=lambda name: seconds[name])
