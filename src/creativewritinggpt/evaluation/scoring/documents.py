"""What a model makes of whole documents: the sums that every figure is a ratio of.

Negative log-probability, tokens, words and bytes are kept for each document, so that any ratio can
be formed again later, on any choice of documents. Words and bytes are those of the original text,
before any cleaning that changes their number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ...console import CountCallback
from ...data.document import Document
from ...data.rows.tokens import tokenize
from ...errors import InputError
from ...models.loaded_model import LoadedModel
from ...processes import ALONE, Processes
from .batched import windows_nll
from .windows import continuation, plain_window, rolling_windows, sliding_windows

WINDOW = 1024
"""Window of the headline figures: GPT-2's whole context, and the same for models that see more."""

LEGACY_TOKENS = 512
"""What the original project read of a document."""


@dataclasses.dataclass(frozen=True)
class DocumentScore:
    """What one model makes of one document.

    Attributes:
        source: Its domain.
        group: What it is resampled with.
        nll: Negative log-probability of its tokens, in nats.
        eos_nll: That of the end of the text after them.
        tokens: Number of its tokens.
        words: Number of words of the original text, split at white space.
        bytes: Length of the original text in UTF-8.
        digest: SHA-1 of prompt and text.
        title: Its title, where it has one.
        sliding_nll: That of its tokens by windows with a stride, where asked for.
        legacy_nll: Mean negative log-probability of its first 512 tokens but the first, as the
            original project computed it, where asked for and where there are two tokens.
        window: Tokens of context that were asked for; a model that sees fewer had fewer.
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


def score_documents(
    writer: LoadedModel,
    documents: Sequence[Document],
    *,
    window: int = WINDOW,
    stride: int | None = None,
    legacy: bool = False,
    team: Processes = ALONE,
    progress: CountCallback | None = None,
) -> list[DocumentScore]:
    """Score documents with the model as it is.

    Args:
        writer: The model.
        documents: What to score.
        window: Tokens of context at most.
        stride: Score a second time by windows that move on by so many tokens.
        legacy: Score the first 512 tokens a further time as the original project did.
        team: The processes that share the work; each gives all documents and gets all scores.
        progress: Called with (windows done, windows in all).

    Returns:
        A score for each document, in order.

    Raises:
        InputError: A stride that is no length within the window.
    """
    asked, window = window, min(window, writer.window)
    with team.agreed():
        if stride is not None and not 1 <= stride <= window:
            raise InputError(f"stride is {stride}", f"give a number of tokens from 1 to {window}")
        writer.model.eval()
        tokens = tokenize(documents, writer.tokenizer, None)
    numbers = range(len(documents))
    ends = (writer.bos_id, writer.eos_id)
    rolling = [w for i in numbers for w in rolling_windows(i, tokens[i], window, *ends)]
    sliding = [
        w
        for i in numbers
        for w in (sliding_windows(i, tokens[i], window, stride, ends[0]) if stride else ())
    ]
    first = [
        w
        for i in numbers
        for w in (plain_window(i, tokens[i], min(LEGACY_TOKENS, writer.window)) if legacy else ())
    ]
    windows = [*rolling, *sliding, *first]
    values = windows_nll(writer, windows, team=team, progress=progress)

    nll, eos_nll, sliding_nll = (np.zeros(len(documents)) for _ in range(3))
    legacy_nll: dict[int, float] = {}
    for place, (piece, found) in enumerate(zip(windows, values, strict=True)):
        owner = piece.document
        if place < len(rolling):
            ending = found[piece.end] if piece.end >= 0 else 0.0
            eos_nll[owner] += ending
            nll[owner] += found.sum() - ending
        elif place < len(rolling) + len(sliding):
            sliding_nll[owner] += found.sum()
        else:
            legacy_nll[owner] = float(found.mean())
    return [
        DocumentScore(
            source=document.source,
            group=document.group,
            nll=float(nll[index]),
            eos_nll=float(eos_nll[index]),
            tokens=len(tokens[index]),
            words=original_words(document),
            bytes=original_bytes(document),
            digest=document.digest,
            title=document.title,
            sliding_nll=float(sliding_nll[index]) if stride else None,
            legacy_nll=legacy_nll.get(index),
            window=asked,
            stride=stride,
        )
        for index, document in enumerate(documents)
    ]


def original_words(document: Document) -> int:
    """Words of the text before cleaning changed their number, split at white space."""
    if document.original_words is not None:
        return document.original_words
    return len(document.full_text().split())


def original_bytes(document: Document) -> int:
    """Bytes in UTF-8 of the text before cleaning changed their number."""
    if document.original_bytes is not None:
        return document.original_bytes
    return len(document.full_text().encode("utf-8", "surrogatepass"))


def score_continuations(
    writer: LoadedModel,
    items: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    team: Processes = ALONE,
    progress: CountCallback | None = None,
) -> list[float]:
    """Log-probability of each target given its context.

    Args:
        writer: The model.
        items: Context and target as token ids.
        team: The processes that share the work; each gives all items and gets all sums.
        progress: Called with (items done, items in all).

    Returns:
        Sums of log-probabilities in nats, 0 for an empty target.
    """
    writer.model.eval()
    windows = [
        continuation(index, context, target[: writer.window], writer.window, writer.bos_id)
        for index, (context, target) in enumerate(items)
        if len(target)
    ]
    result = [0.0] * len(items)
    values = windows_nll(writer, windows, team=team, progress=progress)
    for window, found in zip(windows, values, strict=True):
        result[window.document] = -float(found.sum())
    return result
