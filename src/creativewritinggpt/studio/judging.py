"""The room Judge: evaluations, the originality of the story at hand, and runs side by side."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ..errors import InputError
from ..evaluation.settings import EvaluationSettings
from ..evaluation.tables import labels, section_title, tables
from ..evaluation.voice_page import habit_sentences
from ..files import disk_errors, read_json, write_text
from ..training.run_files import METRICS
from .answers import NotFound, answered, list_in, number_in, object_in, read_object
from .forms import checked, flags, form_fields
from .runs import RunRecord, Runs
from .training import finished_trainings, machine, machine_flags, model_path, slug

TEXT = "text.txt"
PRESETS: dict[str, dict[str, Any]] = {
    "short": {
        "why": "a first look in a few minutes: few documents, few texts",
        "settings": {
            "window": 512, "texts": 2, "text_tokens": 60, "decoding": ["top_p=0.9"],
            "originality": True,
            "forgetting_words": 200, "voice_words": 0,
        },
        "max_documents": 6,
    },
    "voice": {
        "why": "is it the author's voice? 5,000 words that each model writes: up to an hour",
        "settings": {
            "window": 512, "texts": 1, "text_tokens": 60, "decoding": ["top_p=0.9"],
            "originality": True, "forgetting_words": 0,
        },
        "max_documents": None,
    },
    "full": {
        "why": "all held-out documents, with figures of generated texts: may take an hour",
        "settings": {},
        "max_documents": None,
    },
}  # fmt: skip
_NO_FIELDS = ("cloze", "forgetting", "legacy_ppl", "voice", "others")
_REPEATED = ("decoding", "forgetting")
_FEW_WORDS = 8
_SAME = ("sources", "output_dir", "results_dir", "cache_dir", "starter_file", "sample_prompts")
"""Settings that are no difference between runs."""


class Judging:
    """The room Judge of one studio.

    Args:
        studio: Where files and outputs lie, and the story.
        runs: The runs.
    """

    def __init__(self, studio: Any, runs: Runs) -> None:
        self.studio, self.runs = studio, runs

    def options(self) -> dict[str, Any]:
        """What can be chosen before an evaluation."""
        return {
            "fields": form_fields(EvaluationSettings, _NO_FIELDS),
            "presets": [{"name": name, **preset} for name, preset in PRESETS.items()],
            "models": self.models(),
        }

    def models(self) -> list[dict[str, Any]]:
        """Models that were trained here, and the starter."""
        found = []
        for folder in finished_trainings(self.studio.outputs):
            for name in ("best_model", "final_model"):
                model = folder / name
                if (model / "run.json").is_file():
                    found.append(
                        {"id": self.studio.ids.id(model), "name": self._name_of(folder),
                         "held_out": (folder / "validation.jsonl").is_file(), "trained": True}
                    )  # fmt: skip
                    break
        return [*found, {"id": "starter", "name": "starter", "held_out": False, "trained": False}]

    def _name_of(self, folder: Path) -> str:
        for record in self.runs.records():
            if record.output == str(folder):
                return record.name
        return folder.name

    def start(self, body: Mapping[str, Any]) -> RunRecord:
        """Start an evaluation.

        Args:
            body: ``model``, ``compare`` (further models), ``files`` (ids), ``sources``,
                ``voice`` and ``others`` (ids of an author's texts, and of other authors'),
                ``preset``, ``settings`` and ``max_documents``.

        Raises:
            InputError: It can't be used.
        """
        preset = PRESETS.get(str(body.get("preset") or "short"))
        if preset is None:
            raise InputError("there is no such preset", f"there are: {', '.join(PRESETS)}")
        changed = checked(EvaluationSettings, object_in(body, "settings"), _NO_FIELDS)
        settings = {**preset["settings"], **changed}
        EvaluationSettings.from_mapping(settings)
        files = [self.studio.ids.path(id) for id in list_in(body, "files")]
        models = [str(body.get("model") or "starter"), *map(str, list_in(body, "compare"))]
        paths = [model_path(self.studio, model) for model in models]
        name = str(body.get("name") or "").strip()[:120] or self._label(paths)
        words = ["-m", "creativewritinggpt", "evaluate", *map(str, files)]
        words += ["--compare", *paths] if len(paths) > 1 else [f"--model={paths[0]}"]
        most = number_in({**preset, **body}, "max_documents")
        if most is not None:
            words.append(f"--max-documents={most}")
        voice, others = (
            [self.studio.ids.path(id) for id in list_in(body, name)] for name in ("voice", "others")
        )
        if others and not voice and not self._held_out(paths[0]):
            raise InputError("there are other authors and none to compare", "give the author's")
        for name, given in (("voice", voice), ("others", others)):
            if given:
                words += [f"--{name}", *map(str, given)]
        sources = list_in(body, "sources")
        if sources and not files and not voice:
            words.append(f"--sources={','.join(map(str, sources))}")
        words += [*flags(settings, _REPEATED), "--json", *machine_flags(self.studio)]
        about = {
            "model": self._label(paths), "preset": body.get("preset") or "short",
            "changed": changed, "files": [path.name for path in (*files, *voice)],
            "others": [path.name for path in others], "sources": sources,
        }  # fmt: skip
        id = self.runs.new_id("evaluate")
        output = self.studio.outputs / "evaluations" / f"{slug(name)}-{id[-6:]}"
        words.append(f"--output-dir={output}")
        return self.runs.start(id, "evaluate", name, words, output=output, about=about)

    def _held_out(self, model: str) -> bool:
        """Whether documents were held out when a model was trained."""
        return (Path(model).parent / "validation.jsonl").is_file()

    def _label(self, paths: list[str]) -> str:
        names = [
            self._name_of(Path(path).parent) if Path(path).is_dir() else path for path in paths
        ]
        return " and ".join(names)

    def page(self, id: str) -> dict[str, Any]:
        """The figures of an evaluation, for the page to draw.

        Raises:
            NotFound: It has not ended yet.
        """
        record = self.runs.get(id)
        path = Path(record.output) / "evaluation.json"
        if record.kind != "evaluate" or not path.is_file():
            raise NotFound("this evaluation has no figures yet", "wait until it has ended")
        found = read_json(path)
        first, *others = labels(found)
        bars = [
            {
                "domain": name,
                "values": {label: entry[label]["perplexity"] for label in (first, *others)},
            }
            for name, entry in found["domains"].items()
        ]
        return {
            "models": found["models"],
            "labels": [first, *others],
            "bars": bars,
            "mean": found["macro_perplexity"],
            "tables": [
                {"title": title or "Perplexity", "heads": heads, "rows": rows, "caption": said}
                for title, (heads, rows), said in tables(found)
            ],
            "without": {section_title(what): why for what, why in found["without"].items()},
            "samples": (found.get("generation") or {}).get("samples", []),
            "voice": (voice := found.get("voice")),
            "habits": habit_sentences(voice) if voice else [],
        }

    def originality(self, body: Mapping[str, Any]) -> RunRecord:
        """Search the story at hand for runs of words of a model's training text.

        Raises:
            InputError: The story is too short.
        """
        desk = self.studio.desk
        with desk.lock:
            text, revision = desk.text, desk.revision
        if len(text.split()) < _FEW_WORDS:
            raise InputError(
                "the story is shorter than the shortest run of words that is looked for",
                f"write {_FEW_WORDS} words or more first",
            )
        given = str(body.get("model") or "")
        if not given:
            raise InputError("no model is chosen", "choose one that was trained here")
        model = model_path(self.studio, given)
        for record in self.runs.going("originality"):
            self.runs.end(record.id)
        id = self.runs.new_id("originality")
        folder = self.runs.place(id)
        with disk_errors(folder):
            write_text(folder / TEXT, text)
        words = ["-m", "creativewritinggpt.studio.originality", str(folder / TEXT), model]
        if cache := machine(self.studio).get("cache_dir"):
            words.append(str(cache))
        about = {"model": self._label([model]), "revision": revision}
        try:
            return self.runs.start(id, "originality", "originality", words, about=about)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def found(self, id: str) -> dict[str, Any]:
        """The runs of words that were found, with offsets in UTF-16 code units.

        Raises:
            NotFound: The search has not ended yet.
        """
        record = self.runs.get(id)
        result = self.runs.result(id)
        if record.kind != "originality" or result is None:
            raise NotFound("the search has not ended yet")
        text = (self.runs.place(id) / TEXT).read_bytes().decode("utf-8")
        shown = [
            {
                "from": utf16(text, run["start"]),
                "to": utf16(text, run["end"]),
                "text": text[run["start"] : run["end"]],
                "words": run["words"],
                "document": run["document"],
                "context": run["context"],
            }
            for run in result["runs"]
        ]
        return {
            **{name: result[name] for name in ("words", "longest_run", "share_of_8grams")},
            "revision": record.about["revision"],
            "model": record.about["model"],
            "runs": shown,
            "sentence": _sentence(result),
        }

    def compare(self) -> dict[str, Any]:
        """All trainings as rows of a table, with the settings in which they differ."""
        rows = []
        for folder in finished_trainings(self.studio.outputs):
            try:
                metrics = read_json(folder / METRICS)
                rows.append(self._row(folder, metrics))
            except (InputError, KeyError, TypeError, ValueError):
                continue  # no validation yet, or a file of another program
        seen: dict[str, set[str]] = {}
        for row in rows:
            for name, value in row["settings"].items():
                seen.setdefault(name, set()).add(repr(value))
        differ = [name for name, values in seen.items() if len(values) > 1 and name not in _SAME]
        for row in rows:
            row["settings"] = {name: row["settings"].get(name) for name in differ}
        domains = list(dict.fromkeys(name for row in rows for name in row["domains"]))
        return {"rows": rows, "differ": differ, "domains": domains}

    def _row(self, folder: Path, metrics: Mapping[str, Any]) -> dict[str, Any]:
        at, best = metrics["evaluation_steps"], metrics["best_step"]
        place = at.index(best) if best in at else None
        loss = None if place is None else metrics["val_loss"][place]
        return {
            "name": self._name_of(folder),
            "base": metrics["config"]["model_name"],
            "base_perplexity": metrics["base_val_perplexity"],
            "loss": loss,
            "perplexity": None if loss is None else math.exp(min(loss, 700.0)),
            "domains": {
                name: None if place is None or (found := one["val_loss"][place]) is None
                else math.exp(min(found, 700.0))
                for name, one in metrics["domains"].items()
            },
            "steps": len(metrics["batch_losses"]),
            "best_step": best,
            "seconds": metrics["seconds"],
            "tokens_per_second": metrics["useful_tokens_per_second"],
            "memory": metrics["peak_memory_bytes"],
            "settings": dict(metrics["config"]),
        }  # fmt: skip


def utf16(text: str, index: int) -> int:
    """An offset in characters as one in UTF-16 code units."""
    head = text[:index]
    return index if head.isascii() else index + sum(ord(sign) > 0xFFFF for sign in head)


def _sentence(result: Mapping[str, Any]) -> str:
    runs = result["runs"]
    if not runs:
        longest = result["longest_run"]
        return (
            f"No run of eight words or more stands in the training text; the longest has {longest}."
        )
    share = result["share_of_8grams"] or 0.0
    count = f"{len(runs)} runs" if len(runs) > 1 else "One run"
    verb = "stand" if len(runs) > 1 else "stands"
    return (
        f"{count} of eight words or more {verb} in the training text, the longest of "
        f"{result['longest_run']} words; {share:.1%} of all runs of eight words."
    )


def routes(studio: Any, runs: Runs) -> list[BaseRoute]:
    """The routes of the room."""
    room = Judging(studio, runs)

    async def options(http: Request) -> Response:
        return JSONResponse(await run_in_threadpool(room.options))

    async def start(http: Request) -> Response:
        record = await run_in_threadpool(room.start, await read_object(http))
        return JSONResponse({"run": runs.show(record)})

    async def page(http: Request) -> Response:
        return JSONResponse(await run_in_threadpool(room.page, http.path_params["id"]))

    async def search(http: Request) -> Response:
        record = await run_in_threadpool(room.originality, await read_object(http))
        return JSONResponse({"run": runs.show(record)})

    async def found(http: Request) -> Response:
        return JSONResponse(await run_in_threadpool(room.found, http.path_params["id"]))

    async def compare(http: Request) -> Response:
        return JSONResponse(await run_in_threadpool(room.compare))

    return [
        Route("/api/judge", answered(options), methods=["GET"]),
        Route("/api/judge", answered(start), methods=["POST"]),
        Route("/api/judge/compare", answered(compare), methods=["GET"]),
        Route("/api/judge/originality", answered(search), methods=["POST"]),
        Route("/api/judge/originality/{id}", answered(found), methods=["GET"]),
        Route("/api/judge/{id}", answered(page), methods=["GET"]),
    ]
