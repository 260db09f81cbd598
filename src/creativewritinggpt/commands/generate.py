"""``cwgpt generate``: write once, for many prompts, or in a session."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import console
from ..arguments import add_settings, given, short_usage
from ..config import Config, load_config
from ..errors import InputError
from ..generation.settings import GenerationSettings

if TYPE_CHECKING:
    from ..generation.results import Generated
    from ..models.writer import Writer

_SETTINGS = ("starter_file", "cache_dir", "device", "precision", "num_workers")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    short_usage(parser, "[PROMPT] [flags]")
    parser.description = (
        "Write with a model. PROMPT is continued; text that is piped in stands before it. Without\n"
        "either, on a terminal, a session begins. The text goes to stdout, the rest to stderr."
    )
    parser.epilog = (
        "examples:\n"
        '  cwgpt generate "The night ferry was late,"\n'
        '  cwgpt generate "Once upon a time" --n 4 --temperature 1.1 --seed 7\n'
        "  cwgpt generate --prompts prompts.txt --json\n"
        "  cat chapter.txt | cwgpt generate --max-new-tokens 300"
    )
    parser.add_argument("prompt", nargs="*", metavar="PROMPT", help="the text to continue")
    parser.add_argument(
        "--model", "--model-name", metavar="NAME", dest="model", default="outputs/best_model",
        help="an adapter or model folder, a hub id or starter [outputs/best_model]",
    )  # fmt: skip
    parser.add_argument(
        "--prompts", metavar="FILE", help="continue every line of FILE (.jsonl: its `prompt`)"
    )
    parser.add_argument("--n", type=_count, default=1, metavar="N", help="alternatives [1]")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object with everything known"
    )
    add_settings(parser, GenerationSettings)
    add_settings(parser, Config, only=_SETTINGS)


def _count(text: str) -> int:
    number = int(text) if text.isdigit() else 0
    if not 1 <= number <= 64:
        raise argparse.ArgumentTypeError(f"give a whole number from 1 to 64, not {text!r}")
    return number


def run(arguments: argparse.Namespace) -> int:
    """Write."""
    settings = GenerationSettings().changed(given(arguments, GenerationSettings), "settings")
    config = load_config(None, given(arguments, Config))
    prompts = _prompts(arguments)
    from ..models.loading import load_writer

    writer = load_writer(
        arguments.model, config.device, config.precision, threads=config.num_workers,
        cache_dir=config.cache_dir, starter_file=config.starter_file,
    )  # fmt: skip
    if prompts is None:
        return _session(writer, settings)
    if not arguments.json and len(prompts) == 1 and arguments.n == 1 and not settings.best_of:
        return _stream(writer, prompts[0], settings)
    return _all(writer, prompts, settings, arguments)


def _prompts(arguments: argparse.Namespace) -> list[str] | None:
    """The prompts, or None for a session."""
    words = " ".join(arguments.prompt)
    if arguments.prompts:
        if words:
            raise InputError("give PROMPT or --prompts FILE, not both")
        return _read_prompts(Path(arguments.prompts))
    if not sys.stdin.isatty():
        piped = sys.stdin.buffer.read().decode("utf-8", "replace")
        text = piped[:-1] if piped.endswith("\n") else piped
        if text or not words:
            return [text + (("\n" if text else "") + words if words else "")]
    if words or arguments.prompt:
        return [words]
    return [""] if arguments.json else None


def _read_prompts(path: Path) -> list[str]:
    """One prompt a line; a ``.jsonl`` line is text or an object with ``prompt``."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} can't be read as UTF-8 text") from error
    prompts = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if path.suffix == ".jsonl":
            try:
                row = json.loads(line)
                line = row if isinstance(row, str) else row["prompt"]
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{path}, line {number}: not a JSON object with a `prompt`"
                ) from error
        prompts.append(line)
    if not prompts:
        raise InputError(f"{path} holds no prompts")
    return prompts


def _stream(writer: Writer, prompt: str, settings: GenerationSettings) -> int:
    """One text, shown as it is written."""
    from ..generation.engine import stream

    shown = console.printable if sys.stdout.isatty() else str
    sys.stdout.write(shown(prompt))
    sys.stdout.flush()
    result: Generated | None = None
    for piece in stream(writer, prompt, settings):
        sys.stdout.write(shown(piece.text))
        sys.stdout.flush()
        result = piece.result or result
    sys.stdout.write("\n")
    sys.stdout.flush()
    if result is None:
        return 0
    _say_seed(result)
    return 130 if result.finish_reason == "interrupted" else 0


def _all(
    writer: Writer,
    prompts: list[str],
    settings: GenerationSettings,
    arguments: argparse.Namespace,
) -> int:
    """Several texts, or one as JSON."""
    from ..generation.engine import Interrupted, write

    results: list[Generated] = []
    code = 0
    for prompt in prompts:
        try:
            results += write(writer, prompt, settings, arguments.n)
        except Interrupted as stopped:
            results += stopped.results
            code = 130
            break
    if arguments.json:
        document: dict[str, Any] = {
            "model": writer.name,
            "base": writer.base_name,
            "results": [result.to_dict() for result in results],
        }
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
        return code
    shown = console.printable if sys.stdout.isatty() else str
    for number, result in enumerate(results):
        if number:
            sys.stdout.write("\n---\n\n")
        sys.stdout.write(shown(result.prompt + result.text) + "\n")
        _say_seed(result)
    return code


def _say_seed(result: Generated) -> None:
    console.note(f"seed {result.seed}; the same seed and settings give this text again")


def _session(writer: Writer, settings: GenerationSettings) -> int:
    """The interactive prompt."""
    from ..generation.repl import run as converse

    def write_out(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    converse(writer, settings, input, write_out)
    return 0
