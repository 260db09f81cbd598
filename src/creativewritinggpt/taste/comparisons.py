"""Decisions as token ids, and the log-probabilities of their texts.

A decision becomes one context and the texts that were offered after it, each a row of its own::

    reads     bos … the last tokens before the choice │ the text's tokens
    predicts                 (masked)                   the text's tokens

The context is what the model saw: memory, note and the last tokens of the story. It is tokenised
together with each text; tokens that the texts share with the context's own spelling are context,
so that all of them go on from the same ids. No end of text follows: a passage ends where the
writer's limit was.

Trade-off: each text reads the context anew. Reading it once would save up to half of the work of
four drafts, but needs attention across documents, which the fast path does not have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..data.rows.packing import IGNORE, Encoder, PackedRows
from ..generation.row import Pinned, make_view
from ..generation.text import encode, vocabulary
from ..models.loaded_model import LoadedModel
from ..models.scoring import Head, head_nll
from ..story.decisions import Decision
from ..training.loss import TargetStates, target_states

Ids = list[int]
Floats = npt.NDArray[np.float64]

_MOST_CHARACTERS = 16  # of a token, at most on the mean: a cut this far back is never too short
_LEAST_CONTEXT = 8  # tokens


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A decision as token ids.

    Attributes:
        decision: The decision.
        context: Token ids before the texts.
        texts: Token ids of each text; the chosen one is the first where there is one.
    """

    decision: Decision
    context: Ids
    texts: tuple[Ids, ...]

    @property
    def has_chosen(self) -> bool:
        """Whether a text was taken, and is the first."""
        return self.decision.chosen is not None

    @property
    def counts(self) -> Floats:
        """[texts] tokens of each."""
        return np.array([len(text) for text in self.texts], dtype=np.float64)

    def rows(self) -> list[Row]:
        """A row for each text."""
        return [Row(self.context, text) for text in self.texts]


@dataclasses.dataclass(frozen=True)
class Row:
    """A context and the text after it, as token ids."""

    context: Ids
    text: Ids

    def __len__(self) -> int:
        return len(self.context) + len(self.text) - 1


def compare(
    model: LoadedModel, decisions: Sequence[Decision], context_tokens: int
) -> tuple[list[Comparison], int]:
    """Decisions as token ids.

    Args:
        model: The model, for its tokenizer and context length.
        decisions: The decisions.
        context_tokens: Tokens of a context at most; less where the model reads less.

    Returns:
        The comparisons, and how many decisions have none: their texts are the same to the
        tokenizer, or leave no room for a context.
    """
    encoder = Encoder(model.tokenizer)
    found = []
    for one in decisions:
        made = _comparison(model, encoder, one, context_tokens)
        if made is not None:
            found.append(made)
    return found, len(decisions) - len(found)


def _comparison(
    model: LoadedModel, encoder: Encoder, one: Decision, context_tokens: int
) -> Comparison | None:
    texts = [*([] if one.chosen is None else [one.chosen]), *one.rejected]
    prompt = one.prompt[-_MOST_CHARACTERS * context_tokens :]
    body, *whole = [ids.tolist() for ids in encoder.encode([prompt, *(prompt + t for t in texts)])]
    shared = min(_common(body, ids) for ids in whole)
    endings = [ids[shared:] for ids in whole]
    if any(not ids for ids in endings) or len({tuple(ids) for ids in endings}) < len(endings):
        return None
    room = min(context_tokens, model.context_length - max(map(len, endings)))
    if room < _LEAST_CONTEXT:
        return None
    pinned = [encode(model.tokenizer, text) for text in (_block(one.memory), _block(one.note))]
    if 1 + sum(map(len, pinned)) > room // 2:  # more than the context has room for: the text alone
        pinned = [[], []]
    words = vocabulary(model.tokenizer)
    # A view leaves room for a token, which is the first of the text.
    view = make_view(
        body[:shared], words, context_length=room + 1, bos_id=model.bos_id, pinned=Pinned(*pinned)
    )
    return Comparison(one, view.ids, tuple(endings))


def _block(text: str) -> str:
    return text.strip() + "\n\n" if text.strip() else ""


def _common(first: Ids, second: Ids) -> int:
    """How many leading ids agree."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count


def packed(rows: Sequence[Row]) -> PackedRows:
    """Rows as a batch, one document in each, the texts' tokens as targets."""
    shape = (len(rows), max(map(len, rows)))
    ids, targets = np.zeros(shape, dtype=np.int64), np.full(shape, IGNORE, dtype=np.int64)
    segments = np.zeros(shape, dtype=np.int32)
    for number, row in enumerate(rows):
        tokens = row.context + row.text
        ids[number, : len(row)] = tokens[:-1]
        targets[number, len(row.context) - 1 : len(row)] = row.text
        segments[number, : len(row)] = 1
    return PackedRows(
        input_ids=ids, targets=targets, segment_ids=segments,
        position_ids=np.broadcast_to(np.arange(shape[1]), shape).copy(),
        document_ids=segments - 1, is_eos=np.zeros(shape, dtype=bool),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Scored:
    """A pass of rows through the body, and the log-probability of each target.

    All but the hidden states is on the CPU, in float64 where it is summed.

    Attributes:
        states: The hidden states, with their graph where gradients are on.
        logs: [N] log-probabilities, without a gradient.
        row: [N] number of the row that each target is in.
        place: [N] number of each target in its text.
    """

    states: TargetStates
    logs: Tensor
    row: Tensor
    place: Tensor

    def sums(self, weights: Tensor | None = None) -> Tensor:
        """[rows] log-probability of each text, its tokens weighted, [N]."""
        logs = self.logs if weights is None else self.logs * weights
        total = torch.zeros(int(self.row.max()) + 1, dtype=torch.float64)
        return total.index_add(0, self.row, logs.double())


def score(model: LoadedModel, rows: Sequence[Row]) -> Scored:
    """Read rows in one pass; log-probabilities are computed in float32 whatever the precision."""
    batch = packed(rows)
    states = target_states(model, batch)
    places, width = states.places.cpu(), batch.max_length
    row = places // width
    starts = torch.tensor([len(one.context) - 1 for one in rows])
    with torch.no_grad():
        logs = -head_nll(states.hidden.detach().float(), states.targets, _exact(states.head))
    return Scored(states, logs.cpu(), row, places % width - starts[row])


def _exact(head: Head) -> Head:
    return head.to(torch.float32)


def log_probabilities(
    model: LoadedModel, comparisons: Sequence[Comparison], rows_at_once: int = 8
) -> list[Floats]:
    """[texts] log-probability of each text of each comparison, in nats, by the model as it is."""
    rows = [row for one in comparisons for row in one.rows()]
    sums = text_log_probabilities(model, rows, rows_at_once)
    ends = np.cumsum([len(one.texts) for one in comparisons])
    return np.split(sums, ends[:-1]) if len(comparisons) else []


def text_log_probabilities(
    model: LoadedModel, rows: Sequence[Row], rows_at_once: int = 8
) -> Floats:
    """[rows] log-probability of each row's text."""
    model.model.eval()
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))  # little padding
    found = np.zeros(len(rows))
    for start in range(0, len(order), rows_at_once):
        part = order[start : start + rows_at_once]
        with torch.no_grad():
            found[part] = score(model, [rows[i] for i in part]).sums().numpy()
    return found
