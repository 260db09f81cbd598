"""Merged folders: read by transformers alone, with the figures of the model that was exported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from export_models import MODELS, save_adapter

from creativewritinggpt.export import merged, verify
from creativewritinggpt.export.run import export
from creativewritinggpt.export.settings import ExportSettings
from creativewritinggpt.generation.style import Style
from creativewritinggpt.models.loading import load_model

# A process that has no package of ours, and says so if it had.
_PLAIN = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, text = sys.argv[1:3]
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
ids = tokenizer(text)["input_ids"]
with torch.no_grad():
    logits = model(torch.tensor([ids])).logits[0]
assert not any(name.startswith(("creativewritinggpt", "peft")) for name in sys.modules)
print(json.dumps({"ids": ids, "logits": logits.tolist()}))
"""
TEXT = "The ferry left without them; nobody waved."


def load(folder):
    return load_model(str(folder), "cpu", "fp32", threads=1)


def plain(folder):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", _PLAIN, str(folder), TEXT], capture_output=True, check=True,
        cwd=folder, env={**environment, "HF_HUB_OFFLINE": "1"}, timeout=300,
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3-untied"])
def test_plain_transformers_computes_what_peft_does(name, saved, tmp_path):
    folder = save_adapter(saved(name), tmp_path / "adapter", use_rslora=True)
    model = load(folder)
    result = export(model, "merged", tmp_path / "out", ExportSettings(dtype="fp32"))
    ids = verify.token_ids(model, TEXT)
    found = plain(tmp_path / "out")
    assert found["ids"][-len(ids) + 1 :] == ids[1:]
    with torch.no_grad():
        wanted = model.model(input_ids=torch.tensor([found["ids"]])).logits[0]
    torch.testing.assert_close(torch.tensor(found["logits"]), wanted, atol=1e-5, rtol=1e-5)
    levels = {one["level"]: one for one in result.record["verification"]["model.safetensors"]}
    assert levels[2]["equal"] and levels[3]["mean_kl"] < 1e-9
    assert (found["ids"] == ids) == levels[3]["tokenizer_adds_first_token"]


def test_both_spellings_stand_in_the_configuration(saved, tmp_path):
    export(load(saved("llama-linear")), "merged", tmp_path / "llama", ExportSettings(verify=3))
    config = json.loads((tmp_path / "llama" / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 5000.0
    assert config["rope_scaling"] == {"rope_type": "linear", "type": "linear", "factor": 2.0}
    assert config["architectures"] == ["LlamaForCausalLM"]
    tokenizer = json.loads((tmp_path / "llama" / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert not {"backend", "is_local", "local_files_only"} & tokenizer.keys()

    export(load(saved("gpt2")), "merged", tmp_path / "gpt2", ExportSettings(verify=3))
    config = json.loads((tmp_path / "gpt2" / "config.json").read_text())
    assert config["n_ctx"] == config["n_positions"] == 192


def test_what_was_exported_loads_here_and_exports_the_same(saved, tmp_path):
    settings = ExportSettings(dtype="fp32", verify=3)
    first = export(load(saved("llama")), "merged", tmp_path / "a", settings)
    second = export(load(tmp_path / "a"), "merged", tmp_path / "b", settings)
    name = "model.safetensors"
    assert first.record["files"][name]["sha256"] == second.record["files"][name]["sha256"]
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / file).read_text() == (tmp_path / "b" / file).read_text()


def test_an_adapter_on_the_head_parts_it_from_the_embeddings(saved, tmp_path):
    folder = save_adapter(
        saved("llama"), tmp_path / "adapter", targets=["q_proj", "lm_head"],
        ensure_weight_tying=False,
    )  # fmt: skip
    model = load(folder)
    result = export(model, "merged", tmp_path / "out", ExportSettings(dtype="fp32"))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    levels = {one["level"]: one for one in result.record["verification"]["model.safetensors"]}
    assert levels[3]["mean_kl"] < 1e-9


def test_large_models_are_written_in_parts(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(merged, "SHARD_BYTES", 100_000)
    result = export(load(saved("llama")), "merged", tmp_path / "out", ExportSettings(dtype="fp32"))
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    parts = set(index["weight_map"].values())
    assert len(parts) > 1 and all((tmp_path / "out" / part).is_file() for part in parts)
    assert result.files[0].name == "model.safetensors.index.json"
    [levels] = result.record["verification"].values()
    assert levels[2]["mean_kl"] < 1e-9  # by transformers, out of the parts


def test_half_a_style_is_between_base_and_tuned(saved, tmp_path):
    folder = save_adapter(saved("llama"), tmp_path / "adapter")
    tensors = {}
    for style in ("0", "0.5", "1"):
        model = load(folder)
        Style.parse([], style).apply(model)
        export(model, "merged", tmp_path / style, ExportSettings(dtype="fp32", verify=3))
        from safetensors.torch import load_file

        tensors[style] = load_file(tmp_path / style / "model.safetensors")
    for name, half in tensors["0.5"].items():
        mean = (tensors["0"][name] + tensors["1"][name]) / 2
        torch.testing.assert_close(half, mean, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["gpt2", "qwen2"])
def test_adapters_of_other_kinds_are_merged(name, saved, tmp_path):
    folder = save_adapter(saved(name), tmp_path / "adapter", use_dora=True)
    result = export(load(folder), "merged", tmp_path / "out", ExportSettings(dtype="fp32"))
    levels = {one["level"]: one for one in result.record["verification"]["model.safetensors"]}
    assert levels[3]["mean_kl"] < 1e-8


def test_a_folder_holds_its_model_alone_also_where_scratch_cant_be_removed(
    tmp_path, tiny_tokenizer, monkeypatch
):
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    from creativewritinggpt.models.loading import wrap

    config = GPTNeoXConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64,
    )  # fmt: skip
    model = wrap(GPTNeoXForCausalLM(config), tiny_tokenizer, "cpu")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        export(model, "merged", tmp_path / "out", ExportSettings(verify=1))
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name.startswith(".")]
    [left] = [path.name for path in tmp_path.iterdir() if path.name != "out"]
    export(model, "merged", tmp_path / "out", ExportSettings(verify=1), overwrite=True)
    assert os.listdir(tmp_path) == ["out"], f"{left} is still there"


def test_weights_that_are_no_numbers_are_not_written(saved, tmp_path, tiny_tokenizer):
    from creativewritinggpt.errors import InputError
    from creativewritinggpt.models.loading import wrap

    model = MODELS["llama"].model()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[2, 3] = float("nan")
    for to in ("merged", "gguf"):
        with pytest.raises(InputError, match="up_proj.weight holds values that are not numbers"):
            export(wrap(model, tiny_tokenizer, "cpu"), to, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
