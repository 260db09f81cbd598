"""The room Train: what files become, what a run would take, and the run itself.

Each is a ``cwgpt`` command in a process of its own (see :mod:`.runs`). The texts of a run are kept
in its folder, since a resumed run and a later search for copied passages read them again.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from .. import console
from ..config.fields import MachineSettings
from ..config.run import CHOICES_RECIPE, Config, load_config, recipe_names, recipe_text
from ..data.readers.recognise import ENDINGS
from ..data.sources import named_sources
from ..errors import InputError
from ..files import disk_errors, read_json, write_text
from ..training.run_files import BEST, FINAL, MANIFEST
from .answers import Conflict, answered, number_in, object_in, read_object
from .forms import checked, flags, form_fields
from .runs import RECORD, RunRecord, Runs

_NO_FIELDS = (
    "model_name", "init_adapter", "sources", "output_dir", "results_dir", "track", "sample_prompts",
    "streaming", "device", "num_workers", "cache_dir", "starter_file",
)  # fmt: skip
"""Settings that the page asks for in another way, or that the studio decides."""

_READ_BY_INSPECT = (
    "sources", "mix", "train_size", "val_size", "max_documents", "max_length", "mask_prompt",
    "prompt_column", "text_column", "skip_missing", "skip_bad_rows", "seed", "cache_dir",
)  # fmt: skip
_NAME = "settings.yaml"
_NEEDED_DISK = 500_000_000
"""Bytes below which the page says that the disk may become full."""

_COMMAND = ("-m", "creativewritinggpt")
_ABOUT_SOURCES = {
    "sample": "stories and essays that come with the package: no download",
    "writingprompts": "prompts and stories of Reddit's WritingPrompts, from the hub",
    "rocstories": "stories of five sentences, from the hub",
    "wikitext": "articles of Wikipedia, from the hub",
    "openwebtext": "pages of the web, from the hub",
}
_MAX_PROMPTS = 8


@dataclasses.dataclass
class Order:
    """What a training was asked to do, read and checked.

    Attributes:
        files: The texts, as the user named them.
        sources: Named sources, where there are no files.
        config: The settings.
        about: What the page shows of the run.
    """

    files: list[Path]
    sources: list[str]
    config: Config
    about: dict[str, Any]


class Training:
    """The room Train of one studio.

    Args:
        studio: Where files and outputs lie, and the model that writes.
        runs: The runs.
    """

    def __init__(self, studio: Any, runs: Runs) -> None:
        self.studio, self.runs = studio, runs

    def options(self) -> dict[str, Any]:
        """What can be chosen before a start."""
        recipes = [
            {
                "name": name,
                "why": recipe_text(name).splitlines()[0].removeprefix("#").strip(),
                "settings": _shown(load_config(name)),
                "model": load_config(name).model_name,
            }
            for name in sorted(recipe_names(), key=lambda name: name != "starter")
            if name != CHOICES_RECIPE
        ]
        sources = [
            {"name": name, "about": _ABOUT_SOURCES.get(name, "a source of your own")}
            for name in sorted(named_sources(), key=lambda name: name != "sample")
        ]
        return {
            "recipes": recipes,
            "fields": form_fields(Config, _NO_FIELDS),
            "sources": sources,
            "endings": list(ENDINGS),
            "bases": self.bases(),
            "fetches": self._unfetched(load_config("starter", machine(self.studio))),
            "notes": self.notes(),
        }

    def bases(self) -> list[dict[str, Any]]:
        """Models to train: the starter, and those that were trained here, to go on from."""
        found = [{"id": "starter", "name": "starter", "about": "135 million parameters; no hub"}]
        for record in self.runs.records():
            model = self.runs.model_of(record)
            if model is None or record.about.get("method") == "full":
                continue
            found.append(
                {
                    "id": self.studio.ids.id(model),
                    "name": record.name,
                    "about": f"go on from this adapter of {record.about.get('model', 'a model')}",
                }
            )
        return found

    def notes(self, needed: int = 0) -> list[str]:
        """What the user should know before a start: memory, disk, and what else runs."""
        from ..devices import memory

        total, free = memory()
        notes = []
        if needed > free:
            notes.append(
                f"It needs about {console.size(needed)} of memory, and {console.size(free)} are "
                "free: it would end for lack of memory. Take fewer tokens per row (max length), "
                "or close other programs."
            )
        elif free < 0.15 * total:
            notes.append(
                f"Only {console.size(free)} of {console.size(total)} of memory are free: "
                "close other programs before a long run."
            )
        if self.studio.engine.model is not None:
            cores = console.counted(os.cpu_count() or 1, "core")
            notes.append(
                f"The model that writes keeps its memory and shares {cores} with the run: both "
                "are slower meanwhile, and the run yields to the writing."
            )
        notes += [f"A training runs: {record.name}." for record in self.runs.going("train")]
        room = shutil.disk_usage(_existing(self.studio.outputs)).free
        if room < _NEEDED_DISK:
            notes.append(f"Only {console.size(room)} of the disk are free: a run may not end.")
        return notes

    def order(self, body: Mapping[str, Any], folder: Path) -> Order:
        """Read what the page asks for.

        Args:
            body: ``files`` (ids), ``sources``, ``recipe``, ``model``, ``settings``, ``prompts``.
            folder: Of the run; prompts are written there.

        Raises:
            InputError: It can't be used.
        """
        files = [self.studio.ids.path(id) for id in _texts(body, "files")]
        sources = _texts(body, "sources")
        if not files and not sources:
            raise InputError("there is nothing to train on", "drop files, or choose a source")
        recipe = body.get("recipe") or None
        if recipe is not None and recipe not in recipe_names():
            raise InputError(f"no recipe '{recipe}'", f"there are: {', '.join(recipe_names())}")
        changed = checked(Config, object_in(body, "settings"), _NO_FIELDS)
        model, adapter = self.base(str(body.get("model") or "starter"))
        chosen: dict[str, Any] = {"model_name": model, "init_adapter": adapter}
        if sources:
            chosen["sources"] = sources
        if prompts := [text for text in _texts(body, "prompts") if text.strip()][:_MAX_PROMPTS]:
            path = folder / "prompts.txt"
            write_text(path, "".join(" ".join(text.split()) + "\n" for text in prompts))
            chosen |= {"sample_prompts": str(path), "samples": len(prompts)}
        config = load_config(recipe, {**changed, **chosen, **machine(self.studio)})
        about = {
            "files": [path.name for path in files],
            "sources": [] if files else sources,
            "recipe": recipe,
            "model": model,
            "adapter": adapter,
            "method": config.method,
            "changed": changed,
        }
        return Order(files, sources, config, about)

    def base(self, given: str) -> tuple[str, str | None]:
        """The base model, and the adapter to go on from, where the model is one.

        Raises:
            InputError: The model is gone, or doesn't say what it was trained from.
        """
        if given == "starter":
            return given, None
        path = model_path(self.studio, given)
        folder = Path(path)
        if not (folder / "adapter_config.json").is_file():
            return path, None
        run = folder / RECORD
        base = read_json(run)["base"]["name"] if run.is_file() else ""
        if not base:
            raise InputError(
                f"{folder.name} does not say which model it was trained from",
                "choose that model instead",
            )
        return str(base), path

    def ask(self, kind: str, body: Mapping[str, Any]) -> RunRecord:
        """Start ``inspect`` or ``estimate``; the one before is ended, since its answer is old."""
        for record in self.runs.going(kind):
            self.runs.end(record.id)
        id = self.runs.new_id(kind)
        folder = self.runs.place(id)
        try:
            order = self.order(body, folder)
            words = [*_COMMAND, *(("data", "inspect") if kind == "inspect" else ("train",))]
            words += [*map(str, order.files), "--json"]
            if kind == "inspect" and self._unfetched(order.config):
                # Reading a text is no reason to fetch a model: lengths are in words then.
                config = order.config.to_dict()
                words += flags({name: config[name] for name in _READ_BY_INSPECT})
            else:
                words.append(f"--config={_write(order.config, folder)}")
            if kind == "estimate":
                words.append("--estimate")
            return self.runs.start(id, kind, kind, words, about=order.about)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _unfetched(self, config: Config) -> bool:
        """Whether the model would have to be fetched first."""
        from ..models.starter import is_cached

        return config.model_name == "starter" and not is_cached(config.cache_dir)

    def check_alone(self, body: Mapping[str, Any]) -> None:
        """Whether no other training goes on, or the body says ``beside``.

        Raises:
            Conflict: Another one goes on.
        """
        going = self.runs.going("train")
        if going and not body.get("beside"):
            raise Conflict(
                f"the training “{going[0].name}” goes on; two at once take twice as long",
                "wait for it, stop it, or start this one beside it",
                running=going[0].id,
            )

    def start(self, body: Mapping[str, Any]) -> RunRecord:
        """Start a training.

        Raises:
            Conflict: Another one goes on, and the body does not say ``beside``.
        """
        self.check_alone(body)
        for kind in ("inspect", "estimate"):  # nobody waits for them any more
            for record in self.runs.going(kind):
                self.runs.end(record.id)
        id = self.runs.new_id("train")
        folder = self.runs.place(id)
        try:
            order = self.order(body, folder)
            name = str(body.get("name") or "").strip()[:120] or _name_of(order)
            output = free_folder(self.studio.outputs, name)
            files = [keep_text(path, folder / "texts") for path in order.files]
            config = dataclasses.replace(order.config, output_dir=str(output))
            words = [*_COMMAND, "train", *map(str, files)]
            words += [f"--config={_write(config, folder)}", "--json"]
            return self.runs.start(id, "train", name, words, output=output, about=order.about)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def resume(self, id: str, beside: bool = False) -> RunRecord:
        """Go on with a training that was stopped or has failed.

        Raises:
            Conflict: Another one goes on.
            InputError: There is nothing to go on with.
        """
        record = self.runs.get(id)
        if record.kind != "train":
            raise InputError("only a training can be resumed", "start this anew instead")
        going = [one for one in self.runs.going("train") if one.id != id]
        if going and not beside:
            raise Conflict(
                f"the training “{going[0].name}” goes on; two at once take twice as long",
                "wait for it, or stop it first",
                running=going[0].id,
            )
        output = Path(record.output)
        # Before its first step a run has left nothing to go on with: it starts anew.
        words = record.words
        if self.runs.resumable(record):
            words = [*_COMMAND, "train", "--resume", f"--output-dir={output}", "--json"]
            words += flags(machine(self.studio))
            if record.about.get("choices"):
                words = [*record.words, "--resume"]
        return self.runs.resume(id, words)


def machine(studio: Any) -> dict[str, Any]:
    """Settings of the machine that the studio was started with."""
    settings: MachineSettings = studio.engine.machine
    names = ("device", "num_workers", "cache_dir", "starter_file")
    found = {name: getattr(settings, name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def machine_flags(studio: Any) -> list[str]:
    """The machine's settings as flags of a command."""
    return flags(machine(studio))


def model_path(studio: Any, given: str) -> str:
    """The name by which a command loads a model that the page names, by id or by name.

    Raises:
        InputError: It is the id of a folder that is gone.
    """
    try:
        path = Path(studio.ids.path(given))
    except InputError:
        return given
    if not path.exists():
        raise InputError(f"the model {path.name} is gone", "choose another one")
    return str(path)


def _texts(body: Mapping[str, Any], name: str) -> list[str]:
    value = body.get(name) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(f"{name} must be a list of texts")
    return value


def _shown(config: Config) -> dict[str, Any]:
    return {name: value for name, value in config.to_dict().items() if name not in _NO_FIELDS}


def _write(config: Config, folder: Path) -> Path:
    """The settings as a file for ``--config``."""
    import yaml

    path = folder / _NAME
    with disk_errors(path):
        write_text(path, yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True))
    return path


def _name_of(order: Order) -> str:
    """A name for a run: its first text, or its sources."""
    if order.files:
        more = f" and {len(order.files) - 1} more" if len(order.files) > 1 else ""
        return f"{order.files[0].stem}{more}"
    return " and ".join(order.sources)


def slug(name: str) -> str:
    """A name as that of a folder."""
    return re.sub(r"[^\w-]+", "-", name.casefold()).strip("-_")[:48] or "run"


def free_folder(outputs: Path, name: str) -> Path:
    """A folder in ``outputs`` that is not there yet."""
    wanted = slug(name)
    number = 1
    while (folder := outputs / (wanted if number == 1 else f"{wanted}-{number}")).exists():
        number += 1
    return folder


def keep_text(path: Path, folder: Path) -> Path:
    """A text in the folder of its run: linked where the disk allows it, else copied."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / path.name
        number = 2
        while target.exists():
            target = folder / f"{path.stem}-{number}{path.suffix}"
            number += 1
        if path.is_dir():
            shutil.copytree(path, target)
            return target
        try:
            os.link(path, target)
        except OSError:
            shutil.copy2(path, target)
    return target


def _existing(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def finished_trainings(outputs: Path) -> list[Path]:
    """Folders of trainings, by the studio or the terminal, that have a model or a plan."""
    names = (BEST, FINAL, MANIFEST)
    candidates = [outputs, *sorted(outputs.glob("*"))] if outputs.is_dir() else []
    return [
        folder
        for folder in candidates
        if folder.is_dir() and any((folder / name).exists() for name in names)
    ]


def routes(studio: Any, runs: Runs) -> list[BaseRoute]:
    """The routes of the room."""
    room = Training(studio, runs)

    async def options(http: Request) -> Response:
        return JSONResponse(await run_in_threadpool(room.options))

    async def inspect(http: Request) -> Response:
        return await _started(room, "inspect", http)

    async def estimate(http: Request) -> Response:
        return await _started(room, "estimate", http)

    async def notes(http: Request) -> Response:
        needed = number_in(await read_object(http), "memory") or 0
        return JSONResponse({"notes": await run_in_threadpool(room.notes, needed)})

    async def start(http: Request) -> Response:
        record = await run_in_threadpool(room.start, await read_object(http))
        return JSONResponse({"run": runs.show(record)})

    async def resume(http: Request) -> Response:
        beside = bool((await read_object(http)).get("beside"))
        record = await run_in_threadpool(room.resume, http.path_params["id"], beside)
        return JSONResponse({"run": runs.show(record)})

    return [
        Route("/api/train", answered(options), methods=["GET"]),
        Route("/api/train", answered(start), methods=["POST"]),
        Route("/api/train/inspect", answered(inspect), methods=["POST"]),
        Route("/api/train/estimate", answered(estimate), methods=["POST"]),
        Route("/api/train/notes", answered(notes), methods=["POST"]),
        Route("/api/runs/{id}/resume", answered(resume), methods=["POST"]),
    ]


async def _started(room: Training, kind: str, http: Request) -> Response:
    record = await run_in_threadpool(room.ask, kind, await read_object(http))
    return JSONResponse({"run": room.runs.show(record)})
