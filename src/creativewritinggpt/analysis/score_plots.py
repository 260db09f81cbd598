"""Pictures of scores: words with a bar each, words by the words they came from, curves.

A picture has to stand alone: the coloured text as a strip, the same numbers as bars with figures,
and a caption with all that produced them. Bars are of the first target; matrices and the page have
them all.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plotting import (
    ACCENT,
    INK,
    MARGIN,
    OPPOSES,
    QUIET,
    SUPPORTS,
    WIDTH,
    label_width,
    new_axes,
    new_figure,
    plot_text,
    save_figure,
    score_colormap,
    score_colour,
    word_label,
    write,
)
from . import registry
from .record import model_name
from .subject import word_sums

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Up to so many words every one has a bar; of more, those that count most.
MOST_BARS, KEPT_BARS = 60, 40
# Of a longer text the strip would be a wall; the bars say what counts.
MOST_WORDS = 150
# Inches: of a line of the strip and of the space around a word, of a bar where there are few and
# where there are many, of the labels beside the bars.
_LINE, _SPACE = 0.33, 0.07
_BAR, _THIN_BAR, _MANY = 0.235, 0.185, 30
_LABELS = 1.75
_HALF_CAPITAL = 0.06
_POINTS = 12.0
_STRONGEST = 0.75
_LATER = "#9aa1ab"


@dataclasses.dataclass
class Strip:
    """Words in lines, coloured by their scores.

    Attributes:
        words: Text, score, and whether it stands after the target and so can't count.
        chosen: Index of the word that is explained, where it is one of them.
        following: The word that is explained, where it would come next.
        signed: Whether scores have a direction.
        width: Inches.
    """

    words: Sequence[tuple[str, float, bool]]
    chosen: int | None
    following: str | None
    signed: bool
    width: float

    @functools.cached_property
    def lines(self) -> list[list[tuple[int, str, float]]]:
        """Index, label and place from the left in inches, by line; -1 is the word that follows."""
        entries = [(i, word_label(text, 30)) for i, (text, _, _) in enumerate(self.words)]
        if len(entries) > MOST_WORDS:
            return []
        if self.following is not None:
            entries.append((-1, word_label(self.following, 30)))
        lines: list[list[tuple[int, str, float]]] = [[]]
        at = 0.0
        for index, label in entries:
            wide = label_width(label, _POINTS)
            if at and at + wide > self.width:
                lines.append([])
                at = 0.0
            lines[-1].append((index, label, at))
            at += wide + 2 * _SPACE
            if index >= 0 and self.words[index][0] == "\n":
                lines.append([])
                at = 0.0
        return [line for line in lines if line]

    @property
    def height(self) -> float:
        """Inches."""
        return _LINE * len(self.lines)

    def draw(self, figure: Figure, left: float, top: float) -> None:
        """Draw it so many inches from the left and from the top."""
        from matplotlib.patches import FancyBboxPatch

        across, down = figure.get_size_inches()
        most = max((abs(v) for t, v, later in self.words if t and not later), default=0.0)
        for number, line in enumerate(self.lines):
            middle = top + _LINE * (number + 0.5)
            for index, label, at in line:
                text, value, later = self.words[index] if index >= 0 else ("", 0.0, False)
                is_target = index == -1 or index == self.chosen
                strength = min(1.0, abs(value) / most) ** 0.8 * _STRONGEST if most else 0.0
                if later or is_target:
                    strength = 0.0
                box = FancyBboxPatch(
                    ((left + at) / across, 1 - (middle + 0.1) / down),
                    label_width(label, _POINTS) / across, 0.2 / down,
                    boxstyle=f"round,pad={0.04 / across},rounding_size={0.03 / across}",
                    mutation_aspect=across / down, transform=figure.transFigure,
                    facecolor=(score_colour(value, self.signed), strength),
                    edgecolor=ACCENT if is_target else "none", linewidth=1.6 if is_target else 0,
                )  # fmt: skip
                figure.add_artist(box)
                write(
                    figure, left + at, middle + _HALF_CAPITAL, label, _POINTS, va="baseline",
                    colour=_LATER if later and not is_target else INK,
                )  # fmt: skip


def draw_bars(
    record: dict[str, Any], path: Path, names: Sequence[str], svg: bool = False
) -> list[Path]:
    """Scores of the first target: the coloured text, a bar per word, how they were computed.

    Args:
        record: The record of an explanation, as in ``results.json``.
        path: Where the picture goes, as ``results/gradients.png``.
        names: Of ``record["methods"]``: the first colours the text, a second one has bars beside
            those of the first. What the record lacks is left out.
        svg: Whether to write it as SVG too.

    Returns:
        The files written.
    """
    target, tokens = record["targets"][0], [word["tokens"] for word in record["words"]]
    found = {name: record["methods"][name]["tuned"] for name in names if name in record["methods"]}
    sums = {name: word_sums(one["scores"][0], tokens) for name, one in found.items()}
    first = next(iter(found))
    kept, selection = _kept(record, sums[first], target["position"])
    facts = registry.score(first).facts
    notes = [_which(record), selection, facts(record) if facts else registry.score(first).title]
    notes = [note for note in notes if note] + [caption(record)]
    strip = _strip(record, sums[first], target["position"], found[first]["signed"])
    bars = (_BAR if len(kept) <= _MANY else _THIN_BAR) * len(kept) + 0.3
    top = 1.43 + strip.height
    figure = new_figure(top + bars + 0.55 + 0.19 * len(notes) + 0.15)
    _head(figure, record, target, strip)
    gap = 0.35
    width = (WIDTH - _LABELS - MARGIN - gap * (len(found) - 1)) / len(found)
    for number, (name, one) in enumerate(found.items()):
        axes = new_axes(figure, _LABELS + number * (width + gap), top, width, bars)
        labels = [word_label(record["words"][i]["text"], 22) for i in kept]
        errors = one.get("standard_error")
        if errors is not None:  # as if the errors of a word's tokens were independent
            errors = 2 * np.sqrt(word_sums(np.square(errors[0]), tokens))[kept]
        _bars(axes, [""] * len(kept) if number else labels, sums[name][kept], one["signed"], errors)
        label = registry.score(name).axis.format(score=score_name(record))
        axes.set_xlabel(label, fontsize=9, color=QUIET)
    write(figure, MARGIN, top + bars + 0.55, "\n".join(notes))
    return save_figure(figure, path, svg)


def caption(record: dict[str, Any]) -> str:
    """The last line of every caption: the model and the seed."""
    return plot_text(f"{model_name(record)} · seed {record.get('seed')}", 110)


def score_name(record: dict[str, Any]) -> str:
    """What the scores are of: the log-probability of the target, or its lead over a foil."""
    foil = record["targets"][0].get("foil")
    return f"lead over “{plot_text(foil['text'].strip(), 20)}”" if foil else "log-probability"


def _kept(record: dict[str, Any], values: np.ndarray, position: int) -> tuple[list[int], str]:
    """Indices of the words that get a bar, in the order of the text, and what to say of them."""
    seen = [i for i, word in enumerate(record["words"]) if word["tokens"][0] < position]
    if not values[0]:  # the start token is worth a line only where it counts
        seen = seen[1:] or seen
    if len(seen) <= MOST_BARS:
        return seen, ""
    kept = sorted(sorted(seen, key=lambda i: -abs(values[i]))[:KEPT_BARS])
    return kept, f"the {KEPT_BARS} of {len(seen)} words that count most, in the order of the text"


def _which(record: dict[str, Any]) -> str:
    count = len(record["targets"])
    return f"the first of {count} explained tokens; report.html shows them all" if count > 1 else ""


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


def _head(figure: Figure, record: dict[str, Any], target: dict[str, Any], strip: Strip) -> None:
    """Title, what is known of the target, and the coloured text."""
    name = plot_text(target["text"].strip() or "\n", 40)
    word = None if target.get("word") is None else record["words"][target["word"]]["text"]
    whole = word is None or word.strip() == target["text"].strip()
    title = f"Why “{name}”?" if whole else f"Why “{name}”, a part of “{plot_text(str(word), 30)}”?"
    write(figure, MARGIN, 0.25, title, size=16, colour=INK)
    write(figure, MARGIN, 0.62, _about_target(target), size=10)
    strip.draw(figure, MARGIN, 0.98)


def _strip(record: dict[str, Any], values: np.ndarray, position: int, signed: bool) -> Strip:
    target = record["targets"][0]
    ended = position >= len(record["input"])
    return Strip(
        [(word["text"], float(value), word["tokens"][0] >= position)
         for word, value in zip(record["words"], values, strict=True)],
        chosen=None if ended else target.get("word"),
        following=target["text"].strip() or "\n" if ended else None,
        signed=signed, width=WIDTH - 2 * MARGIN,
    )  # fmt: skip


def _bars(
    axes: Axes, labels: list[str], values: np.ndarray, signed: bool, errors: np.ndarray | None
) -> None:
    """Horizontal bars from top to bottom with their numbers; words that repeat stay apart."""
    places = np.arange(len(values))
    whiskers = {"ecolor": INK, "elinewidth": 1, "capsize": 2}
    axes.barh(
        places, values, color=[score_colour(v, signed) for v in values], height=0.72, xerr=errors,
        error_kw=whiskers,
    )  # fmt: skip
    axes.set_yticks(places, labels, fontsize=9 if len(values) <= _MANY else 8)
    axes.set_ylim(len(values) - 0.4, -0.6)
    spread = 0 if errors is None else errors
    ends = np.where(values < 0, values - spread, values + spread)
    low, high = min(ends.min(initial=0.0), 0.0), max(ends.max(initial=0.0), 0.0)
    span = high - low if high - low > 1e-9 else 1.0
    room = 0.1 if errors is None else 0.16  # for the numbers beside the bars
    if signed:
        axes.set_xlim(low - max(room, 0.2) * span, max(high, low + span) + max(room, 0.2) * span)
        axes.set_title("← opposes", loc="left", fontsize=9, color=OPPOSES)
        axes.set_title("supports →", loc="right", fontsize=9, color=SUPPORTS)
    else:
        axes.set_xlim(0, span * (1 + room))
    for place, value, end in zip(places, values, ends, strict=True):
        left = signed and value < 0
        axes.annotate(
            _number(value, "+.3f" if signed else ".3f"), (end, place),
            xytext=(-4 if left else 4, 0), textcoords="offset points", fontsize=7.5,
            color=QUIET, va="center", ha="right" if left else "left",
        )  # fmt: skip
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8, colors=QUIET)
    axes.axvline(0, color=QUIET, linewidth=0.8)


# Of more words in a matrix only every second, third … has a label.
_MOST_LABELS = 70
# Inches above a matrix at least, for the labels of its columns, and above those, for the title.
_TOP, _HEADING = 1.2, 0.65


def explained_words(record: dict[str, Any]) -> tuple[list[str], list[list[int]]]:
    """Labels of the words that are explained, and for each the targets that are its tokens."""
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
    tokens = [word["tokens"] for word in record["words"]]
    starts = np.array([positions[0] for positions in tokens])
    rows = []
    for group in groups:
        row = scores[group].mean(0) if attribution["unit"] == "share" else scores[group].sum(0)
        before = starts < record["targets"][group[0]]["position"]
        rows.append(np.where(before, word_sums(row, tokens), np.nan))
    return np.stack(rows)


def draw_matrix(record: dict[str, Any], path: Path, name: str, svg: bool = False) -> list[Path]:
    """Rows are the explained words, columns the words they could owe something to.

    Args:
        record: The record of an explanation.
        path: Where the picture goes.
        name: One of ``record["methods"]``.
        svg: Whether to write it as SVG too.

    Returns:
        The files written.
    """
    attribution = record["methods"][name]["tuned"]
    labels, groups = explained_words(record)
    values = _matrix(record, attribution, groups)
    kept = np.flatnonzero(~np.isnan(values).all(0))
    values = values[:, kept]
    columns = [word_label(record["words"][i]["text"], 18) for i in kept]
    cell = min(0.3, max(6.3 / len(columns), 0.02))
    wide, high = cell * len(columns), cell * len(labels)
    top = max(_TOP, _HEADING + max(label_width(name, _label_size(columns)) for name in columns))
    width = max(wide + 2.9, 6.5)
    tall = max(min(high, 2.5), 0.8)  # of the scale
    below = top + max(high, tall)
    figure = new_figure(below + 1.1, width)
    title = f"What each word came from: {registry.score(name).title}"
    write(figure, MARGIN, 0.25, title, size=14, colour=INK)
    axes = new_axes(figure, 1.6, top, wide, high)
    signed = bool(attribution["signed"])
    # A few very large scores must not turn all others white.
    most = float(np.nanquantile(np.abs(values), 0.99)) or float(np.nanmax(np.abs(values))) or 1.0
    image = axes.imshow(
        values, cmap=score_colormap(signed), vmin=-most if signed else 0, vmax=most, aspect="auto",
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
        caption(record),
    ]
    write(figure, MARGIN, below + 0.25, "\n".join(lines), size=8)
    return save_figure(figure, path, svg)


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


def draw_curves(record: dict[str, Any], path: Path, svg: bool = False) -> list[Path]:
    """Deletion and insertion curves of every judged method, with the band of random orders.

    Args:
        record: The record of an explanation; ``faithfulness`` has the curves.
        path: Where the picture goes.
        svg: Whether to write it as SVG too.

    Returns:
        The files written.
    """
    judged = record["faithfulness"]
    high, gap, left, between = 1.2, 0.55, 0.85, 0.6
    wide = (WIDTH - left - between - MARGIN) / 2
    bottom = 1.3 + len(judged) * (high + gap)
    figure = new_figure(bottom + 0.95)
    write(figure, MARGIN, 0.25, "Is it true? Faithfulness", size=14, colour=INK)
    for side, what in enumerate(("taken away: lower is better", "put back: higher is better")):
        at = left + side * (wide + between)
        write(figure, at, 0.65, f"{score_name(record)} with tokens {what}", size=9, colour=INK)
    for number, (name, found) in enumerate(judged.items()):
        top = 1.3 + number * (high + gap)
        said = f"{registry.score(name).title}: {found['verdict']}"
        write(figure, left, top - 0.24, said, size=10, colour=INK)
        for side, kind in enumerate(("deletion", "insertion")):
            axes = new_axes(figure, left + side * (wide + between), top, wide, high)
            _curve(axes, found[kind], legend=number == side == 0)
            if number == len(judged) - 1:
                axes.set_xlabel("% of the tokens", fontsize=8, color=QUIET)
    law = next(iter(judged.values())).get("law")
    about = "tokens taken away, or put back, in the order of their scores, in nats"
    about += f" · replaced by {law.replace('_', ' ')}" if law else ""
    about += " · grey: the middle 90 % of random orders"
    write(figure, MARGIN, bottom + 0.3, f"{about}\n{caption(record)}", size=8)
    return save_figure(figure, path, svg)


def _curve(axes: Axes, found: dict[str, Any], *, legend: bool) -> None:
    x = 100 * np.asarray(found["fractions"])
    if found.get("random_low") is not None:
        axes.fill_between(
            x, found["random_low"], found["random_high"], color=QUIET, alpha=0.25, linewidth=0
        )
    if found.get("random_mean") is not None:
        axes.plot(x, found["random_mean"], "--", color=QUIET, linewidth=1.2, label="random orders")
    axes.plot(x, found["values"], color=SUPPORTS, linewidth=2, label="by the scores")
    axes.tick_params(labelsize=8, colors=QUIET)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.01)
    if legend:
        axes.legend(frameon=False, fontsize=8)
