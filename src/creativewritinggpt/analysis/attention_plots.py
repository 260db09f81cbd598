"""Pictures of attention: one per layer with every head, and an overview of all layers and heads.

As 144 matplotlib axes they take half a minute; here heads are composed as pixels and matplotlib
draws the text, on a :class:`Canvas`. 30 layers of 9 heads take 2.3 s on one Zen 3 core, 5.4 s as
ordinary matplotlib figures.

The first token would drown everything else: colours end at the largest weight of a head outside the
first column, and the square root of a weight is shown, so that small ones can be seen. Grey is what
a head can't see, white what it doesn't look at.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..files import atomic_file
from ..plotting import (
    INK,
    MASK,
    QUIET,
    free_figure,
    new_figure,
    plot_text,
    score_colormap,
)
from .methods.attention import AttentionMaps
from .subject import Subject

if TYPE_CHECKING:
    pass

DPI = 110
_HEADING, _NOTE = 10.0, 7.5  # points


def points(size: float) -> float:
    """A font's size in pixels."""
    return size * DPI / 72


class Canvas:
    """A page of ``width`` × ``height`` pixels."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = round(width), round(height)
        self._figure = new_figure(self.height / DPI, self.width / DPI, dpi=DPI)
        self._agg: Any = self._figure.canvas
        self._pasted: dict[tuple[int, int], np.ndarray] = {}
        self._moving: list[Any] = []
        self._heading: Any = None
        self._background: Any = None

    def text(
        self,
        x: float,
        y: float,
        said: str,
        size: float,
        colour: str = INK,
        ha: str = "left",
        va: str = "bottom",
        rotation: float = 0,
    ) -> Any:
        """Put a text at a place."""
        return self._figure.text(
            x / self.width, 1 - y / self.height, said, fontsize=size, color=colour, ha=ha, va=va,
            rotation=rotation,
        )  # fmt: skip

    def paste(self, x: float, y: float, pixels: np.ndarray) -> None:
        """Put in a picture ``[height, width, RGB]`` of bytes, over what was pasted there."""
        self._pasted[round(x), round(y)] = pixels

    def heading(self, title: str, below: str) -> None:
        """The title, and a line under it."""
        self._heading = self.text(10, 24, title, _HEADING)
        self.text(10, 40, below, _NOTE, QUIET)

    def note(self, said: str) -> None:
        """The caption at the foot."""
        letters = max(40, int(self.width / points(_NOTE) / 0.54))
        lines = textwrap.wrap(said, letters)
        self.text(10, self.height - 8, "\n".join(lines), _NOTE, QUIET)

    def moving(self, x: float, y: float, size: float) -> None:
        """A place for a text that ``change`` fills."""
        self._moving.append(self.text(x, y, "", size))

    def change(self, title: str, texts: list[str]) -> None:
        """Fill what changes from picture to picture."""
        self._heading.set_text(title)
        for place, said in zip(self._moving, texts, strict=True):
            place.set_text(said)

    def fix(self) -> None:
        """Draw what stays, and keep it."""
        self._animate(True)
        self._agg.draw()
        self._background = self._agg.copy_from_bbox(self._figure.bbox)

    def save(self, path: Path, svg: bool) -> list[Path]:
        """Write the page as PNG, and as SVG beside it on demand; each file whole or not at all."""
        self._save_png(path)
        if not svg:
            return [path]
        self._save_svg(path.with_suffix(".svg"))
        return [path, path.with_suffix(".svg")]

    def close(self) -> None:
        """Free the page; it can't be written any more."""
        free_figure(self._figure)

    def _save_png(self, path: Path) -> None:
        from PIL import Image

        self._agg.restore_region(self._background)
        buffer = np.asarray(self._agg.buffer_rgba())
        for (x, y), pixels in self._pasted.items():
            buffer[y : y + pixels.shape[0], x : x + pixels.shape[1], :3] = pixels
        for text in self._changing():
            self._figure.draw_artist(text)
        with atomic_file(path) as temporary:
            picture = Image.fromarray(np.asarray(self._agg.buffer_rgba())[..., :3])
            picture.save(temporary, format="PNG", dpi=(DPI, DPI), compress_level=3)

    def _save_svg(self, path: Path) -> None:
        """Text as text, pictures as pixels."""
        import matplotlib

        added = []
        for (x, y), pixels in self._pasted.items():
            high, wide = pixels.shape[:2]
            place = (
                x / self.width, 1 - (y + high) / self.height,
                wide / self.width, high / self.height,
            )  # fmt: skip
            axes = self._figure.add_axes(place)
            axes.set_axis_off()
            axes.imshow(pixels, interpolation="none", aspect="auto")
            added.append(axes)
        # A figure leaves out its own moving texts even when it is saved.
        self._animate(False)
        with atomic_file(path) as temporary, matplotlib.rc_context({"svg.fonttype": "none"}):
            self._figure.savefig(temporary, format="svg")
        self._animate(True)
        for axes in added:
            axes.remove()

    def _changing(self) -> list[Any]:
        return [text for text in (*self._moving, self._heading) if text is not None]

    def _animate(self, moving: bool) -> None:
        for text in self._changing():
            text.set_animated(moving)


_FONT, _TITLE = 7.0, 7.5  # points: of token labels, of the titles over the heads
_ONE_LINE = 215  # pixels that a title over a head needs in one line
_MOST_WIDE, _MOST_HIGH = 1500, 1700  # pixels of all heads together
_ROW = "Row: the token that looks; column: where it looks; grey: what it can't see. "
_SCALE = (
    "The square root of a weight is shown, up to each head's largest outside the first column. "
)
_WARNING = "Attention is not attribution: where a head looks is not what the prediction owes to it."


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
        sheet.show(layer, maps.weights[layer], maps.visible(layer))
        written += sheet.canvas.save(folder / f"{stem}{layer:0{digits}d}.png", svg)
        if progress is not None:
            progress(done, len(wanted))
    sheet.canvas.close()
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
        for head, tile in enumerate(
            _tiles(maps.weights[layer], side, maps.visible(layer), maps.sink)
        ):
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
    written = canvas.save(folder / "attention_overview.png", svg)
    canvas.close()
    return written


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

    def show(self, layer: int, weights: np.ndarray, visible: np.ndarray) -> None:
        """Put in the attention ``[heads, tokens, tokens]`` of a layer."""
        some = weights[self.heads].astype(np.float32)
        first = some[:, 1:, 0].mean(-1) if some.shape[1] > 1 else np.ones(len(some))
        titles, largest = [], _largest(some)
        for index, tile in enumerate(_tiles(some, self.side, visible, self.sink)):
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


def _tiles(weights: np.ndarray, side: int, visible: np.ndarray, sink: bool) -> np.ndarray:
    """Heads ``[heads, tokens, tokens]`` as colours ``[heads, side, side, RGB]``."""
    weights = weights.astype(np.float32)
    length = weights.shape[1]
    largest = _largest(weights)[:, None, None]
    unseen = ~visible
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
