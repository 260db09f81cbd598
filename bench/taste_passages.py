"""What a ranker learns from choices among passages by people.

    python bench/taste_passages.py [FILE…] [--seeds 3] [--json]

The writers are those of ``taste.py``. A draft is a passage of about 60 words of the sample corpus
(or of FILE…), with the habits of the small model of ``taste.py``; half of the passages is for
learning, the other for judging. After 10 to 200 picks of one among three the ranker orders four
unseen drafts, 300 times over, and the writer looks at the first: it is taken if it is among the
three tenths of all drafts that the writer likes best. So without a ranker 30 % are taken, and 76 %
by one that knows the rule. Writers who pick at random must stay at 30 %; the share of runs in which
the ranker thinks that it has learnt something is beside it.

No model writes here: it shows what the ranker can learn from so many choices. How far a model's own
drafts differ, and what tuning makes of the same choices, ``taste.py`` shows.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence

import numpy as np
from measuring import machine
from taste_writers import RANDOM, TAKEN, TASTES, choices, with_habits

from creativewritinggpt import console
from creativewritinggpt.config.run import Config
from creativewritinggpt.data.corpus import read_documents
from creativewritinggpt.data.text import count_words
from creativewritinggpt.evaluation.voice_profile import excerpts
from creativewritinggpt.story.decisions import Decision
from creativewritinggpt.taste.ranker import learn

COUNTS = (10, 20, 50, 100, 200)
WORDS, OFFERED, DRAFTS = 60, 3, 4
JUDGED = 300


def drafts(files: Sequence[str], generator: np.random.Generator) -> list[str]:
    """Passages, with the habits of the small model of ``taste.py``."""
    read = read_documents(files, Config() if files else Config(sources=["sample"]))
    found = [
        with_habits(part, generator)
        for document in read
        if files or document.source == "writingprompts"
        for part in excerpts(document.text, WORDS)
        if count_words(part) < 2 * WORDS
    ]
    generator.shuffle(found)
    return found


def run(name: str, files: Sequence[str], seed: int) -> list[dict[str, object]]:
    """A row for each number of choices."""
    generator = np.random.default_rng(seed)
    found = drafts(files, generator)
    known, unseen = found[: len(found) // 2], found[len(found) // 2 :]
    taste = TASTES.get(name)
    values = [taste(text) if taste else generator.random() for text in unseen]
    liked = np.argsort(np.argsort(values)) >= (1 - TAKEN) * len(unseen)
    decisions: list[Decision] = []
    for _ in range(max(COUNTS)):
        offered = [known[i] for i in generator.choice(len(known), OFFERED, replace=False)]
        decisions += choices([""], [offered], taste, generator)
    sets = [generator.choice(len(unseen), DRAFTS, replace=False) for _ in range(JUDGED)]
    rows: list[dict[str, object]] = []
    for count in COUNTS:
        started = time.perf_counter()
        ranker = learn(decisions[:count])
        seconds = time.perf_counter() - started
        known_scores = np.array(ranker.scores(unseen))
        if not ranker.trial.beyond_chance:
            known_scores[:] = 0  # nothing is ordered
        first = [int(drawn[known_scores[drawn].argmax()]) for drawn in sets]
        rows.append({
            "taste": name, "choices": count, "seed": seed, "learnt": ranker.trial.beyond_chance,
            "taken": [bool(liked[i]) for i in first], "before": [bool(liked[d[0]]) for d in sets],
            "seconds": seconds,
        })  # fmt: skip
    return rows


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.parse_args()
    table, rows = [], []
    for name in (*TASTES, RANDOM):
        runs = [run(name, arguments.files, seed) for seed in range(arguments.seeds)]
        cells = [f"{np.mean([row['before'] for of in runs for row in of[:1]]):.0%}"]
        for place, count in enumerate(COUNTS):
            taken = np.array([of[place]["taken"] for of in runs], dtype=float)
            # Sets of drafts and seeds are drawn anew together.
            generator = np.random.default_rng(0)
            again = [
                taken[generator.integers(len(taken), size=len(taken))][
                    :, generator.integers(JUDGED, size=JUDGED)
                ].mean()
                for _ in range(1000)
            ]
            low, high = np.percentile(again, [2.5, 97.5])
            learnt = sum(bool(of[place]["learnt"]) for of in runs)
            cells.append(f"{taken.mean():.0%} ({low:.0%}–{high:.0%}) {learnt}/{len(runs)}")
            rows.append({
                "taste": name, "choices": count, "taken": float(taken.mean()), "ci95": [low, high],
                "learnt": learnt, "seconds": max(of[place]["seconds"] for of in runs),
            })  # fmt: skip
        table.append([name, *cells])
    console.table(
        "First drafts that the writer takes, by choices (95 %), runs in which something was learnt",
        ["taste", "before", *map(str, COUNTS)], table,
    )  # fmt: skip
    slowest = max(float(row["seconds"]) for row in rows)
    console.note(f"the slowest learning took {slowest:.2f} s")
    if arguments.json:
        sys.stdout.write(json.dumps({"machine": machine(), "rows": rows}) + "\n")


if __name__ == "__main__":
    main()
