"""What the model sees of a story, and that the account of it is true."""

from __future__ import annotations

from typing import Any

import pytest
from writers import make_writer

from creativewritinggpt.errors import InputError
from creativewritinggpt.generation.text import encode
from creativewritinggpt.story.context import story_view
from creativewritinggpt.story.tree import Lore, Setup, Story

SENTENCE = "The lamp went out, and the captain laughed at the sea. "


@pytest.fixture
def writer(tiny_model: Any, tiny_tokenizer: Any) -> Any:
    return make_writer(tiny_model("gpt2"), tiny_tokenizer)


def test_a_short_story_is_seen_whole(writer: Any) -> None:
    story = Story()
    story.write(SENTENCE)
    seen = story_view(writer, story)
    assert (seen.prompt, seen.start, seen.memory, seen.note) == (SENTENCE, 0, "", "")
    assert seen.used == 1 + len(encode(writer.tokenizer, SENTENCE))


def test_memory_and_note_stay_in_view_of_a_story_that_overflows(writer: Any) -> None:
    story = Story()
    for _ in range(40):
        story.write(SENTENCE)
    story.set("memory", memory="A tale of the sea.", note="Be brief.")
    seen = story_view(writer, story)
    assert seen.memory == "A tale of the sea.\n\n" and seen.note == "Be brief.\n"
    assert seen.start > 0 and story.text.endswith(seen.prompt)
    assert seen.start + len(seen.prompt) == len(story.text)
    assert seen.context_length // 2 < seen.used < seen.context_length
    assert seen.tokens["text"] == len(encode(writer.tokenizer, seen.prompt))


def test_the_view_stays_where_it_began_until_it_is_full(writer: Any) -> None:
    story = Story()
    setup = Setup(writer.name)
    starts = []
    for _ in range(60):
        seen = story_view(writer, story)
        starts.append(seen.start)
        story.write("The captain laughed. ", by="model", setup=setup, start=seen.start)
    assert starts == sorted(starts)
    assert 3 < len(set(starts)) < 30


def test_lore_enters_by_whole_words_in_any_case_and_only_when_near(writer: Any) -> None:
    story = Story()
    story.write("The KING's men.")
    story.set("lore", lore=(Lore(("king",), "He is old."), Lore(("men at arms",), "No."),
                            Lore(("kin",), "No."), Lore((), "It rains.", True)))  # fmt: skip
    assert story_view(writer, story).memory == "He is old.\n\nIt rains.\n\n"
    story.write(" sea" * 1000)
    assert story_view(writer, story).memory == "It rains.\n\n"


def test_lore_without_room_is_left_out_and_named(writer: Any) -> None:
    story = Story()
    story.write("The king laughed.")
    short, long = Lore(("king",), "Old."), Lore(("king",), SENTENCE * 9)
    story.set("lore", lore=(long, short))
    seen = story_view(writer, story)
    assert (seen.lore, seen.left_out) == ((short,), (long,))


def test_memory_that_takes_half_of_the_window_is_refused(writer: Any) -> None:
    story = Story()
    story.set("memory", memory=SENTENCE * 9)
    with pytest.raises(InputError, match="memory and note take"):
        story_view(writer, story)


def test_a_line_of_100_000_characters_is_no_trouble(writer: Any) -> None:
    story = Story()
    story.write("x" * 100_000)
    seen = story_view(writer, story)
    assert seen.used < seen.context_length and story.text.endswith(seen.prompt) and seen.prompt
