"""A ranker learnt from choices: its definition, what must hold, and its place in the program."""

import io
import json
import time

import numpy as np
import pytest
from voices import style, text_of

from creativewritinggpt.cli.main import main
from creativewritinggpt.errors import InputError
from creativewritinggpt.generation.results import best
from creativewritinggpt.story.decisions import Decision
from creativewritinggpt.taste.ranker import HABITS, features, fit, learn, learn_from, usable

SHORT = "It rained. He sat. The lamp burned low. Nobody came. "
LONG = (
    "While the rain went on over the roofs of the harbour, the keeper of the lamp sat by the "
    "window and counted the ships that had not come back. "
)


def _draft(number, short):
    """A draft of one kind, of other words and another length each time."""
    generator = np.random.default_rng((number, short))
    words = ["stone", "river", "candle", "letter", "garden", "winter", "mother", "silver"]
    size = (3, 5) if short else (14, 22)
    parts = []
    for _ in range(int(generator.integers(3, 7))):
        length = int(generator.integers(*size))
        parts.append("The " + " ".join(generator.choice(words, length).tolist()) + ".")
    return " ".join(parts)


def _decisions(count, rule, seed=0, shown=3):
    """Choices of a writer among drafts of both kinds."""
    generator = np.random.default_rng(seed)
    found = []
    for number in range(count):
        kinds = [int(generator.integers(2)) for _ in range(shown)]
        drafts = [_draft(1000 * number + place, kind) for place, kind in enumerate(kinds)]
        place = rule(kinds, generator)
        rest = tuple(draft for other, draft in enumerate(drafts) if other != place)
        found.append(Decision("pick", "", drafts[place], rest, 1.0, place=place, shown=len(drafts)))
    return found


def _likes_short(kinds, generator):
    return int(np.argmax(kinds)) if max(kinds) else int(generator.integers(len(kinds)))


def _at_random(kinds, generator):
    return int(generator.integers(len(kinds)))


def test_two_texts_are_a_logistic_regression_on_their_difference():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 2, 4))
    weights = generator.uniform(0.2, 1, size=60)
    found = fit(x, np.ones((60, 2), dtype=bool), weights, prior=0.7)
    difference = x[:, 0] - x[:, 1]
    # The gradient of the regression without an intercept, at its minimum.
    away = weights / (1 + np.exp(difference @ found))
    assert 0.7 * found - away @ difference == pytest.approx(np.zeros(4), abs=1e-8)


def test_the_fit_is_the_minimum_of_the_softmax_over_all_that_was_offered():
    generator = np.random.default_rng(1)
    x = generator.normal(size=(40, 4, 3))
    there = np.ones((40, 4), dtype=bool)
    there[:10, 3] = False
    x[~there] = 99.0  # padding counts nowhere
    weights = np.ones(40)
    found = fit(x, there, weights, prior=1.0)

    def loss(w):
        scores = np.where(there, x @ w, -np.inf)
        return 0.5 * w @ w - (scores[:, 0] - np.log(np.exp(scores).sum(1))).sum()

    step = 1e-5
    for axis in np.eye(3):
        slope = (loss(found + step * axis) - loss(found - step * axis)) / (2 * step)
        assert slope == pytest.approx(0, abs=1e-4)


def test_a_taste_is_learnt_and_orders_unseen_drafts():
    ranker = learn(_decisions(30, _likes_short))
    assert ranker.trial.beyond_chance
    assert ranker.trial.first > 0.6
    assert ranker.trial.chance == pytest.approx(1 / 3)
    for number in range(10):
        drafts = [_draft(90_000 + number, 0), _draft(91_000 + number, 1)]
        assert ranker.order(drafts) == [1, 0]
    assert "held out" in ranker.sentence
    assert ranker.scores([]) == []


def test_a_writer_who_picks_at_random_teaches_nothing():
    believed = 0
    for seed in range(20):
        ranker = learn(_decisions(40, _at_random, seed))
        believed += ranker.trial.beyond_chance
        if not ranker.trial.beyond_chance:
            assert ranker.order([LONG, SHORT]) == [0, 1]
            assert "may be chance" in ranker.sentence
    assert believed <= 3


def test_who_always_takes_the_first_on_the_screen_has_no_taste():
    ranker = learn(_decisions(60, lambda kinds, generator: 0))
    assert ranker.first_place > 1
    assert not ranker.trial.beyond_chance


def test_figures_of_a_draft_don_t_grow_with_its_length():
    short, long = (
        np.mean([features(text_of(style(1), words, (words, n))) for n in range(12)], axis=0)
        for words in (66, 660)
    )
    for name, first, second in zip(HABITS, short, long, strict=True):
        assert second == pytest.approx(first, abs=0.04), name
    assert features("He came in. " * 3)[HABITS.index("repetition")] > 0.4
    assert np.isfinite(features("")).all()
    assert np.isfinite(features("🙂 \x00\n\n…")).all()


def test_fewer_than_ten_choices_are_said():
    ranker = learn(_decisions(6, _likes_short))
    assert not ranker.trial.beyond_chance
    assert "too few" in ranker.sentence


def test_what_is_no_choice_between_drafts_is_left_out():
    token = Decision("token", "", "lamp", ("door",), 0.3)
    alone = Decision("undo", "", None, (SHORT,), 0.1)
    word = Decision("pick", "", "Yes.", (LONG,), 1.0)
    assert usable([token, alone, word]) == []
    with pytest.raises(InputError, match="no choice between drafts"):
        learn([token, alone, word])


def test_learning_two_hundred_choices_takes_less_than_a_second():
    decisions = _decisions(200, _likes_short, shown=4)
    learn(decisions[:10])
    times = []
    for _ in range(3):
        features.cache_clear()
        started = time.process_time()
        learn(decisions)
        times.append(time.process_time() - started)
    assert min(times) < 1


def test_best_of_ranks_by_taste():
    ranker = learn(_decisions(30, _likes_short))
    with pytest.raises(InputError, match="no choices to rank drafts by"):
        best([], 1, "taste")
    assert ranker.scores([SHORT])[0] > ranker.scores([LONG])[0]


def _file_of_choices(path, rule, count=30):
    lines = [
        {"prompt": f"Once {n}.", "chosen": one.chosen, "rejected": text}
        for n, one in enumerate(_decisions(count, rule))
        for text in one.rejected
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_choices_are_learnt_from_files(tmp_path):
    path = _file_of_choices(tmp_path / "picks.jsonl", _likes_short)
    assert learn_from([str(path)]).trial.beyond_chance
    # The same file twice is no more evidence.
    assert learn_from([str(path), str(path)]).trial.choices == learn_from([str(path)]).trial.choices


def test_generate_ranks_by_taste_and_refuses_what_teaches_nothing(
    tiny_folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    taste = _file_of_choices(tmp_path / "picks.jsonl", _likes_short)
    chance = _file_of_choices(tmp_path / "chance.jsonl", _at_random)
    command = ["generate", "The lamp", "--model", str(tiny_folder("gpt2")), "--max-new-tokens", "8",
               "--seed", "1", "--best-of", "4", "--rank-by", "taste", "--json", "--device", "cpu",
               "--precision", "fp32"]  # fmt: skip
    assert main([*command, "--choices", str(taste)]) == 0
    said = capsys.readouterr()
    [result] = json.loads(said.out)["results"]
    assert result["score"] == pytest.approx(learn_from([str(taste)]).scores([result["text"]])[0])
    assert "held out in turn" in said.err
    assert main(command) == 2
    assert "no choices to rank drafts by" in capsys.readouterr().err
    assert main([*command, "--choices", str(chance)]) == 2
    assert "may be chance" in capsys.readouterr().err
    assert main([*command, "--choices", str(tmp_path / "missing.json")]) == 2
