"""Sessions on a terminal or a pipe: the prompt, the answer to a line, opening and leaving.

:class:`Repl` joins a session with a screen, signals and the commands. A line that begins with a
slash is a command; any other line joins the story, and the model goes on. On a terminal the prompt
is prompt_toolkit's, with history, search, completion and a status line. While the model writes
there is no prompt; keys that are pressed meanwhile are not echoed and wait for the next one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import is_searching
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.patch_stdout import patch_stdout

from ..console import counted, printable
from ..errors import InputError, RunError, UserError
from ..files import from_home
from ..generation.results import Generated
from ..generation.sampling.settings import GenerationSettings
from ..story.file import StoryFile, new_path, stories, story_file
from ..story.tree import Passage, Story
from .screen import Screen, Signals, history, no_echo, status
from .session import Learn, Load, Session, StyledModel, import_file, imported

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel

Explain = Callable[["LoadedModel", str, str], str]

EXAMPLES = (
    "Once upon a time in a kingdom far away,",
    "The night ferry was late, and",
    "In a world where magic was forbidden,",
)
HELP = (
    "A line of text joins the story and the model goes on; an empty line lets it go on.\n"
    "Alt-Enter begins a new line, \\n stands for one, +text joins without a space, // is a slash.\n"
    "Ctrl-C stops the writing and keeps what is there, Ctrl-D leaves. Everything is saved as it "
    "comes."
)
PROMPT = "> "


class Repl:
    """A session on a screen.

    Args:
        session: The session; its notes go to the screen from now on.
        screen: The terminal or stream.
        commands: The slash commands by name.
        explain: Says why the model wrote a word: ``explain(model, text, word)``.
    """

    def __init__(
        self,
        session: Session,
        screen: Screen,
        commands: Mapping[str, Command],
        explain: Explain | None = None,
    ) -> None:
        self.session = session
        self.screen = screen
        self.commands = commands
        self.explain = explain
        self.signals = Signals()
        self.leaving = False
        self.offered: list[int] = []  # passages that /pick can take
        self._warned = False  # that the story is not saved
        session.notify = screen.note

    def write(
        self,
        parent: int | None,
        seeds: Sequence[int],
        *,
        adapters: bool = True,
        shown: bool = True,
    ) -> list[tuple[Passage | None, Generated]]:
        """Write one passage per seed; see :meth:`Session.write`.

        Args:
            parent: The passage before them; the last one by default.
            seeds: One per passage.
            adapters: Whether the adapters are on.
            shown: Whether the first passage is shown as it comes.
        """
        with self.signals.writing():
            return self.session.write(
                parent,
                seeds,
                show=self.screen.flow if shown else None,
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


def find(commands: Mapping[str, Command], name: str) -> Command:
    """The command of a name, or of the beginning of one where it is the only one.

    Raises:
        InputError: There is none, or there are several.
    """
    if name in commands:
        return commands[name]
    begun = [known for known in commands if name and known.startswith(name)]
    if len(begun) == 1:
        return commands[begun[0]]
    if begun:
        raise InputError(f"/{name} could be {', '.join('/' + known for known in begun)}")
    near = difflib.get_close_matches(name, commands, n=1, cutoff=0.5)
    raise InputError(
        f"there is no command /{name}",
        f"did you mean /{near[0]}?" if near else "/help lists them; // begins a line with a slash",
    )


def answer(repl: Repl, line: str) -> None:
    """Do what a line asks, show what went wrong, and save."""
    screen = repl.screen
    try:
        # A surrogate, from input that is not UTF-8, could not be written to a file.
        _do(repl, line.encode("utf-8", "replace").decode())
    except UserError as error:
        screen.error(error)
    except KeyboardInterrupt:
        screen.note("stopped")
    except MemoryError:
        screen.say("error: there is not enough memory")
    except OSError as error:  # a drive that is gone, a name that is too long
        place = f"{str(error.filename)[:60]}: " if error.filename else ""
        screen.error(RunError(f"{place}{error.strerror or error}"))
    except Exception as error:  # whatever it is, the story must not be lost with the session
        if os.environ.get("CWGPT_DEBUG"):
            traceback.print_exc()
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        screen.error(RunError(f"{type(error).__name__}: {reason}", "this should not happen"))
    try:
        with repl.signals.writing():  # Ctrl-C must not interrupt the save
            repl.autosave()
    except KeyboardInterrupt:
        screen.note("stopped")


def _do(repl: Repl, line: str) -> None:
    bare = line.strip()
    if bare in ("help", "quit", "exit", "?"):
        bare = {"exit": "/quit", "?": "/help"}.get(bare, f"/{bare}")
    if bare.startswith("/") and not bare.startswith("//"):
        name, _, rest = bare[1:].partition(" ")
        find(repl.commands, name.lower()).run(repl, rest)
        return
    text = typed(line[line.index("//") + 1 :] if bare.startswith("//") else line)
    if text.strip():
        story = repl.session.story
        story.write(joined(story.text, text))
        repl.autosave()
        repl.offered = []
    repl.go_on()


def run(
    settings: GenerationSettings,
    load: Load,
    model_name: str,
    commands: Mapping[str, Command],
    *,
    story: str | None = None,
    preset: str | None = None,
    first: str | None = None,
    explain: Explain | None = None,
    learn: Learn | None = None,
    at_once: bool = False,
) -> int:
    """Hold a session until the user leaves.

    Args:
        settings: The generation settings at first.
        load: Loads a model by name; called in a thread of its own.
        model_name: Name of the first model.
        commands: The slash commands by name.
        story: The story's file; a new one, named after the day, by default.
        preset: The preset that the settings began from.
        first: A first line.
        explain: Says why the model wrote a word: ``explain(model, text, word)``.
        learn: Orders drafts by the choices of a story.
        at_once: Load the model before the first prompt: it may have to be downloaded.

    Returns:
        The exit code.

    Raises:
        UserError: The story can't be opened or the model can't be loaded.
    """
    file, tree, remarks = _opened(story)
    screen = Screen()
    on_terminal = screen.terminal and sys.stdin.isatty()
    try:
        loading = _start(load, model_name, tree, settings, wait=at_once or not on_terminal)
        session = Session(file, tree, settings, load, loading, model_name, preset, learn=learn)
        repl = Repl(session, screen, commands, explain)
        with repl.signals.watched():
            for remark in remarks:
                screen.note(remark)
            _greet(repl, unnamed=story is None)
            try:
                (talk if on_terminal else talk_plainly)(repl, first)
            finally:
                code = _leave(repl)
                session.file.close()
                session.store_readings()
                if screen.gone or repl.signals.code == 129:
                    # The interpreter would fail to flush to a closed terminal.
                    os._exit(repl.signals.code or 129)
        return code if repl.signals.code is None else repl.signals.code
    finally:
        file.close()


def _opened(name: str | None) -> tuple[StoryFile, Story, list[str]]:
    """The file, the story in it, and remarks; one of another program becomes a new file."""
    if name is None:
        return StoryFile(new_path()), Story(), []
    path = from_home(name)
    found = imported(path) if path.exists() or "#" in name else None
    if found is None:
        file = story_file(name)
        story = file.open()
        return file, story, story.remarks
    file, remarks = import_file(path)
    return file, found.story, found.notes() + remarks


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
    from ..generation.decoder import Request
    from ..story.context import story_view

    try:
        view = story_view(model.loaded, story)
    except UserError:
        return  # the first passage will raise it again
    one = settings.changed({"max_new_tokens": 1, "min_new_tokens": 0, "best_of": None})
    request = Request(view.prompt, 0, view.memory, view.note)
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
    with no_echo():
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

    def __init__(self, session: Session, commands: Mapping[str, Command]) -> None:
        self.session = session
        self.commands = commands

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
        """The completions of the text before the cursor."""
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        name, space, rest = text[1:].partition(" ")
        if not space:
            for command in self.commands.values():
                if command.name.startswith(name):
                    shown = f"/{command.name}"
                    yield Completion(shown, -len(text), display_meta=command.help)
            return
        known = self.commands.get(name)
        if known is None or known.completions is None:
            return
        words = known.completions(self.session)
        for word in words:
            if word.startswith(rest):
                why = printable(words[word]) if isinstance(words, Mapping) else None
                yield Completion(word, -len(rest), display_meta=why)


def _prompt(repl: Repl) -> PromptSession[str]:
    return PromptSession(
        history=history(),
        auto_suggest=AutoSuggestFromHistory(),
        completer=CommandCompleter(repl.session, repl.commands),
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
