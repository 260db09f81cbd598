"""The light form of a model writes what the transformers model does, without importing it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from creativewritinggpt.config.run import Config
from creativewritinggpt.devices import choose
from creativewritinggpt.generation.engine import write
from creativewritinggpt.generation.sampling.settings import GenerationSettings
from creativewritinggpt.generation.style import blend, set_strength
from creativewritinggpt.generation.text import encode, special_ids
from creativewritinggpt.models.adapter import attach, save_model
from creativewritinggpt.models.forward import native_backend
from creativewritinggpt.models.forward.backends import backend_for
from creativewritinggpt.models.forward.families import LlamaForward
from creativewritinggpt.models.loaded_model import LightTokenizer, open_tokenizer
from creativewritinggpt.models.loading import load_base, load_model

CPU = choose("cpu", "fp32", 1)
IDS = [5, 17, 200, 3, 99, 350, 42, 7, 7, 120, 33, 2]
TEXT = "  “Who's there?”  In 1984 — naïve, 東京 🙂\n\n12 men\t\r\n<|endoftext|> e\u0301"


def logits(model: Any) -> torch.Tensor:
    return backend_for(model).read(IDS, 20)[1][0]


def full_logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model.model(torch.tensor([IDS])).logits[0, -1]


@pytest.fixture
def adapter(tiny_folder: Any, tmp_path: Path) -> Any:
    """A factory of adapters whose effect is seen."""

    def make(family: str, name: str = "adapter", **settings: Any) -> Path:
        model = load_base(str(tiny_folder(family)), CPU)
        attach(model, Config(lora_r=4, **settings))
        torch.manual_seed(len(name))
        with torch.no_grad():
            for key, parameter in model.model.named_parameters():
                if "lora_" in key:
                    parameter.add_(torch.randn_like(parameter) * 0.2)
        save_model(model, tmp_path / name, {}, "")
        return tmp_path / name

    return make


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen"])
def test_the_light_form_gives_the_models_own_logits(tiny_folder: Any, family: str) -> None:
    model = load_model(str(tiny_folder(family)), CPU)
    # transformers reads the tokenizer of this Qwen folder in its own way.
    assert (model.files is not None) == (family != "qwen")
    found = logits(model)
    assert torch.allclose(found, full_logits(model), atol=1e-5)
    assert model.files is None
    assert torch.equal(found, logits(model))  # the same forward pass on the same weights


@pytest.mark.parametrize(
    "settings",
    [{}, {"use_rslora": True}, {"use_dora": True}, {"target_modules": ["all-linear"]}],
    ids=["lora", "rslora", "dora", "all-linear"],
)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_adapters_are_merged_as_peft_does(adapter: Any, family: str, settings: Any) -> None:
    folder = adapter(family, **settings)
    light, full = load_model(str(folder), CPU), load_model(str(folder), CPU)
    assert full.model is not None and full.files is None
    assert (light.files is None) == ("use_dora" in settings)  # which only PEFT knows

    def agree() -> torch.Tensor:
        wanted = full_logits(full)
        assert torch.allclose(logits(light), wanted, atol=1e-4)
        return wanted

    tuned = agree()
    with light.base(), full.base():
        assert float((agree() - tuned).abs().max()) > 0.01
    for model in (light, full):
        set_strength(model, 0.5)
    assert float((agree() - tuned).abs().max()) > 0.01
    # The transformers model that is built now has the same strength, and is off inside base().
    with light.base():
        base = full_logits(light)
    assert torch.allclose(full_logits(light), full_logits(full), atol=1e-6)
    with full.base():
        assert torch.allclose(base, full_logits(full), atol=1e-6)


def test_a_blend_is_the_same_sum_in_both_forms(adapter: Any) -> None:
    parts = [(str(adapter("llama")), 0.7), (str(adapter("llama", "other")), 0.3)]
    light, full = load_model(parts[0][0], CPU), load_model(parts[0][0], CPU)
    assert full.model is not None
    for model in (light, full):
        blend(model, parts)
    assert light.files is not None
    assert torch.allclose(logits(light), full_logits(full), atol=1e-4)
    assert torch.allclose(full_logits(light), full_logits(full), atol=1e-6)


def test_a_variant_of_lora_in_a_blend_is_left_to_peft(adapter: Any) -> None:
    parts = [(str(adapter("llama")), 0.7), (str(adapter("llama", "other", use_dora=True)), 0.3)]
    model = load_model(parts[0][0], CPU)
    assert model.files is not None
    blend(model, parts)
    assert model.files is None
    assert torch.allclose(logits(model), full_logits(model), atol=1e-5)


def test_writing_imports_neither_transformers_nor_peft(adapter: Any) -> None:
    folder = adapter("gpt2")
    settings = {"max_new_tokens": 12, "seed": 3}
    code = (
        "import sys\n"
        "from creativewritinggpt.generation.engine import write\n"
        "from creativewritinggpt.generation.sampling.settings import GenerationSettings\n"
        "from creativewritinggpt.models.loading import load_model\n"
        f"model = load_model({str(folder)!r}, 'cpu', 'fp32', threads=1)\n"
        f"text = write(model, 'The lamp', GenerationSettings(**{settings!r}))[0].text\n"
        "print(repr(text), sorted({'transformers', 'peft', 'onnxruntime'} & set(sys.modules)))\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    model = load_model(str(folder), CPU)
    assert model.model is not None  # the full form
    text = write(model, "The lamp", GenerationSettings(**settings))[0].text
    assert said.stdout == f"{text!r} []\n"


def test_the_tokenizer_is_transformers_own(tiny_folder: Any) -> None:
    from transformers import AutoTokenizer

    folder = tiny_folder("gpt2")
    settings_file = folder / "tokenizer_config.json"
    settings = json.loads(settings_file.read_text())
    for name in ("TokenizersBackend", "GPT2TokenizerFast", None):
        settings_file.write_text(json.dumps({**settings, "tokenizer_class": name}))
        model = load_model(str(folder), CPU)
        light, full = model.tokenizer, AutoTokenizer.from_pretrained(folder)
        assert isinstance(light, LightTokenizer), name
        ids = encode(light, TEXT)
        assert ids == encode(full, TEXT) and 0 not in ids
        assert light.decode(ids) == full.decode(ids) and len(light) == len(full)
        assert light.get_vocab() == full.get_vocab()
        assert special_ids(light) == special_ids(full)
        for role in ("bos_token_id", "eos_token_id"):
            assert getattr(light, role) == getattr(full, role)


def test_qwens_tokenizer_is_transformers_own(tiny_folder: Any, tiny_tokenizer: Any) -> None:
    from transformers import AutoTokenizer, Qwen2Tokenizer

    folder = tiny_folder("qwen")
    made = json.loads(tiny_tokenizer.backend_tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in made["merges"]]
    Qwen2Tokenizer(vocab=made["vocab"], merges=merges).save_pretrained(folder)
    model = load_model(str(folder), CPU)
    full = AutoTokenizer.from_pretrained(folder)
    assert isinstance(model.tokenizer, LightTokenizer)
    assert encode(model.tokenizer, TEXT) == encode(full, TEXT)
    assert special_ids(model.tokenizer) == special_ids(full)
    assert (model.tokenizer.bos_token_id, model.tokenizer.eos_token_id) == (None, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"add_prefix_space": True},
        {"extra_special_tokens": ["<chat>"]},
        {"tokenizer_class": "LlamaTokenizer", "eos_token": "<new>"},
        {"tokenizer_class": "BertTokenizer"},
        {"eos_token": "<unknown>"},
    ],
)
def test_tokenizers_that_transformers_would_change_are_left_to_it(
    tiny_folder: Any, change: Any
) -> None:
    folder = tiny_folder("gpt2")
    model = load_model(str(folder), CPU)
    settings_file = folder / "tokenizer_config.json"
    settings = json.loads(settings_file.read_text())
    settings_file.write_text(json.dumps({**settings, **change}))
    assert model.files is not None
    assert open_tokenizer(folder, model.files.config) is None


class ToyForward(LlamaForward):
    """A new family: Mistral's models are Llama's where attention does not slide."""

    defaults = {**LlamaForward.defaults, "sliding_window": None}


def test_a_new_family_is_a_forward_pass_and_its_entry(
    tiny_tokenizer: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=384, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
        sliding_window=None,
    )  # fmt: skip
    MistralForCausalLM(config).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    assert backend_for(load_model(str(tmp_path), CPU)).name == "transformers"
    monkeypatch.setitem(native_backend.FAMILIES, "mistral", ToyForward)
    model = load_model(str(tmp_path), CPU)
    assert model.files is not None and backend_for(model).name == "fp32"
    assert torch.allclose(logits(model), full_logits(model), atol=1e-5)
