"""``cwgpt export``: write a model in the formats of other programs, verified."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from .. import console
from ..config.fields import DEFAULT_MODEL, MachineSettings
from ..errors import InputError
from ..export.settings import TARGETS, ExportSettings, without_effect
from ..generation.style import Style
from .main import add_settings, given, machine_settings, short_usage, warn_unused


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    short_usage(parser, "[MODEL] --to FORMAT [flags]")
    parser.description = (
        "Write a model in a format of other programs. What is written is read back and compared\n"
        "with the model before it gets its name; export.json says how far that went."
    )
    parser.epilog = (
        "formats:\n"
        "  merged     safetensors with the adapter merged: transformers, vLLM, MLX\n"
        "  gguf       one file: llama.cpp, KoboldCpp, textgen\n"
        "  lora-gguf  the adapter alone, for llama-server --lora\n"
        "  ollama     GGUF with a Modelfile\n"
        "  lm-studio  GGUF in LM Studio's folders\n"
        "  hub        a folder with card, licence and checksums, ready to upload\n\n"
        "examples:\n"
        "  cwgpt export outputs/best_model --to gguf\n"
        "  cwgpt export --to ollama --preset mystery --quantize Q5_1\n"
        "  cwgpt export starter --adapter styles/noir:0.7 --adapter styles/fairy:0.3 --to gguf\n"
        "  cwgpt export --to lm-studio --out ~/.lmstudio/models\n"
        "  cwgpt export --to hub --name ferry --license apache-2.0"
    )
    parser.add_argument(
        "place", nargs="?", metavar="MODEL",
        help=f"adapter or model folder, hub id or starter [{DEFAULT_MODEL}]",
    )  # fmt: skip
    parser.add_argument("--model", "--model-name", metavar="NAME", help="the same as MODEL")
    parser.add_argument(
        "--to", metavar="FORMAT", choices=TARGETS, required=True, help=", ".join(TARGETS)
    )
    parser.add_argument(
        "--out", metavar="FOLDER",
        help="folder to write; of lm-studio: its folder of models [exports/NAME-FORMAT]",
    )  # fmt: skip
    parser.add_argument("--style", metavar="X", help="scale of the adapter, as in cwgpt generate")
    parser.add_argument(
        "--adapter", metavar="FOLDER:W", action="append", default=[],
        help="add this adapter with weight W; repeatable",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace an export that is there")
    parser.add_argument(
        "--keep-failed", action="store_true", help="keep what failed verification, as NAME.failed"
    )
    parser.add_argument(
        "--json", action="store_true",
        help="print JSON lines: progress as it is made, the result last",
    )  # fmt: skip
    add_settings(parser, ExportSettings)
    add_settings(parser, MachineSettings)


def run(arguments: argparse.Namespace) -> int:
    """Export."""
    if arguments.place and arguments.model and arguments.place != arguments.model:
        raise InputError("MODEL and --model name two models", "give one of them")
    name = arguments.place or arguments.model or DEFAULT_MODEL
    chosen = given(arguments, ExportSettings)
    settings = ExportSettings.from_mapping(chosen)
    warn_unused(without_effect(arguments.to, chosen))
    style = Style.parse(arguments.adapter, arguments.style)
    machine = machine_settings(arguments)

    from ..export.run import export
    from ..models.loading import load_from_settings

    model = load_from_settings(name, machine)
    style.apply(model)
    out = Path(arguments.out) if arguments.out else None
    words: dict[str, Any] = {
        "overwrite": arguments.overwrite, "keep_failed": arguments.keep_failed,
    }  # fmt: skip
    from ..export.hub import sentence

    if arguments.json:
        result = export(model, arguments.to, out, settings, progress=_tell_json, **words)
        _line(
            {
                "event": "result",
                "folder": str(result.folder),
                "files": [str(path) for path in result.files],
                "notes": result.notes,
                "verified": {
                    name: [f"{level['name']}: {sentence(level)}" for level in levels]
                    for name, levels in result.record["verification"].items()
                },
                **{"export": result.record},
            }
        )
        return 0
    with console.progress("exporting") as progress:
        result = export(model, arguments.to, out, settings, progress=progress, **words)
    for path in result.files:
        entry = result.record["files"][path.name]
        console.note(f"{path}  ({entry['what']})")
        for level in result.record["verification"][path.name]:
            mark = "ok" if level["run"] else "--"
            console.note(f"  {mark} {level['level']} {level['name']}: {sentence(level)}")
    for note in result.notes:
        console.note(note)
    return 0


def _tell_json(what: str, done: int, total: int | None) -> None:
    """Progress as a JSON line."""
    _line({"event": "progress", "what": what, "done": done, "total": total})


def _line(value: dict[str, Any]) -> None:
    console.print_json(value)
    sys.stdout.flush()
