"""Scores of documents, and perplexity, bits per byte and differences between models from them.

Every figure is a ratio of sums over documents, never a mean of ratios: perplexity is
exp(Σ nats / Σ tokens), bits per byte is Σ nats / Σ bytes / ln 2. The mean over domains is exp of
the mean of their losses. Sums are kept per document, so that any ratio can be formed again later,
on any choice of documents.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..console import CountCallback
from ..data.document import Document
from ..data.rows.packing import tokenize
from ..data.text import count_words
from ..distributed import SINGLE_PROCESS, ProcessGroup
from ..errors import InputError
from ..models.loaded_model import LoadedModel
from .batched_scoring import windows_nll
from .bootstrap import RESAMPLES, Interval, grouped, interval_of
from .windows import continuation, plain_window, rolling_windows, sliding_windows

WINDOW = 1024
"""Context of the headline figures: GPT-2's whole context, and the same for models with more."""

LEGACY_TOKENS = 512
"""Tokens that the original project read of a document."""


@dataclasses.dataclass(frozen=True)
class DocumentScore:
    """The score of one document by one model.

    Attributes:
        source: Its domain.
        group: What it is resampled with.
        nll: Negative log-probability of its tokens, in nats.
        eos_nll: That of the end-of-text token after them.
        tokens: Number of its tokens.
        words: Number of words of the original text, split at white space.
        bytes: Length of the original text in UTF-8.
        digest: SHA-1 of prompt and text.
        title: Its title, where it has one.
        sliding_nll: NLL of its tokens by windows with a stride, where asked for.
        legacy_nll: Mean NLL of its first 512 tokens but the first, as the original project computed
            it, where asked for and where there are two tokens.
        window: Tokens of context that were asked for; a model with less context had fewer.
        stride: Of the windows of ``sliding_nll``.
    """

    source: str
    group: str
    nll: float
    eos_nll: float
    tokens: int
    words: int
    bytes: int
    digest: str = ""
    title: str | None = None
    sliding_nll: float | None = None
    legacy_nll: float | None = None
    window: int | None = None
    stride: int | None = None

    @property
    def bits_per_byte(self) -> float:
        """NLL in bits per byte of the original text."""
        return self.nll / max(self.bytes, 1) / math.log(2)


def score_documents(
    model: LoadedModel,
    documents: Sequence[Document],
    *,
    window: int = WINDOW,
    stride: int | None = None,
    legacy: bool = False,
    group: ProcessGroup = SINGLE_PROCESS,
    progress: CountCallback | None = None,
) -> list[DocumentScore]:
    """Score documents with the model as it is, in ``eval()`` mode.

    Args:
        model: The model.
        documents: The documents.
        window: Maximum context in tokens.
        stride: Also score by windows that move on by so many tokens.
        legacy: Also score the first 512 tokens as the original project did.
        group: The processes that share the work; each passes all documents and gets all scores.
        progress: Called with (windows done, windows in all).

    Returns:
        A score for each document, in order. Words and bytes are counted in the original text,
        before any cleaning that changed their number.

    Raises:
        InputError: A stride that is not within the window.
    """
    asked, window = window, min(window, model.context_length)
    with group.share_errors():
        if stride is not None and not 1 <= stride <= window:
            raise InputError(f"stride is {stride}", f"give a number of tokens from 1 to {window}")
        model.model.eval()
        tokens = tokenize(documents, model.tokenizer, None)
    numbers = range(len(documents))
    bos, eos = model.bos_id, model.eos_id
    rolling = [w for i in numbers for w in rolling_windows(i, tokens[i], window, bos, eos)]
    sliding = [
        w for i in numbers if stride for w in sliding_windows(i, tokens[i], window, stride, bos)
    ]
    most = min(LEGACY_TOKENS, model.context_length)
    first = [w for i in numbers if legacy for w in plain_window(i, tokens[i], most)]
    values = iter(windows_nll(model, [*rolling, *sliding, *first], group=group, progress=progress))

    nll, eos_nll, sliding_nll = (np.zeros(len(documents)) for _ in range(3))
    for piece in rolling:
        found = next(values)
        ending = found[piece.end] if piece.end >= 0 else 0.0
        eos_nll[piece.document] += ending
        nll[piece.document] += found.sum() - ending
    for piece in sliding:
        sliding_nll[piece.document] += next(values).sum()
    legacy_nll = {piece.document: float(next(values).mean()) for piece in first}
    return [
        DocumentScore(
            source=document.source,
            group=document.group,
            nll=float(nll[index]),
            eos_nll=float(eos_nll[index]),
            tokens=len(tokens[index]),
            words=_original_words(document),
            bytes=_original_bytes(document),
            digest=document.digest,
            title=document.title,
            sliding_nll=float(sliding_nll[index]) if stride else None,
            legacy_nll=legacy_nll.get(index),
            window=asked,
            stride=stride,
        )
        for index, document in enumerate(documents)
    ]


def _original_words(document: Document) -> int:
    if document.original_words is not None:
        return document.original_words
    return count_words(document.full_text())


def _original_bytes(document: Document) -> int:
    if document.original_bytes is not None:
        return document.original_bytes
    return len(document.full_text().encode("utf-8", "surrogatepass"))


def score_continuations(
    model: LoadedModel,
    items: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    group: ProcessGroup = SINGLE_PROCESS,
    progress: CountCallback | None = None,
) -> list[float]:
    """Log-probability of each target given its context.

    Args:
        model: The model.
        items: Context and target as token ids.
        group: The processes that share the work; each passes all items and gets all sums.
        progress: Called with (items done, items in all).

    Returns:
        Sums of log-probabilities in nats, 0 for an empty target.
    """
    model.model.eval()
    windows = [
        continuation(
            index, context, target[: model.context_length], model.context_length, model.bos_id
        )
        for index, (context, target) in enumerate(items)
        if len(target)
    ]
    result = [0.0] * len(items)
    values = windows_nll(model, windows, group=group, progress=progress)
    for window, found in zip(windows, values, strict=True):
        result[window.document] = -float(found.sum())
    return result


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
