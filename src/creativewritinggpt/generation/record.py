"""The record of a token: how likely it was, what else could have come, what the samplers did.

Log-probability, rank and entropy cost little and are always kept. Alternatives and the traces of
the samplers need sorting, so they are made only when asked for.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from .results import Alternative, Removal, Token
from .sampling.chain import Trace
from .text import Vocabulary


@dataclasses.dataclass(frozen=True)
class Figures:
    """What is known of one step's tokens, one entry a row."""

    logprob: list[float]
    rank: list[int]
    entropy: list[float]
    probability: list[float]


def measure(logits: torch.Tensor, tokens: torch.Tensor, probabilities: torch.Tensor) -> Figures:
    """Log-probability, rank and entropy of the chosen tokens.

    Args:
        logits: The model's, float32 ``[rows, vocabulary]``.
        tokens: int64 ``[rows]``.
        probabilities: Of the tokens when they were chosen, ``[rows]``.
    """
    log_probabilities = torch.log_softmax(logits, -1)
    chosen = log_probabilities.gather(-1, tokens.unsqueeze(-1))
    # numpy compares and counts ten times as fast as torch.
    pairs = zip(log_probabilities.numpy(), chosen.numpy(), strict=True)
    rank = [int(np.count_nonzero(row > one)) + 1 for row, one in pairs]
    distribution = log_probabilities.exp()
    entropy: torch.Tensor = -torch.linalg.vecdot(distribution, log_probabilities)
    if bool(entropy.isnan().any()):  # a token of probability zero: 0 · log 0 counts as 0
        entropy = torch.special.entr(distribution).sum(-1)
    return Figures(chosen.squeeze(-1).tolist(), rank, entropy.tolist(), probabilities.tolist())


def likeliest(logits: torch.Tensor, count: int, words: Vocabulary) -> list[Alternative]:
    """The ``count`` likeliest tokens of one row with a probability above zero."""
    probabilities, ids = torch.softmax(logits, -1).topk(min(count, logits.shape[-1]))
    return [
        Alternative(token, words.shown(token), probability)
        for token, probability in zip(ids.tolist(), probabilities.tolist(), strict=True)
        if probability > 0
    ]


def removals(
    logits: torch.Tensor, trace: Trace, row: int, count: int, words: Vocabulary
) -> dict[str, Removal]:
    """What each sampler left out of one row, with the ``count`` likeliest tokens of it.

    Args:
        logits: The model's, ``[rows, vocabulary]``.
        trace: Of the chain.
        row: Which row.
        count: How many tokens to name.
        words: What they stand for.
    """
    probabilities = torch.softmax(logits[row], -1)
    alive = torch.isfinite(logits[row])
    found = {}
    for name, changed in trace:
        after = torch.isfinite(changed[row])
        gone = alive & ~after
        if bool(gone.any()):
            lost = probabilities * gone
            values, ids = lost.topk(min(count, int(gone.sum())))
            found[name] = Removal(
                int(gone.sum()),
                float(lost.sum()),
                [
                    Alternative(token, words.shown(token), probability)
                    for token, probability in zip(ids.tolist(), values.tolist(), strict=True)
                ],
            )
        alive = after
    return found


def make_token(token: int, row: int, figures: Figures, words: Vocabulary) -> Token:
    """The record of one token without alternatives."""
    return Token(
        id=token,
        text=words.shown(token),
        bytes=words.bytes_of(token),
        logprob=figures.logprob[row],
        rank=figures.rank[row],
        entropy=figures.entropy[row],
        probability=figures.probability[row],
    )


def with_alternatives(
    token: Token,
    logits: torch.Tensor,
    final: torch.Tensor,
    trace: Trace,
    row: int,
    count: int,
    words: Vocabulary,
) -> Token:
    """``token`` with its ``count`` alternatives before and after, and what each sampler did."""
    return dataclasses.replace(
        token,
        before=likeliest(logits[row], count, words),
        after=likeliest(final[row], count, words),
        removed=removals(logits, trace, row, count, words),
    )
