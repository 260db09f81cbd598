"""Scores of targets are the model's own, and what would falsify gradients is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from writers import make_writer

from creativewritinggpt.analysis import forward
from creativewritinggpt.analysis.forward import (
    BASELINES,
    baseline_embedding,
    baseline_text,
    checked,
    embeddings,
    frozen,
    fused_gelu,
    target_gradients,
    target_scores,
)
from creativewritinggpt.analysis.methods.gradients import rank_correlation
from creativewritinggpt.analysis.subject import Target
from creativewritinggpt.errors import InputError, RunError

FAMILIES = ("gpt2", "llama", "qwen")
IDS = torch.tensor([[0, 41, 7, 300, 41, 12, 99]])
TARGETS = [Target(3, 300), Target(3, 300, foil=9), Target(7, 5)]


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_the_log_probabilities_of_the_model(family: str, tiny_model: Any) -> None:
    writer = make_writer(tiny_model(family))
    with torch.no_grad():
        found = target_scores(writer, embeddings(writer, IDS), TARGETS)[0]
        logits = torch.log_softmax(writer.model(IDS).logits[0], -1)
    wanted = [logits[2, 300], logits[2, 300] - logits[2, 9], logits[6, 5]]
    np.testing.assert_allclose(found, torch.stack(wanted), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_the_whole_model(family: str, tiny_model: Any) -> None:
    writer = make_writer(tiny_model(family))
    embeds = embeddings(writer, IDS).requires_grad_(True)
    logits = torch.log_softmax(writer.model(inputs_embeds=embeds).logits[0], -1)
    wanted = [logits[2, 300], logits[2, 300] - logits[2, 9], logits[6, 5]]
    found = target_gradients(writer, embeddings(writer, IDS), TARGETS)
    for target, score, (value, gradient) in zip(TARGETS, wanted, found, strict=True):
        (plain,) = torch.autograd.grad(score, embeds, retain_graph=True)
        np.testing.assert_allclose(value.item(), score.item(), atol=1e-5)
        np.testing.assert_allclose(gradient, plain, atol=1e-5 * float(plain.abs().max()))
        assert not gradient[:, target.position :].any()


def test_heads_with_a_bias_and_small_chunks_score_the_same(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("llama", tie_word_embeddings=False)
    model.lm_head.bias = torch.nn.Parameter(torch.randn(384))
    writer = make_writer(model)
    embeds = embeddings(writer, IDS).expand(5, -1, -1)
    with torch.no_grad():
        whole = target_scores(writer, embeds, TARGETS)
        monkeypatch.setattr("creativewritinggpt.analysis.forward.LOGITS_AT_ONCE", 2 * 384)
        np.testing.assert_array_equal(target_scores(writer, embeds, TARGETS), whole)
        logits = torch.log_softmax(model(IDS).logits[0], -1)
    np.testing.assert_allclose(whole[0, 1], logits[2, 300] - logits[2, 9], atol=1e-5)
    np.testing.assert_allclose(whole[0, 2], logits[6, 5], atol=1e-5)


@pytest.mark.parametrize("tried_before", [True, False])
def test_weights_that_are_not_numbers_are_said(tried_before: bool, tiny_model: Any) -> None:
    model = tiny_model("gpt2")
    writer = make_writer(model)
    if tried_before:
        list(target_gradients(writer, embeddings(writer, IDS), TARGETS))
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.weight[0, 0] = float("nan")
    with pytest.raises(RunError, match="values that are not numbers"):
        list(target_gradients(writer, embeddings(writer, IDS), TARGETS))


def test_parameters_ask_for_gradients_as_before(tiny_model: Any) -> None:
    writer = make_writer(tiny_model("gpt2"))
    writer.model.transformer.wpe.weight.requires_grad_(False)
    before = [parameter.requires_grad for parameter in writer.model.parameters()]
    with pytest.raises(KeyError), frozen(writer):
        assert not any(parameter.requires_grad for parameter in writer.model.parameters())
        raise KeyError
    assert [parameter.requires_grad for parameter in writer.model.parameters()] == before


def test_gelu_in_one_piece_is_the_same_and_goes_again(tiny_model: Any) -> None:
    writer = make_writer(tiny_model("gpt2"))
    activation = writer.model.transformer.h[0].mlp.act
    values = torch.linspace(-6, 6, 1000)
    plain = activation(values)
    with pytest.raises(KeyError), fused_gelu(writer):
        assert "forward" in vars(activation)
        np.testing.assert_allclose(activation(values), plain, atol=1e-6)
        raise KeyError
    assert "forward" not in vars(activation)
    assert torch.equal(activation(values), plain)


def test_a_forward_function_that_answers_for_one_row_is_refused() -> None:
    def first_row_only(rows: torch.Tensor) -> torch.Tensor:
        return rows[0].sum().unsqueeze(0)

    def of_each_row(rows: torch.Tensor) -> torch.Tensor:
        return rows.sum(1)

    rows = torch.ones(50, 3)
    with pytest.raises(InputError, match="1 results for a batch of 50"):
        checked(first_row_only)(rows)
    with pytest.raises(InputError, match="1 results"):
        checked(torch.sum)(torch.ones(1, 3))
    assert torch.equal(checked(of_each_row)(rows), torch.full((50,), 3.0))


def test_baselines_are_what_they_are_called(tiny_model: Any) -> None:
    writer = make_writer(tiny_model("gpt2"))
    writer.eos_id = 17
    table = writer.model.transformer.wte.weight.detach()
    np.testing.assert_array_equal(baseline_embedding(writer, "end_of_text"), table[17])
    np.testing.assert_allclose(baseline_embedding(writer, "mean"), table.mean(0), atol=1e-6)
    assert not baseline_embedding(writer, "zero").any()
    for kind in BASELINES:
        text = baseline_text(writer, IDS, kind)
        assert torch.equal(text[0, 0], table[0])
        assert torch.equal(text[0, 1], baseline_embedding(writer, kind))
        assert text.shape == (1, 7, 32)
    with pytest.raises(InputError, match="no baseline 'noise'"):
        baseline_embedding(writer, "noise")


def test_rank_correlation_is_spearmans() -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    for ties in (False, True):
        first, second = generator.normal(size=(2, 40))
        if ties:
            first, second = np.round(first), np.round(second)
        wanted = stats.spearmanr(first, second).statistic
        assert rank_correlation(first, second) == pytest.approx(wanted, abs=1e-12)
    assert np.isnan(rank_correlation(np.ones(4), np.arange(4)))


def test_batches_cover_every_row_once_and_shrink_when_memory_runs_out() -> None:
    taken: list[tuple[int, int]] = []

    def work(start: int, stop: int) -> int:
        if stop - start > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        taken.append((start, stop))
        return stop - start

    assert sum(forward.in_batches(20, 16, work)) == 20
    assert [row for start, stop in taken for row in range(start, stop)] == list(range(20))
    assert max(stop - start for start, stop in taken) == 2


def test_a_row_that_does_not_fit_is_said_and_other_faults_pass() -> None:
    def never(start: int, stop: int) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")

    def broken(start: int, stop: int) -> None:
        raise RuntimeError("shapes don't match")

    with pytest.raises(RunError, match="not enough memory"):
        forward.in_batches(4, 4, never)
    with pytest.raises(RuntimeError, match="shapes"):
        forward.in_batches(4, 4, broken)


def test_micro_batches_follow_free_memory(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = make_writer(tiny_model("llama"))

    def rows(free: int, tokens: int, gradients: bool = True) -> int:
        monkeypatch.setattr(forward, "memory", lambda device: (free, free))
        return forward.micro_batch(writer, tokens, gradients=gradients)

    assert rows(0, 500) == 1
    assert 1 < rows(10**8, 30) <= 64
    assert rows(10**7, 30) < rows(10**8, 30)
    assert rows(10**7, 30) <= rows(10**7, 30, gradients=False)
    assert rows(10**12, 10) == 64
