"""A line that the writer typed, and what becomes of it.

A line that begins with a slash is a command; everything else is story, and the model goes on after
it. Text and the story before it are joined as a writer would join them.
"""

from __future__ import annotations

import os
import traceback

from ..errors import RunError, UserError
from . import file_commands, looking_commands, setup_commands, story_commands
from .command import Command, find, joined, typed
from .session import Session
from .writing import go_on

HELP = (
    "A line of text joins the story and the model goes on; an empty line lets it go on.\n"
    "Alt-Enter begins a new line, \\n stands for one, +text joins without a space, // is a slash.\n"
    "Ctrl-C stops the writing and keeps what is there, Ctrl-D leaves. Everything is saved as it "
    "comes."
)


def _help(session: Session, rest: str) -> None:
    name = rest.strip().lstrip("/")
    if name:
        command = find(name, COMMANDS)
        session.screen.say(f"/{command.name} {command.words}".rstrip(), "bold")
        session.screen.say(command.help)
        return
    rows: list[tuple[str, str]] = []
    for group in _GROUPS:
        rows += [("", "")] if rows else []
        rows += [(f"/{one.name} {one.words}".rstrip(), one.help) for one in group]
    session.screen.table(["command", "what it does"], rows)
    session.screen.say()
    session.screen.say(HELP)


_GROUPS = (
    story_commands.COMMANDS,
    setup_commands.COMMANDS,
    looking_commands.COMMANDS,
    (
        *file_commands.COMMANDS,
        Command("help", "[COMMAND]", "this list", _help, lambda session: list(COMMANDS)),
    ),
)
COMMANDS: dict[str, Command] = {command.name: command for group in _GROUPS for command in group}


def answer(session: Session, line: str) -> None:
    """Do what a line asks, say what went wrong, and save."""
    try:
        # What was no UTF-8 when it was typed could not be written to a file.
        _do(session, line.encode("utf-8", "replace").decode())
    except UserError as error:
        session.screen.error(error)
    except KeyboardInterrupt:
        session.screen.note("stopped")
    except MemoryError:
        session.screen.say("error: there is not enough memory")
    except OSError as error:  # a drive that is gone, a name that is too long
        place = f"{str(error.filename)[:60]}: " if error.filename else ""
        session.screen.error(RunError(f"{place}{error.strerror or error}"))
    except Exception as error:  # whatever it is, the story must not be lost with the session
        if os.environ.get("CWGPT_DEBUG"):
            traceback.print_exc()
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        session.screen.error(
            RunError(f"{type(error).__name__}: {reason}", "this should not happen")
        )
    try:
        with session.signals.writing():  # Ctrl-C must not come between the story and its file
            session.autosave()
    except KeyboardInterrupt:
        session.screen.note("stopped")


def _do(session: Session, line: str) -> None:
    bare = line.strip()
    if bare in ("help", "quit", "exit", "?"):
        bare = {"exit": "/quit", "?": "/help"}.get(bare, f"/{bare}")
    if bare.startswith("/") and not bare.startswith("//"):
        name, _, rest = bare[1:].partition(" ")
        find(name.lower(), COMMANDS).run(session, rest)
        return
    text = typed(line[line.index("//") + 1 :] if bare.startswith("//") else line)
    if text.strip():
        new = joined(session.story.text, text)
        session.story.write(new)
        session.autosave()
        session.offered = []
    go_on(session)
