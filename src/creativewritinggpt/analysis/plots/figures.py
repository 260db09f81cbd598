"""What every picture here needs: a figure in inches, texts on it, files that appear whole.

Through matplotlib's objects only: no window system is asked for and no global state is touched, so
that pictures can be drawn in a thread, beside a program's own. The price is that places are counted
by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...files import atomic_file
from ...plotting import plot_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, MARGIN = 9.0, 0.35  # inches, as everything here
INK, QUIET = "#1d1f23", "#5c626b"


def save(figure: Figure, path: Path, svg: bool) -> list[Path]:
    """Write a figure as PNG, and as SVG beside it on demand; all of it or nothing."""
    import matplotlib

    paths = [path, path.with_suffix(".svg")] if svg else [path]
    for target in paths:
        kind = "svg" if target.suffix == ".svg" else "png"
        # Without a date and with fixed ids the same record makes the same file.
        with matplotlib.rc_context({"svg.hashsalt": "cwgpt"}), atomic_file(target) as temporary:
            metadata = {"Date": None} if kind == "svg" else {}
            figure.savefig(temporary, format=kind, dpi=150, metadata=metadata)
    return paths


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """A white figure of so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def new_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes by their place in inches from the left and from the top."""
    across, down = figure.get_size_inches()
    box = (left / across, 1 - (top + height) / down, width / across, height / down)
    axes: Axes = figure.add_axes(box)
    return axes


def write(figure: Figure, top: float, text: str, size: float = 9, tone: str = QUIET) -> None:
    """Put a text at the left margin, so many inches from the top."""
    across, down = figure.get_size_inches()
    figure.text(
        MARGIN / across, 1 - top / down, text, fontsize=size, color=tone, va="top",
        linespacing=1.35,
    )  # fmt: skip


def word_sums(record: dict[str, Any], scores: Any) -> np.ndarray:
    """``[words]``: sums of one row of token scores."""
    row = np.asarray(scores, dtype=np.float64)
    return np.array([row[word["tokens"]].sum() for word in record["words"]])


def word_errors(record: dict[str, Any], errors: Any) -> np.ndarray:
    """``[words]``: standard errors of those sums, as if the tokens' errors were independent."""
    result: np.ndarray = np.sqrt(word_sums(record, np.square(np.asarray(errors, dtype=np.float64))))
    return result


def score_name(record: dict[str, Any]) -> str:
    """What the scores are of: the log-probability of the target, or its lead over a foil."""
    foil = record["targets"][0].get("foil")
    return f"lead over “{plot_text(foil['text'].strip(), 20)}”" if foil else "log-probability"


def model_name(record: dict[str, Any]) -> str:
    """The model, its adapter and its base."""
    model = str(record.get("model") or "a model")
    adapter = record.get("adapter")
    if adapter and str(adapter) != model:
        model += f" + {adapter}"
    base = record.get("base")
    return model + (f", on {base}" if base and str(base) not in model else "")


def caption(record: dict[str, Any], *lines: str) -> str:
    """Lines that are not empty, then the model and the seed."""
    model = plot_text(f"{model_name(record)} · seed {record.get('seed')}", 110)
    return "\n".join([line for line in lines if line] + [model])
