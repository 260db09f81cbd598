"""Tests of choice: the right option, the same scored tokens, chance, intervals."""

import csv
import math

import pytest
import torch
from writers import make_writer

from creativewritinggpt.data.document import Document
from creativewritinggpt.errors import InputError
from creativewritinggpt.evaluation import tasks
from creativewritinggpt.evaluation.settings import EvaluationSettings
from creativewritinggpt.evaluation.tasks import (
    Answers,
    ChoiceTest,
    Item,
    choice_figures,
    planned_tests,
)

STORY = "The lamp went out. Nobody answered. “Who is there?” she asked. The sea slept. It was cold."


def _documents(count=14):
    return [
        Document("d", f"g{i}", f"{STORY} {i}", prompt=f"Prompt {i % 12}.") for i in range(count)
    ]


def _cloze(path, rows, columns=None):
    names = [f"InputSentence{n}" for n in range(1, 5)]
    names += ["RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2", "AnswerRightEnding"]
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([["InputStoryid", *(columns or names)], *rows])
    return path


def test_a_story_has_its_own_prompt_and_nine_different_wrong_ones():
    items = tasks.prompt_items(_documents(), 14, seed=3)
    assert len(items) == 14
    for item in items:
        prompts = [context for context, _ in item.options]
        assert len(set(prompts)) == tasks.PROMPTS
        assert len({text for _, text in item.options}) == 1
        number = item.options[0][1].rpartition(" ")[2]
        assert prompts[0] == f"Prompt {int(number) % 12}.\n\n"
    assert tasks.prompt_items(_documents()[::-1], 14, seed=3) == items
    with pytest.raises(InputError, match="10 different prompts, and there are 3"):
        tasks.prompt_items(_documents(3), 5, seed=0)


def test_true_order_comes_first_and_shuffles_are_others():
    [item] = tasks.order_items([Document("d", "g", STORY)], 5, seed=0)
    texts = [text for _, text in item.options]
    assert texts[0] == STORY and len(set(texts)) == len(texts) == 1 + tasks.SHUFFLES
    [short] = tasks.order_items([Document("d", "g", "One went. Two went. Six went.")], 5, seed=0)
    assert len(short.options) == 6  # all orders of three sentences
    with pytest.raises(InputError, match="three sentences"):
        tasks.order_items([Document("d", "g", "Only one.")], 5, seed=0)
    with pytest.raises(InputError, match="whose sentences differ"):
        tasks.order_items([Document("d", "g", "Ha. Ha. Ha. Ha.")], 5, seed=0)


def test_story_cloze_is_read_from_the_official_form(tmp_path):
    rows = [["id1", "A.", "B.", "C.", "D.", "Right.", "Wrong.", "1"],
            ["id2", "E.", "F.", "G.", "H.", "Wrong.", "Right.", "2"]]  # fmt: skip
    first, second = tasks.read_cloze(_cloze(tmp_path / "cloze.csv", rows))
    assert first.options == (("A. B. C. D.", " Right."), ("A. B. C. D.", " Wrong."))
    assert second.options[0] == ("E. F. G. H.", " Right.")
    rows[1][-1] = ""
    with pytest.raises(InputError, match="row 2 has no answer"):
        tasks.read_cloze(_cloze(tmp_path / "cloze.csv", rows))
    with pytest.raises(InputError, match="InputSentence2 is missing"):
        tasks.read_cloze(_cloze(tmp_path / "cloze.csv", [["1", "A."]], ["InputSentence1"]))
    with pytest.raises(InputError, match="can't be read"):
        tasks.read_cloze(tmp_path / "none.csv")


def test_answers_compare_sums_of_log_probabilities(tiny_model, tiny_tokenizer):
    writer = make_writer(tiny_model("gpt2"), tiny_tokenizer)
    items = [
        Item(str(i), (("The sea", f" slept {i}"), ("A king", f" slept {i}"))) for i in range(9)
    ]
    found = tasks.answer(writer, ChoiceTest("any", items, 0.5))
    for item, right in zip(items, found.right, strict=True):
        sums = []
        for context, text in item.options:
            before = [0, *tiny_tokenizer(context)["input_ids"]]
            ids = [*before, *tiny_tokenizer(text)["input_ids"]]
            with torch.no_grad():
                logs = writer.model(torch.tensor([ids])).logits[0].log_softmax(-1)
            places = range(len(before) - 1, len(ids) - 1)
            sums.append(sum(logs[place, ids[place + 1]].item() for place in places))
        assert right == (sums[0] > sums[1])


def test_ranks_ties_and_shares_by_hand(monkeypatch, tiny_tokenizer):
    scores = [-5.0, -1.0, -7.0, -5.0, -2.0, -2.0]  # ranks: 2.5 of 4 (one above, one tie); 1.5 of 2
    monkeypatch.setattr(tasks, "score_continuations", lambda *a, **k: scores)
    writer = make_writer(None, tiny_tokenizer)
    items = [Item("a", (("", "x"),) * 4), Item("b", (("", "x"),) * 2)]
    test = ChoiceTest(tasks.RANKING, items, 0.1)
    found = tasks.answer(writer, test)
    assert found == Answers(["a", "b"], [0.0, 0.5], [2.5, 1.5])
    figures = tasks.accuracy(test, found)
    assert figures["accuracy"] == 0.25
    assert figures["mean_reciprocal_rank"] == pytest.approx((1 / 2.5 + 1 / 1.5) / 2)
    # Of three wrong options one is above and one ties: 1.5 below; of one, half.
    order = ChoiceTest(tasks.ORDER, items, 0.5)
    assert tasks.accuracy(order, found)["accuracy"] == pytest.approx(2 / 4)


def test_wilson_interval_by_hand():
    low, high = tasks.wilson(0.5, 100)
    half = 1.959964 * math.sqrt(0.25 / 100 + 1.959964**2 / 40000) / (1 + 1.959964**2 / 100)
    assert (low, high) == (pytest.approx(0.5 - half), pytest.approx(0.5 + half))
    low, high = tasks.wilson(1.0, 10)
    assert low < 0.8 and high == pytest.approx(1)


def test_planned_tests_stand_beside_chance_and_the_first_model(tmp_path):
    rows = [["1", "A.", "B.", "C.", "D.", "Yes.", "No.", "1"]]
    path = str(_cloze(tmp_path / "c.csv", rows))
    tests = planned_tests(_documents(), EvaluationSettings(rank=4, order=3, cloze=path))
    assert [(test.name, test.chance) for test in tests] == [
        ("prompt_ranking", 0.1), ("story_cloze", 0.5), ("sentence_order", 0.5),
    ]  # fmt: skip
    ranking = tests[0]
    worse = Answers(["a", "b", "c", "d"], [0, 0, 1, 0], [3, 2, 1, 9])
    better = Answers(["a", "b", "c", "d"], [1, 0, 1, 0], [1, 2, 1, 5])
    figures = choice_figures(ranking, {"base": worse, "tuned": better})
    assert figures["gain"]["tuned"]["accuracy"] == 0.25 and figures["base"]["chance"] == 0.1
    order = tests[2]
    ranks = [[15, 15, 1], [1, 15, 1]]
    first, second = (Answers(["a", "b", "c"], [0, 0, 0], r) for r in ranks)
    figures = choice_figures(order, {"base": first, "tuned": second})
    assert figures["base"]["accuracy"] == pytest.approx(1 / 3)
    assert figures["gain"]["tuned"]["accuracy"] == pytest.approx(1 / 3)
