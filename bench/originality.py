"""How long it takes to index a training corpus and to look for a text in it.

    python bench/originality.py [--documents 20000] [--json]

The documents are made of words with the frequencies of natural text (Zipf's law over 50,000 words),
500 each. `check_seconds` is for a text of 500 words: `new` shares nothing long with the corpus,
`copied` is one of its documents, which is the slowest case.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from measuring import machine, median, timed

from creativewritinggpt import console
from creativewritinggpt.data.document import Document
from creativewritinggpt.evaluation.originality import CorpusIndex, build_index, check

WORDS = 500


def made_up(count: int, seed: int) -> Iterator[Document]:
    """Documents of words drawn by Zipf's law."""
    generator = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    names = [
        "".join(generator.choice(letters, size=size)) for size in generator.integers(2, 9, 50_000)
    ]
    weights = 1 / np.arange(1, len(names) + 1)
    weights /= weights.sum()
    for number in range(count):
        words = generator.choice(len(names), size=WORDS, p=weights)
        yield Document("made-up", str(number), " ".join(names[word] for word in words))


def main() -> None:
    """Index, check, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.parse_args()
    documents = list(made_up(arguments.documents, 0))
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        build_index(Path(folder) / "index", documents)
        built = time.perf_counter() - started
        index = CorpusIndex(Path(folder) / "index")
        size = sum(file.stat().st_size for file in (Path(folder) / "index").iterdir())
        new = next(made_up(1, 1)).text
        times = {
            name: median([timed(check, index, text) for _ in range(9)])
            for name, text in (("new", new), ("copied", documents[len(documents) // 2].text))
        }
    rows = [
        {"contender": "ours", "model": "", "case": name, "index_seconds": built,
         "index_bytes": size, "documents": arguments.documents, "check_seconds": seconds}
        for name, seconds in times.items()
    ]  # fmt: skip
    console.table(
        f"{arguments.documents:,} documents of {WORDS} words",
        ["text of 500 words", "index, s", "on disk", "check, ms"],
        [[row["case"], f"{built:.1f}", console.size(size), f"{row['check_seconds'] * 1000:.1f}"]
         for row in rows],
    )  # fmt: skip
    if arguments.json:
        sys.stdout.write(json.dumps({"machine": machine(), "rows": rows}) + "\n")


if __name__ == "__main__":
    main()
