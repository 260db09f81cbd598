"""Samplers that look back: they change logits because of what is already written.

Each takes the logits of one row, float32 ``[vocabulary]``, and its tokens so far, and returns new
logits. They touch only the few tokens that the history names, so they cost microseconds.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch


def recent(history: Sequence[int], count: int) -> Sequence[int]:
    """The last ``count`` tokens of ``history``; 0 is all."""
    return history[-count:] if count > 0 else history


def repetition(logits: torch.Tensor, history: Sequence[int], penalty: float) -> torch.Tensor:
    """Divide positive logits of tokens in ``history`` by ``penalty``, multiply negative ones.

    Keskar et al. 2019, "CTRL", as everyone implements it.
    """
    if penalty == 1 or not len(history):
        return logits
    tokens = np.unique(np.asarray(history))
    changed = logits.clone()
    # numpy reaches a few of many numbers in a tenth of the time that torch takes.
    numbers = changed.numpy()
    values, by = numbers[tokens], np.float32(penalty)
    numbers[tokens] = np.where(values > 0, values / by, values * by)
    return changed


def presence_and_frequency(
    logits: torch.Tensor, history: Sequence[int], presence: float, frequency: float
) -> torch.Tensor:
    """Subtract ``presence`` once and ``frequency`` for each time that a token is in ``history``.

    As OpenAI's completions API defines its two penalties.
    """
    if (presence == 0 and frequency == 0) or not len(history):
        return logits
    tokens, counts = np.unique(np.asarray(history), return_counts=True)
    amounts = torch.from_numpy(presence + frequency * counts).to(logits.dtype)
    return logits.index_add(0, torch.from_numpy(tokens), -amounts)


def no_repeat_ngram(logits: torch.Tensor, history: Sequence[int], size: int) -> torch.Tensor:
    """Leave out every token that would complete a run of ``size`` tokens already in ``history``.

    Paulus et al. 2017; where every token would be left out, nothing is.
    """
    if size <= 0 or len(history) < size:
        return logits
    tokens = np.asarray(history)
    # Runs of size - 1 tokens that are the same as the last ones, but for the last ones themselves.
    found = np.ones(len(tokens) - size + 1, dtype=bool)
    for offset in range(size - 1):
        found &= tokens[offset : len(tokens) - size + 1 + offset] == tokens[-(size - 1) + offset]
    followers = tokens[size - 1 :][found]
    if not len(followers):
        return logits
    return exclude(logits, [int(token) for token in np.unique(followers)])


def dry(
    logits: torch.Tensor,
    history: Sequence[int],
    *,
    multiplier: float,
    base: float,
    allowed_length: int,
    breakers: Collection[int] = frozenset(),
) -> torch.Tensor:
    """Penalise each token that would go on with a run that is already in ``history``.

    A token that continues a repeated run of ``n`` tokens loses ``multiplier * base ** (n -
    allowed_length)`` where ``n >= allowed_length``. Runs do not reach over breakers. By p-e-w,
    "DRY", text-generation-webui pull request 5677, 2024.
    """
    count = len(history)
    if multiplier == 0 or count < 2 or history[-1] in breakers:
        return logits
    tokens = np.asarray(history)
    longest: dict[int, int] = {}
    for end in np.flatnonzero(tokens[:-1] == tokens[-1]).tolist():
        follower = history[end + 1]
        if follower in breakers:
            continue
        length = 1
        while length <= end and length < 50:
            token = history[end - length]
            if token != history[count - 1 - length] or token in breakers:
                break
            length += 1
        longest[follower] = max(longest.get(follower, 0), length)
    penalised = {token: n for token, n in longest.items() if n >= allowed_length}
    if not penalised:
        return logits
    # Capped where float32 would overflow; e to the -1000th is nothing already.
    amounts = [min(multiplier * base ** (n - allowed_length), 1e3) for n in penalised.values()]
    return logits.index_add(
        0, torch.tensor(list(penalised)), -torch.tensor(amounts, dtype=logits.dtype)
    )


def bias(logits: torch.Tensor, amounts: Mapping[int, float]) -> torch.Tensor:
    """Add to the logits of some tokens; -100 leaves the token out."""
    if not amounts:
        return logits
    tokens = torch.tensor(list(amounts))
    values = torch.tensor([-math.inf if a <= -100 else a for a in amounts.values()])
    changed = logits.index_add(0, tokens, values.to(logits.dtype))
    return changed if float(changed.max()) > -math.inf else logits


def exclude(logits: torch.Tensor, tokens: Collection[int]) -> torch.Tensor:
    """Leave ``tokens`` out, unless nothing would be left."""
    if not tokens:
        return logits
    changed = logits.clone()
    numbers = changed.numpy()
    numbers[list(tokens)] = -math.inf
    return changed if float(numbers.max()) > -math.inf else logits
