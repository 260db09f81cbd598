"""The command ``cwgpt``: its verbs, their flags, and errors as one line with an exit code.

A verb is a module of this package with ``configure(parser)`` and ``run(arguments)``; its flags are
made from settings classes. Only the module of the verb that was called is imported, and PyTorch
only when it runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import errno
import importlib
import os
import shlex
import sys
import traceback
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn

from .. import prepare_environment
from .._version import __version__
from ..config.fields import (
    DEFAULT_MODEL,
    MachineSettings,
    field_types,
    fields_of,
    from_mapping,
    unwrap,
)
from ..console import quiet_libraries
from ..errors import InputError, UserError

VERBS = {
    "demo": "train, compare, evaluate and explain, on the starter and the sample corpus",
    "train": "fine-tune a model on files or named sources",
    "generate": "generate text, once or in an interactive session",
    "export": "write a model as GGUF, safetensors or a hub folder, verified",
    "studio": "write, train, judge and explain in a page of the browser",
    "serve": "serve a model by OpenAI's and KoboldAI's protocols",
    "evaluate": "compare base and tuned model on the same documents",
    "analyze": "explain why the model generates what it does",
    "data": "inspect the documents that files and sources become",
    "choices": "report what the writer picked, retried, undid and edited",
    "recipes": "list the recipes (files of settings), or copy one",
    "doctor": "report device, memory, caches and versions, with advice",
}


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
    several: Collection[str] = (),
) -> None:
    """Add a flag for every field of a settings class.

    A flag that is not given leaves no attribute: only given flags override a recipe.

    Args:
        parser: The parser of a verb.
        cls: The settings class.
        only: Names of the fields to add; default: all.
        aliases: Further names of a field's flag.
        several: Names of lists whose flag takes several values at once, as the shell makes of
            ``*.txt``.
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
                if field.name in several:
                    words |= {"nargs": "+", "action": "extend"}
                else:
                    words["action"] = "append"
                group.add_argument(*names, metavar=metavar, **words)
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


def warn_unused(unused: Mapping[str, str]) -> None:
    """Say of options that were given and change nothing why they do not."""
    from ..console import warn

    for name, why in unused.items():
        warn(f"--{name.replace('_', '-')} has no effect: {why}")


def machine_settings(arguments: argparse.Namespace) -> MachineSettings:
    """The flags of :class:`MachineSettings`."""
    return from_mapping(MachineSettings, given(arguments, MachineSettings), "settings")


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Parser of a whole number in a range."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and low <= int(text[:9]) <= high):
            raise argparse.ArgumentTypeError(
                f"give a whole number from {low} to {high}, not {text!r}"
            )
        return int(text)

    return parse


def command_line() -> str:
    """The command as it was typed, for records."""
    from ..files import to_home

    return " ".join(["cwgpt", *map(_quoted, to_home(sys.argv[1:]))])


def _quoted(word: str) -> str:
    """A word for the shell, which must not take the tilde of a path for a letter."""
    start = "~/" if word.startswith("~/") else ""
    return start + shlex.quote(word[len(start) :])


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


def build_parser(verb: str | None = None) -> Parser:
    """The parser, with the flags of one verb (without one: the overview)."""
    parser = Parser(
        prog="cwgpt",
        description="Fine-tune a small language model on fiction, generate text, evaluate it, and "
        "explain each token.",
        epilog="cwgpt VERB --help lists the flags of a verb. cwgpt demo takes a few minutes.",
    )
    parser.add_argument("--version", action="version", version=f"cwgpt {__version__}")
    verbs = parser.add_subparsers(title="verbs", dest="verb", metavar="VERB", parser_class=Parser)
    for name, help_text in VERBS.items():
        sub = verbs.add_parser(name, help=help_text, description=None)
        if name == verb:
            importlib.import_module(f".{name}", __package__).configure(sub)
            sub.add_argument(
                "--debug",
                action="store_true",
                help="show the traceback of an error, and warnings of libraries",
            )
    return parser


def _verb_of(words: Sequence[str]) -> str | None:
    return next((word for word in words if not word.startswith("-")), None)


def _spelled(words: Sequence[str]) -> list[str]:
    """Words with flags in dashes: ``--batch_size`` becomes ``--batch-size``."""
    result, literal = [], False
    for word in words:
        literal = literal or word == "--"
        if not literal and word.startswith("--"):
            name, equals, value = word.partition("=")
            word = name.replace("_", "-") + equals + value
        result.append(word)
    return result


def _unknown_flag(word: str, verb: str | None, parser: Parser) -> InputError:
    flags = parser.flags_of(verb) if verb else []
    near = difflib.get_close_matches(word.partition("=")[0], flags, n=1)
    return InputError(
        f"unknown flag or argument {word!r}",
        f"did you mean {near[0]}?" if near else f"see cwgpt {verb or ''}".rstrip() + " --help",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The words after ``cwgpt``; default: those of the process.

    Returns:
        Exit code: 0; 2 for bad input, 1 for a failure, 130 after Ctrl-C, 141 for a closed pipe.
    """
    prepare_environment()
    words = _spelled(sys.argv[1:] if argv is None else argv)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    debug = "--debug" in words or bool(os.environ.get("CWGPT_DEBUG"))
    restore = None if debug else quiet_libraries()
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        return _report(error)
    finally:
        if restore is not None and argv is not None:  # else the process ends, and goes quietly
            restore()


def _run(words: Sequence[str]) -> int:
    """Parse the words and run their verb."""
    verb = _verb_of(words)
    if verb is not None and verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        raise InputError(
            f"there is no verb {verb!r}",
            f"did you mean cwgpt {near[0]}?" if near else f"there are: {', '.join(VERBS)}",
        )
    parser = build_parser(verb)
    arguments, unknown = parser.parse_known_args(words)
    if unknown:
        raise _unknown_flag(unknown[0], verb, parser)
    if arguments.verb is None:
        parser.print_help()
        return 0
    code: int = importlib.import_module(f".{arguments.verb}", __package__).run(arguments)
    return code


_NO_MEMORY = (
    "out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc",
    "failed to map segment", "can't start new thread", "without setting an exception",
    "without exception set",
)  # fmt: skip
"""How PyTorch, the system's loader and Python say that memory has run out."""


def _report(error: BaseException) -> int:
    """Write an error as one line, with at most one line of advice; returns the exit code."""
    text = str(error).lower()
    if isinstance(error, UserError):
        return _say(error.message, error.advice, error.exit_code)
    if isinstance(error, KeyboardInterrupt):
        return _say("stopped", None, 130)
    if isinstance(error, BrokenPipeError):
        _end_output()
        return 141
    if isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY):
        return _say("there is not enough memory", "try a smaller --batch-size or --max-length")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        _end_output()
        return _say("the disk is full", "free some space and run the command again")
    from ..files import path_problem

    if problem := path_problem(error):
        return _say(problem.message, problem.advice, problem.exit_code)
    first_line = (str(error).strip().splitlines() or [""])[0][:300]
    return _say(
        f"{type(error).__name__}: {first_line}",
        "this should not happen; --debug shows where it comes from",
    )


def _end_output() -> None:
    """Discard what can't be written any more, or the interpreter complains at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(message: str, advice: str | None, code: int = 1) -> int:
    """Write an error line and its advice to stderr; returns the exit code."""
    from ..console import other_process, printable

    who = f"{other_process()}: " if other_process() else ""
    lines = [f"{who}error: {printable(message)}"] + ([printable(advice)] if advice else [])
    sys.stderr.write("\n".join(lines) + "\n")
    return code
