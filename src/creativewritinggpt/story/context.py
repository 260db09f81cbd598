"""What the model sees of a story: one place that decides it, and can show it.

    [memory] [lore that was triggered] … the last part of the text … [note] … last paragraphs →

The text is cut here and not in the engine, so that the place where the view begins can be kept from
passage to passage: it moves seldom and far, and until then what was read before need not be read
again. Memory and lore stand at the front, so a new entry of lore costs reading the view anew.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..generation.context import Pinned, characters, make_view
from ..generation.text import encode, vocabulary
from .tree import Lore, Passage, Story

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel

# Lore is triggered by words in the last so many characters of the text.
LORE_REACH = 2000
# No English token of a text is longer on average; a cut this far back is never too short.
_MOST_CHARACTERS = 16


@dataclasses.dataclass(frozen=True)
class Seen:
    """What goes to the model, and an account of it.

    Attributes:
        prompt: The part of the text that is in view.
        memory: What stands before it: memory and lore.
        note: What stands near its end.
        view: All of it as the model reads it, the note in its place.
        start: First character of the story that is in view.
        window: Tokens that the model can see.
        tokens: Tokens in view: ``memory``, ``lore``, ``note``, ``text``.
        lore: Entries in view.
        left_out: Entries that were triggered and had no room.
    """

    prompt: str
    memory: str
    note: str
    view: str
    start: int
    window: int
    tokens: dict[str, int]
    lore: tuple[Lore, ...] = ()
    left_out: tuple[Lore, ...] = ()

    @property
    def used(self) -> int:
        """Tokens of the window that are taken, with the one that begins every text."""
        return 1 + sum(self.tokens.values())

    @property
    def fill(self) -> float:
        """How full the window is, 0…1."""
        return self.used / self.window


def assemble(writer: LoadedModel, story: Story, head: int | None = None) -> Seen:
    """What ``writer`` sees of ``story`` when it continues passage ``head``.

    Args:
        writer: The model, for its tokenizer and window.
        story: The story.
        head: The passage to be continued; without it the last one.

    Raises:
        InputError: Memory and note take more than half of the window.
    """
    path = story.path(head)
    text = "".join(passage.text for passage in path)
    state = story.state
    note = _block(state.note, "\n")
    triggered = [lore for lore in state.lore if _triggered(lore, text[-LORE_REACH:])]
    room = writer.window // 2 - 1 - _count(writer, note) - _count(writer, _block(state.memory))
    lore, left_out, entries = _fitting(writer, triggered, room)
    memory = _block(state.memory) + entries
    start = max(_kept_start(path, writer), len(text) - _MOST_CHARACTERS * writer.window)
    body = encode(writer.tokenizer, text[start:])
    words = vocabulary(writer.tokenizer)
    pinned = Pinned(encode(writer.tokenizer, memory), encode(writer.tokenizer, note))
    view = make_view(body, words, window=writer.window, bos_id=writer.bos_id, pinned=pinned)
    start += characters(body[: view.start], words)
    lore_tokens = _count(writer, entries)
    tokens = {
        "memory": len(pinned.memory) - lore_tokens,
        "lore": lore_tokens,
        "note": len(pinned.note),
        "text": len(body) - view.start,
    }
    read = b"".join(words.bytes_of(token) for token in view.ids[1:]).decode(errors="replace")
    return Seen(text[start:], memory, note, read, start, writer.window, tokens, lore, left_out)


def _kept_start(path: Sequence[Passage], writer: LoadedModel) -> int:
    """Where this model's view began last on this path; 0 where that is not known."""
    for passage in reversed(path):
        if passage.setup is not None and passage.copy_of is None:
            return passage.start if passage.setup.model == writer.name else 0
    return 0


def _count(writer: Any, text: str) -> int:
    return len(encode(writer.tokenizer, text)) if text else 0


def _block(text: str, end: str = "\n\n") -> str:
    """A text that stands apart from what follows it."""
    return text.strip() + end if text.strip() else ""


def _triggered(lore: Lore, text: str) -> bool:
    """Whether one of the key words is in the text, as a whole word, in any case."""
    return lore.always or any(
        re.search(rf"(?<!\w){re.escape(key)}(?!\w)", text, re.IGNORECASE) for key in lore.keys
    )


def _fitting(
    writer: Any, triggered: Sequence[Lore], room: int
) -> tuple[tuple[Lore, ...], tuple[Lore, ...], str]:
    """The entries that have room, those that have none, and the text of the first."""
    kept, left_out, text = [], [], ""
    for lore in triggered:
        longer = text + _block(lore.text)
        if _count(writer, longer) <= room:
            kept.append(lore)
            text = longer
        else:
            left_out.append(lore)
    return tuple(kept), tuple(left_out), text
