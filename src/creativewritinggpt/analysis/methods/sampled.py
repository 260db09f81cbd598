"""Means over random samples, of which a few were computed exactly and all of them roughly.

    mean  =  mean over all samples of Y  +  mean over the first m of (X - Y)

Y is the rough value and X the exact one. Its expectation is that of X, whatever the rough values
are wrong by: the second term estimates that too, and its spread is part of the standard error (a
control variate; two levels of multilevel Monte Carlo, Giles 2008). It pays where rough values cost
much less and follow the exact ones closely. What it trades away: a mean of what can't be negative
can come out a little below zero.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Sampled:
    """Values of some things, several samples of each.

    Attributes:
        values: ``[things, samples, …]``.
        exact: ``[things, m, …]``, the exact values of the first m samples where those in
            ``values`` are rough.
    """

    values: Array
    exact: Array | None = None

    def map(self, function: Callable[[Array], Array]) -> Sampled:
        """The same of what ``function`` makes of the values; it must be linear."""
        return Sampled(function(self.values), None if self.exact is None else function(self.exact))

    def mean(self) -> Array:
        """``[things, …]``, float64."""
        values = self.values.astype(np.float64)
        mean: Array = values.mean(1)
        return mean if self.exact is None else mean + self._corrections().mean(1)

    def standard_error(self) -> Array:
        """Of the mean, ``[things, …]``, float64."""
        values = self.values.astype(np.float64)
        variance = values.var(1, ddof=1) / values.shape[1]
        if self.exact is not None:
            corrections = self._corrections()
            some = values[:, : corrections.shape[1]]
            covariance = ((some - some.mean(1, keepdims=True)) * corrections).sum(1)
            covariance /= corrections.shape[1] - 1
            variance += corrections.var(1, ddof=1) / corrections.shape[1]
            variance += 2 * covariance / values.shape[1]
        error: Array = np.sqrt(np.maximum(variance, 0.0))
        return error

    def _corrections(self) -> Array:
        assert self.exact is not None
        exact = self.exact.astype(np.float64)
        difference: Array = exact - self.values[:, : exact.shape[1]]
        return difference
