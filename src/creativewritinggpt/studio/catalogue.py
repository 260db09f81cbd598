"""What lies in the studio's folders: stories with their words, models with their figures.

Everything is read from the files themselves. What was read of a story is kept until its file
changes. A link that leads out of the folders is listed, with that as its error, and never followed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

from filelock import FileLock, Timeout

from ..data.text import count_words
from ..errors import InputError
from ..files import cache_folder, read_json
from ..story.file import is_story, read_story

ASIDE = "set aside"
"""Folder beside those of stories and of models for what was set aside."""

_PLACES = 3  # of a search, per story
_AROUND = 48  # characters around what was found
_LINK = "a link that leads out of the studio's folders"
_DEPTH = 3  # folders below outputs in which models are looked for
_SKIPPED = ("checkpoints", ASIDE)


@dataclasses.dataclass(frozen=True)
class StoryInfo:
    """A story as its file says it.

    Attributes:
        path: Its file.
        title: Its title; empty if it has none.
        text: The text of its current branch.
        words: Number of its words.
        chapters: Number of its chapters.
        passages: Number of passages in its tree.
        choices: Number of choices that are recorded, without what was shown and not taken.
        error: Why it can't be read; empty where it can.
    """

    path: Path
    title: str = ""
    text: str = ""
    words: int = 0
    chapters: int = 0
    passages: int = 0
    choices: int = 0
    error: str = ""

    @property
    def name(self) -> str:
        """Its title, or the beginning of its text, or the name of its file."""
        if self.title:
            return self.title
        begins = " ".join(self.text[:200].split())
        if len(begins) <= 48:
            return begins or self.path.stem
        return (
            begins[:49].rpartition(" ")[0].rstrip(" ,;:") + " …"
            if " " in begins[:49]
            else begins[:48]
        )


class Catalogue:
    """Stories and models in the folders of a studio.

    Args:
        root: Working folder.
        stories: Folder of stories.
        outputs: Folder of runs and models.

    Attributes:
        beside: Folder of the story that is open, whose stories are listed, too.
    """

    def __init__(self, root: Path, stories: Path, outputs: Path) -> None:
        self.root = root
        self.folder = stories
        self.outputs = outputs
        self.beside: Path | None = None
        self._known: dict[Path, tuple[tuple[int, int], StoryInfo]] = {}
        self._lock = threading.Lock()

    def leads_out(self, path: Path) -> bool:
        """Whether a path is a link, or below one, to a place outside of the studio's folders."""
        found = path.resolve()
        roots = [self.root, self.folder, self.outputs]
        roots += [] if self.beside is None else [self.beside]
        return not any(found.is_relative_to(root.resolve()) for root in roots)

    def check(self, path: Path) -> Path:
        """``path``, if it does not lead out.

        Raises:
            InputError: It does.
        """
        if self.leads_out(path):
            raise InputError(f"{path.name} is {_LINK}", "open it on the command line")
        return path

    def stories(self, aside: bool = False) -> list[StoryInfo]:
        """The stories of the folder, or those set aside, the last changed first."""
        folders = [self.folder / ASIDE] if aside else [self.folder]
        if not aside and self.beside is not None and self.beside != self.folder:
            folders.append(self.beside)
        found = []
        with contextlib.suppress(OSError):
            for path in (one for folder in folders for one in folder.glob("*.json")):
                if path.name.startswith(".") or path.parent.name == ASIDE and not aside:
                    continue
                if self.leads_out(path):
                    found.append((0.0, StoryInfo(path, error=_LINK)))
                elif path.is_file() and is_story(path):
                    with contextlib.suppress(OSError):
                        found.append((path.stat().st_mtime, self.story(path)))
        return [info for _, info in sorted(found, key=lambda pair: -pair[0])]

    def story(self, path: Path) -> StoryInfo:
        """What a story's file says, read again where it has changed."""
        found = path.stat()
        stamp = found.st_mtime_ns, found.st_size
        with self._lock:
            known = self._known.get(path)
        if known is not None and known[0] == stamp:
            return known[1]
        info = _read(path)
        with self._lock:
            self._known[path] = stamp, info
        return info

    def search(self, words: str) -> list[tuple[StoryInfo, list[tuple[str, str, str]]]]:
        """Stories in whose title, name or text all words occur, with the first places in the text.

        Args:
            words: What is looked for, in any case; in quotation marks: as it stands.
        """
        wanted = [part for part in re.findall(r'"([^"]+)"|(\S+)', words)]
        patterns = [re.compile(re.escape(one or two), re.IGNORECASE) for one, two in wanted]
        found = []
        for info in self.stories() if patterns else ():
            whole = "\n".join((info.title, info.path.name, info.text))
            if all(pattern.search(whole) for pattern in patterns):
                found.append((info, list(_places(info.text, patterns))))
        return found

    def models(self) -> list[dict[str, Any]]:
        """Models and adapters below the folder of outputs, and the starter, newest first."""
        found = []
        for folder in sorted(self._model_folders(self.outputs, _DEPTH)):
            with contextlib.suppress(OSError):
                found.append((folder.stat().st_mtime, _model(folder, self.root)))
        return [model for _, model in sorted(found, key=lambda pair: -pair[0])]

    def models_aside(self) -> list[dict[str, Any]]:
        """Models that were set aside."""
        folders = sorted(self._model_folders(self.outputs / ASIDE, _DEPTH))
        return [_model(folder, self.root) for folder in folders]

    def _model_folders(self, folder: Path, depth: int) -> Iterator[Path]:
        try:
            inner = sorted(one for one in folder.iterdir() if one.is_dir())
        except OSError:
            return
        for one in inner:
            if one.name.startswith(".") or one.name in _SKIPPED or self.leads_out(one):
                continue
            if any((one / name).is_file() for name in ("adapter_config.json", "config.json")):
                yield one
            elif depth > 1:
                yield from self._model_folders(one, depth - 1)


def has_starter(cache_dir: str | None = None) -> bool:
    """Whether the starter is in the cache."""
    return any(cache_folder(cache_dir).glob("starter-*"))


def locked(path: Path) -> bool:
    """Whether another session has a story's file open."""
    lock = path.resolve().with_name(f".{path.resolve().name}.lock")
    if not lock.exists():  # released locks are removed
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except (Timeout, OSError):
        return True


def folder_size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.lstat().st_size
    return total


def _read(path: Path) -> StoryInfo:
    try:
        story = read_story(path)
    except InputError as error:
        return StoryInfo(path, error=error.message.replace(str(path), path.name, 1))
    text = story.text
    # What was shown is recorded, and then what was taken of it: one choice.
    offers = sum(one.kind == "pick" and one.chosen is None for one in story.choices)
    return StoryInfo(
        path, story.state.title, text, count_words(text), len(story.chapters()),
        len(story.passages), len(story.choices) - offers,
    )  # fmt: skip


def _places(text: str, patterns: list[re.Pattern[str]]) -> Iterator[tuple[str, str, str]]:
    """What stands before each place, what was found, and what stands after it.

    A place that is in view with one before it is left out.
    """
    seen: list[int] = []
    for pattern in patterns:
        for match in pattern.finditer(text):
            if any(abs(match.start() - place) < 2 * _AROUND for place in seen):
                continue
            seen.append(match.start())
            start, end = max(0, match.start() - _AROUND), match.end() + _AROUND
            before, after = text[start : match.start()], text[match.end() : end]
            if start and " " in before:  # from a whole word on
                before = f"… {before.partition(' ')[2]}"
            if end < len(text) and " " in after:
                after = f"{after.rpartition(' ')[0]} …"
            yield before.replace("\n", " "), match[0].replace("\n", " "), after.replace("\n", " ")
            if len(seen) == _PLACES:
                return


def _model(folder: Path, root: Path) -> dict[str, Any]:
    """A model as the page shows it; ``base`` is None for a whole model."""
    config = _object(folder / "adapter_config.json")
    adapter = (folder / "adapter_config.json").is_file()
    record = _object(folder / "run.json")
    base = config.get("base_model_name_or_path") or config.get("model")
    named = record.get("base") if isinstance(record.get("base"), dict) else {}
    with contextlib.suppress(ValueError):
        folder = folder.relative_to(root)
    return {
        "path": root / folder,
        "name": str(folder),
        "kind": "adapter" if adapter else "base",
        "base": str((named or {}).get("name") or base or "") if adapter else None,
        "bytes": folder_size(root / folder),
        "figures": _figures(record),
        "created": str(record.get("created") or ""),
    }


def _figures(record: dict[str, Any]) -> list[tuple[str, str]]:
    """The figures of a model card, from the record of the run that made it."""
    training = record.get("training")
    if not isinstance(training, dict):
        return []
    found = []
    before, after = training.get("base_val_loss"), training.get("val_loss")
    if _number(before) and _number(after):
        found.append(("held-out perplexity", f"{math.exp(before):.2f} → {math.exp(after):.2f}"))
    elif _number(after):
        found.append(("held-out perplexity", f"{math.exp(after):.2f}"))
    step, total = training.get("step"), training.get("total_steps")
    if isinstance(step, int):
        found.append(("step", f"{step:,}" + (f" of {total:,}" if isinstance(total, int) else "")))
    trained = training.get("trainable_parameters")
    if isinstance(trained, int):
        found.append(("trained parameters", f"{trained:,}"))
    data = record.get("data")
    sources = data.get("sources") if isinstance(data, dict) else None
    if isinstance(sources, dict) and sources:
        found.append(("trained on", ", ".join(map(str, list(sources)[:4]))))
    return found


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 50


def _object(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, InputError, json.JSONDecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
