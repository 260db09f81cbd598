"""Perplexity and bits per byte of a domain, and the difference of two models on it.

Every figure is a ratio of sums over documents, never a mean of ratios: perplexity is
exp(Σ nats / Σ tokens), bits per byte is Σ nats / Σ bytes / ln 2. The mean over domains is exp of
the mean of their losses: one pooled figure would only say how the documents are mixed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import InputError
from .bootstrap import Interval, interval_of
from .documents import DocumentScore


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
    of_tokens = interval_of(groups, nats, [score.tokens for score in scores])
    of_bytes = interval_of(groups, nats, [score.bytes for score in scores])
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
        "ci95": _mapped(of_tokens, finite_exp),
        "bits_per_byte_ci95": _mapped(of_bytes, lambda edge: edge / math.log(2)),
        "eos_nll": sum(score.eos_nll for score in scores) / len(scores),
    }
    sliding = [score.sliding_nll for score in scores if score.sliding_nll is not None]
    if sliding:
        found["sliding_perplexity"] = finite_exp(sum(sliding) / max(tokens, 1))
    return found


def _mapped(interval: Interval | None, function: Any) -> Interval | None:
    return None if interval is None else [function(edge) for edge in interval]


def compare(first: Sequence[DocumentScore], second: Sequence[DocumentScore]) -> dict[str, Any]:
    """The paired difference of two models on the same documents.

    Args:
        first: Scores of the model that is compared with.
        second: Scores of the other, of the same documents in the same order.

    Returns:
        ``nats_per_token`` (below 0 where the second is better) and its ``ci95``, None where the two
        cut the text into other tokens; ``bits_per_byte`` and its interval; ``relative``, the
        difference as a share of the first's loss, and its interval; ``better``, the share of the
        documents that the second predicts better.

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
    same = [score.tokens for score in first] == [score.tokens for score in second]
    result: dict[str, Any] = {"nats_per_token": None, "ci95": None}
    if same:
        counts = [score.tokens for score in first]
        result["nats_per_token"] = sum(changes) / max(sum(counts), 1)
        result["ci95"] = interval_of(groups, changes, counts)
    sizes = [score.bytes for score in first]
    of_bytes = interval_of(groups, changes, sizes)
    before = [score.nll for score in first]
    result["bits_per_byte"] = sum(changes) / max(sum(sizes), 1) / math.log(2)
    result["bits_per_byte_ci95"] = _mapped(of_bytes, lambda edge: edge / math.log(2))
    result["relative"] = sum(changes) / max(sum(before), 1e-9)
    result["relative_ci95"] = interval_of(groups, changes, before)
    result["better"] = sum(change < 0 for change in changes) / max(len(changes), 1)
    return result


def by_domain(scores: Sequence[DocumentScore]) -> dict[str, list[DocumentScore]]:
    """Scores by their domain, in alphabetical order of the domains."""
    domains: dict[str, list[DocumentScore]] = {}
    for score in scores:
        domains.setdefault(score.source, []).append(score)
    return dict(sorted(domains.items()))


def macro_perplexity(domains: Mapping[str, Sequence[DocumentScore]]) -> float:
    """Exp of the mean of the domains' losses: every domain counts the same."""
    losses = [
        sum(score.nll for score in scores) / max(sum(score.tokens for score in scores), 1)
        for scores in domains.values()
    ]
    return finite_exp(sum(losses) / len(losses))


def legacy_perplexity(scores: Sequence[DocumentScore]) -> float | None:
    """Exp of the mean over documents of the mean loss of their first 512 tokens.

    It weights a story of ten tokens like one of five hundred and is kept for one purpose only: the
    original project's 23.45 was computed so, over its own mix of sources.
    """
    losses = [score.legacy_nll for score in scores if score.legacy_nll is not None]
    return finite_exp(sum(losses) / len(losses)) if losses else None
