"""Learn from my choices: what the choices of stories hold, and a training run on them.

The report is that of ``cwgpt choices``, the run ``cwgpt train --choices`` in a process of its own,
listed in the room Train; its folder has a copy of the stories as they were.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ..errors import InputError, RunError
from ..files import read_json
from ..story.choice_report import report, sentences
from ..story.decisions import Decisions
from .answers import NotFound, answered, read_object
from .catalogue import Catalogue
from .runs import RunRecord
from .training import Training, free_folder, keep_text, machine_flags

REPORT = "choices_report.json"
_MOST_DRAFTS = 12
_NAME = "my choices"


class Choosing:
    """The choices of a studio's stories.

    Args:
        training: The room Train.
    """

    def __init__(self, training: Training) -> None:
        self.training, self.studio, self.runs = training, training.studio, training.runs
        studio = self.studio
        self._catalogue = Catalogue(studio.root, studio.stories, studio.outputs)

    def options(self) -> dict[str, Any]:
        """Stories with choices, the open one first, and the model that would be trained."""
        opened = self._saved()
        infos = {info.path: info for info in self._catalogue.stories() if not info.error}
        if opened is not None and opened not in infos and opened.is_file():
            infos[opened] = self._catalogue.story(opened)
        stories = [
            {"id": self.studio.ids.id(path), "name": info.name, "choices": info.choices,
             "words": info.words, "open": path == opened}
            for path, info in infos.items()
            if info.choices or path == opened
        ]  # fmt: skip
        stories.sort(key=lambda story: not story["open"])
        return {"stories": stories, "bases": self.training.bases(), "writes": self._writes()}

    def _writes(self) -> str:
        """Id of the model that writes, as the list of models to train has it."""
        name = self.studio.engine.name
        folder = (self.studio.root / name).absolute()
        return str(self.studio.ids.id(folder)) if folder.is_dir() else name

    def report(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """What the choices of some stories hold, in figures and in sentences.

        Raises:
            InputError: No story is chosen, or one can't be read.
        """
        from ..story.choice_files import read_any
        from ..taste.ranker import learn, usable

        files = self._files(body)
        found = Decisions()
        for path in files:
            found.add(read_any(path))
        found.drop_contradicting()
        figures = report(found, [path.name for path in files])
        taste = learn(found.used).sentence if usable(found.used) else None
        return {
            **{name: figures[name] for name in ("recorded", "inferred", "usable", "kinds", "few")},
            "left_out": figures["left_out"],
            "sentences": sentences(figures),
            "taste": taste,
        }

    def start(self, body: Mapping[str, Any]) -> RunRecord:
        """Start a training on the choices of some stories.

        Args:
            body: ``stories`` (ids), ``model``, ``name``, and ``beside`` where another one goes on.

        Raises:
            Conflict: Another training goes on.
            InputError: No story is chosen, or it can't be read.
        """
        self.training.check_alone(body)
        files = self._files(body)
        id = self.runs.new_id("train")
        folder = self.runs.place(id)
        try:
            model, adapter = self.training.base(str(body.get("model") or "starter"))
            name = str(body.get("name") or "").strip()[:120] or _NAME
            output = free_folder(self.studio.outputs, name)
            kept = [keep_text(path, folder / "texts") for path in files]
            words = ["-m", "creativewritinggpt", "train", "--choices", *map(str, kept)]
            words += [f"--model-name={model}"]
            words += [f"--init-adapter={adapter}"] if adapter else []
            words += [f"--output-dir={output}", "--json", *machine_flags(self.studio)]
            about = {
                "choices": True, "files": [path.name for path in files], "sources": [],
                "recipe": None, "model": model, "adapter": adapter, "method": "lora", "changed": {},
            }  # fmt: skip
            return self.runs.start(id, "train", name, words, output=output, about=about)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def learnt(self, id: str) -> dict[str, Any]:
        """What came of a run: sentences, and drafts before and after with the same seeds.

        Raises:
            NotFound: It has not ended, or was no training on choices.
        """
        record = self.runs.get(id)
        path = Path(record.output) / REPORT
        if not record.about.get("choices") or not path.is_file():
            raise NotFound("this run has no report yet", "wait until it has ended")
        found = read_json(path)
        return {
            "sentences": found["sentences"],
            "guard": found.get("guard"),
            "changed": bool(found.get("best_step")),
            "drafts": [
                {name: draft[name] for name in ("prompt", "seed", "before", "after")}
                for draft in found["drafts"][:_MOST_DRAFTS]
            ],
        }

    def _saved(self) -> Path | None:
        """The file of the open story, with all that was chosen; None for a story without one."""
        desk = self.studio.desk
        with desk.lock:
            desk.end_typing()
        if not desk.keeper.flush():
            raise RunError("the story is not saved yet", "see the status line")
        path = Path(desk.file.path).absolute()
        self._catalogue.beside = path.parent
        return path if path.is_file() else None

    def _files(self, body: Mapping[str, Any]) -> Sequence[Path]:
        self._saved()
        ids = body.get("stories")
        if not isinstance(ids, list) or not ids:
            raise InputError("no story is chosen", "choose the stories to learn from")
        return [self._catalogue.check(self.studio.ids.path(str(id))) for id in ids]


def routes(training: Training) -> list[BaseRoute]:
    """The routes of the choices."""
    room = Choosing(training)

    async def options(http: Request) -> Response:
        return JSONResponse(await run_in_threadpool(room.options))

    async def report(http: Request) -> Response:
        return JSONResponse(await run_in_threadpool(room.report, await read_object(http)))

    async def start(http: Request) -> Response:
        record = await run_in_threadpool(room.start, await read_object(http))
        return JSONResponse({"run": room.runs.show(record)})

    async def learnt(http: Request) -> Response:
        return JSONResponse(await run_in_threadpool(room.learnt, http.path_params["id"]))

    return [
        Route("/api/choices", answered(options), methods=["GET"]),
        Route("/api/choices", answered(start), methods=["POST"]),
        Route("/api/choices/report", answered(report), methods=["POST"]),
        Route("/api/choices/{id}", answered(learnt), methods=["GET"]),
    ]
