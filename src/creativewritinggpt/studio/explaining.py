"""The room Explain: the explanation page of a passage of the story, made by ``cwgpt analyze``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ..analysis.registry import METHODS, AnalysisSettings
from ..errors import InputError
from ..files import disk_errors, write_text
from .answers import Conflict, answered, object_in, read_object
from .forms import checked, flags, form_fields
from .judging import utf16
from .runs import RunRecord, Runs
from .training import machine_flags, model_path

if TYPE_CHECKING:
    from .figures import Scene

MOST_WORDS = 60
"""Words of a passage; each of its tokens is explained."""

PRESETS: dict[str, dict[str, Any]] = {
    "short": {
        "why": "gradients and the guesses of each layer: under a minute for a few words",
        "settings": {"methods": ["gradients", "lens"], "base": False},
    },
    "full": {
        "why": "all methods with a test of how far to trust each: many minutes",
        "settings": {"methods": [name for name in METHODS if name != "story"]},
    },
}
_NO_FIELDS = ("write", "target", "next_word", "preset", "layers", "heads", "svg")
_SHOWN = 80


class Explaining:
    """The room Explain of one studio.

    Args:
        studio: The story, the model that writes, and where outputs lie.
        runs: The runs.
    """

    def __init__(self, studio: Any, runs: Runs) -> None:
        self.studio, self.runs = studio, runs

    def options(self) -> dict[str, Any]:
        """What can be chosen before an explanation."""
        return {
            "fields": form_fields(AnalysisSettings, _NO_FIELDS),
            "presets": [{"name": name, **preset} for name, preset in PRESETS.items()],
            "most_words": MOST_WORDS,
        }

    def start(self, body: Mapping[str, Any]) -> RunRecord:
        """Explain a passage of the story.

        Args:
            body: ``from``, ``to`` (UTF-16 code units), ``revision``, ``preset``, ``settings``.

        Raises:
            InputError: There is no passage, it is too long, or no model is loaded.
            Conflict: The story has changed since.
        """
        from .reasons import seen_at  # what they read with takes time to import

        scene, target, start = self._passage(body)
        preset = PRESETS.get(str(body.get("preset") or "short"))
        if preset is None:
            raise InputError("there is no such preset", f"there are: {', '.join(PRESETS)}")
        changed = checked(AnalysisSettings, object_in(body, "settings"), _NO_FIELDS)
        settings = {**preset["settings"], **changed}
        AnalysisSettings.from_mapping(settings)
        engine = self.studio.engine
        if engine.model is None:
            raise InputError("the model is not loaded yet", "explain when it is")
        seen = seen_at(engine.model, scene, start, start + len(target))
        parts = [list(part) for part in seen.parts]
        start = utf16(scene.story.text, start)
        model = model_path(self.studio, engine.name)
        id = self.runs.new_id("analyze")
        folder = self.runs.place(id)
        output = self.studio.outputs / "explanations" / id
        try:
            with disk_errors(folder):
                write_text(
                    folder / "text.jsonl", json.dumps({"prompt": seen.text, "parts": parts}) + "\n"
                )
            words = [
                "-m", "creativewritinggpt", "analyze", f"--texts={folder / 'text.jsonl'}",
                f"--target={target}", f"--model={model}", f"--results-dir={output}", "--json",
                *flags(settings), *machine_flags(self.studio),
            ]  # fmt: skip
            about = {
                "passage": target, "from": start, "to": body["to"],
                "parts": [[name, seen.text[begin:end].strip()] for name, begin, end in seen.parts],
                "revision": body.get("revision"), "model": model,
                "preset": body.get("preset") or "short", "changed": changed,
            }  # fmt: skip
            name = " ".join(target.split())
            name = name if len(name) <= _SHOWN else name[: _SHOWN - 1].rstrip() + "…"
            return self.runs.start(id, "analyze", name, words, output=output, about=about)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _passage(self, body: Mapping[str, Any]) -> tuple[Scene, str, int]:
        """The story, the passage, and its first character."""
        from .figures import Scene

        desk = self.studio.desk
        with desk.lock:
            text, revision = desk.text, desk.revision
            wanted = body.get("revision")
            if wanted is not None and wanted != revision:
                raise Conflict("the story has changed meanwhile", "mark the passage again")
            try:
                start, end = (desk.index(int(body[name])) for name in ("from", "to"))
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise InputError("no passage is marked", "mark some words of the story") from error
            scene = Scene.of(desk.story, desk.tokens, desk.settings)
        passage = text[start:end]
        target = passage.strip()
        if not target:
            raise InputError("no passage is marked", "mark some words of the story")
        if len(target.split()) > MOST_WORDS or len(target) > 20 * MOST_WORDS:
            raise InputError(
                f"the passage has more than {MOST_WORDS} words, each of which is explained",
                "mark a shorter one",
            )
        if "\0" in target:
            raise InputError("the passage holds a character that no command takes (NUL)")
        return scene, target, start + passage.index(target)


def routes(studio: Any, runs: Runs) -> list[BaseRoute]:
    """The routes of the room."""
    room = Explaining(studio, runs)

    async def options(http: Request) -> Response:
        return JSONResponse(room.options())

    async def start(http: Request) -> Response:
        record = await run_in_threadpool(room.start, await read_object(http))
        return JSONResponse({"run": runs.show(record)})

    return [
        Route("/api/explain", answered(options), methods=["GET"]),
        Route("/api/explain", answered(start), methods=["POST"]),
    ]
