r"""Colours, labels and figures shared by all pictures and pages.

One palette, after Okabe and Ito, that colour-blind readers can tell apart: vermilion supports, blue
opposes, purple is a size without a direction, white is zero.

Labels are drawn as they read: a dollar sign starts no formula, a line break is ``⏎``, and what
matplotlib's own font lacks is named (``⟨dragon⟩``) or numbered (``⟨U+4E2D⟩``), so that a picture is
the same on every machine.

Figures are matplotlib objects without ``pyplot``: no window system and no global state, so that
they can be drawn in a thread. Places are inches from the upper left corner.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

# Colours by their use, on white and on dark pages; ``s0`` to ``s5`` are series of data.
LIGHT = {
    "page": "#ffffff", "panel": "#f6f7f9", "ink": "#1d1f23", "quiet": "#5c626b",
    "line": "#d9dce1", "mask": "#e4e6ea", "accent": "#0b5cad",
    "warn": "#fff3e0", "warn-ink": "#7a3e00", "good": "#0a6b4b",
    "plus": "#d55e00", "minus": "#0072b2", "size": "#7a42a0",
    "s0": "#7a8797", "s1": "#d55e00", "s2": "#0072b2", "s3": "#009e73", "s4": "#cc79a7",
    "s5": "#e69f00",
}  # fmt: skip
DARK = {
    "page": "#14161a", "panel": "#1c1f25", "ink": "#eceae5", "quiet": "#a3a8b1",
    "line": "#343942", "mask": "#2a2e35", "accent": "#7db8f5",
    "warn": "#38260f", "warn-ink": "#ffcf9e", "good": "#6fd3ad",
    "plus": "#f07014", "minus": "#4691f5", "size": "#aa6ee1",
    "s0": "#8b98a8", "s1": "#f0803c", "s2": "#56b4e9", "s3": "#2fc39a", "s4": "#e09ac0",
    "s5": "#f0c04a",
}  # fmt: skip
INK, QUIET, LINE, MASK, ACCENT = (LIGHT[n] for n in ("ink", "quiet", "line", "mask", "accent"))
SUPPORTS, OPPOSES, SIZE = LIGHT["plus"], LIGHT["minus"], LIGHT["size"]
_LARGEST_SIZE = "#2b0a4d"

WIDTH, MARGIN = 9.0, 0.35  # inches

_FONT = "DejaVuSans.ttf"
_SIGNS = {"\n": "⏎", "\t": "⇥", "\r": "", "\u2028": "⏎", "\u2029": "¶"}
# Joiners, direction marks, variation selectors and skin tones change how a neighbour looks.
_INVISIBLE = re.compile(
    "[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufe00-\ufe0f\ufeff\U0001f3fb-\U0001f3ff]"
)
_SPACES = re.compile(r"[^\S\n\t\u2028\u2029]+")
_LONGEST_NAME = 24


def score_colour(value: float, signed: bool) -> str:
    """The full colour of a score: that of its direction, or of a size without one."""
    return SIZE if not signed else SUPPORTS if value > 0 else OPPOSES


def score_colormap(signed: bool) -> Colormap:
    """Blue over white to vermilion for signed scores, white over purple to dark for sizes."""
    from matplotlib.colors import LinearSegmentedColormap

    ramp = [OPPOSES, "white", SUPPORTS] if signed else ["white", "#b793d0", SIZE, _LARGEST_SIZE]
    return LinearSegmentedColormap.from_list("scores", ramp).with_extremes(bad=MASK)


def plot_text(text: str, most: int | None = None) -> str:
    r"""A text as a label that matplotlib draws as it reads.

    Args:
        text: A word, a token, a sentence.
        most: Characters to keep; what is longer ends in ``…``.

    Returns:
        The label: ``\n`` as ``⏎``, missing glyphs named, ``$`` escaped. Not to be escaped again.
    """
    plain = _SPACES.sub(" ", _INVISIBLE.sub("", unicodedata.normalize("NFC", text)))
    label = "".join(map(_sign, plain))
    if most is not None and len(label) > most:
        label = label[: max(most - 1, 1)].rstrip() + "…"
    return label.replace("$", r"\$")


def word_label(text: str, most: int | None = None) -> str:
    """The label of a word: that of the start token, whose text is empty, is ``start``."""
    return plot_text(text, most) if text else "⟨start⟩"


@functools.lru_cache(maxsize=4096)
def label_width(label: str, size: float) -> float:
    """Inches that a label of so many points takes, measured in the font it is drawn with."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    drawn = label.replace(r"\$", "$").replace("$", "S") or " "
    return float(TextPath((0, 0), drawn, prop=FontProperties(size=size)).get_extents().x1) / 72


def new_figure(height: float, width: float = WIDTH, **options: Any) -> Figure:
    """A white figure of so many inches; ``options`` are matplotlib's."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white", **options)
    FigureCanvasAgg(figure)
    return figure


def new_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place in a figure, in inches."""
    across, down = figure.get_size_inches()
    box = (left / across, 1 - (top + height) / down, width / across, height / down)
    axes: Axes = figure.add_axes(box)
    return axes


def write(
    figure: Figure, left: float, top: float, text: str, size: float = 9, colour: str = QUIET,
    **options: Any,
) -> Any:  # fmt: skip
    """Put a text on a figure: its upper left corner in inches, its size in points."""
    across, down = figure.get_size_inches()
    options = {"va": "top", "linespacing": 1.35, **options}
    return figure.text(
        left / across, 1 - top / down, text, fontsize=size, color=colour, **options
    )  # fmt: skip


def free_figure(figure: Figure) -> None:
    """Free the pixels and the contents of a figure that is not drawn any more.

    A figure, its parts and its canvas refer to each other. Python looks for such cycles when it has
    made very many objects; until then each drawing would hold its memory: the curves of a training
    of 10,000 steps 30 MB, up to thirteen times.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    figure.clear()
    figure.set_canvas(FigureCanvasBase(figure))  # in place of the one that holds the pixels


def save_figure(figure: Figure, path: Path, svg: bool = False, dpi: int = 150) -> list[Path]:
    """Write a figure as PNG, and as SVG beside it on demand; each file whole or not at all.

    The figure is empty afterwards (:func:`free_figure`).
    """
    import matplotlib

    paths = [path, path.with_suffix(".svg")] if svg else [path]
    for target in paths:
        kind = target.suffix[1:]
        # Without a date and with fixed ids the same figure makes the same file.
        with matplotlib.rc_context({"svg.hashsalt": "cwgpt"}), atomic_file(target) as temporary:
            metadata = {"Date": None} if kind == "svg" else {}
            figure.savefig(temporary, format=kind, dpi=dpi, metadata=metadata)
    free_figure(figure)
    return paths


@functools.cache
def _drawable() -> frozenset[int]:
    """Code points for which matplotlib's own font has a glyph."""
    import matplotlib
    from matplotlib.ft2font import FT2Font

    font = FT2Font(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / _FONT))
    return frozenset(font.get_charmap())


def _fallback(character: str) -> str:
    name = unicodedata.name(character, "").lower()
    if name and len(name) <= _LONGEST_NAME and not re.search(r"-[0-9a-f]{4,}$", name):
        return f"⟨{name}⟩"
    return f"⟨U+{ord(character):04X}⟩"


def _sign(character: str) -> str:
    if character in _SIGNS:
        return _SIGNS[character]
    if unicodedata.category(character) != "Cc" and ord(character) in _drawable():
        return character
    return _fallback(character)
