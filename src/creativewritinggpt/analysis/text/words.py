"""Words of a text and sums of token scores by word.

Tokens are assigned by their places in the text, never by how a tokenizer writes a space.

A word is a run of characters without white space; a run of white space that holds a line break is
a piece of its own, since models look at paragraph ends. Tokens of one character (the bytes of an
emoji) always belong together. The score of a word is the sum of its tokens' signed scores, so that
what adds up over tokens adds up over words.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..subject import Subject

_PIECE = re.compile(r"\s*\n\s*|\S+")


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
        match.span() for match in _PIECE.finditer(subject.text) if match.end() > subject.view_start
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
    for (start, end), tokens in zip(pieces, members, strict=True):
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
