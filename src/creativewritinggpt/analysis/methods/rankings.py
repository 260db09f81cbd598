"""Curves of a target's score while the text is taken away or put back in the order of a ranking.

A ranking lists the tokens before a target, those that are said to matter most first. Its deletion
curve is the target's score with the first of them replaced, its insertion curve that with all but
the first replaced, both along the share of tokens and with both ends: the whole text and a text of
nothing but replacements. Tokens are replaced where they stand, so that no other one moves. Shares
of a short text are rounded to tokens, at least one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ...console import CountCallback
from ...models.loaded_model import LoadedModel
from ..runtime.changes import Predictions
from ..runtime.prefix_cache import Reading
from ..subject import Subject, Target


@dataclasses.dataclass(frozen=True)
class Curves:
    """Scores of the target along a ranking, mean over the targets.

    Attributes:
        deletion: ``[…, points]``, with the first tokens of the ranking replaced.
        insertion: ``[…, points]``, with all others replaced.
    """

    deletion: np.ndarray
    insertion: np.ndarray


class Replaced:
    """One target's text with the first of a ranking replaced, or all others.

    Every text is run once, however many rankings lead to it.

    Args:
        writer: The model, in ``eval()`` mode.
        subject: The text.
        target: One of its targets.
        rankings: ``[rankings, tokens]``: the positions before the target but the first.
        fill: ``[tokens]``, what stands at each position of the text when it is replaced.
        points: Shares of the tokens, from 0 to 1.

    Attributes:
        cost: How many tokens the passes read at least.
    """

    def __init__(
        self,
        writer: LoadedModel,
        subject: Subject,
        target: Target,
        rankings: np.ndarray,
        fill: np.ndarray,
        points: Sequence[float],
    ) -> None:
        self.writer, self.target = writer, target
        self.ids = np.array(subject.ids[: target.position], dtype=np.int64)
        tokens = rankings.shape[1]
        self.counts = [_count(point, tokens) for point in points]
        rows: dict[bytes, int] = {}
        texts: list[np.ndarray] = []
        self.deletion = np.zeros((len(rankings), len(points)), dtype=np.int64)
        self.insertion = np.zeros_like(self.deletion)
        for row, order in enumerate(rankings):
            for column, count in enumerate(self.counts):
                for into, replaced in (
                    (self.deletion, order[:count]),
                    (self.insertion, order[count:]),
                ):
                    text = self.ids.copy()
                    text[replaced] = fill[replaced]
                    key = text.tobytes()
                    if key not in rows:
                        rows[key] = len(texts)
                        texts.append(text)
                    into[row, column] = rows[key]
        self.texts = np.stack(texts)
        same = self.texts == self.ids
        begins = np.where(same.all(1), len(self.ids), (~same).argmax(1))
        self.cost = int((len(self.ids) - begins).sum())

    def run(self, progress: CountCallback | None) -> Curves:
        """Scores ``[rankings, points]``."""
        reading = Reading(self.writer, self.ids.tolist(), [len(self.ids) - 1])
        predictions = Predictions(reading)
        drops = np.zeros(len(self.texts))
        for part in reading.passes(self.texts, progress):
            drops[part.rows] = predictions.drops(part, [self.target])[:, 0]
        scores = predictions.score(self.target) - drops
        return Curves(scores[self.deletion], scores[self.insertion])


def ranking(scores: np.ndarray, signed: bool, *, seed: int = 0) -> np.ndarray:
    """Positions in the order of their scores, the start token left out.

    Args:
        scores: ``[tokens]``, the start token's first.
        signed: Supporting first; else by size.
        seed: Ties are ordered at random, so that a method that says nothing gains nothing.

    Returns:
        int64 ``[tokens - 1]``.
    """
    value = scores[1:] if signed else np.abs(scores[1:])
    ties = np.random.default_rng(seed).random(len(value))
    return np.lexsort((ties, -value)) + 1


def area(points: Sequence[float], values: np.ndarray) -> np.ndarray:
    """The area under a curve by the trapezoid rule, ``[…]`` of ``[…, points]``."""
    widths = np.diff(points)
    result: np.ndarray = ((values[..., 1:] + values[..., :-1]) / 2 * widths).sum(-1)
    return result


def mean_drop(
    points: Sequence[float], fractions: Sequence[float], values: np.ndarray, whole: np.ndarray
) -> np.ndarray:
    """Mean of whole - value over the fractions (AOPC), ``[…]`` of ``[…, points]`` and ``[…]``."""
    columns = [list(points).index(fraction) for fraction in fractions]
    result: np.ndarray = (whole[..., None] - values[..., columns]).mean(-1)
    return result


def _count(fraction: float, tokens: int) -> int:
    """How many tokens a fraction is: at least one where it is not 0."""
    return 0 if fraction == 0 else min(tokens, max(1, round(fraction * tokens)))
