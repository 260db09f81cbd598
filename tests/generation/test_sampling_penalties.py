"""Penalties and exclusions that look back, against their definitions and against transformers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from creativewritinggpt.generation.sampling import samplers

HISTORY = st.lists(st.integers(0, 11), max_size=40)


def logits() -> Tensor:
    return torch.linspace(-3, 3, 12)


def test_repetition_divides_positive_and_multiplies_negative_logits() -> None:
    changed = samplers.repetition(torch.tensor([2.0, -2.0, 1.0]), [0, 1, 1], 2.0)
    assert changed.tolist() == [1.0, -4.0, 1.0]


def test_presence_counts_once_and_frequency_each_time() -> None:
    changed = samplers.presence_and_frequency(torch.zeros(4), [1, 2, 2, 2], 0.5, 0.25)
    assert changed.tolist() == [0.0, -0.75, -1.25, 0.0]


def test_range_is_the_last_tokens() -> None:
    assert samplers.recent([1, 2, 3, 4], 2) == [3, 4]
    assert samplers.recent([1, 2, 3, 4], 0) == [1, 2, 3, 4]


@given(HISTORY.filter(bool), st.floats(0.5, 2))
@settings(deadline=None, max_examples=60)
def test_repetition_equals_that_of_transformers(history: list[int], penalty: float) -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    theirs = RepetitionPenaltyLogitsProcessor(penalty)(
        torch.tensor([history]), logits().unsqueeze(0).clone()
    )[0]
    assert torch.allclose(samplers.repetition(logits(), history, penalty), theirs)


@given(HISTORY.filter(bool), st.integers(1, 5))
@settings(deadline=None, max_examples=80)
def test_no_repeat_ngram_equals_that_of_transformers(history: list[int], size: int) -> None:
    from transformers import NoRepeatNGramLogitsProcessor

    theirs = NoRepeatNGramLogitsProcessor(size)(
        torch.tensor([history]), logits().unsqueeze(0).clone()
    )[0]
    ours = samplers.no_repeat_ngram(logits(), history, size)
    if bool(torch.isfinite(theirs).any()):
        assert torch.equal(ours, theirs)
    else:
        assert torch.equal(ours, logits())


# --- DRY -----------------------------------------------------------------------------------------

DRY: dict[str, Any] = {"multiplier": 0.8, "base": 1.75, "allowed_length": 2}


def taken(history: list[int], **changes: Any) -> dict[int, float]:
    """What DRY takes from each token's logit."""
    lost = logits() - samplers.dry(logits(), history, **{**DRY, **changes})
    return {token: round(float(lost[token]), 4) for token in range(12) if float(lost[token]) > 1e-6}


def test_dry_penalises_what_goes_on_with_a_repeated_run() -> None:
    # "1 2 3 4 … 1 2 3": 4 would continue a run of three, one longer than allowed.
    assert taken([1, 2, 3, 4, 9, 1, 2, 3]) == {4: pytest.approx(0.8 * 1.75)}
    # A run of the allowed length costs the multiplier itself, a shorter one nothing.
    assert taken([2, 3, 4, 9, 2, 3]) == {4: pytest.approx(0.8)}
    assert taken([3, 4, 9, 3]) == {}


def test_dry_takes_the_longest_run_for_each_token() -> None:
    history = [2, 3, 4, 8, 1, 2, 3, 4, 7, 1, 2, 3]
    assert taken(history) == {4: pytest.approx(0.8 * 1.75)}
    assert taken([1, 2, 5, 1, 2, 6, 1, 2]) == {5: pytest.approx(0.8), 6: pytest.approx(0.8)}


def test_dry_does_not_reach_over_breakers() -> None:
    # With 2 as a breaker only "3" is repeated, which is allowed.
    assert taken([1, 2, 3, 4, 9, 1, 2, 3], breakers={2}) == {}
    assert taken([1, 2, 3, 4, 9, 1, 2, 3], breakers={4}) == {}
    assert taken([1, 2, 3, 4, 9, 1, 2, 3], breakers={3}) == {}
    assert taken([1, 2, 3, 4, 9, 1, 2, 3], breakers={1}) == {4: pytest.approx(0.8)}


@given(HISTORY, st.sets(st.integers(0, 11), max_size=2))
@settings(deadline=None, max_examples=150)
def test_dry_equals_its_definition(history: list[int], breakers: set[int]) -> None:
    """The definition: the longest run before the end that ends like the text, for each follower."""
    expected: dict[int, float] = {}
    for token in range(12):
        longest = 0
        for place in range(1, len(history)):  # history[place] == token continues the run before it
            if history[place] != token or token in breakers:
                continue
            length = 0
            while length < place:
                one, other = history[place - 1 - length], history[len(history) - 1 - length]
                if one != other or one in breakers:
                    break
                length += 1
            longest = max(longest, length)
        if longest >= DRY["allowed_length"]:
            expected[token] = min(0.8 * 1.75 ** (min(longest, 50) - 2), 1e3)
    found = logits() - samplers.dry(logits(), history, breakers=breakers, **DRY)
    for token in range(12):
        assert float(found[token]) == pytest.approx(expected.get(token, 0.0), rel=1e-3, abs=1e-4)


def test_dry_stays_finite_in_a_long_loop() -> None:
    changed = samplers.dry(logits(), [3] * 500, multiplier=5.0, base=8.0, allowed_length=1)
    assert bool(torch.isfinite(changed).all())


# --- exclusions ----------------------------------------------------------------------------------


def test_bias_adds_and_a_hundred_below_forbids() -> None:
    changed = samplers.bias(torch.zeros(3), {0: 2.5, 2: -100})
    assert changed.tolist() == [2.5, 0.0, -math.inf]


def test_never_all_tokens_are_excluded() -> None:
    assert samplers.exclude(torch.zeros(3), {0, 1}).tolist() == [-math.inf, -math.inf, 0.0]
    assert samplers.exclude(torch.zeros(3), {0, 1, 2}).tolist() == [0.0, 0.0, 0.0]
    assert samplers.bias(torch.zeros(2), {0: -100, 1: -100}).tolist() == [0.0, 0.0]


@given(HISTORY, st.floats(0.5, 5), st.floats(-5, 5), st.integers(0, 4))
@settings(deadline=None, max_examples=80)
def test_nothing_is_changed_in_place_and_something_survives(
    history: list[int], penalty: float, amount: float, size: int
) -> None:
    before = logits()
    for changed in (
        samplers.repetition(before, history, penalty),
        samplers.presence_and_frequency(before, history, amount, amount),
        samplers.no_repeat_ngram(before, history, size),
        samplers.dry(before, history, **DRY),
        samplers.exclude(before, set(history)),
    ):
        assert torch.equal(before, logits())
        assert bool(torch.isfinite(changed).any()) and not bool(torch.isnan(changed).any())
