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
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

# So many of the likeliest tokens are looked at before all are sorted.
_HEADS = (256, 4096)
_BLOCK = 256  # tokens that are summed as one where a place in a running sum is looked for
_OUT = -math.inf
_INFINITY = np.int32(0x7F800000)  # the bits of it in float32, positive
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
    """``logits`` without those whose ``order`` is below ``least``.

    In numpy and without a branch, which takes a quarter of the time where many are left out: the
    least of each logit and an infinity that has its sign from the comparison.
    """
    bits = (order.numpy() < least.numpy()).astype(np.int32)
    bits <<= 31
    bits |= _INFINITY
    return torch.from_numpy(np.minimum(logits.numpy(), bits.view(np.float32)))


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
    same = order is weights
    # No fewer tokens can have so much: the sum of n is at most √n times the root of all squares.
    fewest = p * p / float(weights @ weights)
    for count in _HEADS:
        if count >= width:
            break
        if count < fewest:
            continue
        if same:
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
    if order is weights:
        ordered = summed = np.sort(order)[::-1]
    else:
        inside = np.argsort(order)[::-1]
        ordered, summed = order[inside], weights[inside]
    place, total = _place(summed, _block_sums(summed), p, "left")  # rounding may keep it below p
    return float(ordered[place]), total >= p


def _block_sums(weights: _Row) -> npt.NDArray[np.float64]:
    """What all weights before each block sum up to, and at the end the sum of all.

    Sums of whole blocks first, in double precision: a running sum of all takes five times as long.
    """
    starts = np.arange(0, len(weights), _BLOCK)
    sums = np.zeros(len(starts) + 1)
    np.cumsum(np.add.reduceat(weights, starts, dtype=np.float64), out=sums[1:])
    return sums


def _place(
    weights: _Row, blocks: npt.NDArray[np.float64], wanted: float, side: Literal["left", "right"]
) -> tuple[int, float]:
    """The first place at which the running sum of ``weights`` reaches a value.

    Args:
        weights: ``[tokens]``, none below zero.
        blocks: Their :func:`_block_sums`.
        wanted: The value.
        side: ``left``: the sum is no less; ``right``: it is more.

    Returns:
        The place, the last one where the sum stays below, and the sum there.
    """
    block = min(int(np.searchsorted(blocks[1:], wanted, side)), len(blocks) - 2)
    first = block * _BLOCK
    sums = blocks[block] + weights[first : first + _BLOCK].cumsum(dtype=np.float64)
    place = min(int(np.searchsorted(sums, wanted, side)), len(sums) - 1)
    return first + place, float(sums[place])


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
    shares = torch.softmax(logits, -1)
    tokens = []
    for row, number in zip(shares.numpy(), numbers.tolist(), strict=True):
        blocks = _block_sums(row)
        # The first place above the number is one whose own probability took the sum past it.
        place, _ = _place(row, blocks, number * blocks[-1], "right")
        if row[place] == 0:  # rounding: no sum is above the number
            place = int(np.flatnonzero(row[: place + 1])[-1])
        tokens.append(place)
    chosen = torch.tensor(tokens)
    return chosen, shares.gather(-1, chosen.unsqueeze(-1)).squeeze(-1).double()


def greedy(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The likeliest token of each row, the first of equals; int64 ``[rows]``, and ones."""
    return logits.argmax(-1), torch.ones(len(logits), dtype=torch.float64)
