"""LoRA as GGUF: in llama.cpp on its base, what PEFT computes and what the merge holds."""

from __future__ import annotations

import json

import pytest
import torch
from export_models import save_adapter
from gguf import GGUFReader

from creativewritinggpt.errors import InputError
from creativewritinggpt.export import gguf_file, llama_cpp, verify
from creativewritinggpt.export.lora import lora_pairs, write
from creativewritinggpt.export.quantization import FORMATS
from creativewritinggpt.export.run import export
from creativewritinggpt.export.settings import ExportSettings
from creativewritinggpt.export.tokenizer import gguf_tokenizer
from creativewritinggpt.export.weights import base_weights
from creativewritinggpt.generation.style import Style
from creativewritinggpt.models.loading import load_model

KINDS = {
    "plain": {},
    "rank-stabilised": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 20}},
}


def load(folder, **words):
    return load_model(str(folder), "cpu", "fp32", threads=1, **words)


def levels_of(result):
    [levels] = result.record["verification"].values()
    return {level["level"]: level for level in levels}


@pytest.mark.parametrize("name", ["gpt2", "gpt2-square", "llama", "qwen2", "qwen3"])
def test_an_adapter_in_llama_cpp_is_pefts_at_full_and_half_strength(name, saved, tmp_path):
    pytest.importorskip("xllamacpp")
    folder = save_adapter(saved(name), tmp_path / "adapter")
    result = export(load(folder), "lora-gguf", tmp_path / "out")
    found = levels_of(result)
    assert all(level["passed"] for level in found.values())
    assert found[4]["mean_kl"] < 1e-5 and found[4]["mean_kl_half"] < 1e-5
    assert [path.name for path in (tmp_path / "out").glob(".*")] == []  # no base left behind


@pytest.mark.parametrize("kind", KINDS)
def test_scales_of_every_kind_are_folded(kind, saved, tmp_path):
    """llama.cpp against PEFT's own layers, at scales that only the request gives."""
    pytest.importorskip("xllamacpp")
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = saved("llama")
    folder = save_adapter(base, tmp_path / "adapter", **KINDS[kind])
    loaded = load(folder)
    weights = base_weights(loaded)
    about = gguf_file.Description("x", "x", "1K", None, "v1.0")
    tokenizer = gguf_tokenizer(loaded.tokenizer, 384, 0, 0)
    gguf_file.write(tmp_path / "base.gguf", weights, tokenizer, FORMATS["F32"], about)
    write(tmp_path / "lora.gguf", lora_pairs(loaded), weights.config, about)

    ids = verify.token_ids(loaded, "The ferry left without them, and nobody waved.")
    answers = llama_cpp.ask(
        tmp_path / "base.gguf", [], ids, len(ids), vocabulary=384, filler=ids[1],
        adapter=tmp_path / "lora.gguf", scales=(1.0, 0.5, 0.0),
    )  # fmt: skip
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
    for row, scale in enumerate((1.0, 0.5, 0.0)):
        for module in peft.modules():
            if hasattr(module, "lora_A"):
                module.set_scale("default", scale)
        with torch.no_grad():
            logits = peft(input_ids=torch.tensor([ids])).logits[0]
        wanted = verify.log_probabilities(logits)
        found = torch.from_numpy(answers.log_probabilities[row]).double()
        torch.testing.assert_close(found, wanted, atol=2e-4, rtol=0)


@pytest.mark.slow
def test_a_blend_and_the_style_dial_are_one_adapter(saved, tmp_path):
    pytest.importorskip("xllamacpp")
    base = saved("llama")
    first = save_adapter(base, tmp_path / "noir", seed=1)
    second = save_adapter(base, tmp_path / "fairy", seed=2, r=2, use_rslora=True)
    model = load(base)
    Style.parse([f"{first}:0.7", f"{second}:0.4"], None).apply(model)
    result = export(model, "lora-gguf", tmp_path / "blend")
    assert all(level["passed"] for level in levels_of(result).values())
    assert result.record["adapters"] == {"noir": 0.7, "fairy": 0.4}
    tensors = {tensor.name: tensor for tensor in GGUFReader(result.files[0]).tensors}
    assert list(tensors["blk.0.attn_v.weight.lora_a"].shape) == [64, 6]

    half = load(first)
    Style.parse([], "0.5").apply(half)
    assert all(v["passed"] for v in levels_of(export(half, "gguf", tmp_path / "half")).values())
    found = levels_of(export(half, "lora-gguf", tmp_path / "half-lora"))
    assert all(level["passed"] for level in found.values())


def test_an_adapter_in_memory_is_exported(saved, tmp_path):
    """As after training: PEFT's layers and no folder."""
    import peft
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from creativewritinggpt.models.loading import wrap

    base = saved("gpt2")
    model = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        peft.LoraConfig(r=4, lora_alpha=8, target_modules=["c_attn"], use_rslora=True),
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    loaded = wrap(model, AutoTokenizer.from_pretrained(base), "cpu")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for to in ("lora-gguf", "gguf", "merged"):
        result = export(loaded, to, tmp_path / to, ExportSettings(verify=3))
        assert levels_of(result)[3]["passed"]
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "lora_only"}, "biases"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"targets": ["q_proj", "embed_tokens"]}, "embed"),
    ],
)
def test_more_than_lora_is_refused_with_what_to_do_instead(settings, words, saved, tmp_path):
    name = "llama-untied"
    folder = save_adapter(saved(name), tmp_path / "adapter", **settings)
    model = load(folder)
    with pytest.raises(InputError, match=words) as refused:
        export(model, "lora-gguf", tmp_path / "out")
    assert "--to merged" in refused.value.advice
    assert not (tmp_path / "out").exists()
    found = levels_of(export(model, "gguf", tmp_path / "gguf", ExportSettings(verify=3)))
    assert found[3]["passed"]


def test_a_base_has_no_adapter_to_export(saved, tmp_path):
    with pytest.raises(InputError, match="has no adapter"):
        export(load(saved("llama")), "lora-gguf", tmp_path / "out")


def test_an_adapter_of_another_base_is_refused(saved, tmp_path, tiny_folder):
    folder = save_adapter(saved("llama"), tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tiny_folder("llama"))
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="made for another base"):
        load(folder)
