"""Style figures by rules: sentences, words, readability, and the use of a prompt.

For English; nothing is fetched. Trade-off: rules for sentences, syllables and names are right for
most and wrong for some, so figures are to be read beside those of human text under the same rules.
Neither high nor low is good in itself.

The use of a prompt tells two opposite faults apart: a text that copies long runs of its prompt only
echoes it; one in which no name of the prompt comes up again has forgotten it (See et al. 2019, "Do
Massively Pretrained Language Models Make Better Storytellers?"). Names are told by their capitals.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from ..data.text import sentences, separate_words
from .repetition import ngrams

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d+(?:[.,]\d+)*")
_VOWELS = re.compile(r"[aeiouyàáâäèéêëìíîïòóôöùúûü]+")
_SILENT = re.compile(
    r"[^aeiouyl]e$|[aeiouy]le$|[^aeioudt]ed$|(?<![aeioucgsxz])(?<![cs]h)es$"
    r"|[^aeiouy]e(?=(?:ly|ful|less|ment|ness)$)"
    r"|^(?:every|evening|business|wednesday|(?:some|there|where)(?=[^rs]))"
)
_PARTED = re.compile(
    r"(?<![tscgxl])i[ou]|^lio|(?<![tcsg])ia(?!ge)|ea$|eo(?!p|u|n)|oe[mt]|[^g]ui[dn]|uie|scie|aos"
    r"|[aeou]ing|ying|(?<![gq])ua(?!d)|uous|creat(?!u)"
)
_TAG = re.compile(r"^\s*\[[^\]]{1,4}\]\s*")
_NAME = re.compile(r"\b[A-Z][\w’'-]*[a-z][\w’'-]*")
_STARTS = re.compile(r"(?:^|[.!?…:\"“”‘(\n])\s*[\"“‘(*_]*$")
_COMMON = (
    "the a an and but or nor so yet for if when while as at by from in into of on to up with after "
    "before he she it they we you his her its their our your my this that these those there here "
    "what who whom whose which where why how not no yes all every each one two some any many most "
    "only just then now once write tell describe imagine people everyone someone nobody"
)
_NOT_NAMES = frozenset(_COMMON.split())


def words_of(text: str) -> list[str]:
    """The words and numbers of a text in lower case, without punctuation."""
    return [word.casefold().replace("’", "'") for word in _WORD.findall(separate_words(text))]


def sentence_lengths(text: str) -> list[int]:
    """Words in each sentence."""
    return [len(words_of(sentence)) for sentence in sentences(text)]


def syllables(word: str) -> int:
    """Syllables of an English word: groups of vowels, less a silent e, plus vowels that part."""
    word = re.sub(r"[^a-zàáâäèéêëìíîïòóôöùúûü]", "", word.casefold())
    if len(word) <= 3:
        return 1
    count = len(_VOWELS.findall(word))
    count += len(_PARTED.findall(word)) - len(_SILENT.findall(word))
    return max(1, count)


def mean_and_spread(values: Sequence[float]) -> tuple[float, float] | None:
    """Mean and standard deviation (of the sample; 0 for one value), None for none."""
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, 0.0
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def readability(texts: Sequence[str]) -> dict[str, float | None]:
    """Formulas of readability over all texts taken together.

    Flesch reading ease (Flesch 1948), Flesch-Kincaid grade (Kincaid et al. 1975), the automated
    readability index (Senter and Smith 1967) and Coleman-Liau (Coleman and Liau 1975); the last two
    need no syllables. None where there are no words.
    """
    words = [word for text in texts for word in words_of(text)]
    count = sum(len(sentences(text)) for text in texts)
    names = ("flesch_reading_ease", "flesch_kincaid_grade", "automated_readability", "coleman_liau")
    if not words:
        return dict.fromkeys(names)
    length = len(words) / count
    beats = sum(map(syllables, words)) / len(words)
    letters = sum(character.isalnum() for word in words for character in word) / len(words)
    values = (
        206.835 - 1.015 * length - 84.6 * beats,
        0.39 * length + 11.8 * beats - 15.59,
        4.71 * letters + 0.5 * length - 21.43,
        5.88 * letters - 29.6 / length - 15.8,
    )
    return dict(zip(names, values, strict=True))


def copied_share(prompt: str, text: str, n: int) -> float | None:
    """Share of the text's n-grams of words that stand in the prompt; None without n-grams."""
    known = set(ngrams(words_of(prompt), n))
    grams = list(ngrams(words_of(text), n))
    return sum(gram in known for gram in grams) / len(grams) if grams else None


def names_in(prompt: str) -> set[str]:
    """Names in a prompt, in lower case: capitalised words, common words at a beginning left out."""
    prompt = _TAG.sub("", prompt)
    found = set()
    for match in _NAME.finditer(prompt):
        word = match.group().casefold().replace("’", "'").removesuffix("'s")
        starts = bool(_STARTS.search(prompt[: match.start()]))
        again = any(
            other.group().casefold() == match.group().casefold() and other.start() != match.start()
            for other in _NAME.finditer(prompt)
        )
        if word not in _NOT_NAMES and (not starts or again):
            found.add(word)
    return found


def names_used(prompt: str, text: str) -> float | None:
    """Share of the prompt's names that come up in the text; None where the prompt has none."""
    names = names_in(prompt)
    if not names:
        return None
    words = {word.removesuffix("'s") for word in words_of(text)}
    return len(names & words) / len(names)


def prompt_use(pairs: Sequence[tuple[str, str]]) -> dict[str, float | None]:
    """Means over (prompt, text) pairs, each over those where it is defined."""
    columns: dict[str, list[float | None]] = {
        f"copied_{n}gram": [copied_share(prompt, text, n) for prompt, text in pairs]
        for n in (1, 2, 3)
    }
    columns["prompt_names_used"] = [names_used(prompt, text) for prompt, text in pairs]
    result: dict[str, float | None] = {}
    for name, column in columns.items():
        values = [value for value in column if value is not None]
        result[name] = sum(values) / len(values) if values else None
    return result
