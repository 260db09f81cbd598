"""Pictures of matrices: attention of every head, words by the words they came from; curves.

Attention has one picture per layer with every head, and an overview of all layers and heads. As
144 matplotlib axes it takes half a minute; here heads are composed as pixels and matplotlib draws
the text, on a :class:`Canvas`.

The first token would drown everything else: colours end at the largest weight of a head outside the
first column, and the square root of a weight is shown, so that small ones can be seen. Grey is what
a head can't see, white what it doesn't look at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from ...plotting import (
    INK,
    MARGIN,
    MASK,
    QUIET,
    SUPPORTS,
    WIDTH,
    label_width,
    new_axes,
    new_figure,
    plot_text,
    save_figure,
    score_colormap,
    word_label,
    write,
)
from .. import registry
from ..methods.attention import AttentionMaps
from ..subject import Subject
from ..text.words import word_sums
from .canvas import Canvas, points
from .strip import caption, score_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FONT, _TITLE = 7.0, 7.5  # points: of token labels, of the titles over the heads
_ONE_LINE = 215  # pixels that a title over a head needs in one line
_MOST_WIDE, _MOST_HIGH = 1500, 1700  # pixels of all heads together
_ROW = "Row: the token that looks; column: where it looks; grey: what it can't see. "
_SCALE = (
    "The square root of a weight is shown, up to each head's largest outside the first column. "
)
_WARNING = "Attention is not attribution: where a head looks is not what the prediction owes to it."
# Of more words in a matrix only every second, third … has a label.
_MOST_LABELS = 70
# Inches above a matrix at least, for the labels of its columns, and above those, for the title.
_TOP, _HEADING = 1.2, 0.65


def in_range(wanted: Sequence[int] | None, count: int, noun: str) -> list[int]:
    """The numbers of layers or heads to draw, all of them without a choice.

    Args:
        wanted: Numbers from 0, in any order.
        count: How many there are.
        noun: ``layer`` or ``head``, for the message.

    Raises:
        InputError: One is out of range.
    """
    if wanted is None:
        return list(range(count))
    for number in wanted:
        if not 0 <= number < count:
            raise InputError(
                f"there is no {noun} {number}", f"the model has {noun}s 0 to {count - 1}"
            )
    return sorted(set(wanted))


def draw_layers(
    maps: AttentionMaps,
    subject: Subject,
    folder: Path,
    *,
    model: str = "",
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    svg: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """``attention_layerNN.png`` for each layer, with every chosen head.

    Args:
        maps: The attention, with the first token or without it.
        subject: The text.
        folder: Where the pictures go; they are named ``attention_without_sink_layerNN.png`` where
            the first token is masked.
        model: What to call the model in the title.
        layers: Numbers of the layers to draw, from 0.
        heads: Numbers of the heads.
        svg: Whether to write each as SVG too.
        progress: Called with the pictures done and all pictures.

    Returns:
        The files, in order.

    Raises:
        InputError: A layer or head is out of range.
    """
    wanted = in_range(layers, maps.layers, "layer")
    sheet = _Sheet(subject, in_range(heads, maps.heads, "head"), maps.sink, model)
    stem = "attention_layer" if maps.sink else "attention_without_sink_layer"
    digits = max(2, len(str(maps.layers - 1)))
    written = []
    for done, layer in enumerate(wanted, 1):
        sheet.show(layer, maps.weights[layer])
        written += sheet.canvas.save(folder / f"{stem}{layer:0{digits}d}.png", svg)
        if progress is not None:
            progress(done, len(wanted))
    return written


def draw_overview(
    maps: AttentionMaps, subject: Subject, folder: Path, *, model: str = "", svg: bool = False
) -> list[Path]:
    """``attention_overview.png``: a thumbnail of every head, a row a layer, and its first token.

    Args:
        maps: The attention with its first token.
        subject: The text.
        folder: Where the picture goes.
        model: What to call the model in the title.
        svg: Whether to write it as SVG too.

    Returns:
        The files.
    """
    side = max(12, min(64, _MOST_WIDE // maps.heads - 3, _MOST_HIGH // maps.layers - 3))
    gap, left, top = 3, 46, 92
    small = max(10, min(20, side))
    across, down = maps.heads * (side + gap), maps.layers * (side + gap)
    beside = left + across + 60
    title = f"Attention of all layers and heads{_of(model)}"
    width = max(beside + maps.heads * small + 20, beside + 250, _least_width(title))
    canvas = Canvas(width, top + down + 78)
    canvas.heading(title, _begins(subject))
    sink = maps.weights[:, :, 1:, 0].mean(-1, dtype=np.float64) if maps.tokens > 1 else None
    for layer in range(maps.layers):
        y = top + layer * (side + gap)
        canvas.text(left - 8, y + side / 2, str(layer), _TITLE, INK, "right", "center")
        for head, tile in enumerate(_tiles(maps.weights[layer], side, maps.sink)):
            canvas.paste(left + head * (side + gap), y, tile)
    _name_heads(canvas, maps.heads, left + side / 2, side + gap, top)
    canvas.text(left, top - 34, "layers (rows) by heads, every head on its own scale", _TITLE)
    said = _ROW + _SCALE + _WARNING
    if sink is not None:
        shades = _shades(sink)  # [layers, heads, RGB]
        canvas.paste(beside, top, shades.repeat(side + gap, 0).repeat(small, 1))
        _name_heads(canvas, maps.heads, beside + small / 2, small, top)
        canvas.text(beside, top - 34, "share of the first token: white 0, dark 1", _TITLE)
        said = f"On average {sink.mean():.0%} of the attention goes to the first token. {said}"
    canvas.note(said)
    canvas.fix()
    return canvas.save(folder / "attention_overview.png", svg)


class _Sheet:
    """The picture of one layer; what all layers share is drawn once."""

    def __init__(self, subject: Subject, heads: list[int], sink: bool, model: str) -> None:
        self.heads, self.sink, self.model = heads, sink, model
        length, count = subject.length, len(heads)
        columns = min(count, 3 if count == 9 else 4 if count <= 16 else 8)
        rows = math.ceil(count / columns)
        # As large as its labels ask for, as long as all heads fit.
        wanted = max(_ONE_LINE, round(length * points(_FONT) * 1.2))
        self.side = max(60, min(wanted, 400, _MOST_WIDE // columns, _MOST_HIGH // rows))
        labels = token_labels(subject)
        margin = round(12 + points(_FONT) * 0.58 * max(map(len, labels)))
        self.narrow = self.side < _ONE_LINE
        gap, above, top = 12, 37 if self.narrow else 24, 52
        self.corners = [
            (margin + c * (self.side + gap), top + r * (self.side + above) + above)
            for r, c in (divmod(i, columns) for i in range(count))
        ]
        across, bottom = margin + columns * (self.side + gap), top + rows * (self.side + above)
        width = max(across + 8, _least_width(self._heading(0, 1.0)))
        self.canvas = Canvas(width, bottom + margin + 92)
        self.canvas.heading("", _begins(subject))
        self._label(labels, columns)
        self._legend(margin, bottom + margin + 8)
        for x, y in self.corners:
            self.canvas.moving(x, y - 4, _TITLE)
        short = "start: share of the first token; " * sink + "max: end of the head's scale. "
        self.canvas.note(short.capitalize() + _ROW + _SCALE + _WARNING)
        self.canvas.fix()

    def _label(self, labels: list[str], columns: int) -> None:
        """Tokens on the outer axes only: left of the first column, under the last of each."""
        cell = self.side / len(labels)
        step = math.ceil(points(_FONT) * 0.95 / cell)
        last = {x: y for x, y in self.corners}  # the lowest head of each column
        for index in range(0, len(labels), step):
            at = (index + 0.5) * cell
            for x, y in self.corners[::columns]:
                self.canvas.text(x - 4, y + at, labels[index], _FONT, INK, "right", "center")
            for x, y in last.items():
                self.canvas.text(
                    x + at, y + self.side + 4, labels[index], _FONT, INK, "center", "top", 90
                )

    def _legend(self, x: int, y: int) -> None:
        strip = _shades(np.sqrt(np.linspace(0, 1, 120)))
        self.canvas.paste(x, y, np.broadcast_to(strip, (9, 120, 3)))
        self.canvas.text(x - 4, y + 4.5, "0", _FONT, INK, "right", "center")
        self.canvas.text(x + 124, y + 4.5, "max", _FONT, INK, "left", "center")

    def show(self, layer: int, weights: np.ndarray) -> None:
        """Put in the attention ``[heads, tokens, tokens]`` of a layer."""
        some = weights[self.heads].astype(np.float32)
        first = some[:, 1:, 0].mean(-1) if some.shape[1] > 1 else np.ones(len(some))
        titles, largest = [], _largest(some)
        for index, tile in enumerate(_tiles(some, self.side, self.sink)):
            self.canvas.paste(*self.corners[index], tile)
            titles.append(self._title(index, float(first[index]), float(largest[index])))
        self.canvas.change(self._heading(layer, float(first.mean())), titles)

    def _title(self, index: int, first: float, largest: float) -> str:
        """What stands over a head; in two lines where it is narrow."""
        said = [f"start {first:.0%}"] * self.sink + [f"max {largest:.2g}"]
        head = f"head {self.heads[index]}"
        return f"{head}\n{' · '.join(said)}" if self.narrow else " · ".join([head, *said])

    def _heading(self, layer: int, first: float) -> str:
        what = f": {first:.0%} to the first token" if self.sink else ", first token masked"
        return f"Attention in layer {layer}{_of(self.model)}{what}"


def token_labels(subject: Subject) -> list[str]:
    """A readable label for each token: its characters, not the tokenizer's pieces."""
    labels = ["start"]
    for before, span in zip(subject.spans, subject.spans[1:], strict=False):
        # One more byte of a character that has its label already.
        again = span[0] < before[1]
        text = subject.text[slice(*span)].strip(" ") or "␣"
        labels.append("…" if again else plot_text(text, 14))
    return labels


def _largest(weights: np.ndarray) -> np.ndarray:
    """``[heads]``: the largest weight outside the first column, from the third row on.

    The second row has only the first token and itself to look at.
    """
    rest = weights[:, 2:, 1:] if weights.shape[1] > 2 else weights
    result: np.ndarray = np.maximum(rest.max((1, 2)), 1e-6)
    return result


def _tiles(weights: np.ndarray, side: int, sink: bool) -> np.ndarray:
    """Heads ``[heads, tokens, tokens]`` as colours ``[heads, side, side, RGB]``."""
    weights = weights.astype(np.float32)
    length = weights.shape[1]
    largest = _largest(weights)[:, None, None]
    unseen = np.triu(np.ones((length, length), dtype=bool), 1)
    if not sink:
        unseen[1:, 0] = True
    if length > side:
        # The largest of each block, so that a thin line stays.
        edges = np.arange(side) * length // side
        weights = np.maximum.reduceat(np.maximum.reduceat(weights, edges, 1), edges, 2)
        unseen = np.minimum.reduceat(np.minimum.reduceat(unseen, edges, 0), edges, 1)
    shades = _shades(np.sqrt(np.clip(weights / largest, 0, 1)))
    grey = np.array([int(MASK[i : i + 2], 16) for i in (1, 3, 5)], np.uint8)
    colours = np.where(unseen[None, :, :, None], grey, shades)
    index = np.arange(side) * colours.shape[1] // side
    result: np.ndarray = colours[:, index][:, :, index]
    return result


def _shades(values: np.ndarray) -> np.ndarray:
    """``[…]`` of 0…1 as colours ``[…, RGB]`` from white to dark."""
    table: np.ndarray = score_colormap(signed=False)(np.arange(256), bytes=True)[:, :3]
    result: np.ndarray = table[np.rint(values * 255).astype(np.intp)]
    return result


def _name_heads(canvas: Canvas, count: int, first: float, pitch: float, top: float) -> None:
    """The numbers of the heads, as many as there is room for."""
    step = math.ceil(2.2 * points(_TITLE) / pitch)
    for head in range(0, count, step):
        canvas.text(first + head * pitch, top - 6, str(head), _TITLE, INK, "center")


def _least_width(heading: str) -> float:
    """Pixels that a heading needs, and the line under it."""
    return max(580, 30 + 8.8 * len(heading))


def _of(model: str) -> str:
    return f" of {plot_text(model, 60)}" if model else ""


def _begins(subject: Subject) -> str:
    return f"“{plot_text(subject.text[subject.view_start :], 80)}”"


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
