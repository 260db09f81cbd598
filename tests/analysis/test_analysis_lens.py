"""The logit lens ends in the model's own answer, norms nothing twice and leaves no hooks behind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from subjects import plain_subject
from writers import make_writer

from creativewritinggpt.analysis.methods import lens as lens_module
from creativewritinggpt.analysis.methods.lens import Lens, logit_lens

FAMILIES = ("gpt2", "llama", "qwen")
POSITIONS = (1, 4, 9, 12)


def answers(model: Any, length: int = 12) -> torch.Tensor:
    """Log-probabilities ``[tokens, vocabulary]`` as the model itself gives them."""
    with torch.no_grad():
        logs: torch.Tensor = model(torch.arange(length)[None]).logits[0].log_softmax(-1)
    return logs


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_layer_is_the_models_own_answer(family: str, tiny_model: Any) -> None:
    model = tiny_model(family)
    lens = logit_lens(make_writer(model), plain_subject(12, POSITIONS))
    logs = answers(model)[[p - 1 for p in POSITIONS]]
    np.testing.assert_allclose(lens.log_probability[-1], logs[:, 1], rtol=1e-4, atol=1e-5)
    assert lens.rank[-1].tolist() == [int((row > row[1]).sum()) + 1 for row in logs]
    best = logs.topk(5)
    np.testing.assert_array_equal(lens.top_ids[-1], best.indices)
    np.testing.assert_allclose(lens.top_probabilities[-1], best.values.exp(), rtol=1e-4)
    np.testing.assert_allclose(lens.entropy[-1], -(logs.exp() * logs).sum(-1), rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_earlier_layers_go_through_norm_and_head_once(family: str, tiny_model: Any) -> None:
    model = tiny_model(family)
    lens = logit_lens(make_writer(model), plain_subject(12, POSITIONS))
    norm = model.transformer.ln_f if family == "gpt2" else model.model.norm
    assert lens.rank.shape == (3, len(POSITIONS))
    with torch.no_grad():
        states = model(torch.arange(12)[None], output_hidden_states=True).hidden_states
        for layer in (0, 1):
            logs = model.lm_head(norm(states[layer][0, [p - 1 for p in POSITIONS]])).log_softmax(-1)
            np.testing.assert_allclose(lens.log_probability[layer], logs[:, 1], rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_layer_is_that_of_a_model_without_layers(family: str, tiny_model: Any) -> None:
    model = tiny_model(family)
    lens = logit_lens(make_writer(model), plain_subject(12, POSITIONS))
    inner = model.transformer if family == "gpt2" else model.model
    if family == "gpt2":
        inner.h = torch.nn.ModuleList()
    else:
        inner.layers = torch.nn.ModuleList()
    model.config.num_hidden_layers = 0
    logs = answers(model)[[p - 1 for p in POSITIONS], 1]
    np.testing.assert_allclose(lens.log_probability[0], logs, rtol=1e-4, atol=1e-5)


def test_a_model_whose_norm_does_nothing_is_read_as_it_is(tiny_model: Any) -> None:
    model = tiny_model("gpt2")
    model.transformer.ln_f = torch.nn.Identity()
    lens = logit_lens(make_writer(model), plain_subject(12, POSITIONS))
    logs = answers(model)[[p - 1 for p in POSITIONS], 1]
    np.testing.assert_allclose(lens.log_probability[-1], logs, rtol=1e-4, atol=1e-5)


def test_base_and_tuned_are_read_apart_and_nothing_is_left_behind(tiny_model: Any) -> None:
    from creativewritinggpt.config.run import Config
    from creativewritinggpt.models.adapter import attach

    writer, subject = make_writer(tiny_model("llama")), plain_subject(12, POSITIONS)
    base = logit_lens(writer, subject)
    attach(writer, Config())
    with torch.no_grad():
        for name, parameter in writer.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator()) * 0.1)
    writer.model.eval()
    tuned = logit_lens(writer, subject)
    # The embedding is the base model's; what comes after it is not.
    np.testing.assert_allclose(tuned.log_probability[0], base.log_probability[0], rtol=1e-6)
    assert not np.allclose(tuned.log_probability[-1], base.log_probability[-1])
    # transformers keeps hooks of its own from the first pass on.
    hooks = [len(module._forward_hooks) for module in writer.bare.modules()]
    with writer.base():
        again = logit_lens(writer, subject)
    np.testing.assert_array_equal(again.log_probability, base.log_probability)
    assert [len(module._forward_hooks) for module in writer.bare.modules()] == hooks


def test_many_targets_in_small_pieces_give_the_same(tiny_model: Any, monkeypatch: Any) -> None:
    writer, subject = make_writer(tiny_model("gpt2")), plain_subject(12, tuple(range(1, 13)))
    whole = logit_lens(writer, subject)
    monkeypatch.setattr(lens_module, "CHUNK", 5)
    parts = logit_lens(writer, subject)
    np.testing.assert_allclose(parts.log_probability, whole.log_probability, rtol=1e-5)
    np.testing.assert_array_equal(parts.rank, whole.rank)


def test_a_target_settles_where_it_stays_the_likeliest() -> None:
    rank = np.array([[1, 9, 3], [2, 1, 4], [1, 1, 2]])
    empty = np.zeros((3, 3))
    lens = Lens(empty, rank, empty, np.zeros((3, 3, 1), int), np.zeros((3, 3, 1)))
    assert lens.settled == [2, 1, None]


def test_the_record_names_tokens_and_layers(tiny_model: Any) -> None:
    import json

    lens = logit_lens(make_writer(tiny_model("gpt2")), plain_subject(12, (3,)), top=2)
    record = json.loads(json.dumps(lens.to_dict(lambda token: f"t{token}")))
    assert record["layers"] == ["embedding", "0", "1"]
    entry = record["top"][2][0][0]
    assert entry["text"] == f"t{entry['id']}"
    assert entry["probability"] == pytest.approx(float(lens.top_probabilities[2, 0, 0]))
    assert "text" not in lens.to_dict()["top"][0][0][0]
