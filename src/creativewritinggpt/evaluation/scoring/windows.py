"""How a document of any length becomes windows in which every token is scored once.

The convention is that of lm-evaluation-harness (``get_rolling_token_windows`` with
``context_len=1``): an end-of-text token stands before the document, so that its first token is
scored too; windows follow each other with one token of overlap, and the last one is stretched to
the left, so that its tokens have as much context as the model can take. Longer overlaps give lower
perplexities at a higher cost, so figures are comparable only with the window beside them.

The end-of-text token after the document is scored as well, but told apart: a tuned model learns
within minutes that stories end, and would be flattered by it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ...data.rows.packing import IGNORE

Ids = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Window:
    """One reading of a stretch of text by the model.

    Attributes:
        document: Index of the document.
        inputs: Token ids the model reads, [tokens].
        targets: Token to be predicted at each of them, IGNORE where it is only context, [tokens].
        end: Index of the position that predicts the end of the text, or -1.
    """

    document: int
    inputs: Ids
    targets: Ids
    end: int = -1


def rolling_windows(
    document: int, ids: npt.NDArray[np.integer], window: int, bos_id: int, eos_id: int
) -> Iterator[Window]:
    """Cut one document.

    Args:
        document: Its index.
        ids: Its token ids without begin or end of text, [tokens].
        window: Tokens that the model sees at once, at least 2.
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
        last = stop + 1 if ended else stop
        targets = np.full(last - first, IGNORE, dtype=np.int64)
        targets[start - first :] = stream[start + 1 : last + 1]
        yield Window(document, stream[first:last], targets, last - first - 1 if ended else -1)
        start = stop
    if not ended:
        inputs = stream[max(0, count + 1 - window) : count + 1]
        targets = np.full(len(inputs), IGNORE, dtype=np.int64)
        targets[-1] = eos_id
        yield Window(document, inputs, targets, len(inputs) - 1)


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
        window: Tokens that the model sees at once.
        stride: Tokens that each window but the first scores, at most ``window``.
        bos_id: What stands before the text.

    Yields:
        Windows of at most ``window`` inputs; each id is the target of exactly one.
    """
    stream = np.concatenate([[bos_id], ids]).astype(np.int64)
    count = len(ids)
    start = 0
    while start < count:
        stop = min(start + (stride if start else window), count)
        first = max(0, stop - window)
        targets = np.full(stop - first, IGNORE, dtype=np.int64)
        targets[start - first :] = stream[start + 1 : stop + 1]
        yield Window(document, stream[first:stop], targets)
        start = stop


def plain_window(document: int, ids: npt.NDArray[np.integer], tokens: int) -> Iterator[Window]:
    """The first tokens of a document as the original project read them: nothing before them.

    The first token is therefore not scored, and what comes after ``tokens`` of them is not read.
    """
    stream = np.asarray(ids[:tokens], dtype=np.int64)
    if len(stream) > 1:
        yield Window(document, stream[:-1], stream[1:])


def continuation(
    item: int, context: Sequence[int], target: Sequence[int], window: int, bos_id: int
) -> Window:
    """One window that scores ``target`` after ``context``.

    Where both don't fit, the oldest context is left out; the scored tokens are the same for every
    context.

    Args:
        item: Its number.
        context: Token ids before.
        target: Token ids that are scored, fewer than ``window``.
        window: Tokens that the model sees at once.
        bos_id: What stands before the context.
    """
    stream = np.array([bos_id, *context, *target], dtype=np.int64)
    count = len(target)
    inputs = stream[max(0, len(stream) - 1 - window) : -1]
    targets = np.full(len(inputs), IGNORE, dtype=np.int64)
    targets[len(inputs) - count :] = stream[len(stream) - count :]
    return Window(item, inputs, targets)
