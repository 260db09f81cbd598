"""The story as a tree: every operation can be undone, and nothing is lost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from creativewritinggpt.errors import InputError
from creativewritinggpt.story.file import dump, load
from creativewritinggpt.story.tree import NOTHING, Lore, Passage, Setup, Story

TEXTS = st.text(st.sampled_from("ab .\n🎉é\u0301\x1b"), min_size=1, max_size=60)
SETUP = Setup("tiny", {"style": 0.5}, "steady", {"temperature": 0.7}, "A tale.", "")


def _same(one: Story, other: Story) -> bool:
    return (one.passages, one.history, one.cursor) == (other.passages, other.history, other.cursor)


class Writing(RuleBasedStateMachine):
    """Random operations; beside the story a list of the texts and states that undo must bring."""

    def __init__(self) -> None:
        super().__init__()
        self.story = Story()
        self.past: list[tuple[str, Any]] = [("", self.story.state)]
        self.future: list[tuple[str, Any]] = []

    def _done(self) -> None:
        if self.story.state is not self.past[-1][1]:
            self.past.append((self.story.text, self.story.state))
            self.future = []

    @rule(text=TEXTS)
    def write(self, text: str) -> None:
        before = self.story.text
        self.story.write(text)
        assert self.story.text == before + text
        self._done()

    @rule(text=TEXTS, seed=st.integers(0, 9))
    def model_writes(self, text: str, seed: int) -> None:
        self.story.write(text, by="model", setup=SETUP, seed=seed, start=0)
        self._done()

    @rule(texts=st.lists(TEXTS, min_size=1, max_size=3))
    def offer(self, texts: list[str]) -> None:
        before = self.story.text
        for text in texts:
            self.story.offer(text, by="model", setup=SETUP, seed=1)
        assert self.story.text == before
        self._done()

    @precondition(lambda self: self.story.passages)
    @rule(data=st.data())
    def pick(self, data: Any) -> None:
        self.story.go(data.draw(st.integers(0, len(self.story.passages) - 1)), "pick")
        self._done()

    @precondition(lambda self: self.story.last is not None)
    @rule(text=TEXTS)
    def retry(self, text: str) -> None:
        last = self.story.last
        assert last is not None
        self.story.write(text, last.parent, did="retry")
        assert last in self.story.versions() and self.story.text.endswith(text)
        self._done()

    @rule(data=st.data(), new=TEXTS)
    def edit(self, data: Any, new: str) -> None:
        old = self.story.text
        start = data.draw(st.integers(0, len(old)))
        end = data.draw(st.integers(start, len(old)))
        wanted = old[:start] + new + old[end:]
        assert self.story.edit(wanted) == (wanted != old)
        assert self.story.text == wanted
        self._done()

    @rule(title=st.sampled_from(["The Sea", "II", "  A   lamp "]))
    def chapter(self, title: str) -> None:
        self.story.chapter(title)
        assert " ".join(title.split()) in [name for name, _ in self.story.chapters()]
        self._done()

    @rule(name=st.sampled_from(["", "dark", "light"]), data=st.data())
    def branch(self, name: str, data: Any) -> None:
        path = self.story.path()
        at = data.draw(st.sampled_from([None, NOTHING, *(passage.id for passage in path)]))
        if name in dict(self.story.state.heads):
            with pytest.raises(InputError, match="already"):
                self.story.branch(name, at)
        else:
            self.story.branch(name, at)
        self._done()

    @rule(data=st.data())
    def switch(self, data: Any) -> None:
        name, head = data.draw(st.sampled_from(self.story.state.heads))
        self.story.switch(name)
        assert self.story.text == self.story.text_at(head)
        self._done()

    @rule(text=TEXTS, keys=st.lists(st.sampled_from(["king", "sea"]), max_size=2))
    def papers(self, text: str, keys: list[str]) -> None:
        before = self.story.text
        self.story.set("memory", memory=text)
        self._done()
        self.story.set("lore", lore=(Lore(tuple(keys), text, not keys),), note=text, title=text)
        assert self.story.text == before
        self._done()

    @rule(steps=st.integers(1, 3))
    def undo(self, steps: int) -> None:
        undone = self.story.undo(steps)
        assert len(undone) == min(steps, len(self.past) - 1)
        for _ in undone:
            self.future.append(self.past.pop())

    @rule(steps=st.integers(1, 3))
    def redo(self, steps: int) -> None:
        done = self.story.redo(steps)
        assert len(done) == min(steps, len(self.future))
        for _ in done:
            self.past.append(self.future.pop())

    @invariant()
    def text_and_state_are_those_of_their_time(self) -> None:
        assert (self.story.text, self.story.state) == self.past[-1]

    @invariant()
    def every_passage_can_be_reached(self) -> None:
        heads = [head for _, head in self.story.state.heads]
        ends = [passage.id for passage in self.story.ends()]
        reached = {passage.id for head in (*heads, *ends) for passage in self.story.path(head)}
        assert reached == set(range(len(self.story.passages)))
        assert not set(ends) & {passage.id for head in heads for passage in self.story.path(head)}

    @invariant()
    def save_and_load_give_the_same_tree(self) -> None:
        assert _same(load(json.loads(dump(self.story)), "story"), self.story)


Writing.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
TestWriting = Writing.TestCase


def test_an_edit_leaves_the_passages_it_does_not_touch_what_they_are() -> None:
    story = Story()
    story.write("The lamp went out, and nobody moved. ")
    made = story.write("She laughed.", by="model", setup=SETUP, seed=3)
    story.chapter("The Sea")
    late = story.write("It turned over in its sleep.", by="model", setup=SETUP, seed=4)
    assert story.edit(story.text.replace("lamp", "candle"))
    path = story.path()
    assert [passage.by for passage in path] == ["writer", "model", "chapter", "model"]
    assert [passage.copy_of for passage in path[1:]] == [made.id, made.id + 1, late.id]
    assert path[3].setup == SETUP and path[3].seed == 4


def test_an_edit_in_two_places_keeps_the_chapters_between_them() -> None:
    story = Story()
    for number in range(3):
        story.chapter(f"Part {number}")
        story.write(f"The lamp went out for the {number}th time, and nobody moved.")
    text = story.text.replace("0th", "first").replace("2th", "last")
    story.edit(text)
    assert story.text == text
    assert [title for title, _ in story.chapters()] == ["Part 0", "Part 1", "Part 2"]


def test_a_branch_keeps_its_text_while_another_is_written() -> None:
    story = Story()
    story.write("One.")
    story.branch("dark")
    story.write(" Two.")
    story.switch("main")
    assert story.text == "One."
    story.switch("dark")
    assert story.text == "One. Two."


def test_making_a_passage_part_of_a_story_never_changes_another() -> None:
    story = Story()
    first = story.write("One.")
    story.edit("Another one.")
    assert story.passages[first.id] == Passage(0, NOTHING, "One.")
