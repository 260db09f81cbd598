"""Exact and near duplicates.

Exact duplicates are texts that agree but for case, punctuation and spacing. Near duplicates are
texts whose sets of word 5-grams (3-grams for short texts) have a Jaccard similarity of at least
0.7. Only the validation documents are indexed, so memory does not grow with the training set.

A training document is looked up in three steps, each for the few that pass the one before:

1. A share of its n-grams as large as the threshold must occur in some validation document at all;
   nothing similar enough can fail this.
2. MinHash with locality-sensitive hashing (``datasketch``) proposes validation documents.
3. The exact Jaccard similarity of the two sets of n-grams decides.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

THRESHOLD = 0.7
"""Jaccard similarity from which two documents are near duplicates."""

SHORT = 100
"""Texts of fewer words are compared by 3-grams: one changed word spoils five 5-grams."""

_WORDS = re.compile(r"\w+")
_NOT_WORDS = re.compile(r"[\W_]+")
_PERMUTATIONS = 128
# The search proposes more than the threshold asks, since it is probabilistic and the exact
# similarity decides: at 0.7 it then misses fewer than one pair in a thousand.
_SEARCH_THRESHOLD = 0.5

Hashes = npt.NDArray[np.uint64]


def fingerprint(text: str) -> int:
    """64 bits of the text without case, punctuation and spacing."""
    letters = _NOT_WORDS.sub("", text.casefold()) or text
    content = letters.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def word_hashes(text: str) -> Hashes:
    """[words] a number for each word, without regard to case."""
    words = _WORDS.findall(text.casefold())
    hashes = (zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in words)
    return np.fromiter(hashes, dtype=np.uint64, count=len(words))


def ngram_hashes(words: Hashes, n: int) -> Hashes:
    """The distinct n-grams of the words as sorted hashes; a shorter text is one n-gram."""
    n = max(1, min(n, len(words)))
    count = len(words) - n + 1 if len(words) else 0
    total = np.zeros(count, dtype=np.uint64)
    for place in range(n):
        # A polynomial in an odd 64-bit number, modulo 2^64; the multiplication wraps as it should.
        total = total * np.uint64(0x9E3779B97F4A7C15) + words[place : place + count]
        total ^= total >> np.uint64(29)
    return np.unique(total)


def jaccard(first: str, second: str, n: int) -> float:
    """The exact Jaccard similarity of the two texts' sets of word n-grams."""
    sets = []
    for text in (first, second):
        words = _WORDS.findall(text.casefold())
        size = max(1, min(n, len(words)))
        sets.append({tuple(words[i : i + size]) for i in range(len(words) - size + 1)})
    union = sets[0] | sets[1]
    return len(sets[0] & sets[1]) / len(union) if union else 1.0


def _contained(needles: Hashes, haystack: Hashes) -> npt.NDArray[np.bool_]:
    """Which needles are in the sorted haystack."""
    if not len(haystack):
        return np.zeros(len(needles), dtype=np.bool_)
    place = np.minimum(np.searchsorted(haystack, needles), len(haystack) - 1)
    found: npt.NDArray[np.bool_] = haystack[place] == needles
    return found


class _Index:
    """The validation documents that are compared by n-grams of one length."""

    def __init__(self, n: int, documents: Iterable[tuple[int, str]]) -> None:
        from datasketch import MinHashLSH

        self.n = n
        self.texts = dict(documents)
        self._search = MinHashLSH(threshold=_SEARCH_THRESHOLD, num_perm=_PERMUTATIONS)
        parts: list[Hashes] = [np.zeros(0, dtype=np.uint64)]
        for number, text in self.texts.items():
            grams = ngram_hashes(word_hashes(text), n)
            parts.append(grams)
            self._search.insert(number, self._minhash(grams))
        self._grams = np.unique(np.concatenate(parts))

    def _minhash(self, grams: Hashes) -> Any:
        from datasketch import MinHash

        made = MinHash(num_perm=_PERMUTATIONS, seed=1, hashfunc=int)
        made.update_batch((grams & np.uint64(0xFFFFFFFF)).tolist())
        return made

    def similar(self, text: str, words: Hashes) -> int | None:
        grams = ngram_hashes(words, self.n)
        if not len(grams) or np.mean(_contained(grams, self._grams)) < THRESHOLD:
            return None
        for number in sorted(self._search.query(self._minhash(grams))):
            if jaccard(text, self.texts[number], self.n) >= THRESHOLD:
                return int(number)
        return None


class NearDuplicates:
    """Finds the validation document that a training document nearly equals."""

    def __init__(self, validation: Iterable[str]) -> None:
        """Index the full texts of the validation documents."""
        short: list[tuple[int, str]] = []
        long: list[tuple[int, str]] = []
        for number, text in enumerate(validation):
            (short if len(_WORDS.findall(text)) < SHORT else long).append((number, text))
        self._short = _Index(3, short) if short else None
        self._long = _Index(5, long) if long else None

    def find(self, text: str) -> int | None:
        """The number of a validation document at least 0.7 similar to ``text``, or None."""
        words = word_hashes(text)
        # Similar texts have similar lengths, so most are looked up in one index only.
        if self._short is not None and len(words) <= SHORT / THRESHOLD + 3:
            found = self._short.similar(text, words)
            if found is not None:
                return found
        if self._long is not None and len(words) >= SHORT * THRESHOLD - 5:
            return self._long.similar(text, words)
        return None
