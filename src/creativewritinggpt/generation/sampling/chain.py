"""The samplers of one request, applied in its order to all rows of a step.

:data:`SAMPLERS` is the registry: a name and a function that makes the sampler's stage from the
settings, or None where the settings turn it off, so that a step pays for what is on only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from ..text import Vocabulary, encode
from . import samplers
from .settings import DRY_BREAKERS, GenerationSettings


class RowState(Protocol):
    """What the samplers read of a row."""

    @property
    def history(self) -> Sequence[int]:
        """Token ids of prompt and text, oldest first."""

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
    return per_row(lambda logits, row: samplers.bias(logits, amounts)) if amounts else None


def _penalties(s: GenerationSettings, words: Vocabulary, ends: set[int]) -> Stage | None:
    if s.repetition_penalty == 1 and s.presence_penalty == 0 and s.frequency_penalty == 0:
        return None

    def penalise(logits: torch.Tensor, row: RowState) -> torch.Tensor:
        last = samplers.recent(row.history, s.penalty_range)
        logits = samplers.repetition(logits, last, s.repetition_penalty)
        return samplers.presence_and_frequency(
            logits, last, s.presence_penalty, s.frequency_penalty
        )

    return per_row(penalise)


def _no_repeat(s: GenerationSettings, words: Vocabulary, ends: set[int]) -> Stage | None:
    size = s.no_repeat_ngram
    if size == 0:
        return None
    return per_row(lambda logits, row: samplers.no_repeat_ngram(logits, row.history, size))


def _dry(s: GenerationSettings, words: Vocabulary, ends: set[int]) -> Stage | None:
    if s.dry_multiplier == 0:
        return None
    # As its author does it: the last token of the string with a letter before it.
    texts = DRY_BREAKERS if s.dry_breakers is None else s.dry_breakers
    breakers = {encode(words.tokenizer, "a" + text)[-1] for text in texts}
    return per_row(
        lambda logits, row: samplers.dry(
            logits,
            samplers.recent(row.history, s.dry_range),
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
        return samplers.xtc(logits, s.xtc_threshold, applies, spared)

    return exclude_top


SAMPLERS: dict[str, Maker] = {
    "bias": _bias,
    "penalties": _penalties,
    "no_repeat": _no_repeat,
    "dry": _dry,
    "temperature": by_value(samplers.temperature, "temperature", 0, 1),
    "top_k": by_value(samplers.top_k, "top_k", 0),
    "typical_p": by_value(samplers.typical_p, "typical_p", 1),
    "top_p": by_value(samplers.top_p, "top_p", 1),
    "min_p": by_value(samplers.min_p, "min_p", 0),
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
    """

    def __init__(self, settings: GenerationSettings, words: Vocabulary, ends: set[int]) -> None:
        self.settings = settings
        self.stages: list[tuple[str, Stage]] = [
            ("barred", per_row(lambda logits, row: samplers.exclude(logits, row.barred)))
        ]
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
            return samplers.greedy(logits)
        return samplers.draw(logits, torch.stack([row.uniform[1] for row in rows]))
