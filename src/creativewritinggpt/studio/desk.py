"""The routes of the writing room: the state, the events, the story, the settings, the model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from ..errors import InputError
from . import changes, commands
from .answers import NotFound, answered, read_object
from .events import tell
from .preferences import controls, preset_records

if TYPE_CHECKING:
    from .studio import Studio

Body = dict[str, Any]


def routes(studio: Studio) -> list[BaseRoute]:
    """The routes of the writing room."""
    room = WritingRoom(studio)
    story: dict[str, Callable[[Body], Body]] = {
        "edit": room.edit, "continue": room.go_on, "version": room.version,
        "drafts": room.drafts, "take": room.take, "compare": room.compare, "undo": room.undo,
        "redo": room.redo, "branch": room.branch, "goto": room.goto, "chapter": room.chapter,
        "set": room.set, "goal": room.goal, "replace": room.replace, "verify": room.verify,
    }  # fmt: skip
    found: list[BaseRoute] = [
        _route(f"/api/story/{name}", "POST", act) for name, act in story.items()
    ]
    found += [
        WebSocketRoute("/api/events", room.events),
        _route("/api/state", "GET", room.state),
        _route("/api/story/tree", "GET", room.tree),
        _route("/api/story/context", "GET", room.context),
        _route("/api/tabs/write", "POST", room.write_here),
        _route("/api/settings", "PATCH", room.change_settings),
        _route("/api/model", "PATCH", room.change_model),
        _route("/api/models", "GET", room.models),
        _route("/api/jobs", "GET", room.jobs),
        Route("/api/jobs/{id}", answered(room.stop), methods=["DELETE"]),
    ]
    return found


def _route(path: str, method: str, act: Callable[[Body], Body]) -> Route:
    """A route whose handler takes and gives a JSON object, in a thread."""

    async def handler(http: Request) -> Response:
        body = await read_object(http) if method != "GET" else {}
        return JSONResponse(await run_in_threadpool(act, body))

    return Route(path, answered(handler), methods=[method])


def _tab(body: Body) -> str | None:
    tab = body.get("tab")
    return tab[:64] if isinstance(tab, str) and tab else None


class WritingRoom:
    """What the page asks of the desk.

    Args:
        studio: The studio.
    """

    def __init__(self, studio: Studio) -> None:
        self.studio, self.desk = studio, studio.desk

    async def events(self, socket: WebSocket) -> None:
        """``GET /api/events``."""
        await tell(socket, self.studio.events, self.studio.tabs)

    def state(self, body: Body) -> Body:
        """``GET /api/state``."""
        state = self.desk.state()
        settings = {
            **self.studio.settings.record(), "fields": controls(), "presets": preset_records(),
        }  # fmt: skip
        return {**state, "settings": settings}

    def _at(self, **more: Any) -> Body:
        return {"revision": self.desk.revision, "n": self.studio.events.n, **more}

    def edit(self, body: Body) -> Body:
        """``POST /api/story/edit``."""
        n, name = body.get("n"), body.get("id")
        revision = self.desk.edit(
            body.get("revision"), _tab(body), body.get("changes", ()),
            n if type(n) is int else None, name if isinstance(name, str) else None,
        )  # fmt: skip
        return {"revision": revision, "n": self.studio.events.n}

    def go_on(self, body: Body) -> Body:
        """``POST /api/story/continue``."""
        at = body.get("at")
        if at is not None and type(at) is not int:
            raise InputError("at must be a place in the text")
        writing = commands.go_on(self.desk, _tab(body), at, body.get("tokens"), body.get("seed"))
        return self._at(job=writing.job.id)

    def version(self, body: Body) -> Body:
        """``POST /api/story/version``."""
        writing = commands.version(self.desk, _tab(body), body.get("passage"), body.get("seed"))
        return self._at(job=writing.job.id)

    def drafts(self, body: Body) -> Body:
        """``POST /api/story/drafts``."""
        writing = commands.drafts(self.desk, _tab(body), body.get("count", body.get("n", 3)),
                                  body.get("seed"))  # fmt: skip
        return self._at(job=writing.job.id)

    def compare(self, body: Body) -> Body:
        """``POST /api/story/compare``."""
        writing = commands.compare(
            self.desk, _tab(body), body.get("a"), body.get("b"), body.get("seed")
        )
        return self._at(job=writing.job.id)

    def take(self, body: Body) -> Body:
        """``POST /api/story/take``."""
        passage = commands.take(self.desk, _tab(body), body.get("job"), body.get("row"))
        return self._at(passage=passage)

    def replace(self, body: Body) -> Body:
        """``POST /api/story/replace``."""
        name = commands.replace(
            self.desk, _tab(body), body.get("from"), body.get("to"), body.get("text")
        )
        return self._at(branch=name)

    def verify(self, body: Body) -> Body:
        """``POST /api/story/verify``."""
        writing = commands.verify(self.desk, _tab(body), body.get("passage"))
        return self._at(job=writing.job.id)

    def undo(self, body: Body) -> Body:
        """``POST /api/story/undo``."""
        return self._at(done=changes.undo(self.desk, _tab(body), _steps(body)))

    def redo(self, body: Body) -> Body:
        """``POST /api/story/redo``."""
        return self._at(done=changes.redo(self.desk, _tab(body), _steps(body)))

    def branch(self, body: Body) -> Body:
        """``POST /api/story/branch``."""
        name = body.get("name", "")
        if not isinstance(name, str):
            raise InputError("the name of a branch is text")
        return self._at(branch=changes.branch(self.desk, _tab(body), name, body.get("at")))

    def goto(self, body: Body) -> Body:
        """``POST /api/story/goto``."""
        branch, passage = body.get("branch"), body.get("passage")
        if not isinstance(branch, str) and passage is None:
            raise InputError("name a branch or a passage")
        changes.goto(self.desk, _tab(body), branch if isinstance(branch, str) else None, passage)
        return self._at()

    def chapter(self, body: Body) -> Body:
        """``POST /api/story/chapter``."""
        title, at = body.get("title"), body.get("at")
        if not isinstance(title, str) or (at is not None and type(at) is not int):
            raise InputError("a chapter has a title, and a place in the text")
        changes.chapter(self.desk, _tab(body), title, at)
        return self._at()

    def set(self, body: Body) -> Body:
        """``POST /api/story/set``."""
        values = {
            name: value for name, value in body.items() if name not in ("tab", "n", "revision")
        }
        changes.set(self.desk, _tab(body), values)
        return self._at()

    def goal(self, body: Body) -> Body:
        """``POST /api/story/goal``."""
        changes.set_goal(self.desk, body.get("words"))
        return self._at()

    def tree(self, body: Body) -> Body:
        """``GET /api/story/tree``."""
        with self.desk.lock:
            return {"passages": self.desk.outline.tree(), "revision": self.desk.revision}

    def context(self, body: Body) -> Body:
        """``GET /api/story/context``: what the model sees."""
        desk = self.desk
        view = desk.view()
        with desk.lock:
            start = desk.utf16(min(view.start, len(desk.text)))
        return {
            "start": start, "tokens": view.tokens, "used": view.used,
            "context_length": view.context_length, "view": view.view,
            "lore": [one.name for one in view.lore],
            "left_out": [one.name for one in view.left_out],
            "revision": desk.revision,
        }  # fmt: skip

    def write_here(self, body: Body) -> Body:
        """``POST /api/tabs/write``."""
        tab = _tab(body)
        if tab is None:
            raise InputError("a tab has an id")
        self.studio.tabs.write(tab)
        return self._at(writer=tab)

    def change_settings(self, body: Body) -> Body:
        """``PATCH /api/settings``."""
        settings, engine = self.studio.settings, self.studio.engine
        if "preset" in body:
            name = body["preset"]
            settings.use_preset(name if isinstance(name, str) and name else None)
        if "reset" in body:
            settings.reset(str(body["reset"]))
        if "values" in body:
            if not isinstance(body["values"], dict):
                raise InputError("values must be an object")
            settings.change(body["values"])
        if "best_first" in body:
            settings.order_drafts(body["best_first"] is True)
        record = settings.record()
        if engine.weights != settings.values.weights:
            engine.weights = settings.values.weights
            self.desk.warm()
        self.studio.events.publish("settings", **record)
        return {**record, "n": self.studio.events.n}

    def change_model(self, body: Body) -> Body:
        """``PATCH /api/model``."""
        engine = self.studio.engine
        chosen = body.get("id", body.get("name"))
        if chosen is not None:
            engine.load(self.studio.model_name(str(chosen)))
        if "style" in body:
            if type(body["style"]) not in (int, float):
                raise InputError("the style is a number from 0 to 1.5")
            engine.set_style(float(body["style"]))
        if "adapters" in body:
            engine.set_adapters(self._adapters(body["adapters"]))
        return engine.record()

    def _adapters(self, given: Any) -> dict[str, float]:
        if not isinstance(given, dict):
            raise InputError("adapters must be an object of weights")
        found = {}
        for id, weight in given.items():
            if type(weight) not in (int, float):
                raise InputError("the weight of an adapter is a number from 0 to 1.5")
            known = id in self.studio.engine.adapters
            found[id if known else self.studio.model_name(id)] = float(weight)
        return found

    def models(self, body: Body) -> Body:
        """``GET /api/models``."""
        return {"models": self.studio.model_names(), "current": self.studio.engine.name}

    def jobs(self, body: Body) -> Body:
        """``GET /api/jobs``."""
        return {"jobs": [job.record() for job in self.studio.jobs.listed()]}

    async def stop(self, http: Request) -> Response:
        """``DELETE /api/jobs/{id}``: stop it, and wait until what is there is kept."""
        job = self.studio.jobs.find(http.path_params["id"])
        if job is None:
            raise NotFound("there is no such job any more")
        with contextlib.suppress(InputError):
            await run_in_threadpool(job.stop)
        return JSONResponse(job.record())


def _steps(body: Body) -> int:
    steps = body.get("steps", 1)
    if type(steps) is not int or not 1 <= steps <= 10_000:
        raise InputError("steps must be a whole number")
    return steps
