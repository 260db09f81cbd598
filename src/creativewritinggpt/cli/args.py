"""Command-line flags made from settings classes, and what else the verbs share."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
import typing
from collections.abc import Collection
from typing import Any, NoReturn

from ..config.fields import field_types, fields_of, from_mapping, unwrap
from ..config.machine import DEFAULT_MODEL, MachineSettings
from ..errors import InputError


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help of one width and layout on every terminal and Python version."""

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
    """A parser that raises its errors as ``InputError``."""

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
    """Usage line of a verb without its many flags."""
    parser.usage = f"{parser.prog} {words}".replace("%", "%%")


def add_settings(
    parser: argparse.ArgumentParser,
    cls: type,
    *,
    only: Collection[str] | None = None,
    aliases: dict[str, tuple[str, ...]] | None = None,
) -> None:
    """Add a flag for every field of a settings class.

    A flag that is not given leaves no attribute: only given flags override a recipe.

    Args:
        parser: The parser of a verb.
        cls: The settings class.
        only: Names of the fields to add; default: all.
        aliases: Further names of a field's flag.
    """
    groups: dict[Any, Any] = {group.title: group for group in parser._action_groups}
    kinds = field_types(cls)
    for field in fields_of(cls):
        if only is not None and field.name not in only:
            continue
        heading = field.metadata.get("group") or "settings"
        if heading not in groups:
            groups[heading] = parser.add_argument_group(heading)
        group = groups[heading]
        names = ["--" + field.name.replace("_", "-"), *(aliases or {}).get(field.name, ())]
        kind, _ = unwrap(kinds[field.name])
        usual = {int: "N", float: "X"}.get(kind, field.name.upper())
        words = {"dest": field.name, "default": argparse.SUPPRESS, "help": describe(field)}
        if kind is bool:
            group.add_argument(*names, action=argparse.BooleanOptionalAction, **words)
        else:
            choices = field.metadata.get("choices")
            metavar = field.metadata.get("metavar") or (
                "{" + ",".join(choices) + "}" if choices else usual
            )
            if typing.get_origin(kind) is list and not metavar.endswith("…"):
                # Texts may hold commas, so that each comes with a flag of its own.
                group.add_argument(*names, metavar=metavar, action="append", **words)
            else:
                group.add_argument(*names, metavar=metavar, **words)


def add_model(parser: argparse.ArgumentParser, default: str | None = DEFAULT_MODEL) -> None:
    """Add ``--model``, the model that a verb uses."""
    parser.add_argument(
        "--model", "--model-name", metavar="NAME", dest="model", default=default,
        help=f"adapter or model folder, hub id or starter [{DEFAULT_MODEL}]",
    )  # fmt: skip


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add ``--config``, a recipe."""
    parser.add_argument(
        "--config", metavar="NAME", help="recipe (see cwgpt recipes) or YAML file of settings"
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def describe(field: dataclasses.Field[Any]) -> str:
    """Help of a field, with its default."""
    default = default_of(field)
    text = str(field.metadata["help"]).replace("`", "").replace("%", "%%")
    return text if default is None else f"{text} [{default}]"


def default_of(field: dataclasses.Field[Any]) -> str | None:
    """Default of a field as one would type it; None where there is none."""
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
    """Values of the flags of ``cls`` that were given."""
    said = vars(arguments)
    return {field.name: said[field.name] for field in dataclasses.fields(cls) if field.name in said}


def machine_settings(arguments: argparse.Namespace) -> MachineSettings:
    """The flags of :class:`MachineSettings`."""
    return from_mapping(MachineSettings, given(arguments, MachineSettings), "settings")


def command_line() -> str:
    """The command as it was typed, for records."""
    return shlex.join(["cwgpt", *sys.argv[1:]])


def model_flag(output_dir: str) -> str:
    """The flag that names the best model of a run, empty for the default folder."""
    if output_dir == "outputs":
        return ""
    return f" --model {shlex.quote(f'{output_dir}/best_model')}"


def piped_text() -> str:
    """Text piped into the command, without byte-order mark and final newline; "" on a terminal."""
    if sys.stdin.isatty():
        return ""
    piped = sys.stdin.buffer.read().decode("utf-8-sig", "replace").replace("\r\n", "\n")
    return piped.removesuffix("\n")
