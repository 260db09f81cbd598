"""Faithfulness: numbers of hand-made cases, and a true ranking that is told from a random one."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from writers import make_writer

from creativewritinggpt.analysis import registry
from creativewritinggpt.analysis.methods.faithfulness import (
    FRACTIONS,
    Judge,
    area,
    mean_drop,
    power,
    ranking,
    with_power_of_the_best,
)
from creativewritinggpt.analysis.prefix_cache import PrefixCache
from creativewritinggpt.analysis.registry import Attribution
from creativewritinggpt.analysis.subject import Subject, Target
from creativewritinggpt.errors import InputError

LENGTH = 21


@pytest.fixture(scope="module")
def bag(tiny_model: Any) -> Any:
    """An additive model: the answer's logit is the mean of what each token read is worth.

    Attention is even, the MLP is silent and there are no norms; the worth of token k is k / 20,
    and the logits of all other tokens don't depend on the text. End of text (0) is worth nothing.
    """
    model = tiny_model("gpt2", n_layer=1, n_embd=8, n_head=1, tie_word_embeddings=False)
    body, block = model.transformer, model.transformer.h[0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        body.wte.weight[:, 0] = torch.arange(384) / 20
        block.attn.c_attn.weight[0, 16] = 1  # its value
        block.attn.c_proj.weight[0, 1] = 1
        model.lm_head.weight[7, 1] = 5
    block.ln_1, body.ln_f = nn.Identity(), nn.Identity()
    return make_writer(model)


def judge(writer: Any, subject: Subject, attribution: Attribution, **settings: Any) -> Any:
    return Judge(writer, subject, **settings).judge(attribution)


def a_subject(worth: np.ndarray, *targets: Target) -> Subject:
    spans = ((0, 0), *((i, i + 1) for i in range(LENGTH - 1)))
    ids = (0, *worth.astype(int).tolist())
    return Subject("x" * LENGTH, ids, spans, targets or (Target(LENGTH, 7),), LENGTH)


def an_attribution(scores: np.ndarray, signed: bool = True, method: str = "bag") -> Attribution:
    return Attribution(method, np.atleast_2d(scores).astype(float), signed, "nats")


WORTH = np.random.default_rng(0).permutation(np.r_[np.full(3, 40), np.arange(1, 18)])


def test_the_area_under_a_curve_is_the_trapezoids() -> None:
    points = (0.0, 0.5, 0.75, 1.0)
    assert area(points, np.array([4.0, 2.0, 2.0, 0.0])) == pytest.approx(1.5 + 0.5 + 0.25)
    assert area(points, np.ones((3, 4))).tolist() == [1, 1, 1]


def test_the_mean_drop_is_taken_over_the_fractions() -> None:
    points, values = (0.0, 0.1, 0.5, 1.0), np.array([[-1.0, -2.0, -4.0, -9.0]])
    assert mean_drop(points, (0.1, 0.5), values, values[:, 0]).tolist() == [2.0]


def test_rankings_begin_with_what_supports_most() -> None:
    scores = np.array([9.0, 1.0, -3.0, 2.0])
    assert ranking(scores, True).tolist() == [3, 1, 2]
    assert ranking(scores, False).tolist() == [2, 3, 1]


def test_ties_are_ordered_by_chance() -> None:
    orders = {tuple(ranking(np.zeros(6), True, seed=seed)) for seed in range(20)}
    assert len(orders) > 10
    assert all(sorted(order) == [1, 2, 3, 4, 5] for order in orders)


def score_of(model: Any, ids: np.ndarray) -> float:
    with torch.no_grad():
        logits = model(torch.as_tensor(ids)[None]).logits[0, -1].double()
    return float(torch.log_softmax(logits, -1)[7])


def test_the_numbers_are_those_of_the_texts_they_stand_for(bag: Any) -> None:
    subject = a_subject(WORTH)
    found = judge(bag, subject, an_attribution(np.r_[0, WORTH])).laws["end_of_text"]
    order = ranking(np.r_[0, WORTH], True)
    ids = np.array(subject.ids)
    whole = score_of(bag.model, ids)
    without, only = {}, {}
    for fraction in (0, *FRACTIONS, 0.75, 1):
        count = round(20 * fraction)
        left, kept = ids.copy(), np.zeros_like(ids)
        left[order[:count]] = 0
        kept[order[:count]] = ids[order[:count]]
        without[fraction], only[fraction] = score_of(bag.model, left), score_of(bag.model, kept)
    assert found["deletion"]["fractions"] == list(without)
    assert found["deletion"]["values"] == pytest.approx(list(without.values()), abs=1e-5)
    assert found["insertion"]["values"] == pytest.approx(list(only.values()), abs=1e-5)
    comprehensiveness = np.mean([whole - without[fraction] for fraction in FRACTIONS])
    assert found["comprehensiveness"] == pytest.approx(comprehensiveness, abs=1e-5)
    sufficiency = np.mean([whole - only[fraction] for fraction in FRACTIONS])
    assert found["sufficiency"] == pytest.approx(sufficiency, abs=1e-5)
    curve = area(tuple(without), np.array(list(without.values())))
    assert found["deletion"]["auc"] == pytest.approx(curve, abs=1e-5)


def test_both_ends_of_the_curves_are_the_text_and_nothing(bag: Any) -> None:
    found = judge(bag, a_subject(WORTH), an_attribution(np.r_[0, WORTH])).laws["end_of_text"]
    deletion, insertion = found["deletion"], found["insertion"]
    assert deletion["values"][0] == insertion["values"][-1]
    assert deletion["values"][-1] == insertion["values"][0]
    for name in ("random_mean", "random_low", "random_high"):
        assert deletion[name][0] == pytest.approx(deletion["values"][0])
        assert insertion[name][0] == pytest.approx(insertion["values"][0])
    assert len(deletion["fractions"]) == len(deletion["values"]) == 8


def test_the_true_ranking_is_better_than_random(bag: Any) -> None:
    found = judge(bag, a_subject(WORTH), an_attribution(np.r_[0, WORTH]))
    assert found.better_than_random
    assert found.p_value == pytest.approx(1 / 21)
    assert (
        found.comprehensiveness > found.laws["end_of_text"]["random"]["comprehensiveness"]["high"]
    )
    assert "better than 20 of 20 random rankings" in found.sentence


@pytest.mark.parametrize("kind", ["random", "reversed", "nothing"])
def test_rankings_that_know_nothing_are_said_to(kind: str, bag: Any) -> None:
    scores = {
        "random": np.random.default_rng(5).normal(size=LENGTH),
        "reversed": -np.r_[0, WORTH],
        "nothing": np.zeros(LENGTH),
    }[kind]
    found = judge(bag, a_subject(WORTH), an_attribution(scores))
    assert not found.better_than_random
    assert found.p_value > 0.05
    assert found.sentence.startswith("no better than random")


def test_random_rankings_are_seldom_called_better(bag: Any) -> None:
    room = Judge(bag, a_subject(WORTH))
    generator = np.random.default_rng(1)
    found = [
        room.judge(an_attribution(generator.normal(size=LENGTH))).better_than_random
        for _ in range(40)
    ]
    assert sum(found) <= 6  # 5 % with 20 rankings to beat: 6 or fewer with p > 0.98


def test_unsigned_methods_are_ranked_by_size(bag: Any) -> None:
    scores = np.r_[0, WORTH * np.where(np.arange(20) % 2, 1.0, -1.0)]
    by_size = judge(bag, a_subject(WORTH), an_attribution(scores, signed=False))
    assert by_size.better_than_random
    truth = judge(bag, a_subject(WORTH), an_attribution(np.r_[0, WORTH]))
    assert by_size.comprehensiveness == pytest.approx(truth.comprehensiveness, abs=1e-6)


def test_several_targets_are_averaged(bag: Any) -> None:
    targets = (Target(12, 7), Target(LENGTH, 7))
    scores = np.stack([np.r_[0, WORTH], -np.r_[0, WORTH]])
    both = judge(bag, a_subject(WORTH, *targets), an_attribution(scores))
    each = [
        judge(bag, a_subject(WORTH, target), an_attribution(row))
        for target, row in zip(targets, scores, strict=True)
    ]
    mean = np.mean([one.comprehensiveness for one in each])
    assert both.comprehensiveness == pytest.approx(mean, abs=1e-6)
    assert both.settings["targets"] == [12, LENGTH]


def test_of_many_targets_some_are_judged_and_that_is_said(bag: Any) -> None:
    targets = tuple(Target(position, 7) for position in range(2, LENGTH + 1))
    found = judge(bag, a_subject(WORTH, *targets), an_attribution(np.ones((20, LENGTH))))
    assert found.settings["targets_in_all"] == 20
    assert len(found.settings["targets"]) == 4
    assert found.settings["targets"][0] == 2 and found.settings["targets"][-1] == LENGTH


def test_a_foil_is_judged_by_the_difference_of_the_logits(bag: Any) -> None:
    subject = a_subject(WORTH, Target(LENGTH, 7, foil=9))
    found = judge(bag, subject, an_attribution(np.r_[0, WORTH]))
    assert found.settings["score"] == "logit difference"
    # Without the sum over the vocabulary the model is linear: the mean of what is left.
    left = 5 * WORTH.sum() / 20 / LENGTH
    values = found.laws["end_of_text"]["deletion"]["values"]
    assert values[0] == pytest.approx(left, rel=1e-4)
    assert values[-1] == pytest.approx(0, abs=1e-4)


def _assert_near(found: Any, expected: Any) -> None:
    """The same but for the last digits of numbers, however deep."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            _assert_near(found[key], value)
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            _assert_near(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
    else:
        assert found == expected


def test_a_judge_runs_the_random_rankings_once(bag: Any, monkeypatch: Any) -> None:
    subject = a_subject(WORTH)
    first, second = an_attribution(np.r_[0, WORTH]), an_attribution(np.arange(LENGTH))
    alone = judge(bag, subject, second)
    room = Judge(bag, subject)
    costs: list[int] = []
    room.judge(first, progress=lambda _, total: costs.append(total))
    again = room.judge(second, progress=lambda _, total: costs.append(total))
    # Others stood beside them in a pass, which may move the last digit.
    _assert_near(again.to_dict(), alone.to_dict())
    assert costs[-1] < costs[0] / 5


def test_the_same_seed_gives_the_same_verdict(tiny_model: Any, tiny_tokenizer: Any) -> None:
    writer = make_writer(tiny_model("llama"), tiny_tokenizer)
    scores = an_attribution(np.random.default_rng(0).normal(size=LENGTH), method="some_method")
    first, second = (judge(writer, a_subject(WORTH), scores, seed=3).to_dict() for _ in range(2))
    assert first == second
    assert list(first["laws"]) == ["end_of_text", "unigram"]
    assert first["comprehensiveness"] == first["laws"]["end_of_text"]["comprehensiveness"]
    assert "some method" in first["sentence"]
    json.dumps(first)


@pytest.mark.parametrize("length", [2, 3])
def test_texts_too_short_to_rank_are_no_better_than_random(length: int, bag: Any) -> None:
    spans = ((0, 0), *((i, i + 1) for i in range(length - 1)))
    ids = (0, 30, 20)[:length]
    subject = Subject("ab", ids, spans, (Target(length, 7),), 2)
    found = judge(bag, subject, an_attribution(np.arange(length)[None]))
    assert length > 2 or not found.better_than_random
    json.dumps(found.to_dict())


def a_text_decided_by_one_token(length: int) -> Subject:
    """Its last token is worth more than all others, which are worth nearly the same."""
    worth = np.random.default_rng(length).integers(1, 4, length - 1)
    worth[-1] = 380
    spans = ((0, 0), *((i, i + 1) for i in range(length - 1)))
    return Subject("x" * length, (0, *worth.tolist()), spans, (Target(length, 7),), length)


def test_of_few_tokens_even_the_best_ranking_is_not_told_from_random_ones(bag: Any) -> None:
    subject = a_text_decided_by_one_token(6)
    truth = an_attribution(np.array(subject.ids))
    found = judge(bag, subject, truth)
    assert found.power < 0.5 and not found.better_than_random
    assert found.verdict == registry.TOO_SHORT == found.to_dict()["verdict"]
    assert found.sentence.startswith("too short to tell")
    assert found.to_dict()["power"] == found.power


@pytest.mark.parametrize("length", [LENGTH, 70])
def test_of_many_tokens_a_ranking_that_knows_nothing_is_told(length: int, bag: Any) -> None:
    subject = a_text_decided_by_one_token(length)
    if length == LENGTH:
        subject = a_subject(WORTH)
    room = Judge(bag, subject)
    found = room.judge(an_attribution(-np.array(subject.ids)))
    assert found.power > 0.8 and found.verdict == registry.NO_BETTER
    truth = room.judge(an_attribution(np.array(subject.ids)))
    assert truth.power >= found.power


def test_one_ranking_that_passes_shows_that_the_test_has_power(bag: Any) -> None:
    subject = a_text_decided_by_one_token(6)
    poor = judge(bag, subject, an_attribution(np.zeros(6)))
    passed = dataclasses.replace(poor, method="good", better_than_random=True, power=0.9)
    both = with_power_of_the_best({"poor": poor, "good": passed})
    assert poor.verdict == registry.TOO_SHORT
    assert [one.verdict for one in both.values()] == [registry.NO_BETTER, registry.BETTER]
    assert both["poor"].sentence.startswith("no better than random")


def test_the_power_is_a_binomial_tail() -> None:
    assert power(1.0, 20) == 1.0 and power(0.0, 20) == 0.0
    assert power(0.95, 20) == pytest.approx(0.95**20 + 20 * 0.05 * 0.95**19)
    assert power(0.9, 1) == pytest.approx(0.9)


def test_a_target_after_the_start_token_can_be_judged(bag: Any) -> None:
    found = judge(bag, a_subject(WORTH, Target(1, 7)), an_attribution(np.zeros(LENGTH)))
    assert not found.better_than_random and found.comprehensiveness == 0


def test_a_text_is_computed_once_however_many_rankings_lead_to_it(
    bag: Any, monkeypatch: Any
) -> None:
    computed: list[bytes] = []
    passes = PrefixCache.passes

    def counted(self: Any, variants: np.ndarray, *arguments: Any) -> Any:
        computed.extend(variant.tobytes() for variant in variants)
        return passes(self, variants, *arguments)

    monkeypatch.setattr(PrefixCache, "passes", counted)
    room = Judge(bag, a_subject(WORTH))
    attribution = an_attribution(np.r_[0, WORTH])
    first = room.judge(attribution)
    several = len(computed)
    assert several == len(set(computed)) > 100
    assert room.judge(attribution).laws == first.laws
    assert len(computed) == several


@pytest.mark.invariant
def test_prefixes_don_t_change_the_verdict(tiny_model: Any, tiny_tokenizer: Any) -> None:
    """The same scores from whole passes, one text at a time."""
    writer = make_writer(tiny_model("qwen"), tiny_tokenizer)
    subject = a_subject(WORTH)
    scores = -np.arange(LENGTH)  # the first token ranks first
    room = Judge(writer, subject, fractions=(0.3,))
    found = room.judge(an_attribution(scores)).laws["unigram"]
    fill = room.fills["unigram"]
    for column, count in enumerate((0, 6, 15, 20)):
        left, kept = np.array(subject.ids), np.array(subject.ids)
        left[1 : count + 1], kept[count + 1 :] = fill[1 : count + 1], fill[count + 1 :]
        for name, text in (("deletion", left), ("insertion", kept)):
            expected = score_of(writer.model, text)
            assert found[name]["values"][column] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"random_rankings": 0}, "random rankings is 0"),
        ({"fractions": ()}, "the fractions are"),
        ({"fractions": (0.5, 1.5)}, "the fractions are"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str, bag: Any) -> None:
    with pytest.raises(InputError, match=message):
        judge(bag, a_subject(WORTH), an_attribution(np.zeros(LENGTH)), **settings)


def test_an_attribution_of_another_text_is_refused(bag: Any) -> None:
    with pytest.raises(InputError, match="the scores have the shape"):
        judge(bag, a_subject(WORTH), an_attribution(np.zeros(LENGTH + 1)))
