"""Why a word of a story is there: the terminal's answer, at its places in the story."""

from __future__ import annotations

from typing import Any

import pytest
from writers import make_writer

from creativewritinggpt.analysis.why import why
from creativewritinggpt.errors import InputError
from creativewritinggpt.generation.sampling.settings import GenerationSettings
from creativewritinggpt.story.context import story_view
from creativewritinggpt.story.tree import Lore, Story
from creativewritinggpt.studio.figures import Scene
from creativewritinggpt.studio.reasons import as_record, reason_at

SENTENCE = "The lamp went out, and the captain laughed at the sea. "


@pytest.fixture
def writer(tiny_model: Any, tiny_tokenizer: Any) -> Any:
    return make_writer(tiny_model("gpt2"), tiny_tokenizer)


def reason(writer: Any, story: Story, start: int, end: int, unit: str = "word") -> Any:
    steps = reason_at(writer, Scene.of(story, {}, GenerationSettings()), start, end, unit)
    while True:
        try:
            next(steps)
        except StopIteration as end_:
            return as_record(*end_.value)


@pytest.mark.parametrize("memory", ["", "A tale of the sea."])
@pytest.mark.parametrize("note", ["", "Be brief."])
def test_the_answer_is_that_of_the_terminal(writer: Any, memory: str, note: str) -> None:
    story = Story()
    for number in range(5):
        story.write(f"{SENTENCE}Night {number} came.\n\n")
    story.write("Nobody spoke but the mate")
    story.set("memory", memory=memory, note=note)
    at = story.text.rindex("spoke")
    found = reason(writer, story, at - 1, at + 6)
    assert found["sentence"] == why(writer, story_view(writer, story).view, "spoke")
    for start, end, _ in found["scores"]:
        assert 0 <= start < end <= at
    words = {story.text[start:end] for start, end, _ in found["scores"]}
    assert "Nobody" in words


def test_memory_lore_and_note_are_named_as_such(writer: Any) -> None:
    story = Story()
    story.write("The king")
    lore = (Lore(("king",), "Aldric fears water."),)
    story.set("memory", memory="A tale of the sea.", note="Be brief.", lore=lore)
    found = reason(writer, story, 4, 8)
    assert [part["part"] for part in found["in_view"]] == ["memory", "lore", "note"]
    said = {part["part"]: [text for text, _ in part["pieces"]] for part in found["in_view"]}
    assert "sea." in said["memory"] and "Aldric" in said["lore"] and "brief." in said["note"]
    for part in found["in_view"]:
        assert part["score"] == pytest.approx(sum(score for _, score in part["pieces"]))
    assert [story.text[start:end] for start, end, _ in found["scores"]] == ["The"]


def test_a_word_that_has_fallen_out_of_view_is_explained_by_the_text_before_it(writer: Any) -> None:
    story = Story()
    for number in range(40):
        story.write(f"{SENTENCE}Night {number} came. ")
    assert story_view(writer, story).start > 1000
    at = story.text.index("Night 3 ")
    found = reason(writer, story, at, at + 5)
    assert found["scores"] and all(end <= at for _, end, _ in found["scores"])
    assert found["sentence"] == why(writer, story.text[: at + 5], "Night")


def test_units_and_places_that_are_none(writer: Any) -> None:
    story = Story()
    story.write(SENTENCE)
    with pytest.raises(InputError, match="no unit"):
        reason(writer, story, 4, 8, "letter")
    with pytest.raises(InputError, match="no word"):
        reason(writer, story, 3, 4)
    with pytest.raises(InputError, match="no word"):
        reason(writer, story, 900, 904)
    sentences = reason(writer, story, 24, 31, "sentence")
    assert sentences["unit"] == "sentence" and sentences["trust"]["value"] is None
    first = reason(writer, story, 0, 3)
    assert first["scores"] == [] and "Nothing stands before it" in first["sentence"]
