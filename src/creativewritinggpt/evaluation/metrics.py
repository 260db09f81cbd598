"""Figures of generated texts: repetition, sentences, readability, use of the prompt.

The definitions of repetition are those of the papers named below, not those of their published
scripts where the two differ: one well-known ``distinct_n.py`` counts n-grams that occur exactly
once, one ``rep-n`` drops the last n-gram. All but seq-rep and the loop rate fall as texts grow
longer, so that only texts of the same length may be compared.

Sentences, syllables and names are told by rules, for English; nothing is fetched. Trade-off: they
are right for most and wrong for some, so figures are to be read beside those of human text under
the same rules. Neither high nor low is good in itself. The use of a prompt tells two opposite
faults apart: a text that copies long runs of its prompt only echoes it; one in which no name of the
prompt comes up again has forgotten it (See et al. 2019, "Do Massively Pretrained Language Models
Make Better Storytellers?").
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence

from ..data.names import proper_names
from ..data.text import sentences, separate_words

Tokens = Sequence[Hashable]

_LONGEST_PHRASE = 90
_SHORT_PHRASE_REPEATS = 50
_SMOOTHED = 0.1


def ngrams(tokens: Tokens, n: int) -> Iterator[tuple[Hashable, ...]]:
    """All runs of ``n`` tokens, in order."""
    return (tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1))


def distinct_n(texts: Sequence[Tokens], n: int) -> float | None:
    """Different n-grams as a share of all, pooled over the texts.

    Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models".
    None where there are no n-grams.
    """
    counts = Counter(gram for text in texts for gram in ngrams(text, n))
    return len(counts) / counts.total() if counts else None


def rep_n(texts: Sequence[Tokens], n: int) -> float | None:
    """Percentage of n-grams that repeat one seen before, pooled over the texts.

    Su et al. 2022, "A Contrastive Framework for Neural Text Generation".
    """
    distinct = distinct_n(texts, n)
    return None if distinct is None else 100 * (1 - distinct)


def diversity(texts: Sequence[Tokens]) -> float | None:
    """Product of 1 - rep-n / 100 for n from 2 to 4 (Su et al. 2022)."""
    parts = [distinct_n(texts, n) for n in (2, 3, 4)]
    return None if None in parts else math.prod(part for part in parts if part is not None)


def seq_rep_n(texts: Sequence[Tokens], n: int = 4) -> float | None:
    """Share of n-grams within a text that repeat one of the same text, a mean over texts.

    Welleck et al. 2019, "Neural Text Generation with Unlikelihood Training". Texts with fewer than
    ``n`` tokens don't count.
    """
    shares = []
    for text in texts:
        grams = list(ngrams(text, n))
        if grams:
            shares.append(1 - len(set(grams)) / len(grams))
    return sum(shares) / len(shares) if shares else None


def ends_in_loop(tokens: Tokens) -> bool:
    """Whether a text ends in a phrase that is said again and again.

    Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration": the last three tokens or
    more (up to 90) stand there at least twice in a row, or fewer than three more than 50 times.
    """
    for n in range(1, min(_LONGEST_PHRASE, len(tokens) // 2) + 1):
        phrase = list(tokens[-n:])
        repeats, end = 1, len(tokens) - n
        while end >= n and list(tokens[end - n : end]) == phrase:
            repeats, end = repeats + 1, end - n
        if repeats > (1 if n >= 3 else _SHORT_PHRASE_REPEATS):
            return True
    return False


def loop_rate(texts: Sequence[Tokens]) -> float | None:
    """Share of texts that end in a loop."""
    return sum(map(ends_in_loop, texts)) / len(texts) if texts else None


def self_bleu(texts: Sequence[Tokens], n: int = 4) -> float | None:
    """How much each text is like the others: mean BLEU of each against all others, 0 to 1.

    Zhu et al. 2018, "Texygen", with uniform weights up to ``n`` and the first smoothing of Chen and
    Cherry 2014 (a count of zero becomes 0.1), as NLTK's ``sentence_bleu`` with ``method1``. It
    grows with the number and the length of the texts. The references of one text are all others, so
    that for each n-gram the two highest counts and their owners tell all; the cost is that of
    counting once. None with fewer than two texts.
    """
    texts = [text for text in texts if len(text)]
    if len(texts) < 2:
        return None
    counts = [[Counter(ngrams(text, size)) for text in texts] for size in range(1, n + 1)]
    highest = [_two_highest(of_size) for of_size in counts]
    lengths = sorted(len(text) for text in texts)
    total = 0.0
    for index, text in enumerate(texts):
        logs = []
        for size in range(n):
            own = counts[size][index]
            matched = sum(
                min(count, highest[size][gram][1 if highest[size][gram][2] == index else 0])
                for gram, count in own.items()
            )
            if size == 0 and not matched:
                break
            logs.append(math.log((matched or _SMOOTHED) / max(1, own.total())) / n)
        else:
            total += _brevity(len(text), lengths) * math.exp(math.fsum(logs))
    return total / len(texts)


def _two_highest(counts: Sequence[Counter[tuple[Hashable, ...]]]) -> dict[Hashable, list[int]]:
    """For each n-gram the highest count in one text, the next highest, and the first's owner."""
    found: dict[Hashable, list[int]] = {}
    for owner, of_text in enumerate(counts):
        for gram, count in of_text.items():
            entry = found.setdefault(gram, [0, 0, -1])
            if count > entry[0]:
                entry[:] = [count, entry[0], owner]
            elif count > entry[1]:
                entry[1] = count
    return found


def _brevity(length: int, lengths: Sequence[int]) -> float:
    """BLEU's penalty against the reference of the nearest length, the shorter of two."""
    others = list(lengths)
    others.remove(length)
    nearest = min(others, key=lambda other: (abs(other - length), other))
    return 1.0 if length > nearest else math.exp(1 - nearest / length)


def zipf_coefficient(texts: Sequence[Tokens], types: int = 5000) -> float | None:
    """Minus the slope of log frequency over log rank of the commonest types, pooled.

    Holtzman et al. 2020. Natural text is near 1; it depends on the number of tokens. None with
    fewer than two types.
    """
    counts = Counter(token for text in texts for token in text)
    frequencies = sorted(counts.values(), reverse=True)[:types]
    if len(frequencies) < 2:
        return None
    xs = [math.log(rank) for rank in range(1, len(frequencies) + 1)]
    ys = [math.log(frequency) for frequency in frequencies]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    above = math.fsum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    # Frequencies fall with the rank; where they are equal rounding has a sign.
    return max(0.0, -above / math.fsum((x - mean_x) ** 2 for x in xs))


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
_LATIN = re.compile(r"[a-zß-öø-ž]")
_TAG = re.compile(r"^\s*\[[^\]]{1,4}\]\s*")


def words_of(text: str) -> list[str]:
    """The words and numbers of a text in lower case, without punctuation."""
    return [word.casefold().replace("’", "'") for word in _WORD.findall(separate_words(text))]


def word_spans(text: str) -> list[tuple[str, int, int]]:
    """The words of :func:`words_of`, each with its first character and the one after its last."""
    found, at = [], 0
    for written in _WORD.findall(separate_words(text)):
        at = text.index(written, at)
        word = written.casefold().replace("’", "'")
        found.append((word, at, at + len(written)))
        at += len(written)
    return found


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
    need no syllables. They are made for alphabets: None where there are no words, or where most
    have no Latin letter.
    """
    words = [word for text in texts for word in words_of(text)]
    count = sum(len(sentences(text)) for text in texts)
    names = ("flesch_reading_ease", "flesch_kincaid_grade", "automated_readability", "coleman_liau")
    if not words or 2 * sum(map(bool, map(_LATIN.search, words))) < len(words):
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


def names_used(prompt: str, text: str) -> float | None:
    """Share of the prompt's names that come up in the text; None where the prompt has none."""
    names = proper_names(_TAG.sub("", prompt))
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
