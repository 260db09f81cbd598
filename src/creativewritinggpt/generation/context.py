"""The model's view of a text that is longer than its context length.

    [start of text] [memory] … paragraphs … [note] … last paragraphs … → next token

When the view is full, at least a quarter of the context length is given up at once, up to the next
paragraph. Memory and author's note are pinned: they stay in view.

Trade-off: the view moves seldom and far, since every move means a prefill of the whole view.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..errors import InputError
from .text import Vocabulary

NOTE_DEPTH = 3
"""Number of paragraphs between the author's note and the end of the text."""


@dataclasses.dataclass(frozen=True)
class Pinned:
    """Token ids that stay in view however long the text gets."""

    memory: Sequence[int] = ()
    note: Sequence[int] = ()


@dataclasses.dataclass(frozen=True)
class View:
    """The token ids that the model reads.

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
    context_length: int,
    bos_id: int,
    pinned: Pinned | None = None,
    start: int = 0,
) -> View:
    """The view of a text, with room for at least one more token.

    Args:
        body: Token ids of prompt and text.
        words: The vocabulary.
        context_length: Number of tokens that the model can read.
        bos_id: Id of the token that begins every text.
        pinned: Memory and note.
        start: Where the view began so far; it moves only when it must.

    Raises:
        InputError: The pinned text takes more than half of the context length.
    """
    pinned = pinned or Pinned()
    fixed = 1 + len(pinned.memory) + len(pinned.note)
    if fixed > context_length // 2:
        raise InputError(
            f"memory and note take {fixed} of the model's {context_length} tokens",
            "shorten them to less than half of the window",
        )
    if len(body) - start >= context_length - fixed:
        least = len(body) - (context_length - context_length // 4 - fixed)
        start = _next_start(body, words, least)
    visible = list(body[start:])
    if pinned.note:
        place = _note_place(visible, words)
        visible = visible[:place] + list(pinned.note) + visible[place:]
    return View([bos_id, *pinned.memory, *visible], start)


def _next_start(body: Sequence[int], words: Vocabulary, least: int) -> int:
    """The first paragraph, else line, sentence or word that begins at or after ``least``.

    Only the first third of what is left is searched, so that most of the view is kept.
    """
    last = least + (len(body) - least) // 3
    for ending in (b"\n\n", b"\n", b".", b" "):
        for place in range(least, last):
            before = b"".join(words.bytes_of(token) for token in body[max(0, place - 2) : place])
            if ending == b".":
                before = before.rstrip(b"\"'\x9d\x80\xe2)")
            if before.endswith(ending) and not words.bytes_of(body[place]).startswith(b"\n"):
                return place
    return least


def _note_place(visible: Sequence[int], words: Vocabulary) -> int:
    """Index of the note: before the last paragraphs, or 0 in a shorter text."""
    found = 0
    for place in range(len(visible) - 1, 0, -1):
        begins = not words.bytes_of(visible[place]).startswith(b"\n")
        if begins and words.bytes_of(visible[place - 1]).endswith(b"\n"):
            found += 1
            if found == NOTE_DEPTH:
                return place
    return 0


def characters(body: Sequence[int], words: Vocabulary) -> int:
    """Number of characters of the text of ``body``."""
    return len(b"".join(words.bytes_of(token) for token in body).decode(errors="ignore"))
