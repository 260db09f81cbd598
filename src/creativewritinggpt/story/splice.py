"""Edits of a part of the text: what they touch is split, everything else keeps its record.

    passage 4                 passage 5              splice(6, 11, "dim")
    [The lamp ][went out. ]   [Nobody moved. ]
         ↓
    [The la][dim][ut. ][Nobody moved. ]              parts and copies name what they repeat

The parts of a passage that an edit leaves stay whose they were. Passages behind the edit are
copied, since passages never change, but their texts are shared, in memory and in the file.

Trade-off: an edit costs one object for each passage behind it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from ..errors import InputError
from .tree import NOTHING, Passage, State, Story

LONGEST = 4000
"""Characters of a passage by the writer; longer ones are split at the ends of paragraphs."""
_SHORT = 300  # characters of neighbouring passages by the writer that become one
_BREAK = re.compile(r"\n+|(?<=[.!?…])\s+|\s+")


@dataclasses.dataclass(frozen=True)
class Spliced:
    """What an edit made.

    Attributes:
        touched: Ids of the passages that it cut or replaced.
        made: Ids of what stands in their place.
        inserted: Id of the passage that holds the inserted text; None if there are several or none.
        left: What that passage holds before it.
        right: What it holds after it.
    """

    touched: tuple[int, ...]
    made: tuple[int, ...]
    inserted: int | None = None
    left: str = ""
    right: str = ""


def splice(
    story: Story, start: int, end: int, insert: str, did: str = "edit", by: str = "writer"
) -> Spliced:
    """Replace characters ``start`` to ``end`` of the branch's text; one step to undo.

    Args:
        story: The story.
        start: First character that is replaced.
        end: The character after the last one.
        insert: The text in their place.
        did: Name of the step.
        by: Whose it is.

    Raises:
        InputError: The text does not have these characters.
    """
    path = story.path()
    first = place = 0
    while first < len(path) and place + len(path[first].text) <= start:
        place += len(path[first].text)
        first += 1
    last, begin = first, place
    while last < len(path) and (begin < end or (last == first and place < start)):
        begin += len(path[last].text)
        last += 1
    if not 0 <= start <= end or end > begin or (start > place and first == last):
        raise InputError("the story does not have this part")
    touched = path[first:last]
    before = touched[0].text[: start - place] if touched else ""
    after = touched[-1].text[len(touched[-1].text) - (begin - end) :] if touched else ""
    middle = _middle(touched, before, insert, after, by)
    kept, tail = path[:first], path[last:]
    if middle and kept and _joins(kept[-1], middle[0]):
        middle.insert(0, _Part(kept.pop()))
    if middle and tail and _joins(tail[0], middle[-1]):
        middle.append(_Part(tail.pop(0)))
    middle = _merged(middle)
    parent = kept[-1].id if kept else NOTHING
    made: list[int] = []
    inserted = [part for part in middle if part.inserted is not None]
    found, left, right = None, "", ""
    for part in middle:
        parent = story.offer(part.text, parent, **part.details()).id
        made.append(parent)
        if part.inserted is not None and len(inserted) == 1:
            found, (left, right) = parent, part.inserted
    for passage in tail:
        parent = _copy(story, passage, parent)
    story.go(parent, did)
    return Spliced(tuple(passage.id for passage in touched), tuple(made), found, left, right)


class _Part:
    """A part of a passage, or text of the writer, on its way into the story."""

    def __init__(
        self, source: Passage | None, text: str | None = None, by: str | None = None
    ) -> None:
        self.source = source
        self.text = text if text is not None else source.text if source else ""
        self.by = by or (source.by if source else "writer")
        # What stands before and after the inserted text; None where there is none of it.
        self.inserted: tuple[str, str] | None = None if source else ("", "")

    @property
    def plain(self) -> bool:
        """Whether it is text of the writer without a record."""
        return self.by == "writer" and (self.source is None or self.source.setup is None)

    def details(self) -> dict[str, object]:
        """Further fields of its passage."""
        if self.source is None or self.by != self.source.by:
            return {"by": self.by}
        return _record(self.source)


def _record(source: Passage) -> dict[str, object]:
    found: dict[str, object] = {
        name: getattr(source, name) for name in ("by", "setup", "seed", "start")
    }
    found["copy_of"] = source.id if source.copy_of is None else source.copy_of
    return found


def _copy(story: Story, passage: Passage, parent: int) -> int:
    place = len(story.passages)
    origin = passage.id if passage.copy_of is None else passage.copy_of
    story.passages.append(
        Passage(place, parent, passage.text, passage.by, passage.setup, passage.seed,
                passage.start, origin)
    )  # fmt: skip
    return place


def _middle(
    touched: Sequence[Passage], before: str, insert: str, after: str, by: str
) -> list[_Part]:
    """What stands in the place of the passages that an edit touches."""
    first, last = (touched[0], touched[-1]) if touched else (None, None)
    if first is not None and first is last and first.by == "chapter" and (before or after):
        heading = before + insert + after
        if heading.strip() and "\n" not in heading.strip():
            part = _Part(None, heading, "chapter")
            part.inserted = None
            return [part]
    parts: list[_Part] = []
    for passage, text in ((first, before), (None, insert), (last, after)):
        for one in split(text):
            if passage is not None and passage.by == "chapter" and not one.strip():
                parts.append(_Part(passage, one, "writer"))
            else:
                parts.append(_Part(passage, one, by if passage is None else None))
    return parts


def _joins(passage: Passage, part: _Part) -> bool:
    return (
        part.plain
        and passage.by == "writer"
        and passage.setup is None
        and len(passage.text) + len(part.text) <= _SHORT
    )


def _merged(parts: list[_Part]) -> list[_Part]:
    """The parts with short neighbours by the writer in one."""
    found: list[_Part] = []
    for part in parts:
        last = found[-1] if found else None
        if not (
            last is not None and last.plain and part.plain
            and len(last.text) + len(part.text) <= _SHORT
            and (last.inserted is None or part.inserted is None)
        ):  # fmt: skip
            found.append(part)
            continue
        joined = _Part(None, last.text + part.text)
        if part.inserted is not None:
            joined.inserted = (last.text + part.inserted[0], part.inserted[1])
        elif last.inserted is not None:
            joined.inserted = (last.inserted[0], last.inserted[1] + part.text)
        else:
            joined.inserted = None
        found[-1] = joined
    return found


def split(text: str, longest: int = LONGEST) -> list[str]:
    """A text in pieces of at most ``longest`` characters that end where paragraphs do.

    Where a paragraph is longer, pieces end with a sentence or a word, and else anywhere.
    """
    pieces = []
    while len(text) > longest:
        place = text.rfind("\n", longest // 4, longest) + 1
        if not place:
            ends = [match.end() for match in _BREAK.finditer(text, longest // 2, longest)]
            place = ends[-1] if ends else longest
        pieces.append(text[:place])
        text = text[place:]
    return [*pieces, text] if text else pieces


class Typing:
    """A burst of typing in one place: one step to undo, however many edits it takes.

    What an earlier edit of the burst added to the story is taken out again, so that a burst costs
    no more than one edit.

    Args:
        story: The story, in which the burst makes its first edit now.
        start: First character that is replaced.
        end: The character after the last one.
        insert: The text in their place.
    """

    def __init__(self, story: Story, start: int, end: int, insert: str) -> None:
        self.story = story
        self.before = story.path()
        self._history, self._cursor = story.history, story.cursor
        self.mark = len(story.passages)
        self.start, self.end, self.insert = start, end, insert
        self._splice()

    def _splice(self) -> None:
        story = self.story
        self.spliced: Spliced | None = splice(story, self.start, self.end, self.insert)
        self._after: tuple[list[State], int, int] = (
            story.history, story.cursor, len(story.passages),
        )  # fmt: skip

    @property
    def open(self) -> bool:
        """Whether nothing else has happened to the story since."""
        history, cursor, count = self._after
        story = self.story
        return story.history is history and story.cursor == cursor and len(story.passages) == count

    def takes(self, start: int, end: int) -> bool:
        """Whether an edit of the text as it is now belongs to the burst: it touches its text."""
        return self.open and start <= self.start + len(self.insert) and end >= self.start

    def go_on(self, start: int, end: int, insert: str) -> None:
        """Make a further edit, for which :meth:`takes` is true, part of the burst."""
        last = self.start + len(self.insert)
        text = (
            self.insert[: max(0, start - self.start)]
            + insert
            + self.insert[max(0, end - self.start) :]
        )
        begin, stop = min(start, self.start), self.end + max(0, end - last)
        place = self.spliced.inserted if self.spliced is not None else None
        alone = (begin, stop) == (self.start, self.end) and len(text) < LONGEST
        self.start, self.end, self.insert = begin, stop, text
        if alone and text and place is not None and self.spliced is not None:
            story = self.story
            whole = self.spliced.left + text + self.spliced.right
            story.passages[place] = dataclasses.replace(story.passages[place], text=whole)
            return
        self.take_out()
        if self.start != self.end or self.insert:
            self._splice()

    def take_out(self) -> None:
        """Take the whole burst out of the story again, as if it had not been."""
        story = self.story
        story.history, story.cursor = self._history, self._cursor
        del story.passages[self.mark :]
        self.spliced = None
        self._after = (story.history, story.cursor, len(story.passages))
