"""The command ``cwgpt`` and its verbs; errors become one line and an exit code.

A verb is a module of this package with ``configure(parser)`` and ``run(arguments)``. Only the
module of the verb that was called is imported, and PyTorch only when it runs.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from .. import prepare_environment
from .._version import __version__
from ..errors import InputError, UserError
from .args import Parser

VERBS = {
    "demo": "train, compare, evaluate and explain, on the starter and the sample corpus",
    "train": "fine-tune a model on files or named sources",
    "generate": "generate text, once or in an interactive session",
    "evaluate": "compare base and tuned model on the same documents",
    "analyze": "explain why the model generates what it does",
    "data": "inspect the documents that files and sources become",
    "recipes": "list the recipes (files of settings), or copy one",
    "doctor": "report device, memory, caches and versions, with advice",
}


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
            sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
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
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except (Exception, KeyboardInterrupt) as error:
        if "--debug" in words or os.environ.get("CWGPT_DEBUG"):
            traceback.print_exc()
        return _report(error)


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
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
        return _say("there is not enough memory", "try a smaller --batch-size or --max-length")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        _end_output()
        return _say("the disk is full", "free some space and run the command again")
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
