"""Losses on choices, against the formulas written out and autograd through the whole model."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from choosing import decisions, text, tuned
from torch.nn import functional as F

from creativewritinggpt.story.decisions import Decision
from creativewritinggpt.taste.comparisons import Comparison, compare, log_probabilities, packed
from creativewritinggpt.taste.losses import choice_loss, kto_loss, odds_ratio_loss
from creativewritinggpt.taste.measures import baselines, measured
from creativewritinggpt.taste.objective import Objective
from creativewritinggpt.taste.settings import ChoiceSettings
from creativewritinggpt.training.fast.block import fast_path

PLAIN = ChoiceSettings(
    label_smoothing=0.0, accepted_weight=0.0, edit_penalty=0.0, context_tokens=32, draft_prompts=0
)


def test_two_texts_are_dpo_with_smoothing_and_the_hinge_of_dpop():
    delta, beta = torch.tensor([-1.3, 0.4], dtype=torch.float64), 0.1
    margin = beta * (delta[0] - delta[1])
    assert choice_loss(delta, beta) == pytest.approx(float(-F.logsigmoid(margin)), abs=1e-12)
    smoothed = -0.8 * F.logsigmoid(margin) - 0.2 * F.logsigmoid(-margin)
    assert choice_loss(delta, beta, 0.2) == pytest.approx(float(smoothed), abs=1e-12)
    hinged = -F.logsigmoid(margin - beta * 5 * 1.3)
    assert choice_loss(delta, beta, 0.0, 5.0) == pytest.approx(float(hinged), abs=1e-12)


def test_several_texts_are_one_softmax_whose_smoothing_leaves_the_sum_of_shares_one():
    delta = torch.randn(5, dtype=torch.float64)
    shares = torch.softmax(0.3 * delta, 0)
    assert choice_loss(delta, 0.3) == pytest.approx(float(-shares[0].log()), abs=1e-12)
    smoothed = -0.9 * shares[0].log() - 0.1 / 4 * shares[1:].log().sum()
    assert choice_loss(delta, 0.3, 0.1) == pytest.approx(float(smoothed), abs=1e-12)


def test_kto_and_orpo_are_their_papers_formulas():
    delta = torch.tensor([2.0, -3.0], dtype=torch.float64)
    found = kto_loss(delta, torch.tensor([True, False]), torch.tensor(0.5), 0.1)
    wanted = 1 - torch.sigmoid(torch.tensor(0.1 * (2.0 - 0.5)))
    unwanted = 1 - torch.sigmoid(torch.tensor(0.1 * (0.5 + 3.0)))
    assert found.tolist() == pytest.approx([float(wanted), float(unwanted)], abs=1e-6)
    sums, counts = torch.tensor([-4.0, -9.0]), torch.tensor([4.0, 6.0])
    first, other = math.exp(-1.0), math.exp(-1.5)
    odds = math.log(first / (1 - first)) - math.log(other / (1 - other))
    assert odds_ratio_loss(sums, counts) == pytest.approx(math.log1p(math.exp(-odds)), abs=1e-6)


def _mixed():
    """Decisions of every kind."""
    generator = np.random.default_rng(5)
    found = decisions(4, shown=3)
    found += decisions(2, shown=2, seed=9)
    found.append(Decision("edit", "A door.", " It opened!", (text(generator, ".", 5),), 0.6))
    found.append(
        Decision("undo", "A bell.", text(generator, "!", 12), (text(generator, ".", 4),), 0.3)
    )
    found.append(Decision("undo", "A road.", None, (text(generator, ".", 6),), 0.1))
    return found


def _straight(writer, comparisons, reference, method, settings, divergence):
    """The loss of a step by autograd through transformers' logits, as the formulas have it."""
    weights = torch.tensor([one.decision.weight for one in comparisons], dtype=torch.float64)
    preference, nats, tokens = 0.0, 0.0, 0.0
    for one, first in zip(comparisons, reference, strict=True):
        shortest = min(map(len, one.texts))
        sums, cut, means = [], [], []
        for ids in one.texts:
            whole = torch.tensor([one.context + ids])
            logs = torch.log_softmax(writer.model(whole).logits.double(), -1)[0]
            at = range(len(one.context) - 1, len(one.context) + len(ids) - 1)
            each = torch.stack([logs[place, i] for place, i in zip(at, ids, strict=True)])
            sums.append(each.sum())
            cut.append(each[:shortest].sum())
            means.append(each.mean())
        undo = one.decision.kind == "undo" and one.has_chosen
        values = torch.stack(cut if undo else sums)
        delta = values - torch.tensor(first[1 if undo else 0], dtype=torch.float64)
        beta, w = settings.beta, one.decision.weight
        if one.has_chosen:
            nats = nats - w * sums[0]
            tokens += w * len(one.texts[0])
        if method == "preference" and one.has_chosen:
            smooth = max(settings.label_smoothing, 0.2 if one.decision.kind == "undo" else 0)
            rewards = beta * delta
            if one.decision.kind == "edit" and delta[0] < 0:
                rewards = torch.stack(
                    [rewards[0] + settings.edit_penalty * beta * delta[0], *rewards[1:]]
                )
            logs = torch.log_softmax(rewards, 0)
            preference = preference - w * ((1 - smooth) * logs[0] + smooth * logs[1:].mean())
        elif method in ("preference", "kto"):
            bad = 1 - torch.sigmoid(beta * (divergence - delta))
            if one.has_chosen:
                good = 1 - torch.sigmoid(beta * (delta[0] - divergence))
                preference = preference + w * (good + bad[1:].mean())
            else:
                preference = preference + w * bad.mean()
        elif method == "orpo" and one.has_chosen:
            odds = [m - torch.log(1 - m.exp()) for m in means]
            losses = [-F.logsigmoid(odds[0] - other) for other in odds[1:]]
            preference = preference + w * settings.orpo_weight * torch.stack(losses).mean()
    alpha = 1.0 if method in ("accepted", "orpo") else settings.accepted_weight
    return preference / weights.sum() + alpha * nats / tokens


def _reference(writer, comparisons):
    """[texts] of whole texts, and of the length of the shortest, at the start."""
    found = []
    for one in comparisons:
        shortest = min(map(len, one.texts))
        shorter = dataclasses.replace(one, texts=tuple(ids[:shortest] for ids in one.texts))
        found.append(tuple(log_probabilities(writer, [part])[0] for part in (one, shorter)))
    return found


@pytest.mark.parametrize("method", ["accepted", "preference", "kto", "orpo"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_gradient_of_a_step_is_that_of_the_formulas(method, family, tiny_model, tiny_tokenizer):
    writer = tuned(tiny_model(family), tiny_tokenizer)
    comparisons, lost = compare(writer, _mixed(), 32)
    if method in ("accepted", "orpo"):
        comparisons = [one for one in comparisons if one.has_chosen]
    assert not lost
    settings = dataclasses.replace(PLAIN, label_smoothing=0.1, accepted_weight=0.7, edit_penalty=3)
    parameters = [p for p in writer.model.parameters() if p.requires_grad]
    with fast_path(writer):
        assert (writer.fast_body is None) == (family == "gpt2")  # whose config has dropouts
        objective = Objective(writer, comparisons, method, settings, seed=0, rows_at_once=4)
        reference = _reference(writer, comparisons)
        with torch.no_grad():  # away from the start, where all margins are 0
            for number, parameter in enumerate(parameters):
                parameter.add_(
                    0.01 * torch.sin(torch.arange(parameter.numel()) + number).view_as(parameter)
                )
        losses, gradients = [], []
        for rows in (3, 64):
            losses.append(objective.gradient(list(range(len(comparisons))), rows))
            gradients.append([p.grad.clone() for p in parameters])
            writer.model.zero_grad()
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    divergence = 0.0
    if method in ("preference", "kto"):
        divergence = _divergence(writer, objective, comparisons, reference)
    loss = _straight(writer, comparisons, reference, method, settings, divergence)
    assert losses[0] == pytest.approx(float(loss.detach()), abs=1e-5)
    loss.backward()
    for parameter, gradient in zip(parameters, gradients[0], strict=True):
        assert torch.allclose(parameter.grad, gradient, atol=1e-5), (
            parameter.grad - gradient
        ).max()


def _divergence(writer, objective, comparisons, reference):
    """KTO's estimate, from texts after contexts that they don't belong to."""
    rows = objective.mismatched
    assert len(rows) == len(comparisons)
    for row, one in zip(rows, comparisons, strict=True):
        assert row.context == one.context and row.text not in one.texts
    now = [_log_probability(writer, row) for row in rows]
    return max(0.0, float(np.mean(np.array(now) - objective.mismatched_reference)))


def _log_probability(writer, row):
    with torch.no_grad():
        logs = torch.log_softmax(writer.model(torch.tensor([row.context + row.text])).logits, -1)
    start = len(row.context) - 1
    return sum(float(logs[0, start + i, token]) for i, token in enumerate(row.text))


def test_at_the_start_every_text_is_as_likely_to_be_taken_as_the_others(tiny_model, tiny_tokenizer):
    writer = tuned(tiny_model("llama"), tiny_tokenizer)
    comparisons, _ = compare(writer, decisions(5, shown=3), 32)
    objective = Objective(writer, comparisons, "preference", PLAIN, seed=0, rows_at_once=4)
    assert objective.gradient([0, 1, 2], 64) == pytest.approx(math.log(3), abs=1e-5)


def test_context_is_what_the_model_saw_and_no_end_of_text_follows(tiny_model, tiny_tokenizer):
    writer = tuned(tiny_model("llama"), tiny_tokenizer)
    one = Decision("pick", "The lamp", " went out.", (" burned on.",), 1.0, memory="Rain.")
    [made], _ = compare(writer, [one], 64)
    said = tiny_tokenizer.decode([i for i in made.context[1:]])
    assert made.context[0] == writer.bos_id and said == "Rain.\n\nThe lamp"
    assert [tiny_tokenizer.decode(ids) for ids in made.texts] == [" went out.", " burned on."]
    rows = packed(made.rows())
    assert rows.target_counts().tolist() == [len(ids) for ids in made.texts]
    assert writer.eos_id not in rows.targets
    long = dataclasses.replace(one, prompt="word " * 200 + "The lamp", memory="Rain. " * 100)
    [made], _ = compare(writer, [long], 40)
    assert len(made.context) <= 40 and tiny_tokenizer.decode(made.context).endswith("The lamp")
    assert "Rain" not in tiny_tokenizer.decode(made.context)


def test_texts_that_are_equal_to_the_tokenizer_or_too_long_are_no_comparison(
    tiny_model, tiny_tokenizer
):
    writer = tuned(tiny_model("llama"), tiny_tokenizer)
    empty = Decision("pick", "The lamp", " went out.", ("",), 1.0)
    endless = Decision("pick", "The lamp", " word" * 300, (" burned on.",), 1.0)
    assert compare(writer, [empty, endless], 64) == ([], 2)


def _made(place=None):
    """A comparison of three texts of 2, 1 and 3 tokens, the first one taken."""
    decision = Decision("pick", "A", " bb", (" c", " ddd"), 1.0, place=place, shown=3)
    return Comparison(decision, [0], ([1, 2], [3], [4, 5, 6]))


def test_ties_count_their_share():
    logs = [np.array([-4.0, -2.0, -9.0])]
    start = measured([_made()], logs, logs, 0.1)
    assert start.accuracy == pytest.approx(1 / 3) and start.rank == 2 and start.gain == 0
    assert start.choice_loss == pytest.approx(math.log(3)) and start.loss == pytest.approx(2.0)
    gained = measured([_made()], [np.array([-3.0, -2.0, -9.5])], logs, 0.1)
    assert gained.accuracy == 1 and gained.rank == 1 and gained.gain == pytest.approx(0.5)
    assert gained.scaled_loss < 0.1 < gained.choice_loss
    lost = measured([_made()], [np.array([-5.0, -1.0, -8.0])], logs, 0.1)
    assert lost.scaled_loss == pytest.approx(math.log(3)) and lost.choice_loss > math.log(3)
    half = measured([_made()], [np.array([-3.0, -1.0, -9.5])], logs, 0.1)
    assert half.accuracy == 0.5 and half.rank == 1.5


def test_baselines_need_no_training():
    made = [_made(place=0), _made(place=2)]
    found = baselines(made, [np.array([-4.0, -2.5, -9.0]), np.array([-4.0, -1.0, -9.0])])
    assert found == {
        "chance": pytest.approx(1 / 3), "first_shown": 0.5, "shortest": 0, "longest": 0,
        "likelier_under_base": 0.5,
    }  # fmt: skip
    assert baselines([_made()], [np.array([-4.0, -2.5, -9.0])])["first_shown"] is None
