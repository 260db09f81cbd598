"""Adaptive integration along the path from a baseline to a text.

The integrand is the slope of a score along the path, split by token. The score itself comes with
every slope at no cost, and says what the slopes must add up to between any two steps and not only
at the end: an integral that is right by luck is told from one that is right.

A smooth path (GPT-2 with few layers, random weights) converges with 12 Gauss-Legendre nodes. In
trained models of many layers the score jumps along the path, and any fixed number of nodes is off
by more than the whole; then the path is cut into panels, each with Boole's rule, and those whose
slopes don't account for the score's change are halved, every node being reused.

Trade-off: the first 12 nodes are lost where they don't suffice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

# An integral counts as right when it misses the score's change by no more than this, in nats.
SMALLEST_TOLERANCE = 1e-3
# How much more than at the end it may miss along the way, where errors cancel.
_ON_THE_WAY = 5.0
_FIRST = 12
_PANELS = 4
# With fewer steps all in one Gauss-Legendre rule come nearer than panels.
_WORTH_PANELS = 96
# Boole's rule (Newton and Cotes with five points), whose points all serve the halves again.
_BOOLE = np.array([7.0, 32.0, 12.0, 32.0, 7.0]) / 90.0
# Panels within this factor of the worst are halved together, so that batches are full.
_TOGETHER = 8.0


class Line(Protocol):
    """Scores and slopes at points of a path (see ``path.Path``)."""

    def scores(self, points: np.ndarray) -> np.ndarray:
        """``[points, targets]``."""

    def slopes(self, points: np.ndarray, wanted: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """``[points, wanted]`` scores and ``[points, wanted, tokens]`` slopes."""


@dataclasses.dataclass(frozen=True)
class Integral:
    """The integral of one target's slopes.

    Attributes:
        parts: By token, ``[tokens]``; their sum is what the score should have changed by.
        first: The score at the baseline.
        last: The score of the text.
        steps: How many slopes were computed for it.
        on_the_way: By how much the slopes miss the score along the path: the largest miss up to any
            step, or the sum of the panels' absolute misses.
        converged: Whether both are within the tolerance.
    """

    parts: np.ndarray
    first: float
    last: float
    steps: int
    on_the_way: float
    converged: bool

    @property
    def delta(self) -> float:
        """What the parts sum to beyond the change of the score: the convergence delta."""
        return float(self.parts.sum() - (self.last - self.first))


def gauss_legendre(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Points in 0…1 and their weights, which sum to 1."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    return (points + 1) / 2, weights / 2


def integrate(
    path: Line, targets: int, *, steps: int | None, tolerance: float, most: int
) -> list[Integral]:
    """Integrate the slopes of every target over the path 0…1.

    Args:
        path: Gives scores and slopes.
        targets: How many there are; they share their steps until each has enough.
        steps: A fixed number of Gauss-Legendre nodes; without it as many as each target needs.
        tolerance: Of the change of the score, how much the integral may miss.
        most: Steps after which a target is left as it is and flagged.

    Returns:
        One integral for each target.
    """
    everyone = list(range(targets))
    ends = path.scores(np.array([0.0, 1.0]))
    allowed = np.maximum(tolerance * np.abs(ends[1] - ends[0]), SMALLEST_TOLERANCE)
    nodes = steps if steps is not None else min(_FIRST, most)
    results = _by_gauss(path, everyone, ends, allowed, nodes)
    rough = [index for index in everyone if not results[index].converged]
    if steps is None and rough and most >= 2 * nodes:
        if most < _WORTH_PANELS:
            more = _by_gauss(path, rough, ends, allowed, most - nodes, spent=nodes)
        else:
            more = _by_panels(path, rough, ends, allowed, most, nodes)
        for index, result in more.items():
            # At the cap the better of the two stays.
            if result.converged or abs(result.delta) <= abs(results[index].delta):
                results[index] = result
    return [results[index] for index in everyone]


def _by_gauss(
    path: Line,
    wanted: list[int],
    ends: np.ndarray,
    allowed: np.ndarray,
    nodes: int,
    spent: int = 0,
) -> dict[int, Integral]:
    """Some targets with the same fixed nodes."""
    points, weights = gauss_legendre(nodes)
    scores, slopes = path.slopes(points, wanted)
    parts = np.einsum("k,ktn->tn", weights, slopes)
    running = ends[0, wanted] + running_integrals(points, weights, slopes.sum(-1))
    misses = np.abs(running - scores).max(0)
    results = {}
    for row, index in enumerate(wanted):
        first, last, bound = float(ends[0, index]), float(ends[1, index]), allowed[index]
        delta = float(parts[row].sum() - (last - first))
        good = bool(abs(delta) <= bound and misses[row] <= _ON_THE_WAY * bound)
        steps = spent + nodes
        results[index] = Integral(parts[row], first, last, steps, float(misses[row]), good)
    return results


def running_integrals(points: np.ndarray, weights: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """Integrals from 0 up to each Gauss-Legendre point of the polynomial through the slopes.

    Args:
        points: ``[points]`` in 0…1.
        weights: Theirs, ``[points]``.
        slopes: ``[points, targets]``.

    Returns:
        ``[points, targets]``.
    """
    legendre = np.polynomial.legendre
    place = 2 * points - 1
    basis = legendre.legvander(place, len(points) - 1)  # [points, degree]
    norms = 2 * np.arange(len(points)) + 1
    coefficients = norms[:, None] * (basis.T @ (weights[:, None] * slopes))
    integral = legendre.legint(coefficients, lbnd=-1, axis=0) / 2
    result: np.ndarray = legendre.legvander(place, len(points)) @ integral
    return result


def _by_panels(
    path: Line,
    active: list[int],
    ends: np.ndarray,
    allowed: np.ndarray,
    most: int,
    spent: int,
) -> dict[int, Integral]:
    """Halve panels until each target's slopes account for its score, or ``most`` is reached."""
    results: dict[int, Integral] = {}
    known: dict[float, tuple[np.ndarray, np.ndarray]] = {}
    panels = [(index / _PANELS, (index + 1) / _PANELS) for index in range(_PANELS)]
    while active:
        points = sorted({p for panel in panels for p in _points(panel)} - set(known))
        scores, slopes = path.slopes(np.array(points), active)
        for row, point in enumerate(points):
            known[point] = (scores[row], slopes[row])
        spent += len(points)
        # [panels, targets]: what each panel's slopes miss of the change of the score over it.
        misses = np.stack([_miss(panel, known) for panel in panels])
        bound = allowed[active]
        missed = np.abs(misses).sum(0)
        good = (np.abs(misses.sum(0)) <= bound) & (missed <= _ON_THE_WAY * bound)
        worst = (np.abs(misses) / bound)[:, ~good].max(1, initial=0.0)
        halved = _to_halve(panels, worst, (most - spent) // 4)
        for row, index in enumerate(active):
            if good[row] or not halved:
                parts = sum(_parts(panel, known, row) for panel in panels)
                first, last = float(ends[0, index]), float(ends[1, index])
                results[index] = Integral(
                    np.asarray(parts), first, last, spent, float(missed[row]), bool(good[row])
                )
        left = [row for row in range(len(active)) if not good[row]] if halved else []
        known = {p: (score[left], slope[left]) for p, (score, slope) in known.items()}
        active = [active[row] for row in left]
        panels = [panel for panel in panels if panel not in halved] + [
            half for low, high in halved for half in _halves(low, high)
        ]
    return results


def _to_halve(
    panels: list[tuple[float, float]], worst: np.ndarray, room: int
) -> list[tuple[float, float]]:
    """The panels to halve next: the worst, and those not far from it, while there is room."""
    order = np.argsort(-worst, kind="stable")
    bound = worst.max(initial=0.0) / _TOGETHER
    return [panels[index] for index in order[: max(room, 0)] if worst[index] > bound]


def _halves(low: float, high: float) -> list[tuple[float, float]]:
    middle = (low + high) / 2
    return [(low, middle), (middle, high)]


def _points(panel: tuple[float, float]) -> list[float]:
    """The five points of a panel: binary fractions, so that halves find them again exactly."""
    low, high = panel
    return [low + (high - low) * part / 4 for part in range(5)]


def _parts(
    panel: tuple[float, float], known: dict[float, tuple[np.ndarray, np.ndarray]], row: int
) -> np.ndarray:
    """A panel's share of a target's integral, ``[tokens]``."""
    slopes = np.stack([known[point][1][row] for point in _points(panel)])
    result: np.ndarray = (panel[1] - panel[0]) * (_BOOLE @ slopes)
    return result


def _miss(
    panel: tuple[float, float], known: dict[float, tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """What a panel's slopes miss of each target's change of score over it, ``[targets]``."""
    points = _points(panel)
    slopes = np.stack([known[point][1].sum(-1) for point in points])
    change = known[points[-1]][0] - known[points[0]][0]
    result: np.ndarray = (panel[1] - panel[0]) * (_BOOLE @ slopes) - change
    return result
