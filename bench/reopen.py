"""How long a long story takes from opening to its first new word.

    python bench/reopen.py [--words 3000] [--json]

Three processes, one after the other, each as a session that opens the story, with a cache folder of
their own: the first finds no reading of it, and keeps one when it ends; the second finds it; the
third opens the story with 100 words more. `seconds` from the start of the process, `first_word`
after the model was loaded; `equal`: whether the second wrote what the first wrote.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from generate_contenders import sample_words
from measuring import in_own_process, machine, show

CASES = {"first time": 0, "opened again": 0, "opened again, longer": 100}


def story(words: int) -> str:
    """So many words of the sample corpus."""
    return " ".join(itertools.islice(itertools.cycle(sample_words()), words))


def work(words: int, began: float) -> dict[str, Any]:
    """Open a story of so many words, write five tokens, and leave."""
    from creativewritinggpt.config.fields import MachineSettings
    from creativewritinggpt.generation.engine import stream
    from creativewritinggpt.generation.sampling.settings import GenerationSettings
    from creativewritinggpt.models.forward.backends import backend_for, store_readings
    from creativewritinggpt.models.loading import load_from_settings

    text = story(words)
    model = load_from_settings("starter", MachineSettings())
    backend = backend_for(model, "auto")
    loaded = time.perf_counter()
    pieces = stream(model, text, GenerationSettings(max_new_tokens=5, seed=1))
    written = [next(pieces).text]
    result: dict[str, Any] = {
        "first_word": time.perf_counter() - loaded,
        "seconds": time.time() - began,
        "tokens": len(model.tokenizer(text)["input_ids"]),
        "format": backend.name,
    }
    written += [piece.text for piece in pieces]
    left = time.perf_counter()
    store_readings()
    return {**result, "leaving": time.perf_counter() - left, "text": "".join(written)}


def main() -> None:
    """Open the story three times and print the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--words", type=int, default=3000)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--worker", nargs=2, metavar=("WORDS", "BEGAN"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        found = work(int(arguments.worker[0]), float(arguments.worker[1]))
        sys.stdout.write("\n" + json.dumps(found) + "\n")
        return
    from creativewritinggpt.files import cache_folder

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bench-reopen-") as folder:
        # The starter and its packed weights as they are, readings of this run alone.
        for known in cache_folder().iterdir():
            if known.name != "readings" and not known.name.startswith("."):
                (Path(folder) / known.name).symlink_to(known.resolve())
        os.environ["CWGPT_CACHE"] = folder
        for case, more in CASES.items():
            given = [str(arguments.words + more), str(time.time())]
            found = in_own_process(__file__, given, seconds=300)
            rows.append(
                {"contender": found.get("format"), "model": "starter", "case": case, **found}
            )
    if "text" in rows[0] and "text" in rows[1]:
        rows[1]["equal"] = float(rows[0]["text"] == rows[1]["text"])
    show("opening a story", rows, ("tokens", "first_word", "seconds", "leaving", "equal"))
    if arguments.json:
        sys.stdout.write(json.dumps({"machine": machine(), "rows": rows}) + "\n")


if __name__ == "__main__":
    main()
