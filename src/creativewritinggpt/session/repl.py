"""The line-driven interface of a session: what its commands and its terminals share.

:class:`Repl` joins a session with a screen and signals. Commands are functions of a Repl and the
rest of the line; they are registered in :mod:`.commands`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, RunError, UserError
from ..generation.results import Generated
from ..story.tree import Passage
from .screen import Screen
from .session import Session

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel

Explain = Callable[["LoadedModel", str, str], str]

# Editors that take +N as the line to begin at.
_TAKE_LINE = {"vi", "vim", "nvim", "nano", "emacs", "micro", "joe", "ne", "kak"}
_USUAL_EDITORS = ("nano", "vim", "vi")


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


class Repl:
    """A session on a screen.

    Args:
        session: The session; its notes go to the screen from now on.
        screen: The terminal or stream.
        explain: Says why the model wrote a word: ``explain(model, text, word)``.
    """

    def __init__(self, session: Session, screen: Screen, explain: Explain | None = None) -> None:
        self.session = session
        self.screen = screen
        self.explain = explain
        self.signals = Signals()
        self.leaving = False
        self.offered: list[int] = []  # passages that /pick can take
        self.exported: set[Path] = set()  # files that /export may replace
        self._warned = False  # that the story is not saved
        session.notify = screen.note

    def write(
        self, parent: int | None, seeds: Sequence[int], *, adapters: bool = True
    ) -> list[tuple[Passage | None, Generated]]:
        """Write one passage per seed, the first shown as it comes; see :meth:`Session.write`."""
        with self.signals.writing():
            return self.session.write(
                parent,
                seeds,
                show=self.screen.flow,
                stopped=lambda: self.signals.stop or self.screen.gone,
                adapters=adapters,
            )

    def go_on(
        self, parent: int | None = None, *, seed: int | None = None, did: str = ""
    ) -> Passage | None:
        """Let the model write the next passage and add it to the branch.

        Args:
            parent: The passage before it; the last one by default.
            seed: Its random seed; that of the settings, or a new one, by default.
            did: Name of the operation, for undo.

        Returns:
            The passage, or None where the model wrote nothing.
        """
        seed = self.session.new_seed() if seed is None else seed
        [(passage, generated)] = self.write(parent, [seed])
        self.screen.end_flow()
        if generated.finish_reason == "stop" and not self.session.settings.stop:
            self.screen.note("the model ends the text here")
        if passage is not None:
            self.session.story.go(passage.id, did or "a passage by the model")
        return passage

    def heading(self, number: int, label: str) -> None:
        """Show the heading of a passage that /pick can take."""
        self.screen.say()
        self.screen.say(f"{number}  {label}", "bold")

    def offer(self, passages: Sequence[int], labels: Sequence[str], shown: int = 0) -> None:
        """Show passages by number for /pick; the first ``shown`` are on the screen already."""
        self.offered = list(passages)
        for number, (passage, label) in enumerate(zip(passages, labels, strict=True), 1):
            if number > shown:
                self.heading(number, label)
                self.screen.flow(self.session.story.passages[passage].text.strip("\n"))
            self.screen.end_flow()
        if passages:
            self.screen.say()
            self.screen.note("/pick NUMBER takes one")

    def show_end(self, most: int = 600) -> None:
        """Show the last ``most`` characters of the story, from a paragraph on if there is one."""
        text = self.session.story.text
        if not text:
            return
        start = max(0, len(text) - most)
        if start:
            cut = text.find("\n", start, len(text) - 80)
            start = cut + 1 if cut >= 0 else text.find(" ", start, start + 40) + 1 or start
        self.screen.say()
        self.screen.flow(("… " if start else "") + text[start:].lstrip("\n"))
        self.screen.end_flow()

    def autosave(self) -> None:
        """Save if anything changed; an error is shown, and saving tried again next time."""
        if self.session.unsaved:
            try:
                self.session.save()
            except UserError as error:
                self.screen.error(error)

    def may_leave(self) -> bool:
        """Save unsaved changes; False the first time that this fails."""
        self.leaving = False
        self.autosave()
        if self.session.unsaved and not self._warned:
            self._warned = True
            self.screen.note("not saved: /save FILE keeps it elsewhere; again to leave")
            return False
        return True


@dataclasses.dataclass(frozen=True)
class Command:
    """A slash command.

    Attributes:
        name: Its name without the slash.
        words: Its arguments, for the help.
        help: One line on what it does.
        run: Called with the rest of the line.
        completions: Completions of the argument; a mapping gives each an explanation.
    """

    name: str
    words: str
    help: str
    run: Callable[[Repl, str], None]
    completions: Callable[[Session], Iterable[str]] | None = None


def whole_number(
    text: str, what: str, *, low: int = 1, high: int = 10_000, default: int = 1
) -> int:
    """A typed whole number; ``default`` where nothing was typed.

    Raises:
        InputError: It is none, or out of range.
    """
    text = text.strip()
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high):
        raise InputError(f"{what} takes a number from {low} to {high:,}, not '{text[:60]}'")
    return int(text)


def typed(text: str) -> str:
    r"""Typed text with ``\n`` as a line end and without blanks at line ends."""
    text = text.replace("\\n", "\n")
    return "\n".join(line.rstrip(" \t") for line in text.split("\n"))


def joined(before: str, text: str) -> str:
    """``text`` as it is appended to ``before``: with a space where one is missing."""
    if text.startswith("+"):
        return text[1:]
    if not before or before[-1].isspace() or text[0].isspace():
        return text
    # Closing marks and the commas of a dialogue tag follow the word before them.
    return text if text[0] in ",.;:!?…)]}’”" else f" {text}"


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
