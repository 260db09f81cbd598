"""General Imposters: is a text of this author, or of somebody else?

In each of many rounds half of the words and half of the impostors' texts are drawn; the score is
the share of rounds in which the author's nearest text is nearer than every impostor's (Koppel and
Winter 2014, "Determining if two documents are written by the same author"). Scores between two
bounds, the grey zone, are no answer. The bounds are found on texts whose author is known: each in
turn is asked about its own author, without itself, and about every other, with its own author not
among the impostors, since a model isn't among them either. The best bounds have the highest c@1,
in which a question left open counts as right at the rate of those answered (Peñas and Rodrigo
2011, "A simple measure to assess non-response").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

ROUNDS = 200
_FEWEST_POOLS = 2  # of the author: one is asked about, one is left to be near
_FEWEST_IMPOSTERS = 2


def score(
    question: Floats,
    candidate: Floats,
    impostors: Floats,
    generator: np.random.Generator,
    rounds: int = ROUNDS,
) -> float:
    """The share of rounds in which the candidate is nearer than all impostors drawn.

    Args:
        question: [words] z-scores of the text.
        candidate: [texts, words] of the author asked about.
        impostors: [texts, words] of others.
        generator: Draws words and impostors.
        rounds: How many.
    """
    words = len(question)
    draws = generator.random((rounds, words))
    chosen = (draws.argsort(1).argsort(1) < max(1, words // 2)).astype(np.float64)
    own = _distances(question, candidate, chosen).min(1)
    far = _distances(question, impostors, chosen)
    half = -(-len(impostors) // 2)
    out = generator.random(far.shape).argsort(1).argsort(1) >= half
    nearest = np.where(out, np.inf, far).min(1)
    return float(((own < nearest) + 0.5 * (own == nearest)).mean())


def _distances(question: Floats, texts: Floats, chosen: Floats) -> Floats:
    """[rounds, texts] Cosine Delta on the words chosen in each round."""
    dots = (chosen * question) @ texts.T
    lengths = np.sqrt((chosen @ question**2)[:, None] * (chosen @ (texts**2).T))
    found: Floats = 1 - dots / np.where(lengths == 0, 1, lengths)
    return found


def area_under_curve(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """The share of pairs of scores in the right order; ties count half."""
    above = np.subtract.outer(np.asarray(positives), np.asarray(negatives))
    return float(((above > 0) + 0.5 * (above == 0)).mean())


def c_at_1(
    positives: Sequence[float], negatives: Sequence[float], zone: tuple[float, float]
) -> float:
    """Share of right answers, open ones counted at the rate of the right ones.

    Both kinds of question have the same weight, since there are more of one.

    Args:
        positives: Scores of texts by the author asked about.
        negatives: Scores of texts by others.
        zone: Scores from the first to the second bound are left open.
    """
    low, high = zone
    right, left_open = 0.0, 0.0
    for scores, yes in ((np.asarray(positives), True), (np.asarray(negatives), False)):
        right += float(((scores > high) if yes else (scores < low)).mean()) / 2
        left_open += float(((scores >= low) & (scores <= high)).mean()) / 2
    return right + left_open * right


def grey_zone(positives: Sequence[float], negatives: Sequence[float]) -> tuple[float, float]:
    """The bounds with the highest c@1; of several the widest, since nothing known lies in it."""
    steps = np.round(np.arange(0.05, 1.0, 0.05), 2).tolist()
    zones = [(low, high) for low in steps for high in steps if low <= high]
    return max(
        zones,
        key=lambda zone: (
            round(c_at_1(positives, negatives, zone), 9),
            round(zone[1] - zone[0], 9),
            -abs(sum(zone) / 2 - 0.5),
        ),
    )


def verify(
    human: Mapping[str, Floats], author: str, asked: Mapping[str, Floats], seed: int = 0
) -> dict[str, Any] | None:
    """Whether texts are the author's, with a grey zone from texts whose author is known.

    Args:
        human: By author [texts, words] z-scores of pools of the same length.
        author: The one that is asked about.
        asked: By name [words] of a pool.
        seed: Of the rounds.

    Returns:
        ``rounds``, ``grey_zone``, ``auc``, ``c_at_1``, the number of known texts, and for each name
        ``score`` and ``verdict``: ``author``, ``undecided`` or ``not``. None where the author has
        fewer than two texts or there are fewer than two others.
    """
    if len(human[author]) < _FEWEST_POOLS or len(human) - 1 < _FEWEST_IMPOSTERS:
        return None
    generator = np.random.default_rng(seed)
    positives: list[float] = []
    negatives: list[float] = []
    for name, texts in human.items():
        for index, text in enumerate(texts):
            rest = np.delete(texts, index, axis=0)
            for candidate in human:
                own = candidate == name
                if own and not len(rest):
                    continue
                impostors = [of for n, of in human.items() if n not in (name, candidate)]
                found = score(
                    text, rest if own else human[candidate], np.concatenate(impostors), generator
                )
                (positives if own else negatives).append(found)
    zone = grey_zone(positives, negatives)
    others = np.concatenate([of for name, of in human.items() if name != author])
    scores = {
        name: score(z, human[author], others, np.random.default_rng(seed))
        for name, z in asked.items()
    }
    return {
        "rounds": ROUNDS,
        "known": {"own": len(positives), "of_others": len(negatives)},
        "grey_zone": list(zone),
        "auc": area_under_curve(positives, negatives),
        "c_at_1": c_at_1(positives, negatives, zone),
        "models": {
            name: {
                "score": value,
                "verdict": "author" if value > zone[1] else "not" if value < zone[0]
                else "undecided",
            }
            for name, value in scores.items()
        },
    }  # fmt: skip
