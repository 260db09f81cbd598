"""Routes of the figures: heat, one token, why a word is there.

Each request becomes a task of the scheduler, with the priorities alternatives, heat, why; its
answer comes as events. A new request of a kind stops the one before it: the page shows one.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ..errors import InputError
from .answers import Conflict, answered, read_object

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel
    from .figures import Place, Row, Scene

MEASURES = ("probability", "rank", "entropy", "difference")
PRIORITIES = {"token": 1, "heat": 2, "why": 3}
"""Tasks of lower numbers come first; writing comes before all of them."""
_PAIR = re.compile("[\U00010000-\U0010ffff]")


def routes(studio: Any) -> list[BaseRoute]:
    """The routes of heat, token and why."""
    insight = Insight(studio)
    return [
        Route(f"/api/{name}", answered(handler), methods=["POST"])
        for name, handler in (
            ("heat", insight.heat),
            ("token", insight.token),
            ("why", insight.why),
        )
    ]


class Insight:
    """Figures of the story that is open.

    Args:
        studio: What the rooms share.
    """

    def __init__(self, studio: Any) -> None:
        self.studio = studio
        self._figures: Any = None  # made in the scheduler's thread
        self._jobs: dict[str, str] = {}

    async def heat(self, http: Request) -> Response:
        """``POST /api/heat``: figures of the visible text, then of the rest, as ``heat`` events."""
        body = await read_object(http)
        scene, places = self._scene(body)
        visible = places.index(_offset(body, "from")), places.index(_offset(body, "to"))
        measure = body.get("measure", "probability")
        if measure not in MEASURES:
            raise InputError(f"there is no measure {measure!r}", f"one of {', '.join(MEASURES)}")
        base = measure == "difference"

        def work(model: LoadedModel, job: str) -> Generator[None, None, None]:
            from .figures import Figures

            if base and not model.has_adapter:
                raise InputError(
                    f"{model.name} has no adapter, so that there is no difference to show",
                    "choose a tuned model, or another measure",
                )
            self._figures = self._figures or Figures()

            def show(place: Place, rows: Sequence[Row]) -> None:
                tokens = [
                    [
                        places.utf16(place.start + row.start),
                        places.utf16(place.start + row.end),
                        round(row.logprob, 5),
                        row.rank,
                        round(row.entropy, 4),
                        None if row.base is None else round(row.base, 5),
                    ]
                    for row in rows
                ]
                self.studio.events.publish(
                    "heat", job=job, revision=body["revision"], length=places.length,
                    **{"from": tokens[0][0], "to": tokens[-1][1]}, tokens=tokens,
                )  # fmt: skip

            yield from self._figures.heat(model, scene, visible, show, base=base)

        return self._begin("heat", work)

    async def token(self, http: Request) -> Response:
        """``POST /api/token``: all that is known of the token at a place, as a ``token`` event."""
        body = await read_object(http)
        scene, places = self._scene(body)
        at = places.index(_offset(body, "at"))
        scene.place(at)

        def work(model: LoadedModel, job: str) -> Generator[None, None, None]:
            from .figures import token_at

            found, (start, end) = yield from token_at(model, scene, at)
            where = {"from": places.utf16(start), "to": places.utf16(end)}
            self.studio.events.publish(
                "token", job=job, revision=body["revision"], **where, **found
            )

        return self._begin("token", work)

    async def why(self, http: Request) -> Response:
        """``POST /api/why``: what a word came from, as a ``why`` event."""
        body = await read_object(http)
        scene, places = self._scene(body)
        start, end = places.index(_offset(body, "from")), places.index(_offset(body, "to"))
        unit = body.get("unit", "word")

        def work(model: LoadedModel, job: str) -> Generator[None, None, None]:
            from .reasons import as_record, reason_at

            reason, seen = yield from reason_at(model, scene, start, end, unit)
            found = as_record(reason, seen)
            found["scores"] = [
                [places.utf16(first), places.utf16(last), score]
                for first, last, score in found["scores"]
            ]
            target = {"from": body["from"], "to": body["to"], "text": scene.story.text[start:end]}
            self.studio.events.publish(
                "why", job=job, revision=body["revision"], target=target, **found
            )

        return self._begin("why", work)

    def _begin(
        self, kind: str, work: Callable[[LoadedModel, str], Generator[None, None, None]]
    ) -> Response:
        """Begin a task in place of the one of this kind that runs, and answer its id."""
        engine = self.studio.engine
        before = self._jobs.pop(kind, None)
        if before is not None:
            engine.stop(before)
        job = engine.task(kind, work, PRIORITIES[kind])
        self._jobs[kind] = job
        return JSONResponse({"job": job})

    def _scene(self, body: dict[str, Any]) -> tuple[Scene, Places]:
        """The story as it is now, and the places in it.

        Raises:
            Conflict: The page has another one.
        """
        from .figures import Scene

        desk = self.studio.desk
        with desk.lock:
            if body.get("revision") != desk.revision:
                raise Conflict("the text has changed since", "ask again", revision=desk.revision)
            scene = Scene.of(desk.story, desk.tokens, desk.settings, self.studio.engine.signature)
        return scene, Places(scene.story.text)


class Places:
    """Places of a text in UTF-16 code units, as the page counts, and in characters.

    Args:
        text: The text.
    """

    def __init__(self, text: str) -> None:
        self._pairs = [match.start() for match in _PAIR.finditer(text)]
        self._pairs16 = [place + count for count, place in enumerate(self._pairs)]
        self.length = len(text) + len(self._pairs)

    def utf16(self, index: int) -> int:
        """Where a character begins, in code units."""
        return index + bisect.bisect_left(self._pairs, index)

    def index(self, place: int) -> int:
        """The character that begins at, or holds, a code unit."""
        return place - bisect.bisect_left(self._pairs16, place)


def _offset(body: dict[str, Any], name: str) -> int:
    value = body.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError(f"{name} must be a place in the text", "give a number of characters")
    return value
