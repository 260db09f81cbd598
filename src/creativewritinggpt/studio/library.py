"""The Library of the studio: stories, models and runs; import, export, set aside and bring back.

The page names things by ids that the studio made for what it listed. Nothing is ever deleted: what
is set aside is moved to a folder ``set aside`` beside the others and keeps its name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ..config.fields import MachineSettings
from ..errors import InputError
from ..files import disk_errors, same_place
from ..story.exchange import ENDINGS, export_story, import_story
from ..story.file import StoryFile, free_path, new_path, read_story
from ..story.tree import Story
from . import changes
from .answers import Conflict, NotFound, answered, read_object
from .catalogue import ASIDE, Catalogue, StoryInfo, has_starter, locked
from .model_exports import ModelExports
from .uploads import Uploads
from .uploads import routes as upload_routes

EXPORTS = "exports"
"""Folder of what was exported, below the working folder."""

_MOST_TITLE = 200
_SEVERAL = re.compile(r"holds (\d+) stories: (.*)")


class Library:
    """What the Library room does.

    Args:
        studio: What all rooms share.
    """

    def __init__(self, studio: Any) -> None:
        self.studio = studio
        self.catalogue = Catalogue(studio.root, studio.stories, studio.outputs)
        self.uploads = Uploads(studio)
        self.exports = ModelExports(studio, self.catalogue, studio.root / EXPORTS)

    def listing(self) -> dict[str, Any]:
        """Everything that the page shows."""
        opened = self._opened()
        self._look_beside()
        return {
            "stories": [self._shown(info, opened) for info in self.catalogue.stories()],
            "aside": [self._shown(info, opened) for info in self.catalogue.stories(aside=True)],
            "models": [self._model(one) for one in self.catalogue.models()],
            "models_aside": [self._model(one) for one in self.catalogue.models_aside()],
            "starter": has_starter(MachineSettings().cache_dir),
            "starter_writing": self._writes() == "starter",
            "runs_aside": [
                {"id": one.id, "name": one.name, "kind": one.kind, "created": one.created}
                for one in self.exports.runs.aside()
            ],
            "folder": str(self.studio.stories),
            "exports": str(self.studio.root / EXPORTS),
        }

    def search(self, words: str) -> dict[str, Any]:
        """Stories in which words occur, with the first places."""
        self._look_beside()
        found = self.catalogue.search(words[:200])
        return {
            "found": [
                {"id": self.studio.ids.id(info.path), "places": places} for info, places in found
            ]
        }

    def new(self, body: dict[str, Any]) -> dict[str, Any]:
        """Begin a story and open it."""
        title = _title(body)
        path = self._free(title)
        story = Story()
        if title:
            story.set("title", title=title)
        _write(path, story)
        return self._open(path)

    def open(self, body: dict[str, Any]) -> dict[str, Any]:
        """Open a story in Write."""
        return self._open(self._path(body))

    def duplicate(self, body: dict[str, Any]) -> dict[str, Any]:
        """A copy of a story, with its whole tree."""
        path = self._path(body)
        story = self._story(path)
        name = f"{story.state.title or path.stem} (copy)"
        place = free_path(self.studio.stories / f"{path.stem} copy.json")
        copy = Story(story.passages, story.history, story.cursor, story.choices)
        copy.set_aside = list(story.set_aside)
        copy.set("title", title=name)
        _write(place, copy)
        return self._changed(place)

    def rename(self, body: dict[str, Any]) -> dict[str, Any]:
        """Give a story another title; its file keeps its name."""
        path, title = self._path(body), _title(body)
        if not title:
            raise InputError("a story's title can't be empty", "type one")
        if self._is_present(path):
            tab = body.get("tab")
            changes.set(self.studio.desk, tab if isinstance(tab, str) else None, {"title": title})
            return self._changed(path)
        file = StoryFile(path)
        story = file.open()
        try:
            if story.state.title != title:
                story.set("title", title=title)
                file.save(story)
        finally:
            file.close()
        return self._changed(path)

    def aside(self, body: dict[str, Any]) -> dict[str, Any]:
        """Set a story aside: move it to the folder for that."""
        path = self._path(body)
        if self._is_present(path):
            raise Conflict(
                "this story is open in Write", "open another one, or begin a new one, first"
            )
        if path.parent.name == ASIDE:
            raise Conflict("this story is set aside already", "bring it back")
        return self._changed(StoryFile(path).move(self.studio.stories / ASIDE / path.name))

    def back(self, body: dict[str, Any]) -> dict[str, Any]:
        """Bring back a story that was set aside."""
        path = self._path(body)
        if path.parent.name != ASIDE:
            raise Conflict("this story is not set aside", "open it")
        return self._changed(StoryFile(path).move(self.studio.stories / path.name))

    def bring_in(self, body: dict[str, Any]) -> dict[str, Any]:
        """Import a file that was sent, as a new story; the file is then removed.

        Raises:
            Conflict: It holds several stories, and none was named by ``number``.
        """
        place = self.uploads.find(str(body.get("upload", "")))
        number = body.get("number")
        name = f"{place}#{number}" if isinstance(number, int) else str(place)
        if isinstance(number, int):
            found = import_one(place, number)
        else:
            try:
                found = import_story(name)
            except InputError as error:
                several = _SEVERAL.search(error.message)
                if several is None:
                    self.uploads.drop(place)
                    raise
                raise Conflict(
                    f"{place.name} holds {several[1]} stories", "choose one of them",
                    stories=int(several[1]), listed=several[2],
                ) from error  # fmt: skip
        story = found.story
        path = self._free(story.state.title or place.stem)
        _write(path, story)
        self.uploads.drop(place)
        came, *_ = found.notes()
        return {
            **self._changed(path),
            "form": found.form,
            "came": came,
            "left_out": list(found.left_out),
            "said": list(found.said),
        }

    def export(self, body: dict[str, Any]) -> dict[str, Any]:
        """Write a story as a manuscript into the folder of exports; never over another file."""
        path = self._path(body)
        ending = _ending(str(body.get("form", "")))
        story = self._story(path)
        place = free_path(self.studio.root / EXPORTS / f"{_name(story, path)}{ending}")
        with disk_errors(place):
            place.parent.mkdir(parents=True, exist_ok=True)
        export_story(story, place)
        return {"file": str(place)}

    def download(self, id: str, form: str) -> Response:
        """A story as a manuscript, for the browser to save."""
        path = self._path({"id": id})
        ending = _ending(form)
        story = self._story(path)
        folder = Path(tempfile.mkdtemp(prefix="cwgpt-export-"))
        try:
            export_story(story, folder / f"story{ending}")
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return FileResponse(
            folder / f"story{ending}",
            media_type="application/octet-stream",  # never shown as a page of the studio
            filename=f"{_name(story, path)}{ending}",
            background=BackgroundTask(shutil.rmtree, folder, ignore_errors=True),
        )

    def model_aside(self, body: dict[str, Any]) -> dict[str, Any]:
        """Set a model aside, or bring it back (``back``): move its folder."""
        folder = self._model_path(body)
        outputs: Path = self.studio.outputs
        aside = outputs / ASIDE
        if body.get("back"):
            if not folder.is_relative_to(aside):
                raise Conflict("this model is not set aside")
            target = outputs / folder.relative_to(aside)
        else:
            if folder.is_relative_to(aside):
                raise Conflict("this model is set aside already", "bring it back")
            if self._is_loaded(folder):
                raise Conflict("this model is the one that writes", "choose another one first")
            target = aside / folder.relative_to(outputs)
        place, number = target, 2
        while place.exists():
            place = target.with_name(f"{target.name}-{number}")
            number += 1
        with disk_errors(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(place)
        return self._changed(place)

    def run_back(self, body: dict[str, Any]) -> dict[str, Any]:
        """Bring back a run that was set aside."""
        id = str(body.get("id", ""))
        self.exports.runs.bring_back(id)
        self.studio.events.publish("library")
        return {"id": id}

    def _changed(self, path: Path) -> dict[str, Any]:
        self.studio.events.publish("library")
        return {"id": self.studio.ids.id(path)}

    def _open(self, path: Path) -> dict[str, Any]:
        remarks = self.studio.desk.open(path)
        self._mark(path)
        return {**self._changed(path), "remarks": remarks}

    def _look_beside(self) -> None:
        """List the stories beside the one that is open as well, as the terminal session does."""
        path = self._present()
        if path is not None:
            self.catalogue.beside = path.parent

    def _path(self, body: dict[str, Any]) -> Path:
        """The story of an id.

        Raises:
            InputError: The id is unknown, or the file leads out of the folders.
            NotFound: The file is gone.
        """
        id = body.get("id")
        path: Path = self.studio.ids.path(id if isinstance(id, str) else "")
        if path.suffix.lower() != ".json":
            raise InputError("that is no story")
        if not path.is_file():
            raise NotFound(f"{path.name} is gone", "it was moved or renamed by something else")
        return path if self._is_present(path) else self.catalogue.check(path)

    def _model_path(self, body: dict[str, Any]) -> Path:
        id = body.get("id")
        folder: Path = self.studio.ids.path(id if isinstance(id, str) else "")
        if not folder.is_dir():
            raise NotFound(f"{folder.name} is gone", "it was moved by something else")
        if not folder.is_relative_to(self.studio.outputs):
            raise InputError("that is no model of this folder")
        return self.catalogue.check(folder)

    def _writes(self) -> str:
        """Name of the model that writes."""
        name: str = self.studio.engine.name
        return name

    def _is_loaded(self, folder: Path) -> bool:
        root: Path = self.studio.root
        return (root / self._writes()).resolve() == folder.resolve()

    def _present(self) -> Path | None:
        """The file of the story that is open in Write."""
        path: Path = self.studio.desk.file.path.absolute()
        return path if path.exists() else None

    def _is_present(self, path: Path) -> bool:
        present = self._present()
        return present is not None and same_place(path, present)

    def _story(self, path: Path) -> Story:
        """A story as it is now; the one that is open as it stands in Write."""
        if not self._is_present(path):
            return read_story(path)
        copy: Story = self.studio.desk.snapshot()
        return copy

    def _free(self, title: str) -> Path:
        """A free path for a story of a title."""
        folder: Path = self.studio.stories
        stem = file_stem(title)
        return free_path(folder / (f"{stem}.json" if stem else new_path().name))

    def _shown(self, info: StoryInfo, opened: dict[str, float]) -> dict[str, Any]:
        path = info.path
        here = self._is_present(path)
        if here and not info.error:  # what was typed last is not in the file yet
            info = dataclasses.replace(info, title=self._story(path).state.title)
        shown = {
            "id": self.studio.ids.id(path),
            "file": path.name,
            "name": info.name,
            "title": info.title,
            "words": info.words,
            "chapters": info.chapters,
            "choices": info.choices,
            "error": info.error,
            "open": here,
            "elsewhere": not here and not info.error and locked(path),
            "bytes": 0,
            "changed": 0.0,
            "opened": opened.get(path.name),
        }
        with contextlib.suppress(OSError):
            found = path.stat()
            shown |= {"bytes": found.st_size, "changed": found.st_mtime}
        return shown

    def _model(self, one: dict[str, Any]) -> dict[str, Any]:
        path = one["path"]
        shown = {name: value for name, value in one.items() if name != "path"}
        return {**shown, "id": self.studio.ids.id(path), "writing": self._is_loaded(path)}

    def _opened(self) -> dict[str, float]:
        """When each story was opened last, by the name of its file."""
        found = self.studio.memory.get("opened")
        pairs = found.items() if isinstance(found, dict) else ()
        return {str(name): float(when) for name, when in pairs if isinstance(when, (int, float))}

    def _mark(self, path: Path) -> None:
        """Note that a story was opened."""
        self.studio.memory.set("opened", {**self._opened(), path.name: time.time()})


def import_one(place: Path, number: int) -> Any:
    """The story of a number in a file that holds several."""
    # "#" names the story, and the name of a file may hold one, too.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        plain = Path(folder) / f"stories{place.suffix}"
        shutil.copyfile(place, plain)
        return import_story(f"{plain}#{number}")


def file_stem(title: str) -> str:
    """Name of a file after a title: letters, digits, spaces and hyphens, of at most 80 bytes."""
    kept = "".join(one if one.isalnum() or one in "-_'’ " else " " for one in title)
    words = " ".join(kept.split()).strip("-_ ")
    return words.encode()[:80].decode("utf-8", "ignore").strip()


def _title(body: dict[str, Any]) -> str:
    title = body.get("title", "")
    if not isinstance(title, str):
        raise InputError("a title is text")
    clean = "".join(one for one in title if one.isprintable() or one.isspace())
    return " ".join(clean.split())[:_MOST_TITLE].strip()


def _ending(form: str) -> str:
    ending = f".{form.lstrip('.').lower()}"
    if ending not in ENDINGS:
        raise InputError(
            f"a story can't be written as '{form[:20]}'",
            f"the forms are {', '.join(one[1:] for one in ENDINGS)}",
        )
    return ending


def _name(story: Story, path: Path) -> str:
    return file_stem(story.state.title) or path.stem


def _write(path: Path, story: Story) -> None:
    """Write a new story's file."""
    file = StoryFile(path)
    file.open()
    try:
        file.save(story)
    finally:
        file.close()


def routes(studio: Any) -> list[BaseRoute]:
    """The routes of the Library, and that of uploads."""
    library = Library(studio)
    studio.library = library

    def posted(work: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
        async def handle(http: Request) -> Response:
            body = await read_object(http)
            return JSONResponse(await run_in_threadpool(work, body))

        return answered(handle)

    async def listing(http: Request) -> Response:
        return JSONResponse(await run_in_threadpool(library.listing))

    async def exports(http: Request) -> Response:
        return JSONResponse({"exports": await run_in_threadpool(library.exports.listing)})

    async def search(http: Request) -> Response:
        words = http.query_params.get("q", "")
        return JSONResponse(await run_in_threadpool(library.search, words))

    async def download(http: Request) -> Response:
        id, form = http.path_params["id"], http.path_params["form"]
        return await run_in_threadpool(library.download, id, form)

    actions = {
        "new": library.new, "open": library.open, "duplicate": library.duplicate,
        "rename": library.rename, "aside": library.aside, "back": library.back,
        "import": library.bring_in, "export": library.export, "models/aside": library.model_aside,
        "models/export": library.exports.start, "runs/back": library.run_back,
    }  # fmt: skip
    return [
        Route("/api/library", answered(listing), methods=["GET"]),
        Route("/api/library/exports", answered(exports), methods=["GET"]),
        Route("/api/library/search", answered(search), methods=["GET"]),
        Route("/api/library/download/{id}.{form}", answered(download), methods=["GET"]),
        *(
            Route(f"/api/library/{name}", posted(work), methods=["POST"])
            for name, work in actions.items()
        ),
        *upload_routes(library.uploads),
    ]
