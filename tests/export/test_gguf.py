"""GGUF files of every family: right by their own reading and in llama.cpp."""

from __future__ import annotations

import json

import numpy as np
import pytest
from export_models import MODELS
from gguf import GGUFReader

from creativewritinggpt.errors import InputError
from creativewritinggpt.export.run import export
from creativewritinggpt.export.settings import ExportSettings
from creativewritinggpt.models.gguf_model import GGUFModel
from creativewritinggpt.models.loading import load_model


def load(folder):
    return load_model(str(folder), "cpu", "fp32", threads=1)


def figures(result):
    """Levels by number, of each file."""
    return [
        {level["level"]: level for level in levels}
        for levels in result.record["verification"].values()
    ]


@pytest.mark.parametrize("name", MODELS)
def test_every_family_reads_and_computes_the_same_in_llama_cpp(name, saved, tmp_path):
    pytest.importorskip("xllamacpp")
    settings = ExportSettings(quantize=["F32", "Q8_0"])
    result = export(load(saved(name)), "gguf", tmp_path / "out", settings)
    exact, eight = figures(result)
    assert all(level["passed"] for level in (*exact.values(), *eight.values()))
    assert exact[3]["mean_kl"] < 1e-9 and exact[3]["same_first"] == 1.0
    # ggml's GELU and exp are float32 or table look-ups of half precision.
    assert exact[4]["mean_kl"] < 1e-5 and exact[4]["greedy_gap"] < 0.05
    assert exact[4]["greedy_same"] >= exact[4]["greedy_tokens"] - 2
    assert 0 < eight[3]["mean_kl"] < 5e-3 and eight[4]["mean_kl"] < 2e-2


@pytest.mark.parametrize("form", ["F16", "BF16", "Q5_1", "Q5_0", "Q4_0"])
def test_formats_that_gguf_makes(form, saved, tmp_path):
    settings = ExportSettings(quantize=[form], verify=3)
    result = export(load(saved("llama")), "gguf", tmp_path / "out", settings)
    [levels] = figures(result)
    assert levels[3]["passed"] and levels[4]["run"] is False
    reader = GGUFReader(result.files[0])
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.0.attn_q.weight"] == form and kinds["blk.0.attn_norm.weight"] == "F32"
    # Below eight bits the table that is the head, too, keeps eight.
    assert kinds["token_embd.weight"] == (form if "F" in form else "Q8_0")


@pytest.mark.parametrize("form", ["Q6_K", "Q5_K_M", "Q4_K_M"])
def test_k_formats_by_llama_cpps_library(form, saved, tmp_path):
    pytest.importorskip("xllamacpp")
    result = export(
        load(saved("gpt2-untied")), "gguf", tmp_path / "out", ExportSettings(quantize=[form])
    )
    [levels] = figures(result)
    assert all(level["passed"] for level in levels.values())
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(result.files[0]).tensors}
    # Rows of 64 are no blocks of 256; those of the feed-forward layer are.
    assert kinds["blk.0.attn_output.weight"] in ("Q5_0", "Q5_1", "Q8_0")
    assert kinds["blk.1.ffn_down.weight"] in ("Q6_K", "Q5_K", "Q4_K")


def test_smaller_formats_lose_more(saved, tmp_path):
    forms = ["BF16", "Q8_0", "Q5_1", "Q4_0"]
    settings = ExportSettings(quantize=forms, verify=3)
    result = export(load(saved("llama")), "gguf", tmp_path / "out", settings)
    losses = [levels[3]["mean_kl"] for levels in figures(result)]
    assert losses == sorted(losses)
    sizes = [path.stat().st_size for path in result.files]
    assert sizes == sorted(sizes, reverse=True)


def test_keys_of_a_file(saved, tmp_path):
    settings = ExportSettings(preset="mystery", name="ferry", verify=1)
    result = export(load(saved("gpt2")), "gguf", tmp_path / "out", settings)
    [path] = result.files
    fields = GGUFModel(path).fields
    assert fields["gpt2.feed_forward_length"] == 96 and fields["gpt2.context_length"] == 192
    assert fields["tokenizer.ggml.add_bos_token"] is True
    assert fields["tokenizer.ggml.add_eos_token"] is False
    assert fields["tokenizer.ggml.pre"] == "gpt-2"
    assert "tokenizer.chat_template" not in fields
    assert fields["general.finetune"] == "ferry" and fields["general.quantization_version"] == 2
    assert np.isclose(fields["general.sampling.temp"], 0.9)
    assert path.name.endswith("-ferry-v1.0-Q8_0.gguf")
    assert json.loads((path.parent / "export.json").read_text())["files"][path.name]["sha256"]


def test_a_vocabulary_that_is_padded_gets_fillers(tmp_path, tiny_tokenizer):
    pytest.importorskip("xllamacpp")
    model = MODELS["gpt2"].model()
    model.resize_token_embeddings(400, mean_resizing=False)
    folder = tmp_path / "padded"
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    result = export(load(folder), "gguf", tmp_path / "out", ExportSettings(quantize=["F32"]))
    [levels] = figures(result)
    assert levels[4]["passed"]
    fields = GGUFModel(result.files[0]).fields
    assert fields["tokenizer.ggml.tokens"][384:386] == ["[PAD384]", "[PAD385]"]
    assert fields["tokenizer.ggml.token_type"][384] == 5


def test_equal_head_and_embedding_are_one_whatever_the_config_says(tmp_path, tiny_tokenizer):
    import torch

    model = MODELS["llama-untied"].model()
    with torch.no_grad():
        model.lm_head.weight.copy_(model.model.embed_tokens.weight)
    folder = tmp_path / "equal"
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    settings = ExportSettings(quantize=["F32"], verify=3)
    result = export(load(folder), "gguf", tmp_path / "out", settings)
    assert "output.weight" not in GGUFModel(result.files[0]).tensors


@pytest.mark.parametrize(
    ("family", "words"), [("gemma2", "family gemma2"), ("gpt_neox", "family gpt_neox")]
)
def test_other_families_are_refused_by_name(family, words, tmp_path, tiny_tokenizer):
    from families import FAMILIES

    folder = tmp_path / family
    FAMILIES[family].model().save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    for to in ("gguf", "lora-gguf", "ollama"):
        with pytest.raises(InputError, match=words) as refused:
            export(load(folder), to, tmp_path / "out")
        assert "--to merged" in refused.value.advice
    assert not (tmp_path / "out").exists()
    result = export(load(folder), "merged", tmp_path / "merged", ExportSettings(dtype="fp32"))
    assert figures(result)[0][3]["mean_kl"] < 1e-9


def test_a_sliding_window_is_refused(tmp_path, tiny_tokenizer):
    from families import FAMILIES

    folder = tmp_path / "window"
    FAMILIES["qwen2-sliding"].model().save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    with pytest.raises(InputError, match="sliding window"):
        export(load(folder), "gguf", tmp_path / "out")


def test_a_tokenizer_that_cuts_otherwise_is_refused(saved, tmp_path, tiny_tokenizer):
    from tokenizers import Regex, pre_tokenizers

    folder = tmp_path / "odd"
    MODELS["llama"].model().save_pretrained(folder)
    from transformers import PreTrainedTokenizerFast

    backend = type(tiny_tokenizer.backend_tokenizer).from_str(
        tiny_tokenizer.backend_tokenizer.to_str()
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d{1,2}|\D+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    ).save_pretrained(folder)
    with pytest.raises(InputError, match="llama.cpp has no name for") as refused:
        export(load(folder), "gguf", tmp_path / "out")
    assert "--to merged" in refused.value.advice
    assert export(load(folder), "merged", tmp_path / "merged").files
