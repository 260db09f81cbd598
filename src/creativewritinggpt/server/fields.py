"""The fields of a request, under the names of all protocols, as generation settings.

One table says which names each setting has at OpenAI, llama.cpp, vLLM, text-generation-webui and
KoboldAI. A value of the wrong type or out of range is refused, never changed. A field of a method
that is not offered is taken at its "off" value; at another one the answer carries a warning, or the
request is refused where the server is strict. Fields that nobody knows are ignored, since clients
send many.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from ..errors import InputError
from ..generation.sampling.settings import SEEDS, GenerationSettings, preset

MOST_STOPS, STOP_LENGTH, MOST_BIASES = 16, 256, 512

DEFAULTS = GenerationSettings(max_new_tokens=16, temperature=1.0, top_p=1.0, repetition_penalty=1.0)
"""OpenAI's defaults: what a request gets that says nothing, and names no preset."""

NUMBERS: dict[str, tuple[str, ...]] = {
    "max_new_tokens": ("max_tokens", "max_completion_tokens", "max_new_tokens", "n_predict",
                       "max_length"),
    "min_new_tokens": ("min_tokens", "min_new_tokens"),
    "temperature": ("temperature",),
    "top_k": ("top_k",),
    "top_p": ("top_p",),
    "min_p": ("min_p",),
    "typical_p": ("typical_p", "typical"),
    "xtc_probability": ("xtc_probability",),
    "xtc_threshold": ("xtc_threshold",),
    "repetition_penalty": ("repetition_penalty", "repeat_penalty", "rep_pen"),
    "presence_penalty": ("presence_penalty",),
    "frequency_penalty": ("frequency_penalty",),
    "penalty_range": ("penalty_range", "repeat_last_n", "repetition_penalty_range",
                      "rep_pen_range"),
    "no_repeat_ngram": ("no_repeat_ngram", "no_repeat_ngram_size"),
    "dry_multiplier": ("dry_multiplier",),
    "dry_base": ("dry_base",),
    "dry_allowed_length": ("dry_allowed_length",),
    "dry_range": ("dry_range", "dry_penalty_last_n"),
    "seed": ("seed", "sampler_seed"),
}  # fmt: skip
"""Names of each setting that is a number, ours among them; the first that is given counts."""

TEXTS: dict[str, tuple[str, ...]] = {
    "stop": ("stop", "stopping_strings", "stop_sequence"),
    "banned": ("banned", "bad_words", "banned_strings", "banned_tokens"),
    "dry_breakers": ("dry_breakers", "dry_sequence_breakers"),
}
"""The same of each setting that is a list of texts; a text, or a JSON list as text, will do."""

ENDLESS = ("ignore_eos", "ban_eos_token")
"""Flags that let no text end by itself."""

ORDER = ("samplers", "sampler_priority")
_SAMPLERS = {"typ_p": "typical_p", "typical": "typical_p", "top_k": "top_k", "top_p": "top_p",
             "min_p": "min_p", "xtc": "xtc", "dry": "dry", "temperature": "temperature",
             "penalties": "penalties", "repetition_penalty": "penalties",
             "no_repeat_ngram": "no_repeat", "bias": "bias", "no_repeat": "no_repeat",
             "typical_p": "typical_p"}  # fmt: skip

OFF: dict[str, tuple[Any, ...]] = {
    "mirostat": (0,), "mirostat_mode": (0,), "tfs": (1, 0), "tfs_z": (1, 0), "top_a": (0,),
    "dynatemp_range": (0,), "dynamic_temperature": (False,), "smoothing_factor": (0,),
    "nsigma": (0,), "top_n_sigma": (0, -1), "guidance_scale": (1,), "grammar": ("",),
    "grammar_string": ("",), "json_schema": (None,), "epsilon_cutoff": (0,), "eta_cutoff": (0,),
    "penalty_alpha": (0,), "num_beams": (1,), "suffix": ("",), "encoder_repetition_penalty": (1,),
    "negative_prompt": ("",), "add_bos_token": (True,), "custom_token_bans": ("",),
    "adaptive_target": (-1, 0), "guided_json": (None,), "guided_regex": (None,),
    "images": ([],), "logit_processors": ([],), "response_format": ({"type": "text"},),
}  # fmt: skip
"""Methods that are not offered, and the values at which they do nothing."""


class FieldError(InputError):
    """A field that can't be used; ``param`` is its name."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a request wants of the sampling.

    Attributes:
        settings: The settings; without ``max_tokens`` or with -1, ``max_new_tokens`` is what the
            caller has to fill in.
        max_tokens: The number asked for: None for the default, -1 for the rest of the window.
        endless: Whether the text may not end by itself.
        token_bias: Amounts to add to logits, by token id.
        warnings: What was not done.
    """

    settings: GenerationSettings
    max_tokens: int | None
    endless: bool
    token_bias: dict[int, float]
    warnings: list[str]


def number(body: Mapping[str, Any], name: str, *, whole: bool = False) -> float | None:
    """A number of the body; None where it is missing or null.

    Raises:
        FieldError: It is no finite number, or not a whole one.
    """
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise FieldError(f"{name} must be a number", name)
    if whole and value != int(value):
        raise FieldError(f"{name} must be a whole number", name)
    return int(value) if whole else value


def whole(body: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    """A whole number of the body in a range.

    Raises:
        FieldError: It is none, or out of range.
    """
    value = number(body, name, whole=True)
    if value is None:
        return default
    if not low <= value <= high:
        raise FieldError(f"{name} must be from {low} to {high}", name)
    return int(value)


def flag(body: Mapping[str, Any], name: str) -> bool:
    """A flag of the body; missing and null are False.

    Raises:
        FieldError: It is neither true nor false.
    """
    value = body.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise FieldError(f"{name} must be true or false", name)
    return value


def text(body: Mapping[str, Any], name: str) -> str:
    """A text of the body; missing and null are empty.

    Raises:
        FieldError: It is no text.
    """
    value = body.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise FieldError(f"{name} must be a text", name)
    return value


def wanted(
    body: Mapping[str, Any], vocabulary: int, *, strict: bool = False, most_stops: int = MOST_STOPS
) -> Wanted:
    """The settings that the fields of a request ask for.

    Args:
        body: The request.
        vocabulary: Number of token ids.
        strict: Whether a method that is not offered is refused.
        most_stops: Maximum number of stop strings.

    Raises:
        FieldError: A field has a wrong type or a value that can't be.
    """
    name = text(body, "preset")
    try:
        settings = preset(name).settings() if name and name in _preset_names() else DEFAULTS
    except InputError as error:
        raise FieldError(error.message, "preset") from error
    if name and name not in _preset_names():
        raise FieldError(f"no preset {name!r}", "preset")
    changes: dict[str, Any] = {}
    given: dict[str, str] = {}
    for setting, names in NUMBERS.items():
        for alias in names:
            value = number(body, alias, whole=setting in _WHOLE)
            if value is not None and setting not in changes:
                changes[setting], given[setting] = value, alias
    _adapt(changes, given)
    for setting, names in TEXTS.items():
        for alias in names:
            if body.get(alias) is not None and setting not in changes:
                changes[setting] = _texts(body[alias], alias, most_stops) or None
                given[setting] = alias
    order = next((alias for alias in ORDER if body.get(alias) is not None), None)
    if order is not None:
        changes["samplers"], given["samplers"] = _order(body[order], order), order
    max_tokens = changes.pop("max_new_tokens", None)
    endless = any(flag(body, alias) for alias in ENDLESS)
    if body.get("heal") is not None:
        changes["heal"] = flag(body, "heal")
    settings = _changed(settings, changes, given)
    warnings = _warnings(body, strict)
    return Wanted(settings, max_tokens, endless, _bias(body, vocabulary), warnings)


_WHOLE = ("max_new_tokens", "min_new_tokens", "top_k", "penalty_range", "no_repeat_ngram",
          "dry_allowed_length", "dry_range", "seed")  # fmt: skip


def _preset_names() -> list[str]:
    from ..generation.sampling.settings import presets

    return list(presets())


def _adapt(changes: dict[str, Any], given: dict[str, str]) -> None:
    """Values that mean something else here than at their programs."""
    if changes.get("top_k") == -1:
        changes["top_k"] = 0
    if changes.get("typical_p") == 0:
        changes["typical_p"] = 1.0
    if "seed" in changes:
        changes["seed"] = None if changes["seed"] == -1 else int(changes["seed"]) % SEEDS
    # At llama.cpp -1 is all and 0 none; here 0 is all.
    if given.get("penalty_range") == "repeat_last_n" and changes["penalty_range"] == 0:
        changes.update(repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0)
    if given.get("dry_range") == "dry_penalty_last_n" and changes["dry_range"] == 0:
        changes["dry_multiplier"] = 0.0
    for setting in ("penalty_range", "dry_range"):
        if changes.get(setting) == -1:
            changes[setting] = 0


def _texts(value: Any, name: str, most: int) -> list[str]:
    if isinstance(value, str):
        value = _json_list(value)
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise FieldError(f"{name} must be a text or a list of texts", name)
    if len(value) > most:
        raise FieldError(f"{name} has more than {most} entries", name)
    if any(len(part) > STOP_LENGTH for part in value):
        raise FieldError(f"an entry of {name} is longer than {STOP_LENGTH} characters", name)
    return [part for part in value if part]


def _json_list(value: str) -> Any:
    """A list that a client sends as JSON text; any other text is the only entry."""
    if value[:1] == "[":
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return [value]
    return [value]


def _order(value: Any, name: str) -> list[str]:
    if isinstance(value, str):
        value = [part.strip() for part in value.replace(";", "\n").splitlines()]
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise FieldError(f"{name} must be a list of names", name)
    known = [_SAMPLERS[part] for part in value[:64] if part in _SAMPLERS]
    return list(dict.fromkeys(["bias", *known]))


def _changed(
    settings: GenerationSettings, changes: dict[str, Any], given: Mapping[str, str]
) -> GenerationSettings:
    for setting, value in changes.items():
        try:
            settings = settings.changed({setting: value})
        except InputError as error:
            alias = given.get(setting, setting)
            message = f"{error.message}; {error.advice}" if error.advice else error.message
            raise FieldError(message.replace(setting, alias), alias) from error
    return settings


def _bias(body: Mapping[str, Any], vocabulary: int) -> dict[int, float]:
    value = body.get("logit_bias")
    if not value:
        return {}
    # llama.cpp takes pairs.
    pairs = value.items() if isinstance(value, dict) else value
    bias: dict[int, float] = {}
    try:
        if len(value) > MOST_BIASES:
            raise FieldError(f"logit_bias has more than {MOST_BIASES} entries", "logit_bias")
        for token, amount in pairs:
            if not (isinstance(token, int) or str(token).isdecimal()) or isinstance(token, bool):
                raise FieldError("logit_bias takes token ids", "logit_bias")
            amount = -100 if amount is False else amount
            if isinstance(amount, bool) or not isinstance(amount, (int, float)):
                raise FieldError("logit_bias takes numbers", "logit_bias")
            if not 0 <= int(token) < vocabulary or not -100 <= amount <= 100:
                raise FieldError(
                    f"logit_bias takes token ids below {vocabulary} and numbers from -100 to 100",
                    "logit_bias",
                )
            bias[int(token)] = float(amount)
    except (TypeError, ValueError) as error:
        raise FieldError(
            "logit_bias must be an object of token ids and numbers", "logit_bias"
        ) from error
    return bias


def _warnings(body: Mapping[str, Any], strict: bool) -> list[str]:
    """What was not done; every method is off at null, false and an empty text, too."""
    found = []
    for name, off in OFF.items():
        value = body.get(name)
        if value in (None, False, "") or any(value == one for one in off):
            continue
        if strict or name in _NEVER_IGNORED:
            raise FieldError(f"{name} is not offered here", name, "unsupported")
        found.append(f"{name} is not offered here and was ignored")
    return found


# Their texts would have another form than the one asked for.
_NEVER_IGNORED = ("suffix", "response_format")
