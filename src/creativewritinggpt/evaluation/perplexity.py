"""Perplexity, bits per byte and differences between models, with bootstrap intervals.

Every figure is a ratio of sums over documents, never a mean of ratios: perplexity is
exp(Σ nats / Σ tokens), bits per byte is Σ nats / Σ bytes / ln 2. The mean over domains is exp of
the mean of their losses. Sums are kept per document, so that any ratio can be formed again later,
on any choice of documents.

Tokens of one text are not independent, nor are stories of one prompt; so whole groups of documents
are drawn with replacement, and every figure is computed from the sums of the draw. All models are
resampled together, so the interval of a difference is that of the paired bootstrap (Koehn 2004,
"Statistical significance tests for machine translation evaluation"). With few groups such
intervals are too narrow; one group has none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .scoring import DocumentScore

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


def finite_exp(value: float) -> float:
    """exp, kept finite for a model that has broken down."""
    return math.exp(min(value, 700.0))


def summarise(scores: Sequence[DocumentScore]) -> dict[str, Any]:
    """The figures of one model on one domain.

    Args:
        scores: Scores of the domain's documents.

    Returns:
        The keys of ``evaluation.json``. ``ci95`` is that of the perplexity, ``bits_per_byte_ci95``
        that of bits per byte; None with one group.
    """
    groups = [score.group for score in scores]
    nats = [score.nll for score in scores]
    nll = sum(nats)
    tokens = sum(score.tokens for score in scores)
    words = sum(score.words for score in scores)
    size = sum(score.bytes for score in scores)
    per_token = interval_of(groups, nats, [score.tokens for score in scores])
    found = {
        "documents": len(scores),
        "groups": len(set(groups)),
        "tokens": tokens,
        "words": words,
        "bytes": size,
        "nll_sum": nll,
        "perplexity": finite_exp(nll / max(tokens, 1)),
        "bits_per_byte": nll / max(size, 1) / math.log(2),
        "word_perplexity": finite_exp(nll / max(words, 1)),
        "ci95": per_token and [finite_exp(edge) for edge in per_token],
        "bits_per_byte_ci95": _bits(interval_of(groups, nats, [score.bytes for score in scores])),
        "eos_nll": sum(score.eos_nll for score in scores) / len(scores),
    }
    sliding = [score.sliding_nll for score in scores if score.sliding_nll is not None]
    if sliding:
        found["sliding_perplexity"] = finite_exp(sum(sliding) / max(tokens, 1))
    return found


def _bits(nats: Interval | None) -> Interval | None:
    return nats and [edge / math.log(2) for edge in nats]


def compare(first: Sequence[DocumentScore], second: Sequence[DocumentScore]) -> dict[str, Any]:
    """The paired difference of two models on the same documents.

    Args:
        first: Scores of the model that is compared with.
        second: Scores of the other, of the same documents in the same order.

    Returns:
        ``nats_per_token`` (below 0 where the second is better) and its ``ci95``, None between
        different tokenizers; ``bits_per_byte`` and its interval; ``relative``, the difference as a
        share of the first's loss, and its interval; ``better``, the share of the documents that the
        second predicts better.

    Raises:
        InputError: They are not scores of the same documents.
    """
    if [score.digest for score in first] != [score.digest for score in second]:
        raise InputError(
            "the two results are of different documents, and can't be compared",
            "score both models on the same files",
        )
    groups = [score.group for score in first]
    changes = [after.nll - before.nll for before, after in zip(first, second, strict=True)]
    total = sum(changes)
    counts, sizes = [score.tokens for score in first], [score.bytes for score in first]
    before = [score.nll for score in first]
    same = counts == [score.tokens for score in second]
    return {
        "nats_per_token": total / max(sum(counts), 1) if same else None,
        "ci95": interval_of(groups, changes, counts) if same else None,
        "bits_per_byte": total / max(sum(sizes), 1) / math.log(2),
        "bits_per_byte_ci95": _bits(interval_of(groups, changes, sizes)),
        "relative": total / max(sum(before), 1e-9),
        "relative_ci95": interval_of(groups, changes, before),
        "better": sum(change < 0 for change in changes) / max(len(changes), 1),
    }


def by_domain(scores: Sequence[DocumentScore]) -> dict[str, list[DocumentScore]]:
    """Scores by their domain, in alphabetical order of the domains."""
    domains: dict[str, list[DocumentScore]] = {}
    for score in scores:
        domains.setdefault(score.source, []).append(score)
    return dict(sorted(domains.items()))


def domain_figures(scores: Mapping[str, Sequence[DocumentScore]]) -> dict[str, Any]:
    """The figures of each domain: every model's by its label, and every difference to the first.

    Args:
        scores: By label, of the same documents.
    """
    parted = {label: by_domain(of_model) for label, of_model in scores.items()}
    first, *others = parted
    return {
        name: {
            **{label: summarise(parted[label][name]) for label in parted},
            "differences": {label: compare(before, parted[label][name]) for label in others},
        }
        for name, before in parted[first].items()
    }


def macro_perplexity(scores: Sequence[DocumentScore]) -> float:
    """Exp of the mean of the domains' losses: every domain counts the same."""
    losses = [
        sum(score.nll for score in domain) / max(sum(score.tokens for score in domain), 1)
        for domain in by_domain(scores).values()
    ]
    return finite_exp(sum(losses) / len(losses))


def legacy_perplexity(scores: Sequence[DocumentScore]) -> float | None:
    """Exp of the mean over documents of the mean loss of their first 512 tokens.

    It weights a story of ten tokens like one of five hundred and is kept for one purpose only: the
    original project's 23.45 was computed so, over its own mix of sources.
    """
    losses = [score.legacy_nll for score in scores if score.legacy_nll is not None]
    return finite_exp(sum(losses) / len(losses)) if losses else None


def forgetting(scores: Mapping[str, Sequence[DocumentScore]]) -> dict[str, Any]:
    """What each model lost against the first, on domains that it was not tuned on.

    Args:
        scores: By label, of the same documents.

    Returns:
        ``domains``: as :func:`domain_figures`; ``relative``: by label, the mean over domains of
        the relative change of the loss (0.01 is 1 % worse) and its ``ci95``, so that a domain of
        hard text does not count more than one of easy text.
    """
    parted = {label: by_domain(of_model) for label, of_model in scores.items()}
    first, *others = parted
    return {
        "domains": domain_figures(scores),
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
    interval = [float(edge) for edge in np.percentile(np.mean(samples, axis=0), [2.5, 97.5])]
    return {"mean": sum(values) / len(values), "ci95": interval if resampled else None}
