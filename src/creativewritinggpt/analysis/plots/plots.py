"""Pictures of attributions: ``gradients.png``, ``perturbation.png``, matrices and faithfulness.

A picture has to stand alone: the text as a strip of coloured words, the same numbers as bars with
figures, and a caption with all that produced them. Colours are orange for what supports and blue
for what opposes, which colour-blind readers can tell apart; white is zero. Of several targets the
bars are of the first; the matrix, and the page, have them all.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...plotting import plot_text, word_label
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
    word_errors,
    word_sums,
    write,
)
from .grids import draw_faithfulness, draw_matrix
from .strip import SIZE, SUPPORTS, Strip, colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_faithfulness", "draw_gradients", "draw_matrix", "draw_perturbation"]

# Up to so many words every one has a bar; of more, those that count most.
MOST_BARS, KEPT_BARS = 60, 40
# Inches of a bar, few and many of them.
_BAR, _THIN_BAR, _MANY = 0.235, 0.185, 30


def _chosen(record: dict[str, Any], values: np.ndarray, position: int) -> tuple[list[int], str]:
    """Indices of the words that get a bar, in the order of the text, and what to say of them."""
    seen = [i for i, word in enumerate(record["words"]) if word["tokens"][0] < position]
    if not values[0]:  # the start token is worth a line only where it counts
        seen = seen[1:] or seen
    if len(seen) <= MOST_BARS:
        return seen, ""
    kept = sorted(sorted(seen, key=lambda i: -abs(values[i]))[:KEPT_BARS])
    return kept, f"the {KEPT_BARS} of {len(seen)} words that count most, in the order of the text"


def _height(kept: list[int]) -> float:
    return (_BAR if len(kept) <= _MANY else _THIN_BAR) * len(kept) + 0.3


def _number(value: float, form: str) -> str:
    return format(value, form).replace("-", "−")


def _about_target(target: dict[str, Any]) -> str:
    parts = [f"p = {100 * target['probability']:.2f} %", f"rank {target['rank']}"]
    parts.append(f"log-probability {_number(target['log_probability'], '.2f')} nats")
    if target.get("base"):
        parts.append(f"base model: {100 * target['base']['probability']:.2f} %")
    if target.get("foil"):
        parts.append(f"against “{plot_text(target['foil']['text'].strip(), 20)}”")
    return " · ".join(parts)


def _head(figure: Figure, record: dict[str, Any], target: dict[str, Any], strip: Strip) -> float:
    """Title, what is known of the target, and the coloured text; returns where it ends."""
    name = plot_text(target["text"].strip() or "\n", 40)
    word = None if target.get("word") is None else record["words"][target["word"]]["text"]
    whole = word is None or word.strip() == target["text"].strip()
    title = f"Why “{name}”?" if whole else f"Why “{name}”, a part of “{plot_text(str(word), 30)}”?"
    write(figure, 0.25, title, size=16, tone=INK)
    write(figure, 0.62, _about_target(target), size=10)
    strip.draw(figure, MARGIN, 0.98)
    return 0.98 + strip.height + 0.15


def _bars(
    axes: Axes, labels: list[str], values: np.ndarray, *, signed: bool,
    errors: np.ndarray | None = None,
) -> None:  # fmt: skip
    """Horizontal bars from top to bottom with their numbers; words that repeat stay apart."""
    places = np.arange(len(values))
    tones = [SUPPORTS if v > 0 else colour(-1) for v in values] if signed else SIZE
    whiskers = {"ecolor": INK, "elinewidth": 1, "capsize": 2}
    axes.barh(places, values, color=tones, height=0.72, xerr=errors, error_kw=whiskers)
    axes.set_yticks(places, labels, fontsize=9 if len(values) <= _MANY else 8)
    axes.set_ylim(len(values) - 0.4, -0.6)
    reach = np.abs(values) + (0 if errors is None else errors)
    largest = float(reach.max(initial=0.0))
    most = largest if largest > 1e-9 else 1.0
    room = (1.28 if errors is None else 1.45) * most  # for the numbers beside the bars
    axes.set_xlim(-room if signed else 0, room)
    for place, value, end in zip(places, values, reach, strict=True):
        left = signed and value < 0
        axes.annotate(
            _number(value, "+.3f" if signed else ".3f"), (-end if left else end, place),
            xytext=(-4 if left else 4, 0), textcoords="offset points", fontsize=7.5,
            color=QUIET, va="center", ha="right" if left else "left",
        )  # fmt: skip
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8, colors=QUIET)
    axes.axvline(0, color=QUIET, linewidth=0.8)


def _strip_of(record: dict[str, Any], values: np.ndarray, position: int, signed: bool) -> Strip:
    target = next((t for t in record["targets"] if t["position"] == position), record["target"])
    ended = position >= len(record["input"])
    return Strip(
        [(word["text"], float(value), word["tokens"][0] >= position)
         for word, value in zip(record["words"], values, strict=True)],
        chosen=None if ended else target.get("word"),
        following=target["text"].strip() or "\n" if ended else None,
        signed=signed, width=WIDTH - 2 * MARGIN,
    )  # fmt: skip


def _which(record: dict[str, Any]) -> str:
    count = len(record["targets"])
    return f"the first of {count} explained tokens; report.html shows them all" if count > 1 else ""


def draw_gradients(record: dict[str, Any], path: Path, svg: bool = False) -> list[Path]:
    """Integrated gradients for the first target: the text, a bar a word, how it was found.

    Args:
        record: The full record of an explanation, as in ``results.json``.
        path: Where the picture goes, as ``results/gradients.png``.
        svg: Whether to write it as SVG too.

    Returns:
        The files written.
    """
    target, found = record["targets"][0], record["gradients"]
    values = word_sums(record, found["signed"])
    kept, said = _chosen(record, values, target["position"])
    strip = _strip_of(record, values, target["position"], signed=True)
    bars = _height(kept)
    figure = new_figure(1.13 + strip.height + bars + 1.75)
    top = _head(figure, record, target, strip) + 0.3
    axes = new_axes(figure, 2.1, top, WIDTH - 2.1 - MARGIN, bars)
    labels = [word_label(record["words"][i]["text"], 22) for i in kept]
    _bars(axes, labels, values[kept], signed=True)
    axes.set_title("← opposes", loc="left", fontsize=9, color=colour(-1))
    axes.set_title("supports →", loc="right", fontsize=9, color=SUPPORTS)
    axes.set_xlabel(f"part of the {score_name(record)}, nats", fontsize=9, color=QUIET)
    write(figure, top + bars + 0.55, caption(record, _which(record), said, _gradient_facts(record)))
    return save(figure, path, svg)


def _gradient_facts(record: dict[str, Any]) -> str:
    found = record["gradients"]
    parts = ["integrated gradients"]
    if found.get("baseline"):
        parts.append(f"baseline {str(found['baseline']).replace('_', ' ')}")
    if found.get("steps"):
        parts.append(f"{found['steps']} steps")
    if found.get("convergence_delta") is not None:
        delta = found["convergence_delta"]
        verdict = "converged" if found.get("converged") else "NOT CONVERGED"
        parts.append(f"{verdict}: parts and whole differ by {_number(delta, '.2g')} nats")
    return " · ".join(parts)


def draw_perturbation(record: dict[str, Any], path: Path, svg: bool = False) -> list[Path]:
    """Perturbation for the first target: KL by word with two standard errors, signed change beside.

    Args:
        record: The full record of an explanation.
        path: Where the picture goes, as ``results/perturbation.png``.
        svg: Whether to write it as SVG too.

    Returns:
        The files written.
    """
    target, found = record["targets"][0], record["perturbation"]
    values = word_sums(record, found["kl_nats"])
    errors = None
    if found.get("standard_error") is not None:
        errors = 2 * word_errors(record, found["standard_error"])
    kept, said = _chosen(record, values, target["position"])
    strip = _strip_of(record, values, target["position"], signed=False)
    bars = _height(kept)
    change = (record["methods"].get("probability_change") or {}).get("tuned")
    figure = new_figure(1.13 + strip.height + bars + 1.75)
    top = _head(figure, record, target, strip) + 0.3
    width = (WIDTH - 2.1 - MARGIN - 0.3) / 2 if change else WIDTH - 2.1 - MARGIN
    axes = new_axes(figure, 2.1, top, width, bars)
    labels = [word_label(record["words"][i]["text"], 22) for i in kept]
    _bars(axes, labels, values[kept], signed=False, errors=None if errors is None else errors[kept])
    floor = found.get("noise_floor")
    if floor:
        axes.axvline(floor, color=INK, linewidth=1, linestyle=":")
    axes.set_xlabel("KL(original ‖ perturbed), nats", fontsize=9, color=QUIET)
    if change:
        beside = new_axes(figure, 2.4 + width, top, width, bars)
        row = word_sums(record, change["scores"][0])[kept]
        spread = change.get("standard_error")
        spread = None if spread is None else 2 * word_errors(record, spread[0])[kept]
        _bars(beside, [""] * len(kept), row, signed=True, errors=spread)
        beside.set_xlabel(f"{score_name(record)} lost, nats", fontsize=9, color=QUIET)
        beside.set_title("← opposes", loc="left", fontsize=9, color=colour(-1))
        beside.set_title("supports →", loc="right", fontsize=9, color=SUPPORTS)
    facts = ["words replaced at random"]
    if found.get("law"):
        facts.append(f"law {found['law']}")
    if found.get("samples"):
        facts.append(f"{found['samples']} samples, bars ± 2 standard errors")
    if floor is not None:
        facts.append(f"noise floor {floor:.1e} nats")
    write(figure, top + bars + 0.55, caption(record, _which(record), said, " · ".join(facts)))
    return save(figure, path, svg)
