"""The session on a terminal: history, search, completion, several lines, a status line.

The prompt is prompt_toolkit's; while the model writes there is none, and the text goes straight to
the terminal. What is typed meanwhile is not echoed into the text, and waits for the next prompt.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import is_searching
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.patch_stdout import patch_stdout

from ..console import printable
from .lines import COMMANDS, answer
from .session import Session
from .status import status


class Commands(Completer):
    """Completes slash commands and what comes after them."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
        """The completions of the text before the cursor."""
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        name, space, rest = text[1:].partition(" ")
        if not space:
            for command in COMMANDS.values():
                if command.name.startswith(name):
                    shown = f"/{command.name}"
                    yield Completion(shown, -len(text), display_meta=command.help)
            return
        known = COMMANDS.get(name)
        if known is None or known.completions is None:
            return
        words = known.completions(self.session)
        for word in words:
            if word.startswith(rest):
                why = printable(words[word]) if isinstance(words, Mapping) else None
                yield Completion(word, -len(rest), display_meta=why)


def talk(session: Session, first: str | None = None) -> None:
    """Ask for lines until the writer leaves.

    Args:
        session: The session.
        first: A line to begin with.
    """
    prompt = _prompt(session)
    if first is not None:
        _answer(session, first)
    while session.signals.code is None and not session.screen.gone:
        if session.leaving and session.may_leave():
            return
        try:
            _answer(session, _ask(session, prompt))
        except KeyboardInterrupt:
            session.screen.note("Ctrl-D or /quit leaves")
        except EOFError:
            session.leaving = True
        except OSError:
            session.screen.gone = True


def _answer(session: Session, line: str) -> None:
    with _no_echo():
        answer(session, line)


def _ask(session: Session, prompt: PromptSession[str]) -> str:
    def end(code: int) -> None:
        if prompt.app.is_running:
            prompt.app.exit(exception=SystemExit(code))
        else:
            raise SystemExit(code)

    session.signals.at_prompt = end
    session.screen.say()
    try:
        # The model may have something to say while it is loaded.
        with patch_stdout():
            return prompt.prompt("> ", pre_run=lambda: _when_loaded(session, prompt))
    finally:
        session.signals.at_prompt = None


def _when_loaded(session: Session, prompt: PromptSession[str]) -> None:
    """Once the model is there show so; where it can't be loaded, leave with the reason."""
    app, loading = prompt.app, session.loading
    loop = app.loop

    def here() -> None:
        if app.is_running:
            error = loading.exception()
            if error is not None:
                app.exit(exception=error)
            app.invalidate()

    def tell(_: object) -> None:
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the prompt has ended meanwhile
                loop.call_soon_threadsafe(here)

    if not loading.done():
        loading.add_done_callback(tell)


def _prompt(session: Session) -> PromptSession[str]:
    return PromptSession(
        history=_history(),
        auto_suggest=AutoSuggestFromHistory(),
        completer=Commands(session),
        complete_while_typing=True,
        enable_history_search=False,
        multiline=True,
        key_bindings=_keys(),
        bottom_toolbar=lambda: printable(status(session, session.screen.width)),
        prompt_continuation="  ",
        color_depth=None if session.screen.colour else ColorDepth.MONOCHROME,
        enable_open_in_editor=True,
        enable_suspend=True,
        reserve_space_for_menu=6,
    )


def _keys() -> KeyBindings:
    """Enter sends, Alt-Enter begins a new line; a paste is taken as it is."""
    keys = KeyBindings()

    @keys.add("enter", filter=~is_searching)
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def _history() -> History:
    """Lines of earlier sessions; without a place to write, of this one only."""
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


class _LastingHistory(FileHistory):
    """History that goes on without its file where that can't be written."""

    def store_string(self, string: str) -> None:
        with contextlib.suppress(OSError):
            super().store_string(string)


@contextlib.contextmanager
def _no_echo() -> Iterator[None]:
    """Keys that are pressed while the model writes don't show in its text; Ctrl-C works."""
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
