"""Samplers against their definitions, against transformers, and what must always hold."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from creativewritinggpt.generation.sampling import samplers

INF = math.inf


def log(*probabilities: float) -> Tensor:
    return torch.tensor([probabilities]).log()


def kept(logits: Tensor) -> list[int]:
    return torch.isfinite(logits[0]).nonzero().flatten().tolist()


# --- by hand -------------------------------------------------------------------------------------


def test_temperature_divides() -> None:
    assert samplers.temperature(torch.tensor([2.0, -1.0]), 0.5).tolist() == [4.0, -2.0]


def test_top_k_keeps_the_k_likeliest_and_ties() -> None:
    logits = torch.tensor([[1.0, 4.0, 2.0, 3.0]])
    assert kept(samplers.top_k(logits, 2)) == [1, 3]
    assert kept(samplers.top_k(logits, 0)) == kept(samplers.top_k(logits, 9)) == [0, 1, 2, 3]
    assert kept(samplers.top_k(torch.tensor([[1.0, 1.0, 0.0]]), 1)) == [0, 1]


@pytest.mark.parametrize(
    ("p", "wanted"),
    [(0.05, [1]), (0.45, [1]), (0.55, [1, 2]), (0.85, [0, 1, 2]), (1.0, [0, 1, 2, 3])],
)
def test_top_p_keeps_the_token_that_crosses(p: float, wanted: list[int]) -> None:
    assert kept(samplers.top_p(log(0.15, 0.5, 0.3, 0.05), p)) == wanted


def test_min_p_is_relative_to_the_likeliest() -> None:
    logits = log(0.5, 0.26, 0.14, 0.1)
    assert kept(samplers.min_p(logits, 0.5)) == [0, 1]
    assert kept(samplers.min_p(logits, 0.25)) == [0, 1, 2]
    assert kept(samplers.min_p(logits, 1.0)) == [0]


def test_typical_p_can_leave_out_the_likeliest() -> None:
    # Surprises 0.51, 1.61, 2.30, 2.30 nats, entropy 1.09: the 0.2 is nearest, then the 0.6.
    logits = log(0.6, 0.2, 0.1, 0.1)
    assert kept(samplers.typical_p(logits, 0.15)) == [1]
    assert kept(samplers.typical_p(logits, 0.5)) == [0, 1]
    assert kept(samplers.typical_p(logits, 0.9)) == [0, 1, 2, 3]


ON, OFF = torch.tensor([True]), torch.tensor([False])


def test_xtc_leaves_out_all_top_choices_but_the_least_likely() -> None:
    logits = log(0.4, 0.1, 0.25, 0.2, 0.05)
    assert kept(samplers.xtc(logits, 0.15, ON)) == [1, 3, 4]
    assert kept(samplers.xtc(logits, 0.3, ON)) == [0, 1, 2, 3, 4]  # only one top choice
    assert kept(samplers.xtc(logits, 0.6, ON)) == [0, 1, 2, 3, 4]  # none
    assert kept(samplers.xtc(logits, 0.15, OFF)) == [0, 1, 2, 3, 4]


def test_xtc_does_nothing_where_a_spared_token_would_go() -> None:
    logits = log(0.4, 0.1, 0.25, 0.2, 0.05)
    assert kept(samplers.xtc(logits, 0.15, ON, [2])) == [0, 1, 2, 3, 4]
    assert kept(samplers.xtc(logits, 0.15, ON, [3])) == [1, 3, 4]


def test_draw_inverts_the_cumulative_distribution() -> None:
    logits = log(0.25, 0.0, 0.5, 0.25).expand(5, -1)
    numbers = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 1 - 2**-53], dtype=torch.float64)
    assert samplers.draw(logits, numbers)[0].tolist() == [0, 0, 2, 2, 3]
    # Never a token of probability zero, at either end.
    assert samplers.draw(log(0.0, 1.0, 0.0).expand(2, -1), numbers[[0, 4]])[0].tolist() == [1, 1]


@pytest.mark.parametrize("words", [1, 255, 256, 257, 5000])
@pytest.mark.parametrize("spread", [0.5, 8.0])
def test_draws_of_many_words_are_those_of_one_running_sum(words: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(words)
    logits = spread * torch.randn(1, words, generator=generator)
    logits[:, 1::3] = -INF
    numbers = torch.rand(200, dtype=torch.float64, generator=generator)
    drawn, shares = samplers.draw(logits.expand(200, -1), numbers)
    probabilities = torch.softmax(logits, -1)[0].double()
    sums = probabilities.cumsum(-1)
    numbers = numbers * sums[-1]
    assert bool((sums[drawn] - probabilities[drawn] <= numbers + 1e-12).all())
    assert bool((sums[drawn] >= numbers - 1e-12).all())
    assert torch.equal(shares, probabilities[drawn])
    assert float(shares.min()) > 0


def test_draws_follow_the_distribution() -> None:
    numbers = torch.rand(4000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    probabilities = torch.tensor([0.5, 0.2, 0.2, 0.05, 0.05])
    drawn, shares = samplers.draw(probabilities.log().expand(4000, -1), numbers)
    assert torch.allclose(shares.float(), probabilities[drawn])
    share = torch.bincount(drawn, minlength=5) / 4000
    assert float((share - probabilities).abs().max()) < 0.025


# --- against transformers ------------------------------------------------------------------------


@pytest.fixture(params=[40, 3000])
def random_logits(request: pytest.FixtureRequest) -> Tensor:
    generator = torch.Generator().manual_seed(request.param)
    return torch.randn(6, request.param, generator=generator) * torch.tensor(
        [[0.1], [0.5], [1.0], [2.0], [4.0], [8.0]]
    )


@pytest.mark.parametrize("value", [0.05, 0.3, 0.6, 0.9, 0.95, 0.99])
def test_samplers_equal_those_of_transformers(random_logits: Tensor, value: float) -> None:
    from transformers.generation import logits_process as theirs

    ids = torch.zeros(6, 1, dtype=torch.long)
    pairs = [
        (theirs.TopPLogitsWarper(value), samplers.top_p(random_logits, value)),
        (theirs.MinPLogitsWarper(value), samplers.min_p(random_logits, value)),
        (theirs.TypicalLogitsWarper(value), samplers.typical_p(random_logits, value)),
        (theirs.TopKLogitsWarper(int(value * 30)), samplers.top_k(random_logits, int(value * 30))),
        (theirs.TemperatureLogitsWarper(value), samplers.temperature(random_logits, value)),
    ]
    for processor, ours in pairs:
        assert torch.equal(processor(ids, random_logits), ours), type(processor).__name__


# --- always --------------------------------------------------------------------------------------

NUMBERS = st.floats(-60, 60, width=32)
ROWS = st.lists(st.one_of(NUMBERS, st.just(-INF)), min_size=1, max_size=600).filter(
    lambda row: any(value > -INF for value in row)
)
SHARES = st.floats(0.001, 1.0)
EVERY: list[Callable[[Tensor, float], Tensor]] = [
    lambda logits, p: samplers.temperature(logits, 3 * p),
    lambda logits, p: samplers.top_k(logits, math.ceil(p * 50)),
    samplers.top_p,
    samplers.min_p,
    samplers.typical_p,
    lambda logits, p: samplers.xtc(logits, p / 2, ON),
]


@given(ROWS, SHARES, st.permutations(EVERY))
@settings(deadline=None, max_examples=150)
def test_something_survives_any_order_and_only_the_temperature_changes_what_does(
    row: list[float], p: float, order: list[Callable[[Tensor, float], Tensor]]
) -> None:
    logits = torch.tensor([row])
    for sampler in order:
        before = logits.clone()
        after = sampler(logits, p)
        assert torch.equal(logits, before)  # nothing is changed in place
        alive = torch.isfinite(after)
        assert bool(alive.any())
        assert not bool((alive & ~torch.isfinite(before)).any())  # nothing comes back
        if sampler is not EVERY[0]:
            assert torch.equal(after[alive], before[alive])
        logits = after
    total = float(torch.softmax(logits, -1).double().sum())
    assert total == pytest.approx(1, abs=1e-5)


@given(ROWS, SHARES)
@settings(deadline=None, max_examples=100)
def test_top_p_is_the_smallest_set_that_reaches_p(row: list[float], p: float) -> None:
    logits = torch.tensor([row])
    probabilities = torch.softmax(logits, -1)[0].double()
    chosen = torch.isfinite(samplers.top_p(logits, p))[0]
    inside = probabilities[chosen]
    assert float(inside.sum()) >= min(p, 1) - 1e-5
    assert bool(chosen[probabilities > float(inside.min()) + 1e-12].all())
    # Without its least likely members it would not reach p.
    assert float(inside[inside > inside.min()].sum()) < p + 1e-5


@given(ROWS, st.floats(0, 1, exclude_max=True))
@settings(deadline=None, max_examples=100)
def test_a_drawn_token_is_possible_and_the_same_in_any_batch(row: list[float], u: float) -> None:
    logits = torch.tensor([row])
    number = torch.tensor([u], dtype=torch.float64)
    token, _ = samplers.draw(logits, number)
    assert float(torch.softmax(logits, -1)[0, token]) > 0
    batch = torch.cat([torch.zeros_like(logits), logits, logits.flip(-1)])
    numbers = torch.tensor([0.5, u, 0.1], dtype=torch.float64)
    assert samplers.draw(batch, numbers)[0][1] == token[0]
