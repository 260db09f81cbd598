"""The forward pass of the GPT-2 family on merged weights, for tokens in a flat list.

    x = token + position                                   [tokens, width], float32 throughout
    x = x + attention(norm(x));  x = x + MLP(norm(x))      for each layer
    logits = head(norm(x))

Products are in the matrices' format, the sum along the layers and the norms in float32. For
``rotated`` matrices all that is added to the sum has a mean of zero, so norms subtract none (see
:mod:`.folding`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .kv_cache import Attention
from .linear import Unsupported, joined, maker, weight_and_bias
from .onnx.folding import FOLDED, Weights, centred, spread_values, with_shift
from .onnx.matrices import ByRow


class GPT2Forward:
    """A ``GPT2LMHeadModel`` ready to write.

    Args:
        model: The model, with or without LoRA in its projections.
        kind: ``fp32``, ``bf16``, ``int8``, ``onnx`` or ``rotated``.

    Raises:
        Unsupported: The model differs from GPT-2 in a way that is not handled here.
    """

    def __init__(self, model: Any, kind: str) -> None:
        config = model.config
        if (
            config.add_cross_attention
            or not config.scale_attn_weights
            or config.scale_attn_by_inverse_layer_idx
            or config.activation_function not in ("gelu_new", "gelu_pytorch_tanh")
        ):
            raise Unsupported("a variant of GPT-2")
        self._make, self.dtype = maker(kind)
        self._folded = kind == FOLDED
        body = model.transformer
        self.query_heads = self.heads = int(config.n_head)
        self.size = int(config.n_embd) // self.heads
        self.vocabulary = int(config.vocab_size)
        self.epsilon = float(config.layer_norm_epsilon)
        self.token_embedding = body.wte.weight.detach()
        self.position_embedding = body.wpe.weight.detach()
        self.layers = [self._layer(block) for block in body.h]
        self.last_norm, head = self._normed_matrix(body.ln_f, joined([model.lm_head]))
        self.head = self._make(*head)

    def _layer(self, block: Any) -> tuple[Any, ...]:
        make, attention, mlp = self._make, block.attn, block.mlp
        norm_1, heads = self._normed_matrix(block.ln_1, weight_and_bias(attention.c_attn))
        norm_2, up = self._normed_matrix(block.ln_2, weight_and_bias(mlp.c_fc))
        out, down = weight_and_bias(attention.c_proj), weight_and_bias(mlp.c_proj)
        if not self._folded:
            return norm_1, make(*heads), make(*out), norm_2, make(*up), make(*down)
        heads, out = spread_values(heads, out, self.heads, self.size)
        mixed = ByRow(*centred(out), balance=False, spread=False)
        return norm_1, make(*heads), mixed, norm_2, make(*up), make(*centred(down))

    def _normed_matrix(self, module: Any, weights: Weights) -> tuple[Sequence[Tensor], Weights]:
        """A norm's weights, its shifts if they are not folded away, and the matrix after it."""
        if type(module) is not torch.nn.LayerNorm:
            raise Unsupported(f"a {type(module).__name__} where a norm should be")
        norm = [module.weight.detach().float(), module.bias.detach().float()]
        if not self._folded:
            return norm, weights
        return norm[:1], with_shift(weights, norm[1])

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """What goes into the first layer; float32 ``[tokens, width]``."""
        x = F.embedding(ids, self.token_embedding) + F.embedding(positions, self.position_embedding)
        x = x.float()
        return x - x.mean(-1, keepdim=True) if self._folded else x

    def hidden(self, ids: Tensor, positions: Tensor, attention: Attention) -> Tensor:
        """The last layer's output for the tokens that ``attention`` wants; ``[tokens, width]``.

        Args:
            ids: int64 ``[tokens]``.
            positions: int64 ``[tokens]``.
            attention: Where their keys and values go, and what they see.
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
        """Next-token logits of some of :meth:`hidden`'s rows; float32 ``[rows, vocabulary]``."""
        return self.head(self.before_head(x)).float()

    def before_head(self, x: Tensor) -> Tensor:
        """What the head multiplies, of some of :meth:`hidden`'s rows; ``[rows, width]``."""
        return self._normed(x, self.last_norm)

    def _normed(self, x: Tensor, norm: Sequence[Tensor]) -> Tensor:
        if self._folded:
            return F.rms_norm(x, (x.shape[-1],), norm[0], self.epsilon).to(self.dtype)
        return F.layer_norm(x, (x.shape[-1],), norm[0], norm[1], self.epsilon).to(self.dtype)
