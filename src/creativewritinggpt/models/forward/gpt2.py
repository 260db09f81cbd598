"""Forward pass of the GPT-2 family on merged weights, over a flat list of tokens.

    x = token + position                                   [tokens, width], float32 throughout
    x = x + attention(norm(x));  x = x + MLP(norm(x))      for each layer
    logits = head(norm(x))

Products are in the weights' format, the residual stream and the norms in float32. In the ``onnx``
format everything that is added to the residual stream has a mean of zero, so the norms subtract no
mean (see :mod:`.onnx.matrices`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .kv_cache import Attention
from .linear import matrix_factory
from .onnx.matrices import FOLDED, Int8PerRow, add_shift, centre, spread_values
from .weights import HEAD, Projection, Unsupported, Weights


class GPT2Forward:
    """A GPT-2 model ready to write.

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
