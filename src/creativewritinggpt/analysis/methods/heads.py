"""What kind of reader each head is: how far it looks, how widely, and at what.

Each number is a mean over query positions, the first left out since it can only look at itself;
``chance`` says what a head would score that looks at all it can see alike, because a mass of 0.3 on
names is much in one text and nothing in another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..subject import Subject
from ..text.words import Word
from .attention import AttentionMaps

MEASURES = (
    "distance", "distance_without_sink", "entropy", "first_token_mass", "previous_token_mass",
    "self_mass", "induction_mass", "prompt_mass", "name_mass",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class HeadStatistics:
    """Numbers of every head, each ``[layers, heads]``, NaN where the text has nothing of the kind.

    Attributes:
        distance: How many tokens back it looks, weighted by its attention.
        distance_without_sink: The same with the first token left out.
        entropy: Of its attention, in nats.
        first_token_mass: Its attention to the first token.
        previous_token_mass: To the token just before, counted from the third token on.
        self_mass: To the very token that looks.
        induction_mass: To what followed an earlier occurrence of the token that looks; from the
            tokens that have one (Olsson et al. 2022, "In-context Learning and Induction Heads").
        prompt_mass: To the prompt without the first token, from where the story begins.
        name_mass: To names, from the first name on.
        chance: Each measure for attention spread evenly over what can be seen.
    """

    distance: np.ndarray
    distance_without_sink: np.ndarray
    entropy: np.ndarray
    first_token_mass: np.ndarray
    previous_token_mass: np.ndarray
    self_mass: np.ndarray
    induction_mass: np.ndarray
    prompt_mass: np.ndarray
    name_mass: np.ndarray
    chance: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: lists of lists, None for a measure that the text has nothing of."""
        record: dict[str, Any] = {}
        for name in MEASURES:
            values = getattr(self, name)
            record[name] = None if np.isnan(values).all() else values.tolist()
        record["chance"] = {k: None if np.isnan(v) else v for k, v in self.chance.items()}
        return record


def statistics(
    maps: AttentionMaps,
    subject: Subject,
    words: Sequence[Word],
    tags: Sequence[set[str]],
) -> HeadStatistics:
    """The numbers of every head.

    Args:
        maps: The attention with its first token.
        subject: The text.
        words: Its words.
        tags: Their kinds, as ``tags.tag`` gives them.
    """
    measure = _measures(subject, words, tags)
    found: dict[str, np.ndarray] = {
        name: np.full((maps.layers, maps.heads), np.nan) for name in MEASURES
    }
    for layer in range(maps.layers):
        for head in range(maps.heads):
            for name, value in measure(maps.weights[layer, head].astype(np.float64)).items():
                found[name][layer, head] = value
    even = np.tril(np.ones((maps.tokens, maps.tokens)))
    return HeadStatistics(**found, chance=measure(even / even.sum(-1, keepdims=True)))


def _measures(
    subject: Subject, words: Sequence[Word], tags: Sequence[set[str]]
) -> Callable[[np.ndarray], dict[str, float]]:
    """A function from ``[query, key]`` to the numbers of one head."""
    length = subject.length
    place = np.arange(length, dtype=np.float64)
    prompt, names = np.zeros(length), np.zeros(length)
    begins = length
    for word, kinds in zip(words, tags, strict=True):
        tokens = list(word.tokens)
        if word.written:
            begins = min(begins, tokens[0])
        elif tokens != [0]:
            prompt[tokens] = 1
        if "name" in kinds:
            names[tokens] = 1
    # The token before the first written one is the first that looks on the story's behalf.
    telling = place >= begins - 1 if begins < length and prompt.any() else np.zeros(length, bool)
    naming = (np.cumsum(names) > 0) & (place > 0)
    followed = _followed(subject.ids)

    def measure(weights: np.ndarray) -> dict[str, float]:
        with np.errstate(divide="ignore", invalid="ignore"):
            information = np.where(weights > 0, weights * np.log(weights), 0).sum(-1)
            rest = 1 - weights[:, 0]
            seen = weights @ place  # the first token adds nothing to it
            near = np.where(rest > 1e-6, place - seen / rest, np.nan)
        diagonal = np.diagonal(weights)
        found = {
            "distance": _mean((place - seen)[1:]),
            "distance_without_sink": _mean(near[1:][~np.isnan(near[1:])]),
            "entropy": _mean(-information[1:]),
            "first_token_mass": _mean(weights[1:, 0]),
            "previous_token_mass": _mean(np.diagonal(weights, -1)[1:]),
            "self_mass": _mean(diagonal[1:]),
            "induction_mass": _mean(np.array([weights[q, keys].sum() for q, keys in followed])),
            "prompt_mass": _mean((weights @ prompt)[telling]),
            "name_mass": _mean((weights @ names)[naming]),
        }
        return found

    return measure


def _followed(ids: Sequence[int]) -> list[tuple[int, list[int]]]:
    """For each token that came before: its position, and those just after its earlier places."""
    places: dict[int, list[int]] = {}
    result = []
    for position, token in enumerate(ids):
        earlier = places.setdefault(token, [])
        after = [place + 1 for place in earlier if place + 1 < position]
        if after:
            result.append((position, after))
        if position:
            earlier.append(position)
    return result


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
