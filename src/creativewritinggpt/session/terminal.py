"""Sessions on a terminal or a pipe: opening, the prompt, the plain line loop, leaving.

On a terminal the prompt is prompt_toolkit's, with history, search, completion and a status line.
While the model writes there is no prompt; keys that are pressed meanwhile are not echoed and wait
for the next one.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
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

from ..console import counted, printable
from ..errors import RunError, UserError
from ..generation.sampling.settings import GenerationSettings
from ..story.file import StoryFile, new_path, stories, story_file
from ..story.tree import Story
from .commands import COMMANDS, answer
from .repl import Explain, Repl
from .screen import Screen, status
from .session import Load, Session, StyledModel

EXAMPLES = (
    "Once upon a time in a kingdom far away,",
    "The night ferry was late, and",
    "In a world where magic was forbidden,",
)
PROMPT = "> "


def run(
    settings: GenerationSettings,
    load: Load,
    model_name: str,
    *,
    story: str | None = None,
    preset: str | None = None,
    first: str | None = None,
    explain: Explain | None = None,
    at_once: bool = False,
) -> int:
    """Hold a session until the user leaves.

    Args:
        settings: The generation settings at first.
        load: Loads a model by name; called in a thread of its own.
        model_name: Name of the first model.
        story: The story's file; a new one, named after the day, by default.
        preset: The preset that the settings began from.
        first: A first line.
        explain: Says why the model wrote a word: ``explain(model, text, word)``.
        at_once: Load the model before the first prompt: it may have to be downloaded.

    Returns:
        The exit code.

    Raises:
        UserError: The story can't be opened or the model can't be loaded.
    """
    file = story_file(story) if story is not None else StoryFile(new_path())
    tree = file.open() if story is not None else Story()
    screen = Screen()
    on_terminal = screen.terminal and sys.stdin.isatty()
    try:
        loading = _start(load, model_name, tree, settings, wait=at_once or not on_terminal)
        session = Session(file, tree, settings, load, loading, model_name, preset)
        repl = Repl(session, screen, explain)
        with repl.signals.watched():
            _greet(repl, unnamed=story is None)
            try:
                (talk if on_terminal else talk_plainly)(repl, first)
            finally:
                code = _leave(repl)
                session.file.close()
                if screen.gone or repl.signals.code == 129:
                    # The interpreter would fail to flush to a closed terminal.
                    os._exit(repl.signals.code or 129)
        return code if repl.signals.code is None else repl.signals.code
    finally:
        file.close()


def _start(
    load: Load, name: str, story: Story, settings: GenerationSettings, *, wait: bool
) -> Future[StyledModel]:
    """Load the model and prefill the story, in the background unless ``wait``."""
    loading: Future[StyledModel] = Future()

    def work() -> None:
        try:
            model = load(name)
            _warm(model, story, settings)
        except BaseException as error:
            loading.set_exception(error)
        else:
            loading.set_result(model)

    if wait:
        loading.set_result(load(name))
    else:
        threading.Thread(target=work, name="loading", daemon=True).start()
    return loading


def _warm(model: StyledModel, story: Story, settings: GenerationSettings) -> None:
    """Prefill the story, so that the first token comes at once."""
    from ..generation import engine
    from ..story.context import story_view

    try:
        view = story_view(model.loaded, story)
    except UserError:
        return  # the first passage will raise it again
    one = settings.changed({"max_new_tokens": 1, "min_new_tokens": 0, "best_of": None})
    request = engine.Request(view.prompt, 0, view.memory, view.note)
    engine.write_all(model.loaded, [request], one, warn=lambda text: None)


def _greet(repl: Repl, *, unnamed: bool) -> None:
    screen, session = repl.screen, repl.session
    if session.story.passages:
        title = session.story.state.title or session.file.path
        screen.say(f"{title}: {counted(session.words, 'word')}")
        repl.show_end()
    else:
        screen.say("Write a beginning, such as", "")
        for example in EXAMPLES:
            screen.say(f"  {example}")
        earlier = stories(session.file.path) if unnamed else []
        if earlier:
            screen.note(f"your last story is {earlier[0]}; /load lists them")
    screen.note("/help lists the commands, Ctrl-D leaves")


def _leave(repl: Repl) -> int:
    """Save unsaved changes; the exit code."""
    repl.autosave()
    if repl.session.unsaved:
        repl.screen.error(RunError(f"the last changes are not in {repl.session.file.path}"))
        return 1
    return 0


def talk_plainly(repl: Repl, first: str | None = None) -> None:
    """Answer lines of stdin until the user leaves or the input ends.

    Args:
        repl: The session on its screen.
        first: A line to begin with.
    """
    terminal = sys.stdin.isatty()
    if first is not None:
        answer(repl, first)
    while repl.signals.code is None and not repl.screen.gone:
        if repl.leaving and repl.may_leave():
            return
        if terminal:
            repl.screen.say()
        try:
            # Without a terminal stdout may be read by a program, so there is no prompt.
            line = input(PROMPT if terminal else "")
        except EOFError:
            repl.screen.end_flow()
            repl.leaving = True
        except OSError:
            repl.screen.lose()
        except KeyboardInterrupt:
            repl.screen.say()
            repl.screen.note("Ctrl-D or /quit leaves")
        else:
            answer(repl, line)


def talk(repl: Repl, first: str | None = None) -> None:
    """Answer lines of the terminal's prompt until the user leaves.

    Args:
        repl: The session on its screen.
        first: A line to begin with.
    """
    prompt = _prompt(repl)
    if first is not None:
        _answer(repl, first)
    while repl.signals.code is None and not repl.screen.gone:
        if repl.leaving and repl.may_leave():
            return
        try:
            _answer(repl, _ask(repl, prompt))
        except KeyboardInterrupt:
            repl.screen.note("Ctrl-D or /quit leaves")
        except EOFError:
            repl.leaving = True
        except OSError:
            repl.screen.lose()


def _answer(repl: Repl, line: str) -> None:
    with _no_echo():
        answer(repl, line)


def _ask(repl: Repl, prompt: PromptSession[str]) -> str:
    def end(code: int) -> None:
        if prompt.app.is_running:
            prompt.app.exit(exception=SystemExit(code))
        else:
            raise SystemExit(code)

    repl.signals.at_prompt = end
    repl.screen.say()
    try:
        with patch_stdout():  # loading the model may print
            return prompt.prompt(PROMPT, pre_run=lambda: _when_loaded(repl.session, prompt))
    finally:
        repl.signals.at_prompt = None


def _when_loaded(session: Session, prompt: PromptSession[str]) -> None:
    """Once the model is loaded redraw the status line; on an error leave with it."""
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


class CommandCompleter(Completer):
    """Completes slash commands and their arguments."""

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


def _prompt(repl: Repl) -> PromptSession[str]:
    return PromptSession(
        history=_history(),
        auto_suggest=AutoSuggestFromHistory(),
        completer=CommandCompleter(repl.session),
        complete_while_typing=True,
        enable_history_search=False,
        multiline=True,
        key_bindings=_keys(),
        bottom_toolbar=lambda: printable(status(repl.session, repl.screen.width)),
        prompt_continuation="  ",
        color_depth=None if repl.screen.colour else ColorDepth.MONOCHROME,
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


class _LastingHistory(FileHistory):
    """History that is kept in memory where its file can't be written."""

    def store_string(self, string: str) -> None:
        with contextlib.suppress(OSError):
            super().store_string(string)


def _history() -> History:
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
def _no_echo() -> Iterator[None]:
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
