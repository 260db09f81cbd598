"""Samplers that choose among the tokens: each takes logits and returns logits.

A token that is left out gets minus infinity; at least one always survives. All functions take
``[..., vocabulary]`` in float32, change nothing in place and know nothing of each other, so that
any order works and each can be checked against the paper or the person it comes from.

Sorting 50,000 logits takes longer than a step of a small model. The samplers that need an order
therefore look at the few hundred likeliest first and sort all only where these don't suffice; the
result is the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

# So many of the likeliest tokens are looked at before all are sorted.
_HEADS = (256, 4096)
_OUT = -math.inf
_Row = npt.NDArray[np.float32]


def temperature(logits: torch.Tensor, value: float) -> torch.Tensor:
    """Divide by ``value``: below 1 sharpens, above 1 flattens."""
    return logits / value


def top_k(logits: torch.Tensor, k: int) -> torch.Tensor:
    """Keep the ``k`` likeliest tokens, and any that tie with the last of them (Fan et al. 2018)."""
    if k <= 0 or k >= logits.shape[-1]:
        return logits
    last = torch.topk(logits, k).values[..., -1:]
    return _without(logits, logits, last)


def top_p(logits: torch.Tensor, p: float) -> torch.Tensor:
    """Keep the smallest set of likeliest tokens whose probability reaches ``p``.

    Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration" (nucleus sampling). The
    token that crosses ``p`` is kept; of tokens that tie with it, all are.
    """
    if p >= 1:
        return logits
    probabilities = torch.softmax(logits, -1)
    return _without(logits, probabilities, _crossing(probabilities, probabilities, p))


def min_p(logits: torch.Tensor, p: float) -> torch.Tensor:
    """Keep tokens at least ``p`` times as likely as the likeliest (Nguyen et al. 2024)."""
    if p <= 0:
        return logits
    limit = logits.amax(-1, keepdim=True) + math.log(p)
    return _without(logits, logits, limit)


def typical_p(logits: torch.Tensor, p: float) -> torch.Tensor:
    """Keep the tokens whose surprise is nearest to the entropy, up to probability ``p``.

    Meister et al. 2023, "Locally Typical Sampling". The token that crosses ``p`` is kept.
    """
    if p >= 1:
        return logits
    log_probabilities = torch.log_softmax(logits, -1)
    probabilities = log_probabilities.exp()
    surprise = -log_probabilities
    entropy = torch.where(probabilities > 0, probabilities * surprise, 0.0).sum(-1, keepdim=True)
    distance = (surprise - entropy).abs()
    # Nearest first is largest first for the negated distance.
    return _without(logits, -distance, _crossing(-distance, probabilities, p))


def _without(logits: torch.Tensor, order: torch.Tensor, least: torch.Tensor) -> torch.Tensor:
    """``logits`` without those whose ``order`` is below ``least``; numpy compares faster."""
    below = order.numpy() < least.numpy()
    return torch.from_numpy(np.where(below, np.float32(_OUT), logits.numpy()))


def _crossing(order: torch.Tensor, probabilities: torch.Tensor, p: float) -> torch.Tensor:
    """The value of ``order`` at which the summed probability, largest first, reaches ``p``.

    Args:
        order: ``[..., vocabulary]``, what to sort by.
        probabilities: ``[..., vocabulary]``.
        p: The probability to reach.

    Returns:
        ``[..., 1]``.
    """
    width, shape = order.shape[-1], (*order.shape[:-1], 1)
    orders = order.reshape(-1, width).numpy()
    same = order is probabilities
    weights = orders if same else probabilities.reshape(-1, width).numpy()
    found = [
        _crossing_of_row(row, row if same else weight, p)
        for row, weight in zip(orders, weights, strict=True)
    ]
    return torch.tensor(found, dtype=order.dtype).view(shape)


def _crossing_of_row(order: _Row, weights: _Row, p: float) -> float:
    """:func:`_crossing` of one row, in numpy, which sorts with vector instructions."""
    width = len(order)
    for count in _HEADS:
        if count >= width:
            break
        if order is weights:
            head = np.partition(order, width - count)[width - count :]
            value, reached = _reach(head, head, p)
        else:
            top = np.argpartition(order, width - count)[width - count :]
            value, reached = _reach(order[top], weights[top], p)
        if reached:
            return value
    return _reach(order, weights, p)[0]


def _reach(order: _Row, weights: _Row, p: float) -> tuple[float, bool]:
    """Where the summed weights, largest ``order`` first, reach ``p``; else the last, and false."""
    # Tokens that are sorted by their own weight need no index, which takes longer.
    same = order is weights
    inside = None if same else np.argsort(order)[::-1]
    ordered = np.sort(order)[::-1] if inside is None else order[inside]
    sums = (ordered if inside is None else weights[inside]).cumsum(dtype=np.float64)
    place = int(np.searchsorted(sums, p))  # rounding may keep the sum below p for ever
    return float(ordered[min(place, len(ordered) - 1)]), place < len(ordered)


def xtc(
    logits: torch.Tensor,
    threshold: float,
    applies: torch.Tensor,
    spared: Sequence[int] = (),
) -> torch.Tensor:
    """Leave out the top choices: all of at least ``threshold`` but the least likely of them.

    By p-e-w, "Exclude Top Choices (XTC)", text-generation-webui pull request 6335, 2024. Nothing
    happens where fewer than two tokens reach the threshold, nor, as there, where a spared token
    (end of text, line end) would be left out.

    Args:
        logits: ``[..., vocabulary]``.
        threshold: Probability that makes a token a top choice.
        applies: bool ``[...]``: whether the dice fell so for the row.
        spared: Tokens whose removal would change the text's form.
    """
    if not bool(applies.any()):
        return logits
    probabilities = torch.softmax(logits, -1)
    top = probabilities >= threshold
    least = torch.where(top, probabilities, math.inf).amin(-1, keepdim=True)
    # Ties with the least likely stay: none of them is more of a top choice than the other.
    removed = top & (probabilities > least) & applies.unsqueeze(-1)
    if len(spared):
        hit = removed[..., torch.tensor(list(spared))].any(-1, keepdim=True)
        removed = removed & ~hit
    return logits.masked_fill(removed, _OUT)


def draw(logits: torch.Tensor, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a token for each row by inverting the cumulative distribution.

    Args:
        logits: ``[rows, vocabulary]``.
        numbers: float64 ``[rows]`` in [0, 1): one random number a row, so that a row's draw does
            not depend on its neighbours.

    Returns:
        int64 ``[rows]``, never a token of probability zero, and their float64 probabilities.
    """
    tokens, probabilities = [], []
    for row, number in zip(logits, numbers, strict=True):
        # Few tokens survive the samplers, and only these are summed, in double precision.
        alive = torch.from_numpy(np.flatnonzero(row.numpy() > _OUT))
        shares = torch.softmax(row[alive], -1)
        sums = shares.cumsum(-1, dtype=torch.float64)
        wanted = torch.minimum(
            number * sums[-1], torch.nextafter(sums[-1], torch.zeros(()).double())
        )
        # The first entry above the number is one whose own probability took the sum past it.
        place = torch.searchsorted(sums, wanted, right=True)
        tokens.append(alive[place])
        probabilities.append(shares[place].double())
    return torch.stack(tokens), torch.stack(probabilities)


def greedy(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The likeliest token of each row, the first of equals; int64 ``[rows]``, and ones."""
    return logits.argmax(-1), torch.ones(len(logits), dtype=torch.float64)
