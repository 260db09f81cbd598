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
from collections.abc import Iterator

import numpy as np

from ..data.packing import IGNORE, PackedRows


@dataclasses.dataclass(frozen=True)
class Window:
    """One pass through the model.

    Attributes:
        document: Index of the document.
        inputs: Token ids the model reads, [tokens].
        targets: Token to be predicted at each of them, IGNORE where it is only context, [tokens].
        end: Index of the position that predicts the end of the text, or -1.
    """

    document: int
    inputs: np.ndarray
    targets: np.ndarray
    end: int


def rolling_windows(
    document: int, ids: np.ndarray, window: int, bos_id: int, eos_id: int
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


def batches(
    windows: list[Window], eos_id: int, tokens: int
) -> Iterator[tuple[list[int], PackedRows]]:
    """Group windows of like length into rows, padded on the right.

    Args:
        windows: The windows.
        eos_id: What fills the rest of a shorter row; it is never a target.
        tokens: Tokens a batch may hold, padding included (one window at least).

    Yields:
        The indices of the windows, and their rows.
    """
    order = sorted(range(len(windows)), key=lambda index: -len(windows[index].inputs))
    while order:
        width = len(windows[order[0]].inputs)
        taken, order = order[: max(1, tokens // width)], order[max(1, tokens // width) :]
        shape = (len(taken), width)
        rows = PackedRows(
            input_ids=np.full(shape, eos_id, dtype=np.int64),
            targets=np.full(shape, IGNORE, dtype=np.int64),
            position_ids=np.zeros(shape, dtype=np.int64),
            segment_ids=np.zeros(shape, dtype=np.int32),
            document_ids=np.full(shape, -1, dtype=np.int32),
            is_eos=np.zeros(shape, dtype=bool),
        )
        for row, index in enumerate(taken):
            window = windows[index]
            length = len(window.inputs)
            rows.input_ids[row, :length] = window.inputs
            rows.targets[row, :length] = window.targets
            rows.position_ids[row, :length] = np.arange(length)
            rows.segment_ids[row, :length] = 1
            rows.document_ids[row, :length] = window.document
            if window.end >= 0:
                rows.is_eos[row, window.end] = True
        yield taken, rows
