"""A page counted in pixels: text by matplotlib, pictures pasted as they are.

What stays the same from picture to picture is drawn once and kept; each picture adds the pasted
pixels and the few texts that change. Places are pixels from the upper left corner.

Trade-off: 30 layers of 9 heads take 2.3 s on one Zen 3 core, 5.4 s as ordinary matplotlib figures.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from ...files import atomic_file
from ...plotting import INK, QUIET, new_figure

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
