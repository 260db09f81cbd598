"""Edits of a part of the text, bursts of typing, and how little they cost in the file."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creativewritinggpt.errors import InputError
from creativewritinggpt.story.compact import packed, unpacked
from creativewritinggpt.story.file import StoryFile, dump, load, read_story
from creativewritinggpt.story.splice import LONGEST, Typing, splice, split
from creativewritinggpt.story.tree import Setup, Story

TEXTS = st.text("ab .\n🌧", max_size=40)
EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 60), TEXTS, st.booleans()), max_size=12)


@given(st.lists(st.tuples(TEXTS, st.sampled_from(["writer", "model"])), max_size=5), EDITS)
def test_edits_give_the_text_and_one_step_each(
    passages: list[tuple[str, str]], edits: list[tuple[float, int, str, bool]]
) -> None:
    story = Story()
    for text, by in passages:
        if text:
            story.write(text, by=by, setup=Setup("tiny") if by == "model" else None)
    story.chapter("The Title")
    wanted, texts, burst = story.text, [story.text], None
    for share, length, insert, typed in edits:
        start = int(share * len(wanted))
        end = min(len(wanted), start + length)
        wanted = wanted[:start] + insert + wanted[end:]
        if not typed:
            burst = None
            splice(story, start, end, insert)
            texts.append(wanted)
        elif burst is not None and burst.takes(start, end):
            burst.go_on(start, end, insert)
            texts[-1] = wanted
        else:
            burst = Typing(story, start, end, insert)
            texts.append(wanted)
        assert story.text == wanted
    again = load(json.loads(dump(story)), "the story")
    assert again.text == wanted and again.passages == story.passages
    seen = [story.text]
    while story.undo():
        seen.append(story.text)
    steps = [text for text, _ in itertools.groupby(reversed(seen))]
    wanted_steps = [text for text, _ in itertools.groupby(texts)]
    assert steps[len(steps) - len(wanted_steps) :] == wanted_steps


def test_an_edit_in_a_passage_of_the_model_leaves_the_rest_the_model_s() -> None:
    story = Story()
    setup = Setup("tiny")
    story.write("The lamp went out. ", by="model", setup=setup, seed=4)
    story.write("Nobody moved.", by="writer")
    splice(story, 4, 8, "fire")
    found = [(passage.text, passage.by, passage.copy_of) for passage in story.path()]
    assert found == [
        ("The ", "model", 0), ("fire", "writer", None), (" went out. ", "model", 0),
        ("Nobody moved.", "writer", 1),
    ]  # fmt: skip
    assert story.path()[0].setup == setup and story.path()[0].seed == 4


def test_a_heading_stays_a_heading_when_a_letter_of_it_changes() -> None:
    story = Story()
    story.chapter("The Nihgt")
    splice(story, 4, 9, "Night")
    assert story.chapters() == [("The Night", "")]


def test_an_edit_beyond_the_text_is_refused() -> None:
    story = Story()
    story.write("short")
    for start, end in ((0, 6), (6, 6), (-1, 2), (3, 2)):
        with pytest.raises(InputError):
            splice(story, start, end, "x")
    assert story.text == "short"


def test_a_burst_of_typing_is_one_step_and_leaves_no_rests() -> None:
    story = Story()
    for number in range(50):
        story.write(f"Passage {number}. ", by="model", setup=Setup("tiny"))
    before, count = story.text, len(story.passages)
    typing = Typing(story, 20, 20, "l")
    for place, letter in enumerate("antern", 21):
        assert typing.takes(place, place)
        typing.go_on(place, place, letter)
    typing.go_on(25, 27, "")
    assert story.text == before[:20] + "lante" + before[20:]
    assert len(story.passages) <= count + 53
    story.undo()
    assert story.text == before


def test_long_text_is_split_where_paragraphs_end() -> None:
    text = ("word " * 100 + "\n") * 60 + "x" * 9000
    pieces = split(text)
    assert "".join(pieces) == text and max(map(len, pieces)) <= LONGEST
    assert all(piece.endswith("\n") for piece in pieces[:-4])


def test_a_novel_that_is_edited_often_does_not_grow_by_its_copies(tmp_path: Path) -> None:
    story = Story()
    for number in range(300):
        text = f"{number}: " + "the night ferry was late again. " * 40
        story.write(text, by="model", setup=Setup("tiny"), seed=number)
    once = len(dump(story))
    for number in range(200):
        place = (number * 7919) % len(story.text)
        splice(story, place, place + 3, f"edit {number}")
    file = StoryFile(tmp_path / "novel.json")
    file.open()
    file.save(story)
    file.close()
    assert json.loads(file.path.read_text("utf-8"))["version"] == 2
    assert file.path.stat().st_size < 3 * once
    again = read_story(file.path)
    assert again.passages == story.passages and again.history == story.history


def test_a_short_story_is_written_in_form_1() -> None:
    story = Story()
    story.write("It rained. ", by="model", setup=Setup("tiny"))
    splice(story, 3, 9, "snowed")
    assert json.loads(dump(story))["version"] == 1


@pytest.mark.parametrize(
    "record",
    [
        {"parent": -1, "copies": [0, 1]}, {"parent": 0, "copies": [0, 2]},
        {"parent": 0, "copies": [True, 1]}, {"parent": 0, "copies": [0, 0]},
        {"parent": 0, "copies": 3}, {"parent": 0, "copy_of": 0, "text": [0, 99]},
        {"parent": 0, "copy_of": 5, "text": [0, 1]}, {"parent": 0, "text": [0, 1]},
    ],
)  # fmt: skip
def test_damaged_copies_are_refused(record: dict[str, object]) -> None:
    first = [] if record["parent"] == -1 else [{"parent": -1, "text": "abc", "by": "writer"}]
    document = json.loads(dump(Story())) | {"version": 2, "passages": [*first, record]}
    with pytest.raises(InputError, match="damaged"):
        load(document, "the story")


def test_a_file_of_copies_of_copies_is_no_bomb() -> None:
    records: list[dict[str, object]] = [{"parent": -1, "text": "a", "by": "writer"}]
    records += [{"parent": 0, "copies": [0, 2**number]} for number in range(40)]
    with pytest.raises(ValueError, match="too many"):
        unpacked(records)
    assert packed([]) is None
