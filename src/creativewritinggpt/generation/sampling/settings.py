"""How to write: length, sampling, repetition, words to avoid, seed.

One dataclass holds every control, with its range and its sentence of help; the command line, the
interactive prompt and the presets all set the same fields. Everything that is "off" costs nothing
while writing. Values that contradict each other are refused here, before any work is done.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping
from typing import Any

from ...config.fields import check, convert, field_types, known_name, setting
from ...errors import InputError

_LENGTH = "length"
_SAMPLING = "sampling"
_REPETITION = "repetition"
_WORDS = "words"

# Every step from the model's logits to the distribution that is drawn from, in the usual order:
# first what concerns single tokens, then the temperature, then what cuts the tail, and last XTC,
# which cuts the head of what is left.
SAMPLER_ORDER = (
    "bias",
    "penalties",
    "no_repeat",
    "dry",
    "temperature",
    "top_k",
    "typical_p",
    "top_p",
    "min_p",
    "xtc",
)

# DRY looks for repeated runs within a line and a sentence part, not across these.
DRY_BREAKERS = ("\n", ":", '"', "*")

SEEDS = 2**31
"""How many seeds there are, from 0 on."""


def seeds_from(first: int | None, count: int) -> list[int]:
    """A seed for each of some alternatives.

    Args:
        first: Of the first one, from which they count up (after the largest comes 0); without it
            one that nobody chose.
        count: How many.
    """
    start = secrets.randbelow(SEEDS) if first is None else first
    return [(start + number) % SEEDS for number in range(count)]


@dataclasses.dataclass(frozen=True)
class GenerationSettings:
    """Every control of the decoding engine; see ``docs/generation.md``."""

    max_new_tokens: int = setting(
        200, "Write at most so many tokens.", low=1, high=100_000, group=_LENGTH, metavar="N"
    )
    min_new_tokens: int = setting(
        0,
        "Don't let the text end before so many tokens.",
        low=0,
        high=100_000,
        group=_LENGTH,
        metavar="N",
    )
    stop: list[str] | None = setting(
        None,
        "End where one of these strings would come next; it is not part of the text.",
        group=_LENGTH,
        metavar="TEXT",
    )

    temperature: float = setting(
        0.9,
        "Above 1 bolder, below 1 safer; 0 always takes the likeliest token.",
        low=0,
        high=5,
        group=_SAMPLING,
        metavar="X",
    )
    top_k: int = setting(
        0, "Keep the k likeliest tokens; 0 keeps all.", low=0, group=_SAMPLING, metavar="K"
    )
    top_p: float = setting(
        0.95,
        "Keep the likeliest tokens that together have this probability; 1 keeps all.",
        above=0,
        high=1,
        group=_SAMPLING,
        metavar="P",
    )
    min_p: float = setting(
        0.0,
        "Keep tokens at least this many times as likely as the likeliest; 0 keeps all.",
        low=0,
        high=1,
        group=_SAMPLING,
        metavar="P",
    )
    typical_p: float = setting(
        1.0,
        "Keep the tokens whose surprise is nearest to the expected one, up to this probability.",
        above=0,
        high=1,
        group=_SAMPLING,
        metavar="P",
    )
    xtc_probability: float = setting(
        0.0,
        "How often the likeliest choices are left out (XTC); 0 never.",
        low=0,
        high=1,
        group=_SAMPLING,
        metavar="P",
    )
    xtc_threshold: float = setting(
        0.1,
        "XTC leaves out all choices of at least this probability but the least likely of them.",
        low=0,
        high=1,
        group=_SAMPLING,
        metavar="P",
    )
    samplers: list[str] | None = setting(
        None,
        "The order of the samplers; one that is not named is not applied.",
        choices=SAMPLER_ORDER,
        group=_SAMPLING,
        metavar="NAME,…",
    )

    repetition_penalty: float = setting(
        1.05,
        "Tokens already there have their logit divided by this (multiplied, where negative).",
        low=0.5,
        high=5,
        group=_REPETITION,
        metavar="X",
    )
    presence_penalty: float = setting(
        0.0,
        "Subtracted once from the logit of each token already there.",
        low=-5,
        high=5,
        group=_REPETITION,
        metavar="X",
    )
    frequency_penalty: float = setting(
        0.0,
        "Subtracted from a token's logit as often as it is already there.",
        low=-5,
        high=5,
        group=_REPETITION,
        metavar="X",
    )
    penalty_range: int = setting(
        256,
        "How many of the last tokens the three penalties look at; 0 looks at all.",
        low=0,
        group=_REPETITION,
        metavar="N",
    )
    no_repeat_ngram: int = setting(
        0,
        "Never write the same run of n tokens twice; 0 allows it.",
        low=0,
        high=1000,
        group=_REPETITION,
        metavar="N",
    )
    dry_multiplier: float = setting(
        0.0,
        "Strength of the penalty on going on with a repeated run (DRY); 0 is off.",
        low=0,
        high=100,
        group=_REPETITION,
        metavar="X",
    )
    dry_base: float = setting(
        1.75,
        "DRY's penalty grows by this factor with each token of the run.",
        low=1,
        high=8,
        group=_REPETITION,
        metavar="X",
    )
    dry_allowed_length: int = setting(
        2,
        "Runs up to this length may be repeated without DRY's penalty.",
        low=1,
        high=1000,
        group=_REPETITION,
        metavar="N",
    )
    dry_range: int = setting(
        0,
        "How many of the last tokens DRY looks at; 0 looks at all.",
        low=0,
        group=_REPETITION,
        metavar="N",
    )
    dry_breakers: list[str] | None = setting(
        None,
        "Strings that end a run for DRY; without it line ends, colons, quotation marks, asterisks.",
        group=_REPETITION,
        metavar="TEXT",
    )

    banned: list[str] | None = setting(
        None,
        "Phrases never to write, in any case; the writing goes back and takes another way.",
        group=_WORDS,
        metavar="PHRASE",
    )
    logit_bias: dict[str, float] | None = setting(
        None,
        "Added to the logits of a word's tokens, at the start of a text and within it, as "
        "word=number; -100 forbids, 100 forces.",
        group=_WORDS,
        metavar="WORD=X,…",
    )

    best_of: int | None = setting(
        None,
        "Write so many alternatives and keep the best.",
        low=1,
        high=64,
        group=_WORDS,
        metavar="N",
    )
    rank_by: str = setting(
        "varied",
        "What the best is: likelihood (mean log-probability), or varied, which also counts against "
        "repetition.",
        choices=("likelihood", "varied"),
        group=_WORDS,
    )
    weights: str = setting(
        "auto",
        "Number format of the weights while writing; auto takes the fastest on this processor, "
        "onnx and rotated are 8 bits by onnxruntime, and transformers calls the model as it is.",
        choices=("auto", "fp32", "bf16", "int8", "onnx", "rotated", "transformers"),
        group=_WORDS,
    )
    seed: int | None = setting(
        None,
        "Same seed, same text; alternatives count up from it. Without it a new one each time.",
        low=0,
        high=SEEDS - 1,
        metavar="N",
    )

    def __post_init__(self) -> None:
        check(self)
        if self.min_new_tokens > self.max_new_tokens:
            raise InputError(
                f"min_new_tokens is {self.min_new_tokens} but max_new_tokens is only "
                f"{self.max_new_tokens}",
                "raise max_new_tokens or lower min_new_tokens",
            )
        if self.samplers is not None and len(set(self.samplers)) < len(self.samplers):
            raise InputError(
                f"samplers names one twice: {', '.join(self.samplers)}", "name each at most once"
            )
        if self.temperature == 0 and self.xtc_probability > 0:
            raise InputError(
                "temperature 0 takes the likeliest token and xtc_probability leaves it out",
                "set xtc_probability to 0 or raise the temperature",
            )
        for name in ("stop", "banned", "dry_breakers"):
            if any(not text for text in getattr(self, name) or ()):
                raise InputError(f"{name} holds an empty string", "remove it")
        for word, value in (self.logit_bias or {}).items():
            if not word or not -100 <= value <= 100:
                raise InputError(
                    f"logit_bias is {value} for {word!r}",
                    "give a word and a number from -100 to 100",
                )

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0

    @property
    def order(self) -> tuple[str, ...]:
        """The samplers in the order in which they are applied."""
        return SAMPLER_ORDER if self.samplers is None else tuple(self.samplers)

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return dataclasses.asdict(self)

    def changed(self, values: Mapping[str, Any], where: str = "settings") -> GenerationSettings:
        """These settings with some fields changed; text is read as the field's type.

        Lists may be given as lists or, one entry, as text: stop strings may hold commas and line
        ends, so they are never split.

        Raises:
            InputError: An unknown field or a value that does not fit.
        """
        known = field_types(GenerationSettings)
        given: dict[str, Any] = {}
        for key, value in values.items():
            name = known_name(key, known, where)
            if name in ("stop", "banned", "dry_breakers") and value is not None:
                texts = [value] if isinstance(value, str) else value
                if not isinstance(texts, (list, tuple)) or any(
                    not isinstance(text, str) for text in texts
                ):
                    raise InputError(f"{where}: {name} must be text or a list of texts")
                given[name] = list(texts)
            elif name == "logit_bias" and isinstance(value, (str, Mapping)):
                # A word keeps its leading space here: " king" and "king" are different tokens.
                if isinstance(value, str):
                    parts = [part.rpartition("=") for part in value.split(",")]
                    value = {word: number for word, _, number in parts}
                given[name] = {
                    str(word): convert(name, number, float, where) for word, number in value.items()
                }
            else:
                given[name] = convert(name, value, known[name], where)
        return dataclasses.replace(self, **given)
