"""Declared settings: dataclass fields with default, help and allowed range; those of the machine.

The help of a field is also the help of its command-line flag and its row in the table of
``docs/configuration.md``; the range is named in the message that refuses a value.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import os
import reprlib
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

from ..errors import InputError

Settings = TypeVar("Settings")


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200


def setting(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] | None = None,
    group: str = "",
    metavar: str | None = None,
    kw_only: bool | Any = dataclasses.MISSING,
) -> Any:
    """A dataclass field with its help and its range.

    Args:
        default: Default value.
        help: One sentence for users.
        low: Smallest value allowed.
        high: Largest value allowed.
        above: Exclusive lower bound.
        choices: The only values allowed.
        group: Heading of the field in ``--help``.
        metavar: Placeholder of the value in ``--help``.
        kw_only: Whether the field is a keyword argument only; by default as its class says.
    """
    metadata = {
        "help": help,
        "low": low,
        "high": high,
        "above": above,
        "choices": choices,
        "group": group,
        "metavar": metavar,
    }
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata, kw_only=kw_only)


def unwrap(annotation: Any) -> tuple[Any, bool]:
    """The type inside ``X | None`` and whether None is allowed."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        inner = [part for part in typing.get_args(annotation) if part is not type(None)]
        return inner[0], len(inner) < len(typing.get_args(annotation))
    return annotation, False


def fields_of(cls: type) -> list[dataclasses.Field[Any]]:
    """Fields of a settings class, those that it declares itself before inherited ones."""
    own = list(inspect.get_annotations(cls))
    return sorted(
        dataclasses.fields(cls),
        key=lambda field: own.index(field.name) if field.name in own else len(own),
    )


def field_types(cls: type) -> dict[str, Any]:
    """The resolved annotation of every field of ``cls``."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def from_mapping(cls: type[Settings], values: Mapping[str, Any], where: str) -> Settings:
    """Build settings from a mapping, refusing what ``cls`` does not know.

    Args:
        cls: The settings class.
        values: Field names (dashes count as underscores) to values.
        where: Where the values come from, for the messages.

    Raises:
        InputError: An unknown key or a value that does not fit; the message names field, value
            and fix.
    """
    known = field_types(cls)
    given: dict[str, Any] = {}
    for key, value in values.items():
        name = known_name(key, known, where)
        given[name] = convert(name, value, known[name], where)
    return cls(**given)


def known_name(key: Any, known: Collection[str], where: str) -> str:
    """The field that a key means; dashes count as underscores.

    Raises:
        InputError: There is none; the nearest is named.
    """
    name = str(key).replace("-", "_")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise InputError(
            f"{where}: unknown setting '{key}'",
            f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(known)}",
        )
    return name


def convert(name: str, value: Any, annotation: Any, where: str = "") -> Any:
    """``value`` as the type of the field ``name``.

    YAML reads ``5e-4`` as text, so text that is a number counts as one.

    Raises:
        InputError: The value is of another type.
    """
    kind, optional = unwrap(annotation)
    prefix = f"{where}: " if where else ""
    if value is None:
        if optional:
            return None
        raise InputError(f"{prefix}{name} must have a value", f"remove {name} to use its default")
    origin = typing.get_origin(kind) or kind
    try:
        if origin is bool:
            if isinstance(value, bool):
                return value
            raise ValueError("true or false")
        if origin is int:
            if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
                raise ValueError("a whole number")
            return int(value)
        if origin is float:
            if isinstance(value, bool):
                raise ValueError("a number")
            return float(value)
        if origin is str:
            if isinstance(value, os.PathLike):
                return os.fsdecode(value)
            if isinstance(value, (str, int, float)) and not isinstance(value, bool):
                return str(value)
            raise ValueError("text")
        if origin is list:
            items = value.split(",") if isinstance(value, str) else value
            if not isinstance(items, (list, tuple)):
                raise ValueError("a list")
            stripped = [str(item).strip() for item in items if str(item).strip()]
            inner = (*typing.get_args(kind), str)[0]
            return [convert(name, item, inner, where) for item in stripped]
        if origin is dict:
            if isinstance(value, str):
                pairs = [part.partition("=") for part in value.split(",") if part.strip()]
                value = {key.strip(): number for key, _, number in pairs}
            if not isinstance(value, Mapping):
                raise ValueError("NAME=NUMBER pairs")
            return {str(key): float(number) for key, number in value.items()}
    except (TypeError, ValueError, OverflowError) as error:
        wanted = {
            int: "a whole number",
            float: "a number",
            bool: "true or false",
            str: "text",
            list: "a list",
            dict: "NAME=NUMBER pairs",
        }[origin]
        raise InputError(f"{prefix}{name} must be {wanted}, not {_SHORT.repr(value)}") from error
    raise TypeError(f"no conversion for {name}: {annotation}")


def check(settings: Any) -> None:
    """Refuse values outside the range that their fields state.

    Raises:
        InputError: Naming the field, the value and what is allowed.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value is None or isinstance(value, bool):
            continue
        limits = field.metadata
        if limits.get("choices"):
            values: Iterable[Any] = value if isinstance(value, list) else [value]
            for item in values:
                if item not in limits["choices"]:
                    raise InputError(
                        f"{field.name} is {item!r}",
                        f"choose one of: {', '.join(limits['choices'])}",
                    )
        if not isinstance(value, (int, float)):
            continue
        low, high, above = limits.get("low"), limits.get("high"), limits.get("above")
        # A whole number may be too large to be a float.
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{field.name} is {value}", "give a finite number")
        if above is not None and value <= above:
            raise InputError(f"{field.name} is {value}", f"it must be greater than {above}")
        if low is not None and value < low:
            raise InputError(f"{field.name} is {value}", f"it must be at least {low}")
        if high is not None and value > high:
            raise InputError(f"{field.name} is {value}", f"it must be at most {high}")


DEFAULT_MODEL = "outputs/best_model"
PLACES = "places and machine"
"""Heading of these settings in the help of a command."""


@dataclasses.dataclass(kw_only=True)
class MachineSettings:
    """Where and in which number format a model runs, and where its files are cached."""

    device: str | None = setting(
        None, "Device: cpu, cuda, cuda:N or mps; default: the best available.", group=PLACES,
        metavar="NAME",
    )  # fmt: skip
    precision: str = setting(
        "auto", "Number format of matrix products; auto: bf16 where measured faster.",
        choices=("auto", "fp32", "bf16"), group=PLACES,
    )  # fmt: skip
    num_workers: int | None = setting(
        None, "CPU threads and data worker processes; default: one per core.",
        low=1, group=PLACES, metavar="N",
    )  # fmt: skip
    cache_dir: str | None = setting(
        None, "Folder for the starter model and caches.", group=PLACES, metavar="FOLDER"
    )
    starter_file: str | None = setting(
        None, "Local copy of the starter's wheel or GGUF file.", group=PLACES, metavar="FILE"
    )

    def __post_init__(self) -> None:
        for name, kind in field_types(type(self)).items():
            setattr(self, name, convert(name, getattr(self, name), kind))
        check(self)
