from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from creativewritinggpt.data.mixing import mix, wanted_shares
from creativewritinggpt.errors import InputError

corpora = st.dictionaries(
    st.sampled_from("abcd"), st.lists(st.integers(0, 60), min_size=1, max_size=30), min_size=1
)


def flat(corpus: dict[str, list[int]]) -> tuple[list[str], np.ndarray]:
    sources = [name for name, lengths in corpus.items() for _ in lengths]
    return sources, np.array([n for lengths in corpus.values() for n in lengths], dtype=np.int64)


@settings(deadline=None, max_examples=150)
@given(corpora)
def test_without_weights_every_document_comes_once(corpus: dict[str, list[int]]) -> None:
    sources, lengths = flat(corpus)
    mixture = mix(sources, lengths, None, max_length=16)
    assert sorted(mixture.documents) == list(range(len(sources)))
    assert all(share.epochs == 1 for share in mixture.shares)
    assert sum(share.share for share in mixture.shares) == pytest.approx(1)


@settings(deadline=None, max_examples=150)
@given(corpora, st.lists(st.floats(0.1, 5), min_size=4, max_size=4), st.integers(0, 3))
def test_realised_shares_are_the_wanted_ones_to_a_document(
    corpus: dict[str, list[int]], weights: list[float], seed: int
) -> None:
    sources, lengths = flat(corpus)
    given_weights = dict(zip(corpus, weights, strict=False))
    mixture = mix(sources, lengths, given_weights, max_length=16, seed=seed)
    total = sum(share.tokens for share in mixture.shares)
    longest = int(lengths.max()) + 1
    for share in mixture.shares:
        assert abs(share.tokens - share.wanted * total) <= (len(corpus) + 1) * longest
        assert share.epochs <= 4 + longest / share.available
    assert total == int((lengths[mixture.documents] + 1).sum())
    again = mix(sources, lengths, given_weights, max_length=16, seed=seed)
    assert (again.documents == mixture.documents).all()


def test_a_small_source_is_repeated_evenly_and_not_more_than_four_times() -> None:
    sources, lengths = flat({"small": [9] * 10, "large": [99] * 100})
    mixture = mix(sources, lengths, {"small": 1, "large": 1}, max_length=64)
    small, large = mixture.shares
    assert small.epochs == 4 and large.share == pytest.approx(0.5)
    assert np.bincount(mixture.documents)[:10].tolist() == [4] * 10
    assert large.cut == large.documents and large.continued == pytest.approx(0.36)


def test_a_source_that_gives_a_part_gives_another_for_another_seed() -> None:
    sources, lengths = flat({"a": [9] * 200, "b": [9] * 20})
    mixtures = [mix(sources, lengths, {"a": 1, "b": 1}, max_length=64, seed=s) for s in (1, 2)]
    assert set(mixtures[0].documents.tolist()) != set(mixtures[1].documents.tolist())


def test_temperature_lies_between_what_there_is_and_equal_shares() -> None:
    available = {"a": 900, "b": 100}
    assert wanted_shares(available, {"temperature": 1}) == pytest.approx({"a": 0.9, "b": 0.1})
    warm = wanted_shares(available, {"temperature": 2})
    assert warm == pytest.approx({"a": 0.75, "b": 0.25})
    hot = wanted_shares(available, {"temperature": 1e6})
    assert hot["a"] == pytest.approx(0.5, abs=1e-3)


def test_sources_without_a_weight_are_left_out() -> None:
    sources, lengths = flat({"a": [9] * 10, "b": [9] * 10})
    mixture = mix(sources, lengths, {"a": 1}, max_length=64)
    assert [share.documents for share in mixture.shares] == [10, 0]


def test_weights_that_can_not_be_met_are_refused() -> None:
    sources, lengths = flat({"a": [9] * 10})
    with pytest.raises(InputError, match="mix names poems"):
        mix(sources, lengths, {"a": 1, "poems": 1}, max_length=64)
    with pytest.raises(InputError, match="nothing to train on"):
        mix(sources, lengths, {"a": 0}, max_length=64)
    with pytest.raises(InputError, match="temperature"):
        mix(sources, lengths, {"temperature": 0}, max_length=64)


def test_a_mixture_can_be_recorded() -> None:
    sources, lengths = flat({"a": [9] * 10, "b": [99] * 3})
    mixture = mix(sources, lengths, None, max_length=64)
    recorded = json.loads(json.dumps(mixture.to_dict()))
    assert recorded["b"]["cut"] == 3 and recorded["a"]["epochs"] == 1
