"""``cwgpt evaluate``: base and tuned model on the same held-out documents."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from .. import console
from ..arguments import add_settings, given, short_usage
from ..config import Config, load_config
from ..errors import InputError

_SETTINGS = (
    "starter_file", "sources", "max_documents", "prompt_column", "text_column", "skip_missing",
    "skip_bad_rows", "output_dir", "cache_dir", "device", "precision", "num_workers",
)  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    short_usage(parser, "[FILE ...] [flags]")
    parser.description = (
        "Perplexity and bits per byte by domain, of the model and of the base it was tuned from.\n"
        "Without FILE the documents that the training held out are used, or those of --sources."
    )
    parser.epilog = (
        "examples:\n"
        "  cwgpt evaluate\n"
        "  cwgpt evaluate chapter.txt --model outputs/best_model\n"
        "  cwgpt evaluate stories.jsonl --model starter --max-documents 50"
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help="texts to evaluate on")
    parser.add_argument(
        "--model", "--model-name", metavar="NAME", dest="model",
        help="an adapter or model folder, a hub id or starter [outputs/best_model]",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    add_settings(parser, Config, only=_SETTINGS)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, show the table and write the report."""
    overrides = given(arguments, Config)
    config = load_config(None, overrides)
    output = Path(config.output_dir)
    model = arguments.model or str(output / "best_model")
    from ..evaluation.report import evaluate, rows, write_report

    documents = _documents(arguments, config, overrides, model)
    from ..models.loading import load_base, load_writer

    writer = load_writer(
        model, config.device, config.precision, threads=config.num_workers,
        cache_dir=config.cache_dir, starter_file=config.starter_file,
    )  # fmt: skip
    _warn_of_training_text(model, documents)
    base = None
    if not writer.has_adapter and writer.run is not None:
        base = load_base(
            writer.run["base"]["name"], writer.device, cache_dir=config.cache_dir,
            starter_file=config.starter_file,
        )  # fmt: skip
    with console.progress("evaluating") as tell:
        result = evaluate(
            writer, documents, base=base,
            progress=lambda name, done, total: tell(f"evaluating {name}", done, total),
        )  # fmt: skip
    written = write_report(result, output)
    if arguments.json:
        sys.stdout.write(json.dumps(result) + "\n")
    heads, table = rows(result)
    console.table("", heads, table)
    console.note(f"Written: {', '.join(map(str, written))}")
    return 0


def _documents(
    arguments: argparse.Namespace, config: Config, overrides: dict[str, Any], model: str
) -> list[Any]:
    """FILEs, the named sources' held-out part, or what the training of the model held out."""
    from ..data.corpus import load_corpus, read_documents
    from ..data.document import Document

    if arguments.files:
        return list(read_documents(arguments.files, config))
    if "sources" in overrides:
        return list(load_corpus(config, []).validation)
    kept = Path(model).parent / "validation.jsonl"
    if not kept.is_file():
        kept = Path(config.output_dir) / "validation.jsonl"
    if not kept.is_file():
        raise InputError(
            "there are no held-out documents to evaluate on",
            "give a FILE or --sources, or train first: cwgpt train",
        )
    documents = [Document(**json.loads(line)) for line in kept.read_text("utf-8").splitlines()]
    console.note(f"{len(documents)} held-out documents from {kept}")
    return documents[: config.max_documents]


def _warn_of_training_text(model: str, documents: list[Any]) -> None:
    """Text that a model was trained on flatters it; say so."""
    manifest = Path(model).parent / "manifest.json"
    if not manifest.is_file():
        return
    trained = set(json.loads(manifest.read_text("utf-8"))["train"])
    count = sum(document.digest in trained for document in documents)
    if count:
        console.warn(
            f"{count} of {len(documents)} documents were trained on: their figures are too good"
        )
