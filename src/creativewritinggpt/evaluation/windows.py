"""Windows: a document of any length cut so that every token is scored exactly once.

The convention is that of lm-evaluation-harness (``get_rolling_token_windows`` with
``context_len=1``): an end-of-text token stands before the document, so its first token is scored
too; windows overlap by one token, and the last one is extended to the left, so that its tokens have
as much context as the model takes. Longer overlaps give lower perplexities at a higher cost, so
figures are comparable only with the same window.

The end-of-text token after the document is scored too but reported apart: a tuned model learns
within minutes that stories end, and would be flattered by it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ..data.rows.packing import IGNORE

Ids = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Window:
    """A stretch of text that the model reads at once.

    Attributes:
        document: Index of the document.
        inputs: Token ids that the model reads, [tokens].
        targets: Token to be predicted at each of them, IGNORE where it is only context, [tokens].
        end: Index of the position that predicts the end of the text, or -1.
    """

    document: int
    inputs: Ids
    targets: Ids
    end: int = -1


def _window(document: int, stream: Ids, first: int, start: int, stop: int, end: int = -1) -> Window:
    """The window that reads ``stream[first:stop]`` and predicts what follows from ``start`` on."""
    targets = np.full(stop - first, IGNORE, dtype=np.int64)
    targets[start - first :] = stream[start + 1 : stop + 1]
    return Window(document, stream[first:stop], targets, end)


def rolling_windows(
    document: int, ids: npt.NDArray[np.integer], window: int, bos_id: int, eos_id: int
) -> Iterator[Window]:
    """Cut one document into windows that overlap by one token.

    Args:
        document: Its index.
        ids: Its token ids without begin or end of text, [tokens].
        window: Maximum context in tokens, at least 2.
        bos_id: What stands before the text.
        eos_id: What stands after it.

    Yields:
        Windows of at most ``window`` inputs; each id is the target of exactly one, and so is the
        end of text.
    """
    stream = np.concatenate([[bos_id], ids, [eos_id]]).astype(np.int64)
    count = len(ids)
    start = 0  # ids scored so far; stream[start] is the input that predicts stream[start + 1]
    ended = False
    while start < count:
        stop = min(start + window, count)
        first = max(0, stop - window) if stop == count else start
        # One more input predicts the end of the text, where there is room for it.
        ended = stop == count and stop + 1 - first <= window
        yield _window(document, stream, first, start, stop + ended, stop - first if ended else -1)
        start = stop
    if not ended:
        first = max(0, count + 1 - window)
        yield _window(document, stream, first, count, count + 1, count - first)


def sliding_windows(
    document: int, ids: npt.NDArray[np.integer], window: int, stride: int, bos_id: int
) -> Iterator[Window]:
    """Cut one document into windows that overlap, so that every token has much context.

    As in "Perplexity of fixed-length models" of transformers' documentation, with two differences:
    an end-of-text token stands before the document, and no window crosses documents. The end of the
    text is not scored.

    Args:
        document: Its index.
        ids: Its token ids, [tokens].
        window: Maximum context in tokens.
        stride: Tokens that each window but the first scores, at most ``window``.
        bos_id: What stands before the text.

    Yields:
        Windows of at most ``window`` inputs; each id is the target of exactly one.
    """
    stream = np.concatenate([[bos_id], ids]).astype(np.int64)
    start = 0
    while start < len(ids):
        stop = min(start + (stride if start else window), len(ids))
        yield _window(document, stream, max(0, stop - window), start, stop)
        start = stop


def plain_window(document: int, ids: npt.NDArray[np.integer], tokens: int) -> Iterator[Window]:
    """The first tokens of a document as the original project read them, with nothing before them.

    The first token is therefore not scored; what comes after ``tokens`` of them is not read.
    """
    stream = np.asarray(ids[:tokens], dtype=np.int64)
    if len(stream) > 1:
        yield _window(document, stream, 0, 0, len(stream) - 1)


def continuation(
    item: int, context: Sequence[int], target: Sequence[int], window: int, bos_id: int
) -> Window:
    """One window that scores ``target`` after ``context``.

    Where both don't fit, the oldest context is left out; the scored tokens are the same for every
    context.

    Args:
        item: Its index.
        context: Token ids before.
        target: Token ids that are scored, fewer than ``window``.
        window: Maximum context in tokens.
        bos_id: What stands before the context.
    """
    stream = np.array([bos_id, *context, *target], dtype=np.int64)
    stop = len(stream) - 1
    return _window(item, stream, max(0, stop - window), stop - len(target), stop)
