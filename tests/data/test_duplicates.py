from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from creativewritinggpt.data.duplicates import (
    THRESHOLD,
    NearDuplicates,
    fingerprint,
    ngram_hashes,
    normalise,
    word_hashes,
)

WORDS = [f"w{i}" for i in range(4000)]


def story(seed: int, length: int) -> list[str]:
    return random.Random(seed).choices(WORDS, k=length)


def changed(words: list[str], count: int) -> list[str]:
    """The same words with a run at the end replaced, so that few n-grams change."""
    return words[:-count] + [f"x{i}" for i in range(count)]


def jaccard(first: str, second: str, n: int) -> float:
    """The similarity of the two texts' sets of word n-grams, without hashes."""
    sets = []
    for text in (first, second):
        words = normalise(text).split()
        size = max(1, min(n, len(words)))
        sets.append({tuple(words[i : i + size]) for i in range(len(words) - size + 1)})
    union = sets[0] | sets[1]
    return len(sets[0] & sets[1]) / len(union) if union else 1.0


def test_exact_duplicates_agree_but_for_case_punctuation_and_spacing() -> None:
    assert fingerprint("It was night. “Go!”") == fingerprint("it was   NIGHT 'go'")
    assert fingerprint("It was night") != fingerprint("It was light")
    assert fingerprint("...") != fingerprint("!!!")


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.sampled_from("abcd"), max_size=30),
    st.lists(st.sampled_from("abcd"), max_size=30),
    st.integers(1, 5),
)
def test_hashed_ngrams_have_the_exact_jaccard_similarity(
    first: list[str], second: list[str], n: int
) -> None:
    if not first or not second:
        return
    grams = [np.unique(ngram_hashes(word_hashes(" ".join(w)), n)) for w in (first, second)]
    shared = len(np.intersect1d(*grams)) / len(np.union1d(*grams))
    # Texts shorter than n are one n-gram of their own length in both ways.
    assert shared == pytest.approx(jaccard(" ".join(first), " ".join(second), n))


@pytest.mark.parametrize(("length", "n"), [(30, 3), (60, 3), (150, 5), (2000, 5)])
def test_planted_near_duplicates_are_found_and_others_are_not(length: int, n: int) -> None:
    held = [story(seed, length) for seed in range(40)]
    near = NearDuplicates([" ".join(words) for words in held])
    for number, words in enumerate(held):
        close = " ".join(changed(words, max(1, length // 12)))
        far = " ".join(changed(words, length // 2))
        assert jaccard(" ".join(words), close, n) >= THRESHOLD > jaccard(" ".join(words), far, n)
        assert near.find(close) == number
        assert near.find(far) is None
    assert near.find(" ".join(story(99, length))) is None


def test_texts_on_both_sides_of_the_short_limit_are_compared() -> None:
    words = story(1, 99)
    near = NearDuplicates([" ".join(words)])
    assert near.find(" ".join([*words, "one", "more", "still", "two"])) == 0
    long = story(2, 101)
    assert NearDuplicates([" ".join(long)]).find(" ".join(long[:97])) == 0


def test_nothing_is_found_where_nothing_is_held_out() -> None:
    assert NearDuplicates([]).find("any text at all") is None
    assert NearDuplicates(["…"]).find("!") is None


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.integers(1, 160), st.floats(0, 1))
def test_what_is_found_is_what_the_exact_similarity_says(
    seed: int, length: int, share: float
) -> None:
    held = [" ".join(story(seed + i, length)) for i in range(3)]
    text = " ".join(changed(held[1].split(), max(1, int(share * length))))
    n = 3 if length < 100 else 5
    alike = [number for number, one in enumerate(held) if jaccard(text, one, n) >= THRESHOLD]
    assert NearDuplicates(held).find(text) == (alike[0] if alike else None)
