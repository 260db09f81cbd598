"""Commands for files: save, load, export; and leaving."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from pathlib import Path

from ..errors import InputError
from ..files import from_home
from ..story.exports import ENDINGS, export_story
from ..story.file import FOLDER, StoryFile, free_path, is_story, read_story, stories, story_file
from ..story.imports import import_story
from .command import Command, number
from .session import Session
from .story_commands import show_end

_LISTED = 20  # stories


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
        _list(session)
        return
    path = from_home(name)
    if name.isdigit() and not path.exists():
        path = _listed(session, name)
        name = str(path)
    if not path.exists():
        raise InputError(f"{name} does not exist", "/load lists the stories that are here")
    if path.resolve() == session.file.path.resolve():
        raise InputError(f"{name} is the story that is open")
    if path.suffix.lower() == ".json" and is_story(path):
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


def _list(session: Session) -> None:
    """The stories beside this one, the newest first."""
    rows = []
    for place, path in enumerate(stories(session.file.path)[:_LISTED], 1):
        day = datetime.datetime.fromtimestamp(path.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
        try:
            story = read_story(path)
        except InputError as error:
            rows.append((place, str(path), day, "–", error.message))
            continue
        here = " (open)" if path.resolve() == session.file.path.resolve() else ""
        words = len(story.text.split())
        rows.append((place, f"{path}{here}", day, f"{words:,}", story.state.title))
    if not rows:
        raise InputError(
            f"there are no stories in {FOLDER}/ yet",
            "/load FILE opens a story's .json, or brings in .txt, .md, KoboldAI's, mikupad's",
        )
    session.screen.table(["#", "story", "changed", "words#", "title"], rows)
    session.screen.note("/load NUMBER or FILE; .txt, .md, KoboldAI's and mikupad's are brought in")


def _listed(session: Session, name: str) -> Path:
    found = stories(session.file.path)
    if not found:
        raise InputError(f"{name} does not exist")
    return found[number(name, "/load", high=min(len(found), _LISTED)) - 1]


def _export(session: Session, rest: str) -> None:
    name = rest.strip()
    if not name:
        raise InputError(
            "/export takes a file, or an ending alone", f"known endings: {' '.join(ENDINGS)}"
        )
    path = from_home(name)
    if f".{name.lstrip('.')}" in ENDINGS:
        path = session.file.path.with_suffix(f".{name.lstrip('.')}")
    if path.resolve() == session.file.path.resolve():
        raise InputError(f"{path} is the story's own file", "give another name")
    there = path.exists()
    if there and path.resolve() not in session.exported:
        if path.suffix.lower() == ".json":  # another story, maybe: a whole tree of words
            raise InputError(f"{path} is there already", "give another name")
        session.exported.add(path.resolve())
        raise InputError(f"{path} is there already", "the same command again replaces it")
    export_story(session.story, path)
    session.exported.add(path.resolve())
    session.screen.note(f"{'replaced' if there else 'written'}: {path}")


def _quit(session: Session, _: str) -> None:
    session.leaving = True


def _files(session: Session) -> Iterable[str]:
    texts = sorted([*Path().glob("*.txt"), *Path().glob("*.md")])
    return [str(path) for path in (*stories(session.file.path), *texts)]


def _manuscripts(session: Session) -> Iterable[str]:
    return [str(session.file.path.with_suffix(ending)) for ending in ENDINGS if ending != ".json"]


COMMANDS = (
    Command("save", "[FILE]", "save now; with FILE, go on in a copy", _save),
    Command("load", "[FILE | N]", "open a story or bring in a text, or list the stories", _load,
            _files),
    Command("export", "FILE", "a manuscript: .txt .md .html .docx .epub .json", _export,
            _manuscripts),
    Command("quit", "", "leave; so does Ctrl-D", _quit),
)  # fmt: skip
