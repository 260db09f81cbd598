"""The record of choices: what is kept, what undo does to it, and a damaged one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from creativewritinggpt.story import choices
from creativewritinggpt.story.file import StoryFile, dump, load, read_story
from creativewritinggpt.story.tree import Setup, Story

SETUP = Setup("tiny")


def _model(story: Story, text: str, seed: int = 0) -> int:
    return story.write(text, by="model", setup=SETUP, seed=seed).id


def _offered() -> tuple[Story, list[int]]:
    """A story with a beginning by the writer and three passages that were shown after it."""
    story = Story()
    story.write("The night ferry was late,")
    texts = (" as ever.", " and nobody minded.", " so Mara slept.")
    shown = [story.offer(text, by="model", setup=SETUP, seed=n).id for n, text in enumerate(texts)]
    choices.offer(story, shown)
    return story, shown


def _kinds(story: Story) -> list[str]:
    return [choice.kind for choice in story.choices]


def test_a_pick_keeps_what_was_shown_in_its_order() -> None:
    story, shown = _offered()
    order = [shown[2], shown[0], shown[1]]
    choices.pick(story, order, shown[0], "studio")
    unanswered, taken = story.choices
    assert (unanswered.offered, unanswered.chosen) == (tuple(shown), None)
    assert (taken.offered, taken.chosen, taken.source) == (tuple(order), shown[0], "studio")
    assert taken.time.endswith("+00:00") and story.text.endswith("as ever.")


def test_one_passage_alone_is_no_choice() -> None:
    story, shown = _offered()
    before = len(story.choices)
    choices.offer(story, shown[:1])
    choices.pick(story, shown[:1], shown[0])
    assert len(story.choices) == before and story.state.head == shown[0]


def test_undo_marks_a_pick_and_redo_takes_the_mark_back() -> None:
    story, shown = _offered()
    choices.pick(story, shown, shown[1])
    assert choices.undo(story) == ["pick"]
    assert (story.choices[-1].kind, story.choices[-1].of) == ("undo", 1)
    assert choices.taken_back(story) == {1}
    choices.redo(story)
    assert (story.choices[-1].kind, story.choices[-1].of) == ("redo", 2)
    assert choices.taken_back(story) == {2}
    choices.undo(story)
    assert choices.taken_back(story) == {1, 2}
    choices.redo(story)
    assert choices.taken_back(story) == {2, 4} and len(story.choices) == 6


def test_an_undone_passage_of_the_model_is_recorded_and_the_writers_own_is_not() -> None:
    story = Story()
    story.write("The lamp")
    passage = _model(story, " went out.")
    story.set("memory", memory="A tale of the sea.")
    assert choices.undo(story, 3) == ["memory", "a passage by the model", "a passage by the writer"]
    [choice] = story.choices
    assert (choice.kind, choice.offered, choice.of) == ("undo", (passage,), None)
    choices.redo(story, 3)
    assert _kinds(story) == ["undo", "redo"] and choices.taken_back(story) == {0}


def test_undo_beyond_the_beginning_records_nothing() -> None:
    story = Story()
    assert choices.undo(story, 5) == [] and choices.redo(story, 5) == [] and not story.choices


def test_an_undone_retry_is_marked() -> None:
    story = Story()
    story.write("The lamp")
    first = _model(story, " went out.")
    second = story.write(" burned on.", story.passages[first].parent, "retry", by="model").id
    choices.retry(story, first, second)
    choices.undo(story)
    assert _kinds(story) == ["retry", "undo"] and choices.taken_back(story) == {0}
    assert story.choices[0].offered == (first, second)


def _written() -> tuple[Story, list[int]]:
    story = Story()
    story.write("The night ferry was late, and the lamp was out. ")
    ids = [
        _model(story, "The ferryman looked at the water for a long while. "),
        _model(story, "Nobody spoke until the bell rang twice. "),
        _model(story, "Then the harbour came out of the fog. "),
    ]
    return story, ids


def test_an_edit_names_what_it_replaced_at_each_place() -> None:
    story, ids = _written()
    text = story.text.replace("looked at the water", "watched the black water")
    assert choices.edit(story, text.replace("out of the fog", "near"))
    first, second = story.choices
    assert (first.replaced, second.replaced) == ((ids[0],), (ids[2],))
    new = ["".join(story.passages[place].text for place in one.by) for one in story.choices]
    assert "black water" in new[0] and "came near" in new[1]
    assert ids[1] not in first.replaced + second.replaced, "a copied passage is not replaced"
    choices.undo(story)
    assert choices.taken_back(story) == {0, 1}
    choices.redo(story)
    assert choices.taken_back(story) == {2, 3}


def test_added_text_is_no_judgement_and_deleted_text_is_one() -> None:
    story, ids = _written()
    choices.edit(story, story.text.replace("Nobody spoke", "The oars were wet. Nobody spoke", 1)
                 .replace("The oars were wet. Nobody", "The oars were wet.\n\nNobody"))  # fmt: skip
    assert all(not choice.replaced or choice.by for choice in story.choices)
    story, ids = _written()
    choices.edit(story, story.text + "She stood up.")
    assert not story.choices
    choices.edit(story, story.text.replace("Nobody spoke until the bell rang twice. ", ""))
    [choice] = story.choices
    assert (choice.replaced, choice.by) == ((ids[1],), ())


def test_a_second_edit_of_the_same_place_is_recorded_and_one_of_own_text_is_not() -> None:
    story, ids = _written()
    choices.edit(story, story.text.replace("until the bell", "before the bell"))
    choices.edit(story, story.text.replace("before the bell", "before a bell"))
    assert [choice.replaced for choice in story.choices] == [(ids[1],), story.choices[0].by]
    choices.edit(story, story.text.replace("The night ferry", "The last ferry"))
    assert len(story.choices) == 2


def test_choices_come_back_from_the_file(tmp_path: Path) -> None:
    story, shown = _offered()
    choices.pick(story, shown, shown[1])
    choices.undo(story)
    choices.redo(story)
    passage = story.write(" said", did="pick")
    choices.token(story, shown[1], " minded")
    choices.edit(story, story.text.replace("nobody", "no one"))
    file = StoryFile(tmp_path / "ferry.json")
    file.open()
    file.save(story)
    file.close()
    again = read_story(file.path)
    assert again.choices == story.choices and not again.remarks
    assert again.choices[4].chosen == passage.id and again.choices[4].text == " minded"
    assert dump(again) == file.path.read_text("utf-8")


def test_a_file_without_choices_has_no_such_key() -> None:
    assert "choices" not in json.loads(dump(Story()))


DAMAGED: list[Any] = [
    {"kind": "wink", "offered": [1, 2]},
    {"kind": "pick", "offered": [1, 99], "chosen": 1},
    {"kind": "pick", "offered": [1, 2], "chosen": 3},
    {"kind": "pick", "offered": "12"},
    {"kind": "pick", "offered": [1, True]},
    {"kind": "pick", "offered": 7},
    {"kind": "undo", "of": 4000},
    {"kind": "undo", "of": -1},
    {"kind": "retry", "offered": [1, 2], "chosen": 2, "time": 12},
    {"kind": "pick", "offered": [1, 2], "mood": "good"},
    {"offered": [1, 2]},
    "pick",
    None,
    17,
]


@pytest.mark.parametrize("damaged", DAMAGED, ids=str)
def test_a_damaged_choice_is_set_aside_and_the_story_opens(damaged: Any) -> None:
    story, shown = _offered()
    choices.pick(story, shown, shown[1])
    choices.undo(story)
    record = json.loads(dump(story))
    record["choices"].insert(1, damaged)
    record["choices"][3]["of"] = 2
    again = load(record, "ferry.json")
    assert again.text == story.text and again.choices == story.choices
    assert again.set_aside == [damaged] and "1 choice in the file" in again.remarks[0]
    kept = json.loads(dump(again))
    assert kept["choices_set_aside"] == [damaged]
    assert not load(kept, "ferry.json").remarks, "it is said once"


@pytest.mark.parametrize("whole", [{"a": 1}, "lost", 3, None, True], ids=str)
def test_a_record_that_is_no_list_is_set_aside_whole(whole: Any) -> None:
    record = json.loads(dump(_offered()[0]))
    record["choices"] = whole
    story = load(record, "ferry.json")
    assert story.choices == [] and story.set_aside == [whole] and story.remarks


def test_the_undo_of_a_damaged_choice_is_set_aside_too() -> None:
    story, shown = _offered()
    choices.pick(story, shown, shown[1])
    choices.undo(story)
    record = json.loads(dump(story))
    record["choices"][1]["kind"] = "?"
    again = load(record, "ferry.json")
    assert _kinds(again) == ["pick"] and len(again.set_aside) == 2
