"""The subject of an analysis: a text as token ids, and the tokens to be explained (targets).

Index convention: ``ids[0]`` is the start-of-text token, logits after ``ids[: position]`` predict
the token at ``position``, so that a target at ``position`` depends on ``ids[: position]`` and on
nothing else. A target at ``len(ids)`` is the token that would come next.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel


@dataclasses.dataclass(frozen=True)
class Target:
    """A token to be explained.

    Attributes:
        position: How many tokens the model has read before it, the start token included.
        id: The token.
        foil: The token it is set against ("why this and not that"), if any.
    """

    position: int
    id: int
    foil: int | None = None


@dataclasses.dataclass(frozen=True)
class Subject:
    """A text as the model reads it, with the tokens to be explained.

    Attributes:
        text: The whole text: prompt and what was written after it.
        ids: What the model reads: the start token, then the text in view.
        spans: For each of ``ids``, the characters of ``text`` it stands for (several tokens of one
            character have the same span); the start token has ``(0, 0)`` of the view.
        targets: In the order of their positions.
        prompt_characters: How much of ``text`` is the prompt.
        view_start: First character of ``text`` that the model sees.
    """

    text: str
    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    targets: tuple[Target, ...]
    prompt_characters: int
    view_start: int = 0

    @property
    def length(self) -> int:
        """Tokens that the model reads."""
        return len(self.ids)


def read(
    model: LoadedModel, text: str, *, prompt_characters: int | None = None, room: int = 1
) -> Subject:
    """A text as a subject without targets yet.

    Args:
        model: The model.
        text: What it reads; of a text beyond its window the tail is taken.
        prompt_characters: How much of it is the prompt; all of it without.
        room: Tokens of the window to leave free.

    Raises:
        InputError: There is no text.
    """
    encoded = model.tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )
    ids, spans = list(encoded["input_ids"]), [tuple(span) for span in encoded["offset_mapping"]]
    if not ids:
        raise InputError("there is no text to explain", 'give one, as cwgpt analyze "The door"')
    most = max(model.context_length - room - 1, 1)
    start = 0
    if len(ids) > most:
        start = spans[len(ids) - most][0]
        # All bytes of a character that is cut in two go.
        first = next(i for i, span in enumerate(spans) if span[0] >= start and i >= len(ids) - most)
        ids, spans = ids[first:], spans[first:]
        start = spans[0][0]
    return Subject(
        text=text,
        ids=(model.bos_id, *ids),
        spans=((start, start), *spans),
        targets=(),
        prompt_characters=len(text) if prompt_characters is None else prompt_characters,
        view_start=start,
    )


def with_targets(subject: Subject, targets: Sequence[Target]) -> Subject:
    """The same text with tokens to be explained.

    Raises:
        InputError: A target lies outside the text, or there is none.
    """
    if not targets:
        raise InputError("there is no token to explain", "name one that is in the text")
    for target in targets:
        if not 1 <= target.position <= subject.length:
            raise InputError(
                f"position {target.position} is outside the text",
                f"choose one from 1 to {subject.length}",
            )
    ordered = tuple(sorted(targets, key=lambda target: target.position))
    return dataclasses.replace(subject, targets=ordered)


def tokens_of(subject: Subject, wanted: str) -> list[int]:
    """Positions of the tokens of the last place where the text in view says ``wanted``.

    Raises:
        InputError: The text does not say it.
    """
    word = wanted.strip()
    at = subject.text.rfind(word) if word else -1
    if at < subject.view_start:
        raise InputError(
            f"{wanted!r} is not in the text" + (" in view" if at >= 0 else ""),
            "name a word that is, or leave --target out to explain the next token",
        )
    end = at + len(word)
    return [
        position
        for position, (first, last) in enumerate(subject.spans)
        if position and first < end and last > at
    ]


def first_token(tokenizer: Any, word: str) -> int:
    """The first token of a word that stands after a space (or as it is, where it brings its own).

    Raises:
        InputError: The word is empty.
    """
    shaped = word if word[:1].isspace() or not word[:1].isalnum() else f" {word}"
    ids = tokenizer(shaped, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    if not word.strip() or not ids:
        raise InputError("the word to compare with is empty", "give a word")
    return int(ids[0])
