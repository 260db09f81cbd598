"""Tiny models for tests of the export: widths that blocks of 32 divide, distinct weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from families import Family

_LLAMA: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 192,
}  # fmt: skip
_GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 192}
MODELS = {
    "gpt2": Family("gpt2", {**_GPT2, "n_inner": 96}),
    "gpt2-square": Family("gpt2", {**_GPT2, "n_inner": 64}),
    "gpt2-untied": Family("gpt2", {**_GPT2, "tie_word_embeddings": False}),
    "llama": Family("llama", {**_LLAMA, "tie_word_embeddings": True}),
    "llama-untied": Family("llama", {**_LLAMA, "attention_bias": True, "mlp_bias": True}),
    "llama-linear": Family(
        "llama",
        {**_LLAMA, "rope_parameters": {
            "rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0,
        }},
    ),
    "llama-3": Family(
        "llama",
        {**_LLAMA, "rope_parameters": {
            "rope_type": "llama3", "factor": 8.0, "rope_theta": 10000.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
        }},
    ),
    "qwen2": Family("qwen2", {**_LLAMA, "tie_word_embeddings": True}),
    "qwen2-untied": Family("qwen2", {**_LLAMA, "tie_word_embeddings": False}),
    "qwen3": Family("qwen3", {**_LLAMA, "head_dim": 32, "tie_word_embeddings": True}),
    "qwen3-untied": Family("qwen3", {**_LLAMA, "head_dim": 16, "tie_word_embeddings": False}),
}  # fmt: skip


def save(folder: Path, name: str, tokenizer: Any, seed: int = 0) -> Path:
    """Save a tiny model with its tokenizer."""
    place = folder / name
    MODELS[name].model(seed).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def save_adapter(
    base: Path, folder: Path, *, seed: int = 1, targets: Any = None, **settings: Any
) -> Path:
    """Save a PEFT adapter of random weights, large enough to change what the model says."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    if targets is None:
        gpt2 = model.config.model_type == "gpt2"
        targets = ["c_attn", "c_proj", "c_fc"] if gpt2 else "all-linear"
    torch.manual_seed(seed)
    config = {"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM", **settings}
    peft = get_peft_model(model, LoraConfig(target_modules=targets, **config))
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                parameter.copy_(torch.randn_like(parameter) * 0.15)
    peft.save_pretrained(folder)
    return folder
