"""What the page needs of a record, small enough to travel inside it.

A target owes something to what stands before it only, so that of every matrix the rows are cut at
their target's position. Scores stay float32 until they would be many, and are then 16 bits wide
against their row's largest; attention weights become bytes of their square roots, which keeps small
weights apart (an error below 0.004 at a weight of 1, below 0.0004 at 0.01).
"""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np

MOST_ATTENTION_BYTES = 6_000_000
# Of all scores together as float32; beyond it they are halved.
MOST_SCORE_BYTES = 4_000_000
# Significant digits of the other numbers.
_DIGITS = 6
# Beyond so many targets the layers' guesses are cut to three each.
_MANY_TARGETS = 100
# Parts of the record that the page takes as they are.
_AS_THEY_ARE = ("lens", "difference", "faithfulness")
_ABOUT = (
    "model", "adapter", "base", "revision", "seed", "precision", "command", "created",
)  # fmt: skip


def plain(value: Any) -> Any:
    """A value as JSON knows it: numpy's as Python's, numbers to 6 digits, no NaN, no infinity."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value)


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")


def _before(matrix: np.ndarray, positions: list[int]) -> np.ndarray:
    """``[…, targets, tokens]`` as ``[…, total]``: of each target what stands before it."""
    rows = [matrix[..., row, :position] for row, position in enumerate(positions)]
    return np.concatenate(rows, axis=-1)


def _rows(values: Any, positions: list[int], narrow: bool) -> dict[str, str]:
    """Scores as ``f32``, or as ``i16`` with the ``scale`` of each target's row."""
    matrix = np.nan_to_num(np.asarray(values, dtype=np.float64))
    if not narrow:
        return {"f32": _base64(_before(matrix, positions).astype("<f4"))}
    largest = np.abs(matrix).max(axis=-1, keepdims=True, initial=0.0)
    scale = np.where(largest > 0, largest / 32767, 1.0)
    whole = np.rint(matrix / scale)
    return {
        "i16": _base64(_before(whole, positions).astype("<i2")),
        "scale": _base64(scale.ravel().astype("<f4")),
    }


def _short(settings: dict[str, Any] | None) -> dict[str, Any]:
    """Settings without the tables that some methods keep among them."""
    return {
        key: value
        for key, value in (settings or {}).items()
        if value is None or isinstance(value, (str, int, float, bool))
    }


def _methods(record: dict[str, Any], positions: list[int]) -> dict[str, Any]:
    matrices = 0
    for models in record["methods"].values():
        for found in models.values():
            matrices += bool(found) + bool(found and found.get("standard_error") is not None)
    narrow = 4 * matrices * sum(positions) > MOST_SCORE_BYTES
    result: dict[str, Any] = {}
    for name, models in record["methods"].items():
        result[name] = {}
        for model, found in models.items():
            if not found:
                continue
            result[name][model] = plain(
                {
                    "signed": found["signed"],
                    "unit": found["unit"],
                    "settings": _short(found.get("settings")),
                    "per_target": [_short(one) for one in found.get("per_target") or []],
                    "scores": _rows(found["scores"], positions, narrow),
                }
            )
            if found.get("standard_error") is not None:
                error = _rows(found["standard_error"], positions, narrow)
                result[name][model]["error"] = error
    return result


def _attention(found: dict[str, Any], positions: list[int]) -> dict[str, Any]:
    """Weights as bytes; of too many heads only their mean and largest, which is said."""
    statistics = {}
    layers, heads = int(found["layers"]), int(found["heads"])
    for name, value in found.items():
        table = None if name in ("rows", "base_rows", "layers", "heads") else plain(value)
        if (
            isinstance(table, list)
            and len(table) == layers
            and all(isinstance(row, list) and len(row) == heads for row in table)
        ):
            statistics[name] = table
    rows = {
        name: _before(np.asarray(found[name], dtype=np.float32), positions)
        for name in ("rows", "base_rows")
        if found.get(name) is not None
    }
    views = [str(head) for head in range(heads)]
    reduced = sum(array.size for array in rows.values()) > MOST_ATTENTION_BYTES
    if reduced:
        views = ["mean of the heads", "largest of the heads"]
        rows = {name: np.stack([w.mean(1), w.max(1)], axis=1) for name, w in rows.items()}
    result: dict[str, Any] = {
        "layers": layers, "views": views, "reduced": reduced, "statistics": statistics,
    }  # fmt: skip
    for name, weights in rows.items():
        scaled = np.sqrt(np.clip(np.nan_to_num(weights), 0.0, 1.0)) * 255
        result[name] = _base64(np.rint(scaled).astype(np.uint8))
    return result


def _pieces(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The text in view as pieces: tokens that share characters are one, white space is its own.

    A piece with ``tokens`` can be coloured; one without is the white space between words.
    """
    text, at = record["text"], record.get("view_start", 0)
    pieces: list[dict[str, Any]] = []
    for entry in record["input"][1:]:
        start, end = max(entry["char_span"][0], at), entry["char_span"][1]
        position, word = entry["position"], entry["word"]
        if end <= at:  # more bytes of the same character
            held = [piece for piece in pieces[-2:] if "tokens" in piece]
            if held:
                held[-1]["tokens"].append(position)
            continue
        segment = text[start:end]
        body = segment.strip() or segment.strip(" ")
        lead = segment[: segment.index(body)] if body else ""
        if text[at:start] + lead:
            pieces.append({"text": text[at:start] + lead})
        piece: dict[str, Any] = {"text": body or segment, "word": word, "tokens": [position]}
        tail = segment[len(lead) + len(body) :] if body else ""
        if "\n" in piece["text"] and not piece["text"].strip():
            piece, tail = {**piece, "text": "", "sign": "⏎"}, piece["text"] + tail
        elif "\n" in tail:
            piece["sign"] = "⏎"
        before = text[:start] + lead
        piece["glued"] = bool(before) and not before[-1].isspace()
        pieces.append(piece)
        if tail:
            pieces.append({"text": tail})
        at = end
    if text[at:]:
        pieces.append({"text": text[at:]})
    return pieces


def _targets(record: dict[str, Any]) -> list[dict[str, Any]]:
    text, spans = record["text"], [entry["char_span"] for entry in record["input"]]
    result = []
    for target in record["targets"]:
        position = target["position"]
        start = spans[position][0] if position < len(spans) else len(text)
        glued = start > 0 and not text[start - 1].isspace()
        result.append({**plain(target), "glued": glued})
    return result


def _caption(record: dict[str, Any]) -> str:
    model = str(record.get("model") or "a model")
    if record.get("adapter") and str(record["adapter"]) != model:
        model += f" with the adapter {record['adapter']}"
    if record.get("base") and str(record["base"]) not in model:
        model += f", on {record['base']}"
    written = sum(bool(word.get("written")) for word in record["words"])
    parts = [model]
    if written:
        parts.append(f"{written} written word{'s' if written > 1 else ''}")
    parts.append(f"{len(record['input'])} tokens in view")
    return " · ".join(parts)


def _story(record: dict[str, Any]) -> dict[str, Any]:
    """The story's numbers, where each name that returns brings the sentence that has most."""
    found: dict[str, Any] = plain(record["story"])
    returns = found.get("returns") or []
    for group in returns.values() if isinstance(returns, dict) else [returns]:
        for one in group:
            start, end = one["sentence"]
            one["sentence_text"] = " ".join(record["text"][start:end].split())
    return {"returns": returns, "told": found.get("told")}


def page_data(record: dict[str, Any]) -> dict[str, Any]:
    """The part of a record that the page shows, ready for JSON.

    Args:
        record: As for ``page.page``.
    """
    positions = [target["position"] for target in record["targets"]]
    result: dict[str, Any] = {
        "caption": _caption(record),
        "before": record["text"][: record.get("view_start", 0)],
        "pieces": _pieces(record),
        "tokens": [entry["text"] if i else "" for i, entry in enumerate(record["input"])],
        "words": plain(
            [{key: word.get(key) for key in ("text", "tokens", "kinds", "written")}
             for word in record["words"]]
        ),
        "targets": _targets(record),
        "warnings": plain(record.get("warnings") or []),
        "methods": _methods(record, positions),
        "about": plain({key: record.get(key) for key in _ABOUT}),
        "settings": plain(record.get("settings") or {}),
    }  # fmt: skip
    if record.get("attention"):
        result["attention"] = _attention(record["attention"], positions)
    for name in _AS_THEY_ARE:
        if record.get(name):
            result[name] = plain(record[name])
    if record.get("story"):
        result["story"] = _story(record)
    if len(positions) > _MANY_TARGETS:
        for lens in (result.get("lens") or {}).values():
            lens["top"] = [[top[:3] for top in layer] for layer in lens["top"]]
    for word in result["words"]:
        word["kinds"] = word["kinds"] or []
    return result
