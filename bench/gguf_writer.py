"""A model as a GGUF of 8-bit blocks (Q8_0), so that llama.cpp can be given the same weights.

GPT-2 and Llama, with the writer's byte-level tokenizer. llama.cpp rotates neighbouring entries of a
head where transformers rotates its two halves, so query and key rows are put in that order.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np

_BLOCK = 32
_NORMAL, _CONTROL, _UNUSED = 1, 3, 5


def write_gguf(writer: Any, path: Path) -> None:
    """Write the writer's model and tokenizer to ``path``."""
    config = writer.model.config
    out = gguf.GGUFWriter(str(path), "gpt2" if config.model_type == "gpt2" else "llama")
    out.add_name(writer.name)
    _add_tokenizer(out, writer, int(config.vocab_size))
    tensors = {name: value.float().numpy() for name, value in writer.model.state_dict().items()}
    (_gpt2 if config.model_type == "gpt2" else _llama)(out, config, tensors)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def _add(out: gguf.GGUFWriter, name: str, value: np.ndarray) -> None:
    if value.ndim == 2 and value.shape[1] % _BLOCK == 0 and "position" not in name:
        kind = gguf.GGMLQuantizationType.Q8_0
        packed = gguf.quants.quantize(np.ascontiguousarray(value), kind)
        out.add_tensor(name, packed, raw_dtype=kind)
    else:
        out.add_tensor(name, np.ascontiguousarray(value, dtype=np.float32))


def _add_tokenizer(out: gguf.GGUFWriter, writer: Any, size: int) -> None:
    model = json.loads(writer.tokenizer.backend_tokenizer.to_str())["model"]
    names = [f"[unused{number}]" for number in range(size)]
    kinds = [_UNUSED] * size
    special = set(writer.tokenizer.all_special_ids)
    for name, number in writer.tokenizer.get_vocab().items():
        names[number] = name
        kinds[number] = _CONTROL if number in special else _NORMAL
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("smollm")
    out.add_token_list(names)
    out.add_token_types(kinds)
    out.add_token_merges(merges)
    out.add_bos_token_id(writer.bos_id)
    out.add_eos_token_id(writer.eos_id)
    out.add_add_bos_token(False)


def _gpt2(out: gguf.GGUFWriter, config: Any, tensors: dict[str, np.ndarray]) -> None:
    out.add_context_length(config.n_positions)
    out.add_embedding_length(config.n_embd)
    out.add_feed_forward_length(4 * config.n_embd)
    out.add_block_count(config.n_layer)
    out.add_head_count(config.n_head)
    out.add_layer_norm_eps(config.layer_norm_epsilon)
    _add(out, "token_embd.weight", tensors["transformer.wte.weight"])
    _add(out, "output.weight", tensors["transformer.wte.weight"])
    _add(out, "position_embd.weight", tensors["transformer.wpe.weight"])
    names = {
        "attn_norm": "ln_1",
        "attn_qkv": "attn.c_attn",
        "attn_output": "attn.c_proj",
        "ffn_norm": "ln_2",
        "ffn_up": "mlp.c_fc",
        "ffn_down": "mlp.c_proj",
    }
    for layer in range(config.n_layer):
        for theirs, ours in names.items():
            for part in ("weight", "bias"):
                value = tensors[f"transformer.h.{layer}.{ours}.{part}"]
                _add(out, f"blk.{layer}.{theirs}.{part}", value.T if value.ndim == 2 else value)
    for part in ("weight", "bias"):
        _add(out, f"output_norm.{part}", tensors[f"transformer.ln_f.{part}"])


def _llama(out: gguf.GGUFWriter, config: Any, tensors: dict[str, np.ndarray]) -> None:
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads
    size = config.hidden_size // heads
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_block_count(config.num_hidden_layers)
    out.add_head_count(heads)
    out.add_head_count_kv(key_heads)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_rope_dimension_count(size)
    out.add_rope_freq_base(config.rope_parameters["rope_theta"])
    out.add_vocab_size(config.vocab_size)
    _add(out, "token_embd.weight", tensors["model.embed_tokens.weight"])
    _add(out, "output.weight", tensors["lm_head.weight"])
    names = {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    for layer in range(config.num_hidden_layers):
        for theirs, ours in names.items():
            value = tensors[f"model.layers.{layer}.{ours}.weight"]
            if theirs in ("attn_q", "attn_k"):
                count = heads if theirs == "attn_q" else key_heads
                halves = value.reshape(count, 2, size // 2, -1)
                value = halves.swapaxes(1, 2).reshape(count * size, -1)
            _add(out, f"blk.{layer}.{theirs}.weight", value)
    _add(out, "output_norm.weight", tensors["model.norm.weight"])
