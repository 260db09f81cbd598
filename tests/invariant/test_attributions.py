"""Attributions against models whose answer is known, and against the axioms they must keep.

The models are those of ``bench/planted.py``. Peers that check us (captum, inseq) are called the way
that asks our question: the same score, the same baseline, the same nodes.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import numpy as np
import planted
import pytest
import torch
from localise import judge
from localise_contenders import as_subject, as_writer, methods_of
from torch import nn
from writers import make_writer

from creativewritinggpt.analysis.methods import (
    attention,
    faithfulness,
    gradients,
    occlusion,
    perturbation,
)
from creativewritinggpt.analysis.methods.gradients import rank_correlation
from creativewritinggpt.analysis.subject import Target, read, with_targets

pytestmark = pytest.mark.invariant
FAMILIES = ["gpt2", "llama", "qwen"]
TEXT = "Two wolves sat by a gate; “He knows,”"


def kl(writer, subject, samples=20, seed=0):
    found = perturbation.perturb(
        writer, subject, distribution="uniform", samples=samples, seed=seed
    )
    return found.kl_attribution()


def probability_change(writer, subject, samples=20, seed=0):
    found = perturbation.perturb(
        writer, subject, distribution="uniform", samples=samples, seed=seed
    )
    return found.change_attribution()


def left_out(writer, subject):
    return occlusion.leave_one_out(writer, subject, unit="token")


METHODS = {
    "integrated_gradients": gradients.integrated_gradients,
    "gradient_x_input": lambda *about: gradients.one_pass(*about)[0],
    "saliency": lambda *about: gradients.one_pass(*about)[1],
    "occlusion": left_out,
    "kl": kl,
    "probability_change": probability_change,
}
SIGNED = ["integrated_gradients", "occlusion", "probability_change"]
# Those that say how much a token counts. A gradient alone says how much another one would.
AMOUNTS = [*SIGNED, "kl"]


def subject_of(writer, *, target=None, targets=None):
    """A text for the tiny models; its next token by default, the one of the text where there is."""
    subject = read(writer, TEXT)
    places = targets or [target or subject.length]
    ids = (*subject.ids, 77)
    return with_targets(subject, [Target(place, ids[place]) for place in places])


def with_adapter(model, tokenizer):
    """A writer with an adapter that is not zero."""
    from creativewritinggpt.config.run import Config
    from creativewritinggpt.models.adapter import attach

    writer = make_writer(model, tokenizer)
    attach(writer, Config(lora_dropout=0.0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in writer.model.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.1, generator=generator)
    writer.model.eval()
    return writer


def near(first, second, tolerance=1e-5):
    """Equal within a tolerance that grows with the largest score, where that is above 1."""
    scale = max(1.0, float(np.abs(second).max()))
    np.testing.assert_allclose(first, second, rtol=0, atol=tolerance * scale)


# Planted signals ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*AMOUNTS, "gradient_x_input"])
def test_all_mass_lies_where_the_pointer_points(name):
    signal = planted.pointer(4)
    writer = as_writer(signal.model)
    for example in signal.examples:
        scores = np.abs(METHODS[name](writer, as_subject(example)).scores[0])
        place = example.worth.index(1.0)
        assert scores[place] / scores.sum() >= 0.99
        assert np.delete(scores, place).max() < 1e-6


def test_the_pointing_head_is_seen_in_the_attention():
    signal = planted.pointer(1)
    subject = as_subject(signal.examples[0])
    row = attention.capture(as_writer(signal.model), subject).rows(subject)[0, 0, 0]
    assert row[5] > 1 - 1e-6


def shapley(value, count):
    """Exact Shapley values: the mean gain of each player over all orders of joining."""
    worth = {
        subset: value(subset)
        for size in range(count + 1)
        for subset in itertools.combinations(range(count), size)
    }
    result = np.zeros(count)
    for subset, without in worth.items():
        share = 1 / (count * math.comb(count - 1, len(subset))) if len(subset) < count else 0.0
        for player in set(range(count)) - set(subset):
            joined = tuple(sorted((*subset, player)))
            result[player] += share * (worth[joined] - without)
    return result


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_one_step_is_exact_where_the_model_is_linear(dtype, tolerance):
    signal = planted.bag(4)
    writer = as_writer(signal.model.to(dtype))
    for example in signal.examples:
        subject = as_subject(example)
        for found in (
            gradients.integrated_gradients(writer, subject, steps=1),
            gradients.integrated_gradients(writer, subject),
            left_out(writer, subject),
        ):
            near(found.scores[0], example.worth, tolerance)
        found = gradients.integrated_gradients(writer, subject, steps=1)
        assert abs(found.per_target[0]["convergence_delta"]) < (1e-5 if tolerance > 1e-9 else 1e-12)


def test_a_linear_model_agrees_with_shapley_values():
    example = planted.bag(1, length=6).examples[0]
    model = planted.bag_model(planted.BAG_VALUES)

    def value(kept):
        ids = [token if place in kept else 0 for place, token in enumerate(example.ids)]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        return float(logits[example.target] - logits[example.foil])

    expected = shapley(value, len(example.ids))
    near(expected, example.worth)
    writer, subject = as_writer(model), as_subject(example)
    near(gradients.integrated_gradients(writer, subject).scores[0], expected)
    near(left_out(writer, subject).scores[0], expected)


@pytest.mark.parametrize("name", SIGNED)
def test_what_speaks_for_and_against_gets_its_sign(name):
    signal = planted.pair(4)
    writer = as_writer(signal.model)
    for example in signal.examples:
        scores = METHODS[name](writer, as_subject(example)).scores[0]
        assert (np.sign(scores) == np.sign(example.worth))[np.array(example.worth) != 0].all()
        if name != "probability_change":  # a neutral word may be replaced by one that is not
            assert np.abs(scores[np.array(example.worth) == 0]).max() < 1e-6


@pytest.mark.parametrize("inside", [True, False])
def test_the_wiring_of_a_function_does_not_matter(inside):
    """The pair of networks of the paper on integrated gradients, at (3, 1)."""
    ids = (0, planted.IDS["cat"], planted.IDS["tin"])
    example = planted.Example(ids, planted.IDS["one"], planted.IDS["two"], (0.0, 1.5, -0.5))
    writer = as_writer(planted.relu_pair_model(inside))
    found = gradients.integrated_gradients(
        writer, as_subject(example), baseline="zero", steps=64
    ).scores[0]
    np.testing.assert_allclose(found, example.worth, atol=1e-5)


# The trained model ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def key_model():
    return planted.train_key_model()


@pytest.fixture(scope="module")
def key_signal(key_model):
    return planted.key(key_model, 16)


def judged(signal, score, signed=True):
    marks = [judge(score(example), example, signed) for example in signal.examples]
    return {
        key: np.mean([mark[key] for mark in marks if mark[key] is not None]) for key in marks[0]
    }


@pytest.mark.slow
def test_the_key_model_answers_new_texts(key_model):
    ids, _ = planted.KeyLanguage().batch(np.random.default_rng(99), 200, 24)
    with torch.no_grad():
        said = key_model(input_ids=torch.from_numpy(ids[:, :-1])).logits[:, -1].argmax(-1)
    assert (said.numpy() == ids[:, -1]).mean() >= 0.98


@pytest.mark.slow
@pytest.mark.parametrize(("name", "floor"), [("occlusion", 0.99), ("kl", 0.99),
                                            ("probability_change", 0.99),
                                            ("integrated_gradients", 0.9)])  # fmt: skip
def test_the_key_is_found(key_model, key_signal, name, floor):
    writer = as_writer(key_model)
    marks = judged(key_signal, lambda e: METHODS[name](writer, as_subject(e)).scores[0])
    assert marks["found"] >= floor
    assert marks["auc"] >= 0.95


@pytest.mark.slow
def test_the_originals_gradients_miss_the_key_that_integrated_gradients_find(key_model, key_signal):
    """One gradient at the baseline, which is what its batch of one result leaves."""
    pytest.importorskip("captum")
    method = methods_of("original", key_model)["integrated_gradients"]
    theirs = judged(key_signal, method.score, signed=False)
    writer = as_writer(key_model)
    ours = judged(
        key_signal, lambda e: gradients.integrated_gradients(writer, as_subject(e)).scores[0]
    )
    assert theirs["found"] < ours["found"] - 0.2
    assert theirs["auc"] < ours["auc"] - 0.1


@pytest.mark.slow
def test_faithfulness_knows_a_good_ranking_from_a_random_one(key_model, key_signal):
    writer = as_writer(key_model)
    subject = as_subject(key_signal.examples[0])
    good = left_out(writer, subject)
    assert faithfulness.Judge(writer, subject).judge(good).better_than_random
    worst = dataclasses.replace(good, scores=-good.scores)
    assert not faithfulness.Judge(writer, subject).judge(worst).better_than_random


@pytest.mark.slow
@pytest.mark.parametrize("name", ["integrated_gradients", "occlusion", "kl"])
def test_scores_forget_the_model_as_its_layers_are_randomised(key_model, key_signal, name):
    """Adebayo et al. 2018, "Sanity Checks for Saliency Maps": from the last layer to the first."""
    model = planted.train_key_model(steps=0)
    model.load_state_dict(key_model.state_dict())
    writer, examples = as_writer(model), key_signal.examples[:8]
    counted = [np.setdiff1d(np.arange(len(e.ids)), e.left_out) for e in examples]

    def scores():
        found = [METHODS[name](writer, as_subject(e)).scores[0] for e in examples]
        return [np.abs(values[places]) for values, places in zip(found, counted, strict=True)]

    trained, agreement = scores(), []
    generator = torch.Generator().manual_seed(0)
    body = model.transformer
    for layer in (body.h[1], body.h[0], nn.ModuleList([body.wte, body.wpe])):
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.normal_(0, float(parameter.std()) or 0.02, generator=generator)
        pairs = zip(trained, scores(), strict=True)
        # A model that no word matters to scores all alike, which agrees with nothing.
        found = [rank_correlation(a, b) if np.ptp(b) else 0.0 for a, b in pairs]
        agreement.append(float(np.mean(found)))
    # The first block finds the key by itself, so that the divergences hardly miss the last one.
    assert max(agreement[1:]) < 0.5
    assert abs(agreement[-1]) < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["integrated_gradients", "occlusion"])
def test_another_target_has_another_map(key_model, key_signal, name):
    writer, example = as_writer(key_model), key_signal.examples[0]
    other = dataclasses.replace(example, target=planted.IDS["captain"])
    first, second = (METHODS[name](writer, as_subject(e)).scores[0] for e in (example, other))
    assert np.abs(first - second).max() > 0.5 * np.abs(first).max()


# Axioms ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("baseline", ["end_of_text", "mean", "zero"])
def test_integrated_gradients_are_complete(tiny_model, tiny_tokenizer, family, baseline):
    """They sum to what the text adds to the baseline, within 1 % or 0.001 nats."""
    writer = make_writer(tiny_model(family), tiny_tokenizer)
    subject = subject_of(writer, targets=[5, 12, 20])
    found = gradients.integrated_gradients(writer, subject, baseline=baseline)
    table = writer.model.get_input_embeddings()
    embeds = table(torch.tensor([subject.ids])).detach()
    start = {"end_of_text": table.weight[0], "mean": table.weight.mean(0)}.get(
        baseline, torch.zeros(embeds.shape[-1])
    )
    origin = start.expand_as(embeds).clone()
    origin[:, 0] = embeds[:, 0]  # the start token stands before every baseline
    with torch.no_grad():
        both = torch.cat([embeds, origin])
        said = writer.model(inputs_embeds=both).logits.log_softmax(-1)
    for row, target, about in zip(found.scores, subject.targets, found.per_target, strict=True):
        at_text, at_start = said[:, target.position - 1, target.id].tolist()
        change = at_text - at_start
        assert about["converged"]
        assert abs(row.sum() - change) <= max(0.01 * abs(change), 1e-3) + 1e-5
        assert about["convergence_delta"] == pytest.approx(row.sum() - change, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", METHODS)
def test_nothing_is_owed_to_what_comes_later(tiny_model, tiny_tokenizer, family, name):
    writer = make_writer(tiny_model(family), tiny_tokenizer)
    subject = subject_of(writer, target=9)
    scores = METHODS[name](writer, subject).scores
    assert (scores[:, 9:] == 0).all()
    assert np.abs(scores[:, :9]).max() > 1e-3
    cut = dataclasses.replace(subject, ids=subject.ids[:9], spans=subject.spans[:9])
    near(scores[:, :9], METHODS[name](writer, cut).scores)


@pytest.mark.parametrize("name", [*AMOUNTS, "gradient_x_input"])
def test_a_token_that_is_never_read_gets_nothing(name):
    """All words of this bag are silent but one."""
    model = planted.bag_model({"cat": 1.0})
    ids = (0, *(planted.IDS[word] for word in ("the", "cat", "old", "river")))
    example = planted.Example(ids, planted.IDS["one"], None, (0.0,) * 5)
    scores = METHODS[name](as_writer(model), as_subject(example)).scores[0]
    assert abs(scores[2]) > 0.1
    if name in ("kl", "probability_change"):
        return  # a silent word may be replaced by "cat"
    assert np.abs(np.delete(scores, 2)).max() < 1e-6


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", METHODS)
def test_the_attention_implementation_does_not_matter(tiny_model, tiny_tokenizer, family, name):
    writer = make_writer(tiny_model(family), tiny_tokenizer)
    subject = subject_of(writer, targets=[7, 14])
    fused = METHODS[name](writer, subject).scores
    writer.model.set_attn_implementation("eager")
    near(METHODS[name](writer, subject).scores, fused)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", METHODS)
def test_a_merged_adapter_explains_the_same(tiny_model, tiny_tokenizer, family, name):
    from creativewritinggpt.models.adapter import merge

    writer = with_adapter(tiny_model(family), tiny_tokenizer)
    subject = subject_of(writer, targets=[7, 14])
    attached = METHODS[name](writer, subject).scores
    with writer.base():
        base = METHODS[name](writer, subject).scores
    plain = METHODS[name](make_writer(tiny_model(family), tiny_tokenizer), subject).scores
    near(base, plain)
    assert np.abs(attached - base).max() > 1e-3
    merge(writer)
    near(METHODS[name](writer, subject).scores, attached, 2e-5)


@pytest.mark.parametrize("name", METHODS)
def test_weights_and_gradients_are_as_before(tiny_model, tiny_tokenizer, name):
    writer = with_adapter(tiny_model("llama"), tiny_tokenizer)
    before = {k: (v.clone(), v.requires_grad) for k, v in writer.model.named_parameters()}
    state = torch.random.get_rng_state()
    METHODS[name](writer, subject_of(writer))
    for key, value in writer.model.named_parameters():
        assert torch.equal(value, before[key][0]) and value.requires_grad == before[key][1]
        assert value.grad is None
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not writer.model.training


@pytest.mark.parametrize("name", METHODS)
def test_what_all_logits_share_does_not_matter(tiny_model, tiny_tokenizer, name):
    """A direction added to every row of the head moves all logits alike."""
    model = tiny_model("gpt2", tie_word_embeddings=False)
    writer = make_writer(model, tiny_tokenizer)
    subject = subject_of(writer)
    before = METHODS[name](writer, subject).scores
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model.lm_head.weight += 0.2 * torch.randn(32, generator=generator)
    near(METHODS[name](writer, subject).scores, before, 5e-5)


def against(subject, target, foil):
    place = subject.targets[0].position
    return dataclasses.replace(subject, targets=(Target(place, target, foil),))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["integrated_gradients", "gradient_x_input", "occlusion",
                                  "probability_change"])  # fmt: skip
def test_contrasts_are_differences(tiny_model, tiny_tokenizer, family, name):
    """Why A and not B is why A less why B; A against B and B against C make A against C."""
    writer = make_writer(tiny_model(family), tiny_tokenizer)
    subject = subject_of(writer)
    steps = {"steps": 24} if name == "integrated_gradients" else {}

    def scores(target, foil=None):
        return METHODS[name](writer, against(subject, target, foil), **steps).scores[0]

    near(scores(70, 90), scores(70) - scores(90), 2e-5)
    near(scores(70, 90) + scores(90, 110), scores(70, 110), 2e-5)
    near(scores(70, 90), -scores(90, 70))
    assert np.abs(scores(70, 70)).max() < 1e-6


# Chance ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_record(tiny_model, tiny_tokenizer, name):
    writer = make_writer(tiny_model("llama"), tiny_tokenizer)
    subject = subject_of(writer, targets=[6, 15])
    first, second = (json.dumps(METHODS[name](writer, subject).to_dict()) for _ in range(2))
    assert first == second


def test_another_seed_gives_other_draws_that_agree_within_their_errors(tiny_model, tiny_tokenizer):
    writer = make_writer(tiny_model("gpt2"), tiny_tokenizer)
    subject = subject_of(writer)
    first, second = (kl(writer, subject, samples=100, seed=seed) for seed in (0, 1))
    gap = np.abs(first.scores - second.scores)
    error = np.hypot(first.standard_error, second.standard_error)
    assert gap.max() > 0
    assert (gap <= 4 * error).all()


def test_the_standard_error_falls_with_the_root_of_the_samples(tiny_model, tiny_tokenizer):
    writer = make_writer(tiny_model("gpt2"), tiny_tokenizer)
    subject = subject_of(writer)
    few, many = (
        float(kl(writer, subject, samples=samples).standard_error[0, 1:].mean())
        for samples in (25, 225)
    )
    assert many / few == pytest.approx(1 / 3, rel=0.25)


# Another tool ---------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_integrated_gradients_agree_with_inseq(tiny_model, tiny_tokenizer, family):
    """Log-probability, end-of-text baseline, 20 steps, sums without a norm: within 1e-4."""
    inseq = pytest.importorskip("inseq", reason="inseq is in the group bench-explain")
    writer = make_writer(tiny_model(family), tiny_tokenizer)
    prompt = "<|endoftext|>The lamp went out"
    ids = tiny_tokenizer(prompt)["input_ids"]
    subject = with_targets(read(writer, prompt[13:]), [Target(len(ids), 77)])
    assert list(subject.ids) == ids
    text = tiny_tokenizer.decode([*ids, 77])
    assert tiny_tokenizer(text)["input_ids"] == [*ids, 77]
    model = inseq.load_model(writer.model, "integrated_gradients", tokenizer=tiny_tokenizer)
    found = model.attribute(
        prompt, text, show_progress=False, attributed_fn="probability", logprob=True, n_steps=20
    ).sequence_attributions[0]
    theirs = found.target_attributions[: len(ids), -1].sum(-1).numpy()
    ours = gradients.integrated_gradients(writer, subject, steps=20).scores[0]
    near(ours, theirs, 1e-4)
