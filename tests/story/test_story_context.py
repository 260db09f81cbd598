"""What the model sees of a story, and that the account of it is true."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from writers import make_writer

from creativewritinggpt.errors import InputError
from creativewritinggpt.generation.engine import write
from creativewritinggpt.generation.forced import ForcedReader
from creativewritinggpt.generation.results import Token
from creativewritinggpt.generation.sampling.settings import GenerationSettings
from creativewritinggpt.generation.text import encode
from creativewritinggpt.story.context import Part, passage_parts, passage_tokens, story_view
from creativewritinggpt.story.tree import Lore, Passage, Setup, Story

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


def _parts(writer: Any, story: Story, passage: Passage) -> list[Part]:
    return list(passage_parts(writer, story, passage))


def test_a_passage_is_read_in_the_views_in_which_the_engine_writes_it(writer: Any) -> None:
    """As the decoder records them: the view moves where it moved while the text was written."""
    settings = GenerationSettings(max_new_tokens=300, min_new_tokens=300, seed=3)
    story = Story()
    for _ in range(8):
        story.write(SENTENCE)
    seen = story_view(writer, story)
    written = write(writer, seen.prompt, settings, memory="The sea.\n\n", alternatives=2)[0]
    setup = Setup(writer.name, memory="The sea.\n\n")
    passage = story.write(written.text, by="model", setup=setup, start=seen.start)
    ids = [token.id for token in written.tokens]
    parts = list(passage_parts(writer, story, passage, written.tokens))
    assert len(parts) > 2 and [one for part in parts for one in part.ids] == ids
    found = list[Token]()
    reader = ForcedReader(writer)
    for part in parts:
        assert len(part.view) + len(part.ids) - 1 <= writer.context_length
        found += _drained(reader.tokens(part.view, part.ids))
    for token, was in zip(found, written.tokens, strict=True):
        assert token.logprob == pytest.approx(was.logprob, abs=1e-4)
        assert token.rank == was.rank
    # A change of memory after the writing is no part of its record.
    story.set("memory", memory="Another tale.")
    assert list(passage_parts(writer, story, passage, written.tokens)) == parts
    # Another model did not write it.
    other = dataclasses.replace(passage, setup=Setup("another"))
    assert "Another" in writer.tokenizer.decode(_parts(writer, story, other)[0].view)


def test_a_copied_passage_keeps_its_view_only_behind_the_same_text(writer: Any) -> None:
    story = Story()
    story.write(SENTENCE)
    setup = Setup(writer.name, memory="The sea.\n\n")
    story.write("The captain laughed at the lamp.", by="model", setup=setup)
    story.edit(story.text.replace("went out", "stayed on"))
    [copied] = [one for one in story.path() if one.copy_of is not None]
    assert "The sea" not in writer.tokenizer.decode(_parts(writer, story, copied)[0].view)
    cut = story.offer("The captain", 0, by="model", setup=setup, copy_of=1)
    assert "The sea" in writer.tokenizer.decode(_parts(writer, story, cut)[0].view)


def test_passages_are_read_on_from_each_other_and_give_the_same_numbers(writer: Any) -> None:
    story = Story()
    passages = [story.write(f"{SENTENCE}Then number {n} came. ") for n in range(6)]
    shared, alone = ForcedReader(writer), list[Token]()
    together = list[Token]()
    for passage in passages:
        for part in _parts(writer, story, passage):
            together += _drained(shared.tokens(part.view, part.ids, alternatives=3))
            alone += _drained(ForcedReader(writer).tokens(part.view, part.ids, alternatives=3))
    assert len(together) > 100
    for one, other in zip(together, alone, strict=True):
        assert (one.id, one.rank) == (other.id, other.rank)
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert one.entropy == pytest.approx(other.entropy, abs=1e-4)


def test_the_end_of_a_prompt_that_was_reopened_is_left_out_of_the_view(writer: Any) -> None:
    story = Story()
    story.write(SENTENCE)
    vocabulary = writer.tokenizer.get_vocab()
    token = next(i for name, i in vocabulary.items() if name.startswith("Ġ") and len(name) > 2)
    word = writer.tokenizer.decode([token])
    first = Token(token, word[1:], word[1:].encode(), -1.0, 1, 1.0, 1.0)
    passage = story.write(word[1:], by="model", setup=Setup(writer.name))
    [part] = passage_parts(writer, story, passage, [first])
    assert writer.tokenizer.decode(part.view[1:]) == SENTENCE.removesuffix(" ")
    assert (part.ids, part.spans) == ([token], [(0, len(word) - 1)])
    # Without the record the text alone leads to the same tokens, and the passage keeps its text.
    assert _parts(writer, story, passage) == [part]
    found = passage_tokens(writer, story, passage, 2)
    assert b"".join(one.bytes for one in found).decode() == passage.text


def test_tokens_of_an_own_passage_join_to_its_text(writer: Any) -> None:
    story = Story()
    for text in ("The lamp went", " out. “Nobody,” she said, 🐉", "🐉 and laughed.\n\n", "  So"):
        passage = story.write(text)
        found = passage_tokens(writer, story, passage, 2)
        assert b"".join(one.bytes for one in found).decode() == text
        assert all(one.before and one.rank >= 1 for one in found)


def _drained(steps: Any) -> Any:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
