"""What the session shows: story text as it flows, messages, tables, and heat.

Everything goes through here, and nothing that a terminal would obey gets past: model output and
files may hold any characters. Colour follows the terminal and ``NO_COLOR``, and nothing is said by
colour alone.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO, cast

from ..console import printable
from ..errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

# Backgrounds of the 256-colour palette from likely to unlikely, for dark and light terminals alike:
# the text on them is black.
_HEAT = ((0.5, ""), (0.2, "230"), (0.05, "222"), (0.01, "215"), (0.0, "209"))
_UNDERLINED = 0.05
_MARKED = 0.2


class _Stream:
    """A stream that may go away, as the terminal does when its window is closed.

    What is shown is not worth losing a passage for, so the failure is only taken note of.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.gone = False

    def write(self, text: str) -> int:
        self._try(lambda: self.stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self.stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _try(self, act: Callable[[], object]) -> None:
        if not self.gone:
            try:
                act()
            except OSError:
                self.gone = True


class Screen:
    """A terminal, or a stream that stands for one.

    Args:
        stream: Where everything goes; stdout without it.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = _Stream(stream or sys.stdout)
        self.terminal = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self.colour = self.terminal and not os.environ.get("NO_COLOR")
        self._column = 0
        self._word = ""
        self._console: Console | None = None

    @property
    def gone(self) -> bool:
        """Whether there is nobody left to show anything to."""
        return self.stream.gone

    @gone.setter
    def gone(self, gone: bool) -> None:
        self.stream.gone = gone

    @property
    def width(self) -> int:
        """Columns."""
        return shutil.get_terminal_size((100, 24)).columns if self.terminal else 100

    def flow(self, text: str) -> None:
        """Show story text; on a terminal lines break between words."""
        text = printable(text)
        if not self._column and not self._word:
            text = text.lstrip(" ")  # of a passage that goes on in mid-line
        if not self.terminal:
            self.stream.write(text)
            self._column = int(not text.endswith("\n")) if text else self._column
        else:
            for character in text:
                self._word += character
                if character in " \n\t" or len(self._word) >= self.width:
                    self._flush_word()
        self.stream.flush()

    def end_flow(self) -> None:
        """Show what is held back, and end the line."""
        self._flush_word()
        if self._column:
            self.stream.write("\n")
        self._column = 0
        self.stream.flush()

    def _flush_word(self) -> None:
        if not self._word:
            return
        from rich.cells import cell_len

        word, self._word = self._word, ""
        bare = word.rstrip()
        if self._column and self._column + cell_len(bare) > self.width:
            self.stream.write("\n")
            self._column = 0
        if self._column + cell_len(bare) == self.width and word != bare and "\n" not in word:
            word = bare + "\n"  # the space after it would begin the next line
        self.stream.write(word)
        self._column = 0 if word.endswith("\n") else self._column + cell_len(word)

    def say(self, text: str = "", style: str = "") -> None:
        """Show a message."""
        self.end_flow()
        from rich.text import Text

        self._rich().print(Text(printable(text), style=style), soft_wrap=not self.terminal)
        self.stream.flush()

    def note(self, text: str) -> None:
        """Show something beside the story."""
        self.say(f"[{text}]", "dim")

    def error(self, error: UserError) -> None:
        """Show what went wrong and what to do."""
        self.say(f"error: {error.message}", "bold")
        if error.advice:
            self.say(error.advice)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Show a table; columns whose heading ends in ``#`` hold numbers."""
        from rich.table import Table
        from rich.text import Text

        self.end_flow()
        shown = Table(box=None, pad_edge=False, header_style="bold")
        for name in columns:
            justify = "right" if name.endswith("#") else "left"
            shown.add_column(name.rstrip("#"), justify=justify, overflow="fold")  # type: ignore[arg-type]
        for row in rows:
            shown.add_row(*(Text(printable(str(cell))) for cell in row))
        self._rich().print(shown)
        self.stream.flush()

    def heat(self, pieces: Iterable[tuple[str, float]]) -> None:
        """Show text with how likely each piece was: by colour, or in figures without.

        Args:
            pieces: Text and its probability, 0…1.
        """
        from rich.text import Text

        self.end_flow()
        shown = Text()
        for text, probability in pieces:
            text = printable(text)
            if not self.colour:
                mark = f"[{percent(probability)}]" if probability < _MARKED else ""
                body = text.rstrip("\n")
                shown.append(body + mark + text[len(body) :])
                continue
            level = next(colour for least, colour in _HEAT if probability >= least)
            style = f"black on color({level})" if level else ""
            if probability < _UNDERLINED:
                style += " underline"
            bare = text.strip(" \n")
            before, _, after = text.partition(bare) if bare else (text, "", "")
            shown.append(before).append(bare, style=style).append(after)
        self._rich().print(shown)
        if self.colour:
            legend = Text("probability ")
            for (least, level), name in zip(
                _HEAT[1:], ("20–50 %", "5–20 %", "1–5 %", "under 1 %"), strict=True
            ):
                line = " underline" if least < _UNDERLINED else ""
                legend.append(f" {name} ", style=f"black on color({level}){line}").append(" ")
            self._rich().print(legend)
        self.stream.flush()

    def _rich(self) -> Console:
        from rich.console import Console

        if self._console is None:
            self._console = Console(
                file=cast(TextIO, self.stream), highlight=False, no_color=not self.colour
            )
        self._console.width = self.width
        return self._console


def percent(probability: float) -> str:
    """A probability as a person would say it."""
    if probability >= 0.0995:
        return f"{probability:.0%}"
    if probability >= 0.001:
        return f"{probability:.1%}"
    return "<0.1%"
