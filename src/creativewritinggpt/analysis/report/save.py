"""An explanation as files: pictures, ``results.json`` and one page that opens anywhere."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...console import CountCallback
from ...files import disk_errors, write_json
from ..run import Explanation
from ..settings import AnalysisSettings
from .record import write_results

_SLUG = 40
_PICTURE = re.compile(
    r"(gradients|perturbation|faithfulness|(integrated_gradients|kl)_matrix|attention_overview"
    r"|attention_(without_sink_)?layer\d+)\.(png|svg)"
)


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
    from ..plots.plots import draw_faithfulness, draw_gradients, draw_matrix, draw_perturbation
    from .page import write_page

    record, svg = explanation.record, settings.svg
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        written = _draw_attention(explanation, folder, settings, progress)
        methods = record["methods"]
        if "integrated_gradients" in methods:
            written += draw_gradients(record, folder / "gradients.png", svg)
        if "kl" in methods:
            written += draw_perturbation(record, folder / "perturbation.png", svg)
        if record.get("faithfulness"):
            written += draw_faithfulness(record, folder / "faithfulness.png", svg)
        if len(record["targets"]) > 1:
            for name in ("integrated_gradients", "kl"):
                if name in methods:
                    written += draw_matrix(record, folder / f"{name}_matrix.png", name, svg)
        # Pictures of an earlier run that this one does not draw would be taken for its own.
        for old in folder.iterdir():
            if _PICTURE.fullmatch(old.name) and old not in written:
                old.unlink()
        for path, write in (
            (folder / "results.json", write_results),
            (folder / "report.html", write_page),
        ):
            write(record, path)
            written.append(path)
    return written


def _draw_attention(
    explanation: Explanation,
    folder: Path,
    settings: AnalysisSettings,
    progress: CountCallback | None,
) -> list[Path]:
    maps, subject = explanation.attention, explanation.subject
    if maps is None:
        return []
    from ..methods.attention import without_sink
    from ..plots.attention import draw_layers, draw_overview

    model = str(explanation.record["model"])
    written = draw_layers(
        maps, subject, folder, model=model, layers=settings.layers, heads=settings.heads,
        svg=settings.svg, progress=progress,
    )  # fmt: skip
    if settings.without_sink:
        written += draw_layers(
            without_sink(maps), subject, folder, model=model, layers=settings.layers,
            heads=settings.heads, svg=settings.svg, progress=progress,
        )  # fmt: skip
    return written + draw_overview(maps, subject, folder, model=model, svg=settings.svg)


def folder_name(number: int, text: str) -> str:
    """``01-the-enchanted-castle``: the place of one of several texts."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    slug = "-".join(re.findall(r"[a-z0-9]+", plain))[:_SLUG].strip("-")
    return f"{number:02d}-{slug}" if slug else f"{number:02d}"


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
