"""Metrics of a run: validation, ``metrics.json``, training curves and the progress display.

In ``training_curves.png`` each line carries its name where it ends; the base model is a dashed
line, the best step a star, and the steps after the model began to overfit are shaded.

Progress is a live panel on a terminal and a line now and then elsewhere:

training ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━ 24/60  1 min 20 s left
loss 3.412   validation 3.501   best 3.498 at step 20   1,240 tokens/s   2.1 GB
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import console, devices
from ..config.run import Config
from ..data.rows.packing import IGNORE, PackedRows
from ..distributed import SINGLE_PROCESS, ProcessGroup
from ..files import to_home, write_json
from ..models.loaded_model import LoadedModel
from ..models.scoring import token_nll
from ..plotting import INK, LIGHT, LINE, QUIET, new_figure, plot_text, save_figure
from .checkpoint import TrainState
from .run_files import CURVES, METRICS

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

_RISE = 0.005
"""Nats by which a loss must differ to count as risen or fallen."""


@dataclasses.dataclass(frozen=True)
class Validation:
    """Losses of the held-out rows, in nats per token; end-of-text tokens apart."""

    loss: float
    eos_loss: float | None
    domains: dict[str, float]

    @property
    def perplexity(self) -> float:
        """Exp of the loss, kept finite for a diverged model."""
        return math.exp(min(self.loss, 700.0))

    @property
    def criterion(self) -> float:
        """What the best model has least of."""
        return self.loss

    @property
    def stops(self) -> bool:
        """Whether the run ends here, whatever patience says."""
        return False

    def figures(self) -> dict[str, Any]:
        """Further figures, for the log of metrics."""
        return {}

    def line(self, state: TrainState) -> str:
        """A line with the losses of the validation and of the base model."""
        base = state.metrics["base_val_loss"]
        mark = " (best so far)" if state.best_step == state.step else ""
        return (
            f"step {state.step}: validation loss {self.loss:.4f}, perplexity "
            f"{self.perplexity:.2f}{mark}; base model {base:.4f}, {math.exp(base):.2f}"
        )

    def warning(self, metrics: dict[str, Any]) -> str | None:
        """What the user should know now: that overfitting begins."""
        return overfitting(metrics)


def validate(
    model: LoadedModel,
    rows: PackedRows,
    domains: np.ndarray,
    names: list[str],
    batch_size: int,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Validation:
    """Score held-out rows, deterministic and without dropout.

    Args:
        model: The model.
        rows: Packed validation documents.
        domains: Index into ``names`` for each document, [documents].
        names: Names of the domains.
        batch_size: Rows per forward pass; it does not change the result.
        group: Processes that share the rows.

    Returns:
        Losses over text tokens, over end-of-text tokens, and over text tokens by domain.
    """
    model.model.eval()
    mine = slice(group.rank, None, group.size)
    part, nll = rows.take(mine), np.zeros(rows.targets.shape, dtype=np.float64)
    if len(part):
        nll[mine] = token_nll(model, part, batch_size)
    nll = group.all_reduce(nll)
    scored = rows.targets != IGNORE
    text = scored & ~rows.is_eos
    ends = scored & rows.is_eos
    if not text.any():
        text = scored
    by_domain: dict[str, float] = {}
    domain_of = np.where(rows.document_ids >= 0, domains[rows.document_ids], -1)
    for index, name in enumerate(names):
        chosen = text & (domain_of == index)
        if chosen.any():
            by_domain[name] = float(nll[chosen].sum() / chosen.sum())
    return Validation(
        loss=float(nll[text].sum() / text.sum()),
        eos_loss=float(nll[ends].sum() / ends.sum()) if ends.any() else None,
        domains=by_domain,
    )


def new_metrics(config: Config, base: Validation, sizes: tuple[int, int]) -> dict[str, Any]:
    """The content of ``metrics.json`` before the first step.

    Args:
        config: The settings.
        base: Losses of the base model.
        sizes: Trained and total parameters.
    """
    trainable, total = sizes
    metrics: dict[str, Any] = {
        "train_loss": [],
        "val_loss": [],
        "val_perplexity": [],
        "val_eos_loss": [],
        "evaluation_steps": [],
        "learning_rate": [],
        "batch_losses": [],
        "best_step": None,
        "overfits_after": None,
        "trainable_parameters": trainable,
        "total_parameters": total,
        "trainable_percent": 100 * trainable / total,
        "useful_tokens_per_second": None,
        "peak_memory_bytes": None,
        "seconds": None,
        "samples": [],
        "resumed_from": [],
        "forced": [],
        "config": to_home(config.to_dict()),
    }
    note_base(metrics, base)
    return metrics


def note_base(metrics: dict[str, Any], base: Validation) -> None:
    """Record the base model's losses; earlier validations of a domain stay."""
    known = metrics.get("domains", {})
    unknown = [None] * len(metrics["evaluation_steps"])
    metrics["base_val_loss"] = base.loss
    metrics["base_val_perplexity"] = base.perplexity
    metrics["base_val_eos_loss"] = base.eos_loss
    metrics["domains"] = {
        name: {
            "base_val_loss": loss,
            "val_loss": known[name]["val_loss"] if name in known else list(unknown),
        }
        for name, loss in base.domains.items()
    }


def note_evaluation(state: TrainState, result: Validation) -> None:
    """Record a validation, with the mean training loss since the previous one."""
    metrics, since = state.metrics, state.since_evaluation
    tokens = sum(count for _, count in since)
    metrics["evaluation_steps"].append(state.step)
    metrics["train_loss"].append(sum(loss * count for loss, count in since) / max(tokens, 1))
    metrics["val_loss"].append(result.loss)
    metrics["val_perplexity"].append(result.perplexity)
    metrics["val_eos_loss"].append(result.eos_loss)
    for name, loss in result.domains.items():
        metrics["domains"][name]["val_loss"].append(loss)
    state.since_evaluation = []


def note_samples(state: TrainState, sample: Callable[[], list[dict[str, str]]] | None) -> None:
    """Record samples of the model; the random state is restored afterwards."""
    if sample is None:
        return
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices):
        state.metrics["samples"] += [{"step": state.step, **entry} for entry in sample()]


def patience_ends(state: TrainState, loss: float, warmup_steps: int, config: Config) -> bool:
    """Count validations without improvement after the warm-up; whether patience has run out."""
    if state.reference_loss is None or loss < state.reference_loss - config.min_delta:
        state.reference_loss = loss
        state.evaluations_without_improvement = 0
    elif state.step > warmup_steps:
        state.evaluations_without_improvement += 1
    return 0 < config.patience <= state.evaluations_without_improvement


def overfitting(metrics: dict[str, Any]) -> str | None:
    """A warning when overfitting begins, else None; given once for each best validation.

    Overfitting: the last two validations are above the best one while the training loss fell.

    Args:
        metrics: The content of ``metrics.json``; ``overfits_after`` is set with the warning, and
            taken back when a later validation is the best after all.
    """
    losses, training = metrics["val_loss"], metrics["train_loss"]
    if len(losses) < 3:
        return None
    best = min(range(len(losses)), key=losses.__getitem__)
    if metrics["overfits_after"] == metrics["evaluation_steps"][best]:
        return None
    metrics["overfits_after"] = None
    rose = len(losses) - best > 2 and min(losses[-2:]) > losses[best] + _RISE
    if not rose or training[-1] > training[best] - _RISE:
        return None
    step = metrics["overfits_after"] = metrics["evaluation_steps"][best]
    return (
        f"The model begins to overfit: since step {step} the validation loss rose from "
        f"{losses[best]:.3f} to {losses[-1]:.3f} while the training loss fell from "
        f"{training[best]:.3f} to {training[-1]:.3f}. It now learns these texts by heart; "
        f"best_model stays that of step {step}. More text or fewer epochs would help."
    )


def write_metrics(output: Path, state: TrainState, draw: bool = True) -> None:
    """Write ``metrics.json`` and, if ``draw``, the training curves."""
    write_json(output / METRICS, state.metrics)
    if draw:
        draw_curves(state.metrics, output / CURVES)


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


_SMOOTH = 0.9
"""Decay of the running means of loss and speed per step."""


class Display:
    """Progress of a run: losses, speed, memory and time left.

    Args:
        total: Optimizer steps of the run.
        start: Steps taken before a resumption.
        device: Device whose memory is shown.
        every: Seconds between two lines without a terminal.
        quiet: Show nothing.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        device: str = "cpu",
        every: float = 20.0,
        quiet: bool = False,
    ) -> None:
        self.quiet = quiet
        self.total, self.start, self.every, self.device = total, start, every, device
        self.done = start
        self.loss: float | None = None
        self.validation: float | None = None
        self.best: tuple[float, int] | None = None
        self._rate: float | None = None
        self._began = self._said = time.monotonic()
        self._live = sys.stderr.isatty() and not quiet

    def __enter__(self) -> Display:
        if self._live:
            from rich.live import Live

            self._panel = Live(self, console=console.stderr(), transient=True, refresh_per_second=4)
            self._panel.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._panel.stop()

    def step(self, step: int, loss: float, tokens: int, seconds: float) -> None:
        """Show an optimizer step.

        Args:
            step: Steps taken so far.
            loss: Loss of the step in nats per token.
            tokens: Target tokens of the step.
            seconds: Duration of the step.
        """
        self.done = step
        self.loss = _running(self.loss, loss)
        self._rate = _running(self._rate, tokens / max(seconds, 1e-9))
        now = time.monotonic()
        due = now - self._said >= self.every or step == self.total
        if due and not self._live and not self.quiet:
            self._said = now
            parts = ", ".join([*self._figures(), self._left()])
            console.note(f"step {step}/{self.total}: {parts}")

    def say(self, text: str) -> None:
        """Show a line that stays."""
        if self._live:
            self._panel.console.print(console.printable(text), markup=False)
        elif not self.quiet:
            console.note(text)

    def _figures(self) -> list[str]:
        """What is known, each with its name."""
        figures = []
        if self.loss is not None:
            figures.append(f"loss {self.loss:.3f}")
        if self.validation is not None:
            figures.append(f"validation {self.validation:.3f}")
        if self.best is not None:
            figures.append(f"best {self.best[0]:.3f} at step {self.best[1]}")
        if self._rate is not None:
            figures.append(f"{self._rate:,.0f} tokens/s")
        return [*figures, console.size(devices.peak_memory_bytes(self.device))]

    def _left(self) -> str:
        """The time left, validations included, as far as steps taken tell."""
        if self.done == self.start:
            return "the first step takes longest"
        elapsed = time.monotonic() - self._began
        left = elapsed / (self.done - self.start) * (self.total - self.done)
        return f"{console.duration(left)} left"

    def __rich_console__(self, terminal: Console, options: ConsoleOptions) -> RenderResult:
        """The live panel."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        first = Table.grid(padding=(0, 1))
        first.add_row(
            Text("training"),
            ProgressBar(total=self.total, completed=self.done, width=min(30, options.max_width)),
            Text(f"{self.done}/{self.total}", style="bold"),
            Text(self._left(), style="dim"),
        )
        yield first
        line = Text()
        for number, figure in enumerate(self._figures()):
            line.append("  " if number else "")
            # The numbers stand out, their names do not.
            for place, word in enumerate(figure.split(" ")):
                digits = word.replace(",", "").replace(".", "").isdigit()
                line.append(" " if place else "")
                line.append(word, style="bold" if digits else "dim")
        yield line


def _running(mean: float | None, value: float) -> float:
    """A running mean with one more value in it."""
    return value if mean is None else _SMOOTH * mean + (1 - _SMOOTH) * value
