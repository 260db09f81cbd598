"""Story files: one JSON document per story, locked by one session, and where they are kept.

The format is described in ``docs/writing.md`` and has a version number. A file that is damaged,
newer than this program, or changed by another program is never overwritten.

Trade-off: the whole document is written after every change, some milliseconds for a long story, so
that the file is valid after a crash at any time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..console import counted
from ..errors import InputError, RunError
from ..files import (
    disk_errors,
    from_home,
    read_json,
    refused_name,
    remove_left,
    same_place,
    true_path,
    write_text,
)
from .compact import packed, unpacked
from .tree import CHOICES, NOTHING, Choice, Lore, Passage, Setup, State, Story

FORMAT = "creativewritinggpt-story"
VERSION = 1
COMPACT = 2
"""Version of files whose copied passages are named and not repeated; see :mod:`.compact`."""
FOLDER = "stories"
"""Folder of stories without a name of their own."""


class FileChanged(RunError):
    """Another program has changed the file since it was opened."""


class StoryFile:
    """A story on disk, locked for this session by :meth:`open` and :meth:`save`.

    Args:
        path: Path of the JSON file, which need not exist yet.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = from_home(path)
        # A link stays one: its target is locked and written.
        self._place = true_path(self.path)
        self._lock: FileLock | None = None
        self._known: tuple[int, int, int] | None = None  # the file's stamp after our last access

    @property
    def locked(self) -> bool:
        """Whether this session holds the lock."""
        return self._lock is not None

    def open(self) -> Story:
        """Lock the file and read the story; an empty one where there is no file.

        Raises:
            InputError: Another session has it, or it is damaged or newer than this program.
        """
        self._acquire()
        remove_left(self._place)
        try:
            story = read_story(self.path) if self.path.exists() else Story()
        except BaseException:
            self.close()
            raise
        self._known = self._stamp()
        return story

    def save(self, story: Story) -> None:
        """Write the story atomically.

        Raises:
            InputError: The folder can't be written to, or another session has the file.
            RunError: The disk is full.
            FileChanged: Another program has changed the file.
        """
        self._acquire()
        if self._stamp() != self._known:
            raise FileChanged(
                f"{self.path} was changed by something else since it was opened",
                "it is left as it is; save this story under another name with /save NAME",
            )
        write_text(self._place, dump(story))
        self._known = self._stamp()

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            with contextlib.suppress(OSError):  # Windows does not delete open files
                os.unlink(self._lock.lock_file)
            self._lock.release()
            self._lock = None

    def move(self, target: Path) -> Path:
        """Move the file, damaged or not, into another folder; a number is added to a taken name.

        Returns:
            Where it is now. The lock is released.

        Raises:
            InputError: Another session has it, or the folder can't be written to.
        """
        self._acquire()
        try:
            with disk_errors(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                place = free_path(target)
                self.path.rename(place)
        finally:
            self.close()
        return place

    def _acquire(self) -> None:
        if self._lock is not None:
            return
        lock = self._place.with_name(f".{self._place.name}.lock")
        with disk_errors(self.path):
            lock.parent.mkdir(parents=True, exist_ok=True)
            taken = FileLock(lock, thread_local=False)
            try:
                taken.acquire(timeout=0)
            except Timeout as error:
                if (refused := refused_name(self.path)) is not None:
                    raise refused from error
                raise InputError(
                    f"{self.path} is open in another session",
                    "close that one, or give another file with --story",
                ) from error
        self._lock = taken

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._place.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


def new_path() -> Path:
    """Path of a new story, named after the day."""
    return free_path(Path(FOLDER) / f"{datetime.date.today().isoformat()}.json")


def free_path(path: Path) -> Path:
    """``path``, numbered where a file or another session's lock has that name."""
    number, place = 2, path
    while place.exists() or place.with_name(f".{place.name}.lock").exists():
        place = path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1
    return place


def stories(beside: Path) -> list[Path]:
    """The stories in the usual folder and in the folder of ``beside``, newest first."""
    found = {path.resolve(): path for path in Path(FOLDER).glob("*.json")}
    if not same_place(beside.parent, Path(FOLDER)):
        for path in beside.parent.glob("*.json"):
            found.setdefault(path.resolve(), path)
    # A killed save leaves a hidden temporary file.
    own = [path for path in found.values() if not path.name.startswith(".") and is_story(path)]
    return sorted(own, key=lambda path: path.stat().st_mtime, reverse=True)


def is_story(path: Path) -> bool:
    """Whether a file begins like a story of this program."""
    try:
        with path.open("rb") as stream:
            return FORMAT.encode() in stream.read(200)
    except OSError:
        return False


def story_file(name: str) -> StoryFile:
    """The story file of a name; ``.json`` is added where there is no ending.

    Raises:
        InputError: The name has another ending.
    """
    path = from_home(name)
    if path.name and not path.suffix:
        path = path.with_suffix(".json")
    if path.suffix.lower() != ".json":
        raise InputError(
            f"a story's file ends in .json, and {name} does not",
            "bring text in with /load in a session or in the studio's Library",
        )
    return StoryFile(path)


def read_story(path: str | os.PathLike[str]) -> Story:
    """Read a story.

    Raises:
        InputError: The file is missing, is no story, is damaged, or is newer than this program.
    """
    try:
        record = read_json(path)
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from error
    return load(record, str(path))


def load(record: Any, where: str) -> Story:
    """The story of a JSON document; ``where`` names it in errors; see :func:`read_story`."""
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise InputError(f"{where} is not a story of this program", "bring it in with /load")
    version = record.get("version")
    if not isinstance(version, int) or version < 1:
        raise InputError(f"{where} is damaged: its version is {version!r}")
    if version > COMPACT:
        raise InputError(
            f"{where} was written by a newer version of this program (form {version})",
            "update the program; the file is left as it is",
        )
    try:
        json.dumps(record, ensure_ascii=False).encode()  # a surrogate could never be saved
        records = unpacked(record["passages"]) if version == COMPACT else record["passages"]
        setups = [Setup(**one) for one in record["setups"]]
        passages = [
            Passage(**{**one, "id": number, "setup": _setup(setups, one.get("setup"))})
            for number, one in enumerate(records)
        ]
        frames = record["frames"]
        history = [_state(one, frames[one["frame"]]) for one in record["history"]]
        cursor = record["cursor"]
        _check(passages, history, cursor)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"{where} is damaged: {type(error).__name__}: {reason}",
            "it is left as it is; give another file with --story",
        ) from error
    story = Story(passages, history, cursor)
    _read_choices(record, story)
    return story


def dump(story: Story) -> str:
    """The JSON document of a story."""
    setups: list[Setup] = []
    numbers: dict[int, int] = {}  # index of each setup by identity: most passages share one

    def number(setup: Setup) -> int:
        if id(setup) not in numbers:
            if setup not in setups:
                setups.append(setup)
            numbers[id(setup)] = setups.index(setup)
        return numbers[id(setup)]

    passages = []
    for passage in story.passages:
        fields = {
            "parent": passage.parent,
            "text": passage.text,
            "by": passage.by,
            "setup": None if passage.setup is None else number(passage.setup),
            "seed": passage.seed,
            "start": passage.start or None,
            "copy_of": passage.copy_of,
        }
        passages.append({name: value for name, value in fields.items() if value is not None})
    frames: list[dict[str, Any]] = []
    history = []
    before: tuple[Any, ...] | None = None
    for state in story.history:
        # These rarely change, so consecutive states share a frame.
        framed = state.memory, state.note, state.lore, state.title
        if framed != before:
            before = framed
            frames.append(
                {
                    "memory": state.memory,
                    "note": state.note,
                    "lore": [_lore_record(lore) for lore in state.lore],
                    "title": state.title,
                }
            )
        history.append(
            {
                "did": state.did,
                "branch": state.branch,
                "heads": dict(state.heads),
                "frame": len(frames) - 1,
            }
        )
    compact = packed(passages)
    record = {
        "format": FORMAT,
        "version": VERSION if compact is None else COMPACT,
        "title": story.state.title,
        "text": story.text,
        "setups": [dataclasses.asdict(setup) for setup in setups],
        "passages": passages if compact is None else compact,
        "frames": frames,
        "history": history,
        "cursor": story.cursor,
    }
    if story.choices:
        record["choices"] = [_choice_record(choice) for choice in story.choices]
    if story.set_aside:
        record["choices_set_aside"] = story.set_aside
    return json.dumps(record, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _setup(setups: list[Setup], number: Any) -> Setup | None:
    return None if number is None else setups[_index(number, len(setups))]


def _index(number: Any, count: int) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < count:
        raise ValueError(f"{number!r} is not a number from 0 to {count - 1}")
    return number


def _state(record: dict[str, Any], frame: dict[str, Any]) -> State:
    return State(
        did=str(record["did"]),
        branch=record["branch"],
        heads=tuple(record["heads"].items()),
        memory=frame["memory"],
        note=frame["note"],
        lore=tuple(_lore(one) for one in frame["lore"]),
        title=frame["title"],
    )


def _lore_record(lore: Lore) -> dict[str, Any]:
    """The fields of an entry of lore; those that came later only where they are used."""
    record: dict[str, Any] = {
        "keys": list(lore.keys), "text": lore.text, "always": lore.always,
    }  # fmt: skip
    if lore.secondary:
        record["secondary"] = list(lore.secondary)
    if lore.excluding:
        record["excluding"] = list(lore.excluding)
    if lore.probability != 100:
        record["probability"] = lore.probability
    return record


def _lore(record: dict[str, Any]) -> Lore:
    keys, secondary, excluding = (
        tuple(map(str, record.get(name, ()))) for name in ("keys", "secondary", "excluding")
    )
    probability = int(record.get("probability", 100))
    return Lore(
        keys, str(record["text"]), bool(record["always"]), secondary, excluding, probability
    )


def _choice_record(choice: Choice) -> dict[str, Any]:
    """The fields of a choice that say something."""
    fields = dataclasses.asdict(choice)
    return {name: value for name, value in fields.items() if value not in (None, (), "")}


def _read_choices(record: dict[str, Any], story: Story) -> None:
    """Read the choices; what is damaged is set aside, so that the story opens in any case."""
    found, before = record.get("choices", []), record.get("choices_set_aside", [])
    story.set_aside = list(before) if isinstance(before, list) else [before]
    places: dict[int, int] = {}  # place in the file -> place in the story
    damaged = []
    for place, one in enumerate(found if isinstance(found, list) else [found]):
        try:
            choice = _choice(one, len(story.passages), place)
            if choice.of is not None:
                choice = dataclasses.replace(choice, of=places[choice.of])
        except (KeyError, TypeError, ValueError):
            damaged.append(one)
        else:
            places[place] = len(story.choices)
            story.choices.append(choice)
    if damaged:
        story.set_aside += damaged
        story.remarks.append(
            f"{counted(len(damaged), 'choice')} in the file can't be read; the story is whole, and "
            'they stay in it as "choices_set_aside"'
        )


def _choice(record: Any, passages: int, place: int) -> Choice:
    """The choice of a record at ``place`` in the file; ``ValueError`` where it is none."""
    if not isinstance(record, dict):
        raise TypeError("a choice is an object")
    lists = {
        name: tuple(_index(one, passages) for one in record.get(name, ()))
        for name in ("offered", "replaced", "by")
    }
    choice = Choice(**{**record, **lists})
    texts = choice.text, choice.time, choice.source
    if choice.kind not in CHOICES or not all(isinstance(text, str) for text in texts):
        raise ValueError("its kind is not known, or what must be text is none")
    if choice.chosen is not None:
        _index(choice.chosen, passages)
        if choice.kind in ("pick", "retry") and choice.chosen not in choice.offered:
            raise ValueError("what was chosen was not offered")
    if choice.of is not None:
        _index(choice.of, place)
    return choice


def _check(passages: list[Passage], history: list[State], cursor: Any) -> None:
    """Raise ``ValueError`` where passages and history make no tree."""
    for passage in passages:
        for kind in _wrong(passage):
            raise ValueError(f"passage {passage.id}: {kind}")
    if not history:
        raise ValueError("the history is empty")
    _index(cursor, len(history))
    for state in history:
        heads = dict(state.heads)
        if state.branch not in heads:
            raise ValueError(f"there is no branch {state.branch!r}")
        for head in heads.values():
            if head != NOTHING:
                _index(head, len(passages))
        if not all(isinstance(text, str) for text in (state.memory, state.note, state.title)):
            raise ValueError("memory, note and title must be text")


def _wrong(passage: Passage) -> Iterator[str]:
    if passage.parent != NOTHING:
        _index(passage.parent, passage.id)
    if not isinstance(passage.text, str) or passage.by not in ("writer", "model", "chapter"):
        yield "its text or author is not known"
    if isinstance(passage.start, bool) or not isinstance(passage.start, int) or passage.start < 0:
        yield "its view does not begin at a character"
    if passage.seed is not None and type(passage.seed) is not int:
        yield "its seed is no whole number"
