"""Elementwise functions between the matrix products: dropout, activations, norms, rotary positions.

They are plain torch functions; :class:`Kernels` holds them as they are or compiled by torch, so
that each takes one pass over memory.

Trade-off: compiling takes some seconds per function and needs a C++ compiler; torch caches the
result for later runs.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import InputError, RunError
from .attention import Heads

_aten: Any = torch.ops.aten
Function = TypeVar("Function", bound=Callable[..., Any])


def kept(x: Tensor, noise: Tensor, threshold: int) -> Tensor:
    """Dropout: ``x`` where its byte of noise reaches the threshold, else 0."""
    return x * (noise >= threshold).to(x.dtype)


def kept_sum(dx: Tensor, x: Tensor, noise: Tensor, threshold: int) -> Tensor:
    """``dx`` + what :func:`kept` keeps of ``x``."""
    return torch.addcmul(dx, x, (noise >= threshold).to(x.dtype))


def gelu(wide: Tensor) -> Tensor:
    """GELU by its tanh approximation, as GPT-2 has it."""
    return F.gelu(wide, approximate="tanh")


def gelu_again(d_active: Tensor, wide: Tensor) -> tuple[Tensor, Tensor]:
    """GELU recomputed, and the gradient of its input."""
    return gelu(wide), _aten.gelu_backward(d_active, wide, approximate="tanh")


def swiglu(wide: Tensor) -> Tensor:
    """silu(gate) · up, the gate's columns first."""
    gate, up = wide.chunk(2, -1)
    return F.silu(gate) * up


def swiglu_again(d_active: Tensor, wide: Tensor) -> tuple[Tensor, Tensor]:
    """SwiGLU recomputed, and the gradient of its input."""
    gate, up = wide.chunk(2, -1)
    active = F.silu(gate)
    d_gate = _aten.silu_backward(d_active * up, gate)
    return active * up, torch.cat([d_gate, d_active * active], -1)


def rms_scale(x: Tensor, epsilon: float) -> Tensor:
    """One over the root of the mean square of each row, ``[rows, 1]``."""
    return torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)


def rms_norm(x: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
    """Rows divided by their root mean square, columns scaled."""
    return x * scale * weight


def rms_norm_backward(dy: Tensor, x: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
    """The input's gradient: with n = x · scale, scale · (dn − n · mean(n · dn))."""
    dn = dy.float() * weight
    return scale * (dn - x * (scale.square() * (x * dn).mean(-1, keepdim=True)))


class Kernels:
    """The functions above as attributes.

    Args:
        compiled: Whether they are compiled by torch.
    """

    def __init__(self, compiled: bool = False) -> None:
        def made(function: Function) -> Function:
            return cast(Function, torch.compile(function, dynamic=True) if compiled else function)

        self.kept, self.kept_sum = made(kept), made(kept_sum)
        self.gelu, self.gelu_again = made(gelu), made(gelu_again)
        self.swiglu, self.swiglu_again = made(swiglu), made(swiglu_again)
        self.rms_scale, self.rms_norm = made(rms_scale), made(rms_norm)
        self.rms_norm_backward = made(rms_norm_backward)


def can_compile() -> bool:
    """Whether a C++ compiler is installed."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


def check_compile() -> None:
    """Compile one function, to find out before a run whether that works.

    Raises:
        InputError: There is no C++ compiler.
        RunError: torch can't compile here.
    """
    if not can_compile():
        raise InputError("compile is on, but there is no C++ compiler here", "leave --compile out")
    try:
        torch.compile(gelu, dynamic=True)(torch.zeros(2, 4))
    except Exception as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise RunError(f"torch can't compile here: {said}", "leave --compile out") from error


class Norm(Protocol):
    """A norm over the last dimension with its backward pass; the weights are frozen."""

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Normed ``[tokens, width]``, and statistics for the backward pass."""

    def again(self, x: Tensor, statistics: Sequence[Tensor]) -> Tensor:
        """Normed input, recomputed."""

    def backward(self, dy: Tensor, x: Tensor, statistics: Sequence[Tensor]) -> Tensor:
        """Gradient of the input, float32; the caller may modify it."""


class LayerNorm:
    """LayerNorm.

    Args:
        module: torch's LayerNorm.
        dtype: Dtype of the matrix products.
    """

    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        self.weight, self.bias = module.weight.detach(), module.bias.detach()
        self.epsilon, self.dtype = float(module.eps), dtype
        self.shape = [len(self.weight)]

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See :class:`Norm`."""
        y, mean, scale = torch.native_layer_norm(
            x, self.shape, self.weight, self.bias, self.epsilon
        )
        return y.to(self.dtype), (mean, scale)

    def again(self, x: Tensor, statistics: Sequence[Tensor]) -> Tensor:
        """See :class:`Norm`."""
        return F.layer_norm(x, self.shape, self.weight, self.bias, self.epsilon).to(self.dtype)

    def backward(self, dy: Tensor, x: Tensor, statistics: Sequence[Tensor]) -> Tensor:
        """See :class:`Norm`."""
        dx: Tensor = _aten.native_layer_norm_backward(
            dy.float(), x, self.shape, *statistics, self.weight, self.bias, [True, False, False]
        )[0]
        return dx


class RmsNorm:
    """RMS norm.

    Args:
        module: transformers' RMS norm of the Llama family.
        dtype: Dtype of the matrix products.
        kernels: Elementwise functions.
    """

    def __init__(self, module: Any, dtype: torch.dtype, kernels: Kernels) -> None:
        self.weight, self.dtype, self.kernels = module.weight.detach(), dtype, kernels
        self.epsilon = float(module.variance_epsilon)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See :class:`Norm`."""
        scale = self.kernels.rms_scale(x, self.epsilon)
        return self.again(x, (scale,)), (scale,)

    def again(self, x: Tensor, statistics: Sequence[Tensor]) -> Tensor:
        """See :class:`Norm`."""
        return self.kernels.rms_norm(x, statistics[0], self.weight).to(self.dtype)

    def backward(self, dy: Tensor, x: Tensor, statistics: Sequence[Tensor]) -> Tensor:
        """See :class:`Norm`."""
        return self.kernels.rms_norm_backward(dy, x, statistics[0], self.weight)


class Rope:
    """Rotary position embedding of queries and keys.

    Args:
        cos: ``[tokens, head size]``, as the model's own rotary module gives it.
        sin: Likewise.
    """

    def __init__(self, cos: Tensor, sin: Tensor) -> None:
        half = cos.shape[-1] // 2
        self.cos, self.sin = cos[:, None, :half], sin[:, None, :half]

    def rotate_(self, qkv: Tensor, heads: Heads) -> None:
        """Rotate queries and keys in place."""
        self._rotate(qkv, heads, self.sin)

    def rotate_back_(self, qkv: Tensor, heads: Heads) -> None:
        """The gradient of :meth:`rotate_`, in place."""
        self._rotate(qkv, heads, -self.sin)

    def _rotate(self, qkv: Tensor, heads: Heads, sin: Tensor) -> None:
        rotated = heads.queries + heads.keys
        both = qkv.view(len(qkv), heads.all, 2, heads.size // 2)[:, :rotated]
        first, second = both[:, :, 0], both[:, :, 1]
        cos, sin = self.cos.to(qkv.dtype), sin.to(qkv.dtype)
        new_first = first * cos - second * sin
        second.mul_(cos).addcmul_(first, sin)
        first.copy_(new_first)
