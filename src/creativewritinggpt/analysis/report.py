"""An explanation as files: pictures, ``results.json`` and ``report.html``.

``report.html`` is one page that opens from disk and shows what each written word came from.
Everything is inside the file: the record, the style and the script; nothing is fetched. A browser
from the last four years is enough.

Numbers are packed. A target owes something to what stands before it only, so that the rows of every
matrix are cut at their target's position. Scores are float32; where they would be many, 16 bits
against their row's largest. Attention weights are bytes of their square roots, which keeps small
weights apart (an error below 0.004 at a weight of 1, below 0.0004 at 0.01); of very long texts the
mean and the largest head of each layer are kept. ``results.json`` has the scores in full.
"""

from __future__ import annotations

import base64
import re
import unicodedata
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from ..console import CountCallback
from ..files import disk_errors, write_text
from ..html_page import html_page
from . import registry
from .record import model_name, plain, write_results
from .registry import AnalysisSettings
from .run import Explanation

_SLUG = 40


def save(
    explanation: Explanation,
    folder: Path,
    settings: AnalysisSettings,
    progress: CountCallback | None = None,
) -> list[Path]:
    """Write everything that was found.

    Args:
        explanation: What was found; pictures of what is missing are left out.
        folder: Where to; it is made.
        settings: Which layers and heads are drawn, and whether as SVG too.
        progress: Called with the pictures of layers done and all of them.

    Returns:
        The files, ``results.json`` and ``report.html`` last.

    Raises:
        InputError: A layer or head is out of range, or the folder can't be written.
        RunError: The disk is full.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        figures = [figure for name in registry.names() for figure in registry.get(name).figures]
        written = [
            path for figure in figures for path in _draw(figure, explanation, folder, settings,
                                                         progress)
        ]  # fmt: skip
        # Pictures of an earlier run that this one does not draw would be taken for its own.
        names = "|".join(map(_file_names, figures))
        for old in folder.iterdir():
            if re.fullmatch(rf"({names})\.(png|svg)", old.name) and old not in written:
                old.unlink()
        results, report = folder / "results.json", folder / "report.html"
        write_results(explanation.record, results)
        write_text(report, page(explanation.record))
    return [*written, results, report]


def _file_names(figure: registry.Figure) -> str:
    """A regular expression for the names of a figure's files, without their endings."""
    several = r"_(overview|(without_sink_)?layer\d+)" if figure.kind == "attention" else ""
    return re.escape(figure.file) + several


def _draw(
    figure: registry.Figure, explanation: Explanation, folder: Path, settings: AnalysisSettings,
    progress: CountCallback | None,
) -> list[Path]:  # fmt: skip
    """Draw a figure where the record has what it shows, and name its files."""
    from . import score_plots

    record, path = explanation.record, folder / f"{figure.file}.png"
    if figure.kind == "attention":
        return _draw_attention(explanation, folder, settings, progress)
    if figure.kind == "curves":
        judged = record.get("faithfulness")
        return score_plots.draw_curves(record, path, settings.svg) if judged else []
    if figure.scores[0] not in record["methods"]:
        return []
    if figure.kind == "bars":
        return score_plots.draw_bars(record, path, figure.scores, settings.svg)
    several = len(record["targets"]) > 1
    return score_plots.draw_matrix(record, path, figure.scores[0], settings.svg) if several else []


def _draw_attention(
    explanation: Explanation, folder: Path, settings: AnalysisSettings,
    progress: CountCallback | None,
) -> list[Path]:  # fmt: skip
    from .attention_plots import draw_layers, draw_overview
    from .methods.attention import without_sink

    maps, subject, svg = explanation.attention, explanation.subject, settings.svg
    if maps is None:
        return []
    model = str(explanation.record["model"])
    written = []
    for shown in (maps, without_sink(maps)) if settings.without_sink else (maps,):
        written += draw_layers(
            shown, subject, folder, model=model, layers=settings.layers, heads=settings.heads,
            svg=svg, progress=progress,
        )  # fmt: skip
    return written + draw_overview(maps, subject, folder, model=model, svg=svg)


def folder_name(number: int, text: str) -> str:
    """``01-the-enchanted-castle``: the folder of one of several texts."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    slug = "-".join(re.findall(r"[a-z0-9]+", plain))[:_SLUG].strip("-")
    return f"{number:02d}-{slug}" if slug else f"{number:02d}"


# In the order in which they build on each other.
_SCRIPTS = ("record", "theme", "scores", "text", "panel", "canvases", "sections", "page")
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


def _plain(value: Any) -> Any:
    return plain(value, _DIGITS)


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
            result[name][model] = _plain(
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
        table = None if name in ("rows", "base_rows", "layers", "heads") else _plain(value)
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


def text_pieces(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The text in view as pieces: tokens that share characters are one, white space is its own.

    A piece with ``tokens`` can be coloured; one without is the white space between words. One in
    a named part of the text (memory, note) has its name as ``part``.
    """
    text, at = record["text"], record.get("view_start", 0)
    parts = [(part["name"], *part["char_span"]) for part in record.get("parts") or ()]
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
        named = [name for name, first, last in parts if first <= start + len(lead) < last]
        if named:
            piece["part"] = named[0]
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
        result.append({**_plain(target), "glued": glued})
    return result


def _caption(record: dict[str, Any]) -> str:
    written = sum(bool(word.get("written")) for word in record["words"])
    parts = [model_name(record)]
    if written:
        parts.append(f"{written} written word{'s' if written > 1 else ''}")
    parts.append(f"{len(record['input'])} tokens in view")
    return " · ".join(parts)


def _titles(record: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Title, description and family of the record's scores, in the order of the registry."""
    order = list(registry.scores())
    names = sorted(record["methods"], key=lambda n: order.index(n) if n in order else len(order))
    return {
        score.name: {"title": score.title, "about": score.description, "family": score.family}
        for score in map(registry.score, names)
    }


def _story(record: dict[str, Any]) -> dict[str, Any]:
    """The story's numbers; each name that returns brings the sentence that has most."""
    found: dict[str, Any] = _plain(record["story"])
    returns = found.get("returns") or []
    for group in returns.values() if isinstance(returns, dict) else [returns]:
        for one in group:
            start, end = one["sentence"]
            one["sentence_text"] = " ".join(record["text"][start:end].split())
    return {"returns": returns, "told": found.get("told")}


def page_data(record: dict[str, Any]) -> dict[str, Any]:
    """The part of a record that the page shows, ready for JSON.

    Args:
        record: As for :func:`page`.
    """
    positions = [target["position"] for target in record["targets"]]
    result: dict[str, Any] = {
        "caption": _caption(record),
        "before": record["text"][: record.get("view_start", 0)],
        "pieces": text_pieces(record),
        "tokens": [entry["text"] if i else "" for i, entry in enumerate(record["input"])],
        "words": _plain(
            [{key: word.get(key) for key in ("text", "tokens", "kinds", "written")}
             for word in record["words"]]
        ),
        "targets": _targets(record),
        "warnings": _plain(record.get("warnings") or []),
        "methods": _methods(record, positions),
        "titles": _titles(record),
        "about": _plain({key: record.get(key) for key in _ABOUT}),
        "settings": _plain(record.get("settings") or {}),
    }  # fmt: skip
    if record.get("attention"):
        result["attention"] = _attention(record["attention"], positions)
    for name in _AS_THEY_ARE:
        if record.get(name):
            result[name] = _plain(record[name])
    if record.get("story"):
        result["story"] = _story(record)
    if len(positions) > _MANY_TARGETS:
        for lens in (result.get("lens") or {}).values():
            lens["top"] = [[top[:3] for top in layer] for layer in lens["top"]]
    for word in result["words"]:
        word["kinds"] = word["kinds"] or []
    return result


def page(record: dict[str, Any]) -> str:
    """The page as text.

    Args:
        record: The full record of an explanation, as in ``results.json``; ``attention`` may hold
            ``rows`` (and ``base_rows``) besides: the weights from the place before each target to
            each input, ``[layers, heads, targets, tokens]``.
    """
    text = " ".join(str(record["text"]).split())
    short = text if len(text) <= 60 else text[:59].rstrip() + "…"
    scripts = "\n".join(_read(f"{name}.js") for name in _SCRIPTS)
    return html_page(
        f"Why these words? {short}", _read("body.html"), _read("page.css"),
        data=page_data(record), script=f'"use strict";\n(() => {{\n{scripts}}})();',
    )  # fmt: skip


def _read(name: str) -> str:
    return (resources.files(__package__) / "web" / name).read_text(encoding="utf-8")
