"""The record of an explanation: ``results.json``, and what the page and the pictures draw from.

The first keys are those of the original program (``tokens``, ``gradient_scores`` and
``perturbation_scores`` in 0…1); signs, units, errors and settings stand beside them.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._version import __version__
from ...files import write_text
from ...generation.text import vocabulary
from ..runtime.forward import Prediction
from ..subject import Subject
from ..text.words import Word

if TYPE_CHECKING:
    from ...models.loaded_model import LoadedModel

FORMAT, VERSION = "cwgpt-explanation", 1
# What is drawn and not read: it would make the file many times as large.
_PICTURES_ONLY = ("rows", "base_rows")


def begin(
    model: LoadedModel, subject: Subject, words: Sequence[Word], kinds: Sequence[set[str]]
) -> dict[str, Any]:
    """A record that says what is explained, without any explanation yet."""
    shown = token_text(model)
    word_of = {token: index for index, word in enumerate(words) for token in word.tokens}
    pieces = [shown(token) for token in subject.ids]
    return {
        "format": FORMAT,
        "version": VERSION,
        "text": subject.text,
        "tokens": pieces[1:],
        "gradient_scores": None,
        "perturbation_scores": None,
        "model": model.name,
        "adapter": model.adapter,
        "base": model.base_name if model.has_adapter else None,
        "revision": model.revision,
        "program": f"creativewritinggpt {__version__}",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "view_start": subject.view_start,
        "prompt_characters": subject.prompt_characters,
        "warnings": [],
        "input": [
            {
                "position": position,
                "id": int(token),
                "text": pieces[position],
                "char_span": list(subject.spans[position]),
                "word": word_of.get(position),
            }
            for position, token in enumerate(subject.ids)
        ],
        "words": [
            {
                "text": word.text,
                "char_span": list(word.span),
                "tokens": list(word.tokens),
                "kinds": sorted(found),
                "written": word.written,
            }
            for word, found in zip(words, kinds, strict=True)
        ],
        "methods": {},
    }


def token_text(model: LoadedModel) -> Callable[[int], str]:
    """What shows a token as a person can read it."""
    return vocabulary(model.tokenizer).shown


def target_records(
    model: LoadedModel,
    subject: Subject,
    words: Sequence[Word],
    found: Sequence[Prediction],
    base: Sequence[Prediction] | None,
) -> list[dict[str, Any]]:
    """What the model says at each target, and the base model beside it."""
    shown = token_text(model)
    word_of = {token: index for index, word in enumerate(words) for token in word.tokens}

    def said(prediction: Prediction) -> dict[str, Any]:
        return {
            "log_probability": prediction.log_probability,
            "probability": float(np.exp(prediction.log_probability)),
            "rank": prediction.rank,
            "entropy": prediction.entropy,
            "alternatives": [
                {"id": token, "text": shown(token), "probability": probability}
                for token, probability in prediction.likeliest
            ],
        }

    result = []
    for index, prediction in enumerate(found):
        target = prediction.target
        foil = None
        if target.foil is not None:
            foil = {
                "id": target.foil,
                "text": shown(target.foil),
                "log_probability": prediction.foil_log_probability,
            }
        inside = target.position < subject.length
        result.append(
            {
                "position": target.position,
                "id": target.id,
                "text": shown(target.id),
                "word": word_of.get(target.position) if inside else None,
                **said(prediction),
                "foil": foil,
                "base": said(base[index]) if base is not None else None,
            }
        )
    return result


def as_json(record: dict[str, Any]) -> dict[str, Any]:
    """The record as ``results.json`` has it: nothing that is only drawn, null for no number."""
    kept = dict(record)
    if isinstance(kept.get("attention"), dict):
        kept["attention"] = {
            name: value for name, value in kept["attention"].items() if name not in _PICTURES_ONLY
        }
    result: dict[str, Any] = plain(kept)
    return result


def write_results(record: dict[str, Any], path: Path) -> None:
    """Write ``results.json``."""
    write_text(path, json.dumps(as_json(record), ensure_ascii=False, allow_nan=False))


def model_name(record: dict[str, Any]) -> str:
    """The model, its adapter and its base."""
    model = str(record.get("model") or "a model")
    adapter, base = record.get("adapter"), record.get("base")
    if adapter and str(adapter) != model:
        model += f" with the adapter {adapter}"
    return model + (f", on {base}" if base and str(base) not in model else "")


def plain(value: Any, digits: int | None = None) -> Any:
    """A value as JSON knows it: numpy's as Python's own, null for NaN and infinity.

    Args:
        value: Of dictionaries, lists, arrays and numbers.
        digits: Significant digits to which numbers are rounded.
    """
    if isinstance(value, dict):
        return {str(key): plain(item, digits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, digits) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist(), digits)
    if isinstance(value, float):
        if not np.isfinite(value):
            return None
        return value if digits is None else float(f"{value:.{digits}g}")
    return value
