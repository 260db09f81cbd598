"""Samplers: functions from logits to logits, the draw of a token, the chain of one request.

The first part reads the whole distribution: float32 ``[..., vocabulary]`` in, the same shape out.
The second (penalties and exclusions) reads the history of one row: ``[vocabulary]`` and token ids
in, ``[vocabulary]`` out. Nothing is changed in place; an excluded token gets minus infinity, and at
least one token always survives, so that any order works. :data:`SAMPLERS` is the registry: a name
and a function that makes a stage from the settings, or None; :class:`Chain` applies the stages.

Trade-off: sorting 50,000 logits takes longer than a step of a small model, so top-p and typical
sampling sort the few hundred likeliest first, and all of them only where these do not suffice; the
result is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from ..text import Vocabulary, encode
from .settings import DRY_BREAKERS, GenerationSettings

_HEADS = (256, 4096)  # sizes of the likeliest part that is sorted before all are
_BLOCK = 256  # tokens per block of a running sum
_OUT = -math.inf
_INFINITY = np.int32(0x7F800000)  # the bits of float32 infinity
_Row = npt.NDArray[np.float32]


def temperature(logits: torch.Tensor, value: float) -> torch.Tensor:
    """Divide by ``value``: below 1 sharpens, above 1 flattens."""
    return logits / value


def top_k(logits: torch.Tensor, k: int) -> torch.Tensor:
    """Keep the ``k`` likeliest tokens and all that tie with the last of them (Fan et al. 2018)."""
    if k <= 0 or k >= logits.shape[-1]:
        return logits
    last = torch.topk(logits, k).values[..., -1:]
    return _without(logits, logits, last)


def top_p(logits: torch.Tensor, p: float) -> torch.Tensor:
    """Nucleus sampling: keep the smallest set of likeliest tokens whose probability reaches ``p``.

    Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration". The token that crosses
    ``p`` is kept, and all that tie with it.
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
    """Exclude the tokens whose ``order`` is below ``least``.

    In numpy and without a branch, which takes a quarter of the time where many are excluded: the
    minimum of each logit and an infinity with the sign of the comparison.
    """
    bits = (order.numpy() < least.numpy()).astype(np.int32)
    bits <<= 31
    bits |= _INFINITY
    return torch.from_numpy(np.minimum(logits.numpy(), bits.view(np.float32)))


def _crossing(order: torch.Tensor, probabilities: torch.Tensor, p: float) -> torch.Tensor:
    """The value of ``order`` at which the summed probability, largest first, reaches ``p``.

    Args:
        order: ``[..., vocabulary]``, the sort key.
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
    # At least so many tokens are needed: a sum of n is at most √n times the root of all squares.
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
    """The ``order`` where the summed weights, largest first, reach ``p``, and whether they do."""
    # Sorting tokens by their own weight needs no index, which takes longer.
    if order is weights:
        ordered = summed = np.sort(order)[::-1]
    else:
        inside = np.argsort(order)[::-1]
        ordered, summed = order[inside], weights[inside]
    place, total = _place(summed, _block_sums(summed), p, "left")  # rounding may keep it below p
    return float(ordered[place]), total >= p


def _block_sums(weights: _Row) -> npt.NDArray[np.float64]:
    """Sums of all weights before each block, and last the sum of all, in float64.

    Whole blocks are summed first: a running sum of all weights takes five times as long.
    """
    starts = np.arange(0, len(weights), _BLOCK)
    sums = np.zeros(len(starts) + 1)
    np.cumsum(np.add.reduceat(weights, starts, dtype=np.float64), out=sums[1:])
    return sums


def _place(
    weights: _Row, blocks: npt.NDArray[np.float64], wanted: float, side: Literal["left", "right"]
) -> tuple[int, float]:
    """The first index at which the running sum of ``weights`` reaches ``wanted``, and the sum.

    Args:
        weights: ``[tokens]``, none negative.
        blocks: Their :func:`_block_sums`.
        wanted: The value to reach; the last index where it is never reached.
        side: ``left``: the sum is at least ``wanted``; ``right``: it is greater.
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
    """Exclude the top choices: all of at least ``threshold`` but the least likely of them.

    By p-e-w, "Exclude Top Choices (XTC)", text-generation-webui pull request 6335, 2024. Nothing
    happens where fewer than two tokens reach the threshold, nor, as there, where a spared token
    (end of text, line end) would be excluded.

    Args:
        logits: ``[..., vocabulary]``.
        threshold: Probability that makes a token a top choice.
        applies: bool ``[...]``: whether XTC applies to the row in this step.
        spared: Token ids that must not be excluded.
    """
    if not bool(applies.any()):
        return logits
    probabilities = torch.softmax(logits, -1)
    top = probabilities >= threshold
    least = torch.where(top, probabilities, math.inf).amin(-1, keepdim=True)
    # Tokens that tie with the least likely stay, too.
    removed = top & (probabilities > least) & applies.unsqueeze(-1)
    if len(spared):
        hit = removed[..., torch.tensor(list(spared))].any(-1, keepdim=True)
        removed = removed & ~hit
    return logits.masked_fill(removed, _OUT)


def draw(logits: torch.Tensor, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a token per row by inverting the cumulative distribution.

    Args:
        logits: ``[rows, vocabulary]``.
        numbers: float64 ``[rows]`` in [0, 1): one per row, so that a row's draw does not depend on
            the other rows.

    Returns:
        Token ids int64 ``[rows]``, never one of probability zero, and float64 probabilities.
    """
    shares = torch.softmax(logits, -1)
    tokens = []
    for row, number in zip(shares.numpy(), numbers.tolist(), strict=True):
        blocks = _block_sums(row)
        # The first sum above the number is passed by a token of probability above zero.
        place, _ = _place(row, blocks, number * blocks[-1], "right")
        if row[place] == 0:  # rounding: no sum is above the number
            place = int(np.flatnonzero(row[: place + 1])[-1])
        tokens.append(place)
    chosen = torch.tensor(tokens)
    return chosen, shares.gather(-1, chosen.unsqueeze(-1)).squeeze(-1).double()


def greedy(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The likeliest token per row, the first of equals, int64 ``[rows]``, and ones."""
    return logits.argmax(-1), torch.ones(len(logits), dtype=torch.float64)


def recent(history: Sequence[int], count: int) -> Sequence[int]:
    """The last ``count`` token ids of ``history``; 0 is all."""
    return history[-count:] if count > 0 else history


def repetition(logits: torch.Tensor, history: Sequence[int], penalty: float) -> torch.Tensor:
    """Divide positive logits of tokens in ``history`` by ``penalty``, multiply negative ones.

    Keskar et al. 2019, "CTRL".
    """
    if penalty == 1 or not len(history):
        return logits
    tokens = np.unique(np.asarray(history))
    changed = logits.clone()
    # numpy changes a few of many numbers in a tenth of torch's time.
    numbers = changed.numpy()
    values, by = numbers[tokens], np.float32(penalty)
    numbers[tokens] = np.where(values > 0, values / by, values * by)
    return changed


def presence_and_frequency(
    logits: torch.Tensor, history: Sequence[int], presence: float, frequency: float
) -> torch.Tensor:
    """Subtract ``presence`` once and ``frequency`` for each time that a token is in ``history``.

    Defined as in OpenAI's completions API.
    """
    if (presence == 0 and frequency == 0) or not len(history):
        return logits
    tokens, counts = np.unique(np.asarray(history), return_counts=True)
    amounts = torch.from_numpy(presence + frequency * counts).to(logits.dtype)
    return logits.index_add(0, torch.from_numpy(tokens), -amounts)


def no_repeat_ngram(logits: torch.Tensor, history: Sequence[int], size: int) -> torch.Tensor:
    """Exclude every token that would complete an n-gram of ``size`` already in ``history``.

    Paulus et al. 2017. Where every token would be excluded, none is.
    """
    if size <= 0 or len(history) < size:
        return logits
    tokens = np.asarray(history)
    # Earlier runs of size - 1 tokens that equal the last ones.
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
    """Penalise each token that would continue a run of tokens already in ``history``.

    A token that continues a repeated run of ``n`` tokens loses ``multiplier * base ** (n -
    allowed_length)`` where ``n >= allowed_length``. Runs do not cross breakers. By p-e-w, "DRY",
    text-generation-webui pull request 5677, 2024.
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
    # Capped, since float32 would overflow; exp(-1000) is zero already.
    amounts = [min(multiplier * base ** (n - allowed_length), 1e3) for n in penalised.values()]
    return logits.index_add(
        0, torch.tensor(list(penalised)), -torch.tensor(amounts, dtype=logits.dtype)
    )


def bias(logits: torch.Tensor, amounts: Mapping[int, float]) -> torch.Tensor:
    """Add to the logits of some token ids; -100 excludes the token."""
    if not amounts:
        return logits
    tokens = torch.tensor(list(amounts))
    values = torch.tensor([-math.inf if a <= -100 else a for a in amounts.values()])
    changed = logits.index_add(0, tokens, values.to(logits.dtype))
    return changed if float(changed.max()) > -math.inf else logits


def keep(logits: torch.Tensor, tokens: Collection[int] | None) -> torch.Tensor:
    """Exclude all but ``tokens``; None keeps all."""
    if tokens is None:
        return logits
    kept = [token for token in tokens if token < len(logits)]
    changed = torch.full_like(logits, -math.inf)
    changed[kept] = logits[kept]
    return changed


def exclude(logits: torch.Tensor, tokens: Collection[int]) -> torch.Tensor:
    """Exclude ``tokens``, unless no token would be left."""
    if not tokens:
        return logits
    changed = logits.clone()
    numbers = changed.numpy()
    numbers[list(tokens)] = -math.inf
    return changed if float(numbers.max()) > -math.inf else logits


class RowState(Protocol):
    """What the samplers read of a row."""

    @property
    def history(self) -> Sequence[int]:
        """Token ids of prompt and text, oldest first."""

    @property
    def allowed(self) -> Collection[int] | None:
        """The only token ids that may come next; None: all."""

    @property
    def barred(self) -> set[int]:
        """Token ids that must not come next."""

    @property
    def uniform(self) -> torch.Tensor:
        """float64 ``[2]`` in [0, 1): random numbers for XTC and for the draw."""


Stage = Callable[[torch.Tensor, Sequence[RowState]], torch.Tensor]
"""Logits float32 ``[rows, vocabulary]`` and the rows to new logits; nothing changes in place."""
Maker = Callable[[GenerationSettings, Vocabulary, set[int]], "Stage | None"]
Trace = list[tuple[str, torch.Tensor]]


def per_row(change: Callable[[torch.Tensor, RowState], torch.Tensor]) -> Stage:
    """A stage that treats each row by itself."""

    def stage(logits: torch.Tensor, rows: Sequence[RowState]) -> torch.Tensor:
        parts = logits.unbind()
        changed = [change(part, row) for part, row in zip(parts, rows, strict=True)]
        if all(after is before for after, before in zip(changed, parts, strict=True)):
            return logits
        return torch.stack(changed)

    return stage


def by_value(
    sampler: Callable[[torch.Tensor, Any], torch.Tensor], setting: str, *off: float
) -> Maker:
    """Maker of a sampler of the logits and one setting; ``off`` are the values without effect."""

    def make(settings: GenerationSettings, words: Vocabulary, ends: set[int]) -> Stage | None:
        value = getattr(settings, setting)
        return None if value in off else lambda logits, rows: sampler(logits, value)

    return make


def _bias(settings: GenerationSettings, words: Vocabulary, ends: set[int]) -> Stage | None:
    amounts: dict[int, float] = {}
    for word, amount in (settings.logit_bias or {}).items():
        inside = encode(words.tokenizer, " " + word)
        # Inside a text a word is another token, the one with the space before it.
        spaced = inside if len(inside) == 1 and not word[:1].isspace() else []
        for token in [*encode(words.tokenizer, word), *spaced]:
            amounts[token] = amounts.get(token, 0.0) + amount
    return per_row(lambda logits, row: bias(logits, amounts)) if amounts else None


def _penalties(s: GenerationSettings, words: Vocabulary, ends: set[int]) -> Stage | None:
    if s.repetition_penalty == 1 and s.presence_penalty == 0 and s.frequency_penalty == 0:
        return None

    def penalise(logits: torch.Tensor, row: RowState) -> torch.Tensor:
        last = recent(row.history, s.penalty_range)
        logits = repetition(logits, last, s.repetition_penalty)
        return presence_and_frequency(logits, last, s.presence_penalty, s.frequency_penalty)

    return per_row(penalise)


def _no_repeat(s: GenerationSettings, words: Vocabulary, ends: set[int]) -> Stage | None:
    size = s.no_repeat_ngram
    if size == 0:
        return None
    return per_row(lambda logits, row: no_repeat_ngram(logits, row.history, size))


def _dry(s: GenerationSettings, words: Vocabulary, ends: set[int]) -> Stage | None:
    if s.dry_multiplier == 0:
        return None
    # As its author does it: the last token of the string with a letter before it.
    texts = DRY_BREAKERS if s.dry_breakers is None else s.dry_breakers
    breakers = {encode(words.tokenizer, "a" + text)[-1] for text in texts}
    return per_row(
        lambda logits, row: dry(
            logits,
            recent(row.history, s.dry_range),
            multiplier=s.dry_multiplier,
            base=s.dry_base,
            allowed_length=s.dry_allowed_length,
            breakers=breakers,
        )
    )


def _xtc(s: GenerationSettings, words: Vocabulary, ends: set[int]) -> Stage | None:
    if s.xtc_probability == 0:
        return None
    spared = sorted(ends | set(encode(words.tokenizer, "\n")))

    def exclude_top(logits: torch.Tensor, rows: Sequence[RowState]) -> torch.Tensor:
        applies = torch.stack([row.uniform[0] for row in rows]) < s.xtc_probability
        return xtc(logits, s.xtc_threshold, applies, spared)

    return exclude_top


SAMPLERS: dict[str, Maker] = {
    "bias": _bias,
    "penalties": _penalties,
    "no_repeat": _no_repeat,
    "dry": _dry,
    "temperature": by_value(temperature, "temperature", 0, 1),
    "top_k": by_value(top_k, "top_k", 0),
    "typical_p": by_value(typical_p, "typical_p", 1),
    "top_p": by_value(top_p, "top_p", 1),
    "min_p": by_value(min_p, "min_p", 0),
    "xtc": _xtc,
}
"""Every sampler by its name in ``SAMPLER_ORDER``."""

# The samplers that can change which token is the likeliest: all that temperature 0 leaves on.
_GREEDY = ("bias", "penalties", "no_repeat", "dry")


class Chain:
    """The samplers that ``settings`` turn on.

    Args:
        settings: The generation settings.
        words: The vocabulary, for settings that are given as text.
        ends: Token ids that end the text.
        token_bias: Amounts to add to the logits of token ids, before all samplers.
    """

    def __init__(
        self,
        settings: GenerationSettings,
        words: Vocabulary,
        ends: set[int],
        token_bias: Mapping[int, float] | None = None,
    ) -> None:
        self.settings = settings
        self.stages: list[tuple[str, Stage]] = [
            ("healing", per_row(lambda logits, row: keep(logits, row.allowed))),
            ("barred", per_row(lambda logits, row: exclude(logits, row.barred))),
        ]
        if token_bias:
            self.stages.append(("bias", per_row(lambda logits, row: bias(logits, token_bias))))
        for name in settings.order:
            if settings.greedy and name not in _GREEDY:
                continue
            stage = SAMPLERS[name](settings, words, ends)
            if stage is not None:
                self.stages.append((name, stage))

    def apply(
        self, logits: torch.Tensor, rows: Sequence[RowState], trace: Trace | None = None
    ) -> torch.Tensor:
        """The logits that tokens are drawn from, float32 ``[rows, vocabulary]``.

        Args:
            logits: The model's, ``[rows, vocabulary]``; not changed.
            rows: The state of each row.
            trace: Filled with the name and the logits after each sampler.
        """
        for name, stage in self.stages:
            logits = stage(logits, rows)
            if trace is not None:
                trace.append((name, logits))
        return logits

    def choose(
        self, logits: torch.Tensor, rows: Sequence[RowState]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw a token per row from the logits of :meth:`apply`.

        Returns:
            Token ids, int64 ``[rows]``, and their probabilities, float64 ``[rows]``.
        """
        if self.settings.greedy:
            return greedy(logits)
        return draw(logits, torch.stack([row.uniform[1] for row in rows]))
