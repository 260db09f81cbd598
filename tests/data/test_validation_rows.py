from __future__ import annotations

from collections import Counter
from dataclasses import fields

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from creativewritinggpt.data.rows.packing import IGNORE, TokenizedDocuments, pack
from creativewritinggpt.data.splits import ValidationRows, validation_rows

SHAPE = {"max_length": 16, "bos_id": 900, "eos_id": 901, "seed": 3}
corpora = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 70)), min_size=1, max_size=25)


def tokenized(lengths: list[int]) -> TokenizedDocuments:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = np.arange(1000, 1000 + offsets[-1], dtype=np.int32)
    return TokenizedDocuments(ids, offsets, np.zeros(len(lengths), dtype=np.int32))


def held(corpus: list[tuple[str, int]], most: int | None) -> ValidationRows:
    sources, lengths = [name for name, _ in corpus], [count for _, count in corpus]
    return validation_rows(tokenized(lengths), sources, most=most, **SHAPE)


@settings(deadline=None, max_examples=60)
@given(corpora)
def test_without_a_bound_or_below_it_every_held_out_token_is_scored(
    corpus: list[tuple[str, int]],
) -> None:
    whole = pack(tokenized([count for _, count in corpus]), **SHAPE)
    total = sum(count + 1 for _, count in corpus)
    for most in (None, total, total + 5):
        found = held(corpus, most)
        assert found.to_dict() == {"tokens": total, "scored": total}
        for field in fields(whole):
            assert np.array_equal(getattr(found.rows, field.name), getattr(whole, field.name))


@settings(deadline=None, max_examples=100)
@given(corpora, st.integers(1, 300))
def test_a_bound_keeps_a_part_of_every_source_and_each_token_at_most_once(
    corpus: list[tuple[str, int]], most: int
) -> None:
    found = held(corpus, most)
    names = {name for name, _ in corpus}
    targets = found.rows.targets[found.rows.targets != IGNORE]
    assert len(targets) == found.scored <= most + len(names) * SHAPE["max_length"]
    assert max(Counter(targets[targets != 901].tolist()).values(), default=1) == 1
    documents = found.rows.document_ids[found.rows.document_ids >= 0]
    assert {corpus[number][0] for number in documents} == names
    again = held(corpus, most)
    assert np.array_equal(again.rows.targets, found.rows.targets)


def test_a_part_holds_each_source_in_proportion_and_the_middle_of_documents_too() -> None:
    corpus = [("a", 640)] * 30 + [("b", 1600)] * 4
    found = held(corpus, 4000)
    sources = np.array([name for name, _ in corpus])
    ids = found.rows.document_ids[found.rows.document_ids >= 0]
    share = np.mean(sources[ids] == "b")
    assert 3800 <= found.scored <= 4000 and abs(share - 6404 / (6404 + 19230)) < 0.01
    starts = found.rows.targets[found.rows.position_ids == 0]
    assert len(np.unique((starts - 1000) % 640 // 160)) == 4
