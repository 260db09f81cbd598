"""Layers of the fast path: LoRA projections, dropout, activations, norms, rotary positions.

A projection is the frozen base product and its adapter in one function with its own backward pass:

    y = x Wᵀ + b + s · (m ⊙ x) Aᵀ Bᵀ          m: dropout mask, s: scale / (1 − p)

:class:`Projections` joins the projections that share an input (queries, keys and values, or gate
and up) into one base product and one product with the adapters' first matrices, for the fast path;
:func:`fused_projections` replaces the forward of single PEFT layers where there is no fast path.
Parameters stay PEFT's own. PEFT computes the adapter in float32, keeps a copy of the input for
every projection and draws a float for every dropout decision; here the input is kept once, dropout
is decided by random bytes, and everything runs in the base product's dtype.

The frozen product is dense (fp32 or bf16) or int8. int8 keeps two copies of one byte per weight,
since the gradient of the input needs scales along the other side, and rounds activations and
gradients by about 1 % per product (see :mod:`~...models.forward.linear`).

The elementwise functions are plain torch functions; :class:`Kernels` holds them as they are or
compiled by torch, so that each takes one pass over memory (some seconds per function, and a C++
compiler; torch caches the result).

Trade-off: the dropout probability is rounded to 1/256, joined projections share a dropout mask, and
layers with several adapters, DoRA or other variants keep PEFT's path.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import InputError, RunError
from ...models.forward.linear import Int8Product, Workspace
from ...models.loaded_model import LoadedModel
from .attention import Heads


def random_bytes(shape: torch.Size, device: torch.device) -> Tensor:
    """Uniformly random bytes, cut from 64-bit words.

    Args:
        shape: Shape of the result.
        device: Device of the result.
    """
    count = shape.numel()
    words = torch.empty((count + 7) // 8, dtype=torch.int64, device=device)
    # All 64 bits: without bounds, random_ would leave the sign bit at 0.
    words.random_(torch.iinfo(torch.int64).min, None)
    return words.view(torch.uint8)[:count].view(shape)


def is_plain_lora(layer: Any) -> bool:
    """Whether a PEFT layer is a single plain LoRA adapter (no DoRA, variants or bias)."""
    from peft.tuners.lora import Linear

    if type(layer) is not Linear or list(layer.lora_A) != layer.active_adapters:
        return False
    variants = getattr(layer, "lora_variant", {})
    biases = [layer.lora_B[name].bias for name in layer.lora_B]
    return len(layer.lora_A) == 1 and not variants and biases == [None]


class DenseLinear:
    """Frozen product in fp32 or bf16; the caller may modify what its methods return.

    Args:
        weight: ``[out, in]``, any strides.
        bias: ``[out]`` or None.
        dtype: Dtype of the product.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        self.weight = weight.to(dtype)
        self.bias = None if bias is None else bias.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``[tokens, in]`` to ``[tokens, out]``."""
        if self.bias is None:
            return x @ self.weight.T
        return torch.addmm(self.bias, x, self.weight.T)

    def backward(self, dy: Tensor) -> Tensor:
        """``[tokens, out]`` to ``[tokens, in]``."""
        return dy @ self.weight


class Int8Linear:
    """Frozen product in int8; the caller may modify what its methods return.

    Args:
        weight: float32 ``[out, in]``, any strides.
        bias: ``[out]`` or None.
        workspace: Memory for one block, shared by the model's products.
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
    """Logits of a frozen head in int8, in memory reused by the next call.

    Args:
        weight: float32 ``[vocabulary, width]``.
        workspace: Memory for one block, shared by the model's products.
    """

    def __init__(self, weight: Tensor, workspace: Workspace) -> None:
        self._product = Int8Product(weight, None, workspace)
        self._logits = torch.empty(0, len(weight))

    def __call__(self, x: Tensor) -> Tensor:
        """``[tokens, width]`` to ``[tokens, vocabulary]``, float32, until the next call."""
        if len(self._logits) < len(x):
            self._logits = self._logits.new_empty(len(x), self._logits.shape[1])
        return self._product(x, self._logits[: len(x)])


class Adapter(NamedTuple):
    """LoRA adapter of one projection: PEFT's parameters A and B, scale, output columns."""

    first: Tensor
    second: Tensor
    scale: float
    columns: slice


class Projections:
    """Frozen projections of one input, joined into one product, with their adapters.

    Args:
        layers: Linear, Conv1D or PEFT's LoRA layers around them, all with the same input.
        make: Makes the frozen product of a weight ``[out, in]`` and a bias.
        kernels: Elementwise functions.
    """

    def __init__(
        self,
        layers: Sequence[Any],
        make: Callable[[Tensor, Tensor | None], DenseLinear | Int8Linear],
        kernels: Kernels,
    ) -> None:
        from transformers.pytorch_utils import Conv1D

        bases, weights, biases = list[Any](), list[Tensor](), list[Tensor | None]()
        self.adapters, self.threshold = list[Adapter](), 0
        start = 0
        for layer in layers:
            base = layer.get_base_layer() if hasattr(layer, "lora_A") else layer
            weight = base.weight.detach()
            weight = weight.T if isinstance(base, Conv1D) else weight  # [out, in]
            bases.append(base)
            weights.append(weight)
            bias = getattr(base, "bias", None)
            biases.append(None if bias is None else bias.detach())
            columns = slice(start, start + len(weight))
            start = columns.stop
            if layer is not base:
                name = next(iter(layer.lora_A))
                first, second = layer.lora_A[name].weight, layer.lora_B[name].weight
                scale = float(layer.scaling[name])
                self.adapters.append(Adapter(first, second, scale, columns))
                dropout = layer.lora_dropout[name]
                self.threshold = round(256 * float(getattr(dropout, "p", 0.0)))
        bias = None
        if any(part is not None for part in biases):
            bias = torch.cat(
                [
                    weight.new_zeros(len(weight)) if part is None else part
                    for part, weight in zip(biases, weights, strict=True)
                ]
            )
        joined = weights[0] if len(layers) == 1 else _joined(bases, weights)
        self.frozen = make(joined, bias)
        self.kernels = kernels
        ends = itertools.accumulate(len(adapter.first) for adapter in self.adapters)
        self.ranks = [
            slice(end - len(adapter.first), end)
            for adapter, end in zip(self.adapters, ends, strict=True)
        ]

    @property
    def parameters(self) -> list[Tensor]:
        """A and B of each adapter, in turn."""
        return [matrix for adapter in self.adapters for matrix in (adapter.first, adapter.second)]

    def noise(self, x: Tensor, training: bool) -> Tensor | None:
        """Random bytes of the dropout, ``[tokens, in]``, or None without dropout."""
        if not (training and self.threshold and self.adapters):
            return None
        return random_bytes(x.shape, x.device)

    def kept(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """What dropout leaves of the input for the adapters, ``[tokens, in]``, not yet scaled."""
        return x if noise is None else self.kernels.kept(x, noise, self.threshold)

    def _scale(self, adapter: Adapter, noise: Tensor | None) -> float:
        return adapter.scale * (256 / (256 - self.threshold) if noise is not None else 1.0)

    def _firsts(self, dtype: torch.dtype) -> Tensor:
        """A of all adapters, ``[ranks, in]``."""
        return torch.cat([adapter.first for adapter in self.adapters]).to(dtype)

    def forward(self, x: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs ``[tokens, out]``, ``[tokens, ranks]`` between A and B, and :meth:`kept`."""
        y = self.frozen.forward(x)
        if not self.adapters:
            return y, x.new_empty(len(x), 0), x.new_empty(0)
        kept = self.kept(x, noise)
        hidden = kept @ self._firsts(x.dtype).T
        for adapter, ranks in zip(self.adapters, self.ranks, strict=True):
            second, scale = adapter.second.to(x.dtype).T, self._scale(adapter, noise)
            y[:, adapter.columns].addmm_(hidden[:, ranks], second, alpha=scale)
        return y, hidden, kept

    def backward_input(
        self, dy: Tensor, noise: Tensor | None, hidden: Tensor, wanted: bool
    ) -> tuple[Tensor | None, Tensor]:
        """Gradient of the input (None unless wanted) and of ``hidden``.

        Args:
            dy: Gradient of the output, ``[tokens, out]``.
            noise: Random bytes of the forward pass.
            hidden: Second result of the forward pass.
            wanted: Whether anything below is trained.
        """
        d_hidden = torch.empty_like(hidden)
        for adapter, ranks in zip(self.adapters, self.ranks, strict=True):
            part = dy[:, adapter.columns] @ adapter.second.to(dy.dtype)
            d_hidden[:, ranks] = part.mul_(self._scale(adapter, noise))
        if not wanted:
            return None, d_hidden
        dx = self.frozen.backward(dy)
        if not self.adapters:
            return dx, d_hidden
        if noise is None:
            return dx.addmm_(d_hidden, self._firsts(dy.dtype)), d_hidden
        through = d_hidden @ self._firsts(dy.dtype)
        return self.kernels.kept_sum(dx, through, noise, self.threshold), d_hidden

    def backward_parameters(
        self, dy: Tensor, kept: Tensor, noise: Tensor | None, hidden: Tensor, d_hidden: Tensor
    ) -> list[Tensor]:
        """Gradients in the order of :attr:`parameters`; ``kept`` as :meth:`kept` gives it."""
        gradients: list[Tensor] = []
        if not self.adapters:
            return gradients
        firsts = (d_hidden.T @ kept).float()
        for adapter, ranks in zip(self.adapters, self.ranks, strict=True):
            second = (hidden[:, ranks].T @ dy[:, adapter.columns]).float()  # [rank, out]
            gradients += [firsts[ranks], second.mul_(self._scale(adapter, noise)).T]
        return gradients


def _joined(layers: Sequence[Any], weights: Sequence[Tensor]) -> Tensor:
    """Concatenated weight ``[out, in]``; the layers' own weights become views of it."""
    joined = torch.cat(list(weights))
    if all(isinstance(layer, torch.nn.Linear) for layer in layers):
        parts = torch.split(joined, [len(weight) for weight in weights])
        for layer, part in zip(layers, parts, strict=True):
            layer.weight.data = part
    return joined


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, projections: Projections, training: bool, *parameters: Tensor
    ) -> Tensor:
        noise = projections.noise(x, training)
        y, hidden, _ = projections.forward(x, noise)
        ctx.projections = projections
        ctx.save_for_backward(x, noise, hidden)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        projections: Projections = ctx.projections
        x, noise, hidden = ctx.saved_tensors
        dx, d_hidden = projections.backward_input(dy, noise, hidden, ctx.needs_input_grad[0])
        kept = projections.kept(x, noise)
        gradients = projections.backward_parameters(dy, kept, noise, hidden, d_hidden)
        return dx, None, None, *gradients


def project(x: Tensor, projections: Projections, training: bool) -> Tensor:
    """Projections of ``[tokens, in]`` with their adapters, ``[tokens, out]``, for autograd."""
    y: Tensor = _Project.apply(  # type: ignore[no-untyped-call]
        x, projections, training, *projections.parameters
    )
    return y


class _LastInput:
    """The input in the products' dtype, cast once for all projections that share it."""

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


class _FusedForward:
    """Forward of one PEFT layer that replaces its own."""

    def __init__(self, layer: Any, inputs: _LastInput, kernels: Kernels) -> None:
        self.layer, self.inputs, self.plain = layer, inputs, layer.forward
        self.projections = Projections(
            [layer], lambda weight, bias: DenseLinear(weight, bias, inputs.dtype), kernels
        )

    def __call__(self, x: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        layer = self.layer
        # Outside autocast the other layers compute in fp32, and so must this one.
        lowered = torch.is_autocast_enabled(x.device.type) or self.inputs.dtype == torch.float32
        if layer.disable_adapters or layer.merged or arguments or keywords or not lowered:
            result: Tensor = self.plain(x, *arguments, **keywords)
            return result
        with torch.autocast(x.device.type, enabled=False):
            y = project(self.inputs.get(x), self.projections, layer.training)
        return y.view(*x.shape[:-1], y.shape[-1])


@contextlib.contextmanager
def fused_projections(model: LoadedModel) -> Iterator[int]:
    """Replace the forward of the model's plain LoRA layers within the context.

    1.19 (starter) and 1.14 times (GPT-2's shape) as fast as PEFT's own layers where there is no
    fast path (``ours-projections`` in ``bench/train.py``; 2 cores of Zen 4, bf16).

    Args:
        model: A model with a LoRA adapter; one without is left as it is.

    Yields:
        The number of projections that take it.
    """
    inputs = _LastInput(torch.bfloat16 if model.device.precision == "bf16" else torch.float32)
    changed, kernels = [], Kernels()
    try:
        for layer in model.model.modules() if model.has_adapter else ():
            if hasattr(layer, "lora_A") and is_plain_lora(layer):
                layer.forward = _FusedForward(layer, inputs, kernels)
                changed.append(layer)
        yield len(changed)
    finally:
        for layer in changed:
            del layer.forward
        inputs.forget()


_aten: Any = torch.ops.aten
Function = TypeVar("Function", bound=Callable[..., Any])


def dropout_mask(noise: Tensor, threshold: int, dtype: torch.dtype) -> Tensor:
    """1 where a byte of noise reaches the threshold (1 to 255), else 0.

    Clamping to the threshold and the byte below it takes a quarter of the time of comparing.
    """
    return noise.clamp(threshold - 1, threshold).sub_(threshold - 1).to(dtype)


def kept(x: Tensor, noise: Tensor, threshold: int) -> Tensor:
    """Dropout: ``x`` where its byte of noise reaches the threshold, else 0."""
    return x * dropout_mask(noise, threshold, x.dtype)


def kept_sum(dx: Tensor, x: Tensor, noise: Tensor, threshold: int) -> Tensor:
    """``dx`` + what :func:`kept` keeps of ``x``."""
    return torch.addcmul(dx, x, dropout_mask(noise, threshold, x.dtype))


def gelu(wide: Tensor) -> Tensor:
    """GELU by its tanh approximation, as GPT-2 has it."""
    return F.gelu(wide, approximate="tanh")


def gelu_backward(d_active: Tensor, wide: Tensor) -> Tensor:
    """The gradient of GELU's input."""
    d_wide: Tensor = _aten.gelu_backward(d_active, wide, approximate="tanh")
    return d_wide


def swiglu(wide: Tensor) -> Tensor:
    """silu(gate) · up, the gate's columns first."""
    gate, up = wide.chunk(2, -1)
    return F.silu(gate) * up


def swiglu_backward(d_active: Tensor, wide: Tensor) -> Tensor:
    """The gradient of SwiGLU's input."""
    gate, up = wide.chunk(2, -1)
    d_wide = torch.empty_like(wide)
    d_gate, d_up = d_wide.chunk(2, -1)
    _aten.silu_backward(d_active * up, gate, grad_input=d_gate)
    torch.mul(d_active, F.silu(gate), out=d_up)
    return d_wide


def rms_scale(x: Tensor, epsilon: float) -> Tensor:
    """One over the root of the mean square of each row, ``[rows, 1]``."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.rsqrt(length.square_().div_(x.shape[-1]).add_(epsilon))


def rms_norm(x: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
    """Rows divided by their root mean square, columns scaled."""
    return x * scale * weight


def rms_norm_backward(dy: Tensor, x: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
    """The input's gradient: with n = x · scale, scale · (dn − n · mean(n · dn))."""
    dn = dy.float() * weight
    along = torch.linalg.vecdot(x, dn)[:, None].div_(x.shape[-1])
    return dn.addcmul_(x, along.mul_(scale.square()), value=-1.0).mul_(scale)


class Kernels:
    """The functions above as attributes.

    Args:
        compiled: Whether they are compiled by torch.
    """

    def __init__(self, compiled: bool = False) -> None:
        def made(function: Function) -> Function:
            return cast(Function, torch.compile(function, dynamic=True) if compiled else function)

        self.kept, self.kept_sum = made(kept), made(kept_sum)
        self.gelu, self.gelu_backward = made(gelu), made(gelu_backward)
        self.swiglu, self.swiglu_backward = made(swiglu), made(swiglu_backward)
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


class LayerNorm:
    """LayerNorm with its backward pass; the weights are frozen.

    Args:
        module: torch's LayerNorm.
        dtype: Dtype of the matrix products.
    """

    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        self.weight, self.bias = module.weight.detach(), module.bias.detach()
        self.epsilon, self.dtype = float(module.eps), dtype
        self.shape = [len(self.weight)]

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Normed ``[tokens, width]``, and statistics for the backward pass."""
        y, mean, scale = torch.native_layer_norm(
            x, self.shape, self.weight, self.bias, self.epsilon
        )
        return y.to(self.dtype), (mean, scale)

    def again(self, x: Tensor, statistics: Sequence[Tensor]) -> Tensor:
        """Normed input, recomputed."""
        return F.layer_norm(x, self.shape, self.weight, self.bias, self.epsilon).to(self.dtype)

    def backward(self, dy: Tensor, x: Tensor, statistics: Sequence[Tensor]) -> Tensor:
        """Gradient of the input, float32; the caller may modify it."""
        dx: Tensor = _aten.native_layer_norm_backward(
            dy.float(), x, self.shape, *statistics, self.weight, self.bias, [True, False, False]
        )[0]
        return dx


class RmsNorm:
    """RMS norm with its backward pass; the weights are frozen.

    Args:
        module: transformers' RMS norm of the Llama family.
        dtype: Dtype of the matrix products.
        kernels: Elementwise functions.
    """

    def __init__(self, module: Any, dtype: torch.dtype, kernels: Kernels) -> None:
        self.weight, self.dtype, self.kernels = module.weight.detach(), dtype, kernels
        self.epsilon = float(module.variance_epsilon)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Normed ``[tokens, width]``, and statistics for the backward pass."""
        scale = self.kernels.rms_scale(x, self.epsilon)
        return self.again(x, (scale,)), (scale,)

    def again(self, x: Tensor, statistics: Sequence[Tensor]) -> Tensor:
        """Normed input, recomputed."""
        return self.kernels.rms_norm(x, statistics[0], self.weight).to(self.dtype)

    def backward(self, dy: Tensor, x: Tensor, statistics: Sequence[Tensor]) -> Tensor:
        """Gradient of the input, float32; the caller may modify it."""
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
