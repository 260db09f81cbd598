"""Leaving pieces out: scores are those of captum's ablation, pieces are what people read."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from writers import make_writer

from creativewritinggpt.analysis.methods.occlusion import UNITS, leave_one_out, units_of
from creativewritinggpt.analysis.subject import (
    Subject,
    Target,
    read,
    with_targets,
    word_sums,
    words_of,
)
from creativewritinggpt.errors import InputError

FAMILIES = ("gpt2", "llama", "qwen")
TEXT = "The lamp went out. “Who is there?” she asked.\n\nNobody answered"


def a_writer(tiny_model: Any, tiny_tokenizer: Any, family: str = "gpt2") -> Any:
    return make_writer(tiny_model(family), tiny_tokenizer)


def a_subject(writer: Any, *targets: Target, text: str = TEXT, prompt: int = 18) -> Subject:
    subject = read(writer, text, prompt_characters=prompt)
    return with_targets(subject, targets or (Target(subject.length, 70),))


def log_probability(writer: Any, ids: Any, target: Target) -> float:
    with torch.no_grad():
        logits = writer.model(torch.tensor([list(ids)])).logits[0, target.position - 1].double()
    if target.foil is not None:
        return float(logits[target.id] - logits[target.foil])
    return float(torch.log_softmax(logits, -1)[target.id])


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_equal_captums_ablation(family: str, tiny_model: Any, tiny_tokenizer: Any) -> None:
    captum = pytest.importorskip("captum.attr")
    writer = a_writer(tiny_model, tiny_tokenizer, family)
    subject = a_subject(writer)
    target = subject.targets[0]

    def forward(ids: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            logits = writer.model(ids).logits[:, -1]
        return torch.log_softmax(logits, -1)[:, target.id]

    ids = torch.tensor([subject.ids])
    words = [[0], *units_of(subject, "word")]
    groups = torch.zeros_like(ids)
    for number, tokens in enumerate(words):
        groups[0, tokens] = number
    ablation = captum.FeatureAblation(forward)
    by_tokens = ablation.attribute(ids, baselines=writer.eos_id)[0].numpy()
    by_words = ablation.attribute(ids, baselines=writer.eos_id, feature_mask=groups)[0].numpy()
    found = leave_one_out(writer, subject, unit="token").scores[0]
    np.testing.assert_allclose(found, by_tokens, atol=1e-5)
    whole = np.array(leave_one_out(writer, subject, unit="word").settings["unit_scores"][0])
    theirs = np.array([by_words[tokens[0]] for tokens in words[1:]])
    np.testing.assert_allclose(whole, theirs, atol=1e-5)


@pytest.mark.parametrize("unit", UNITS)
def test_every_target_gets_what_a_pass_of_its_own_gives(
    unit: str, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    writer = a_writer(tiny_model, tiny_tokenizer, "llama")
    length = read(writer, TEXT).length
    targets = (Target(5, 80), Target(length - 3, 75), Target(length, 70, foil=90))
    subject = a_subject(writer, *targets)
    found = leave_one_out(writer, subject, unit=unit)
    for row, target in enumerate(targets):
        own = leave_one_out(writer, a_subject(writer, target), unit=unit)
        np.testing.assert_allclose(found.scores[row], own.scores[0], atol=1e-5)
        for piece, score in zip(
            found.settings["units"], found.settings["unit_scores"][row], strict=True
        ):
            replaced = np.array(subject.ids)
            replaced[piece["tokens"]] = 0
            expected = log_probability(writer, subject.ids, target) - log_probability(
                writer, replaced, target
            )
            assert score == pytest.approx(expected, abs=1e-5)


def test_pieces_are_what_people_read(tiny_model: Any, tiny_tokenizer: Any) -> None:
    writer = a_writer(tiny_model, tiny_tokenizer)
    subject = a_subject(writer)

    def texts(unit: str) -> list[str]:
        pieces = leave_one_out(writer, subject, unit=unit).settings["units"]
        return [piece["text"].strip() for piece in pieces]

    assert texts("sentence") == [
        "The lamp went out.", "“Who is there?”", "she asked.", "Nobody answered",
    ]  # fmt: skip
    assert texts("part") == ["The lamp went out.", TEXT[18:].strip()]
    assert texts("word")[:3] == ["The", "lamp", "went"]
    for unit in UNITS:
        tokens = [token for piece in units_of(subject, unit) for token in piece]
        assert tokens == list(range(1, subject.length))


def test_words_sum_what_their_tokens_share(tiny_model: Any, tiny_tokenizer: Any) -> None:
    writer = a_writer(tiny_model, tiny_tokenizer)
    length = read(writer, TEXT).length
    subject = a_subject(writer, Target(4, 80), Target(length, 70))
    found = leave_one_out(writer, subject, unit="word")
    summed = word_sums(found.scores, [word.tokens for word in words_of(subject)])[:, 1:]
    scores = np.array(found.settings["unit_scores"])
    before = [
        [piece["tokens"][0] < target.position for piece in found.settings["units"]]
        for target in subject.targets
    ]
    np.testing.assert_allclose(summed, np.where(before, scores, 0), atol=1e-12)
    assert not found.scores[0, 4:].any()
    assert not scores[0][~np.array(before[0])].any()


def test_a_positive_score_supports(tiny_model: Any, tiny_tokenizer: Any) -> None:
    writer = a_writer(tiny_model, tiny_tokenizer)
    subject = a_subject(writer)
    target = subject.targets[0]
    found = leave_one_out(writer, subject, unit="token")
    best = int(found.scores[0].argmax())
    without = [0 if i == best else token for i, token in enumerate(subject.ids)]
    assert log_probability(writer, without, target) < log_probability(writer, subject.ids, target)


@pytest.mark.parametrize("replacement", ["unigram", "uniform", "model"])
def test_random_replacements_are_averaged_with_an_error(
    replacement: str, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    writer = a_writer(tiny_model, tiny_tokenizer)
    subject = a_subject(writer)
    few, many = (
        leave_one_out(writer, subject, replacement=replacement, samples=samples, seed=2)
        for samples in (30, 300)
    )
    again = leave_one_out(writer, subject, replacement=replacement, samples=30, seed=2)
    assert np.array_equal(few.scores, again.scores)
    assert few.standard_error is not None and many.standard_error is not None
    assert (few.standard_error[0, 1:] > 0).all()
    ratio = few.standard_error.sum() / many.standard_error.sum()
    assert ratio == pytest.approx(np.sqrt(10), rel=0.3)
    assert (np.abs(few.scores - many.scores) <= 5 * few.standard_error).all()
    json.dumps(few.to_dict())


def test_one_token_of_text_is_enough(tiny_model: Any, tiny_tokenizer: Any) -> None:
    writer = a_writer(tiny_model, tiny_tokenizer)
    for unit in UNITS:
        subject = a_subject(writer, text="e", prompt=1)
        found = leave_one_out(writer, subject, unit=unit)
        target = subject.targets[0]
        expected = log_probability(writer, subject.ids, target) - log_probability(
            writer, (0, 0), target
        )
        assert found.scores[0].tolist() == pytest.approx([0, expected], abs=1e-5)


def test_half_precision_writers_are_computed_exactly(tiny_model: Any, tiny_tokenizer: Any) -> None:
    exact = a_writer(tiny_model, tiny_tokenizer)
    rough = make_writer(tiny_model("gpt2"), tiny_tokenizer, "bf16")
    subject = a_subject(exact)
    assert np.array_equal(
        leave_one_out(exact, subject).scores, leave_one_out(rough, subject).scores
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unit": "chapter"}, "no unit 'chapter'"),
        ({"replacement": "nothing"}, "no replacement 'nothing'"),
        ({"replacement": "uniform", "samples": 1}, "samples is 1"),
    ],
)
def test_wrong_settings_are_refused(
    settings: dict[str, Any], message: str, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    writer = a_writer(tiny_model, tiny_tokenizer)
    with pytest.raises(InputError, match=message):
        leave_one_out(writer, a_subject(writer), **settings)


def test_a_text_without_targets_is_refused(tiny_model: Any, tiny_tokenizer: Any) -> None:
    writer = a_writer(tiny_model, tiny_tokenizer)
    with pytest.raises(InputError, match="no token to explain"):
        leave_one_out(writer, read(writer, TEXT))
