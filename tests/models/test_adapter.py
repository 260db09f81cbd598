"""The adapter sits where it should, starts at nothing, leaves the base alone and merges exactly."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from creativewritinggpt.config.run import Config
from creativewritinggpt.devices import choose
from creativewritinggpt.errors import InputError, RunError
from creativewritinggpt.models.adapter import (
    attach,
    load_adapter,
    merge,
    save_model,
    target_names,
    trainable,
)
from creativewritinggpt.models.loading import load_base, load_model

FAMILIES = ("gpt2", "llama", "qwen")
CPU = choose("cpu", "fp32")
IDS = torch.tensor([[0, 5, 17, 200, 3, 99, 350, 42]])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def train_a_little(model: Any) -> None:
    """A few steps at a high learning rate, with dropout on."""
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.01)
    for _ in range(3):
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def test_original_targets_of_gpt2_have_442368_parameters() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config())
    assert target_names(model, None) == ["attn.c_attn", "attn.c_proj"]
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(
        r=8, target_modules=target_names(model, None), fan_in_fan_out=True, task_type="CAUSAL_LM"
    )
    adapted, total = trainable(get_peft_model(model, lora))
    assert adapted == 442_368
    assert total == 124_439_808 + 442_368


@pytest.mark.parametrize("family", ("llama", "qwen"))
def test_llama_and_qwen_get_all_four_attention_projections(family: str, tiny_model: Any) -> None:
    for nothing in (None, []):
        names = target_names(tiny_model(family), nothing)
        assert names == ["k_proj", "o_proj", "q_proj", "v_proj"]


@pytest.mark.parametrize(("family", "count"), [("gpt2", 3), ("llama", 7), ("qwen", 7)])
def test_all_linear_leaves_out_head_and_embeddings(
    family: str, count: int, tiny_model: Any
) -> None:
    names = target_names(tiny_model(family), ["all-linear"])
    assert len(names) == count
    assert not any("head" in name or "embed" in name or "wte" in name for name in names)


@pytest.mark.parametrize("wanted", (["query"], ["q_proj", "lm_head"], ["embed_tokens"]))
def test_unknown_targets_are_refused_with_the_names_there_are(
    wanted: list[str], tiny_model: Any
) -> None:
    with pytest.raises(InputError) as caught:
        target_names(tiny_model("llama"), wanted)
    assert wanted[-1] in caught.value.message
    assert "self_attn.q_proj" in str(caught.value.advice)


@pytest.mark.invariant
@pytest.mark.parametrize("targets", (None, ["all-linear"]))
@pytest.mark.parametrize("family", FAMILIES)
def test_step_0_is_the_base_and_training_leaves_its_weights_bit_equal(
    family: str, targets: list[str] | None, tiny_folder: Any
) -> None:
    writer = load_base(str(tiny_folder(family)), CPU)
    weights = {name: p.detach().clone() for name, p in writer.model.named_parameters()}
    before = logits(writer.model)
    attach(writer, Config(target_modules=targets))
    writer.model.eval()
    assert torch.equal(logits(writer.model), before)

    train_a_little(writer.model)
    after = logits(writer.model)
    assert (after - before).abs().max() > 1e-3
    kept = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): p
        for name, p in writer.model.named_parameters()
        if "lora_" not in name
    }
    assert kept.keys() == weights.keys()
    assert all(torch.equal(kept[name], weight) for name, weight in weights.items())
    assert {p.dtype for p in writer.model.parameters()} == {torch.float32}
    with writer.base():
        assert torch.equal(logits(writer.model), before)
    assert torch.equal(logits(writer.model), after)

    merge(writer)
    assert not writer.has_adapter
    torch.testing.assert_close(logits(writer.model), after, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_adapter_comes_back_bit_equal(
    family: str, tiny_folder: Any, tmp_path: Path
) -> None:
    base = tiny_folder(family)
    writer = load_base(str(base), CPU)
    attach(writer, Config(target_modules=["all-linear"]))
    train_a_little(writer.model)
    save_model(writer, tmp_path / "out", {"seed": 42}, "# A card\n")
    assert sorted(os.listdir(tmp_path / "out")) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "run.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert (tmp_path / "out" / "README.md").read_text() == "# A card\n"
    again = load_model(str(tmp_path / "out"), CPU)
    assert torch.equal(logits(again.model), logits(writer.model))
    assert again.run is not None
    assert again.run["seed"] == 42
    assert again.run["base"] == {
        "name": str(base),
        "kind": "folder",
        "base_name": str(base.resolve()),
        "revision": None,
    }
    assert not any(p.requires_grad for p in again.model.parameters())
    with again.base():
        pass
    assert not any(p.requires_grad for p in again.model.parameters())


def test_any_peft_client_can_load_a_saved_adapter(tiny_folder: Any, tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    writer = load_base(str(tiny_folder("gpt2")), CPU)
    attach(writer, Config())
    train_a_little(writer.model)
    save_model(writer, tmp_path / "out", {}, "")
    theirs = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(logits(theirs), logits(writer.model))


@pytest.mark.parametrize("family", FAMILIES)
def test_full_fine_tuning_trains_and_saves_all_weights(
    family: str, tiny_folder: Any, tmp_path: Path
) -> None:
    writer = load_base(str(tiny_folder(family)), CPU)
    attach(writer, Config(method="full"))
    adapted, total = trainable(writer.model)
    assert adapted == total
    assert not writer.has_adapter
    train_a_little(writer.model)
    save_model(writer, tmp_path / "full", {}, "")
    again = load_model(str(tmp_path / "full"), CPU)
    assert torch.equal(logits(again.model), logits(writer.model))


def test_a_merged_model_is_saved_as_a_full_model(tiny_folder: Any, tmp_path: Path) -> None:
    writer = load_base(str(tiny_folder("llama")), CPU)
    attach(writer, Config())
    train_a_little(writer.model)
    merge(writer)
    save_model(writer, tmp_path / "merged", {}, "")
    again = load_model(str(tmp_path / "merged"), CPU)
    assert not again.has_adapter
    assert torch.equal(logits(again.model), logits(writer.model))


def test_going_on_from_an_adapter_starts_where_it_ended(tiny_folder: Any, tmp_path: Path) -> None:
    folder = str(tiny_folder("gpt2"))
    writer = load_base(folder, CPU)
    attach(writer, Config())
    train_a_little(writer.model)
    save_model(writer, tmp_path / "first", {}, "")
    second = load_base(folder, CPU)
    attach(second, Config(init_adapter=str(tmp_path / "first")))
    assert torch.equal(logits(second.model), logits(writer.model))
    assert trainable(second.model) == trainable(writer.model)


def test_the_seed_decides_the_adapter_and_leaves_the_global_state(tiny_folder: Any) -> None:
    folder = str(tiny_folder("gpt2"))

    def first_matrix(seed: int) -> torch.Tensor:
        writer = load_base(folder, CPU)
        state = torch.random.get_rng_state()
        attach(writer, Config(seed=seed))
        assert torch.equal(torch.random.get_rng_state(), state)
        return next(p for n, p in writer.model.named_parameters() if "lora_A" in n)

    assert torch.equal(first_matrix(1), first_matrix(1))
    assert not torch.equal(first_matrix(1), first_matrix(2))


def test_an_adapter_of_another_base_is_refused_by_its_shapes(
    tiny_folder: Any, tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    writer = load_base(str(tiny_folder("llama")), CPU)
    attach(writer, Config())
    save_model(writer, tmp_path / "out", {}, "")
    other = tmp_path / "wide"
    tiny_model("llama", hidden_size=64).save_pretrained(other)
    tiny_tokenizer.save_pretrained(other)
    with pytest.raises(InputError, match=r"another base: at .*_proj it has size 32, .* has 64"):
        load_adapter(load_base(str(other), CPU), tmp_path / "out")
    gpt2 = load_base(str(tiny_folder("gpt2")), CPU)
    with pytest.raises(InputError, match="another base: .* has no model.layers.0.self_attn"):
        load_adapter(gpt2, tmp_path / "out")


def test_a_damaged_adapter_is_refused(tiny_folder: Any, tmp_path: Path) -> None:
    writer = load_base(str(tiny_folder("gpt2")), CPU)
    attach(writer, Config())
    save_model(writer, tmp_path / "out", {}, "")
    weights = tmp_path / "out" / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="adapter_model.safetensors is damaged"):
        load_model(str(tmp_path / "out"), CPU)
    weights.unlink()
    with pytest.raises(InputError, match="adapter_model.safetensors is missing"):
        load_model(str(tmp_path / "out"), CPU)


def test_an_adapter_whose_base_folder_is_gone_says_where_it_was(
    tiny_folder: Any, tmp_path: Path
) -> None:
    base = tiny_folder("gpt2")
    writer = load_base(str(base), CPU)
    attach(writer, Config())
    save_model(writer, tmp_path / "out", {}, "")
    base.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=f"model folder {base}, which is not there"):
        load_model(str(tmp_path / "out"), CPU)


def test_an_interrupted_save_leaves_the_old_model(
    tiny_folder: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    writer = load_base(str(tiny_folder("gpt2")), CPU)
    attach(writer, Config())
    save_model(writer, tmp_path / "out", {"run": 1}, "")
    monkeypatch.setattr(
        type(writer.tokenizer),
        "save_pretrained",
        lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")),
    )
    with pytest.raises(RunError, match="disk is full"):
        save_model(writer, tmp_path / "out", {"run": 2}, "")
    assert json.loads((tmp_path / "out" / "run.json").read_text())["run"] == 1
    assert sorted(os.listdir(tmp_path)) == ["out", "tiny-gpt2"]


def test_init_adapter_with_full_is_refused(tiny_folder: Any) -> None:
    with pytest.raises(InputError, match="init_adapter"):
        attach(
            load_base(str(tiny_folder("gpt2")), CPU), Config(method="full", init_adapter="there")
        )


@pytest.mark.parametrize(("name", "scale"), [("use_rslora", 16 / 8**0.5), ("use_dora", 16 / 8)])
def test_variants_of_lora_start_at_nothing_scale_as_they_say_and_come_back(
    tmp_path: Path, tiny_folder: Any, name: str, scale: float
) -> None:
    writer = load_base(str(tiny_folder("llama")), CPU)
    before = logits(writer.model)
    attach(writer, Config(**{name: True}))
    assert torch.allclose(logits(writer.model), before, atol=1e-5)
    layers = [module for module in writer.model.modules() if hasattr(module, "lora_A")]
    assert layers and all(layer.scaling["default"] == pytest.approx(scale) for layer in layers)
    train_a_little(writer.model)
    after = logits(writer.model)
    assert not torch.allclose(after, before, atol=1e-3)
    save_model(writer, tmp_path / "adapter", {}, "card")
    again = logits(load_model(str(tmp_path / "adapter"), CPU).model)
    assert torch.allclose(again, after, atol=1e-5)
