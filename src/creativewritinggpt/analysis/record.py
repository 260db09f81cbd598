"""The record of an explanation, ``results.json``: page, pictures and summaries are made from it.

The first keys are those of the original program (``tokens``, ``gradient_scores`` and
``perturbation_scores`` in 0…1); signs, units, errors and settings stand beside them. Summaries are
of one explanation in a few lines for the terminal, and of several as means.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._version import __version__
from ..files import to_home, write_json, write_text
from ..generation.text import vocabulary
from . import registry
from .forward import Prediction
from .subject import Subject, Word, word_sums

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel

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
        "model": to_home(model.name),
        "adapter": to_home(model.adapter),
        "base": to_home(model.base_name) if model.has_adapter else None,
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


_TOO_SHORT = "the text is too short to tell whether these are better than random ones"


def text_summary(record: dict[str, Any], count: int = 5) -> list[str]:
    """Lines about the first target: what counted most, and how far to trust it.

    Args:
        record: The record of an explanation.
        count: Words named for each method.
    """
    target, text = record["target"], " ".join(record["text"].split())
    shown = text if len(text) <= 70 else f"…{text[-69:]}"
    more = len(record["targets"]) - 1
    foil = target.get("foil")
    against = f" and not “{_shown(foil['text'])}”" if foil else ""
    lines = [
        f"“{shown}”",
        f"  “{_shown(target['text'])}”{against}: probability {target['probability']:.1%}, "
        f"rank {target['rank']}" + (f"; and {more} more tokens" if more else ""),
    ]
    words = record["words"]
    verdicts = set()
    for name, score in registry.scores().items():
        models = record["methods"].get(name)
        if models is None or not score.summary:
            continue
        sums = word_sums(models["tuned"]["scores"][0], [word["tokens"] for word in words])
        order = [i for i in np.argsort(-np.abs(sums)) if i and sums[i]][:count]
        form = "{:+.2f}" if models["tuned"]["signed"] else "{:.2f}"
        said = ", ".join(f"{words[i]['text'].strip() or '⏎'} {form.format(sums[i])}" for i in order)
        verdict = record.get("faithfulness", {}).get(name, {}).get("verdict")
        verdicts.add(verdict)
        doubt = f" ({verdict})" if verdict == registry.NO_BETTER else ""
        lines.append(f"  {score.summary}: {said or 'nothing'}{doubt}")
    if registry.TOO_SHORT in verdicts:
        lines.append(f"  {_TOO_SHORT}")
    return lines


def _shown(token: str) -> str:
    return token.strip() or repr(token)


def aggregate(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over several texts, with standard errors over the texts.

    Returns:
        For the log-probability of the targets, the mass on the first token and every method's
        faithfulness: ``mean``, ``standard_error`` (null for one text) and ``texts``.
    """
    values: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        values.setdefault(name, []).append(float(value))

    for record in records:
        note("log_probability", np.mean([t["log_probability"] for t in record["targets"]]))
        if "attention" in record:
            note("first_token_mass", np.mean(record["attention"]["first_token_mass"]))
        for name, found in record.get("faithfulness", {}).items():
            for key in ("comprehensiveness", "sufficiency"):
                if found.get(key) is not None:
                    note(f"{name}.{key}", found[key])
            note(f"{name}.better_than_random", found["better_than_random"])
    return {
        name: {
            "mean": float(np.mean(found)),
            "standard_error": (
                float(np.std(found, ddof=1) / len(found) ** 0.5) if len(found) > 1 else None
            ),
            "texts": len(found),
        }
        for name, found in values.items()
    }


def save_aggregate(records: Sequence[dict[str, Any]], folder: Path) -> Path:
    """Write ``summary.json`` beside the folders of several texts."""
    path = folder / "summary.json"
    write_json(path, {"texts": len(records), "aggregate": aggregate(records)})
    return path
