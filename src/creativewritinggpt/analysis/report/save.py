"""An explanation as files: pictures, ``results.json`` and ``report.html``."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from ...console import CountCallback
from ...files import disk_errors, write_text
from .. import registry
from ..run import Explanation
from ..settings import AnalysisSettings
from .page import page
from .record import write_results

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
    from ..plots import grids, strip

    record, path = explanation.record, folder / f"{figure.file}.png"
    if figure.kind == "attention":
        return _draw_attention(explanation, folder, settings, progress)
    if figure.kind == "curves":
        judged = record.get("faithfulness")
        return grids.draw_curves(record, path, settings.svg) if judged else []
    if figure.scores[0] not in record["methods"]:
        return []
    if figure.kind == "bars":
        return strip.draw_bars(record, path, figure.scores, settings.svg)
    several = len(record["targets"]) > 1
    return grids.draw_matrix(record, path, figure.scores[0], settings.svg) if several else []


def _draw_attention(
    explanation: Explanation, folder: Path, settings: AnalysisSettings,
    progress: CountCallback | None,
) -> list[Path]:  # fmt: skip
    from ..methods.attention import without_sink
    from ..plots.grids import draw_layers, draw_overview

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
