"""What fine-tuning changed: the numbers of two plain passes, after which both models are whole."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from subjects import plain_subject
from writers import make_writer

from creativewritinggpt.analysis.methods import difference as difference_module
from creativewritinggpt.analysis.methods.attention import AttentionMaps, capture
from creativewritinggpt.analysis.methods.difference import attention_moved, compare, updates
from creativewritinggpt.config.run import Config
from creativewritinggpt.models.adapter import attach
from creativewritinggpt.models.loaded_model import LoadedModel

FAMILIES = ("gpt2", "llama", "qwen")
SUBJECT = plain_subject(14, (3, 8, 14))


def tuned_writer(tiny_model: Any, family: str, size: float = 0.1, **changes: Any) -> LoadedModel:
    writer = make_writer(tiny_model(family))
    attach(writer, Config(**changes))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in writer.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * size)
    writer.model.eval()
    return writer


def plain_logs(writer: LoadedModel) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.arange(SUBJECT.length)[None]
    with torch.no_grad():
        tuned = writer.model(ids).logits[0].log_softmax(-1)
        with writer.base():
            base = writer.model(ids).logits[0].log_softmax(-1)
    return tuned, base


def test_a_model_without_an_adapter_has_no_difference(tiny_model: Any) -> None:
    writer = make_writer(tiny_model("gpt2"))
    assert compare(writer, SUBJECT) is None
    assert updates(writer) == []


@pytest.mark.parametrize("chunk", [5, 256])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_numbers_are_those_of_two_plain_passes(
    family: str, chunk: int, tiny_model: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(difference_module, "POSITIONS_AT_ONCE", chunk)
    writer = tuned_writer(tiny_model, family)
    found = compare(writer, SUBJECT, top=4)
    assert found is not None
    tuned, base = plain_logs(writer)
    own = torch.arange(1, SUBJECT.length)
    np.testing.assert_allclose(found.tuned_log_probability[1:], tuned[own - 1, own], atol=1e-4)
    np.testing.assert_allclose(found.base_log_probability[1:], base[own - 1, own], atol=1e-4)
    assert np.isnan(found.change[0])
    kl = (tuned.exp() * (tuned - base)).sum(-1)
    np.testing.assert_allclose(found.kl, kl, atol=1e-4)
    assert (found.kl > -1e-6).all()
    change = tuned.exp() - base.exp()
    assert len(found.gained) == len(found.lost) == 3
    for index, target in enumerate(SUBJECT.targets):
        best = change[target.position - 1].topk(4)
        assert [moved.id for moved in found.gained[index]] == best.indices.tolist()
        worst = found.lost[index][0]
        assert worst.tuned - worst.base == pytest.approx(
            float(change[target.position - 1].min()), abs=1e-5
        )
    overall = change.mean(0).topk(4)
    assert [moved.id for moved in found.gained_overall] == overall.indices.tolist()
    assert found.lost_overall[0].tuned < found.lost_overall[0].base


def test_an_adapter_that_does_nothing_changes_nothing(tiny_model: Any) -> None:
    found = compare(tuned_writer(tiny_model, "gpt2", size=0.0), SUBJECT)
    assert found is not None
    assert not found.change[1:].any()
    assert not found.kl.any()
    assert found.gained == [[], [], []]
    assert found.attention is not None
    assert not found.attention.any()
    assert all(update.norm == 0 for update in found.updates)


def test_both_models_are_as_before(tiny_model: Any) -> None:
    writer = tuned_writer(tiny_model, "llama")
    before = {name: value.clone() for name, value in writer.model.state_dict().items()}
    trainable = [parameter.requires_grad for parameter in writer.model.parameters()]
    logs = plain_logs(writer)
    compare(writer, SUBJECT)
    assert all(torch.equal(before[name], v) for name, v in writer.model.state_dict().items())
    assert [parameter.requires_grad for parameter in writer.model.parameters()] == trainable
    for first, second in zip(logs, plain_logs(writer), strict=True):
        assert torch.equal(first, second)


def test_known_attention_is_used_and_can_be_left_out(tiny_model: Any, monkeypatch: Any) -> None:
    writer = tuned_writer(tiny_model, "qwen")
    full = compare(writer, SUBJECT)
    maps = capture(writer, SUBJECT)
    with writer.base():
        base = capture(writer, SUBJECT)
    monkeypatch.setattr(difference_module, "capture", None)
    known = compare(writer, SUBJECT, maps=maps, base_maps=base)
    without = compare(writer, SUBJECT, attention=False)
    assert full is not None and known is not None and without is not None
    np.testing.assert_array_equal(full.attention, known.attention)
    assert full.attention.shape == (2, 4)
    assert (full.attention > 0).all()
    assert without.attention is None


def test_attention_moves_from_none_to_all() -> None:
    first = np.zeros((1, 2, 3, 3), dtype=np.float32)
    first[..., 0] = 1
    second = first.copy()
    second[0, 1, 1:] = [0, 1, 0]
    np.testing.assert_allclose(
        attention_moved(AttentionMaps(first), AttentionMaps(second)), [[0, 1]]
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_size_of_an_update_is_that_of_the_product(family: str, tiny_model: Any) -> None:
    writer = tuned_writer(tiny_model, family, target_modules=["all-linear"], lora_r=4)
    found = updates(writer)
    modules = dict(writer.bare.named_modules())
    assert len(found) == (8 if family == "gpt2" else 14)
    for update in found:
        module = modules[update.name]
        delta = module.get_delta_weight("default").detach().double()
        assert update.norm == pytest.approx(float(delta.norm()), rel=1e-5)
        own = float(module.get_base_layer().weight.detach().double().norm())
        assert update.relative == pytest.approx(update.norm / own, rel=1e-5)
    assert [update.layer for update in found] == sorted(update.layer or 0 for update in found)
    names = {update.projection for update in found}
    assert ("attn.c_attn" if family == "gpt2" else "self_attn.q_proj") in names


def test_other_adapters_are_measured_by_merging_a_copy(tiny_model: Any) -> None:
    from peft import LoraConfig, get_peft_model

    writer = make_writer(tiny_model("llama"))
    writer.model = get_peft_model(
        writer.model, LoraConfig(r=4, target_modules=["q_proj"], use_dora=True)
    )
    writer.has_adapter = True
    with torch.no_grad():
        for name, parameter in writer.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
    writer.model.eval()
    weights = {n: p.detach().clone() for n, p in writer.model.named_parameters()}
    found = updates(writer)
    assert all(torch.equal(p, weights[n]) for n, p in writer.model.named_parameters())
    before = {u.name: weights[f"base_model.model.{u.name}.base_layer.weight"] for u in found}
    merged = dict(writer.model.merge_and_unload().named_modules())
    assert len(found) == 2
    for update in found:
        delta = merged[update.name].weight.detach() - before[update.name]
        assert update.norm == pytest.approx(float(delta.norm()), rel=1e-4)


def test_the_record_is_json_without_nan(tiny_model: Any) -> None:
    found = compare(tuned_writer(tiny_model, "gpt2"), SUBJECT, top=2)
    assert found is not None
    record = json.loads(json.dumps(found.to_dict(str), allow_nan=False))
    assert record["change"][0] is None
    assert len(record["change"]) == SUBJECT.length
    assert record["mean_kl"] == pytest.approx(float(found.kl.mean()))
    assert record["gained_overall"][0]["text"] == str(record["gained_overall"][0]["id"])
    assert record["updates"][0]["layer"] == 0


def test_progress_counts_positions(tiny_model: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(difference_module, "POSITIONS_AT_ONCE", 6)
    seen: list[tuple[int, int]] = []
    compare(
        tuned_writer(tiny_model, "gpt2"), SUBJECT, attention=False,
        progress=lambda done, all_of: seen.append((done, all_of)),
    )  # fmt: skip
    assert seen == [(6, 14), (12, 14), (14, 14)]
