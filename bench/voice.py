"""Whether authors are told apart by their words, and how much text that takes.

    python bench/voice.py FILE… [--resamples 500] [--json]

Each FILE is one author's text, a novel with its chapters; the domains of the sample corpus that
have enough text are further authors.

*Told apart*: every second chapter of a novel is held out. The distances to it of the author's other
chapters and of every other author, in pools of 5,000 words, and General Imposters over all pools.

*Against length*: for the first novel, the voice of two texts whose place is known, the second
novel's chapters (another author: 0) and a mixture of sentences, every second one of the first
author's other chapters (between), with pools of 1,000 to 20,000 words.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from measuring import machine

from creativewritinggpt import console
from creativewritinggpt.config.run import Config
from creativewritinggpt.data.corpus import read_documents
from creativewritinggpt.data.document import Document
from creativewritinggpt.data.text import sentences
from creativewritinggpt.evaluation.stylometry import Sample
from creativewritinggpt.evaluation.voice import VoiceTexts, measure

SIZES = (1000, 2000, 3000, 5000, 10_000, 20_000)
NOVEL_WORDS = 20_000
Authors = dict[str, list[Document]]


def authors(files: Sequence[str]) -> Authors:
    """The texts of each author: a file each, then the sample corpus by domain."""
    found: Authors = {}
    for file in files:
        for document in read_documents([file], Config()):
            found.setdefault(document.source, []).append(document)
    for document in read_documents([], Config(sources=["sample"])):
        found.setdefault(document.source, []).append(document)
    return found


def told_apart(name: str, texts: Authors, resamples: int) -> dict[str, Any]:
    """A row: the distances of all to an author's held-out chapters."""
    others = {other: of for other, of in texts.items() if other != name}
    asked = VoiceTexts(name, texts[name][::2], others, texts[name][1::2])
    started = time.perf_counter()
    found = measure(asked, resamples=resamples)
    nearest = min(found["others"], key=lambda other: found["others"][other]["distance"])
    return {
        "author": name, "words": found["words"], "features": found["features"],
        "own": found["distances"]["author"], "others": found["distances"]["others"],
        "by_author": {other: entry["distance"] for other, entry in found["others"].items()},
        "nearest": nearest, "nearest_distance": found["others"][nearest]["distance"],
        "told_apart": found["told_apart"], "auc": found["imposters"]["auc"],
        "c_at_1": found["imposters"]["c_at_1"], "zone": found["imposters"]["grey_zone"],
        "seconds": time.perf_counter() - started,
    }  # fmt: skip


def samples(documents: Sequence[Document], step: int = 1, first: int = 0) -> list[Sample]:
    """Sentences as texts, ten of one chapter together."""
    found = []
    for chapter, document in enumerate(documents):
        parts = sentences(document.text)
        for start in range(0, len(parts), 10):
            text = " ".join(parts[start : start + 10][first::step])
            found.append(Sample(1000 * chapter + start // 10, text))
    return found


def against_length(name: str, other: str, texts: Authors, resamples: int) -> list[dict[str, Any]]:
    """A row for each length of a pool."""
    rest = {key: of for key, of in texts.items() if key != name}
    rest[other] = texts[other][::2]
    own, far = texts[name][1::2], texts[other][1::2]
    mixture = [*samples(own, 2), *samples(far, 2, 1)]
    mixture = [Sample(number, sample.text) for number, sample in enumerate(mixture)]
    rows = []
    for size in SIZES:
        found = measure(
            VoiceTexts(name, texts[name][::2], rest, own),
            {"another": samples(far), "mixture": mixture},
            words=size, resamples=resamples, fewest=min(size, 2000),
        )  # fmt: skip
        rows.append({
            "asked": size, "words": found["words"], "features": found["features"],
            "others": len(found["others"]), "told_apart": found["told_apart"],
            "own": found["distances"]["author"], "far": found["distances"]["others"],
            "voice": found["voice"], "auc": (found["imposters"] or {}).get("auc"),
        })  # fmt: skip
    return rows


def _span(entry: dict[str, Any]) -> str:
    return f"{entry['value']:.2f} ({entry['ci95'][0]:.2f} to {entry['ci95'][1]:.2f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="a novel each")
    parser.add_argument("--resamples", type=int, default=500)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.parse_args()
    texts = authors(arguments.files)
    long = [name for name, of in texts.items() if sum(d.words for d in of) >= NOVEL_WORDS]
    rows = [told_apart(name, texts, arguments.resamples) for name in long]
    console.table(
        "Cosine Delta to the held-out chapters",
        ["author", "words", "own chapters", "others", "nearest other", "AUC", "c@1", "s"],
        [[row["author"], f"{row['words']:,}", _span(row["own"]), _span(row["others"]),
          f"{row['nearest']} {row['nearest_distance']:.2f}", f"{row['auc']:.3f}",
          f"{row['c_at_1']:.3f}", f"{row['seconds']:.1f}"] for row in rows],
    )  # fmt: skip
    curve = []
    if len(long) > 1:
        curve = against_length(long[0], long[1], texts, arguments.resamples)
        console.table(
            f"{long[0]}: voice of {long[1]}, and of a mixture of both, by length",
            ["words", "features", "others", "told apart", "own", "others'", "another", "mixture"],
            [[f"{row['words']:,}", str(row["features"]), str(row["others"]),
              "yes" if row["told_apart"] else "no", _span(row["own"]), _span(row["far"]),
              *(_span(row["voice"][label]) if row["voice"] else "–"
                for label in ("another", "mixture"))] for row in curve],
        )  # fmt: skip
    if arguments.json:
        found = {"machine": machine(), "rows": rows, "by_length": curve}
        sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
