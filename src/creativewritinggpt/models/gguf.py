"""Conversion of a GGUF of the Llama family to a model folder in safetensors.

Trade-off: transformers reads GGUF too, but how has changed from release to release; for one pinned
file a table of a dozen names is smaller and steadier. Other architectures and tokenizers are
refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import InputError

TEXT_END = "<|endoftext|>"

# Names of the tensors outside and inside the layers, GGUF's to transformers'.
_OUTER = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_INNER = {
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
_CONTROL_TOKEN = 3  # llama.cpp's token type of special tokens


def save_dequantised(gguf: Path, folder: Path) -> None:
    """Write ``config.json``, fp32 ``model.safetensors`` and the tokenizer into ``folder``.

    Args:
        gguf: A GGUF file of architecture ``llama`` with a byte-level BPE tokenizer.
        folder: An existing folder.

    Raises:
        InputError: The file is of another kind.
    """
    from gguf import GGUFReader

    reader = GGUFReader(gguf)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    if fields["general.architecture"] != "llama" or fields["tokenizer.ggml.model"] != "gpt2":
        raise InputError(f"{gguf} is not a Llama model with a byte-level tokenizer")
    tokenizer = _tokenizer(fields)
    tokenizer.save_pretrained(folder)
    weights = _weights(reader, fields["llama.attention.head_count"], _kv_heads(fields))
    config = _config(fields, tied="lm_head.weight" not in weights)
    config.save_pretrained(folder)
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(ends, indent=2) + "\n", "utf-8")

    from safetensors.torch import save_file

    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _kv_heads(fields: dict[str, Any]) -> int:
    return int(fields.get("llama.attention.head_count_kv", fields["llama.attention.head_count"]))


def _config(fields: dict[str, Any], tied: bool) -> Any:
    """The model's shape, as transformers says it."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=len(fields["tokenizer.ggml.tokens"]),
        hidden_size=fields["llama.embedding_length"],
        intermediate_size=fields["llama.feed_forward_length"],
        num_hidden_layers=fields["llama.block_count"],
        num_attention_heads=fields["llama.attention.head_count"],
        num_key_value_heads=_kv_heads(fields),
        max_position_embeddings=fields["llama.context_length"],
        rms_norm_eps=fields["llama.attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": fields["llama.rope.freq_base"]},
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=0,
        # Padding is token 0 too, but said here it would keep that token's embedding from training.
        pad_token_id=None,
        dtype="float32",
    )
    config.architectures = ["LlamaForCausalLM"]
    return config


def _weights(reader: Any, heads: int, kv_heads: int) -> dict[str, torch.Tensor]:
    """All tensors dequantised to fp32, under transformers' names."""
    from gguf import dequantize

    weights = {}
    for tensor in reader.tensors:
        stem = tensor.name.removesuffix(".weight")
        # A copy, since the reader's arrays are views of the file.
        values = np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32, order="C")
        if stem in _OUTER:
            weights[f"{_OUTER[stem]}.weight"] = torch.from_numpy(values)
            continue
        _, layer, part = stem.split(".", 2)
        if part in ("attn_q", "attn_k"):
            values = _permute_qk(values, heads if part == "attn_q" else kv_heads)
        weights[f"model.layers.{layer}.{_INNER[part]}.weight"] = torch.from_numpy(values)
    return weights


def _permute_qk(values: np.ndarray, heads: int) -> np.ndarray:
    """Put a projection's rows in the order that transformers' rotary embedding expects.

    llama.cpp turns neighbouring pairs of a head (0, 1), (2, 3)…; transformers turns the halves
    (0, d/2), (1, d/2 + 1)….

    Args:
        values: ``[heads * d, hidden]``.
        heads: How many heads the rows belong to.
    """
    pairs = values.reshape(heads, values.shape[0] // heads // 2, 2, values.shape[1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)


def _tokenizer(fields: dict[str, Any]) -> Any:
    """The byte-level BPE tokenizer, without chat template and without added special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(
        models.BPE({token: index for index, token in enumerate(tokens)}, merges, fuse_unk=False)
    )
    # SmolLM's own way of cutting, which a GGUF only names: each digit stands alone.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    types = fields["tokenizer.ggml.token_type"]
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, types, strict=True)
            if kind == _CONTROL_TOKEN
        ]
    )
    if tokenizer.token_to_id(TEXT_END) != 0:
        raise InputError(f"the first token of the GGUF is not {TEXT_END}")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=TEXT_END,
        eos_token=TEXT_END,
        pad_token=TEXT_END,
        clean_up_tokenization_spaces=False,
    )
