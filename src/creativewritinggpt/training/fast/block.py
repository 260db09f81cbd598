"""Fast training path: transformer blocks with a frozen base, with their backward pass written out.

    x → x + out(attention(qkv(norm(x))))            x → x + down(act(up(norm(x))))

Each half of a block is one autograd function. For the backward pass it keeps its input, the result
of the middle product, attention's result and probabilities, dropout's random bytes and what they
leave of the activation; norms are recomputed, and the backward pass ends at the lowest adapter. The
residual stream is float32, products have a dtype of their own. Documents are laid end to end
without padding; in bf16 with a little (:data:`TOKENS_MULTIPLE`).

Against transformers' modules with PEFT's layers and the chunked loss (``ours-plain`` in
``bench/train.py``): 1.40 times as fast with 0.62 of the memory for the starter, 1.21 times with
0.74 for GPT-2's shape (2 cores of Zen 4, bf16).

It handles plain LoRA adapters on blocks of GPT-2, Llama and Qwen on a CPU; every other model,
device or method takes transformers' own modules, which are also its reference in the tests.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ... import console
from ...devices import product_seconds
from ...models.forward.linear import Workspace, int8_seconds
from ...models.loaded_model import LoadedModel
from .attention import Documents, Group, Heads, attend, attend_backward
from .layers import (
    DenseLinear,
    Int8Head,
    Int8Linear,
    Kernels,
    LayerNorm,
    Projections,
    RmsNorm,
    Rope,
    fused_projections,
    is_plain_lora,
)

MOST_TOKENS = 1024
"""Tokens per pass: larger tensors get fresh memory from the C library each time, which is slow."""

TOKENS_MULTIPLE = 64
"""What the tokens of a pass in bf16 are a multiple of. oneDNN makes code of its own for each shape
of a product in bf16, and keeps it: 1.2 MB and 4.5 ms for 800 to 1,000 rows by 576 × 576. In fp32
and int8 it does not."""

KEPT_BYTES = 750e6
"""Bytes that a pass may keep for its backward pass, about; deep models get fewer tokens."""

_BYTES_PER_COLUMN = 72
"""Bytes that a layer keeps per token and column of the model's width, about."""


@dataclasses.dataclass(frozen=True)
class AttentionHalf:
    """Norm, query-key-value projection, attention, output projection, residual sum."""

    norm: LayerNorm | RmsNorm
    qkv: Projections
    out: Projections
    heads: Heads

    def __call__(
        self, x: Tensor, groups: Sequence[Group], rotation: Rope | None, training: bool
    ) -> Tensor:
        """Residual stream ``[tokens, width]`` before and after."""
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
        rotation: Rope | None,
        training: bool,
        *parameters: Tensor,
    ) -> Tensor:
        normed, statistics = half.norm.forward(x)
        in_noise = half.qkv.noise(normed, training)
        qkv, in_hidden, _ = half.qkv.forward(normed, in_noise)
        del normed, _
        if rotation is not None:
            rotation.rotate_(qkv, half.heads)
        mixed, kept = attend(qkv, groups, half.heads)
        out_noise = half.out.noise(mixed, training)
        y, out_hidden, _ = half.out.forward(mixed, out_noise)
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
        out_kept = half.out.kept(mixed, out_noise)
        out_gradients = half.out.backward_parameters(low, out_kept, out_noise, out_hidden, d_hidden)
        del out_kept
        in_gradients: list[Tensor] = []
        dx = dy if wants_input else None
        if d_mixed is not None:
            d_qkv = attend_backward(d_mixed, qkv, mixed, kept, ctx.groups, half.heads)
            if ctx.rotation is not None:
                ctx.rotation.rotate_back_(d_qkv, half.heads)
            dx, in_gradients = _through_norm(
                half.norm, half.qkv, d_qkv, dy, x, statistics, in_noise, in_hidden, wants_input
            )
        return dx, None, None, None, None, *in_gradients, *out_gradients


@dataclasses.dataclass(frozen=True)
class MlpHalf:
    """Norm, up projection, activation, down projection, residual sum."""

    norm: LayerNorm | RmsNorm
    up: Projections
    down: Projections
    activation: Callable[[Tensor], Tensor]
    activation_backward: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, x: Tensor, training: bool) -> Tensor:
        """Residual stream ``[tokens, width]`` before and after."""
        parameters = self.up.parameters + self.down.parameters
        result: Tensor = _Mlp.apply(x, self, training, *parameters)  # type: ignore[no-untyped-call]
        return result


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, half: MlpHalf, training: bool, *parameters: Tensor) -> Tensor:
        normed, statistics = half.norm.forward(x)
        up_noise = half.up.noise(normed, training)
        wide, up_hidden, _ = half.up.forward(normed, up_noise)
        del normed, _
        active = half.activation(wide)
        down_noise = half.down.noise(active, training)
        y, down_hidden, down_kept = half.down.forward(active, down_noise)
        ctx.half = half
        ctx.save_for_backward(
            x, wide, up_noise, down_noise, up_hidden, down_hidden, down_kept, *statistics
        )
        return y.float().add_(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        half: MlpHalf = ctx.half
        x, wide, up_noise, down_noise, up_hidden, down_hidden, down_kept, *statistics = (
            ctx.saved_tensors
        )
        wants_input = ctx.needs_input_grad[0]
        low = dy.to(wide.dtype)
        below = wants_input or bool(half.up.adapters)
        d_active, d_hidden = half.down.backward_input(low, down_noise, down_hidden, below)
        up_gradients: list[Tensor] = []
        dx = dy if wants_input else None
        down_gradients = half.down.backward_parameters(
            low, down_kept, down_noise, down_hidden, d_hidden
        )
        if d_active is not None:
            d_wide = half.activation_backward(d_active, wide)
            del d_active
            dx, up_gradients = _through_norm(
                half.norm, half.up, d_wide, dy, x, statistics, up_noise, up_hidden, wants_input
            )
        return dx, None, None, *up_gradients, *down_gradients


def _through_norm(
    norm: LayerNorm | RmsNorm,
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
    kept = projections.kept(normed, noise)
    gradients = projections.backward_parameters(dy, kept, noise, hidden, d_hidden)
    if d_normed is None:
        return None, gradients
    return norm.backward(d_normed, x, statistics).add_(around), gradients


class FastBody:
    """Embeddings, blocks and last norm of a model with PEFT's adapters.

    Args:
        model: A model for which :func:`has_fast_body` holds.
        int8: Whether the frozen products are made in int8.
        compiled: Whether the elementwise functions are compiled.
    """

    def __init__(self, model: LoadedModel, int8: bool = False, compiled: bool = False) -> None:
        self.bare, self.kernels, self.int8 = model.bare, Kernels(compiled), int8
        self.workspace = Workspace()
        low = model.device.precision == "bf16" and not int8
        self.dtype = torch.bfloat16 if low else torch.float32
        self.multiple = TOKENS_MULTIPLE if low else 1
        kind = type(self.bare).__name__
        self.inner: Any = self.bare.base_model
        self.is_gpt2 = kind == "GPT2LMHeadModel"
        blocks = self.inner.h if self.is_gpt2 else self.inner.layers
        make = self._gpt2_block if self.is_gpt2 else self._llama_block
        self.blocks = [make(block) for block in blocks]
        kept = len(self.blocks) * int(self.bare.config.hidden_size) * _BYTES_PER_COLUMN
        self.tokens_at_once = min(MOST_TOKENS, int(KEPT_BYTES / kept))
        head = self.bare.get_output_embeddings().weight.detach()
        # Cast once, not for each micro-batch.
        self.head_weight = head.to(self.dtype)
        self.head = Int8Head(head.float(), self.workspace) if int8 else None

    def _frozen(self, weight: Tensor, bias: Tensor | None) -> DenseLinear | Int8Linear:
        if self.int8:
            return Int8Linear(weight.float(), bias, self.workspace)
        return DenseLinear(weight, bias, self.dtype)

    def _join(self, *layers: Any) -> Projections:
        return Projections(layers, self._frozen, self.kernels)

    def _gpt2_block(self, block: Any) -> tuple[AttentionHalf, MlpHalf]:
        attention, mlp = block.attn, block.mlp
        count, size = int(attention.num_heads), int(attention.head_dim)
        return (
            AttentionHalf(
                norm=LayerNorm(block.ln_1, self.dtype),
                qkv=self._join(attention.c_attn),
                out=self._join(attention.c_proj),
                heads=Heads(count, count, size, float(attention.scaling)),
            ),
            MlpHalf(
                norm=LayerNorm(block.ln_2, self.dtype),
                up=self._join(mlp.c_fc),
                down=self._join(mlp.c_proj),
                activation=self.kernels.gelu,
                activation_backward=self.kernels.gelu_backward,
            ),
        )

    def _llama_block(self, block: Any) -> tuple[AttentionHalf, MlpHalf]:
        attention, mlp, config = block.self_attn, block.mlp, self.bare.config
        queries, keys = int(config.num_attention_heads), int(config.num_key_value_heads)
        heads = Heads(queries, keys, int(attention.head_dim), float(attention.scaling))
        return (
            AttentionHalf(
                norm=RmsNorm(block.input_layernorm, self.dtype, self.kernels),
                qkv=self._join(attention.q_proj, attention.k_proj, attention.v_proj),
                out=self._join(attention.o_proj),
                heads=heads,
            ),
            MlpHalf(
                norm=RmsNorm(block.post_attention_layernorm, self.dtype, self.kernels),
                up=self._join(mlp.gate_proj, mlp.up_proj),
                down=self._join(mlp.down_proj),
                activation=self.kernels.swiglu,
                activation_backward=self.kernels.swiglu_backward,
            ),
        )

    def __call__(self, documents: Documents) -> Tensor:
        """Hidden states after the last norm, ``[tokens, width]`` float32."""
        training, rotation = bool(self.bare.training), None
        with torch.no_grad():
            if self.is_gpt2:
                x = self.inner.wte(documents.input_ids) + self.inner.wpe(documents.position_ids)
            else:
                x = self.inner.embed_tokens(documents.input_ids)
                cos, sin = self.inner.rotary_emb(x, documents.position_ids[None])
                rotation = Rope(cos[0], sin[0])
        for attention, mlp in self.blocks:
            x = attention(x, documents.groups, rotation, training)
            x = mlp(x, training)
        last = self.inner.ln_f if self.is_gpt2 else self.inner.norm
        hidden: Tensor = last(x)
        return hidden


def has_fast_body(model: LoadedModel) -> bool:
    """Whether the fast path handles the model, its adapter and its device."""
    return knows_family(model) and model.has_adapter and _only_adapters_are_trained(model.model)


def knows_family(model: LoadedModel) -> bool:
    """Whether the fast path handles plain LoRA adapters of the model on its device."""
    check = {
        "GPT2LMHeadModel": _plain_gpt2,
        "LlamaForCausalLM": _plain_llama,
        "Qwen2ForCausalLM": _plain_llama,
    }.get(type(model.bare).__name__)
    return model.device.torch_device.type == "cpu" and bool(check and check(model.bare.config))


def _plain_gpt2(config: Any) -> bool:
    dropouts = (config.embd_pdrop, config.resid_pdrop, config.attn_pdrop)
    return (
        config.activation_function in ("gelu_new", "gelu_pytorch_tanh")
        and not config.add_cross_attention
        and not any(dropouts)
    )  # fmt: skip


def _plain_llama(config: Any) -> bool:
    rope = getattr(config, "rope_parameters", None) or {}
    return (
        config.hidden_act == "silu" and not getattr(config, "use_sliding_window", False)
        and not getattr(config, "attention_dropout", 0.0)
        and rope.get("rope_type", "default") in ("default", "linear", "llama3", "yarn")
    )  # fmt: skip


def _only_adapters_are_trained(model: nn.Module) -> bool:
    """Whether every trained parameter is in a plain LoRA layer whose adapter is switched on."""
    inside: set[int] = set()
    for layer in model.modules():
        if hasattr(layer, "lora_A"):
            if not is_plain_lora(layer) or layer.disable_adapters or layer.merged:
                return False
            inside.update(id(parameter) for parameter in layer.parameters())
    trained = [p for p in model.parameters() if p.requires_grad]
    return bool(trained) and all(id(parameter) in inside for parameter in trained)


@contextlib.contextmanager
def fast_path(model: LoadedModel, int8: bool = False, compiled: bool = False) -> Iterator[None]:
    """Let the passes within the context take the fastest path that the model has.

    Args:
        model: The model, made trainable.
        int8: Whether the frozen products are made in int8, if there is a fast path.
        compiled: Whether its elementwise functions are compiled.
    """
    # First, since it joins weights, to which the fused projections then refer.
    body = FastBody(model, int8, compiled) if has_fast_body(model) else None
    with fused_projections(model):
        model.fast_body = body
        try:
            yield
        finally:
            model.fast_body = None


def rows_per_pass(model: LoadedModel, max_length: int, most: int) -> int:
    """Rows of a micro-batch for the path that the model takes.

    Args:
        model: The model, within :func:`fast_path`.
        max_length: Tokens per row.
        most: Rows that fit into memory.
    """
    if model.fast_body is None:
        return most
    fast: int = model.fast_body.tokens_at_once // max_length
    return max(1, min(most, fast))


def warn_if_int8_is_slow() -> None:
    """Warn where this processor's int8 products are slower than its others."""
    threads = torch.get_num_threads()
    others = product_seconds(threads)
    slower = int8_seconds(threads) / min(others.values())
    if slower > 1:
        console.warn(
            f"products in int8 take {slower:.1f} times as long as in "
            f"{min(others, key=lambda name: others[name])} on this processor; leave --precision out"
        )
