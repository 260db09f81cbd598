"""What differs from an author: named habits of style beside the author's usual range.

The distances of :mod:`.voice` say how far a text is from an author; this table says in what. Each
habit is counted in passages of the author of equal length, which gives a range (the middle 90 % of
the passages), and in all that a model wrote. Author and model are cut alike: what a model writes is
a heap of short continuations, so the author's passages are heaps of excerpts of that length, and
paragraphs that are cut in two are so in both.

Every figure is a rate, a share or a mean, so that it doesn't grow with the text. One habit in ten
lies outside the range by chance, in the author's own passages too. Words and endings are English;
for other languages their rows are left out.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..data.document import Document
from ..data.names import FUNCTION_WORDS, quoted
from ..data.text import count_words, sentence_ends
from .metrics import sentence_lengths, words_of

PASSAGE_WORDS, FEWEST_PASSAGES = 2000, 4
EXCERPT_WORDS = 150
"""Words of an excerpt where no generated text sets their length."""

_FUNCTION_WORDS = 40
_COMMON = 2000
_WINDOW = 500
_ENGLISH = 0.2  # of the words are function words in English of any kind: 0.4 to 0.6


@dataclasses.dataclass(frozen=True)
class Habit:
    """A row of the table.

    Attributes:
        label: In a writer's words.
        unit: ``per 1,000 words``, ``%`` or the name of what is counted.
        group: The heading that it stands under.
    """

    label: str
    unit: str
    group: str


_PER = "per 1,000 words"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_PRONOUNS = {
    "I, me, my": _words("i me my mine myself i'm i'd i'll i've"),
    "you, your": _words("you your yours yourself you're you'd you'll you've"),
    "he, him, his": _words("he him his himself he's he'd he'll"),
    "she, her": _words("she her hers herself she's she'd she'll"),
    "we, us, our": _words("we us our ours ourselves we're we'd we'll we've"),
    "they, them, their": _words("they them their theirs themselves they're they'd they'll they've"),
}
_LISTS = {
    "negations (not, never, no …)": _words("not no never nothing nobody none nor neither cannot"),
    "intensifiers (very, quite …)": _words(
        "very quite really rather too extremely utterly terribly awfully perfectly entirely"
    ),
    "“said”": _words("said"),
    "other verbs of speech (asked, cried …)": _words(
        "says asked asks replied replies answered answers cried cries whispered murmured muttered "
        "shouted exclaimed remarked added observed growled yelled called begged"
    ),
}
_NOT_ADVERBS = _words(
    "only family early reply supply apply holy ugly july lily fly rely belly bully"
)
_PAST, _PRESENT = (
    _words("was were had did said went"),
    _words("is are am has have do does says goes"),
)
_CONTRACTION = re.compile(r"(?:n't|'(?:ll|re|ve|d|m))$")
_SIGNS = {
    "commas": r",",
    "semicolons": r";",
    "colons": r":",
    "exclamation marks": r"!",
    "question marks": r"\?",
    "dashes": r"[—–]|--+|(?<=\s)-(?=\s)",
    "ellipses": r"…|\.\.\.+|\. \. \.",
    "brackets": r"\(",
}
_BLANK = re.compile(r"\n\s*\n")


def habits(text: str, function_words: Sequence[str], common: frozenset[str]) -> dict[Habit, float]:
    """The habits of a text; those that can't be counted in it are left out.

    Args:
        text: A heap of excerpts, apart by empty lines.
        function_words: Words that have a row each; none: the text isn't English.
        common: The most frequent words of all authors.
    """
    words = words_of(text)
    if not words:
        return {}
    found: dict[Habit, float] = {}
    per = 1000 / len(words)
    lengths = np.array(sentence_lengths(text))
    for label, value, unit in (
        ("words in a sentence", lengths.mean(), "words"),
        ("spread of sentence lengths (deviation)", lengths.std(), "words"),
        ("sentences under 6 words", 100 * (lengths < 6).mean(), "%"),
        ("sentences over 30 words", 100 * (lengths > 30).mean(), "%"),
    ):
        found[Habit(label, unit, "sentences")] = float(value)
    paragraphs = [part for part in _paragraphs(text) if words_of(part)]
    per_paragraph = [len(words_of(part)) for part in paragraphs]
    single = [len(sentence_lengths(part)) == 1 for part in paragraphs]
    found[Habit("words in a paragraph", "words", "paragraphs")] = float(np.mean(per_paragraph))
    found[Habit("paragraphs of one sentence", "%", "paragraphs")] = 100 * float(np.mean(single))
    said = sum(len(words_of(text[start:end])) for start, end in quoted(text))
    found[Habit("words within quotation marks", "%", "dialogue")] = 100 * said / len(words)
    for label, sign in _SIGNS.items():
        found[Habit(label, _PER, "punctuation")] = per * len(re.findall(sign, text))
    found[Habit("letters in a word", "letters", "words")] = float(np.mean([len(w) for w in words]))
    rare = sum(word not in common for word in words)
    found[Habit("rarer words (not of the 2,000 commonest)", "%", "words")] = 100 * rare / len(words)
    different = moving_type_token_ratio(words, _WINDOW)
    if different is not None:
        found[Habit("different words among 500", "%", "words")] = 100 * different
    if function_words:
        found.update(_english(words, function_words))
    return found


def _english(words: Sequence[str], function_words: Sequence[str]) -> dict[Habit, float]:
    found: dict[Habit, float] = {}
    counts, per = Counter(words), 1000 / len(words)
    contracted = sum(n for word, n in counts.items() if _CONTRACTION.search(word))
    for label, listed in _PRONOUNS.items():
        found[Habit(label, _PER, "pronouns")] = per * sum(counts[word] for word in listed)
    for label, listed in _LISTS.items():
        number = sum(counts[word] for word in listed)
        if label.startswith("negations"):
            number += sum(n for word, n in counts.items() if word.endswith("n't"))
        group = "dialogue" if "said" in label or "speech" in label else "words"
        found[Habit(label, _PER, group)] = per * number
    found[Habit("contractions (don't, I'll …)", _PER, "words")] = per * contracted
    adverbs = sum(
        n for word, n in counts.items()
        if len(word) > 4 and word.endswith("ly") and word not in _NOT_ADVERBS
    )  # fmt: skip
    found[Habit("adverbs in -ly", _PER, "words")] = per * adverbs
    going = sum(
        first in ("was", "were") and second.endswith("ing")
        for first, second in zip(words, words[1:], strict=False)
    )
    found[Habit("was or were with -ing", _PER, "tense")] = per * going
    past, present = (sum(counts[word] for word in listed) for listed in (_PAST, _PRESENT))
    if past + present:
        share = 100 * past / (past + present)
        found[Habit("past among forms of be, have, do, say, go", "%", "tense")] = share
    for word in function_words:
        found[Habit(f"“{word}”", _PER, "function words")] = per * counts[word]
    return found


def moving_type_token_ratio(words: Sequence[str], window: int) -> float | None:
    """Different words as a share of a window, a mean over all windows; None for shorter texts.

    Covington and McFall 2010, "Cutting the Gordian Knot: The Moving-Average Type-Token Ratio".
    """
    if len(words) < window:
        return None
    counts = Counter(words[:window])
    total = len(counts)
    for old, new in zip(words, words[window:], strict=False):
        counts[new] += 1
        counts[old] -= 1
        if not counts[old]:
            del counts[old]
        total += len(counts)
    return total / (len(words) - window + 1) / window


def _paragraphs(text: str) -> list[str]:
    return _BLANK.split(text) if _BLANK.search(text) else text.split("\n")


def excerpts(text: str, words: int) -> Iterator[str]:
    """Consecutive parts of a text of at least so many words, cut at ends of sentences."""
    start = 0
    for end in sentence_ends(text):
        if count_words(text[start:end]) >= words:
            yield text[start:end].strip()
            start = end
    if count_words(text[start:]) >= words // 2:
        yield text[start:].strip()


def passages(documents: Sequence[Document], excerpt: int, words: int) -> list[str]:
    """Passages of about so many words, each a heap of excerpts of neighbouring places."""
    found: list[str] = []
    heap: list[str] = []
    size = 0
    for document in documents:
        for part in excerpts(document.text, excerpt):
            heap.append(part)
            size += count_words(part)
            if size >= words:
                found.append("\n\n".join(heap))
                heap, size = [], 0
    if size >= 0.8 * words:
        found.append("\n\n".join(heap))
    return found


def profile(
    author: Sequence[Document],
    others: Mapping[str, Sequence[Document]],
    generated: Mapping[str, Sequence[str]],
) -> dict[str, Any] | None:
    """The table: the author's range of each habit, and where each model stands.

    Args:
        author: All chapters at hand.
        others: Other authors' texts; without generated texts they are compared with the author.
        generated: Texts by model.

    Returns:
        ``rows``, those first in which the last model is furthest from the author: ``low``,
        ``mean``, ``high`` and ``spread`` of the author's passages, and for each model ``value``,
        ``z`` (in deviations of the passages) and ``inside``. ``inside``: the share of the habits
        within the range. How many passages of how many words. None where the author's text makes
        fewer than four passages.
    """
    lengths = [count_words(text) for texts in generated.values() for text in texts]
    excerpt = int(np.median(lengths)) if lengths else EXCERPT_WORDS
    total = sum(document.words for document in author)
    size = min(PASSAGE_WORDS, total // (FEWEST_PASSAGES + 1))
    cut = passages(author, max(20, excerpt), size)
    if len(cut) < FEWEST_PASSAGES:
        return None
    compared = {label: "\n\n".join(texts) for label, texts in generated.items()}
    if not compared:
        several = [passages(of, excerpt, size)[:FEWEST_PASSAGES] for of in others.values()]
        compared = {"others": "\n\n".join(text for texts in several for text in texts)}
    known = Counter(word for text in cut for word in words_of(text))
    everyone = known.copy()
    for documents in others.values():
        usual = Counter(word for d in documents for word in words_of(d.text[:200_000]))
        # Each author with the same weight, however long.
        weight = known.total() / max(1, usual.total())
        everyone.update({word: round(weight * n) for word, n in usual.items()})
    common = frozenset(word for word, _ in everyone.most_common(_COMMON))
    function = [word for word, _ in known.most_common() if word in FUNCTION_WORDS]
    share = sum(known[word] for word in function) / known.total()
    listed = function[:_FUNCTION_WORDS] if share >= _ENGLISH else []
    own = [habits(text, listed, common) for text in cut]
    theirs = {label: habits(text, listed, common) for label, text in compared.items()}
    rows = []
    for habit in own[0]:
        if all(habit in one for one in (*own, *theirs.values())):
            values = np.array([one[habit] for one in own])
            rows.append(_row(habit, values, {n: of[habit] for n, of in theirs.items()}, size))
    last = list(theirs)[-1]
    rows.sort(key=lambda row: -abs(row["models"][last]["z"]))
    return {
        "passages": len(cut),
        "passage_words": size,
        "english": bool(listed),
        "inside": {
            label: sum(row["models"][label]["inside"] for row in rows) / len(rows)
            for label in theirs
        },
        "rows": rows,
    }


def _row(
    habit: Habit, own: np.ndarray[Any, Any], theirs: Mapping[str, float], size: int
) -> dict[str, Any]:
    """A habit with the author's range and each model's place."""
    low, high = (float(value) for value in np.percentile(own, [5, 95]))
    mean = float(own.mean())
    # What hardly occurs has no spread: one more or less in a passage is nothing.
    floor = {_PER: 500 / size, "%": 0.5}.get(habit.unit, max(0.05, 0.02 * abs(mean)))
    spread = max(float(own.std(ddof=1)), floor)
    slack = floor if high - low < floor else 0.0
    return {
        "label": habit.label, "unit": habit.unit, "group": habit.group,
        "low": low, "mean": mean, "high": high, "spread": spread,
        "models": {
            label: {"value": value, "z": (value - mean) / spread,
                    "inside": low - slack <= value <= high + slack}
            for label, value in theirs.items()
        },
    }  # fmt: skip
