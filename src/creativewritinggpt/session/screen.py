"""A session's terminal: streamed text, tables, heat, the status line, signals, the editor.

Control characters never reach the terminal, since model output and files may hold any characters.
Colour follows the terminal and ``NO_COLOR``, and nothing is said by colour alone.
"""

from __future__ import annotations

import codecs
import contextlib
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from ..console import counted, printable
from ..errors import InputError, RunError, UserError

if TYPE_CHECKING:
    from rich.console import Console

    from ..generation.results import Token
    from .session import Session

# Lowest probability and background (256-colour palette) of each level; the text on it is black.
_HEAT = ((0.5, ""), (0.2, "230"), (0.05, "222"), (0.01, "215"), (0.0, "209"))
_UNDERLINED = 0.05
_MARKED = 0.2  # without colour, percentages stand after tokens less likely than this

# Editors that take +N as the line to begin at.
_TAKE_LINE = {"vi", "vim", "nvim", "nano", "emacs", "micro", "joe", "ne", "kak"}
_USUAL_EDITORS = ("nano", "vim", "vi")


class _Stream:
    """A stream that may go away, as a closed terminal does; a failed write only sets ``gone``."""

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
    """A terminal or any other stream.

    Args:
        stream: The stream; stdout by default.
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
        """Whether the stream is closed."""
        return self.stream.gone

    def lose(self) -> None:
        """Treat the stream as closed."""
        self.stream.gone = True

    @property
    def width(self) -> int:
        """Number of columns."""
        return shutil.get_terminal_size((100, 24)).columns if self.terminal else 100

    def flow(self, text: str) -> None:
        """Show story text as it comes; on a terminal lines break between words."""
        text = printable(text)
        if not self._column and not self._word:
            text = text.lstrip(" ")  # of a passage that continues a line
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
        """Show the word that is held back, and end the line."""
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
            word = bare + "\n"  # its space would begin the next line
        self.stream.write(word)
        self._column = 0 if word.endswith("\n") else self._column + cell_len(word)

    def say(self, text: str = "", style: str = "") -> None:
        """Show a message."""
        self.end_flow()
        from rich.text import Text

        self._rich().print(Text(printable(text), style=style), soft_wrap=not self.terminal)
        self.stream.flush()

    def note(self, text: str) -> None:
        """Show a remark."""
        self.say(f"[{text}]", "dim")

    def error(self, error: UserError) -> None:
        """Show an error and its advice."""
        self.say(f"error: {error.message}", "bold")
        if error.advice:
            self.say(error.advice)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Show a table; columns whose heading ends in ``#`` are right-aligned."""
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
        """Show the probability of each piece of text: by colour, or as percentages without.

        Args:
            pieces: Texts and their probabilities, 0…1.
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
    """A probability as a short percentage."""
    if probability >= 0.0995:
        return f"{probability:.0%}"
    if probability >= 0.001:
        return f"{probability:.1%}"
    return "<0.1%"


def brief(text: str, most: int = 60, *, last: bool = False) -> str:
    """The beginning of a text, or its end, on one line; cut between words."""
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    if last:
        text = text[2 - most :]
        return "… " + (text.partition(" ")[2] or text)
    text = text[: most - 2]
    return (text.rpartition(" ")[0] or text) + " …"


def visible(text: str) -> str:
    """A token's text with visible blanks."""
    return text.replace("\n", "↵").replace("\t", "→").replace(" ", "·") or "∅"


def characters(tokens: Sequence[Token]) -> list[tuple[str, float]]:
    """Text and probability per token; a split character belongs to its last token."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return [(decoder.decode(token.bytes), math.exp(token.logprob)) for token in tokens]


def status(session: Session, width: int = 1000) -> str:
    """The status line: model, preset, seed, context used, tokens per second, words, file.

    Args:
        session: The session.
        width: Number of columns; what matters least is left out first.
    """
    name = "/".join(Path(session.model_name).parts[-2:])
    # Parts with their priorities.
    parts = [(4, name if session.ready else f"loading {name}")]
    if session.ready:
        weights = [weight for weight in session.model.adapters.values() if weight != 1]
        parts += [(4, f"style {weight:g}") for weight in weights]
    parts += [(3, f"preset {session.preset_name}")] if session.preset_name else []
    if session.settings.seed is not None:
        parts.append((3, f"seed {session.settings.seed}"))
    else:
        last = session.last_seed
        parts.append((2, "new seeds" if last is None else f"last seed {last}"))
    if session.ready:
        try:
            view = session.view()
            parts.append((5, f"window {view.fill:.0%} of {view.context_length:,}"))
        except UserError:
            parts.append((5, "window over-full: shorten memory or note"))
    if session.tokens_per_second:
        parts.append((1, f"{session.tokens_per_second:.0f} tokens/s"))
    parts.append((1, counted(session.words, "word")))
    parts.append((6, "NOT SAVED") if session.unsaved else (0, session.file.path.name))
    whole = _fitted(parts, 10_000)
    if _fitted(parts, width) == whole:
        return whole
    # The context length is left out before any part.
    return _fitted([(weight, text.partition(" of ")[0]) for weight, text in parts], width)


def _fitted(parts: list[tuple[int, str]], width: int) -> str:
    """The parts that fit into a line; those of the lowest priority are left out first."""
    from rich.cells import cell_len

    parts = list(parts)
    while True:
        line = " · ".join(text for _, text in parts)
        if cell_len(line) <= width or len(parts) < 2:
            return line
        least = min(weight for weight, _ in parts)
        last = max(place for place, (weight, _) in enumerate(parts) if weight == least)
        del parts[last]


class Signals:
    """Ctrl-C and requests to end (SIGTERM, SIGHUP), without losing what is being written.

    While the model writes, Ctrl-C sets :attr:`stop`, which is read between two tokens; a second one
    raises ``KeyboardInterrupt``. A request to end stops the writing in the same way and then ends
    the session; at the prompt it ends it at once. Exit codes are 128 + the signal's number.

    Attributes:
        stop: Whether the writing should stop.
        code: The exit code, once the session was asked to end.
        at_prompt: Called with the code when that happens at the prompt; ``SystemExit`` by default.
    """

    def __init__(self) -> None:
        self.stop = False
        self.code: int | None = None
        self.at_prompt: Callable[[int], None] | None = None
        self._writing = False

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Handle requests to end within the block."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
        before = {name: signal.signal(getattr(signal, name), self._end) for name in names}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(getattr(signal, name), handler)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Let Ctrl-C set :attr:`stop` within the block."""
        self.stop = self.code is not None
        main = threading.current_thread() is threading.main_thread()
        before: Any = signal.signal(signal.SIGINT, self._stop) if main else None
        self._writing = True
        try:
            yield
        finally:
            self._writing = False
            if main:
                signal.signal(signal.SIGINT, before)

    def _stop(self, *_: Any) -> None:
        if self.stop:
            raise KeyboardInterrupt
        self.stop = True

    def _end(self, number: int, _: Any) -> None:
        self.code = 128 + number
        if self._writing:
            self.stop = True
        elif self.at_prompt is not None:
            self.at_prompt(self.code)
        else:
            raise SystemExit(self.code)


def edit(text: str) -> str:
    """``text`` as changed in the user's editor, which begins at its last line.

    Raises:
        InputError: There is no editor.
        RunError: It ended with an error; nothing is changed then.
    """
    words = _editor()
    handle, name = tempfile.mkstemp(prefix="story-", suffix=".txt")
    path = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
        if Path(words[0]).name in _TAKE_LINE:
            words.append(f"+{text.count(chr(10)) + 1}")
        try:
            code = subprocess.call([*words, name])
        except OSError as error:
            raise InputError(
                f"the editor {words[0]} can't be started: {error.strerror}",
                "set EDITOR to one that is installed",
            ) from error
        if code:
            raise RunError(f"{words[0]} ended with code {code}", "the text is as it was")
        try:
            new = path.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RunError("what the editor left is no UTF-8 text", "the text is as it was") from (
                error
            )
    finally:
        path.unlink(missing_ok=True)
    new = new.replace("\r\n", "\n") if "\r" not in text else new
    # Most editors end the last line.
    return new[:-1] if new.endswith("\n") and not text.endswith("\n") else new


def _editor() -> list[str]:
    given = os.environ.get("VISUAL") or os.environ.get("EDITOR") or ""
    words = shlex.split(given, posix=os.name != "nt")
    if not words:
        words = next(([found] for name in _USUAL_EDITORS if (found := shutil.which(name))), [])
    if not words:
        raise InputError("no editor is set", "set EDITOR, or give the text: /edit TEXT")
    return words


class _LastingHistory(FileHistory):
    """History that is kept in memory where its file can't be written."""

    def store_string(self, string: str) -> None:
        with contextlib.suppress(OSError):
            super().store_string(string)


def history() -> History:
    """Lines of earlier sessions; of this one alone where there is no place for a file."""
    if os.name == "nt":
        root = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    else:
        root = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    path = root / "creativewritinggpt" / "history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return _LastingHistory(str(path))


@contextlib.contextmanager
def no_echo() -> Iterator[None]:
    """Don't echo keys within the block; Ctrl-C works."""
    try:
        import termios

        number = sys.stdin.fileno()
        before = termios.tcgetattr(number)
    except Exception:  # no terminal, or none that can do that
        yield
        return
    quiet = termios.tcgetattr(number)
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    try:
        termios.tcsetattr(number, termios.TCSANOW, quiet)
        yield
    finally:
        with contextlib.suppress(termios.error):  # the terminal may be gone
            termios.tcsetattr(number, termios.TCSANOW, before)
