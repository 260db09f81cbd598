"""Exports of models from the Library: ``cwgpt export`` as a run of the studio."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..config.fields import MachineSettings
from ..errors import InputError
from ..export.settings import TARGETS, ExportSettings
from .answers import NotFound
from .catalogue import Catalogue, has_starter
from .processes import OUTPUT
from .runs import Runs

KIND = "export"
_TAIL = 4096  # bytes of a child's output in which its last progress is looked for


class ModelExports:
    """Exports that were started here.

    Args:
        studio: What all rooms share.
        catalogue: What lies in its folders.
        folder: Where exports go.
    """

    def __init__(self, studio: Any, catalogue: Catalogue, folder: Path) -> None:
        self.studio = studio
        self.catalogue = catalogue
        self.folder = folder

    @property
    def runs(self) -> Runs:
        """The runs of the studio."""
        runs: Runs = self.studio.runs
        return runs

    def start(self, body: dict[str, Any]) -> dict[str, Any]:
        """Start an export of a model.

        Args:
            body: ``id`` of the model or ``starter``, ``to``, and fields of the export's settings.

        Raises:
            InputError: A setting is wrong, or there is no such model.
        """
        to = body.get("to")
        if to not in TARGETS:
            raise InputError(f"there is no export to {to!r}", f"there are: {', '.join(TARGETS)}")
        chosen = {name: value for name, value in body.items() if name not in ("id", "to", "tab")}
        ExportSettings.from_mapping(chosen)  # refuses what is wrong, before a child does
        model, name = self._model(body.get("id"))
        target = _free(self.folder / f"{name}-{to}")
        words = ["-m", "creativewritinggpt", "export", model, "--to", str(to), "--out", str(target)]
        for key, value in chosen.items():
            given = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            words += [f"--{key.replace('_', '-')}={given}"]
        id = self.runs.new_id(KIND)
        about = {"model": model, "to": to, **chosen}
        self.runs.start(id, KIND, f"{name} as {to}", [*words, "--json"], output=target, about=about)
        return {"id": id}

    def listing(self) -> list[dict[str, Any]]:
        """The exports, newest first, with their progress and what was verified."""
        return [
            self._shown(self.runs.show(one), self.runs.place(one.id))
            for one in self.runs.records()
            if one.kind == KIND
        ]

    def _model(self, id: Any) -> tuple[str, str]:
        """What ``cwgpt export`` calls a model, and a name for its folder."""
        if id == "starter":
            if not has_starter(MachineSettings().cache_dir):
                raise NotFound("the starter is not on this machine yet", "write with it once")
            return "starter", "starter"
        folder: Path = self.catalogue.check(self.studio.ids.path(id if isinstance(id, str) else ""))
        if not folder.is_dir():
            raise NotFound(f"{folder.name} is gone", "it was moved by something else")
        parts = (
            folder.relative_to(self.studio.root).parts if _below(folder, self.studio.root) else ()
        )
        plain = [part for part in parts if part not in ("outputs", "best_model", "final_model")]
        return str(folder), (plain[-1] if plain else "tuned")

    def _shown(self, run: dict[str, Any], place: Path) -> dict[str, Any]:
        result = self.runs.result(run["id"]) or {}
        record = result.get("export", {})
        files = [
            {"name": name, "what": entry.get("what", ""), "bytes": entry.get("bytes", 0),
             "levels": result.get("verified", {}).get(name, [])}
            for name, entry in record.get("files", {}).items()
        ]  # fmt: skip
        return {
            **run,
            "progress": None if result else last_progress(place / OUTPUT),
            "folder": result.get("folder"),
            "files": files,
            "notes": result.get("notes", []),
        }


def last_progress(path: Path) -> dict[str, Any] | None:
    """The last progress that an export has printed; None where it has not."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, 2) - _TAIL))
            lines = stream.read().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            found = json.loads(line)
        except ValueError:  # cut off at one of its ends
            continue
        if isinstance(found, dict) and found.get("event") == "progress":
            return {name: found.get(name) for name in ("what", "done", "total")}
    return None


def _free(folder: Path) -> Path:
    number, place = 2, folder
    while place.exists():
        place = folder.with_name(f"{folder.name}-{number}")
        number += 1
    return place


def _below(path: Path, root: Path) -> bool:
    return path.is_relative_to(root)
