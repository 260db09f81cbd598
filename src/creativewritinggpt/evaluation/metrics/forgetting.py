"""What a model lost by being tuned: its loss on domains that it was not tuned on.

The single figure is the mean over those domains of the relative change of the loss, so that a
domain of hard text does not count more than one of easy text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..scoring.bootstrap import RESAMPLES, grouped
from ..scoring.documents import DocumentScore
from ..scoring.perplexity import by_domain, compare, summarise


def forgetting(scores: Mapping[str, Sequence[DocumentScore]]) -> dict[str, Any]:
    """The table and the figure of every model against the first.

    Args:
        scores: By label, of the same documents.

    Returns:
        ``domains``: as those of the main table; ``relative``: by label, the mean over domains of
        the relative change of the loss (0.01 is 1 % worse) and its ``ci95``.
    """
    parted = {label: by_domain(of_model) for label, of_model in scores.items()}
    first, *others = parted
    domains: dict[str, Any] = {}
    for name in parted[first]:
        domains[name] = {label: summarise(parted[label][name]) for label in parted}
        domains[name]["differences"] = {
            label: compare(parted[first][name], parted[label][name]) for label in others
        }
    return {
        "domains": domains,
        "relative": {label: _relative(parted[first], parted[label]) for label in others},
    }


def _relative(
    first: Mapping[str, Sequence[DocumentScore]], second: Mapping[str, Sequence[DocumentScore]]
) -> dict[str, Any]:
    """Mean over domains of Σ second / Σ first - 1, and its interval, resampled by domain."""
    generator = np.random.default_rng(0)
    values, samples, resampled = [], [], True
    for name, before in first.items():
        groups = [score.group for score in before]
        old = grouped(groups, [score.nll for score in before])
        new = grouped(groups, [score.nll for score in second[name]])
        values.append(float(new.sum() / old.sum()) - 1)
        resampled &= len(old) > 1
        chosen = generator.integers(len(old), size=(RESAMPLES // 5, len(old)))
        samples.append(new[chosen].sum(1) / old[chosen].sum(1) - 1)
    means = np.mean(samples, axis=0)
    interval = [float(edge) for edge in np.percentile(means, [2.5, 97.5])]
    return {"mean": sum(values) / len(values), "ci95": interval if resampled else None}
