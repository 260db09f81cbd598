"""Which of several alternatives is the best.

Mean log-probability alone prefers the dull: a text that repeats itself is very likely. The second
score therefore counts repetition against a text; it is the default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from .results import Generated

# Nats a token that a text of nothing but repeated runs loses. An ordinary continuation has a mean
# log-probability between -2 and -4, a loop one near 0: this makes the loop the worst of them.
_REPETITION_COST = 5.0
_RUN = 4


def repeated_share(tokens: Sequence[int], run: int = _RUN) -> float:
    """The share of runs of ``run`` tokens that came before in the same text; 0…1."""
    runs = [tuple(tokens[i : i + run]) for i in range(len(tokens) - run + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def score(text: Generated, rank_by: str) -> float:
    """``likelihood``: mean log-probability in nats; ``varied``: less the cost of repetition."""
    if rank_by == "likelihood":
        return text.mean_logprob
    return text.mean_logprob - _REPETITION_COST * repeated_share([t.id for t in text.tokens])


def best(texts: Sequence[Generated], n: int, rank_by: str) -> list[Generated]:
    """The ``n`` best of ``texts`` with their scores, best first; an empty text is never better."""
    scored = [dataclasses.replace(text, score=score(text, rank_by)) for text in texts]
    scored.sort(key=lambda text: (bool(text.text.strip()), text.score), reverse=True)
    return scored[:n]
