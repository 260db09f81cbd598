"""Statistics of tokens: log-probability, rank, entropy, alternatives, what the samplers excluded.

The first three are computed for every token that is written; alternatives and what the samplers
excluded need sorting and are computed on demand.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..models.forward.native_backend import Backend
from .results import Alternative, Removal, Token
from .sampling.chain import Trace
from .text import Vocabulary


def step_tokens(
    logits: torch.Tensor,
    tokens: torch.Tensor,
    probabilities: torch.Tensor,
    words: Vocabulary,
    *,
    alternatives: int = 0,
    final: torch.Tensor | None = None,
    trace: Trace | None = None,
) -> list[Token]:
    """The tokens of one decoding step with their statistics, one per row.

    Args:
        logits: The model's, float32 ``[rows, vocabulary]``.
        tokens: Token ids, int64 ``[rows]``.
        probabilities: Of the tokens in the distribution that they were drawn from, ``[rows]``.
        words: The vocabulary.
        alternatives: Number of alternatives to name per token, before and after the samplers.
        final: Logits after all samplers, for the alternatives after them.
        trace: Logits after each sampler, for what each of them excluded.
    """
    log_probabilities = torch.log_softmax(logits, -1)
    chosen = log_probabilities.gather(-1, tokens.unsqueeze(-1))
    # numpy compares and counts ten times as fast as torch.
    pairs = zip(log_probabilities.numpy(), chosen.numpy(), strict=True)
    ranks = [int(np.count_nonzero(row > one)) + 1 for row, one in pairs]
    distribution = log_probabilities.exp()
    entropies: torch.Tensor = -torch.linalg.vecdot(distribution, log_probabilities)
    if bool(entropies.isnan().any()):  # a token of probability zero: 0 · log 0 counts as 0
        entropies = torch.special.entr(distribution).sum(-1)
    logprobs, shares = chosen.squeeze(-1).tolist(), probabilities.tolist()
    entropy = entropies.tolist()
    after = final if alternatives else None
    return [
        Token(
            id=token,
            text=words.shown(token),
            bytes=words.bytes_of(token),
            logprob=logprobs[row],
            rank=ranks[row],
            entropy=entropy[row],
            probability=shares[row],
            before=_likeliest(logits[row], alternatives, words) if alternatives else None,
            after=None if after is None else _likeliest(after[row], alternatives, words),
            removed=None if trace is None else _removed(logits, trace, row, alternatives, words),
        )
        for row, token in enumerate(tokens.tolist())
    ]


@torch.inference_mode()
def forced_tokens(
    backend: Backend,
    view: Sequence[int],
    ids: Sequence[int],
    words: Vocabulary,
    *,
    capacity: int,
    alternatives: int,
) -> list[Token]:
    """The statistics of given tokens after a given context, as if the model had written them.

    Args:
        backend: The forward pass.
        view: Token ids that the model reads first.
        ids: Token ids whose statistics are wanted.
        words: The vocabulary.
        capacity: Number of tokens that the backend's context may grow to.
        alternatives: Number of alternatives to name per token.
    """
    context, logits = backend.read(view, capacity)
    found = []
    for token in ids:
        probability = torch.softmax(logits, -1)[:, token]
        found += step_tokens(
            logits, torch.tensor([token]), probability, words, alternatives=alternatives
        )
        logits = context.step([token])
    return found


def _likeliest(logits: torch.Tensor, count: int, words: Vocabulary) -> list[Alternative]:
    """The ``count`` likeliest tokens of one row with a probability above zero."""
    values, ids = torch.softmax(logits, -1).topk(min(count, logits.shape[-1]))
    return [one for one in _alternatives(values, ids, words) if one.probability > 0]


def _alternatives(values: torch.Tensor, ids: torch.Tensor, words: Vocabulary) -> list[Alternative]:
    pairs = zip(ids.tolist(), values.tolist(), strict=True)
    return [Alternative(token, words.shown(token), value) for token, value in pairs]


def _removed(
    logits: torch.Tensor, trace: Trace, row: int, count: int, words: Vocabulary
) -> dict[str, Removal]:
    """What each sampler of ``trace`` excluded in one row, with its ``count`` likeliest tokens."""
    probabilities = torch.softmax(logits[row], -1)
    alive = torch.isfinite(logits[row])
    found = {}
    for name, changed in trace:
        after = torch.isfinite(changed[row])
        gone = alive & ~after
        number = int(gone.sum())
        if number:
            lost = probabilities * gone
            likeliest = _alternatives(*lost.topk(min(count, number)), words)
            found[name] = Removal(number, float(lost.sum()), likeliest)
        alive = after
    return found
