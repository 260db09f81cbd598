"""``training_curves.png``: loss, validation perplexity and learning rate by step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ..files import atomic_file

# Okabe and Ito's colours, told apart by colour-blind readers too.
_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#777777"


def _smoothed(values: list[float], weight: float) -> list[float]:
    """An exponential running mean, without the bias towards the first value."""
    mean, norm, result = 0.0, 0.0, []
    for value in values:
        mean = weight * mean + (1 - weight) * value
        norm = weight * norm + (1 - weight)
        result.append(mean / norm)
    return result


def draw_curves(metrics: dict[str, Any], path: Path) -> None:
    """Draw the curves of a run.

    Args:
        metrics: The content of ``metrics.json``.
        path: Where the picture goes.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    batch = metrics["batch_losses"]
    steps = list(range(1, len(batch) + 1))
    base = metrics["base_val_loss"]
    # At step 0 the model is the base model.
    at = [0, *metrics["evaluation_steps"]]
    validation = [base, *metrics["val_loss"]]
    perplexities = [metrics["base_val_perplexity"], *metrics["val_perplexity"]]
    figure, (loss, perplexity, rate) = plt.subplots(
        3, 1, figsize=(8.5, 8.5), sharex=True, height_ratios=[3, 3, 1.2], layout="constrained"
    )
    try:
        loss.plot(steps, batch, color=_BLUE, alpha=0.25, linewidth=1)
        window = 0.85 if len(batch) >= 20 else 0.5
        loss.plot(steps, _smoothed(batch, window), color=_BLUE, linewidth=2, label="training")
        loss.plot(at, validation, color=_ORANGE, marker="o", linewidth=2, label="validation")
        loss.axhline(
            base, color=_GREY, linestyle="--", linewidth=1.5, label="base model, validation"
        )
        loss.set_ylabel("loss (nats a token)")
        # The first, still noisy steps must not squeeze the rest of the curve.
        shown = sorted([*batch, *metrics["val_loss"], base])
        low, high = shown[0], shown[min(len(shown) - 1, math.ceil(0.99 * len(shown)))]
        margin = 0.08 * max(high - low, 0.05)
        loss.set_ylim(low - margin, high + margin)
        loss.legend(frameon=False, loc="upper right")

        perplexity.plot(at, perplexities, color=_ORANGE, marker="o", linewidth=2)
        perplexity.axhline(perplexities[0], color=_GREY, linestyle="--", linewidth=1.5)
        perplexity.annotate(
            f"base model {perplexities[0]:.2f}", (0.995, perplexities[0]), color=_GREY,
            xycoords=("axes fraction", "data"), ha="right", va="bottom",
        )  # fmt: skip
        best = metrics["best_step"]
        if best in at:
            value = perplexities[at.index(best)]
            for axes in (loss, perplexity):
                axes.axvline(best, color=_GREEN, linewidth=1, linestyle=":")
            perplexity.plot([best], [value], marker="*", markersize=15, color=_GREEN, zorder=5)
            right = best > 0.7 * len(batch)
            perplexity.annotate(
                f"best: {value:.2f} at step {best}", (best, value), color=_GREEN,
                xytext=(-12 if right else 12, -8), textcoords="offset points",
                ha="right" if right else "left", va="top", fontweight="bold",
            )  # fmt: skip
        perplexity.set_ylabel("validation perplexity")
        perplexity.margins(y=0.18)

        rate.plot(steps, metrics["learning_rate"], color="black", linewidth=1.5)
        rate.set_ylabel("learning rate")
        rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        rate.set_ylim(bottom=0)
        rate.set_xlabel("optimizer step")
        rate.xaxis.set_major_locator(MaxNLocator(integer=True))
        rate.set_xlim(-0.015 * len(batch), 1.025 * max(len(batch), 1))
        for axes in (loss, perplexity, rate):
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        title = f"{metrics['config']['model_name']}: validation loss {base:.3f} before"
        if metrics["val_loss"]:
            title += f", {min(metrics['val_loss']):.3f} at best"
        figure.suptitle(title.replace("$", r"\$"), fontsize=12)
        with atomic_file(path) as temporary:
            figure.savefig(temporary, dpi=120, format="png")
    finally:
        plt.close(figure)
