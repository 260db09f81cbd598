"""Every family of models is explained: gradients, replacements, attention, lens and occlusion."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from families import EXPERTS, FAMILIES, POSITIONS, VOCABULARY
from reference.divergences import plain_divergences
from writers import make_writer

from creativewritinggpt.analysis.forward import embeddings, hidden_states, predictions
from creativewritinggpt.analysis.methods.attention import (
    AttentionMaps,
    NoAttention,
    capture,
    rollout,
    statistics,
    without_sink,
)
from creativewritinggpt.analysis.methods.gradients import integrated_gradients
from creativewritinggpt.analysis.methods.lens import logit_lens
from creativewritinggpt.analysis.methods.perturbation import draw_replacements, perturb
from creativewritinggpt.analysis.subject import Subject, Target, words_of
from creativewritinggpt.models.loaded_model import LoadedModel
from creativewritinggpt.models.scoring import body_and_head

pytestmark = pytest.mark.invariant
every_family = pytest.mark.parametrize("family", FAMILIES)
# Longer than the windows of the families that have one.
LENGTH = 16


@functools.cache
def writer_of(family: str) -> LoadedModel:
    writer = make_writer(FAMILIES[family].model())
    writer.context_length = POSITIONS
    return writer


def a_subject(*targets: Target, length: int = LENGTH) -> Subject:
    ids = np.random.default_rng(0).integers(1, VOCABULARY, length - 1).tolist()
    spans = ((0, 0), *((i, i + 1) for i in range(length - 1)))
    return Subject("x" * (length - 1), (0, *ids), spans, targets or (Target(length, 7),), length)


def log_probabilities(writer: LoadedModel, subject: Subject) -> torch.Tensor:
    with torch.no_grad():
        logits = writer.bare(input_ids=torch.tensor([subject.ids]), use_cache=False).logits[0]
    return logits.float().log_softmax(-1)


@every_family
def test_a_pass_from_embeddings_is_the_pass_from_tokens(family: str) -> None:
    writer, subject = writer_of(family), a_subject()
    ids = torch.tensor([subject.ids])
    body, _ = body_and_head(writer.model)
    with torch.no_grad():
        wanted = body(input_ids=ids, use_cache=False)
        found = hidden_states(writer, embeddings(writer, ids))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@every_family
def test_the_parts_sum_to_the_difference_of_scores(family: str) -> None:
    writer = writer_of(family)
    subject = a_subject(Target(5, 9), Target(11, 7), Target(11, 3, foil=200))
    found = integrated_gradients(writer, subject)
    logs = log_probabilities(writer, subject)
    for row, target, report in zip(found.scores, subject.targets, found.per_target, strict=True):
        change = report["score"] - report["baseline_score"]
        assert report["converged"] or family in EXPERTS
        if report["converged"]:
            assert abs(row.sum() - change) <= max(0.01 * abs(change), 1e-3)
        score = logs[target.position - 1, target.id]
        if target.foil is not None:
            score = score - logs[target.position - 1, target.foil]
        assert report["score"] == pytest.approx(float(score), abs=2e-4, rel=1e-4)
        assert not row[target.position :].any()


@every_family
def test_attention_is_causal_and_sums_to_1(family: str) -> None:
    writer = writer_of(family)
    before = writer.bare.config._attn_implementation
    if family == "gpt_oss":
        with pytest.raises(NoAttention, match="sums to 1 only within"):
            capture(writer, a_subject())
        return
    maps = capture(writer, a_subject())
    assert maps.weights.shape == (2, 4, LENGTH, LENGTH)
    np.testing.assert_allclose(maps.weights.sum(-1), 1, atol=1e-5)
    assert not np.triu(maps.weights, 1).any()
    assert writer.bare.config._attn_implementation == before
    window = FAMILIES[family].window
    if window is not None:
        layer, size = window
        outside = np.tril(np.ones((LENGTH, LENGTH)), -size)
        assert not (maps.weights[layer] * outside).any()
        assert (maps.weights[layer] * np.tril(np.ones_like(outside), 1 - size)).any()
        assert maps.reach[layer] == size
        assert not (maps.visible(layer) & (outside > 0)).any()
    else:
        assert set(maps.reach) == {LENGTH}


def test_statistics_and_pictures_know_what_a_window_hides() -> None:
    """Attention spread evenly over what each layer sees is at chance in every measure."""
    even = np.stack([np.tril(np.ones((9, 9))), np.triu(np.tril(np.ones((9, 9))), -3)])
    even /= even.sum(-1, keepdims=True)
    maps = AttentionMaps(even[:, None].astype(np.float32), reach=(9, 4))
    spans = tuple((place, place + 1) for place in range(9))
    subject = Subject("abcdefghi", tuple(range(9)), spans, (Target(9, 1),), 9)
    found = statistics(maps, subject, words_of(subject), [set()] * len(words_of(subject)))
    for name in ("distance", "entropy", "first_token_mass", "self_mass"):
        assert found.values[name].mean() == pytest.approx(found.chance[name], rel=1e-6)
    assert found.values["distance"][1, 0] < found.values["distance"][0, 0]
    assert maps.visible(1)[8].tolist() == [False] * 5 + [True] * 4
    assert without_sink(maps).reach == maps.reach
    rolled = rollout(maps)
    np.testing.assert_allclose(rolled.sum(-1), 1)
    np.testing.assert_allclose(rollout(maps, sink=False).sum(-1), 1)


@every_family
def test_replacements_equal_two_whole_passes(family: str) -> None:
    writer = writer_of(family)
    targets = (Target(9, 11), Target(LENGTH, 7), Target(LENGTH, 3, foil=200))
    subject = a_subject(*targets)
    found = perturb(writer, subject, distribution="uniform", samples=2, positions="all")
    places = range(1, LENGTH)
    drawn = draw_replacements("uniform", writer, subject.ids, places, samples=2, seed=0)
    assert found.influence is not None and found.influence.min() > -1e-6
    for position in (1, 4, 8, LENGTH - 1):
        plain = []
        for token in drawn[position - 1].tolist():
            variant = [*subject.ids[:position], token, *subject.ids[position + 1 :]]
            plain.append(plain_divergences(writer, subject.ids, variant))
        kl = np.array([one["kl"] for one in plain])
        np.testing.assert_allclose(found.influence[position], kl.mean(0), atol=2e-5, rtol=1e-4)
        for row, target in enumerate(targets):
            at = target.position - 1
            if position > at:
                continue
            change = [one["original"][at] - one["variant"][at] for one in plain]
            wanted = [
                one[target.id] - (0 if target.foil is None else one[target.foil]) for one in change
            ]
            assert found.kl[row, position] == pytest.approx(kl[:, at].mean(), abs=2e-5, rel=1e-4)
            assert found.change[row, position] == pytest.approx(np.mean(wanted), abs=5e-5)


@every_family
def test_the_lens_ends_in_the_models_own_answer(family: str) -> None:
    writer, subject = writer_of(family), a_subject(Target(7, 3), Target(LENGTH, 7))
    lens = logit_lens(writer, subject)
    logs = log_probabilities(writer, subject)
    said = predictions(writer, subject)
    for column, target in enumerate(subject.targets):
        wanted = float(logs[target.position - 1, target.id])
        assert lens.log_probability[-1, column] == pytest.approx(wanted, abs=1e-4)
        assert said[column].log_probability == pytest.approx(wanted, abs=1e-4)
    # The last but one, normed by the model's own norm, is no answer by accident.
    assert np.isfinite(lens.log_probability).all()


def test_the_lens_norms_every_layer() -> None:
    """With its last layer doing nothing, a model's last two answers are one."""
    writer: Any = make_writer(FAMILIES["gemma2"].model())
    layer = writer.bare.model.layers[-1]
    with torch.no_grad():
        for norm in (layer.post_attention_layernorm, layer.post_feedforward_layernorm):
            norm.weight.fill_(-1.0)  # Gemma's norms multiply by 1 + weight
    lens = logit_lens(writer, a_subject())
    np.testing.assert_allclose(lens.log_probability[-1], lens.log_probability[-2], atol=1e-5)
