"""Perplexity and bits per byte, document by document.

Every figure is a ratio of sums over documents, never a mean of ratios: perplexity is
exp(Σ nats / Σ tokens), bits per byte is Σ nats / Σ bytes / ln 2. Words and bytes are those of the
original text. Intervals come from a bootstrap over groups of documents (all stories of one prompt
are one group), since tokens of one text are not independent (Koehn 2004, "Statistical significance
tests for machine translation evaluation", for the paired form).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..data.document import Document
from ..data.tokens import tokenize
from ..models.scoring import token_nll
from ..models.writer import Writer
from .windows import batches, rolling_windows

RESAMPLES = 10_000
BATCH_TOKENS = 4096
WINDOW = 1024
"""Window of the headline figures: GPT-2's whole context, and the same for models that see more."""


@dataclasses.dataclass(frozen=True)
class DocumentScore:
    """What one model makes of one document.

    Attributes:
        source: Its domain.
        group: What it is resampled with.
        nll: Negative log-probability of its tokens, in nats.
        eos_nll: That of the end of the text after them.
        tokens: Number of its tokens.
        words: Number of its words, split at white space.
        bytes: Length in UTF-8.
    """

    source: str
    group: str
    nll: float
    eos_nll: float
    tokens: int
    words: int
    bytes: int


def score_documents(
    writer: Writer,
    documents: Sequence[Document],
    *,
    window: int = WINDOW,
    progress: Callable[[int, int], None] | None = None,
) -> list[DocumentScore]:
    """Score documents with the model as it is.

    Args:
        writer: The model.
        documents: What to score.
        window: Tokens of context at most.
        progress: Told (windows done, windows in all).

    Returns:
        A score for each document, in order.
    """
    window = min(window, writer.window)
    writer.model.eval()
    tokens = tokenize(documents, writer.tokenizer, None)
    windows = [
        piece
        for index in range(len(documents))
        for piece in rolling_windows(index, tokens[index], window, writer.bos_id, writer.eos_id)
    ]
    nll = np.zeros(len(documents))
    eos_nll = np.zeros(len(documents))
    done = 0
    for taken, rows in batches(windows, writer.eos_id, BATCH_TOKENS):
        values = token_nll(writer, rows, len(taken))  # [rows, tokens]
        for row, index in enumerate(taken):
            owner = windows[index].document
            ending = values[row][rows.is_eos[row]].sum()
            eos_nll[owner] += ending
            nll[owner] += values[row].sum() - ending
        done += len(taken)
        if progress is not None:
            progress(done, len(windows))
    return [
        DocumentScore(
            source=document.source,
            group=document.group,
            nll=float(nll[index]),
            eos_nll=float(eos_nll[index]),
            tokens=len(tokens[index]),
            words=len(document.full_text().split()),
            bytes=len(document.full_text().encode()),
        )
        for index, document in enumerate(documents)
    ]


def _grouped(scores: Sequence[DocumentScore], values: Sequence[float]) -> np.ndarray:
    """Sums of values by group, [groups]."""
    place: dict[str, int] = {}
    for score in scores:
        place.setdefault(score.group, len(place))
    sums = np.zeros(len(place))
    for score, value in zip(scores, values, strict=True):
        sums[place[score.group]] += value
    return sums


def ratio_interval(
    numerators: np.ndarray, denominators: np.ndarray, seed: int = 0
) -> tuple[float, float]:
    """A 95 % interval of Σ numerators / Σ denominators by a bootstrap over the groups.

    Args:
        numerators: [groups].
        denominators: [groups].
        seed: Of the resampling.

    Returns:
        The 2.5th and the 97.5th percentile.
    """
    generator = np.random.default_rng(seed)
    groups = len(numerators)
    ratios = []
    step = max(1, 2_000_000 // groups)
    for start in range(0, RESAMPLES, step):
        chosen = generator.integers(groups, size=(min(step, RESAMPLES - start), groups))
        ratios.append(numerators[chosen].sum(1) / np.maximum(denominators[chosen].sum(1), 1))
    low, high = np.percentile(np.concatenate(ratios), [2.5, 97.5])
    return float(low), float(high)


def summarise(scores: Sequence[DocumentScore]) -> dict[str, Any]:
    """The figures of one model on one domain.

    Args:
        scores: Scores of the domain's documents.

    Returns:
        The keys of ``evaluation.json``; ``ci95`` is that of the perplexity, None with one group.
    """
    nll = sum(score.nll for score in scores)
    tokens = sum(score.tokens for score in scores)
    words = sum(score.words for score in scores)
    size = sum(score.bytes for score in scores)
    sums = _grouped(scores, [score.nll for score in scores])
    counts = _grouped(scores, [float(score.tokens) for score in scores])
    interval = None
    if len(sums) > 1:
        interval = [_exp(edge) for edge in ratio_interval(sums, counts)]
    return {
        "documents": len(scores),
        "groups": len(sums),
        "tokens": tokens,
        "words": words,
        "bytes": size,
        "nll_sum": nll,
        "perplexity": _exp(nll / max(tokens, 1)),
        "bits_per_byte": nll / max(size, 1) / math.log(2),
        "word_perplexity": _exp(nll / max(words, 1)),
        "ci95": interval,
        "eos_nll": sum(score.eos_nll for score in scores) / len(scores),
    }


def _exp(value: float) -> float:
    """exp, kept finite for a model that has broken down."""
    return math.exp(min(value, 700.0))


def compare(base: Sequence[DocumentScore], tuned: Sequence[DocumentScore]) -> dict[str, Any]:
    """The paired difference of two models on the same documents.

    Args:
        base: Scores of the first model.
        tuned: Scores of the second, of the same documents in the same order.

    Returns:
        ``nats_per_token`` (below 0 where the second is better) and its ``ci95``.
    """
    changes = [after.nll - before.nll for before, after in zip(base, tuned, strict=True)]
    sums = _grouped(base, changes)
    counts = _grouped(base, [float(score.tokens) for score in base])
    interval = list(ratio_interval(sums, counts)) if len(sums) > 1 else None
    return {"nats_per_token": float(sums.sum() / max(counts.sum(), 1)), "ci95": interval}
