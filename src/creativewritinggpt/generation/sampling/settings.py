"""Generation settings: length, sampling, repetition, words, seed; presets by genre and mood.

One dataclass declares every control with its range and its help; the command line, the session and
the presets set the same fields. Contradictory values are refused here, before a model is loaded.

The user's presets are in ``presets.yaml`` in the configuration folder, in the form of the package's
own file; on equal names the user's wins. The path of a YAML file with settings is a name, too. This
module does not import torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
import re
import secrets
from collections.abc import Collection, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from ...config.fields import check, convert, field_types, known_name, setting
from ...errors import InputError
from ...files import from_home, parse_yaml, read_text

_length = functools.partial(setting, group="length")
_sampling = functools.partial(setting, group="sampling")
_repetition = functools.partial(setting, group="repetition")
_words = functools.partial(setting, group="words")

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
"""Names and default order of the samplers in :data:`.samplers.SAMPLERS`.

First what changes single logits, then the temperature, then what cuts the tail of the distribution,
last XTC, which cuts the head of what is left.
"""

DRY_BREAKERS = ("\n", ":", '"', "*")
"""Default ``dry_breakers``: repeated runs are sought within a line and a clause."""

SEEDS = 2**31
"""Number of seeds: 0 to SEEDS - 1."""

_TEXT_LISTS = ("stop", "banned", "dry_breakers")

_SAMPLED = {
    "bias": ("logit_bias",),
    "penalties": (
        "repetition_penalty", "presence_penalty", "frequency_penalty", "penalty_range",
    ),
    "no_repeat": ("no_repeat_ngram",),
    "dry": ("dry_multiplier", "dry_base", "dry_allowed_length", "dry_range", "dry_breakers"),
    "temperature": ("temperature",),
    "top_k": ("top_k",),
    "typical_p": ("typical_p",),
    "top_p": ("top_p",),
    "min_p": ("min_p",),
    "xtc": ("xtc_probability", "xtc_threshold"),
}  # fmt: skip
"""The fields that each sampler reads."""

_ESCAPE = re.compile(r"""\\(?:u([0-9a-fA-F]{4})|([ntr\\"']))""")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def unescape(text: str) -> str:
    r"""Text of an option as it is meant where it is typed.

    ``\n``, ``\t``, ``\r``, ``\"``, ``\'`` and ``\uXXXX`` stand for their characters and ``\\``
    for one backslash, as in JSON; any other backslash stays, and so does half a surrogate pair.
    """
    found = _ESCAPE.sub(lambda m: chr(int(m[1], 16)) if m[1] else _ESCAPES.get(m[2], m[2]), text)
    try:
        return found.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        return text


def typed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that were typed, with the escapes in their texts decoded; see :func:`unescape`."""
    found = dict(values)
    for name in (*_TEXT_LISTS, "logit_bias"):
        value = found.get(name)
        if isinstance(value, str):
            found[name] = unescape(value)
        elif isinstance(value, list):
            found[name] = [unescape(one) if isinstance(one, str) else one for one in value]
    return found


def seeds_from(first: int | None, count: int) -> list[int]:
    """Consecutive seeds for ``count`` alternatives.

    Args:
        first: The first seed; after the largest comes 0. None draws a random one.
        count: Number of seeds.
    """
    start = secrets.randbelow(SEEDS) if first is None else first
    return [(start + number) % SEEDS for number in range(count)]


@dataclasses.dataclass(frozen=True)
class GenerationSettings:
    """Every control of the decoding engine; see ``docs/generation.md``."""

    max_new_tokens: int = _length(
        200, "Maximum number of tokens to write.", low=1, high=100_000, metavar="N"
    )
    min_new_tokens: int = _length(
        0, "Minimum number of tokens before the text may end.", low=0, high=100_000, metavar="N"
    )
    stop: list[str] | None = _length(None, "Stop string: the text ends before it.", metavar="TEXT")

    temperature: float = _sampling(
        0.9, "Temperature: above 1 bolder, below 1 safer, 0 greedy.", low=0, high=5, metavar="X"
    )
    top_k: int = _sampling(0, "Keep the k likeliest tokens; 0 keeps all.", low=0, metavar="K")
    top_p: float = _sampling(
        0.95,
        "Keep the fewest likeliest tokens that together have this probability; 1 keeps all.",
        above=0, high=1, metavar="P",
    )  # fmt: skip
    min_p: float = _sampling(
        0.0, "Keep tokens at least this share as likely as the likeliest; 0 keeps all.", low=0,
        high=1, metavar="P",
    )  # fmt: skip
    typical_p: float = _sampling(
        1.0, "Keep the tokens whose surprise is nearest to the entropy, up to this probability.",
        above=0, high=1, metavar="P",
    )  # fmt: skip
    xtc_probability: float = _sampling(
        0.0, "Probability per token that the top choices are excluded (XTC); 0 is off.", low=0,
        high=1, metavar="P",
    )  # fmt: skip
    xtc_threshold: float = _sampling(
        0.1,
        "XTC excludes all tokens of at least this probability but the least likely of them.",
        low=0, high=1, metavar="P",
    )  # fmt: skip
    samplers: list[str] | None = _sampling(
        None, "The samplers to apply, in this order.", choices=SAMPLER_ORDER, metavar="NAME,…"
    )

    repetition_penalty: float = _repetition(
        1.05, "Divides the logit of a token already written (multiplies it, where negative).",
        low=0.5, high=5, metavar="X",
    )  # fmt: skip
    presence_penalty: float = _repetition(
        0.0, "Subtracted once from the logit of each token already written.", low=-5, high=5,
        metavar="X",
    )  # fmt: skip
    frequency_penalty: float = _repetition(
        0.0, "Subtracted from a token's logit for each time it was written.", low=-5, high=5,
        metavar="X",
    )  # fmt: skip
    penalty_range: int = _repetition(
        256, "Number of last tokens that these three penalties look at; 0 is all.", low=0,
        metavar="N",
    )  # fmt: skip
    no_repeat_ngram: int = _repetition(
        0, "Never repeat an n-gram of this many tokens; 0 is off.", low=0, high=1000, metavar="N"
    )
    dry_multiplier: float = _repetition(
        0.0, "Strength of the penalty on continuing a repeated run (DRY); 0 is off.", low=0,
        high=100, metavar="X",
    )  # fmt: skip
    dry_base: float = _repetition(
        1.75, "Growth of DRY's penalty per token of the run.", low=1, high=8, metavar="X"
    )
    dry_allowed_length: int = _repetition(
        2, "Longest run, in tokens, without DRY's penalty.", low=1, high=1000, metavar="N"
    )
    dry_range: int = _repetition(
        0, "Number of last tokens that DRY looks at; 0 is all.", low=0, metavar="N"
    )
    dry_breakers: list[str] | None = _repetition(
        None, "String that ends a run for DRY [line end, colon, quotation mark, asterisk].",
        metavar="TEXT",
    )  # fmt: skip

    banned: list[str] | None = _words(
        None, "Phrase never to write, in any case; the engine goes back and takes another way.",
        metavar="PHRASE",
    )  # fmt: skip
    logit_bias: dict[str, float] | None = _words(
        None, "Added to the logits of a word's tokens, at the start of a text and within it, as "
        "word=number; -100 forbids, 100 forces.", metavar="WORD=X,…",
    )  # fmt: skip

    heal: bool = _words(
        True, "Re-open the last token of a prompt that ends in a space or within a word, where a "
        "longer token is likelier.",
    )  # fmt: skip

    best_of: int | None = _words(
        None, "Number of alternatives, of which the best is kept.", low=1, high=64, metavar="N"
    )
    rank_by: str = _words(
        "varied",
        "Score of best_of: likelihood (mean log-probability), varied (less the cost of "
        "repetition), or taste (by what you took before: --choices, or the session's story).",
        choices=("likelihood", "varied", "taste"),
    )  # fmt: skip
    weights: str = _words(
        "auto",
        "Weight format while writing: auto is the fastest on this processor, onnx is 8 bits by "
        "onnxruntime, transformers calls the model as it is.",
        choices=("auto", "fp32", "bf16", "int8", "onnx", "transformers"),
    )  # fmt: skip
    seed: int | None = setting(
        None,
        "Random seed: same seed, same text; alternatives count up from it. A new one by default.",
        low=0, high=SEEDS - 1, metavar="N",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.weights == "rotated":
            raise InputError("weights is rotated, which is now called onnx", "use onnx")
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
        for name in _TEXT_LISTS:
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
        """Names of the samplers in the order in which they are applied."""
        return SAMPLER_ORDER if self.samplers is None else tuple(self.samplers)

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return dataclasses.asdict(self)

    def without_effect(self, names: Collection[str]) -> dict[str, str]:
        """Those of the named fields that change nothing beside the others, and why."""
        found: dict[str, str] = {}
        for sampler, fields in _SAMPLED.items():
            if sampler not in self.order:
                found |= dict.fromkeys(fields, f"{sampler} is not among the samplers")
        if self.greedy:
            why = "at temperature 0 the likeliest token is always taken"
            cutting = ("top_k", "top_p", "min_p", "typical_p", "xtc_threshold", "seed")
            found |= dict.fromkeys(cutting, why)
        if self.xtc_probability == 0:
            found["xtc_threshold"] = "xtc_probability is 0"
        if self.dry_multiplier == 0:
            found |= dict.fromkeys(_SAMPLED["dry"][1:], "dry_multiplier is 0")
        penalties = self.presence_penalty, self.frequency_penalty, self.repetition_penalty - 1
        if not any(penalties):
            found["penalty_range"] = "there is no penalty"
        if self.best_of is None:
            found["rank_by"] = "best_of is not given"
        return {name: why for name, why in found.items() if name in names}

    def changed(self, values: Mapping[str, Any], where: str = "settings") -> GenerationSettings:
        """A copy with some fields changed; text is converted to the field's type.

        Stop strings and phrases may hold commas and line ends, so text is never split for them.

        Raises:
            InputError: An unknown field or a value that does not fit.
        """
        known = field_types(type(self))
        given: dict[str, Any] = {}
        for key, value in values.items():
            name = known_name(key, known, where)
            if name in _TEXT_LISTS and value is not None:
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


@dataclasses.dataclass(frozen=True)
class Preset:
    """Named settings and the reason for them."""

    name: str
    why: str
    values: dict[str, Any]

    def settings(self) -> GenerationSettings:
        """The defaults changed by this preset."""
        return GenerationSettings().changed(self.values, f"preset {self.name}")


def user_file() -> Path:
    """Path of the user's presets."""
    if os.name == "nt":
        root = Path(os.environ.get("APPDATA", Path.home() / "AppData" / "Roaming"))
    else:
        root = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return root / "creativewritinggpt" / "presets.yaml"


@functools.cache
def shipped() -> dict[str, Preset]:
    """The package's presets."""
    text = (resources.files(__package__) / "presets.yaml").read_text("utf-8")
    return _parse(text, "presets.yaml")


def presets() -> dict[str, Preset]:
    """All named presets: the package's, then the user's.

    Raises:
        InputError: The user's file can't be read.
    """
    path = user_file()
    own = _parse(read_text(path), str(path)) if path.is_file() else {}
    return {**shipped(), **own}


def preset(name: str) -> Preset:
    """The preset of that name, or the settings in the YAML file at that path.

    Raises:
        InputError: There is neither, or it can't be used.
    """
    known = presets()
    if name in known:
        return known[name]
    path = from_home(name)
    if path.suffix in (".yaml", ".yml"):
        values = _mapping(read_text(path), str(path))
        found = _preset(path.stem, values, str(path))
        found.settings()
        return found
    near = difflib.get_close_matches(name, known, n=1)
    raise InputError(
        f"no preset '{name}'",
        f"did you mean '{near[0]}'?" if near else f"presets: {', '.join(known)}; or a .yaml file",
    )


_UNLESS_NAMED = (
    "seed", "max_new_tokens", "min_new_tokens", "stop", "banned", "logit_bias", "best_of",
    "rank_by", "weights",
)  # fmt: skip
"""Settings that a change of the preset leaves alone unless the preset names them."""


def with_preset(settings: GenerationSettings, name: str) -> GenerationSettings:
    """The settings of a preset; seed, lengths and bans stay unless it names them.

    Raises:
        InputError: There is no such preset, or it can't be used.
    """
    chosen = preset(name)
    kept = {key: getattr(settings, key) for key in _UNLESS_NAMED if key not in chosen.values}
    return dataclasses.replace(chosen.settings(), **kept)


def settings_for(name: str | None, changes: Mapping[str, Any]) -> GenerationSettings:
    """The defaults, changed by a preset, then by ``changes``.

    Raises:
        InputError: An unknown preset or setting, or a value that does not fit.
    """
    base = preset(name).settings() if name else GenerationSettings()
    return base.changed(changes)


def _parse(text: str, where: str) -> dict[str, Preset]:
    return {
        str(name): _preset(str(name), values, f"{where}: {name}")
        for name, values in _mapping(text, where).items()
    }


def _preset(name: str, values: Any, where: str) -> Preset:
    if not isinstance(values, dict):
        raise InputError(f"{where} must hold settings as `name: value` lines")
    rest = {str(key): value for key, value in values.items() if key != "why"}
    return Preset(name, str(values.get("why", "")), rest)


def _mapping(text: str, where: str) -> dict[Any, Any]:
    read = parse_yaml(text, where)
    if not isinstance(read or {}, dict):
        raise InputError(f"{where} must hold `name: value` lines")
    return read or {}
