"""``cwgpt``: a verb per job.

Each verb is a module of this package with ``configure(parser)`` and ``run(arguments)``; only the
module of the verb that was called is imported, and the rooms (with torch behind them) only when it
runs. Errors become one line here and nowhere else.
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
    "demo": "the whole story on the starter and the sample corpus",
    "train": "fine-tune a model on your files or on named sources",
    "generate": "write with a model, once or in a session",
    "evaluate": "perplexity of base and tuned model on the same documents",
    "analyze": "see why the model writes what it writes",
    "data": "see what files and sources turn into",
    "recipes": "list the ready settings, or copy one to edit",
    "doctor": "what this machine has, and what to do about it",
}


def build_parser(verb: str | None = None) -> Parser:
    """The parser, with the flags of one verb (or of none, for the overview)."""
    parser = Parser(
        prog="cwgpt",
        description="Fine-tune a small language model on fiction, write with it, judge it, and see "
        "why it chose each word.",
        epilog="cwgpt VERB --help explains a verb. cwgpt demo shows everything in a few minutes.",
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
    """Flags with dashes: ``--batch_size`` is ``--batch-size``."""
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
        argv: The words after ``cwgpt``; those of the process without it.

    Returns:
        0; 2 for bad input, 1 for a failure, 130 after Ctrl-C.
    """
    prepare_environment()
    words = _spelled(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words or bool(os.environ.get("CWGPT_DEBUG"))
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
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
        module = importlib.import_module(f".{arguments.verb}", __package__)
        code: int = module.run(arguments)
        sys.stdout.flush()
        return code
    except UserError as error:
        if debug:
            traceback.print_exc()
        _say(error.message, error.advice)
        return error.exit_code
    except KeyboardInterrupt:
        _say("stopped", None)
        return 130
    except BrokenPipeError:
        _end_output()  # whoever read it has seen enough
        return 141
    except MemoryError:
        _say("there is not enough memory", "try a smaller --batch-size or --max-length")
        return 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        first_line = (str(error).strip().splitlines() or [""])[0][:300]
        if "out of memory" in str(error).lower() or "can't allocate memory" in str(error).lower():
            _say("there is not enough memory", "try a smaller --batch-size or --max-length")
        elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
            _end_output()
            _say("the disk is full", "free some space and run the command again")
        else:
            _say(
                f"{type(error).__name__}: {first_line}",
                "this should not happen; --debug shows where it comes from",
            )
        return 1


def _end_output() -> None:
    """Let what can't be written any more go nowhere, or the interpreter complains at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(message: str, advice: str | None) -> None:
    from ..console import other_process, printable

    who = f"{other_process()}: " if other_process() else ""
    lines = [f"{who}error: {printable(message)}"] + ([printable(advice)] if advice else [])
    sys.stderr.write("\n".join(lines) + "\n")
