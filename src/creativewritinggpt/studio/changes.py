"""Changes of the story that need no model: undo, branches, chapters, memory, note, lore, title."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..story import choices
from ..story.splice import splice
from ..story.tree import NOTHING, Story
from .edits import SOURCE, checked, parsed_lore

if TYPE_CHECKING:
    from .story_desk import Desk


def undo(desk: Desk, tab: str | None, steps: int = 1) -> list[str]:
    """Undo some steps, whatever they changed; their names."""
    return list(desk.change(tab, lambda story: choices.undo(story, steps, SOURCE)))


def redo(desk: Desk, tab: str | None, steps: int = 1) -> list[str]:
    """Redo some steps; their names."""
    return list(desk.change(tab, lambda story: choices.redo(story, steps, SOURCE)))


def cut(story: Story, place: int) -> int:
    """Id of a passage with which the text up to a character ends, made where there is none."""
    path = story.path()
    for passage in path:
        if place <= 0:
            break
        if place < len(passage.text):
            details = {name: getattr(passage, name) for name in ("by", "setup", "seed", "start")}
            origin = passage.id if passage.copy_of is None else passage.copy_of
            return story.offer(passage.text[:place], passage.parent, **details, copy_of=origin).id
        place -= len(passage.text)
        if place == 0:
            return passage.id
    return NOTHING


def branch(desk: Desk, tab: str | None, name: str = "", at: int | None = None) -> str:
    """Start a branch, here or after passage ``at``; its name."""
    return str(desk.change(tab, lambda story: story.branch(name, known(desk, at))))


def known(desk: Desk, passage: Any) -> int | None:
    """The id of a passage that there is; None stays.

    Raises:
        InputError: There is none.
    """
    if passage is None:
        return None
    count = len(desk.story.passages)
    if type(passage) is not int or not NOTHING <= passage < count:
        raise InputError("there is no such passage")
    return passage


def goto(desk: Desk, tab: str | None, branch: str | None = None, passage: Any = None) -> None:
    """Go to a branch, or branch off after a passage."""

    def go(story: Story) -> None:
        if branch is not None:
            if branch not in dict(story.state.heads):
                raise InputError(f"there is no branch '{branch}'")
            story.switch(branch)
            return
        found = known(desk, passage)
        heads = {head: name for name, head in story.state.heads}
        if found in heads:
            story.switch(heads[found])
        else:
            story.branch(at=found)

    desk.change(tab, go)


def chapter(desk: Desk, tab: str | None, title: str, at: int | None = None) -> None:
    """Begin a chapter at the end, or at a place in the text (UTF-16 code units)."""

    def begin(story: Story) -> None:
        place = len(desk.text) if at is None else desk.index(at)
        if place == len(desk.text):
            story.chapter(title)
            return
        name = " ".join(title.split())
        if not name:
            raise InputError("a chapter needs a title", "type one")
        before = desk.text[max(0, place - 2) : place]
        lead = "\n" * (2 - len(before) + len(before.rstrip("\n"))) if before.strip() else ""
        splice(story, place, place, f"{lead}{name}\n\n", "chapter", by="chapter")

    desk.change(tab, begin)


def set(desk: Desk, tab: str | None, values: dict[str, Any]) -> None:
    """Change memory, note, title or lore; each is a step of its own."""
    fields: dict[str, Any] = {}
    for name, value in values.items():
        if name == "lore":
            fields[name] = parsed_lore(value)
        elif name in ("memory", "note", "title") and isinstance(value, str):
            checked(value)
            fields[name] = " ".join(value.split()) if name == "title" else value
        else:
            raise InputError(f"{name} can't be set", "memory, note, title or lore can")

    def make(story: Story) -> None:
        for name, value in fields.items():
            if getattr(story.state, name) != value:
                story.set(name, **{name: value})

    desk.change(tab, make)


def set_goal(desk: Desk, words: Any) -> None:
    """Want to write so many words a day."""
    if type(words) is not int or not 0 <= words <= 1_000_000:
        raise InputError("the goal must be a number of words", "0 is no goal")
    with desk.lock:
        desk.goal.set(words, desk.outline.words_upto(desk.story.state.head))
        desk.outline_changed()
