"""Writers as frequencies of words: sentences, pools of equal length, z-scores, distances.

Distances shrink as texts grow, so only pools of the same number of words are compared. A pool is
drawn from whole sentences at random; scattered sentences tell more of an author than one passage
of that length (Eder 2015, "Does size matter?"). Sentences are put in order by their words, so that
the order of texts and the shape of quotation marks change no draw.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data.document import Document
from ..data.names import FUNCTION_WORDS, proper_names
from ..data.text import sentences
from ..errors import InputError
from .metrics import words_of

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Generator = np.random.Generator

MOST_POOLS = 6
"""Disjoint pools of a writer, for z-scores and impostors."""
FEWEST_FEATURES = 20

_CULLED = 0.8
_LONGEST_CHAPTER = 6000


def burrows_delta(first: Floats, second: Floats) -> float:
    """Mean absolute difference of z-scores (Burrows 2002, "Delta")."""
    return float(np.abs(first - second).mean())


def cosine_delta(first: Floats, second: Floats) -> float:
    """One minus the cosine of two vectors of z-scores; 1 where one has no direction."""
    length = float(np.linalg.norm(first) * np.linalg.norm(second))
    return 1.0 - float(first @ second) / length if length else 1.0


@dataclasses.dataclass(frozen=True)
class Sample:
    """A generated text.

    Attributes:
        prompt: The number of its prompt; texts of one prompt are drawn together.
        text: Without the prompt and without a half sentence at its end.
        loops: Whether it ends in a loop.
    """

    prompt: int
    text: str
    loops: bool = False


@dataclasses.dataclass(frozen=True)
class Writing:
    """The sentences of one writer, in an order that doesn't depend on that of the texts.

    Attributes:
        sentences: Words of each.
        lengths: [sentences] how many.
        chapters: [sentences] number of the chapter or prompt that each is of.
    """

    sentences: Sequence[Sequence[str]]
    lengths: Ints
    chapters: Ints

    @property
    def words(self) -> int:
        """All words."""
        return int(self.lengths.sum())

    @property
    def count(self) -> int:
        """Chapters or prompts."""
        return int(self.chapters.max(initial=-1)) + 1

    @classmethod
    def of_documents(cls, documents: Iterable[Document], most: int | None = None) -> Writing:
        """The sentences of some documents; long ones are cut, so that there are several chapters.

        Args:
            documents: Chapters, in any order.
            most: About how many words are enough.
        """
        texts = [[words_of(s) for s in sentences(document.text)] for document in documents]
        texts = sorted((text for text in texts if text), key=_digest)
        total = sum(len(sentence) for text in texts for sentence in text)
        longest = max(400, min(_LONGEST_CHAPTER, total // 4))
        chapters = [chapter for text in texts for chapter in _cut(text, longest)]
        if most is not None and total > most:
            ends = np.cumsum([sum(map(len, chapter)) for chapter in chapters])
            chapters = chapters[: int(np.searchsorted(ends, most)) + 1]
        return cls._of(enumerate(chapters))

    @classmethod
    def of_samples(cls, samples: Iterable[Sample]) -> Writing:
        """The sentences of generated texts."""
        of_prompt: dict[int, list[list[str]]] = {}
        for sample in samples:
            own = of_prompt.setdefault(sample.prompt, [])
            own += [words_of(sentence) for sentence in sentences(sample.text)]
        return cls._of((n, sorted(of_prompt[n], key=_digest)) for n in sorted(of_prompt))

    @classmethod
    def _of(cls, parts: Iterable[tuple[int, Sequence[Sequence[str]]]]) -> Writing:
        rows = [(number, words) for number, part in parts for words in part if words]
        return cls(
            [words for _, words in rows],
            np.array([len(words) for _, words in rows], dtype=np.int64),
            np.array([number for number, _ in rows], dtype=np.int64),
        )


def _digest(content: Any) -> bytes:
    """What a text of words is ordered by."""
    return hashlib.sha1(repr(content).encode(), usedforsecurity=False).digest()


def _cut(text: Sequence[Sequence[str]], longest: int) -> list[Sequence[Sequence[str]]]:
    """Consecutive parts of a text, of equal length and none much longer than ``longest`` words."""
    ends = np.cumsum([len(sentence) for sentence in text])
    parts = math.ceil(int(ends[-1]) / longest)
    edges = [int(np.searchsorted(ends, ends[-1] * k / parts)) for k in range(1, parts)]
    return [text[a:b] for a, b in zip([0, *edges], [*edges, len(text)], strict=True) if b > a]


@dataclasses.dataclass(frozen=True)
class Reference:
    """The words that are counted, with their mean and deviation over the human pools.

    Attributes:
        words: The most frequent first.
        mean, spread: [words] of relative frequencies.
    """

    words: tuple[str, ...]
    mean: Floats
    spread: Floats

    def z(self, frequencies: Floats) -> Floats:
        """Frequencies as z-scores."""
        scores: Floats = (frequencies - self.mean) / self.spread
        return scores


@dataclasses.dataclass(frozen=True)
class Units:
    """Counts of the words in each sentence.

    Attributes:
        counts: [sentences, words].
        lengths: [sentences] words of each.
        chapters: [sentences].
    """

    counts: npt.NDArray[np.float32]
    lengths: Ints
    chapters: Ints

    @classmethod
    def of(cls, writing: Writing, words: Sequence[str]) -> Units:
        """The counts of some words."""
        place = {word: index for index, word in enumerate(words)}
        counts = np.zeros((len(writing.lengths), len(words)), dtype=np.float32)
        for row, sentence in enumerate(writing.sentences):
            for word in sentence:
                if word in place:
                    counts[row, place[word]] += 1
        return cls(counts, writing.lengths, writing.chapters)

    def only(self, chapters: Ints) -> Units:
        """The sentences of some chapters."""
        rows = np.isin(self.chapters, chapters)
        return Units(self.counts[rows], self.lengths[rows], self.chapters[rows])

    def joined(self, other: Units) -> Units:
        """Both, their chapters apart."""
        after = other.chapters + self.chapters.max(initial=-1) + 1
        return Units(
            np.concatenate([self.counts, other.counts]),
            np.concatenate([self.lengths, other.lengths]),
            np.concatenate([self.chapters, after]),
        )

    def half(self, generator: Generator) -> Units:
        """A random half of the chapters, or of the sentences where there is one chapter."""
        numbers = np.unique(self.chapters)
        if len(numbers) < 2:
            rows = generator.permutation(len(self.lengths))[: -(-len(self.lengths) // 2)]
            return Units(self.counts[rows], self.lengths[rows], self.chapters[rows])
        most = len(numbers) // 2 + (int(generator.integers(2)) if len(numbers) % 2 else 0)
        return self.only(generator.permutation(numbers)[:most])

    def pool(self, words: int, generator: Generator) -> Floats:
        """[words] relative frequencies in a pool of about so many words, drawn by sentences."""
        found: Floats = self.pools(words, 1, generator)[0]
        return found

    def pools(self, words: int, most: int, generator: Generator) -> Floats:
        """[pools, words] of disjoint pools; at least one, which may be shorter."""
        order = generator.permutation(len(self.lengths))
        ends = np.cumsum(self.lengths[order])
        count = max(1, min(most, int(ends[-1]) // words))
        edges = [0, *(int(np.searchsorted(ends, words * k)) + 1 for k in range(1, count + 1))]
        rows = [order[a:b] for a, b in zip(edges[:-1], edges[1:], strict=True)]
        found: Floats = np.stack(
            [self.counts[r].sum(0, dtype=np.float64) / self.lengths[r].sum() for r in rows]
        )
        return found


def names_in(documents: Iterable[Document]) -> set[str]:
    """Names of persons and places, also in the possessive."""
    found: set[str] = set()
    for document in documents:
        found |= proper_names(document.text)
    return found | {f"{name}'s" for name in found}


def favoured(prompts: Sequence[str], author: Writing) -> set[str]:
    """Content words that stand in the prompts twice as often as in the author's text."""
    given = Counter(word for prompt in prompts for word in words_of(prompt))
    usual = Counter(word for sentence in author.sentences for word in sentence)
    return {
        word
        for word, count in given.items()
        if word not in FUNCTION_WORDS
        and count >= 3
        and count / given.total() > 2 * usual[word] / max(1, usual.total())
    }


def make_reference(
    human: Mapping[str, Writing], size: int, most: int, avoided: set[str], seed: int
) -> Reference:
    """The words that are counted, from the pools of human writers, each with the same weight.

    Args:
        human: All human writers, of at least ``size`` words each.
        size: Words of a pool.
        most: Words that are counted, at most.
        avoided: Names and other words that are not.
        seed: Of the pools.

    Raises:
        InputError: Hardly any word is common to the pools, as with texts of different languages.
    """
    frequency: Counter[str] = Counter()
    presence: Counter[str] = Counter()
    of_writer: dict[str, list[Counter[str]]] = {}
    for name, writing in human.items():
        pools = _counted_pools(writing, size, np.random.default_rng(seed))
        of_writer[name] = pools
        for pool in pools:
            for word, number in pool.items():
                frequency[word] += number / pool.total() / len(pools)  # type: ignore[assignment]
                presence[word] += 1 / len(pools)  # type: ignore[assignment]
    words = [
        word
        for word, _ in sorted(frequency.items(), key=lambda item: (-item[1], item[0]))
        if presence[word] >= _CULLED * len(human) - 1e-9
        and word not in avoided
        and not any(map(str.isdigit, word))
    ][:most]
    for name, pools in of_writer.items():
        known = sum(any(pool[word] for pool in pools) for word in words)
        if known < max(FEWEST_FEATURES, len(words) / 2):
            raise InputError(
                f"{name} and the other authors have only {known} frequent words in common",
                "compare texts of one language",
            )
    tables = [
        np.array([[pool[word] / pool.total() for word in words] for pool in pools])
        for pools in of_writer.values()
    ]
    mean = np.mean([table.mean(0) for table in tables], axis=0)
    variance = np.mean([((table - mean) ** 2).mean(0) for table in tables], axis=0)
    floor = mean * (1 - mean) / size
    return Reference(tuple(words), mean, np.sqrt(np.maximum(variance, floor)))


def _counted_pools(writing: Writing, size: int, generator: Generator) -> list[Counter[str]]:
    pools: list[Counter[str]] = []
    pool: Counter[str] = Counter()
    for row in generator.permutation(len(writing.lengths)).tolist():
        pool.update(writing.sentences[row])
        if pool.total() >= size:
            pools.append(pool)
            pool = Counter()
            if len(pools) == MOST_POOLS:
                break
    return pools
