"""Command-line flags made from settings classes, so that help and meaning can't drift apart."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Collection
from typing import Any, NoReturn

from ..config.fields import field_types, unwrap
from ..errors import InputError


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help that looks the same on every terminal and Python version."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=96)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        names = action.option_strings
        if isinstance(action, argparse.BooleanOptionalAction):
            return ", ".join(names)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(names)} {value}"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are ours: one line, at most one of advice."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", HelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def verb(self, name: str) -> argparse.ArgumentParser | None:
        """The parser of a verb."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                found: argparse.ArgumentParser | None = action.choices.get(name)
                return found
        return None

    def flags_of(self, name: str) -> list[str]:
        """The flags of a verb."""
        parser = self.verb(name)
        return [] if parser is None else list(parser._option_string_actions)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage."""
        raise InputError(message, f"see {self.prog} --help")


def short_usage(parser: argparse.ArgumentParser, words: str) -> None:
    """Say how a verb is called without listing its many flags."""
    parser.usage = f"{parser.prog} {words}".replace("%", "%%")


def add_settings(
    parser: argparse.ArgumentParser,
    cls: type,
    *,
    only: Collection[str] | None = None,
    aliases: dict[str, tuple[str, ...]] | None = None,
) -> None:
    """Add a flag for every field of a settings class.

    Flags that are not given leave no attribute, so that only what the user said overrides a recipe.

    Args:
        parser: Where the flags go.
        cls: The settings class.
        only: The fields to add; all of them without it.
        aliases: Further names of a field's flag.
    """
    groups: dict[str, Any] = {}
    kinds = field_types(cls)
    for field in dataclasses.fields(cls):
        if only is not None and field.name not in only:
            continue
        heading = field.metadata.get("group") or "settings"
        if heading not in groups:
            groups[heading] = parser.add_argument_group(heading)
        group = groups[heading]
        names = ["--" + field.name.replace("_", "-"), *(aliases or {}).get(field.name, ())]
        kind, _ = unwrap(kinds[field.name])
        words = {"dest": field.name, "default": argparse.SUPPRESS, "help": describe(field)}
        if kind is bool:
            group.add_argument(*names, action=argparse.BooleanOptionalAction, **words)
        else:
            choices = field.metadata.get("choices")
            metavar = field.metadata.get("metavar") or (
                "{" + ",".join(choices) + "}" if choices else field.name.upper()
            )
            if typing.get_origin(kind) is list and not metavar.endswith("…"):
                # Texts may hold commas, so that each comes with a flag of its own.
                group.add_argument(*names, metavar=metavar, action="append", **words)
            else:
                group.add_argument(*names, metavar=metavar, **words)


def describe(field: dataclasses.Field[Any]) -> str:
    """The help of a field and its default."""
    default = default_of(field)
    text = str(field.metadata["help"]).replace("`", "").replace("%", "%%")
    return text if default is None else f"{text} [{default}]"


def default_of(field: dataclasses.Field[Any]) -> str | None:
    """The default of a field as a person would write it, or None where there is none."""
    value = (
        field.default_factory()
        if field.default_factory is not dataclasses.MISSING
        else field.default
    )
    if value is None:
        return None
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ",".join(value)
    return str(value)


def given(arguments: argparse.Namespace, cls: type) -> dict[str, Any]:
    """What the user said of the fields of ``cls``."""
    said = vars(arguments)
    return {field.name: said[field.name] for field in dataclasses.fields(cls) if field.name in said}
