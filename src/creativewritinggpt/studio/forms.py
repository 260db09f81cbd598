"""Forms of the rooms: declared settings as the page draws them, and as flags of a command."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ..config.fields import convert, field_types, fields_of, known_name, unwrap


def form_fields(cls: type, leave_out: Collection[str] = ()) -> list[dict[str, Any]]:
    """The fields of a settings class: name, label, help, kind, range, choices, default, group."""
    kinds, shown = field_types(cls), []
    for field in fields_of(cls):
        if field.name in leave_out:
            continue
        kind, optional = unwrap(kinds[field.name])
        limits = field.metadata
        shown.append(
            {
                "name": field.name,
                "label": field.name.replace("_", " "),
                "help": str(limits.get("help", "")).replace("`", ""),
                "kind": _kind(kind, limits),
                "optional": optional,
                "min": limits.get("low") if limits.get("above") is None else limits["above"],
                "max": limits.get("high"),
                "choices": list(limits.get("choices") or ()),
                "default": _default(field),
                "group": limits.get("group") or "settings",
            }
        )
    return shown


def _kind(kind: Any, limits: Mapping[str, Any]) -> str:
    origin = typing.get_origin(kind) or kind
    if limits.get("choices") and origin is not list:
        return "choice"
    return {bool: "bool", int: "int", float: "number", list: "list", dict: "weights"}.get(
        origin, "text"
    )


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def checked(
    cls: type, values: Mapping[str, Any], leave_out: Collection[str] = ()
) -> dict[str, Any]:
    """Values of a form as their fields' types; an empty text stands for None where that may be.

    Raises:
        InputError: An unknown name, or a value that does not fit.
    """
    kinds, found = field_types(cls), {}
    allowed = [name for name in kinds if name not in leave_out]
    for key, value in values.items():
        name = known_name(key, allowed, "settings")
        empty = isinstance(value, str) and not value.strip() and unwrap(kinds[name])[1]
        found[name] = convert(name, None if empty else value, kinds[name])
    return found


def flags(values: Mapping[str, Any], repeated: Iterable[str] = ()) -> list[str]:
    """Settings as flags of a command; None is left out.

    Args:
        values: By field name.
        repeated: Lists whose items come with a flag each.
    """
    words: list[str] = []
    for name, value in values.items():
        flag = name.replace("_", "-")
        if value is None:
            continue
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif name in repeated:
            words += [f"--{flag}={item}" for item in value]
        elif isinstance(value, Mapping):
            words.append(f"--{flag}={','.join(f'{key}={one}' for key, one in value.items())}")
        elif isinstance(value, (list, tuple)):
            words.append(f"--{flag}={','.join(map(str, value))}")
        else:
            words.append(f"--{flag}={value}")
    return words
