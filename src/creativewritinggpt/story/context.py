"""The model's view of a story: memory, lore, note and the last part of the text.

    [memory] [triggered lore] … the last part of the text … [note] … last paragraphs →

The text is cut here and not in the engine, so that the start of the view is kept from passage to
passage and the backend's prefix cache stays valid until the view is full.

Trade-off: memory and lore are at the front, so a new entry of lore costs a prefill of the view.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..generation.results import Token
from ..generation.row import Pinned, characters, make_view
from ..generation.text import encode, vocabulary
from .tree import Lore, Passage, Story

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel

LORE_REACH = 2000
"""Number of last characters of the text in which key words trigger lore."""
MAX_PASSAGE_TOKENS = 2000
"""Number of tokens, from its start, of a passage whose statistics are computed."""
# Upper bound of the mean characters per token, so that a cut this far back is never too short.
_MOST_CHARACTERS = 16


@dataclasses.dataclass(frozen=True)
class StoryView:
    """The model's view of a story, and what it is made of.

    Attributes:
        prompt: The part of the text that is in view.
        memory: The text before it: memory and lore.
        note: The text near its end.
        view: All of it as the model reads it, the note in its place.
        start: First character of the story that is in view.
        context_length: Number of tokens that the model can read.
        tokens: Number of tokens of ``memory``, ``lore``, ``note`` and ``text`` in view.
        lore: Entries in view.
        left_out: Entries that were triggered and had no room.
    """

    prompt: str
    memory: str
    note: str
    view: str
    start: int
    context_length: int
    tokens: dict[str, int]
    lore: tuple[Lore, ...] = ()
    left_out: tuple[Lore, ...] = ()

    @property
    def used(self) -> int:
        """Number of tokens in view, with the one that begins every text."""
        return 1 + sum(self.tokens.values())

    @property
    def fill(self) -> float:
        """Share of the context length that is used, 0…1."""
        return self.used / self.context_length


def story_view(model: LoadedModel, story: Story, head: int | None = None) -> StoryView:
    """The view of ``story`` from which ``model`` continues passage ``head``.

    Args:
        model: The model, for its tokenizer and context length.
        story: The story.
        head: The passage to be continued; the last one by default.

    Raises:
        InputError: Memory and note take more than half of the context length.
    """
    path = story.path(head)
    text = "".join(passage.text for passage in path)
    state = story.state
    note = _block(state.note, "\n")
    triggered = [lore for lore in state.lore if _triggered(lore, text[-LORE_REACH:])]
    room = model.context_length // 2 - 1 - _count(model, note) - _count(model, _block(state.memory))
    lore, left_out, entries = _fitting(model, triggered, room)
    memory = _block(state.memory) + entries
    start = max(_kept_start(path, model), len(text) - _MOST_CHARACTERS * model.context_length)
    body = encode(model.tokenizer, text[start:])
    words = vocabulary(model.tokenizer)
    pinned = Pinned(encode(model.tokenizer, memory), encode(model.tokenizer, note))
    view = make_view(
        body, words, context_length=model.context_length, bos_id=model.bos_id, pinned=pinned
    )
    start += characters(body[: view.start], words)
    lore_tokens = _count(model, entries)
    tokens = {
        "memory": len(pinned.memory) - lore_tokens,
        "lore": lore_tokens,
        "note": len(pinned.note),
        "text": len(body) - view.start,
    }
    read = b"".join(words.bytes_of(token) for token in view.ids[1:]).decode(errors="replace")
    return StoryView(
        text[start:], memory, note, read, start, model.context_length, tokens, lore, left_out
    )


def passage_tokens(
    model: LoadedModel, story: Story, passage: Passage, weights: str, alternatives: int
) -> list[Token]:
    """The statistics of each token of ``passage``, as if the model had written it.

    Args:
        model: The model.
        story: The story that the passage belongs to.
        passage: The passage; at most :data:`MAX_PASSAGE_TOKENS` of it are read.
        weights: The weight format, as in the generation settings.
        alternatives: Number of alternatives to name per token.

    Raises:
        InputError: Memory and note leave no room.
    """
    from ..generation.results import forced_tokens
    from ..models.forward.backends import backend_for

    seen = story_view(model, story, passage.parent)
    words = vocabulary(model.tokenizer)
    ids = encode(model.tokenizer, passage.text)[
        : min(MAX_PASSAGE_TOKENS, model.context_length // 2)
    ]
    view = make_view(
        encode(model.tokenizer, seen.prompt),
        words,
        context_length=model.context_length - len(ids),  # the passage has to fit behind it
        bos_id=model.bos_id,
        pinned=Pinned(encode(model.tokenizer, seen.memory), encode(model.tokenizer, seen.note)),
    )
    backend = backend_for(model, weights)
    return forced_tokens(
        backend, view.ids, ids, words, capacity=model.context_length, alternatives=alternatives
    )


def _kept_start(path: Sequence[Passage], model: LoadedModel) -> int:
    """Start of this model's last view on this path; 0 if unknown."""
    for passage in reversed(path):
        if passage.setup is not None and passage.copy_of is None:
            return passage.start if passage.setup.model == model.name else 0
    return 0


def _count(model: Any, text: str) -> int:
    return len(encode(model.tokenizer, text)) if text else 0


def _block(text: str, end: str = "\n\n") -> str:
    """``text`` stripped, with ``end`` after it unless it is empty."""
    return text.strip() + end if text.strip() else ""


def _triggered(lore: Lore, text: str) -> bool:
    """Whether a key word occurs in ``text``, as a whole word, in any case."""
    return lore.always or any(
        re.search(rf"(?<!\w){re.escape(key)}(?!\w)", text, re.IGNORECASE) for key in lore.keys
    )


def _fitting(
    model: Any, triggered: Sequence[Lore], room: int
) -> tuple[tuple[Lore, ...], tuple[Lore, ...], str]:
    """The entries that fit into ``room`` tokens, the other ones, and the text of the first."""
    kept, left_out, text = [], [], ""
    for lore in triggered:
        longer = text + _block(lore.text)
        if _count(model, longer) <= room:
            kept.append(lore)
            text = longer
        else:
            left_out.append(lore)
    return tuple(kept), tuple(left_out), text
