"""Integrated gradients add up, agree with captum's, and don't depend on how they are computed."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from writers import make_writer

from creativewritinggpt.analysis.forward import BASELINES, baseline_text, embeddings, groups
from creativewritinggpt.analysis.methods import gradients
from creativewritinggpt.analysis.methods.gradients import (
    baseline_agreement,
    integrated_gradients,
    one_pass,
    step_limit,
)
from creativewritinggpt.analysis.subject import Subject, Target
from creativewritinggpt.errors import InputError, RunError
from creativewritinggpt.models.loaded_model import LoadedModel

FAMILIES = ("gpt2", "llama", "qwen")
IDS = (0, 41, 7, 300, 41, 12, 99, 250, 3, 77)


def subject_of(*targets: Target, ids: tuple[int, ...] = IDS) -> Subject:
    spans = tuple((max(place - 1, 0), place) for place in range(len(ids)))
    return Subject("x" * (len(ids) - 1), ids, spans, targets, len(ids) - 1)


EVERY = subject_of(*(Target(place, (*IDS, 5)[place]) for place in range(1, len(IDS) + 1)))
SOME = subject_of(Target(1, 41), Target(6, 99), Target(10, 5))
LAST = subject_of(Target(len(IDS), 5))


def with_adapter(writer: LoadedModel) -> LoadedModel:
    """The same with a LoRA adapter that changes what the model says."""
    from creativewritinggpt.config.run import Config
    from creativewritinggpt.models.adapter import attach

    attach(writer, Config())
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in writer.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    writer.model.eval()
    return writer


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("baseline", BASELINES)
def test_parts_sum_to_the_difference_of_scores(family: str, baseline: str, tiny_model: Any) -> None:
    writer = make_writer(tiny_model(family))
    found = integrated_gradients(writer, SOME, baseline=baseline)
    for row, report in zip(found.scores, found.per_target, strict=True):
        change = report["score"] - report["baseline_score"]
        assert report["converged"]
        assert abs(row.sum() - change) <= max(0.01 * abs(change), 1e-3)
        assert report["convergence_delta"] == pytest.approx(row.sum() - change, abs=1e-12)


@pytest.mark.parametrize(
    ("family", "tolerance"),
    # transformers computes the norms and rotations of these two in fp32 whatever the weights.
    [("gpt2", 1e-9), ("llama", 1e-5), ("qwen", 1e-5)],
)
def test_parts_sum_exactly_in_double_precision(
    family: str, tolerance: float, tiny_model: Any
) -> None:
    writer = make_writer(tiny_model(family).double())
    found = integrated_gradients(writer, SOME, baseline="mean", steps=150)
    for report in found.per_target[1:]:
        assert report["relative_delta"] < tolerance
    # The first target owes to the start token alone, which is in the baseline too.
    assert found.per_target[0]["relative_delta"] is None
    assert not found.scores[0].any()


@pytest.mark.invariant
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("baseline", BASELINES)
def test_captum_gives_the_same(family: str, baseline: str, tiny_model: Any) -> None:
    attr = pytest.importorskip("captum.attr")
    writer, steps = make_writer(tiny_model(family)), 20
    found = integrated_gradients(writer, LAST, baseline=baseline, steps=steps)

    def score(embeds: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(writer.model(inputs_embeds=embeds).logits[:, -1], -1)[:, 5]

    ids = torch.tensor([IDS])
    theirs, delta = attr.IntegratedGradients(score).attribute(
        embeddings(writer, ids),
        baseline_text(writer, ids, baseline),
        n_steps=steps,
        return_convergence_delta=True,
    )
    np.testing.assert_allclose(found.scores[0], theirs[0].sum(-1).detach(), atol=1e-5)
    assert found.per_target[0]["convergence_delta"] == pytest.approx(float(delta), abs=1e-5)


@pytest.mark.invariant
@pytest.mark.parametrize("family", FAMILIES)
def test_captums_layer_version_gives_the_same(family: str, tiny_model: Any) -> None:
    attr = pytest.importorskip("captum.attr")
    writer = make_writer(tiny_model(family))
    found = integrated_gradients(writer, LAST, steps=15)

    def score(ids: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(writer.model(ids).logits[:, -1], -1)[:, 5]

    layer = attr.LayerIntegratedGradients(score, writer.bare.get_input_embeddings())
    theirs = layer.attribute(torch.tensor([IDS]), torch.zeros_like(torch.tensor([IDS])), n_steps=15)
    np.testing.assert_allclose(found.scores[0], theirs[0].sum(-1).detach(), atol=1e-5)


def gradient_x_input(model: Any, subject: Subject) -> Any:
    return one_pass(model, subject)[0]


def saliency(model: Any, subject: Subject) -> Any:
    return one_pass(model, subject)[1]


@pytest.mark.invariant
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", [integrated_gradients, gradient_x_input, saliency])
def test_all_targets_at_once_equal_one_by_one(method: Any, family: str, tiny_model: Any) -> None:
    writer = make_writer(tiny_model(family))
    options = {"steps": 9} if method is integrated_gradients else {}
    together = method(writer, EVERY, **options)
    for row, target in enumerate(EVERY.targets):
        alone = method(writer, subject_of(target), **options)
        np.testing.assert_allclose(together.scores[row], alone.scores[0], atol=1e-5, rtol=1e-5)
        # The text after a target is none of its business.
        short = subject_of(target, ids=IDS[: target.position])
        cut = method(writer, short, **options)
        np.testing.assert_allclose(cut.scores[0], alone.scores[0, : target.position], atol=1e-6)
        assert not together.scores[row, target.position :].any()


@pytest.mark.invariant
@pytest.mark.parametrize("rows", [1, 3])
def test_the_size_of_batches_does_not_matter(
    rows: int, tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = make_writer(tiny_model("qwen"))
    whole = integrated_gradients(writer, EVERY, steps=12)
    monkeypatch.setattr(
        "creativewritinggpt.analysis.methods.gradients.micro_batch", lambda *_, **__: rows
    )
    small = integrated_gradients(writer, EVERY, steps=12)
    np.testing.assert_allclose(small.scores, whole.scores, atol=1e-5)


@pytest.mark.invariant
@pytest.mark.parametrize("family", FAMILIES)
def test_attention_implementation_does_not_matter(family: str, tiny_model: Any) -> None:
    writer = make_writer(copy.deepcopy(tiny_model(family)))
    fused = integrated_gradients(writer, EVERY, steps=12)
    writer.model.set_attn_implementation("eager")
    plain = integrated_gradients(writer, EVERY, steps=12)
    np.testing.assert_allclose(plain.scores, fused.scores, atol=1e-5)


@pytest.mark.invariant
@pytest.mark.parametrize("family", FAMILIES)
def test_a_merged_adapter_gives_the_same(family: str, tiny_model: Any) -> None:
    base = make_writer(copy.deepcopy(tiny_model(family)))
    without = integrated_gradients(base, EVERY, steps=12)
    writer = with_adapter(base)
    state = {name: value.clone() for name, value in writer.model.state_dict().items()}
    trainable = [parameter.requires_grad for parameter in writer.model.parameters()]
    apart = integrated_gradients(writer, EVERY, steps=12)
    with writer.base():
        off = integrated_gradients(writer, EVERY, steps=12)
    np.testing.assert_allclose(off.scores, without.scores, atol=1e-6)
    assert np.abs(apart.scores - without.scores).max() > 1e-2
    for name, value in writer.model.state_dict().items():
        assert torch.equal(value, state[name])
    assert [parameter.requires_grad for parameter in writer.model.parameters()] == trainable
    assert all(parameter.grad is None for parameter in writer.model.parameters())
    merged = make_writer(writer.model.merge_and_unload())
    np.testing.assert_allclose(
        integrated_gradients(merged, EVERY, steps=12).scores, apart.scores, atol=1e-5
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_foil_gives_the_difference_of_both(family: str, tiny_model: Any) -> None:
    writer = make_writer(tiny_model(family))
    both = subject_of(Target(10, 5), Target(10, 8), Target(10, 5, foil=8))
    first, second, against = integrated_gradients(writer, both, steps=12).scores
    np.testing.assert_allclose(first - second, against, atol=2e-5)
    same = integrated_gradients(writer, subject_of(Target(10, 5, foil=5)))
    assert not same.scores.any()


def test_one_step_is_exact_where_the_score_is_linear(tiny_model: Any) -> None:
    model = copy.deepcopy(tiny_model("gpt2", n_layer=0))
    model.transformer.ln_f = torch.nn.Identity()
    writer = make_writer(model)
    # A logit difference of a model without layers is linear in the last token's embedding.
    subject = subject_of(Target(10, 5, foil=8))
    found = integrated_gradients(writer, subject, steps=1, baseline="mean")
    table = model.transformer.wte.weight.detach()
    wanted = (table[5] - table[8]) @ (table[IDS[-1]] - table.mean(0))
    assert not found.scores[0, :-1].any()
    assert found.scores[0, -1] == pytest.approx(float(wanted), rel=1e-5)
    assert found.per_target[0]["relative_delta"] < 1e-5


def test_a_start_token_and_tokens_like_the_baseline_get_nothing(tiny_model: Any) -> None:
    writer = make_writer(tiny_model("llama"))
    subject = subject_of(Target(5, 9), ids=(0, 41, 0, 7, 12))
    found = integrated_gradients(writer, subject)
    assert found.settings["tokens_equal_to_baseline"] == [2]
    assert not found.scores[0, [0, 2]].any()
    assert found.scores[0, [1, 3, 4]].all()
    alone = integrated_gradients(writer, subject_of(Target(1, 4), ids=(0,)))
    assert not alone.scores.any()
    assert alone.per_target[0]["converged"]


def test_too_few_steps_are_flagged(tiny_model: Any) -> None:
    writer = make_writer(tiny_model("llama"))
    for options in ({"most_steps": 1}, {"steps": 1}):
        found = integrated_gradients(writer, LAST, baseline="zero", **options)
        (report,) = found.per_target
        assert report["steps"] == 1
        assert not report["converged"]
        assert abs(report["convergence_delta"]) > 0.01
    assert integrated_gradients(writer, LAST, baseline="zero").per_target[0]["converged"]


def test_progress_never_goes_back(tiny_model: Any) -> None:
    seen: list[tuple[int, int]] = []
    integrated_gradients(
        make_writer(tiny_model("gpt2")), EVERY, progress=lambda *now: seen.append(now)
    )
    done = [now for now, _ in seen]
    assert done == sorted(done)
    assert all(now <= planned for now, planned in seen)
    assert seen[-1][0] == seen[-1][1] >= 12


def test_nonsense_is_refused(tiny_model: Any) -> None:
    writer = make_writer(copy.deepcopy(tiny_model("gpt2")))
    with pytest.raises(InputError, match="no baseline 'noise'"):
        integrated_gradients(writer, LAST, baseline="noise")
    with pytest.raises(InputError, match="steps is 0"):
        integrated_gradients(writer, LAST, steps=0)
    with pytest.raises(InputError, match="no token to explain"):
        integrated_gradients(writer, subject_of())
    with torch.no_grad():
        writer.model.transformer.wte.weight[41] = float("nan")
    for method in (integrated_gradients, one_pass):
        with pytest.raises(RunError, match="not numbers"):
            method(writer, LAST)


@pytest.mark.parametrize("family", FAMILIES)
def test_cheap_views_are_gradients_of_the_text(family: str, tiny_model: Any) -> None:
    writer = make_writer(tiny_model(family))
    embeds = embeddings(writer, torch.tensor([IDS])).requires_grad_(True)
    score = torch.log_softmax(writer.model(inputs_embeds=embeds).logits[0, -1], -1)[5]
    (gradient,) = torch.autograd.grad(score, embeds)
    product, size = one_pass(writer, LAST)
    np.testing.assert_allclose(size.scores[0], gradient[0].norm(dim=-1), rtol=1e-4)
    expected = (gradient * embeds.detach()).sum(-1)[0]
    np.testing.assert_allclose(product.scores[0], expected, atol=1e-5, rtol=1e-4)
    assert product.signed and not size.signed
    assert product.per_target[0]["score"] == pytest.approx(score.item(), abs=1e-5)


def test_baselines_that_agree_are_said_to(tiny_model: Any) -> None:
    writer = make_writer(tiny_model("gpt2"))
    found = integrated_gradients(writer, EVERY)
    agreement = baseline_agreement(writer, EVERY, found)
    assert set(agreement) == {"mean", "zero"}
    assert all(-1 <= value <= 1 for value in agreement.values())
    # Against a vocabulary whose mean is the end-of-text token, the mean is the same baseline.
    same = make_writer(copy.deepcopy(tiny_model("gpt2", tie_word_embeddings=False)))
    table = same.model.transformer.wte.weight
    with torch.no_grad():
        table[0] = table[1:].mean(0)
    found = integrated_gradients(same, EVERY)
    assert baseline_agreement(same, EVERY, found)["mean"] == pytest.approx(1)


class Jump:
    """Two targets: a steep step in the middle of the path, and a straight line."""

    def __init__(self, width: float) -> None:
        self.width, self.asked = width, [0, 0]

    def scores(self, points: np.ndarray) -> np.ndarray:
        step = np.tanh((points - 0.37) / self.width)
        return np.stack([step, 3 * points], 1)

    def slopes(self, points: np.ndarray, wanted: Any) -> tuple[np.ndarray, np.ndarray]:
        for index in wanted:
            self.asked[index] += len(points)
        steep = (1 - np.tanh((points - 0.37) / self.width) ** 2) / self.width
        # The step is the first token's; the others cancel.
        jump = np.stack([steep, np.cos(40 * points), -np.cos(40 * points)], 1)
        line = np.stack([np.full_like(points, part) for part in (1.0, 2.0, 0.0)], 1)
        every = np.stack([jump, line], 1)
        return self.scores(points)[:, list(wanted)], every[:, list(wanted)]


def test_a_jump_is_found_and_costs_only_the_target_that_has_it() -> None:
    path = Jump(1e-3)
    jump, line = gradients.integrate(path, 2, steps=None, tolerance=0.01, most=400)
    assert jump.converged and line.converged
    assert jump.parts[0] == pytest.approx(2, abs=0.02)
    np.testing.assert_allclose(line.parts, [1, 2, 0], atol=1e-9)
    assert (jump.steps, line.steps) == tuple(path.asked)
    assert line.steps == 12 < jump.steps < 150
    fixed, _ = gradients.integrate(Jump(1e-3), 2, steps=jump.steps, tolerance=0.01, most=400)
    assert not fixed.converged


def test_the_number_of_steps_is_bounded() -> None:
    for most in (5, 12, 23, 24, 29, 64, 96, 100):
        path = Jump(1e-7)
        jump, _ = gradients.integrate(path, 2, steps=None, tolerance=0.01, most=most)
        assert not jump.converged
        assert path.asked[0] <= most


def test_a_score_that_jumps_at_once_ends_and_is_flagged() -> None:
    """As where a mixture of experts asks others from some point of the path on."""
    path = Jump(1e-300)
    jump, line = gradients.integrate(path, 2, steps=None, tolerance=0.01, most=2000)
    assert not jump.converged and line.converged
    assert path.asked[0] < 2000


def test_few_steps_are_spent_on_one_rule_that_comes_nearer() -> None:
    jump, line = gradients.integrate(Jump(0.05), 2, steps=None, tolerance=1e-9, most=64)
    first, _ = gradients.integrate(Jump(0.05), 2, steps=12, tolerance=1e-9, most=64)
    assert (jump.steps, line.steps) == (64, 12)
    assert abs(jump.delta) < abs(first.delta) / 10
    rule, _ = gradients.integrate(Jump(0.05), 2, steps=52, tolerance=1e-9, most=64)
    np.testing.assert_array_equal(jump.parts, rule.parts)


def test_steps_are_fewer_where_each_takes_long() -> None:
    assert step_limit([Target(9, 1)]) == 512
    many = [Target(position, 1) for position in range(10, 50)]
    assert 64 < step_limit(many) < 150
    assert step_limit([Target(position, 1) for position in range(10, 500)]) == 64


def test_rankings_are_compared_only_where_both_are_settled(tiny_model: Any) -> None:
    writer = make_writer(tiny_model("llama"))
    found = integrated_gradients(writer, EVERY)
    assert set(baseline_agreement(writer, EVERY, found)) == {"mean", "zero"}
    assert baseline_agreement(writer, EVERY, found, most_steps=1) == {}


def test_a_sum_that_is_right_by_luck_is_not_taken_for_right() -> None:
    class Bump(Jump):
        """The score rises and falls again; the slopes know nothing of it."""

        def scores(self, points: np.ndarray) -> np.ndarray:
            return np.stack([3 * points + np.sin(np.pi * points) ** 2, 3 * points], 1)

        def slopes(self, points: np.ndarray, wanted: Any) -> tuple[np.ndarray, np.ndarray]:
            flat = np.broadcast_to([1.0, 2.0, 0.0], (len(points), 2, 3))
            return self.scores(points)[:, list(wanted)], flat[:, list(wanted)]

    for steps in (12, None):
        bump, line = gradients.integrate(Bump(1), 2, steps=steps, tolerance=0.01, most=64)
        assert abs(bump.delta) < 1e-9
        assert bump.on_the_way > 0.9
        assert line.converged and not bump.converged


@given(count=st.integers(1, 30), degree=st.integers(0, 8))
@settings(max_examples=30, deadline=None)
def test_gauss_legendre_and_its_running_integral_are_exact_for_polynomials(
    count: int, degree: int
) -> None:
    points, weights = gradients.gauss_legendre(count)
    if degree < count:
        slopes = ((degree + 1) * points**degree)[:, None]
        running = gradients.running_integrals(points, weights, slopes)
        np.testing.assert_allclose(running[:, 0], points ** (degree + 1), atol=1e-10)
        assert weights @ slopes[:, 0] == pytest.approx(1, abs=1e-10)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=40))
@settings(max_examples=40, deadline=None)
def test_groups_hold_every_target_once_and_cost_no_more_than_one(places: list[int]) -> None:
    targets = [Target(place, 1) for place in sorted(places)]
    cut = groups(targets, range(len(targets)))
    assert [index for part in cut for index in part] == list(range(len(targets)))
    cost = sum((len(part) + 1) * targets[part[-1]].position for part in cut)
    assert cost <= (len(targets) + 1) * targets[-1].position
