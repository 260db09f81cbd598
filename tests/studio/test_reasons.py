"""Why a word of a story is there: the terminal's answer, at its places in the story."""

from __future__ import annotations

from typing import Any

import pytest
from writers import make_writer

from creativewritinggpt.analysis.why import why
from creativewritinggpt.errors import InputError
from creativewritinggpt.generation.sampling.settings import GenerationSettings
from creativewritinggpt.story.context import story_view
from creativewritinggpt.story.tree import Lore, Setup, Story
from creativewritinggpt.studio.figures import Scene
from creativewritinggpt.studio.reasons import as_record, reason_at, seen_at

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


@pytest.mark.parametrize("note", ["", "Be brief."])
def test_an_explained_passage_is_read_as_the_model_saw_it(writer: Any, note: str) -> None:
    story = Story()
    for number in range(2):
        story.write(f"{SENTENCE}Night {number} came.\n\n")
    story.write("Nobody spoke but the mate")
    lore = (Lore(("mate",), "The mate is blind.", always=True),)
    story.set("memory", memory="A tale of the sea.", note=note, lore=lore)
    scene, text = Scene.of(story, {}, GenerationSettings()), story.text
    at = text.rindex("spoke")
    seen = seen_at(writer, scene, at, at + 5)
    # The view of the terminal's /why, up to the passage.
    assert story_view(writer, story).view.startswith(seen.text) and seen.text.endswith("spoke")
    said = {name: seen.text[start:end].strip() for name, start, end in seen.parts}
    assert said["memory"] == "A tale of the sea." and said["lore"] == "The mate is blind."
    assert said.get("note", "") == note
    for first, there, count in seen.runs:
        assert seen.text[first : first + count] == text[there : there + count]
    # In mid-story the note stands where it stood then, not near the end of all.
    early = text.index("Night 1")
    there = seen_at(writer, scene, early, early + 7)
    assert there.text.endswith("Night 1") and note in there.text


def test_the_record_of_a_passage_has_the_memory_of_its_writing(writer: Any) -> None:
    story = Story()
    story.write("The king came in. ")
    setup = Setup(writer.name, {}, None, {}, "An old memory.\n\n", "")
    story.write("He sat down.", by="model", setup=setup, seed=1)
    story.set("memory", memory="A new memory.")
    seen = seen_at(writer, Scene.of(story, {}, GenerationSettings()), 18, 24)
    assert seen.text == "An old memory.\n\nThe king came in. He sat"
    assert seen.parts == [("memory", 0, 16)]


def test_a_passage_at_the_end_of_a_full_view_keeps_the_memory(writer: Any) -> None:
    story = Story()
    for number in range(40):
        story.write(f"{SENTENCE}Night {number} came. ")
    story.set("memory", memory="A tale of the sea.", note="Be brief.")
    scene, size = Scene.of(story, {}, GenerationSettings()), writer.context_length - 2
    for at in range(0, len(story.text) - 30, 173):
        seen = seen_at(writer, scene, at, at + 30)
        assert seen.text.startswith("A tale of the sea.") and "Be brief." in seen.text
        assert seen.text.endswith(story.text[at : at + 30])
        assert len(writer.tokenizer(seen.text)["input_ids"]) <= size
    with pytest.raises(InputError, match="longer than what the model sees"):
        seen_at(writer, scene, 100, 1500)


def test_a_word_that_has_fallen_out_of_view_is_explained_by_the_text_before_it(writer: Any) -> None:
    story = Story()
    for number in range(40):
        story.write(f"{SENTENCE}Night {number} came. ")
    assert story_view(writer, story).start > 1000
    at = story.text.index("Night 3 ")
    story.set("memory", memory="A tale of the sea.")
    found = reason(writer, story, at, at + 5)
    assert [part["part"] for part in found["in_view"]] == ["memory"]
    story.set("memory", memory="")
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
