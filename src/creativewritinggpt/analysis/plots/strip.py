"""A text as a strip of words whose background says how much each counts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...plotting import word_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUPPORTS, OPPOSES, SIZE = "#e66101", "#1464be", "#7a42a0"
_STRONGEST = 0.75
_POINTS = 12.0
_LINE, _SPACE = 0.33, 0.07  # inches
# Of a longer text the strip would be a wall; the bars say what counts.
MOST_WORDS = 150


def colour(value: float, signed: bool = True) -> str:
    """The pure colour of a direction, or of a size without one."""
    return SIZE if not signed else SUPPORTS if value > 0 else OPPOSES


@functools.lru_cache(maxsize=4096)
def label_width(label: str, size: float = _POINTS) -> float:
    """Inches that a label of so many points takes, measured in the font it is drawn with."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    drawn = label.replace(r"\$", "$").replace("$", "S") or " "
    return float(TextPath((0, 0), drawn, prop=FontProperties(size=size)).get_extents().x1) / 72


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
    def _lines(self) -> list[list[tuple[int, str, float]]]:
        """Index, label and place from the left in inches, by line; -1 is the word that follows."""
        entries = [(i, word_label(text, 30)) for i, (text, _, _) in enumerate(self.words)]
        if len(entries) > MOST_WORDS:
            return []
        if self.following is not None:
            entries.append((-1, word_label(self.following, 30)))
        lines: list[list[tuple[int, str, float]]] = [[]]
        at = 0.0
        for index, label in entries:
            wide = label_width(label)
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
        return _LINE * len(self._lines)

    def draw(self, figure: Figure, left: float, top: float) -> None:
        """Draw it so many inches from the left and from the top."""
        from matplotlib.patches import FancyBboxPatch

        across, down = figure.get_size_inches()
        most = max((abs(v) for t, v, later in self.words if t and not later), default=0.0)
        for number, line in enumerate(self._lines):
            middle = top + _LINE * (number + 0.5)
            for index, label, at in line:
                text, value, later = self.words[index] if index >= 0 else ("", 0.0, False)
                is_target = index == -1 or index == self.chosen
                strength = min(1.0, abs(value) / most) ** 0.8 * _STRONGEST if most else 0.0
                if later or is_target:
                    strength = 0.0
                box = FancyBboxPatch(
                    ((left + at) / across, 1 - (middle + 0.1) / down),
                    label_width(label) / across, 0.2 / down,
                    boxstyle=f"round,pad={0.04 / across},rounding_size={0.03 / across}",
                    mutation_aspect=across / down, transform=figure.transFigure,
                    facecolor=(colour(value, self.signed), strength),
                    edgecolor=SIZE if is_target and not self.signed else
                    "#0b5cad" if is_target else "none", linewidth=1.6 if is_target else 0,
                )  # fmt: skip
                figure.add_artist(box)
                figure.text(
                    (left + at) / across, 1 - middle / down, label, fontsize=_POINTS,
                    va="center_baseline", color="#9aa1ab" if later and not is_target else "#1d1f23",
                )  # fmt: skip
