"""What the rooms of the studio share, beside the story that is open."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.fields import DEFAULT_MODEL, MachineSettings
from ..errors import InputError
from ..files import from_home
from ..story.file import FOLDER
from .engine import Engine
from .events import EventLog, Tabs
from .jobs import Jobs
from .preferences import Memory, Settings

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel

_MOST_NOTES = 10


class Ids:
    """Ids of files and folders: the page names nothing that the studio has not named to it."""

    def __init__(self) -> None:
        self._paths: dict[str, Path] = {}
        self._lock = threading.Lock()

    def id(self, path: Path) -> str:
        """The id of a path; the same one at each start."""
        whole = path.absolute()
        found = hashlib.sha256(str(whole).encode("utf-8", "surrogateescape")).hexdigest()[:16]
        with self._lock:
            self._paths[found] = whole
        return found

    def path(self, id: str) -> Path:
        """The path of an id.

        Raises:
            InputError: The studio has given out no such id.
        """
        with self._lock:
            found = self._paths.get(id) if isinstance(id, str) else None
        if found is None:
            raise InputError("that is no longer known here", "load the page again")
        return found


class Shared:
    """What the rooms share; cheap to make, and nothing is loaded by it.

    Args:
        root: The working folder.
        model: Name of the first model.
        machine: Device, precision, threads, caches.
        load: Loads a model; for tests.

    Attributes:
        events: The event log.
        jobs: The jobs.
        engine: The models.
        stories: Folder of the stories.
        outputs: Folder of the runs.
        ids: Ids of files and folders.
        memory: What is remembered between starts.
        settings: The generation settings.
    """

    def __init__(
        self,
        root: Path,
        *,
        model: str = DEFAULT_MODEL,
        machine: MachineSettings | None = None,
        load: Callable[[str, MachineSettings], LoadedModel] | None = None,
    ) -> None:
        self.root = root.absolute()
        self.stories = self.root / FOLDER
        self.outputs = self.root / "outputs"
        self.ids = Ids()
        self.events = EventLog()
        self.tabs = Tabs(self.events, time.monotonic)
        self.jobs = Jobs(self.events)
        self.notes: deque[dict[str, Any]] = deque(maxlen=_MOST_NOTES)
        self.memory = Memory(self.stories / ".studio.json")
        self.settings = Settings(self.memory)
        self.engine = Engine(self.events, self.jobs, machine, load)
        self.engine.weights = self.settings.values.weights
        self.first_model = model

    def note(
        self, text: str, level: str = "info", advice: str | None = None, lasting: bool = False
    ) -> None:
        """Tell the writer something, in the status line.

        Args:
            text: A sentence.
            level: ``info``, ``warning`` or ``error``.
            advice: What can be done.
            lasting: Whether it is shown above the text too, until the writer has read it: what
                happened before a page was there, and what is true from now on.
        """
        if level != "info" or lasting:
            self.notes.append({"text": text, "level": level, "advice": advice, "lasting": lasting})
        self.events.publish("note", text=text, level=level, advice=advice, lasting=lasting)

    def memory_story(self, path: Path) -> None:
        """Remember the story that was open last."""
        if self.memory.get("story") != str(path.absolute()):
            self.memory.set("story", str(path.absolute()))

    def model_names(self) -> list[dict[str, Any]]:
        """The models that can be chosen: the starter, the first one, and those in ``outputs``."""
        found: dict[str, dict[str, Any]] = {}

        def add(name: str, path: Path | None, adapter: bool) -> None:
            id = self.ids.id(path) if path is not None else name
            found.setdefault(id, {"id": id, "name": name, "adapter": adapter})

        add("starter", None, False)
        given = from_home(self.first_model)
        if given.is_dir():
            add(self.first_model, given, (given / "adapter_config.json").is_file())
        elif self.first_model not in ("starter", DEFAULT_MODEL):
            add(self.first_model, None, False)
        for mark in ("adapter_config.json", "config.json"):
            found_here = {
                path
                for depth in ("*", "*/*")
                for path in self.root.glob(f"outputs*/{depth}/{mark}")
                if "set aside" not in path.parts
            }
            for path in sorted(found_here):
                folder = path.parent
                add(str(folder.relative_to(self.root)), folder, mark.startswith("adapter"))
        return list(found.values())

    def model_name(self, id: str) -> str:
        """The name by which a model that was listed is loaded.

        Raises:
            InputError: None was listed under this id or name.
        """
        for one in self.model_names():
            if id in (one["id"], one["name"]):
                name = str(one["name"])
                folder = self.root / name
                return str(folder) if folder.is_dir() and not from_home(name).is_dir() else name
        raise InputError("there is no such model any more", "choose one of the list")
