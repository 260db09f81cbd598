"""Pictures of attention: one a layer with every head, and an overview of all layers and heads.

144 axes with labelled ticks take half a minute to draw. Here the heads are put together as pixels,
and matplotlib draws nothing but text: the labels once, as a background, and a title over each head
once a layer. The price is a layout counted in pixels.

The first token would drown everything else, so that colours end at the largest weight of a head
*outside* the first column; the square root of a weight is what is seen, so that small ones are seen
at all. Grey is what a head can't see, white what it doesn't look at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...console import CountCallback
from ...errors import InputError
from ...plotting import plot_text
from ..methods.attention import AttentionMaps
from ..subject import Subject
from .canvas import INK, Canvas, points

_FONT, _TITLE = 5.5, 7.0  # points: of token labels, of the titles over the heads
_ONE_LINE = 255  # pixels that a title needs in one line
_MOST_WIDE, _MOST_HIGH = 1500, 1700  # pixels of all heads together
_UNSEEN = (217, 217, 217)
_ROW = "Row: the token that looks; column: where it looks; grey: what it can't see. "
_SCALE = (
    "The square root of a weight is shown, up to each head's largest outside the first column. "
)
_WARNING = "Attention is not attribution: where a head looks is not what the prediction owes to it."


def chosen(wanted: Sequence[int] | None, count: int, noun: str) -> list[int]:
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
    progress: CountCallback | None = None,
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
    wanted = chosen(layers, maps.layers, "layer")
    sheet = _Sheet(subject, chosen(heads, maps.heads, "head"), maps.sink, model)
    stem = "attention_layer" if maps.sink else "attention_without_sink_layer"
    digits = max(2, len(str(maps.layers - 1)))
    written = []
    for done, layer in enumerate(wanted, 1):
        sheet.show(layer, maps.weights[layer])
        written.append(folder / f"{stem}{layer:0{digits}d}.png")
        sheet.canvas.save_png(written[-1])
        if svg:
            written.append(written[-1].with_suffix(".svg"))
            sheet.canvas.save_svg(written[-1])
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
    canvas.text(left, top - 34, "every head on a scale of its own", _TITLE, INK)
    said = _ROW + _SCALE + _WARNING
    if sink is not None:
        shades = _shades()[np.rint(sink * 255).astype(np.intp)]  # [layers, heads, RGB]
        canvas.paste(beside, top, shades.repeat(side + gap, 0).repeat(small, 1))
        _name_heads(canvas, maps.heads, beside + small / 2, small, top)
        canvas.text(beside, top - 34, "share of the first token: white 0, dark 1", _TITLE, INK)
        said = f"On average {sink.mean():.0%} of the attention goes to the first token. {said}"
    canvas.note(said)
    canvas.fix()
    paths = [folder / "attention_overview.png"]
    canvas.save_png(paths[0])
    if svg:
        paths.append(folder / "attention_overview.svg")
        canvas.save_svg(paths[1])
    return paths


class _Sheet:
    """The picture of one layer; what all layers share is drawn once."""

    def __init__(self, subject: Subject, heads: list[int], sink: bool, model: str) -> None:
        self.heads, self.sink, self.model = heads, sink, model
        length = subject.length
        columns = _columns(len(heads))
        rows = math.ceil(len(heads) / columns)
        # As large as its labels ask for, as long as all heads fit.
        wanted = max(130, round(length * points(_FONT) * 1.2))
        self.side = max(60, min(wanted, 400, _MOST_WIDE // columns, _MOST_HIGH // rows))
        labels = token_labels(subject)
        margin = round(12 + points(_FONT) * 0.58 * max(map(len, labels)))
        self.narrow = self.side < _ONE_LINE
        gap, above, top = 12, 37 if self.narrow else 24, 52
        self.corners = [
            (margin + c * (self.side + gap), top + r * (self.side + above) + above)
            for r, c in (divmod(i, columns) for i in range(len(heads)))
        ]
        across, bottom = margin + columns * (self.side + gap), top + rows * (self.side + above)
        width = max(across + 8, _least_width(self._heading(0, 1.0)))
        self.canvas = Canvas(width, bottom + margin + 84)
        self.canvas.heading("", _begins(subject))
        self._label(labels, margin, columns)
        self._legend(margin, bottom + margin + 8)
        for x, y in self.corners:
            self.canvas.moving(x, y - 4, _TITLE)
        short = "first: share of the first token; " * sink + "to: end of the scale. "
        self.canvas.note(short.capitalize() * self.narrow + _ROW + _SCALE + _WARNING)
        self.canvas.fix()

    def _label(self, labels: list[str], margin: int, columns: int) -> None:
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
        strip = _shades()[np.rint(np.sqrt(np.linspace(0, 1, 120)) * 255).astype(np.intp)]
        self.canvas.paste(x, y, np.broadcast_to(strip, (9, 120, 3)))
        self.canvas.text(x - 4, y + 4.5, "0", _FONT, INK, "right", "center")
        self.canvas.text(x + 124, y + 4.5, "end of the head's scale", _FONT, INK, "left", "center")

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
        said = [f"first {first:.0%}" if self.narrow else f"first token {first:.0%}"] * self.sink
        said.append(f"to {largest:.2g}" if self.narrow else f"scale to {largest:.2g}")
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
        labels.append("…" if again else plot_text(subject.text[slice(*span)].strip(" ") or "␣", 14))
    return labels


def _columns(count: int) -> int:
    """How many heads stand side by side: at most 4, or 8 where there are many."""
    return min(count, 3 if count == 9 else 4 if count <= 16 else 8)


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
    shade = np.rint(np.sqrt(np.clip(weights / largest, 0, 1)) * 255).astype(np.intp)
    colours = np.where(unseen[None, :, :, None], np.array(_UNSEEN, np.uint8), _shades()[shade])
    index = np.arange(side) * colours.shape[1] // side
    result: np.ndarray = colours[:, index][:, :, index]
    return result


def _shades() -> np.ndarray:
    """``[256, RGB]`` from white to dark blue, which the colour-blind see as well."""
    from matplotlib import colormaps

    table: np.ndarray = colormaps["Blues"](np.arange(256), bytes=True)[:, :3].copy()
    table[0] = 255  # nothing is white
    return table


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
