"""``cwgpt analyze``: attributions of the tokens that a model writes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import console
from ..analysis.registry import AnalysisSettings
from ..config.fields import MachineSettings
from ..config.run import Config, load_config
from ..errors import InputError
from .main import (
    add_json,
    add_model,
    add_settings,
    command_line,
    given,
    machine_settings,
    piped_text,
    short_usage,
    warn_unused,
)

# Those of the original project.
SENTENCES = (
    "The enchanted castle held secrets that",
    "As the spaceship descended, the crew realized",
    "The detective's final clue revealed that",
)


# The methods that read a setting; the others do without it.
_READ_BY = {
    "baseline": ("gradients",),
    "steps": ("gradients",),
    "samples": ("perturbation",),
    "law": ("perturbation",),
    "unit": ("occlusion",),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    short_usage(parser, "[TEXT …] [flags]")
    parser.description = (
        "Explain the next token after TEXT, one of its words, or every token that the model\n"
        "writes after it: attention of all layers and heads, integrated gradients, random\n"
        "replacement, occlusion, logit lens, the effect of the fine-tuning, and a faithfulness\n"
        "test of each method. Writes figures, results.json and report.html."
    )
    parser.epilog = (
        "examples:\n"
        '  cwgpt analyze "The old lighthouse keeper opened the" --model starter\n'
        '  cwgpt analyze "She opened the door" --target door --contrast window\n'
        '  cwgpt analyze "Once upon a time" --write 20 --preset fantasy\n'
        "  cwgpt analyze --texts sentences.txt --methods gradients,faithfulness"
    )
    parser.add_argument("text", nargs="*", metavar="TEXT", help="one or several texts to explain")
    add_model(parser)
    parser.add_argument(
        "--texts", metavar="FILE", help="explain every line of FILE (.jsonl: its `prompt`)"
    )
    add_json(parser)
    add_settings(parser, AnalysisSettings)
    add_settings(parser, Config, only=("results_dir",))
    add_settings(parser, MachineSettings)


def run(arguments: argparse.Namespace) -> int:
    """Explain."""
    settings = AnalysisSettings.from_mapping(given(arguments, AnalysisSettings))
    unused = {
        name: f"{' and '.join(methods)} {'are' if len(methods) > 1 else 'is'} not computed"
        for name, methods in _READ_BY.items()
        if name in given(arguments, AnalysisSettings) and not set(methods) & set(settings.methods)
    }
    warn_unused(unused)
    machine = machine_settings(arguments)
    folder = Path(load_config(None, given(arguments, Config)).results_dir)
    texts = _texts(arguments)
    from ..analysis.record import aggregate, as_json, save_aggregate, text_summary
    from ..analysis.report import folder_name, save
    from ..analysis.run import explain
    from ..files import check_writable
    from ..models.loading import load_from_settings

    check_writable(folder)
    model = load_from_settings(arguments.model, machine)
    records: list[dict[str, Any]] = []
    code = 0
    for number, (text, parts) in enumerate(texts, 1):
        place = folder if len(texts) == 1 else folder / folder_name(number, text)
        with console.progress("explaining") as progress:
            found = explain(
                model, text, settings, parts=parts, progress=progress, warn=console.warn,
                first=_tell_first,
            )  # fmt: skip
            found.record["command"] = command_line()
            save(found, place, settings, console.counting(progress, "drawing"))
        records.append(found.record)
        for line in text_summary(found.record):
            console.note(line)
        report = place / "report.html"
        console.note(f"open {report} in a browser; numbers in results.json beside it\n")
        if found.unfinished:
            console.warn(f"stopped; not finished: {', '.join(found.unfinished)}")
            code = 130
            break
    if len(texts) > 1:
        console.note(f"over all texts: {save_aggregate(records, folder)}")
    if arguments.json:
        shown = [as_json(record) for record in records]
        several = {"results": shown, "aggregate": aggregate(records)} if len(texts) > 1 else None
        console.print_json(several or shown[0])
    return code


def _tell_first(record: dict[str, Any]) -> None:
    """What the quick methods found, while the others compute."""
    from ..analysis.record import text_summary

    if any("tuned" in models for models in record["methods"].values()):
        for line in text_summary(record):
            console.note(line)
        console.note("  a first answer; the other methods take longer\n")


def _texts(arguments: argparse.Namespace) -> list[tuple[str, Sequence[tuple[str, int, int]]]]:
    """Texts, with their named parts, given as arguments, in a file or piped in; or the usual."""
    words: list[str] = arguments.text
    if arguments.texts:
        if words:
            raise InputError("give TEXT or --texts FILE, not both")
        from ..generation.batch import read_prompts

        return [(prompt.text, prompt.parts) for prompt in read_prompts(arguments.texts)]
    if words:
        # Words without quotation marks around them are one text.
        single = len(words) > 1 and not any(" " in word for word in words)
        return [(text, ()) for text in ([" ".join(words)] if single else words)]
    piped = piped_text()
    return [(text, ()) for text in ([piped] if piped else SENTENCES)]
