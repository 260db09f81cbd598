"""Presets: named generation settings by genre and mood, the package's and the user's.

The user's presets are in ``presets.yaml`` in the configuration folder, in the form of the package's
own file; on equal names the user's wins. The path of a YAML file with settings is a name, too.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...files import from_home, read_text
from .settings import GenerationSettings


@dataclasses.dataclass(frozen=True)
class Preset:
    """Named settings and the reason for them."""

    name: str
    why: str
    values: dict[str, Any]

    def settings(self) -> GenerationSettings:
        """The defaults changed by this preset."""
        return GenerationSettings().changed(self.values, f"preset {self.name}")


def user_file() -> Path:
    """Path of the user's presets."""
    if os.name == "nt":
        root = Path(os.environ.get("APPDATA", Path.home() / "AppData" / "Roaming"))
    else:
        root = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return root / "creativewritinggpt" / "presets.yaml"


@functools.cache
def shipped() -> dict[str, Preset]:
    """The package's presets."""
    text = (resources.files(__package__) / "presets.yaml").read_text("utf-8")
    return _parse(text, "presets.yaml")


def presets() -> dict[str, Preset]:
    """All named presets: the package's, then the user's.

    Raises:
        InputError: The user's file can't be read.
    """
    path = user_file()
    own = _parse(read_text(path), str(path)) if path.is_file() else {}
    return {**shipped(), **own}


def preset(name: str) -> Preset:
    """The preset of that name, or the settings in the YAML file at that path.

    Raises:
        InputError: There is neither, or it can't be used.
    """
    known = presets()
    if name in known:
        return known[name]
    path = from_home(name)
    if path.suffix in (".yaml", ".yml"):
        values = _mapping(read_text(path), str(path))
        found = _preset(path.stem, values, str(path))
        found.settings()
        return found
    near = difflib.get_close_matches(name, known, n=1)
    raise InputError(
        f"no preset '{name}'",
        f"did you mean '{near[0]}'?" if near else f"presets: {', '.join(known)}; or a .yaml file",
    )


def settings_for(name: str | None, changes: Mapping[str, Any]) -> GenerationSettings:
    """The defaults, changed by a preset, then by ``changes``.

    Raises:
        InputError: An unknown preset or setting, or a value that does not fit.
    """
    base = preset(name).settings() if name else GenerationSettings()
    return base.changed(changes)


def _parse(text: str, where: str) -> dict[str, Preset]:
    return {
        str(name): _preset(str(name), values, f"{where}: {name}")
        for name, values in _mapping(text, where).items()
    }


def _preset(name: str, values: Any, where: str) -> Preset:
    if not isinstance(values, dict):
        raise InputError(f"{where} must hold settings as `name: value` lines")
    rest = {str(key): value for key, value in values.items() if key != "why"}
    return Preset(name, str(values.get("why", "")), rest)


def _mapping(text: str, where: str) -> dict[Any, Any]:
    import yaml

    try:
        read = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{where} is not valid YAML") from error
    if not isinstance(read or {}, dict):
        raise InputError(f"{where} must hold `name: value` lines")
    return read or {}
