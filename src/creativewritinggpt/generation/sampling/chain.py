"""The samplers of one request, in its order, applied to all rows of a step at once.

What is off is left out when the chain is made, so a step pays only for what the settings ask. The
same chain can leave a trace: the logits after each sampler, from which the record of a token tells
what each of them removed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from ..text import Vocabulary, encode
from . import penalties, samplers
from .settings import DRY_BREAKERS, GenerationSettings

# With temperature 0 nothing is sampled, and only these can change which token is the likeliest.
_GREEDY = ("bias", "penalties", "no_repeat", "dry")


class RowState(Protocol):
    """What the samplers need to know of a row."""

    @property
    def history(self) -> Sequence[int]:
        """Tokens of prompt and text, oldest first."""

    @property
    def barred(self) -> set[int]:
        """Tokens that must not come next."""

    @property
    def dice(self) -> torch.Tensor:
        """float64 ``[2]`` in [0, 1): one number for XTC, one for the draw."""


Stage = Callable[[torch.Tensor, Sequence[RowState]], torch.Tensor]
RowStage = Callable[[torch.Tensor, RowState], torch.Tensor]
Trace = list[tuple[str, torch.Tensor]]


class Chain:
    """The samplers that ``settings`` turn on.

    Args:
        settings: Every control.
        words: The vocabulary, for the settings that are given as text.
        ends: Tokens that end the text.
    """

    def __init__(self, settings: GenerationSettings, words: Vocabulary, ends: set[int]) -> None:
        self.settings = settings
        makers: dict[str, Callable[[], Stage | None]] = {
            "bias": lambda: self._bias(words),
            "penalties": self._penalties,
            "no_repeat": self._no_repeat,
            "dry": lambda: self._dry(words),
            "temperature": self._temperature,
            "top_k": self._top_k,
            "typical_p": self._typical_p,
            "top_p": self._top_p,
            "min_p": self._min_p,
            "xtc": lambda: self._xtc(words, ends),
        }
        self.stages: list[tuple[str, Stage]] = [
            ("barred", _each_row(lambda logits, row: penalties.exclude(logits, row.barred)))
        ]
        for name in settings.order:
            if settings.greedy and name not in _GREEDY:
                continue
            stage = makers[name]()
            if stage is not None:
                self.stages.append((name, stage))

    def apply(
        self, logits: torch.Tensor, rows: Sequence[RowState], trace: Trace | None = None
    ) -> torch.Tensor:
        """The logits that tokens are drawn from; float32 ``[rows, vocabulary]``.

        Args:
            logits: The model's, ``[rows, vocabulary]``; left as they are.
            rows: One state a row.
            trace: Takes the name and the result of each sampler.
        """
        for name, stage in self.stages:
            logits = stage(logits, rows)
            if trace is not None:
                trace.append((name, logits))
        return logits

    def choose(
        self, logits: torch.Tensor, rows: Sequence[RowState]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A token for each row from the logits that :meth:`apply` returned, and its probability.

        Returns:
            int64 ``[rows]`` and float64 ``[rows]``.
        """
        if self.settings.greedy:
            return samplers.greedy(logits)
        return samplers.draw(logits, torch.stack([row.dice[1] for row in rows]))

    def _bias(self, words: Vocabulary) -> Stage | None:
        amounts: dict[int, float] = {}
        for word, amount in (self.settings.logit_bias or {}).items():
            inside = encode(words.tokenizer, " " + word)
            # Inside a text a word is another token, the one with the space before it.
            spaced = inside if len(inside) == 1 and not word[:1].isspace() else []
            for token in [*encode(words.tokenizer, word), *spaced]:
                amounts[token] = amounts.get(token, 0.0) + amount
        return _each_row(lambda logits, _: penalties.bias(logits, amounts)) if amounts else None

    def _penalties(self) -> Stage | None:
        s = self.settings
        if s.repetition_penalty == 1 and s.presence_penalty == 0 and s.frequency_penalty == 0:
            return None

        def penalise(logits: torch.Tensor, row: RowState) -> torch.Tensor:
            last = penalties.recent(row.history, s.penalty_range)
            logits = penalties.repetition(logits, last, s.repetition_penalty)
            return penalties.presence_and_frequency(
                logits, last, s.presence_penalty, s.frequency_penalty
            )

        return _each_row(penalise)

    def _no_repeat(self) -> Stage | None:
        size = self.settings.no_repeat_ngram
        if size == 0:
            return None
        return _each_row(lambda logits, row: penalties.no_repeat_ngram(logits, row.history, size))

    def _dry(self, words: Vocabulary) -> Stage | None:
        s = self.settings
        if s.dry_multiplier == 0:
            return None
        breakers = set()
        for text in DRY_BREAKERS if s.dry_breakers is None else s.dry_breakers:
            # As its inventor does it: the last token of the string with a letter before it.
            breakers.add(encode(words.tokenizer, "a" + text)[-1])
        return _each_row(
            lambda logits, row: penalties.dry(
                logits,
                penalties.recent(row.history, s.dry_range),
                multiplier=s.dry_multiplier,
                base=s.dry_base,
                allowed_length=s.dry_allowed_length,
                breakers=breakers,
            )
        )

    def _temperature(self) -> Stage | None:
        value = self.settings.temperature
        if value in (0, 1):
            return None
        return lambda logits, _: samplers.temperature(logits, value)

    def _top_k(self) -> Stage | None:
        k = self.settings.top_k
        return None if k == 0 else lambda logits, _: samplers.top_k(logits, k)

    def _typical_p(self) -> Stage | None:
        p = self.settings.typical_p
        return None if p == 1 else lambda logits, _: samplers.typical_p(logits, p)

    def _top_p(self) -> Stage | None:
        p = self.settings.top_p
        return None if p == 1 else lambda logits, _: samplers.top_p(logits, p)

    def _min_p(self) -> Stage | None:
        p = self.settings.min_p
        return None if p == 0 else lambda logits, _: samplers.min_p(logits, p)

    def _xtc(self, words: Vocabulary, ends: set[int]) -> Stage | None:
        s = self.settings
        if s.xtc_probability == 0:
            return None
        spared = sorted(ends | set(encode(words.tokenizer, "\n")))

        def exclude_top(logits: torch.Tensor, rows: Sequence[RowState]) -> torch.Tensor:
            applies = torch.stack([row.dice[0] for row in rows]) < s.xtc_probability
            return samplers.xtc(logits, s.xtc_threshold, applies, spared)

        return exclude_top


def _each_row(change: RowStage) -> Stage:
    """A stage that treats every row by itself."""

    def stage(logits: torch.Tensor, rows: Sequence[RowState]) -> torch.Tensor:
        parts = logits.unbind()
        changed = [change(part, row) for part, row in zip(parts, rows, strict=True)]
        if all(after is before for after, before in zip(changed, parts, strict=True)):
            return logits
        return torch.stack(changed)

    return stage
