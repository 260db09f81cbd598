"""A model's body made ready for the fast path: which models it knows, and the way through them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...models.forward.int8 import Workspace
from ...models.loaded_model import LoadedModel
from ..projections import is_plain_lora
from .attention import Heads
from .block import AttentionHalf, MlpHalf
from .frozen_linear import Dense, Frozen
from .int8 import Int8, Int8Head
from .kernels import Kernels
from .lora_linear import Projections
from .norms_rope import LayerNorm, RmsNorm
from .rope import Rotation
from .varlen import Documents

_GELUS = ("gelu_new", "gelu_pytorch_tanh")


MOST_TOKENS = 1024
"""Tokens that go through at once: tensors of more are fresh memory each time, which is slow."""

KEPT_BYTES = 750e6
"""What a pass may keep for its backward pass, about: fewer tokens where a model is deep."""

_BYTES_A_COLUMN = 66
"""What a layer keeps of a token for each column of the model's width, about."""


class FastBody:
    """Blocks whose base is frozen and whose adapters are PEFT's.

    Args:
        writer: A model with an adapter, of a family that :func:`fast_body` knows.
        kernels: Functions between the products.
        int8: Whether the frozen products are made in int8.
    """

    def __init__(self, writer: LoadedModel, kernels: Kernels, int8: bool) -> None:
        self.bare, self.kernels, self.int8 = writer.bare, kernels, int8
        self.workspace = Workspace()
        low = writer.device.precision == "bf16" and not int8
        self.dtype = torch.bfloat16 if low else torch.float32
        kind = type(self.bare).__name__
        self.inner: Any = self.bare.base_model
        self.is_gpt2 = kind == "GPT2LMHeadModel"
        blocks = self.inner.h if self.is_gpt2 else self.inner.layers
        make = self._gpt2_block if self.is_gpt2 else self._llama_block
        self.blocks = [make(block) for block in blocks]
        kept = len(self.blocks) * int(self.bare.config.hidden_size) * _BYTES_A_COLUMN
        self.tokens_at_once = min(MOST_TOKENS, int(KEPT_BYTES / kept))
        head = self.bare.get_output_embeddings().weight.detach()
        self.head = Int8Head(head.float(), self.workspace) if int8 else None

    def _frozen(self, weight: Tensor, bias: Tensor | None) -> Frozen:
        if self.int8:
            return Int8(weight.float(), bias, self.workspace)
        return Dense(weight, bias, self.dtype)

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
                activation=lambda wide: self.kernels.gelu(wide),
                activation_again=lambda d, wide: self.kernels.gelu_again(d, wide),
            ),
        )

    def _llama_block(self, block: Any) -> tuple[AttentionHalf, MlpHalf]:
        attention, mlp, config = block.self_attn, block.mlp, self.bare.config
        heads = Heads(
            int(config.num_attention_heads),
            int(config.num_key_value_heads),
            int(attention.head_dim),
            float(attention.scaling),
        )
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
                activation=lambda wide: self.kernels.swiglu(wide),
                activation_again=lambda d, wide: self.kernels.swiglu_again(d, wide),
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
                rotation = Rotation(cos[0], sin[0])
        for attention, mlp in self.blocks:
            x = attention(x, documents.groups, rotation, training)
            x = mlp(x, training)
        last = self.inner.ln_f if self.is_gpt2 else self.inner.norm
        hidden: Tensor = last(x)
        return hidden


def fast_body(
    writer: LoadedModel, *, int8: bool = False, compiled: bool = False
) -> FastBody | None:
    """The fast path through a writer's model, or None where only the plain one will do.

    Args:
        writer: The model, made trainable.
        int8: Whether the frozen products are made in int8.
        compiled: Whether torch compiles what stands between the products.
    """
    return FastBody(writer, Kernels(compiled), int8) if has_fast_body(writer) else None


def has_fast_body(writer: LoadedModel) -> bool:
    """Whether a writer's model, adapter and device are ones that the fast path knows."""
    if writer.device.torch_device.type != "cpu" or not writer.has_adapter:
        return False
    bare = writer.bare
    known = {"GPT2LMHeadModel": _plain_gpt2, "LlamaForCausalLM": _plain_llama,
             "Qwen2ForCausalLM": _plain_llama}.get(type(bare).__name__)  # fmt: skip
    return bool(known and known(bare.config) and _only_adapters_are_trained(writer.model))


def _plain_gpt2(config: Any) -> bool:
    dropouts = (config.embd_pdrop, config.resid_pdrop, config.attn_pdrop)
    return (
        config.activation_function in _GELUS and not config.add_cross_attention
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
