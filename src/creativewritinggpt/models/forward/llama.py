"""The forward pass of the Llama and Qwen families on merged weights, for tokens in a flat list.

    x = token                                              [tokens, width], float32 throughout
    x = x + attention(norm(x));  x = x + MLP(norm(x))      for each layer
    logits = head(norm(x))

Three things are done once, when the weights are made, so that a step has little left to do:
- the norm's weights and the square root of the width go into the matrix that follows, so a norm
  is a division by a length;
- the query and key rows are put in an order in which the two halves of a rotated pair are
  neighbours, so a rotation is one complex product, for queries, keys and (by 1) values at once;
- projections with the same input are one matrix.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .kv_cache import Attention
from .linear import Unsupported, joined, maker, weight_and_bias
from .onnx.folding import FOLDED, Weights, balanced_gate, spread_values
from .onnx.matrices import ByRow

# Kinds of rotary embedding whose frequencies don't depend on the length of the text.
_FIXED_ROTATIONS = ("default", "linear", "llama3", "yarn")


class LlamaForward:
    """A ``LlamaForCausalLM``, ``Qwen2ForCausalLM`` or ``Qwen3ForCausalLM`` ready to write.

    Args:
        model: The model, with or without LoRA in its projections.
        kind: ``fp32``, ``bf16``, ``int8``, ``onnx`` or ``rotated``.

    Raises:
        Unsupported: The model differs from these families in a way that is not handled here.
    """

    def __init__(self, model: Any, kind: str) -> None:
        config, body = model.config, model.model
        rotary = body.rotary_emb
        if getattr(config, "use_sliding_window", False) or config.hidden_act != "silu":
            raise Unsupported("a variant of Llama")
        if getattr(rotary, "rope_type", None) not in _FIXED_ROTATIONS:
            raise Unsupported("a rotary embedding that depends on the length")
        self._make, self.dtype = maker(kind)
        self._folded = kind == FOLDED
        self.query_heads = int(config.num_attention_heads)
        self.heads = int(config.num_key_value_heads)
        self.size = int(getattr(config, "head_dim", None) or config.hidden_size // self.query_heads)
        self.width = int(config.hidden_size)
        self.vocabulary = int(config.vocab_size)
        self.epsilon = torch.tensor(float(config.rms_norm_eps) * self.width).sqrt()
        self.positions = int(config.max_position_embeddings)
        self.frequencies = rotary.inv_freq.detach().float()
        self.rotation_scale = float(rotary.attention_scaling)
        self.token_embedding = body.embed_tokens.weight.detach()
        self.layers = [self._layer(layer) for layer in body.layers]
        self.head = self._make(*self._after_norm(body.norm, [model.lm_head]))

    def _layer(self, layer: Any) -> tuple[Any, ...]:
        attention, mlp, make = layer.self_attn, layer.mlp, self._make
        heads = self._heads(layer.input_layernorm, attention)
        norms = self._head_norms(attention)
        out, down = weight_and_bias(attention.o_proj), weight_and_bias(mlp.down_proj)
        both = self._after_norm(layer.post_attention_layernorm, [mlp.gate_proj, mlp.up_proj])
        if not self._folded:
            return make(*heads), norms, make(*out), make(*both), make(*down)
        heads, out = spread_values(heads, out, self.heads, self.size)
        both, down = balanced_gate(both, down)
        mixed = ByRow(*out, balance=False, spread=False)
        return make(*heads), norms, mixed, make(*both), ByRow(*down, balance=False)

    def _after_norm(self, norm: Any, modules: list[nn.Module]) -> Weights:
        weight, bias = joined(modules)
        return weight * self._scale(norm), bias

    def _scale(self, norm: Any) -> Tensor:
        """What the norm multiplies each column by, when it only divides by the length."""
        weight = getattr(norm, "weight", None)
        if weight is None:
            raise Unsupported(f"a {type(norm).__name__} where a norm should be")
        scale: Tensor = weight.detach().float() * math.sqrt(self.width)
        return scale

    def _heads(self, norm: Any, attention: Any) -> Weights:
        weight, bias = joined([attention.q_proj, attention.k_proj, attention.v_proj])
        order = torch.arange(len(weight))
        pairs = torch.arange(self.size).view(2, -1).t().reshape(-1)
        rotated = self.query_heads + self.heads
        order[: rotated * self.size] = (
            torch.arange(rotated).unsqueeze(1) * self.size + pairs
        ).reshape(-1)
        weight = (weight * self._scale(norm))[order]
        return weight, None if bias is None else bias[order]

    def _head_norms(self, attention: Any) -> Tensor | None:
        """Weights of the norms of each query and key head (Qwen 3); ``[heads, size]``."""
        if not hasattr(attention, "q_norm"):
            return None
        pairs = torch.arange(self.size).view(2, -1).t().reshape(-1)
        query = attention.q_norm.weight.detach().float()[pairs]
        key = attention.k_norm.weight.detach().float()[pairs]
        return torch.cat([query.expand(self.query_heads, -1), key.expand(self.heads, -1)])

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """What goes into the first layer; float32 ``[tokens, width]``."""
        return F.embedding(ids, self.token_embedding).float()

    def hidden(self, ids: Tensor, positions: Tensor, attention: Attention) -> Tensor:
        """The last layer's output for the tokens that ``attention`` wants; ``[tokens, width]``.

        Args:
            ids: int64 ``[tokens]``.
            positions: int64 ``[tokens]``.
            attention: Where their keys and values go, and what they see.
        """
        x = self.embed(ids, positions)
        rotation = self._rotation(positions)
        shape = (len(ids), self.query_heads + 2 * self.heads, self.size)
        for number, (qkv, head_norms, out, gate_and_up, down) in enumerate(self.layers):
            heads = qkv(self._normed(x)).float().view(shape)
            if head_norms is not None:
                heads = self._norm_heads(heads, head_norms)
            torch.view_as_complex(heads.view(*shape[:2], -1, 2)).mul_(rotation)
            heads = heads.to(self.dtype)
            query, new = heads[:, : self.query_heads], heads[:, self.query_heads :]
            if number == len(self.layers) - 1:
                query, x = attention.wanted(query), attention.wanted(x)
            x += out(attention(number, query, new))
            gate, up = gate_and_up(self._normed(x)).chunk(2, -1)
            x += down(F.silu(gate).mul_(up))
        return x

    def logits(self, x: Tensor) -> Tensor:
        """Next-token logits of some of :meth:`hidden`'s rows; float32 ``[rows, vocabulary]``."""
        return self.head(self.before_head(x)).float()

    def before_head(self, x: Tensor) -> Tensor:
        """What the head multiplies, of some of :meth:`hidden`'s rows; ``[rows, width]``."""
        return self._normed(x)

    def _normed(self, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return (x / torch.hypot(length, self.epsilon)).to(self.dtype)

    def _rotation(self, positions: Tensor) -> Tensor:
        """How each head of each token is turned; complex ``[tokens, heads, size / 2]``."""
        angles = positions.unsqueeze(1).float() * self.frequencies
        turned = torch.polar(torch.full_like(angles, self.rotation_scale), angles)
        all_heads = self.query_heads + 2 * self.heads
        rotation = torch.ones(len(positions), all_heads, self.size // 2, dtype=torch.complex64)
        rotation[:, : self.query_heads + self.heads] = turned.unsqueeze(1)
        return rotation

    def _norm_heads(self, heads: Tensor, weights: Tensor) -> Tensor:
        count = len(weights)
        normed = F.rms_norm(heads[:, :count], (self.size,), None, self.head_epsilon)
        return torch.cat([normed * weights, heads[:, count:]], 1)

    @property
    def head_epsilon(self) -> float:
        """What a norm adds to the mean square."""
        return float(self.epsilon) ** 2 / self.width
