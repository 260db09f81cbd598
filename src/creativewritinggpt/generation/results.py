"""What the engine hands back: tokens with their probabilities, pieces of text, whole texts.

All log-probabilities are natural logarithms of the model's own distribution, before any sampler,
unless the name says otherwise; a text's ``tokens`` are exactly what its ``text`` was decoded from.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from .sampling.settings import GenerationSettings


@dataclasses.dataclass(frozen=True, slots=True)
class Alternative:
    """A token that could have come, and how likely it was (0…1)."""

    id: int
    text: str
    probability: float


@dataclasses.dataclass(frozen=True, slots=True)
class Removal:
    """What one sampler left out: how many tokens, their raw probability, the likeliest of them."""

    tokens: int
    probability: float
    likeliest: list[Alternative]


@dataclasses.dataclass(frozen=True, slots=True)
class Token:
    """One token that was written.

    Attributes:
        id: Its number in the vocabulary.
        text: What it stands for, incomplete characters shown as the replacement character.
        bytes: The same as bytes, always exact.
        logprob: Its log-probability in nats.
        rank: How many tokens were likelier, plus one.
        entropy: Of the model's distribution, in nats.
        probability: Its probability in the distribution that was drawn from.
        before: The likeliest tokens before the samplers.
        after: The likeliest tokens after them.
        removed: For each sampler that left something out, what.
    """

    id: int
    text: str
    bytes: bytes
    logprob: float
    rank: int
    entropy: float
    probability: float
    before: list[Alternative] | None = None
    after: list[Alternative] | None = None
    removed: dict[str, Removal] | None = None

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON; ``bytes`` as a list of numbers."""
        record = dataclasses.asdict(self)
        record["bytes"] = list(self.bytes)
        return {name: value for name, value in record.items() if value is not None}


@dataclasses.dataclass(frozen=True, slots=True)
class Generated:
    """A text that the model wrote after a prompt.

    Attributes:
        text: Without the prompt.
        prompt: As given.
        seed: Alone, with the same settings, it gives this text again.
        finish_reason: ``stop`` (end of text or a stop string), ``length``, or ``interrupted``.
        tokens: One record for each token of the text.
        prompt_tokens: Tokens of the prompt that the model saw.
        view_start: First character of prompt + text that was in view at the end; 0 if all.
        settings: How it was written.
        first_token_seconds: From the request to the first token.
        tokens_per_second: After the first token, of this row alone.
        score: What it was ranked by, with ``best_of``.
    """

    text: str
    prompt: str
    seed: int
    finish_reason: str
    tokens: list[Token]
    prompt_tokens: int
    view_start: int
    settings: GenerationSettings
    first_token_seconds: float
    tokens_per_second: float
    score: float | None = None

    @property
    def mean_logprob(self) -> float:
        """Mean log-probability of its tokens, in nats; 0 for an empty text."""
        if not self.tokens:
            return 0.0
        return sum(token.logprob for token in self.tokens) / len(self.tokens)

    def to_dict(self, *, tokens: bool = True) -> dict[str, Any]:
        """The record of ``--json``."""
        record: dict[str, Any] = {
            "prompt": self.prompt,
            "text": self.text,
            "finish_reason": self.finish_reason,
            "seed": self.seed,
            "usage": {
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": len(self.tokens),
            },
            "timing": {
                "first_token_seconds": round(self.first_token_seconds, 4),
                "tokens_per_second": round(self.tokens_per_second, 2),
            },
            "view_start": self.view_start,
            "mean_logprob": self.mean_logprob,
            "settings": self.settings.to_dict(),
        }
        if self.score is not None:
            record["score"] = self.score
        if tokens:
            record["tokens"] = [token.to_dict() for token in self.tokens]
        return record


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """Some new text of one alternative while it is being written.

    Attributes:
        index: Which alternative.
        text: New text that will not be taken back; may be empty.
        tokens: The tokens that this text completes.
        view_start: First character of prompt + text that the model sees now.
        result: The whole text, with the last piece of an alternative.
    """

    index: int
    text: str
    tokens: list[Token]
    view_start: int = 0
    result: Generated | None = None
