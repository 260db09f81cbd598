"""Where stories are kept, and under what names."""

from __future__ import annotations

import datetime
from pathlib import Path

from ..errors import InputError
from ..files import from_home
from ..story.file import FORMAT, StoryFile

FOLDER = "stories"


def new_path() -> Path:
    """A file for a new story, named after the day."""
    return free_path(Path(FOLDER) / f"{datetime.date.today().isoformat()}.json")


def free_path(path: Path) -> Path:
    """``path``, or with a number where there is a file or another session has taken it."""
    number, place = 2, path
    while place.exists() or place.with_name(f".{place.name}.lock").exists():
        place = path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1
    return place


def stories(beside: Path) -> list[Path]:
    """The stories in the usual folder and beside the file ``beside``, the newest first."""
    found = {path.resolve(): path for path in Path(FOLDER).glob("*.json")}
    for path in beside.parent.glob("*.json"):
        found.setdefault(path.resolve(), path)
    # What is hidden is no story: a save that was killed leaves such a file.
    own = [path for path in found.values() if not path.name.startswith(".") and is_story(path)]
    return sorted(own, key=lambda path: path.stat().st_mtime, reverse=True)


def is_story(path: Path) -> bool:
    """Whether a file begins as this program's stories do."""
    try:
        with path.open("rb") as stream:
            return FORMAT.encode() in stream.read(200)
    except OSError:
        return False


def story_file(name: str) -> StoryFile:
    """The file of a story that the writer named; ``.json`` need not be said.

    Raises:
        InputError: The name has another ending.
    """
    path = from_home(name)
    if path.name and not path.suffix:
        path = path.with_suffix(".json")
    if path.suffix.lower() != ".json":
        raise InputError(
            f"a story's file ends in .json, and {name} does not",
            "bring text in with /load inside a session, write it out with /export",
        )
    return StoryFile(path)
