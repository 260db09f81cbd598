"""``training_curves.png``: loss, validation perplexity and learning rate by step.

Each line carries its name where it ends; the base model is a dashed line, the best step a star, and
the steps after the model began to overfit are shaded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..plotting import INK, LIGHT, LINE, QUIET, new_figure, plot_text, save_figure

_TRAINING, _VALIDATION, _BEST, _BASE = LIGHT["s2"], LIGHT["s1"], LIGHT["s3"], QUIET
_OTHERS = ("#56b4e9", LIGHT["s4"], LIGHT["s5"], "#8a6d00", LIGHT["size"], "#444444")
_MOST_DOMAINS = len(_OTHERS)
_LONGEST_NAME, _LONGEST_MODEL = 24, 40
"""Characters of a source's and of a model's name: longer ones leave no room for the curves."""


def _smoothed(values: list[float]) -> list[float]:
    """Means over neighbouring steps on both sides, so that the curve does not lag behind."""
    count = len(values)
    width = max(1.5, count / 40)  # of the bell, in steps
    reach = math.ceil(3 * width)
    offsets = np.arange(-reach, reach + 1)
    bell = np.exp(-0.5 * (offsets / width) ** 2)
    sums = np.convolve(np.asarray(values), bell)[reach : reach + count]
    weights = np.convolve(np.ones(count), bell)[reach : reach + count]
    return [float(value) for value in sums / weights]


def spread_apart(heights: list[float], least: float) -> list[float]:
    """Heights of labels: as near to the given ones as the least distance allows."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    placed = list(heights)
    for _ in range(50):
        moved = False
        for low, high in zip(order, order[1:], strict=False):
            lack = least - (placed[high] - placed[low])
            if lack > 1e-9:
                placed[low] -= lack / 2
                placed[high] += lack / 2
                moved = True
        if not moved:
            break
    return placed


def _label_ends(axes: Any, lines: list[tuple[str, float, str, bool]]) -> None:
    """Write each line's name beside its end, right of the picture.

    Args:
        axes: The axes, their limits set.
        lines: Name, last value, colour, and whether it is the main line.
    """
    low, high = axes.get_ylim()
    inside = [min(max(value, low), high) for _, value, _, _ in lines]
    heights = spread_apart(inside, 0.075 * (high - low))
    for (name, _, colour, main), height in zip(lines, heights, strict=True):
        axes.annotate(
            name, (1.01, height), xycoords=("axes fraction", "data"), color=colour, va="center",
            fontsize=9, fontweight="bold" if main else "normal", annotation_clip=False,
        )  # fmt: skip


def draw_curves(metrics: dict[str, Any], path: Path) -> None:
    """Draw the curves of a run.

    Args:
        metrics: The content of ``metrics.json``.
        path: Where the picture goes.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(8.6, 9.5, layout="constrained")
    loss, perplexity, rate = figure.subplots(3, 1, sharex=True, height_ratios=[3.2, 3, 1])
    steps = len(metrics["batch_losses"])
    _draw_loss(loss, metrics)
    _draw_perplexity(perplexity, metrics)
    rates = metrics["learning_rate"]
    rate.plot(range(1, steps + 1), rates, color=INK, linewidth=1.5, marker=_lone(range(steps)))
    rate.fill_between(range(1, steps + 1), rates, color=INK, alpha=0.08)
    rate.set_ylabel("learning rate")
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    rate.yaxis.set_major_locator(MaxNLocator(3))
    rate.set_ylim(bottom=0)
    rate.set_xlabel("optimizer step")
    rate.xaxis.set_major_locator(MaxNLocator(integer=True))
    rate.set_xlim(-0.015 * steps, 1.015 * max(steps, 1))
    if metrics.get("overfits_after"):
        rate.annotate(
            "overfitting", (0.985, 0.92), xycoords="axes fraction", color=_VALIDATION,
            ha="right", va="top", fontsize=9, fontstyle="italic",
        )  # fmt: skip
    for axes in (loss, perplexity, rate):
        _mark_steps(axes, metrics, steps)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", color=LINE, linewidth=0.7)
        axes.set_axisbelow(True)
    figure.suptitle(_title(metrics), fontsize=12.5, x=0.012, ha="left")
    save_figure(figure, path, dpi=120)


def _title(metrics: dict[str, Any]) -> str:
    """Validation perplexity before and after training, in one line."""
    name = str(metrics["config"]["model_name"]).rstrip("/").rpartition("/")[2]
    title = plot_text(name, _LONGEST_MODEL)
    losses, at = metrics["val_loss"], metrics["evaluation_steps"]
    before = metrics["base_val_perplexity"]
    if metrics["best_step"] in at:  # not the lowest of all: what came before may be of other data
        after = math.exp(losses[at.index(metrics["best_step"])])
        title += f": validation perplexity {before:.1f} before, {after:.1f} after training"
    return title


def _mark_steps(axes: Any, metrics: dict[str, Any], steps: int) -> None:
    """Marks of the best step, of resumed steps, and of overfitting."""
    if metrics["best_step"]:
        axes.axvline(metrics["best_step"], color=_BEST, linewidth=1, linestyle=":", zorder=1)
    for step in metrics["resumed_from"]:
        axes.axvline(step, color=_BASE, linewidth=0.8, linestyle=(0, (1, 4)), zorder=1)
    if metrics.get("overfits_after"):
        axes.axvspan(metrics["overfits_after"], steps, color=_VALIDATION, alpha=0.06, linewidth=0)


def _draw_loss(axes: Any, metrics: dict[str, Any]) -> None:
    """Training and validation loss, with the base model as the line to beat."""
    batch, base = metrics["batch_losses"], metrics["base_val_loss"]
    steps = range(1, len(batch) + 1)
    smooth = _smoothed(batch) if batch else []
    axes.plot(steps, batch, color=_TRAINING, alpha=0.22, linewidth=0.9)
    axes.plot(steps, smooth, color=_TRAINING, linewidth=2, marker=_lone(batch))
    # At step 0 the model is the base model.
    at, validation = [0, *metrics["evaluation_steps"]], [base, *metrics["val_loss"]]
    axes.axhline(base, color=_BASE, linestyle="--", linewidth=1.2)
    axes.plot(at, validation, color=_VALIDATION, marker="o", markersize=_dots(at), linewidth=2)
    axes.set_ylabel("loss (nats per token)")
    # The first, still noisy steps must not squeeze the rest of the curve.
    shown = sorted([*batch, *validation])
    low, high = shown[0], shown[min(len(shown) - 1, math.ceil(0.99 * len(shown)))]
    margin = 0.08 * max(high - low, 0.05)
    axes.set_ylim(low - margin, high + margin)
    for step in metrics["resumed_from"][-3:]:
        axes.annotate(
            "resumed", (step, 0.03), xycoords=("data", "axes fraction"), color=_BASE,
            xytext=(4, 0), textcoords="offset points", fontsize=8,
        )  # fmt: skip
    lines = [("base model", base, _BASE, False), ("validation", validation[-1], _VALIDATION, True)]
    if smooth:
        lines.append(("training", smooth[-1], _TRAINING, True))
    _label_ends(axes, lines)


def _draw_perplexity(axes: Any, metrics: dict[str, Any]) -> None:
    """Validation perplexity of all held-out text, and of each domain where there are several."""
    at = [0, *metrics["evaluation_steps"]]
    values = [metrics["base_val_perplexity"], *metrics["val_perplexity"]]
    lines = [("base model", values[0], _BASE, False)]
    domains = metrics["domains"]
    if 1 < len(domains) <= _MOST_DOMAINS:
        for colour, (name, losses) in zip(_OTHERS, domains.items(), strict=False):
            # A domain may have come with new data in the middle of a run.
            points = [
                (step, math.exp(min(value, 30.0)))
                for step, value in zip(
                    at, [losses["base_val_loss"], *losses["val_loss"]], strict=True
                )
                if value is not None
            ]
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.2)
            lines.append((plot_text(name, _LONGEST_NAME), points[-1][1], colour, False))
    axes.axhline(values[0], color=_BASE, linestyle="--", linewidth=1.2)
    axes.plot(at, values, color=_VALIDATION, marker="o", markersize=_dots(at), linewidth=2)
    lines.append(
        ("all held-out text" if len(domains) > 1 else "validation", values[-1], _VALIDATION, True)
    )
    axes.set_ylabel("validation perplexity")
    axes.margins(y=0.16)
    best = metrics["best_step"]
    if best in at:
        value = values[at.index(best)]
        axes.plot([best], [value], marker="*", markersize=15, color=_BEST, zorder=5)
        right = best > 0.6 * at[-1]
        axes.annotate(
            f"best: {value:.2f} at step {best}", (best, value), color=_BEST,
            xytext=(-10 if right else 10, -9), textcoords="offset points",
            ha="right" if right else "left", va="top", fontweight="bold", zorder=6,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1},
        )  # fmt: skip
    axes.set_ylim(*axes.get_ylim())
    _label_ends(axes, lines)


def _dots(at: list[int]) -> float:
    """The size of a validation's mark: many of them must not hide the line."""
    return 5.0 if len(at) <= 25 else 0.0


def _lone(steps: Sequence[Any]) -> str:
    """The mark of a line's points: a single one would be no line, and not be seen."""
    return "o" if len(steps) == 1 else ""
