"""Bootstrap intervals, by resampling groups of documents.

Tokens of one text are not independent, nor are stories of one prompt; so whole groups are drawn
with replacement, and every figure is computed from the sums of the draw. All models are resampled
together, so the interval of a difference is that of the paired bootstrap (Koehn 2004, "Statistical
significance tests for machine translation evaluation"). With few groups such intervals are too
narrow; one group has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

RESAMPLES = 10_000
Floats = npt.NDArray[np.float64]
Interval = list[float]


def grouped(groups: Sequence[str], values: Iterable[float]) -> Floats:
    """Sums of values by group, [groups] in order of appearance."""
    place: dict[str, int] = {}
    index = [place.setdefault(group, len(place)) for group in groups]
    return np.bincount(index, weights=list(values)).astype(np.float64, copy=False)


def ratio_interval(
    numerators: Floats, denominators: Floats, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """A 95 % interval of Σ numerators / Σ denominators by a bootstrap over the groups.

    Args:
        numerators: [groups].
        denominators: [groups].
        seed: Of the resampling; the same seed draws the same groups for every figure.
        resamples: How many times.

    Returns:
        The 2.5th and the 97.5th percentile.
    """
    generator = np.random.default_rng(seed)
    groups = len(numerators)
    ratios = []
    step = max(1, 2_000_000 // groups)
    for start in range(0, resamples, step):
        chosen = generator.integers(groups, size=(min(step, resamples - start), groups))
        below = denominators[chosen].sum(1)
        ratios.append(numerators[chosen].sum(1) / np.where(below == 0, 1, below))
    low, high = np.percentile(np.concatenate(ratios), [2.5, 97.5])
    return float(low), float(high)


def interval_of(
    groups: Sequence[str], values: Iterable[float], weights: Iterable[float], seed: int = 0
) -> Interval | None:
    """The interval of a ratio of sums over documents; None with a single group.

    Args:
        groups: [documents] what each is resampled with.
        values: [documents] the numerator's.
        weights: [documents] the denominator's.
        seed: Of the resampling.
    """
    above, below = grouped(groups, values), grouped(groups, weights)
    return list(ratio_interval(above, below, seed)) if len(above) > 1 else None


def mean_interval(values: Sequence[float], seed: int = 0) -> Interval | None:
    """The interval of a plain mean of independent values; None with fewer than two."""
    if len(values) < 2:
        return None
    return list(ratio_interval(np.asarray(values, dtype=float), np.ones(len(values)), seed))
