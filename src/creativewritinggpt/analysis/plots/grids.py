"""Pictures of many numbers: what every written word came from, and curves of faithfulness."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...plotting import word_label
from .figures import (
    INK,
    MARGIN,
    QUIET,
    WIDTH,
    caption,
    new_axes,
    new_figure,
    save,
    score_name,
    write,
)
from .strip import OPPOSES, SIZE, SUPPORTS, label_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of more words only every second, third … has a label.
_MOST_LABELS = 70
_NEVER = "#e4e6ea"
# Inches above the matrix at least, for the labels of its columns, and above those, for the title.
_TOP, _TITLE = 1.75, 0.65


def _spaced(name: str) -> str:
    return {"kl": "perturbation (KL)", "gradient_x_input": "gradient × input"}.get(
        name, name.replace("_", " ")
    )


def _groups(record: dict[str, Any]) -> tuple[list[str], list[list[int]]]:
    """The words that are explained, and for each the targets that are its tokens."""
    found: dict[Any, list[int]] = {}
    for index, target in enumerate(record["targets"]):
        key = target.get("word")
        found.setdefault(("next", target["position"]) if key is None else key, []).append(index)
    labels = [
        word_label(record["words"][key]["text"], 18) if isinstance(key, int)
        else word_label(record["targets"][group[0]]["text"].strip() or "\n", 18)
        for key, group in found.items()
    ]  # fmt: skip
    return labels, list(found.values())


def _matrix(
    record: dict[str, Any], attribution: dict[str, Any], groups: list[list[int]]
) -> np.ndarray:
    """``[explained words, words]``: sums of scores (means of shares), NaN where nothing can be."""
    scores = np.asarray(attribution["scores"], dtype=np.float64)
    shares = attribution["unit"] == "share"
    starts = np.array([word["tokens"][0] for word in record["words"]])
    rows = []
    for group in groups:
        row = scores[group].mean(0) if shares else scores[group].sum(0)
        sums = np.array([row[word["tokens"]].sum() for word in record["words"]])
        position = record["targets"][group[0]]["position"]
        rows.append(np.where(starts < position, sums, np.nan))
    return np.stack(rows)


def draw_matrix(
    record: dict[str, Any], path: Path, method: str = "integrated_gradients", svg: bool = False
) -> list[Path]:
    """Rows are the explained words, columns the words they could owe something to.

    Args:
        record: The full record of an explanation.
        path: Where the picture goes.
        method: One of ``record["methods"]``.
        svg: Whether to write it as SVG too.

    Returns:
        The files written.
    """
    from matplotlib.colors import LinearSegmentedColormap

    attribution = record["methods"][method]["tuned"]
    labels, groups = _groups(record)
    values = _matrix(record, attribution, groups)
    kept = np.flatnonzero(~np.isnan(values).all(0))
    values = values[:, kept]
    columns = [word_label(record["words"][i]["text"], 18) for i in kept]
    cell = min(0.3, max(6.3 / len(columns), 0.02))
    wide, high = cell * len(columns), cell * len(labels)
    top = max(_TOP, _TITLE + max(label_width(name, _label_size(columns)) for name in columns))
    width = max(wide + 2.9, 6.5)
    tall = max(min(high, 2.5), 0.8)  # of the scale
    below = top + max(high, tall)
    figure = new_figure(below + 1.1, width)
    write(figure, 0.25, f"What each word came from: {_spaced(method)}", size=14, tone=INK)
    axes = new_axes(figure, 1.6, top, wide, high)
    signed = bool(attribution["signed"])
    # A few very large scores must not turn all others white.
    most = float(np.nanquantile(np.abs(values), 0.99)) or float(np.nanmax(np.abs(values))) or 1.0
    ramp = [OPPOSES, "white", SUPPORTS] if signed else ["white", SIZE]
    colours = LinearSegmentedColormap.from_list("scores", ramp).with_extremes(bad=_NEVER)
    image = axes.imshow(
        values, cmap=colours, vmin=-most if signed else 0, vmax=most, aspect="auto",
        interpolation="nearest",
    )  # fmt: skip
    _label(axes, columns, labels)
    bar = new_axes(figure, 1.6 + wide + 0.2, top, 0.14, tall)
    figure.colorbar(image, cax=bar, extend="both" if signed else "max")
    bar.tick_params(labelsize=8, colors=QUIET)
    unit = attribution["unit"]
    said = f"opposes ←  {unit}  → supports" if signed else str(unit)
    # Beside a short scale the words go on above it; below stands the caption.
    bar.set_ylabel(said, fontsize=8, color=QUIET, loc="center" if tall > 1.8 else "bottom")
    lines = [
        "rows: explained words · columns: what stands before them · grey: comes later",
        "a word's score is the sum over its tokens; the strongest 1 % share a colour",
    ]
    write(figure, below + 0.25, caption(record, *lines), size=8)
    return save(figure, path, svg)


def _label_size(names: list[str]) -> int:
    """Points."""
    return 8 if len(names) <= 40 else 6


def _label(axes: Axes, columns: list[str], rows: list[str]) -> None:
    for axis, names in ((axes.xaxis, columns), (axes.yaxis, rows)):
        every = math.ceil(len(names) / _MOST_LABELS)
        places = np.arange(0, len(names), every)
        axis.set_ticks(places, [names[i] for i in places], fontsize=_label_size(names))
    axes.xaxis.tick_top()
    axes.tick_params(axis="x", rotation=90)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def draw_faithfulness(record: dict[str, Any], path: Path, svg: bool = False) -> list[Path]:
    """Deletion and insertion curves of every judged method, with the band of random orders.

    Args:
        record: The full record of an explanation; ``faithfulness`` has the curves.
        path: Where the picture goes.
        svg: Whether to write it as SVG too.

    Returns:
        The files written.
    """
    judged = record["faithfulness"]
    high, gap = 1.75, 0.95
    wide = (WIDTH - 1.0 - 0.8 - MARGIN) / 2
    figure = new_figure(0.8 + len(judged) * (high + gap) + 0.6)
    write(figure, 0.25, "Is it true? Faithfulness", size=14, tone=INK)
    for number, (name, found) in enumerate(judged.items()):
        top = 1.05 + number * (high + gap)
        better = bool(found.get("better_than_random"))
        verdict = "better than random" if better else "NO better than random"
        write(figure, top - 0.42, f"{_spaced(name)}: {verdict}", size=10, tone=INK)
        for side, kind in enumerate(("deletion", "insertion")):
            axes = new_axes(figure, 1.0 + side * (wide + 0.8), top, wide, high)
            _curve(axes, kind, found[kind], score_name(record), legend=number == side == 0)
    about = "tokens taken away, or put back, in the order of their scores"
    law = next(iter(judged.values())).get("law")
    about += f" · replaced by {law.replace('_', ' ')}" if law else ""
    about += " · grey: the middle 90 % of random orders"
    write(figure, 0.8 + len(judged) * (high + gap), caption(record, about), size=8)
    return save(figure, path, svg)


def _curve(axes: Axes, kind: str, found: dict[str, Any], score: str, *, legend: bool) -> None:
    x = 100 * np.asarray(found["fractions"])
    if found.get("random_low") is not None:
        axes.fill_between(
            x, found["random_low"], found["random_high"], color=QUIET, alpha=0.25, linewidth=0
        )
    if found.get("random_mean") is not None:
        axes.plot(x, found["random_mean"], "--", color=QUIET, linewidth=1.2, label="random orders")
    axes.plot(x, found["values"], color=SUPPORTS, linewidth=2, label="by the scores")
    what = "taken away (lower is better)" if kind == "deletion" else "put back (higher is better)"
    axes.set_xlabel(f"% of the tokens {what}", fontsize=8, color=QUIET)
    axes.set_ylabel(score, fontsize=8, color=QUIET)
    axes.tick_params(labelsize=8, colors=QUIET)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.01)
    if legend:
        axes.legend(frameon=False, fontsize=8)
