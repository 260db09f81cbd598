"""The simulated writers of ``bench/taste.py``: their rules, their errors, what is good enough."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).parents[2] / "bench" / "taste_writers.py"


@pytest.fixture(scope="module")
def writers():
    spec = importlib.util.spec_from_file_location("taste_writers", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("taste", "liked", "disliked"),
    [
        ("short sentences", "It rained. He sat.", "It rained while he sat and looked at the sea."),
        ("dialogue", '"Come in," he said.', "He asked me to come in."),
        ("no adverbs in -ly", "Then he left.", "Slowly he left."),
        ("present tense", "She says it is late.", "She said it was late."),
        ("words of the senses", "The bitter smell of smoke.", "The time of the year."),
        ("never suddenly", "Slowly he left.", "Suddenly he left."),
        (
            "dialogue and short sentences",
            '"No," he said.',
            '"No," he said, and went to the sea.',
        ),
    ],
)
def test_a_writer_prefers_what_the_rule_says(writers, taste, liked, disliked):
    rule = writers.TASTES[taste]
    assert rule(liked) > rule(disliked)


def test_a_writer_errs_one_time_in_ten_and_takes_no_place_among_equals(writers):
    generator = np.random.default_rng(0)
    taste = writers.TASTES["never suddenly"]
    texts = ["Suddenly it rained.", "It rained.", "Suddenly, suddenly it rained."]
    places = [writers.pick(texts, taste, generator) for _ in range(3000)]
    assert np.mean(np.array(places) == 1) == pytest.approx(0.9 + 0.1 / 3, abs=0.02)
    same = [writers.pick(["It rained."] * 3, taste, generator) for _ in range(3000)]
    assert np.bincount(same) / 3000 == pytest.approx([1 / 3] * 3, abs=0.04)


def test_choices_are_the_same_from_the_same_seed_and_hold_all_that_was_offered(writers):
    offered = [["It rained.", '"Yes," he said.', "He left."]] * 4
    made = [
        writers.choices("abcd", offered, writers.TASTES["dialogue"], np.random.default_rng(3))
        for _ in range(2)
    ]
    assert made[0] == made[1]
    for one in made[0]:
        assert sorted([one.chosen, *one.rejected]) == sorted(offered[0])
        assert offered[0][one.place] == one.chosen
        assert one.shown == 3


def test_three_drafts_in_ten_reach_the_reservation_score(writers):
    scores = np.random.default_rng(0).normal(size=1000)
    assert (scores >= writers.reservation(scores)).mean() == pytest.approx(0.3)
    assert writers.reservation([0, 0, 0, 0, 0, 0, 0, 0, 1, 1]) == 1  # nearest where scores are tied
