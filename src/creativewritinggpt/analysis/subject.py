"""The subject of an analysis: a text as token ids, its words, the tokens to be explained (targets).

Index convention: ``ids[0]`` is the start-of-text token, logits after ``ids[: position]`` predict
the token at ``position``, so that a target at ``position`` depends on ``ids[: position]`` and on
nothing else. A target at ``len(ids)`` is the token that would come next.

A word is a run of characters without white space, and in scripts that are written without spaces a
letter, or the letters of one token; a run of white space that holds a line break is a piece of its
own, since models look at paragraph ends. Tokens are assigned to words by their
places in the text, never by how a tokenizer writes a space; tokens of one character (the bytes of
an emoji) always belong together. The score of a word is the sum of its tokens' signed scores, so
that what adds up over tokens adds up over words.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.names import PIECE
from ..data.text import is_unspaced
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


@dataclasses.dataclass(frozen=True)
class Word:
    r"""A word of the text in view, or the start token.

    Attributes:
        text: Without spaces around it; ``\n`` for a line break, empty for the start token.
        span: Its characters in the text.
        tokens: Positions of its tokens, one after the other.
        written: Whether the model wrote it, and not the prompt.
    """

    text: str
    span: tuple[int, int]
    tokens: tuple[int, ...]
    written: bool


def words_of(subject: Subject) -> list[Word]:
    """The words of a subject, in order; the first is the start token.

    Every token belongs to exactly one word: the one in which its last character lies, or, for
    white space, the one that follows (the one before it at the end).
    """
    pieces = [
        match.span() for match in PIECE.finditer(subject.text) if match.end() > subject.view_start
    ]
    members: list[list[int]] = [[] for _ in pieces]
    at = 0
    for position, (_, end) in enumerate(subject.spans):
        if position == 0 or not pieces:
            continue
        while at + 1 < len(pieces) and pieces[at][1] < end:
            at += 1
        members[at].append(position)
    words = [Word("", (subject.view_start, subject.view_start), (0,), False)]
    unbroken = (0, -1)  # letters whose token ends in the piece after them
    for (start, end), tokens in zip(pieces, members, strict=True):
        if unbroken[1] == start and is_unspaced(subject.text[start]):
            start = unbroken[0]
        if not tokens and is_unspaced(subject.text[start]):
            unbroken = start, end
        if tokens:
            text = subject.text[start:end]
            shown = text.strip() or "\n"
            words.append(
                Word(shown, (start, end), tuple(tokens), start >= subject.prompt_characters)
            )
    return words


def word_sums(scores: Any, tokens: Sequence[Sequence[int]]) -> np.ndarray:
    """Sums of token scores.

    Args:
        scores: ``[…, tokens]``.
        tokens: The positions of each word's tokens.

    Returns:
        ``[…, words]`` float64.
    """
    scores = np.asarray(scores, dtype=np.float64)
    return np.stack([scores[..., list(positions)].sum(-1) for positions in tokens], axis=-1)
