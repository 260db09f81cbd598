"""Sums by kind and recurrences of names, on texts and scores small enough to count by hand."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from subjects import random_maps

from creativewritinggpt.analysis.methods.attention import AttentionMaps
from creativewritinggpt.analysis.methods.story import (
    by_kind,
    following_heads,
    returns,
    returns_text,
    sentences_of,
    story_record,
)
from creativewritinggpt.analysis.subject import Subject, Target, words_of
from creativewritinggpt.data.names import tag

TEXT = "They met Mira. It was late. The door fell on Mira and Mira's friend Pavel."
PROMPT = len("They met Mira.")


def story() -> tuple[Subject, list[Any], list[set[str]]]:
    """A token a word; every word after the first sentence is a target."""
    spans = [match.span() for match in re.finditer(r"\s?\S+", TEXT)]
    ids = tuple(range(len(spans) + 1))
    written = [i for i, span in enumerate(spans, 1) if span[0] >= PROMPT]
    subject = Subject(
        TEXT, ids, ((0, 0), *spans), tuple(Target(p, ids[p]) for p in written), PROMPT
    )
    words = words_of(subject)
    return subject, words, tag(words, TEXT, TEXT[:PROMPT])


def index_of(words: list[Any], text: str) -> int:
    return [word.text for word in words].index(text)


def test_sentences_end_with_marks_and_not_with_titles() -> None:
    text = "Mr. Brandt left. “Why?” he\nasked him. No"
    spans = [match.span() for match in re.finditer(r" ?\S+|\n", text)]
    words = words_of(Subject(text, tuple(range(len(spans) + 1)), ((0, 0), *spans), (), 0))
    said = [" ".join(words[i].text.strip() for i in s).strip() for s in sentences_of(words)]
    assert said == ["Mr. Brandt left.", "“Why?”", "he", "asked him.", "No"]


def test_kinds_get_the_scores_of_their_words() -> None:
    subject, words, tags = story()
    scores = np.zeros((len(subject.targets), subject.length))
    last = len(subject.targets) - 1
    position = subject.targets[last].position
    scores[last, 0] = 99  # the start token does not count
    scores[last, words[index_of(words, "Mira.")].tokens[0]] = 3
    scores[last, words[index_of(words, "fell")].tokens[0]] = -1
    scores[last, position:] = 7  # nor does what comes later
    found = by_kind(scores, subject, words, tags)
    assert found.share["name"][last] == pytest.approx(0.75)
    assert found.share["action"][last] == pytest.approx(0.25)
    assert found.share["place"][last] == 0
    before = [w for w, kinds in zip(words, tags, strict=True) if "name" in kinds][:-1]
    assert found.even["name"][last] == pytest.approx(len(before) / (position - 1))
    assert found.share["name"][0] == 0  # no scores, no shares
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert record["name"]["by_target"][last] == pytest.approx(0.75)
    assert record["dialogue"]["ratio"] is None


def test_even_scores_have_even_shares() -> None:
    subject, words, tags = story()
    found = by_kind(np.ones((len(subject.targets), subject.length)), subject, words, tags)
    for kind in found.share:
        np.testing.assert_allclose(found.share[kind], found.even[kind], atol=1e-12)
    for item in returns(np.ones((len(subject.targets), subject.length)), subject, words, tags):
        assert item.share == pytest.approx(item.even)


def test_a_name_that_comes_back_is_asked_where_it_looks() -> None:
    subject, words, tags = story()
    first = index_of(words, "Mira.")
    again, third = index_of(words, "Mira"), index_of(words, "Mira's")
    scores = np.full((len(subject.targets), subject.length), 0.1)
    target = next(i for i, t in enumerate(subject.targets) if t.position == words[again].tokens[0])
    scores[target] = 0
    scores[target, words[first].tokens[0]] = -0.6
    scores[target, words[index_of(words, "late.")].tokens[0]] = 0.4
    found = returns(scores, subject, words, tags)
    assert [(item.name, item.word, item.earlier) for item in found] == [
        ("mira", again, [first]), ("mira", third, [first, again])
    ]  # fmt: skip
    item = found[0]
    assert item.target == target
    assert item.share == pytest.approx(0.6)
    assert item.support == pytest.approx(-0.6)
    assert item.even == pytest.approx(1 / (subject.targets[target].position - 1))
    assert TEXT[slice(*item.sentence)] == "They met Mira."
    assert item.sentence_names
    assert item.sentence_share == pytest.approx(0.6)


def test_names_in_the_prompt_alone_don_t_come_back() -> None:
    subject, words, tags = story()
    nothing = Subject(subject.text, subject.ids, subject.spans, subject.targets[:2], PROMPT)
    assert returns(np.ones((2, subject.length)), nothing, words, tags) == []
    assert following_heads(random_maps(0, 1, 1, subject.length), nothing, words, tags) is None
    assert returns_text([]) == ""


def test_the_head_that_follows_a_name_is_found() -> None:
    subject, words, tags = story()
    length = subject.length
    weights = np.tril(np.ones((2, 3, length, length), dtype=np.float32))
    weights /= weights.sum(-1, keepdims=True)
    first = words[index_of(words, "Mira.")].tokens[0]
    for word in ("Mira", "Mira's"):
        query = words[index_of(words, word)].tokens[0] - 1
        weights[1, 2, query] = 0
        weights[1, 2, query, [0, first]] = [0.9, 0.1]
    found = following_heads(AttentionMaps(weights), subject, words, tags)
    assert found is not None
    assert np.unravel_index(found.argmax(), found.shape) == (1, 2)
    assert found[1, 2] == pytest.approx(1.0)  # the rest went to the start


def test_what_is_told_names_who_comes_back() -> None:
    subject, words, tags = story()
    scores = np.ones((len(subject.targets), subject.length))
    said = returns_text(returns(scores, subject, words, tags), "attention")
    assert said.startswith("Mira comes back 2 times: ")
    assert "of the attention goes to earlier mentions" in said


def test_the_record_holds_every_method() -> None:
    subject, words, tags = story()
    scores = np.ones((len(subject.targets), subject.length))
    record = story_record({"kl": scores, "attention": scores * 0}, subject, words, tags)
    json.dumps(record, allow_nan=False)
    assert set(record["kinds"]) == {"kl", "attention"}
    assert len(record["returns"]["kl"]) == 2
    assert record["told"]["attention"].startswith("Mira comes back")
