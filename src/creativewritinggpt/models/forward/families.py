"""Forward passes of GPT-2, Llama and Qwen on merged weights, over a flat list of tokens.

    x = token (+ position)                                 [tokens, width], float32 throughout
    x = x + attention(norm(x));  x = x + MLP(norm(x))      for each layer
    logits = head(norm(x))

Products are in the weights' format, the residual stream and the norms in float32. What can be done
once, when the matrices are made, is done there, so that a step has little left to do:
- projections with the same input are one matrix;
- Llama: the norm's weights and the square root of the width go into the matrix that follows, so a
  norm is a division by a length; the query and key rows are permuted so that the two halves of a
  rotated pair are neighbours, so rotary embedding is one complex product, for queries, keys and
  (by 1) values at once;
- GPT-2 in the ``onnx`` format: everything that is added to the residual stream has a mean of zero,
  so the norms subtract no mean (see :mod:`.onnx_int8`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .linear import matrix_factory
from .onnx_int8 import FOLDED, Int8PerRow, add_shift, balance_gate, centre, spread_values
from .weights import HEAD, ModuleWeights, Projection, Unsupported, Weights, join


class Attention(Protocol):
    """Stores the keys and values of some new tokens and attends to what each of them sees."""

    def wanted(self, x: Tensor) -> Tensor:
        """The rows of ``x`` whose last layer is used."""

    def __call__(self, layer: int, query: Tensor, new: Tensor) -> Tensor:
        """Attend to the tokens before and the new tokens themselves.

        Args:
            layer: Its number.
            query: ``[tokens, query heads, size]``, or of the wanted tokens alone.
            new: ``[tokens, key heads then value heads, size]``.

        Returns:
            ``[tokens, query heads × size]``.
        """


class GPT2Forward:
    """A GPT-2 model ready to write.

    Of its class, as of each family's: ``prefix``, with which parameter names begin (files may leave
    it out); ``embedding``, the token embedding's name; ``transposed``, whether files store
    projections ``[in, out]``; ``onnx_heads``, of which the width of heads must be a multiple for
    onnxruntime; ``needed`` settings of ``config.json`` and ``defaults`` of those that it may leave
    out.

    Args:
        weights: Of a ``GPT2LMHeadModel``.
        kind: The format of the products (see :func:`~.linear.matrix_factory`).

    Raises:
        Unsupported: The model differs from GPT-2 in a way that is not handled here.
    """

    prefix = "transformer."
    embedding = "transformer.wte.weight"
    transposed = True
    onnx_heads = 8
    needed = (
        "vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "layer_norm_epsilon",
        "activation_function",
    )  # fmt: skip
    defaults = {
        "n_inner": None,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    }

    def __init__(self, weights: Weights, kind: str) -> None:
        config = weights.config
        if (
            config.add_cross_attention
            or not config.scale_attn_weights
            or config.scale_attn_by_inverse_layer_idx
            or config.activation_function not in ("gelu_new", "gelu_pytorch_tanh")
        ):
            raise Unsupported("a variant of GPT-2")
        self._make, self.dtype = matrix_factory(kind)
        self._folded = kind == FOLDED
        self.query_heads = self.heads = int(config.n_head)
        self.size = self.head_size(config)
        self.vocabulary = int(config.vocab_size)
        self.epsilon = float(config.layer_norm_epsilon)
        self.token_embedding = weights.tensor(self.embedding)
        self.position_embedding = weights.tensor("transformer.wpe.weight")
        self.layers = [
            self._layer(weights, f"transformer.h.{number}") for number in range(config.n_layer)
        ]
        head = weights.projection(HEAD)
        self.last_norm, head = self._normed_matrix(weights, "transformer.ln_f", head)
        self.head = self._make(*head)

    @staticmethod
    def context_length(config: Any) -> int:
        """The context length in tokens."""
        return int(config.n_positions)

    @staticmethod
    def head_size(config: Any) -> int:
        """The width of an attention head."""
        return int(config.n_embd // config.n_head)

    @staticmethod
    def shapes(config: Any) -> dict[str, tuple[int, ...]]:
        """Every parameter of the files, with its shape."""
        width, inner = config.n_embd, config.n_inner or 4 * config.n_embd
        found: dict[str, tuple[int, ...]] = {
            "transformer.wte.weight": (config.vocab_size, width),
            "transformer.wpe.weight": (config.n_positions, width),
        }
        norms = ["transformer.ln_f"]
        for number in range(config.n_layer):
            layer = f"transformer.h.{number}"
            norms += [f"{layer}.ln_1", f"{layer}.ln_2"]
            for name, inputs, outputs in (
                ("attn.c_attn", width, 3 * width), ("attn.c_proj", width, width),
                ("mlp.c_fc", width, inner), ("mlp.c_proj", inner, width),
            ):  # fmt: skip
                found[f"{layer}.{name}.weight"] = (inputs, outputs)
                found[f"{layer}.{name}.bias"] = (outputs,)
        found |= {f"{norm}.{part}": (width,) for norm in norms for part in ("weight", "bias")}
        return found

    def _layer(self, weights: Weights, name: str) -> tuple[Any, ...]:
        make, read = self._make, weights.projection
        norm_1, heads = self._normed_matrix(weights, f"{name}.ln_1", read(f"{name}.attn.c_attn"))
        norm_2, up = self._normed_matrix(weights, f"{name}.ln_2", read(f"{name}.mlp.c_fc"))
        out, down = read(f"{name}.attn.c_proj"), read(f"{name}.mlp.c_proj")
        if not self._folded:
            return norm_1, make(*heads), make(*out), norm_2, make(*up), make(*down)
        heads, out = spread_values(heads, out, self.heads, self.size)
        mixed = Int8PerRow(*centre(out), balance=False, spread=False)
        return norm_1, make(*heads), mixed, norm_2, make(*up), make(*centre(down))

    def _normed_matrix(
        self, weights: Weights, norm: str, matrix: Projection
    ) -> tuple[Sequence[Tensor], Projection]:
        """A norm's weights, its shifts if they are not folded away, and the matrix after it."""
        scale, shift = (weights.tensor(f"{norm}.{part}") for part in ("weight", "bias"))
        if not self._folded:
            return [scale, shift], matrix
        return [scale], add_shift(matrix, shift)

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """The input of the first layer; float32 ``[tokens, width]``."""
        x = F.embedding(ids, self.token_embedding) + F.embedding(positions, self.position_embedding)
        return x - x.mean(-1, keepdim=True) if self._folded else x

    def hidden(self, ids: Tensor, positions: Tensor, attention: Attention) -> Tensor:
        """The last layer's output for the tokens that ``attention`` wants; ``[tokens, width]``.

        Args:
            ids: int64 ``[tokens]``.
            positions: int64 ``[tokens]``.
            attention: Stores the tokens' keys and values and attends to what they see.
        """
        x = self.embed(ids, positions)
        shape = (len(ids), 3 * self.heads, self.size)
        for number, (norm_1, qkv, out, norm_2, up, down) in enumerate(self.layers):
            heads = qkv(self._normed(x, norm_1)).view(shape)
            query, new = heads[:, : self.heads], heads[:, self.heads :]
            if number == len(self.layers) - 1:
                query, x = attention.wanted(query), attention.wanted(x)
            x += out(attention(number, query, new))
            wide = up(self._normed(x, norm_2))
            x += down(torch.ops.aten.gelu_(wide, approximate="tanh"))
        return x

    def logits(self, x: Tensor) -> Tensor:
        """Next-token logits of some rows of :meth:`hidden`; float32 ``[rows, vocabulary]``."""
        return self.head(self.before_head(x)).float()

    def before_head(self, x: Tensor) -> Tensor:
        """The input of the head, of some rows of :meth:`hidden`; ``[rows, width]``."""
        return self._normed(x, self.last_norm)

    def _normed(self, x: Tensor, norm: Sequence[Tensor]) -> Tensor:
        if self._folded:
            return F.rms_norm(x, (x.shape[-1],), norm[0], self.epsilon).to(self.dtype)
        return F.layer_norm(x, (x.shape[-1],), norm[0], norm[1], self.epsilon).to(self.dtype)


class LlamaForward:
    """A ``LlamaForCausalLM``, ``Qwen2ForCausalLM`` or ``Qwen3ForCausalLM`` ready to write.

    Args:
        weights: Of the model.
        kind: The format of the products (see :func:`~.linear.matrix_factory`).

    Raises:
        Unsupported: The model differs from these families in a way that is not handled here.
    """

    prefix = "model."
    embedding = "model.embed_tokens.weight"
    transposed = False
    onnx_heads = 16
    needed: tuple[str, ...] = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "num_key_value_heads", "max_position_embeddings", "rms_norm_eps",
        "hidden_act",
    )  # fmt: skip
    defaults = {
        "head_dim": None,
        "attention_bias": False,
        "mlp_bias": False,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "rope_scaling": None,
        "rope_theta": 10000.0,
    }

    def __init__(self, weights: Weights, kind: str) -> None:
        config = weights.config
        if getattr(config, "use_sliding_window", False) or config.hidden_act != "silu":
            raise Unsupported("a variant of Llama")
        self.frequencies, self.rotation_scale = rope(weights, self.head_size(config))
        self._make, self.dtype = matrix_factory(kind)
        self._folded = kind == FOLDED
        self.query_heads = int(config.num_attention_heads)
        self.heads = int(config.num_key_value_heads)
        self.size = self.head_size(config)
        self.width = int(config.hidden_size)
        self.vocabulary = int(config.vocab_size)
        self.epsilon = torch.tensor(float(config.rms_norm_eps) * self.width).sqrt()
        self.positions = int(config.max_position_embeddings)
        self.token_embedding = weights.tensor(self.embedding)
        self.layers = [
            self._layer(weights, f"model.layers.{number}")
            for number in range(config.num_hidden_layers)
        ]
        self.head = self._make(*self._after_norm(weights, "model.norm", [HEAD]))

    @staticmethod
    def context_length(config: Any) -> int:
        """The context length in tokens."""
        return int(config.max_position_embeddings)

    @staticmethod
    def head_size(config: Any) -> int:
        """The width of an attention head."""
        size = getattr(config, "head_dim", None)
        return int(size or config.hidden_size // config.num_attention_heads)

    @classmethod
    def shapes(cls, config: Any) -> dict[str, tuple[int, ...]]:
        """Every parameter of the files, with its shape."""
        width, inner, size = config.hidden_size, config.intermediate_size, cls.head_size(config)
        queries, keys = config.num_attention_heads * size, config.num_key_value_heads * size
        found: dict[str, tuple[int, ...]] = {cls.embedding: (config.vocab_size, width)}
        norms = {"model.norm": width}
        for number in range(config.num_hidden_layers):
            layer = f"model.layers.{number}"
            norms |= {f"{layer}.{kind}_layernorm": width for kind in ("input", "post_attention")}
            if config.model_type == "qwen3":
                norms |= {f"{layer}.self_attn.{kind}_norm": size for kind in "qk"}
            for name, outputs, inputs in (
                ("self_attn.q_proj", queries, width), ("self_attn.k_proj", keys, width),
                ("self_attn.v_proj", keys, width), ("self_attn.o_proj", width, queries),
                ("mlp.gate_proj", inner, width), ("mlp.up_proj", inner, width),
                ("mlp.down_proj", width, inner),
            ):  # fmt: skip
                found[f"{layer}.{name}.weight"] = (outputs, inputs)
                biased = config.mlp_bias if "mlp" in name else config.attention_bias
                if config.model_type == "qwen2":
                    biased = name.endswith(("q_proj", "k_proj", "v_proj"))
                if biased:
                    found[f"{layer}.{name}.bias"] = (outputs,)
        return found | {f"{norm}.weight": (count,) for norm, count in norms.items()}

    def _layer(self, weights: Weights, name: str) -> tuple[Any, ...]:
        make, read = self._make, weights.projection
        heads = self._heads(weights, name)
        norms = self._head_norms(weights, f"{name}.self_attn")
        out, down = read(f"{name}.self_attn.o_proj"), read(f"{name}.mlp.down_proj")
        gate = [f"{name}.mlp.gate_proj", f"{name}.mlp.up_proj"]
        both = self._after_norm(weights, f"{name}.post_attention_layernorm", gate)
        if not self._folded:
            return make(*heads), norms, make(*out), make(*both), make(*down)
        heads, out = spread_values(heads, out, self.heads, self.size)
        both, down = balance_gate(both, down)
        mixed = Int8PerRow(*out, balance=False, spread=False)
        return make(*heads), norms, mixed, make(*both), Int8PerRow(*down, balance=False)

    def _after_norm(self, weights: Weights, norm: str, names: list[str]) -> Projection:
        """Projections after a norm as one that includes the norm's weights."""
        weight, bias = join(map(weights.projection, names))
        # The norm itself is then a division by the length, which is √width times the RMS.
        return weight * (weights.tensor(f"{norm}.weight") * math.sqrt(self.width)), bias

    def _heads(self, weights: Weights, name: str) -> Projection:
        """Queries, keys and values in one, rotated pairs side by side."""
        names = [f"{name}.self_attn.{kind}_proj" for kind in "qkv"]
        weight, bias = self._after_norm(weights, f"{name}.input_layernorm", names)
        order = torch.arange(len(weight))
        pairs = torch.arange(self.size).view(2, -1).t().reshape(-1)
        rotated = self.query_heads + self.heads
        order[: rotated * self.size] = (
            torch.arange(rotated).unsqueeze(1) * self.size + pairs
        ).reshape(-1)
        return weight[order], None if bias is None else bias[order]

    def _head_norms(self, weights: Weights, name: str) -> Tensor | None:
        """Weights of the norms of each query and key head (Qwen 3); ``[heads, size]``."""
        if not weights.has(f"{name}.q_norm.weight"):
            return None
        pairs = torch.arange(self.size).view(2, -1).t().reshape(-1)
        query, key = (weights.tensor(f"{name}.{kind}_norm.weight")[pairs] for kind in "qk")
        return torch.cat([query.expand(self.query_heads, -1), key.expand(self.heads, -1)])

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """The input of the first layer; float32 ``[tokens, width]``."""
        return F.embedding(ids, self.token_embedding)

    def hidden(self, ids: Tensor, positions: Tensor, attention: Attention) -> Tensor:
        """The last layer's output for the tokens that ``attention`` wants; ``[tokens, width]``.

        Args:
            ids: int64 ``[tokens]``.
            positions: int64 ``[tokens]``.
            attention: Stores the tokens' keys and values and attends to what they see.
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
        """Next-token logits of some rows of :meth:`hidden`; float32 ``[rows, vocabulary]``."""
        return self.head(self.before_head(x)).float()

    def before_head(self, x: Tensor) -> Tensor:
        """The input of the head, of some rows of :meth:`hidden`; ``[rows, width]``."""
        return self._normed(x)

    def _normed(self, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return (x / torch.hypot(length, self.epsilon)).to(self.dtype)

    def _rotation(self, positions: Tensor) -> Tensor:
        """Rotary embedding of each head of each token; complex ``[tokens, heads, size / 2]``."""
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
        """The norms' epsilon, added to the mean square."""
        return float(self.epsilon) ** 2 / self.width


def rope(weights: Weights, size: int) -> tuple[Tensor, float]:
    """The frequencies of rotary embedding, float32 ``[size / 2]``, and the scale of its result.

    Raises:
        Unsupported: They depend on the text's length, or only transformers knows them.
    """
    config = weights.config
    found = getattr(config, "rope_parameters", None)
    if not found:  # as configurations were written before transformers 5
        older = config.rope_scaling or {}
        kind = older.get("rope_type") or older.get("type") or "default"
        found = {**older, "rope_type": kind, "rope_theta": config.rope_theta}
    kind = found.get("rope_type", "default")
    if kind == "yarn" and isinstance(weights, ModuleWeights):
        rotary: Any = weights.model.get_submodule("model.rotary_emb")
        return rotary.inv_freq.detach().float(), float(rotary.attention_scaling)
    if kind not in ("default", "linear", "llama3") or found.get("partial_rotary_factor", 1.0) != 1:
        raise Unsupported(f"rotary embedding of the type {kind}")
    exponents = torch.arange(0, size, 2, dtype=torch.float32) / size
    frequencies = 1.0 / found["rope_theta"] ** exponents
    if kind == "linear":
        frequencies /= found["factor"]
    elif kind == "llama3":
        frequencies = _llama3(frequencies, found)
    return frequencies, 1.0


def _llama3(frequencies: Tensor, settings: dict[str, Any]) -> Tensor:
    """Llama 3.1's frequencies: long waves are stretched, middle ones interpolated."""
    factor, low, high = (
        settings[name] for name in ("factor", "low_freq_factor", "high_freq_factor")
    )
    length = settings["original_max_position_embeddings"]
    waves = 2 * math.pi / frequencies
    stretched = torch.where(waves > length / low, frequencies / factor, frequencies)
    smooth = (length / waves - low) / (high - low)
    between = (1 - smooth) * stretched / factor + smooth * stretched
    middle = ~(waves < length / high) * ~(waves > length / low)
    return torch.where(middle, between, stretched)


Forward = GPT2Forward | LlamaForward
FAMILIES: dict[str, type[GPT2Forward] | type[LlamaForward]] = {
    "gpt2": GPT2Forward,
    "llama": LlamaForward,
    "qwen2": LlamaForward,
    "qwen3": LlamaForward,
}
"""The forward pass of each ``model_type`` that we know."""
