"""Functions of a few steps between the products; one pass over memory each where compiled.

They are plain torch, and the same functions are given to torch's compiler where a run is long
enough to repay it. Compiling takes some seconds a function, and needs a C++ compiler; torch keeps
what it compiled for the next run.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_aten: Any = torch.ops.aten


def kept(x: Tensor, noise: Tensor, threshold: int) -> Tensor:
    """``x`` where its byte of noise reaches the threshold, else 0."""
    return x * (noise >= threshold).to(x.dtype)


def kept_sum(dx: Tensor, x: Tensor, noise: Tensor, threshold: int) -> Tensor:
    """``dx`` + what :func:`kept` keeps of ``x``."""
    return dx + x * (noise >= threshold).to(x.dtype)


def gelu(wide: Tensor) -> Tensor:
    """GELU by its tanh approximation, as GPT-2 has it."""
    return F.gelu(wide, approximate="tanh")


def gelu_again(d_active: Tensor, wide: Tensor) -> tuple[Tensor, Tensor]:
    """GELU once more, and the gradient of its input."""
    return gelu(wide), _aten.gelu_backward(d_active, wide, approximate="tanh")


def swiglu(wide: Tensor) -> Tensor:
    """silu(gate) · up, the gate's columns first."""
    gate, up = wide.chunk(2, -1)
    return F.silu(gate) * up


def swiglu_again(d_active: Tensor, wide: Tensor) -> tuple[Tensor, Tensor]:
    """SwiGLU once more, and the gradient of its input."""
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


_FUNCTIONS: tuple[Callable[..., Any], ...] = (
    kept, kept_sum, gelu, gelu_again, swiglu, swiglu_again, rms_scale, rms_norm,
    rms_norm_backward,
)  # fmt: skip


class Kernels:
    """The functions above as attributes, plain or compiled."""

    kept: Callable[..., Tensor]
    kept_sum: Callable[..., Tensor]
    gelu: Callable[..., Tensor]
    gelu_again: Callable[..., tuple[Tensor, Tensor]]
    swiglu: Callable[..., Tensor]
    swiglu_again: Callable[..., tuple[Tensor, Tensor]]
    rms_scale: Callable[..., Tensor]
    rms_norm: Callable[..., Tensor]
    rms_norm_backward: Callable[..., Tensor]

    def __init__(self, compiled: bool = False) -> None:
        self.use(compiled)

    def use(self, compiled: bool) -> None:
        """Take the compiled functions, or the plain ones."""
        self.compiled = compiled
        for function in _FUNCTIONS:
            made = torch.compile(function, dynamic=True) if compiled else function
            setattr(self, function.__name__, made)


def can_compile() -> bool:
    """Whether torch finds a C++ compiler here."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))
