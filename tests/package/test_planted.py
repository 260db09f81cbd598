"""The planted models do what they say, and the benchmark's metrics are what they are called."""

from __future__ import annotations

import numpy as np
import planted
import pytest
import torch
from localise import auc, judge


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0, -1]


def with_word(ids, place, word):
    return (*ids[:place], planted.IDS[word], *ids[place + 1 :])


@pytest.mark.parametrize("make", [planted.pointer, planted.bag, planted.pair])
def test_texts_and_spans_belong_to_the_ids(make):
    tokenizer = planted.make_tokenizer()
    for example in make(4).examples:
        assert tokenizer(example.text)["input_ids"] == list(example.ids[1:])
        shown = [example.text[start:end] for start, end in example.spans]
        assert shown == ["", *(planted.VOCABULARY[token] for token in example.ids[1:])]
        assert len(example.worth) == len(example.ids)


def test_the_pointer_reads_its_place_and_nothing_else():
    signal = planted.pointer(4)
    for example in signal.examples:
        said = logits(signal.model, example.ids)
        place = example.worth.index(1.0)
        assert said.argmax() == example.target == example.ids[place]
        for other in range(len(example.ids)):
            changed = logits(signal.model, with_word(example.ids, other, "elk"))
            moved = float((changed - said).abs().max())
            assert moved > 5 if other == place else moved < 1e-6


def test_the_bag_adds_up():
    signal = planted.bag(4)
    for example in signal.examples:
        start = logits(signal.model, [0] * len(example.ids))
        said = logits(signal.model, example.ids) - start
        assert said[example.target] - said[example.foil] == pytest.approx(
            sum(example.worth), abs=1e-5
        )


def test_the_pair_speaks_for_and_against():
    signal = planted.pair(4)
    for example in signal.examples:
        said = logits(signal.model, example.ids).log_softmax(-1)[example.target]
        for place, worth in enumerate(example.worth):
            changed = logits(signal.model, with_word(example.ids, place, "the"))
            change = float(said - changed.log_softmax(-1)[example.target])
            assert np.sign(change) == np.sign(worth)


def test_both_wirings_compute_the_same():
    for ids in ([0, "cat", "tin"], [0, "tin", "cat"], [0, "cat", "cat"], [0, "the", "cat"]):
        given = [planted.IDS.get(token, token) for token in ids]
        x1, x2 = 3 * ids.count("cat"), ids.count("tin")
        for inside in (True, False):
            said = logits(planted.relu_pair_model(inside), given)
            assert float(said[planted.IDS["one"]]) == pytest.approx(max(x1 - 1 - x2, 0), abs=1e-6)
            assert float(said[planted.IDS["two"]]) == 0


def test_the_key_language_asks_for_what_its_texts_hold():
    ids, places = planted.KeyLanguage().batch(np.random.default_rng(0), 50, 20)
    assert (ids[:, 0] == 0).all() and (ids[:, 1:] > 0).all()
    for row, (animal, metal) in zip(ids, places, strict=True):
        words = [planted.VOCABULARY[token] for token in row]
        assert words[animal] in planted.ANIMALS and words[metal] in planted.METALS
        assert sum(word in planted.ANIMALS + planted.METALS for word in words) == 2
        kind = planted.ASK.index(words[-2])
        key = (planted.ANIMALS.index(words[animal]), planted.METALS.index(words[metal]))[kind]
        assert row[-1] == planted.answer(kind, key)
    for kind in (0, 1):
        assert len({planted.answer(kind, key) for key in range(8)}) == 8


def test_training_is_the_same_each_time_and_leaves_the_random_state_alone():
    state = torch.random.get_rng_state()
    first, second = (planted.train_key_model(steps=2, rows=4).state_dict() for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    other = planted.train_key_model(seed=1, steps=2, rows=4).state_dict()
    assert not torch.equal(other["transformer.wte.weight"], first["transformer.wte.weight"])


def test_saved_weights_come_back(tmp_path):
    model = planted.train_key_model(steps=2, rows=4)
    planted.save_key_model(model, tmp_path / "key.safetensors")
    again = planted.load_key_model(tmp_path / "key.safetensors")
    ids = planted.pointer(1).examples[0].ids
    assert torch.equal(logits(model, ids), logits(again, ids))


def example_of(worth):
    return planted.Example(tuple(range(len(worth))), 1, None, tuple(worth))


def test_a_perfect_method_gets_full_marks_and_the_start_token_does_not_count():
    judged = judge(np.array([9.0, 0.0, 2.0, -1.0, 0.0]), example_of([0, 0, 1, -1, 0]), True)
    assert judged == {"found": 1.0, "auc": 1.0, "mass": 1.0, "sign": 1.0}


def test_signs_are_counted_only_where_a_method_has_them():
    scores, example = np.array([0.0, 2.0, 1.0, 0.5]), example_of([0, 1, -1, 0])
    assert judge(scores, example, True)["sign"] == 0.5
    assert judge(scores, example, False)["sign"] is None
    assert judge(scores, example, False)["mass"] == pytest.approx(3 / 3.5)


def test_a_method_that_can_not_tell_gets_what_guessing_gets():
    judged = judge(np.ones(11), example_of([0, 1, 1, *[0] * 8]), False)
    assert judged["found"] == pytest.approx(0.2)
    assert judged["auc"] == 0.5
    assert judged["mass"] == pytest.approx(0.2)
    empty = judge(np.full(11, np.nan), example_of([0, 1, 1, *[0] * 8]), False)
    assert empty["found"] == pytest.approx(0.2) and empty["mass"] == 0


def test_ties_at_the_limit_are_broken_by_chance():
    # One of the two that matter is found; the other shares its place with one that does not.
    judged = judge(np.array([0, 3.0, 1.0, 1.0, 0.0]), example_of([0, 1, 1, 0, 0]), False)
    assert judged["found"] == pytest.approx(0.75)
    assert judged["auc"] == pytest.approx((2 + 1.5) / 4)


def test_auc_counts_pairs_in_the_right_order():
    size = np.array([5.0, 1.0, 3.0, 2.0])
    assert auc(size, np.array([False, True, False, False])) == 0
    assert auc(size, np.array([False, False, True, False])) == pytest.approx(2 / 3)
