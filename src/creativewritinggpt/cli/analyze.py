"""``cwgpt analyze``: why did the model write this?"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import console
from ..analysis.settings import AnalysisSettings
from ..config.run import Config, load_config
from ..errors import InputError
from .args import add_settings, given, short_usage

if TYPE_CHECKING:
    from ..analysis.run import Explanation

# The original's sentences.
SENTENCES = (
    "The enchanted castle held secrets that",
    "As the spaceship descended, the crew realized",
    "The detective's final clue revealed that",
)
_SETTINGS = ("starter_file", "results_dir", "cache_dir", "device", "precision", "num_workers")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    short_usage(parser, "[TEXT …] [flags]")
    parser.description = (
        "Explain what the model makes of TEXT: why its next token, one of its words, or every\n"
        "token that it writes after it. Attention of all layers and heads, integrated gradients,\n"
        "random replacements, occlusion, each layer's guess, what the fine-tuning changed, and\n"
        "whether each explanation is better than a random one; as pictures, numbers and one page\n"
        "for a browser."
    )
    parser.epilog = (
        "examples:\n"
        '  cwgpt analyze "The old lighthouse keeper opened the" --model starter\n'
        '  cwgpt analyze "She opened the door" --target door --contrast window\n'
        '  cwgpt analyze "Once upon a time" --write 20 --preset fantasy\n'
        "  cwgpt analyze --texts sentences.txt --methods gradients,faithfulness"
    )
    parser.add_argument("text", nargs="*", metavar="TEXT", help="what to explain, one or several")
    parser.add_argument(
        "--model", "--model-name", metavar="NAME", dest="model", default="outputs/best_model",
        help="an adapter or model folder, a hub id or starter [outputs/best_model]",
    )  # fmt: skip
    parser.add_argument(
        "--texts", metavar="FILE", help="explain every line of FILE (.jsonl: its `prompt`)"
    )
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object")
    add_settings(parser, AnalysisSettings)
    add_settings(parser, Config, only=_SETTINGS)


def run(arguments: argparse.Namespace) -> int:
    """Explain."""
    settings = AnalysisSettings.from_mapping(given(arguments, AnalysisSettings))
    config = load_config(None, given(arguments, Config))
    texts = _texts(arguments)
    from ..analysis.report.save import folder_name, save, save_aggregate
    from ..analysis.run import explain
    from ..files import check_writable
    from ..models.loading import load_model

    folder = Path(config.results_dir)
    check_writable(folder)
    writer = load_model(
        arguments.model, config.device, config.precision, threads=config.num_workers,
        cache_dir=config.cache_dir, starter_file=config.starter_file,
    )  # fmt: skip
    records: list[dict[str, Any]] = []
    code = 0
    for number, text in enumerate(texts, 1):
        place = folder if len(texts) == 1 else folder / folder_name(number, text)
        with console.progress("explaining") as tell:
            found = explain(writer, text, settings, progress=tell, warn=console.warn)
            found.record["command"] = _command()

            def drawn(done: int, total: int, tell: Any = tell) -> None:
                tell("drawing", done, total)

            save(found, place, settings, drawn)
        records.append(found.record)
        _tell(found, place)
        if found.unfinished:
            console.warn(f"stopped; not finished: {', '.join(found.unfinished)}")
            code = 130
            break
    if len(texts) > 1:
        console.note(f"over all texts: {save_aggregate(records, folder)}")
    if arguments.json:
        from ..analysis.report.record import as_json
        from ..analysis.report.save import aggregate

        shown = [as_json(record) for record in records]
        document = (
            shown[0] if len(texts) == 1 else {"results": shown, "aggregate": aggregate(records)}
        )
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
    return code


def _command() -> str:
    import shlex

    return shlex.join(["cwgpt", *sys.argv[1:]]) if len(sys.argv) > 1 else "cwgpt analyze"


def _texts(arguments: argparse.Namespace) -> list[str]:
    """The texts: arguments, a file, what is piped in, or the original's sentences."""
    words: list[str] = arguments.text
    if arguments.texts:
        if words:
            raise InputError("give TEXT or --texts FILE, not both")
        from ..generation.batch import read_prompts

        return [prompt.text for prompt in read_prompts(arguments.texts)]
    if words:
        # Words without quotation marks around them are one text.
        single = len(words) > 1 and not any(" " in word for word in words)
        return [" ".join(words)] if single else words
    if not sys.stdin.isatty():
        piped = sys.stdin.buffer.read().decode("utf-8", "replace")
        text = piped[:-1] if piped.endswith("\n") else piped
        if text:
            return [text]
    return list(SENTENCES)


def _tell(found: Explanation, folder: Path) -> None:
    """The first target in a few lines, and where the rest is."""
    from ..analysis.report.summary import told

    for line in told(found):
        console.note(line)
    console.note(f"open {folder / 'report.html'} in a browser; numbers in results.json beside it\n")
