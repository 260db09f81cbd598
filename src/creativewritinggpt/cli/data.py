"""``cwgpt data inspect``: the documents and rows that files and sources become."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from typing import Any

from .. import console
from ..config.run import Config, load_config
from ..errors import UserError
from ..files import cache_folder
from .main import add_config, add_json, add_settings, given, short_usage

_SETTINGS = (
    "model_name", "starter_file", "sources", "mix", "train_size", "val_size", "max_documents",
    "max_length", "mask_prompt", "prompt_column", "text_column", "skip_missing", "skip_bad_rows",
    "seed", "cache_dir",
)  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    short_usage(parser, "inspect [FILE ...] [flags]")
    parser.description = (
        "Read, clean and split files or named sources as training does, and report the result:\n"
        "documents, lengths, what was left out and why, the split, and some rows with trained and\n"
        "masked tokens. Without FILE the named --sources are read."
    )
    parser.epilog = (
        "examples:\n"
        "  cwgpt data inspect novel.txt\n"
        "  cwgpt data inspect stories.jsonl --mask-prompt --model-name starter\n"
        "  cwgpt data inspect --sources sample --json"
    )
    parser.add_argument("action", choices=("inspect",), metavar="inspect", help="the action")
    parser.add_argument("files", nargs="*", metavar="FILE", help="files or folders of text")
    add_config(parser)
    add_json(parser)
    add_settings(parser, Config, only=_SETTINGS, aliases={"model_name": ("--model",)})


def run(arguments: argparse.Namespace) -> int:
    """Inspect and show."""
    overrides = given(arguments, Config)
    config = load_config(arguments.config, overrides)
    from ..data.corpus import load_corpus
    from ..data.inspect import inspect_corpus, render

    with console.progress("reading") as progress:
        corpus = load_corpus(config, arguments.files, progress)
        named = "model_name" in overrides or arguments.config is not None
        result = inspect_corpus(
            corpus,
            _tokenizer(config, named),
            max_length=config.max_length,
            mask_prompt=config.mask_prompt,
            weights=config.mix,
            seed=config.seed,
            cache=cache_folder(config.cache_dir),
            progress=progress,
        )
    if arguments.json:
        console.print_json(result)
    else:
        terminal = sys.stdout.isatty()
        colour = terminal and not os.environ.get("NO_COLOR")
        width = shutil.get_terminal_size().columns if terminal else None
        sys.stdout.write(render(result, colour=colour, width=width))
    return 0


def _tokenizer(config: Config, named: bool) -> Any | None:
    """Tokenizer of the model that was named, else of the cached starter, else None.

    Nothing is downloaded unless a model was named.
    """
    from ..models.checks import describe
    from ..models.loading import resolve_base
    from ..models.starter import is_cached

    name = config.model_name
    if not named:
        if not is_cached(config.cache_dir):
            console.note("lengths are in words; --model-name NAME counts that model's tokens")
            return None
        name = "starter"
    try:
        base = resolve_base(name, cache_dir=config.cache_dir, starter_file=config.starter_file)
    except UserError as error:
        console.warn(f"{error.message}; lengths are in words")
        return None
    from transformers import AutoTokenizer

    if not named:
        console.note("tokens are the starter's; --model-name NAME counts another model's")
    with describe(base.path, name):
        return AutoTokenizer.from_pretrained(
            base.path, local_files_only=True, trust_remote_code=False
        )
