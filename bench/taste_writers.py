"""Simulated writers: a taste by rule, picks with errors, and the draft that is good enough.

A rule gives a text a score. A writer picks the draft with the highest score, one time in ten any,
and takes a first draft whose score reaches the reservation score: the one that three in ten drafts
of the base model reach. Rules see the draft alone, not what stands before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from creativewritinggpt.data.names import quoted
from creativewritinggpt.data.text import sentences
from creativewritinggpt.evaluation.metrics import sentence_lengths, words_of
from creativewritinggpt.story.decisions import Decision

ERRORS, TAKEN = 0.1, 0.3
RANDOM = "at random"
Taste = Callable[[str], float]

_SUDDENLY, _OTHER = 0.3, 0.25
_ADVERBS = ("Slowly", "Quickly", "Quietly", "Finally", "Really", "Softly", "Sadly", "Clearly")
_SENSES = re.compile(
    r"\b(?:saw|see\w*|look\w*|eyes?|face\w*|heard|hear\w*|sound\w*|voice\w*|nois\w+|felt|feel\w*|"
    r"touch\w*|hands?|skin|smell\w*|smelt|taste\w*|cold|warm|hot|wet|rough|soft|sweet|bitter|"
    r"bright|dark\w*|loud|quiet|silen\w+|light|shadow\w*|glow\w*|whisper\w*|scream\w*|cried|blood|"
    r"breath\w*|black|white|red|green|gr[ea]y|blue|golden)\b",
    re.IGNORECASE,
)
_NOW = r"\b(?:is|are|am|has|says|goes|looks|walks|takes|turns)\b"
_THEN = r"\b(?:was|were|had|said|went|looked|walked|took|turned)\b"


def share(text: str, pattern: str) -> float:
    """Matches for each word of a text, in any case."""
    return len(re.findall(pattern, text, re.IGNORECASE)) / max(1, len(words_of(text)))


def dialogue(text: str) -> float:
    """Share of the characters that are quoted speech."""
    return sum(end - start for start, end in quoted(text)) / max(1, len(text))


def short_sentences(text: str) -> float:
    """Minus the mean number of words in a sentence."""
    return -float(np.mean(sentence_lengths(text) or [99]))


TASTES: dict[str, Taste] = {
    "short sentences": short_sentences,
    "dialogue": dialogue,
    "no adverbs in -ly": lambda text: -share(text, r"\b\w{3,}ly\b"),
    "present tense": lambda text: share(text, _NOW) - share(text, _THEN),
    "words of the senses": lambda text: len(_SENSES.findall(text)) / max(1, len(text)),
    "never suddenly": lambda text: -share(text, r"\bsuddenly\b"),
    "dialogue and short sentences": lambda text: 2 * dialogue(text) + short_sentences(text) / 20,
}


def with_habits(text: str, generator: np.random.Generator) -> str:
    """The text with what writers can dislike: adverbs at the beginning of sentences.

    Three sentences in ten begin with "Suddenly", and one in four with another.
    """
    parts = []
    for sentence in sentences(text):
        drawn = generator.random()
        if sentence[:1].isupper() and drawn < _SUDDENLY + _OTHER:
            word = "Suddenly" if drawn < _SUDDENLY else str(generator.choice(_ADVERBS))
            sentence = f"{word} {sentence[:1].lower()}{sentence[1:]}"
        parts.append(sentence)
    return " ".join(parts)


def pick(texts: Sequence[str], taste: Taste | None, generator: np.random.Generator) -> int:
    """The place of the draft that the writer picks; without a taste, or among equals, any."""
    wrong, order = generator.random() < ERRORS, generator.permutation(len(texts)).tolist()
    if taste is None or wrong:
        return int(order[0])
    return max(order, key=lambda place: taste(texts[place]))


def choices(
    prompts: Sequence[str],
    offered: Sequence[Sequence[str]],
    taste: Taste | None,
    generator: np.random.Generator,
) -> list[Decision]:
    """One decision for each prompt, of the drafts that were offered there."""
    found = []
    for prompt, texts in zip(prompts, offered, strict=True):
        place = pick(texts, taste, generator)
        rest = tuple(text for other, text in enumerate(texts) if other != place)
        found.append(
            Decision("pick", prompt, texts[place], rest, 1.0, place=place, shown=len(texts))
        )
    return found


def reservation(scores: Sequence[float]) -> float:
    """The score that a share of :data:`TAKEN` reaches, as nearly as ties allow."""
    values = np.array(scores)
    return float(min(np.unique(values), key=lambda score: abs((values >= score).mean() - TAKEN)))
