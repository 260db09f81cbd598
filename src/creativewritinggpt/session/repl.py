"""Opening a session: the story, the model on its way, and the way of talking that fits."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future

from .. import console
from ..errors import RunError, UserError
from ..generation.sampling.settings import GenerationSettings
from ..story.file import StoryFile, new_path, stories, story_file
from ..story.tree import Story
from .screen import Screen
from .session import Explain, Load, Session, Voice
from .story_commands import show_end

EXAMPLES = (
    "Once upon a time in a kingdom far away,",
    "The night ferry was late, and",
    "In a world where magic was forbidden,",
)


def run(
    settings: GenerationSettings,
    load: Load,
    model: str,
    *,
    story: str | None = None,
    preset: str | None = None,
    first: str | None = None,
    explain: Explain | None = None,
    at_once: bool = False,
) -> int:
    """Hold a session until the writer leaves.

    Args:
        settings: How to write at first.
        load: Loads a model by name; called in a thread of its own.
        model: Its name.
        story: The story's file; without it a new one, named after the day.
        preset: The preset that the settings began from.
        first: A first line.
        explain: Says why the model wrote a word: ``explain(writer, text, word)``.
        at_once: Load the model before the first prompt: it may have to be fetched.

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
        loading = _start(load, model, tree, settings, wait=at_once or not on_terminal)
        session = Session(file, tree, settings, screen, load, loading, model, preset, explain)
        with session.signals.watched():
            _greet(session, unnamed=story is None)
            talk = _talk(on_terminal)
            try:
                talk(session, first)
            finally:
                code = _leave(session)
                session.file.close()
                if screen.gone or session.signals.code == 129:
                    # The interpreter would try to flush to a terminal that is no more.
                    os._exit(session.signals.code or 129)
        return code if session.signals.code is None else session.signals.code
    finally:
        file.close()


def _talk(on_terminal: bool) -> Callable[[Session, str | None], None]:
    if on_terminal:
        from .terminal import talk

        return talk
    from .plain import talk as plain_talk

    return plain_talk


def _start(
    load: Load, model: str, story: Story, settings: GenerationSettings, *, wait: bool
) -> Future[Voice]:
    """Load the model in the background, and let it read the story."""
    loading: Future[Voice] = Future()

    def work() -> None:
        try:
            voice = load(model)
            _warm(voice, story, settings)
        except BaseException as error:
            loading.set_exception(error)
        else:
            loading.set_result(voice)

    if wait:
        loading.set_result(load(model))
    else:
        threading.Thread(target=work, name="loading", daemon=True).start()
    return loading


def _warm(voice: Voice, story: Story, settings: GenerationSettings) -> None:
    """Read the story once, so that the first word comes at once."""
    from ..generation import engine
    from ..story.context import story_view

    try:
        seen = story_view(voice.writer, story)
    except UserError:
        return  # said when it matters
    one = settings.changed({"max_new_tokens": 1, "min_new_tokens": 0, "best_of": None})
    request = engine.Request(seen.prompt, 0, seen.memory, seen.note)
    engine.write_all(voice.writer, [request], one, warn=lambda text: None)


def _greet(session: Session, *, unnamed: bool) -> None:
    screen, story = session.screen, session.story
    if story.passages:
        words = len(story.text.split())
        screen.say(f"{story.state.title or session.file.path}: {console.counted(words, 'word')}")
        show_end(session)
    else:
        screen.say("Write a beginning, such as", "")
        for example in EXAMPLES:
            screen.say(f"  {example}")
        earlier = stories(session.file.path) if unnamed else []
        if earlier:
            screen.note(f"your last story is {earlier[0]}; /load lists them")
    screen.note("/help lists the commands, Ctrl-D leaves")


def _leave(session: Session) -> int:
    """Save what is not saved; 1 where that fails."""
    if not session.unsaved:
        return 0
    try:
        session.save()
    except UserError as error:
        session.screen.error(error)
        session.screen.error(RunError(f"the last changes are not in {session.file.path}"))
        return 1
    return 0
