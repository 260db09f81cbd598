"""What a ranker learns from choices: simulated writers, whose taste is known.

    python bench/taste.py [FILE…] [--seeds 3] [--json]

A draft is a passage of about 60 words of the sample corpus (or of FILE…), seven in ten of them with
a "suddenly"; half of the passages is for learning, the other for judging. A writer picks one of
three drafts by a rule, and one time in ten at random. After 10 to 200 picks the ranker orders four
unseen drafts, 300 times over, and the writer looks at the first: it is taken if it is among the
three tenths of all drafts that the writer likes best. So without a ranker 30 % are taken, and 76 %
by one that knows the rule. Writers who pick at random must stay at 30 %; the share of runs in which
the ranker thinks that it has learnt something is beside it.

No model writes here: it shows what the ranker can learn from so many choices, not how far a model's
own drafts differ.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from measuring import machine

from creativewritinggpt import console
from creativewritinggpt.config.run import Config
from creativewritinggpt.data.corpus import read_documents
from creativewritinggpt.data.names import quoted
from creativewritinggpt.data.text import count_words, sentences
from creativewritinggpt.evaluation.metrics import sentence_lengths, words_of
from creativewritinggpt.evaluation.voice_profile import excerpts
from creativewritinggpt.story.decisions import Decision
from creativewritinggpt.taste.ranker import learn

COUNTS = (10, 20, 50, 100, 200)
WORDS, OFFERED, DRAFTS, TAKEN = 60, 3, 4, 0.3
JUDGED = 300
_SENSES = re.compile(
    r"\b(?:smell\w*|taste\w*|cold|warm|hot|wet|rough|soft|sweet|bitter|bright|dark|loud|quiet|"
    r"silen\w+|light|shadow\w*|glow\w*|whisper\w*|scream\w*|blood|breath\w*|skin|touch\w*)\b",
    re.IGNORECASE,
)
Taste = Callable[[str], float]


def _share(text: str, pattern: str) -> float:
    return len(re.findall(pattern, text, re.IGNORECASE)) / max(1, len(words_of(text)))


def _dialogue(text: str) -> float:
    return sum(b - a for a, b in quoted(text)) / max(1, len(text))


def _short(text: str) -> float:
    return -float(np.mean(sentence_lengths(text) or [99]))


def _present(text: str) -> float:
    now = _share(text, r"\b(?:is|are|am|has|says|goes|looks|walks|takes|turns)\b")
    return now - _share(text, r"\b(?:was|were|had|said|went|looked|walked|took|turned)\b")


def _never(text: str, word: str) -> float:
    """Texts without the word first; among equal ones any."""
    return -_share(text, rf"\b{word}\b") + 1e-6 * (zlib.crc32(text.encode()) % 997)


TASTES: dict[str, Taste] = {
    "short sentences": _short,
    "dialogue": _dialogue,
    "no adverbs in -ly": lambda text: -_share(text, r"\b\w{3,}ly\b"),
    "present tense": _present,
    "words of the senses": lambda text: len(_SENSES.findall(text)) / max(1, len(text)),
    "never suddenly": lambda text: _never(text, "suddenly"),
    "dialogue and short sentences": lambda text: 2 * _dialogue(text) + _short(text) / 20,
}
RANDOM = "at random"


def drafts(files: Sequence[str], generator: np.random.Generator) -> list[str]:
    """Passages, seven in ten of them with a "suddenly"."""
    read = read_documents(files, Config() if files else Config(sources=["sample"]))
    found = [
        part
        for document in read
        if files or document.source == "writingprompts"
        for part in excerpts(document.text, WORDS)
        if count_words(part) < 2 * WORDS
    ]
    changed = []
    for text in found:
        parts = sentences(text)
        if parts and generator.random() < 0.7:
            place = int(generator.integers(len(parts)))
            parts[place] = f"Suddenly {parts[place][:1].lower()}{parts[place][1:]}"
            text = text if len(parts) == 1 else " ".join(parts)
        changed.append(text)
    generator.shuffle(changed)
    return changed


def picked(texts: Sequence[str], taste: Taste | None, generator: np.random.Generator) -> int:
    """The place of the draft that the writer takes."""
    if taste is None or generator.random() < 0.1:
        return int(generator.integers(len(texts)))
    return max(range(len(texts)), key=lambda place: taste(texts[place]))


def run(name: str, files: Sequence[str], seed: int) -> list[dict[str, object]]:
    """A row for each number of choices."""
    generator = np.random.default_rng(seed)
    found = drafts(files, generator)
    known, unseen = found[: len(found) // 2], found[len(found) // 2 :]
    taste = TASTES.get(name)
    values = [taste(text) if taste else generator.random() for text in unseen]
    liked = np.argsort(np.argsort(values)) >= (1 - TAKEN) * len(unseen)
    decisions = []
    for _ in range(max(COUNTS)):
        offered = [known[i] for i in generator.choice(len(known), OFFERED, replace=False)]
        place = picked(offered, taste, generator)
        rest = tuple(text for i, text in enumerate(offered) if i != place)
        decisions.append(Decision("pick", "", offered[place], rest, 1.0, place=place,
                                  shown=OFFERED))  # fmt: skip
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
