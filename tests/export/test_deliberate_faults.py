"""Each fault that conversions elsewhere are known for is caught before a file gets its name."""

from __future__ import annotations

import numpy as np
import pytest
from export_models import save_adapter

from creativewritinggpt.errors import RunError
from creativewritinggpt.export import gguf_file, lora, run, tokenizer, weights
from creativewritinggpt.export.run import export
from creativewritinggpt.export.settings import ExportSettings
from creativewritinggpt.models.loading import load_model


def load(folder):
    return load_model(str(folder), "cpu", "fp32", threads=1)


def refused(model, tmp_path, level, to="gguf", verify=4):
    """That an export fails at a level, and leaves nothing."""
    settings = ExportSettings(quantize=["F32"], verify=verify) if to == "gguf" else None
    with pytest.raises(RunError, match=f"wrong: {level}"):
        export(model, to, tmp_path / "out", settings)
    assert list(tmp_path.glob("out*")) == [] and list(tmp_path.glob(".out*")) == []


@pytest.fixture
def level_3(monkeypatch):
    """Without level 2, which sees changed weights first."""
    passed = {"level": 2, "name": "weights", "run": True, "passed": True}
    monkeypatch.setattr(run.verify, "gguf_weights", lambda *_: passed)


def test_no_permutation(saved, tmp_path, monkeypatch, level_3):
    monkeypatch.setattr(gguf_file, "permute_to_pairs", lambda values, heads: values)
    refused(load(saved("llama")), tmp_path, "logits")


def test_permutation_by_the_wrong_heads(saved, tmp_path, monkeypatch, level_3):
    right = gguf_file.permute_to_pairs
    monkeypatch.setattr(gguf_file, "permute_to_pairs", lambda values, heads: right(values, 4))
    refused(load(saved("llama")), tmp_path, "logits")


def test_a_square_matrix_not_transposed(saved, tmp_path, monkeypatch, level_3):
    right = gguf_file.is_transposed
    monkeypatch.setattr(
        gguf_file, "is_transposed",
        lambda family, name: right(family, name) and "attn_output" not in name,
    )  # fmt: skip
    refused(load(saved("gpt2")), tmp_path, "logits")


def test_rank_stabilised_lora_not_folded(saved, tmp_path, monkeypatch):
    pairs = lora.lora_pairs

    def unfolded(model):
        return {
            name: lora.Pair(pair.low, pair.high, 6 / len(pair.low))
            for name, pair in pairs(model).items()
        }

    folder = save_adapter(saved("llama"), tmp_path / "adapter", use_rslora=True)
    monkeypatch.setattr(run.lora, "lora_pairs", unfolded)
    refused(load(folder), tmp_path, "logits", "lora-gguf")


def test_the_pre_tokenizer_of_another_model(saved, tmp_path, monkeypatch):
    pytest.importorskip("xllamacpp")
    monkeypatch.setattr(tokenizer, "pre_tokenizer_name", lambda content: "qwen2")
    refused(load(saved("llama")), tmp_path, "llama.cpp: it reads")


def test_no_first_token(saved, tmp_path, monkeypatch):
    from gguf import GGUFWriter

    right = GGUFWriter.add_add_bos_token
    monkeypatch.setattr(GGUFWriter, "add_add_bos_token", lambda self, value: right(self, False))
    refused(load(saved("llama")), tmp_path, "structure")


def test_no_first_token_in_llama_cpp(saved, tmp_path, monkeypatch):
    """The same, where the check of the keys is fooled."""
    pytest.importorskip("xllamacpp")
    from gguf import GGUFWriter

    right = GGUFWriter.add_add_bos_token
    monkeypatch.setattr(GGUFWriter, "add_add_bos_token", lambda self, value: right(self, False))
    passed = {"level": 1, "name": "structure", "run": True, "passed": True}
    monkeypatch.setattr(run.verify, "gguf_structure", lambda *_: passed)
    refused(load(saved("llama")), tmp_path, "llama.cpp: it reads")


def test_a_tie_that_is_none(saved, tmp_path, monkeypatch, level_3):
    monkeypatch.setattr(weights, "equal", lambda first, second: True)
    refused(load(saved("llama-untied")), tmp_path, "logits")


def test_a_tensor_in_the_place_of_another(saved, tmp_path, monkeypatch, level_3):
    right = gguf_file.values_of

    def swapped(model_weights, tensor):
        import dataclasses

        other = {"blk.0.ffn_up.weight": "model.layers.1.mlp.up_proj.weight"}
        found = dataclasses.replace(
            tensor, parameter=other.get(tensor.name, tensor.parameter)
        )  # fmt: skip
        return right(model_weights, found)

    monkeypatch.setattr(gguf_file, "values_of", swapped)
    refused(load(saved("llama")), tmp_path, "logits")


def test_weights_that_were_damaged_on_their_way(saved, tmp_path, monkeypatch):
    """Level 2 alone finds what no text shows."""
    right = gguf_file.quantized

    def damaged(values, kind, name):
        found = right(values, kind, name)
        if name == "blk.1.ffn_down.weight":
            found = np.array(found)
            found[3, 5] += 1e-4
        return found

    monkeypatch.setattr(gguf_file, "quantized", damaged)
    refused(load(saved("qwen3")), tmp_path, "weights", verify=2)


def test_a_wrong_rotary_base(saved, tmp_path, monkeypatch):
    from gguf import GGUFWriter

    right = GGUFWriter.add_rope_freq_base
    monkeypatch.setattr(GGUFWriter, "add_rope_freq_base", lambda self, value: right(self, 500.0))
    refused(load(saved("qwen2")), tmp_path, "logits", verify=3)


def test_a_failed_file_is_kept_on_request(saved, tmp_path, monkeypatch, level_3):
    monkeypatch.setattr(gguf_file, "permute_to_pairs", lambda values, heads: values)
    with pytest.raises(RunError) as failed:
        export(load(saved("llama")), "gguf", tmp_path / "out", keep_failed=True)
    assert "out.failed" in failed.value.advice
    assert list((tmp_path / "out.failed").glob("*.gguf")) and not (tmp_path / "out").exists()
