"""What the model sees of a text that is longer than its window.

The view moves seldom and far: when it is full, at least a quarter of the window is given up at
once, up to the next paragraph, since every move means reading the view anew. What is pinned stays:
the memory at the front, the author's note a few paragraphs before the end.

    [start of text] [memory] … paragraphs … [note] … last paragraphs … → next token
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..errors import InputError
from .text import Vocabulary

# Paragraphs between the author's note and the end of the text.
NOTE_DEPTH = 3


@dataclasses.dataclass(frozen=True)
class Pinned:
    """Token ids that stay in view however long the text gets."""

    memory: Sequence[int] = ()
    note: Sequence[int] = ()


@dataclasses.dataclass(frozen=True)
class View:
    """What the model reads, and where in the text it begins.

    Attributes:
        ids: Start of text, memory, the visible text with the note in it.
        start: Index of the first visible token of the text.
    """

    ids: list[int]
    start: int


def make_view(
    body: Sequence[int],
    words: Vocabulary,
    *,
    window: int,
    bos_id: int,
    pinned: Pinned | None = None,
    start: int = 0,
) -> View:
    """The view on a text, with room for at least one more token.

    Args:
        body: All tokens of prompt and text.
        words: What they stand for.
        window: Tokens that the model can see.
        bos_id: The token that stands at the start of every text.
        pinned: What stays in view.
        start: Where the view began so far; it moves on only if it must.

    Raises:
        InputError: The pinned text takes more than half of the window.
    """
    pinned = pinned or Pinned()
    fixed = 1 + len(pinned.memory) + len(pinned.note)
    if fixed > window // 2:
        raise InputError(
            f"memory and note take {fixed} of the model's {window} tokens",
            "shorten them to less than half of the window",
        )
    if len(body) - start >= window - fixed:
        start = _next_start(body, words, len(body) - (window - window // 4 - fixed), len(body))
    visible = list(body[start:])
    if pinned.note:
        place = _note_place(visible, words)
        visible = visible[:place] + list(pinned.note) + visible[place:]
    return View([bos_id, *pinned.memory, *visible], start)


def _next_start(body: Sequence[int], words: Vocabulary, least: int, end: int) -> int:
    """The best place at or after ``least`` to begin: a paragraph, a line, a sentence, a token.

    It is sought in the next third of what would be left, so that most of the view is kept.
    """
    last = least + (end - least) // 3
    for ending in (b"\n\n", b"\n", b".", b" "):
        for place in range(least, last):
            before = b"".join(words.bytes_of(token) for token in body[max(0, place - 2) : place])
            if ending == b".":
                before = before.rstrip(b"\"'\x9d\x80\xe2)")
            if before.endswith(ending) and not words.bytes_of(body[place]).startswith(b"\n"):
                return place
    return least


def _note_place(visible: Sequence[int], words: Vocabulary) -> int:
    """Where the note goes: before the last few paragraphs, or at the front of a shorter text."""
    found = 0
    for place in range(len(visible) - 1, 0, -1):
        begins = not words.bytes_of(visible[place]).startswith(b"\n")
        if begins and words.bytes_of(visible[place - 1]).endswith(b"\n"):
            found += 1
            if found == NOTE_DEPTH:
                return place
    return 0


def characters(body: Sequence[int], words: Vocabulary) -> int:
    """How many characters of text ``body`` stands for."""
    return len(b"".join(words.bytes_of(token) for token in body).decode(errors="ignore"))
