"""What the studio remembers between starts, saved field by field, and the settings of the model.

Two studios on one folder change different fields of the file without losing each other's: each
change reads the file, sets its own field and writes it again.
"""

from __future__ import annotations

import dataclasses
import datetime
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from .. import console
from ..config.fields import field_types, unwrap
from ..errors import InputError, UserError
from ..files import read_json, remove_left, write_json
from ..generation.sampling.settings import GenerationSettings, preset, presets, with_preset

# Step of the control, the value that switches it off, its unit.
_CONTROLS: dict[str, tuple[float | None, Any, str | None]] = {
    "max_new_tokens": (10, None, "tokens"),
    "min_new_tokens": (10, 0, "tokens"),
    "temperature": (0.05, None, None),
    "top_k": (1, 0, "tokens"),
    "top_p": (0.01, 1.0, None),
    "min_p": (0.01, 0.0, None),
    "typical_p": (0.01, 1.0, None),
    "xtc_probability": (0.05, 0.0, None),
    "xtc_threshold": (0.01, None, None),
    "repetition_penalty": (0.01, 1.0, None),
    "presence_penalty": (0.05, 0.0, None),
    "frequency_penalty": (0.05, 0.0, None),
    "penalty_range": (16, None, "tokens"),
    "no_repeat_ngram": (1, 0, "tokens"),
    "dry_multiplier": (0.05, 0.0, None),
    "dry_base": (0.05, None, None),
    "dry_allowed_length": (1, None, "tokens"),
    "dry_range": (16, None, "tokens"),
    "best_of": (1, None, "texts"),
    "seed": (1, None, None),
}
# Ends of sliders where the setting itself has none that is of use.
_ENDS = {"max_new_tokens": 2000, "min_new_tokens": 1000, "top_k": 200, "penalty_range": 4096,
         "dry_range": 4096, "no_repeat_ngram": 10, "dry_allowed_length": 20}  # fmt: skip


class Memory:
    """A file of values by name.

    Args:
        path: The file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        remove_left(
            path
        )  # a studio that is opened and closed writes nothing, and so removes nothing
        self._values = self._read()

    def _read(self) -> dict[str, Any]:
        try:
            found = read_json(self.path)
        except (UserError, OSError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def get(self, name: str, usual: Any = None) -> Any:
        """The value of a name."""
        return self._values.get(name, usual)

    def set(self, name: str, value: Any) -> None:
        """Remember a value; where it can't be written, for as long as the studio runs."""
        with self._lock:
            self._values[name] = value
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=2):
                    write_json(self.path, {**self._read(), name: value})
            except (UserError, OSError) as error:
                console.note(f"{self.path} could not be written: {error}")


class Settings:
    """The generation settings of the studio: a preset and what was changed beside it.

    Args:
        memory: Where they are remembered.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.preset: str | None = None
        self.best_first = memory.get("best_first", True) is not False
        self.values = GenerationSettings()
        name, changed = memory.get("preset"), memory.get("values", {})
        try:
            if isinstance(name, str):
                self.use_preset(name, save=False)
            if isinstance(changed, dict):
                self.values = self.values.changed(changed)
        except UserError as error:  # a preset that is gone
            console.note(error.message)

    def _usual(self) -> dict[str, Any]:
        """The values of the preset, or the defaults."""
        base = preset(self.preset).settings() if self.preset else GenerationSettings()
        return base.to_dict()

    def use_preset(self, name: str | None, save: bool = True) -> None:
        """Begin from a preset; seed, lengths and bans stay unless it names them.

        Raises:
            InputError: There is none of that name.
        """
        if name is None:
            self.preset, self.values = None, GenerationSettings()
        else:
            self.preset, self.values = name, with_preset(self.values, name)
        if save:
            self._save()

    def change(self, values: Mapping[str, Any]) -> None:
        """Change some settings.

        Raises:
            InputError: One is unknown, or a value does not fit.
        """
        self.values = self.values.changed(values)
        self._save()

    def reset(self, name: str) -> None:
        """Give a setting the value of the preset again."""
        usual = self._usual()
        if name not in usual:
            raise InputError(f"there is no setting '{name}'")
        self.change({name: usual[name]})

    def order_drafts(self, best_first: bool) -> None:
        """Whether drafts are ordered by the writer's choices."""
        self.best_first = best_first
        self._memory.set("best_first", best_first)

    def _save(self) -> None:
        usual, now = self._usual(), self.values.to_dict()
        self._memory.set("preset", self.preset)
        self._memory.set("values", {key: now[key] for key in now if now[key] != usual[key]})

    def record(self) -> dict[str, Any]:
        """The settings as the page gets them."""
        usual, now = self._usual(), self.values.to_dict()
        changed = [key for key in now if now[key] != usual[key]]
        return {
            "preset": self.preset, "values": now, "changed": changed, "usual": usual,
            "best_first": self.best_first,
            "without_effect": self.values.without_effect(changed),
        }  # fmt: skip


def controls() -> list[dict[str, Any]]:
    """How the page shows each setting: its kind, range, step, off value and unit."""
    found = []
    types = field_types(GenerationSettings)
    for field in dataclasses.fields(GenerationSettings):
        kind, optional = unwrap(types[field.name])
        step, off, unit = _CONTROLS.get(field.name, (None, None, None))
        limits = field.metadata
        found.append(
            {
                "name": field.name,
                "label": field.name.replace("_", " "),
                "help": limits["help"],
                "kind": {int: "int", float: "number", bool: "bool", str: "text"}.get(kind, "list"),
                "min": limits["low"] if limits["low"] is not None else limits["above"],
                "max": _ENDS.get(field.name, limits["high"]),
                "step": step,
                "off": off,
                "unit": unit,
                "optional": optional,
                "choices": list(limits["choices"]) if limits["choices"] else None,
                "group": limits["group"] or "seed",
            }
        )
    return found


def preset_records() -> list[dict[str, Any]]:
    """The presets with their reasons; the user's file is left out where it can't be read."""
    try:
        known = presets()
    except UserError as error:
        console.note(error.message)
        return []
    return [{"name": one.name, "why": one.why, "values": one.values} for one in known.values()]


class Goal:
    """Words that the writer wants to write in a day, and what is done of them.

    Args:
        memory: Where it is remembered.
        story: Which story, by its path.
    """

    def __init__(self, memory: Memory, story: str) -> None:
        self._memory = memory
        self._key = f"goal {story}"
        found = memory.get(self._key)
        self._record: dict[str, Any] = found if isinstance(found, dict) else {}

    def record(self, words: int) -> dict[str, Any]:
        """``words`` wanted and written ``today``, given the words of the story now."""
        day = datetime.date.today().isoformat()
        if self._record.get("day") != day:
            self._record = {**self._record, "day": day, "begin": words}
            if self._record.get("words"):
                self._memory.set(self._key, self._record)
        begin = self._record.get("begin", words)
        return {"words": self._record.get("words", 0), "today": words - begin}

    def set(self, words: int, now: int) -> None:
        """Want so many words a day; 0 is no goal."""
        self.record(now)
        self._record["words"] = words
        self._memory.set(self._key, self._record)
