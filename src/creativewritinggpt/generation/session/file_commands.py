"""Commands for files: save, load, export; and leaving."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ...errors import InputError
from ..story.exports import export_story
from ..story.file import FORMAT, StoryFile
from ..story.imports import import_story
from .command import Command
from .session import FOLDER, Session, free_path, story_file
from .story_commands import show_end


def _save(session: Session, rest: str) -> None:
    if not rest.strip():
        session.save()
        session.screen.note(f"saved in {session.file.path}")
        return
    file = story_file(rest.strip())
    if file.path.exists():
        raise InputError(f"{file.path} is there already", "choose another name")
    file.open()
    try:
        file.save(session.story)
    except BaseException:
        file.close()
        raise
    session.take(file, session.story)
    session.screen.note(f"saved in {file.path}, which is the story's file from now on")


def _load(session: Session, rest: str) -> None:
    name = rest.strip()
    if not name:
        raise InputError("/load takes a file", "a story's .json, or .txt and .md to bring in")
    path = Path(name).expanduser()
    if not path.exists():
        raise InputError(f"{name} does not exist")
    if path.resolve() == session.file.path.resolve():
        raise InputError(f"{name} is the story that is open")
    if path.suffix.lower() == ".json" and FORMAT in _beginning(path):
        file = StoryFile(path)
        session.take(file, file.open())
    else:
        story = import_story(path)
        own = StoryFile(free_path(Path(FOLDER) / f"{path.stem}.json"))
        session.take(own, story)
    session.screen.note(
        f"{session.story.state.title or name}: {len(session.story.path())} passages"
    )
    show_end(session)


def _beginning(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return stream.read(200).decode("utf-8", "replace")
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from error


def _export(session: Session, rest: str) -> None:
    name = rest.strip()
    if not name:
        raise InputError(
            "/export takes a file", "its ending is .txt .md .html .docx .epub or .json"
        )
    path = Path(name).expanduser()
    if path.resolve() == session.file.path.resolve():
        raise InputError(f"{name} is the story's own file", "give another name")
    there = path.exists()
    export_story(session.story, path)
    session.screen.note(f"{'replaced' if there else 'written'}: {path}")


def _quit(session: Session, _: str) -> None:
    session.leaving = True


def _files(session: Session) -> Iterable[str]:
    found = [*Path().glob(f"{FOLDER}/*.json"), *Path().glob("*.txt"), *Path().glob("*.md")]
    return sorted(str(path) for path in found)


COMMANDS = (
    Command("save", "[FILE]", "save now; with FILE, go on in a copy", _save),
    Command("load", "FILE", "open a story, or bring in text, Markdown, KoboldAI, mikupad", _load,
            _files),
    Command("export", "FILE", "a manuscript: .txt .md .html .docx .epub .json", _export),
    Command("quit", "", "leave; so does Ctrl-D", _quit),
)  # fmt: skip
