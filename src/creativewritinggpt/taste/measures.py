"""How well a model predicts choices that it was not trained on.

The measure is Δ, how much likelier each text has become: what the writer took should have gained
more than the rest. Beside it stand what needs no training: chance, the first shown, the shortest,
the longest, the likelier text under the base (per token).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..training.checkpoint import TrainState
from ..training.metrics import Validation
from .comparisons import Comparison, Floats
from .ranker import Trial


@dataclasses.dataclass(frozen=True)
class ChoiceValidation(Validation):
    """Figures of the choices that are measured; ``loss`` is the accepted texts' per token.

    Attributes:
        by: What the best state has least of.
        accuracy: Share of the choices whose taken text gained most; ties count their share.
        choice_loss: Negative log-probability of what was taken, in nats.
        scaled_loss: The same, with the scale of Δ at which it is least: sharp margins cost nothing.
        rank: Mean place of what was taken, from 1.
        gain: Mean Δ of the taken texts, in nats per token.
        choices: Number of choices with a text that was taken and others.
        more: Figures of drafts.
        drafts: The drafts' texts.
        guard: Why the run must end here; None where all is well.
        method: The way of learning.
    """

    by: float = 0.0
    accuracy: float = 0.0
    choice_loss: float = 0.0
    scaled_loss: float = 0.0
    rank: float = 0.0
    gain: float = 0.0
    choices: int = 0
    more: dict[str, float] = dataclasses.field(default_factory=dict)
    drafts: tuple[str, ...] = ()
    guard: str | None = None

    @property
    def criterion(self) -> float:
        """What the best state has least of; nothing that a guard has stopped is best."""
        return math.inf if self.guard else self.by

    @property
    def stops(self) -> bool:
        """Whether a guard ends the run."""
        return self.guard is not None

    def figures(self) -> dict[str, Any]:
        """The figures of the choices and of the drafts, for the log of metrics."""
        return {
            "accuracy": self.accuracy, "choice_loss": self.choice_loss,
            "scaled_loss": self.scaled_loss, "rank": self.rank,
            "accepted_loss": self.loss, "gain": self.gain, "choices": self.choices, **self.more,
        }  # fmt: skip

    def line(self, state: TrainState) -> str:
        """The figures in a line."""
        parts = [f"accepted text {self.loss:.3f} nats a token ({self.gain:+.3f})"]
        if self.choices:
            parts.append(
                f"what was taken gained most in {self.accuracy:.0%} of {self.choices} choices"
            )
        if self.more:
            parts.append(
                f"drift {self.more['drift']:.3f}, repetition {self.more['repetition']:.0f}%"
            )
        mark = " (best so far)" if state.best_step == state.step else ""
        return f"step {state.step}: {', '.join(parts)}{mark}"

    def warning(self, metrics: dict[str, Any]) -> str | None:
        """The sentence of the guard that ends the run."""
        return None if self.guard is None else f"The run ends here: {self.guard}."


def measured(
    comparisons: Sequence[Comparison], logs: Sequence[Floats], start: Sequence[Floats], beta: float
) -> ChoiceValidation:
    """Figures of choices by their log-probabilities now and at the start, each [texts]."""
    nats = tokens = gains = wins = loss = rank = 0.0
    taken = 0
    moved: list[Floats] = []
    for one, now, first in zip(comparisons, logs, start, strict=True):
        if not one.has_chosen:
            continue
        delta = now - first
        nats -= now[0]
        tokens += one.counts[0]
        gains += delta[0] / one.counts[0]
        taken += 1
        if len(one.texts) > 1:
            moved.append(delta)
            wins += first_share(delta)
            rewards = beta * delta
            loss += float(np.logaddexp.reduce(rewards) - rewards[0])
            rank += 1 + float((delta > delta[0]).sum() + ((delta == delta[0]).sum() - 1) / 2)
    choices = len(moved)
    return ChoiceValidation(
        loss=float(nats / max(tokens, 1)),
        eos_loss=None,
        domains={},
        accuracy=wins / max(choices, 1),
        choice_loss=loss / max(choices, 1),
        scaled_loss=_scaled_loss(moved),
        rank=rank / max(choices, 1),
        gain=gains / max(taken, 1),
        choices=choices,
    )


def _scaled_loss(moved: Sequence[Floats]) -> float:
    """Mean negative log-probability of the first texts at the best scale of Δ, 0 included."""
    if not moved:
        return 0.0
    scales = np.concatenate([[0.0], np.logspace(-3, 2, 41)])
    losses = [
        np.mean([np.logaddexp.reduce(scale * one) - scale * one[0] for one in moved])
        for scale in scales
    ]
    return float(min(losses))


def first_share(values: Floats) -> float:
    """1 where the first value is the highest alone, its share of a tie, 0 below."""
    best = np.isclose(values, values.max(), rtol=0, atol=1e-9)
    return float(best[0] / best.sum())


def baselines(comparisons: Sequence[Comparison], base: Sequence[Floats]) -> dict[str, Any]:
    """Accuracy of what needs no training, on the same choices.

    Args:
        comparisons: The choices.
        base: [texts] log-probability of each text under the base model.

    Returns:
        ``chance``, ``first_shown`` (None where the order is not known), ``shortest``, ``longest``,
        ``likelier_under_base``, each a share.
    """
    pairs = [(one, logs) for one, logs in zip(comparisons, base, strict=True)
             if one.has_chosen and len(one.texts) > 1]  # fmt: skip
    if not pairs:
        return {}
    seen = [one.decision.place == 0 for one, _ in pairs if one.decision.place is not None]
    lengths = [
        np.array([float(len(text)) for text in (one.decision.chosen or "", *one.decision.rejected)])
        for one, _ in pairs
    ]
    return {
        "chance": float(np.mean([1 / len(one.texts) for one, _ in pairs])),
        "first_shown": float(np.mean(seen)) if seen else None,
        "shortest": float(np.mean([first_share(-length) for length in lengths])),
        "longest": float(np.mean([first_share(length) for length in lengths])),
        "likelier_under_base": float(
            np.mean([first_share(logs / one.counts) for one, logs in pairs])
        ),
    }


def trial(comparisons: Sequence[Comparison], accuracy: float) -> Trial:
    """Accuracy beside chance, with its error."""
    sizes = np.array([len(one.texts) for one in comparisons if one.has_chosen])
    sizes = sizes[sizes > 1].astype(np.float64)
    if not len(sizes):
        return Trial(0, 0.0, 0.0, math.inf)
    chance = 1 / sizes
    error = float(np.sqrt((chance * (1 - chance)).sum()) / len(sizes))
    return Trial(len(sizes), accuracy, float(chance.mean()), error)
