"""Tiny random models of every family that docs/models.md lists."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

VOCABULARY = 384
POSITIONS = 64
# Shorter than the texts of the tests, so that what lies outside is told from what lies inside.
WINDOW = 7
_LLAMA: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": POSITIONS,
}


@dataclasses.dataclass(frozen=True)
class Family:
    """A tiny model's configuration.

    Attributes:
        type: transformers' ``model_type``.
        settings: Of its config.
        window: A layer whose attention reaches no further back, and how many tokens it sees.
    """

    type: str
    settings: dict[str, Any]
    window: tuple[int, int] | None = None

    def model(self, seed: int = 0, attention: str = "sdpa") -> Any:
        """A random model, its norms and biases not the ones and zeros of a fresh one."""
        from transformers import AutoConfig, AutoModelForCausalLM

        ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
        config = AutoConfig.for_model(self.type, vocab_size=VOCABULARY, **{**ids, **self.settings})
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(4)
                else:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        return model.eval()


def _llama(model_type: str, layer: int | None = None, **changes: Any) -> Family:
    """A family with Llama's settings; ``layer`` is one with a sliding window, if any."""
    window = None if layer is None else (layer, WINDOW)
    if window is not None:
        changes["sliding_window"] = WINDOW
    return Family(model_type, {**_LLAMA, **changes}, window)


_GEMMA = {"head_dim": 8, "hidden_activation": "gelu_pytorch_tanh"}
_FALCON = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
}  # fmt: skip

# Which experts are asked changes at once along the path of an attribution.
EXPERTS = ("mixtral", "qwen3_moe", "gpt_oss")
FAMILIES: dict[str, Family] = {
    "gpt2": Family("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS}),
    "gpt_neo": Family("gpt_neo", {
        "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48,
        "attention_types": [[["global", "local"], 1]], "window_size": WINDOW,
        "max_position_embeddings": POSITIONS,
    }, (1, WINDOW)),
    "gptj": Family("gptj", {
        "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS, "rotary_dim": 4,
        "tie_word_embeddings": False,
    }),
    "gpt_neox": Family("gpt_neox", {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": POSITIONS,
    }),
    "opt": Family("opt", {
        "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": POSITIONS, "word_embed_proj_dim": 32,
    }),
    "opt-350m": Family("opt", {
        "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": POSITIONS, "word_embed_proj_dim": 16,
        "do_layer_norm_before": False,
    }),
    "bloom": Family("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "falcon-7b": Family("falcon", {**_FALCON, "multi_query": True, "parallel_attn": True}),
    "falcon-rw": Family("falcon", {
        **_FALCON, "multi_query": False, "parallel_attn": False, "alibi": True, "bias": True,
    }),
    "falcon-40b": Family("falcon", {
        **_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2,
    }),
    "llama": _llama("llama"),
    "mistral": _llama("mistral", 0, head_dim=8),
    "mixtral": _llama("mixtral", num_local_experts=4, num_experts_per_tok=2),
    "qwen2": _llama("qwen2"),
    "qwen2-sliding": _llama(
        "qwen2", 1, use_sliding_window=True, max_window_layers=1
    ),
    "qwen3": _llama("qwen3", head_dim=8),
    "gemma": _llama("gemma", **_GEMMA),
    "gemma2": _llama("gemma2", 0, **_GEMMA, query_pre_attn_scalar=8),
    "gemma3": _llama(
        "gemma3_text", 0, **_GEMMA, query_pre_attn_scalar=8,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "phi": _llama("phi", partial_rotary_factor=0.5),
    "phi3": _llama("phi3", 0),
    "smollm3": _llama("smollm3", no_rope_layers=[1, 0]),
    "olmo2": _llama("olmo2"),
    "granite": _llama(
        "granite", embedding_multiplier=3.0, residual_multiplier=0.5, attention_multiplier=0.3,
        logits_scaling=2.0,
    ),
    "stablelm": _llama("stablelm", partial_rotary_factor=0.5, use_parallel_residual=True),
    "starcoder2": _llama("starcoder2", 0),
    # Others that have what none of the above has.
    "mpt": Family("mpt", {  # ALiBi from the end of the row
        "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": POSITIONS, "expansion_ratio": 2,
    }),
    "gpt_bigcode": Family("gpt_bigcode", {  # learned positions and one key head
        "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS,
    }),
    "cohere2": _llama(  # scaled logits, layers without positions
        "cohere2", 0, logit_scale=0.25, layer_types=["sliding_attention", "full_attention"]
    ),
    "qwen3_moe": _llama(
        "qwen3_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, head_dim=8,
        decoder_sparse_step=1,
    ),
    "gpt_oss": _llama(  # a learned sink that takes a share of each row of attention
        "gpt_oss", 0, head_dim=8, num_local_experts=4, num_experts_per_tok=2,
        layer_types=["sliding_attention", "full_attention"],
    ),
}  # fmt: skip
