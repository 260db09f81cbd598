"""Exact and near duplicates.

Exact duplicates are texts that agree but for case, punctuation and spacing. Near duplicates have
sets of word 5-grams (3-grams for short texts) with a Jaccard similarity of at least 0.7. Only the
validation documents are indexed. A training document is looked up in three steps, each for the few
that pass the one before: a share of its n-grams as large as the threshold occurs in validation
documents at all; MinHash with locality-sensitive hashing (``datasketch``) proposes documents; the
exact similarity decides.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from .text import separate_words

THRESHOLD = 0.7
"""Jaccard similarity from which two documents are near duplicates."""

SHORT = 100
"""Texts of fewer words are compared by 3-grams: one changed word spoils five 5-grams."""

# Signs beyond ASCII that stand beside words; others count as letters, in every text alike.
_SIGNS = [sign.encode() for sign in "‘’“”–—…«»\u00a0"]
_TO_WORDS = bytes(
    byte + 32 if 65 <= byte <= 90 else byte if byte >= 128 or chr(byte).isalnum() else 32
    for byte in range(256)
)
_NOT_IN_WORDS = bytes(byte for byte in range(256) if _TO_WORDS[byte] == 32)
# Odd, so that it has an inverse modulo 2^64.
_FACTOR = 0x9E3779B97F4A7C15
_INVERSE = pow(_FACTOR, -1, 2**64)
_PERMUTATIONS = 128
# Bands and rows of the search: it proposes more than the threshold asks, since the exact similarity
# decides, and at 0.7 misses (1 - 0.7^4)^32, two pairs in ten thousand.
_BANDS = (32, 4)

Hashes = npt.NDArray[np.uint64]


def _letters(text: str) -> bytes:
    """The text as UTF-8 with signs beyond ASCII as spaces and their letters in lower case."""
    if text.isascii():
        return text.encode()
    content = text.encode("utf-8", "surrogatepass")
    for sign in _SIGNS:
        content = content.replace(sign, b" ")
    if not content.isascii():  # costly, and rare in English
        content = (
            separate_words(content.decode("utf-8", "surrogatepass"))
            .casefold()
            .encode("utf-8", "surrogatepass")
        )
    return content


def normalise(text: str) -> bytes:
    """The words of a text in lower case with spaces between, as UTF-8."""
    return _letters(text).translate(_TO_WORDS)


def fingerprint(text: str) -> int:
    """64 bits of the text without case, punctuation and spacing."""
    letters = _letters(text).translate(_TO_WORDS, _NOT_IN_WORDS)
    content = letters or text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


@functools.cache
def _powers(bits: int) -> tuple[Hashes, Hashes]:
    """The powers of the factor and of its inverse, 2^bits of each."""
    ones = np.ones(2**bits, dtype=np.uint64)
    both = []
    for factor in (_FACTOR, _INVERSE):
        powers = ones * np.uint64(factor)
        powers[0] = 1
        both.append(np.multiply.accumulate(powers))
    return both[0], both[1]


def word_hashes(text: str) -> Hashes:
    """[words] hash of each word, without regard to case.

    All words at once: with p[i] = sum of byte[j] * f^j for j < i, the word from s to e has the
    number (p[e] - p[s]) * f^-s, which does not depend on where it stands.
    """
    content = np.frombuffer(b" " + normalise(text) + b" ", dtype=np.uint8)
    edges = np.flatnonzero(np.diff(content != 32)) + 1
    starts, ends = edges[::2], edges[1::2]
    powers, inverses = _powers(max(10, int(len(content)).bit_length()))
    sums = np.zeros(len(content) + 1, dtype=np.uint64)
    np.cumsum(content * powers[: len(content)], out=sums[1:])
    hashes = (sums[ends] - sums[starts]) * inverses[starts]
    return np.asarray(hashes ^ (hashes >> np.uint64(31)), dtype=np.uint64)


def ngram_hashes(words: Hashes, n: int) -> Hashes:
    """The n-grams of the words as hashes, in order; a shorter text is one n-gram."""
    n = max(1, min(n, len(words)))
    count = len(words) - n + 1 if len(words) else 0
    total = np.zeros(count, dtype=np.uint64)
    for place in range(n):
        # A polynomial in an odd 64-bit number, modulo 2^64; the multiplication wraps as it should.
        total = total * np.uint64(_FACTOR) + words[place : place + count]
        total ^= total >> np.uint64(29)
    return total


def jaccard(first: str, second: str, n: int) -> float:
    """The exact Jaccard similarity of the two texts' sets of word n-grams."""
    sets = []
    for text in (first, second):
        words = normalise(text).split()
        size = max(1, min(n, len(words)))
        sets.append({tuple(words[i : i + size]) for i in range(len(words) - size + 1)})
    union = sets[0] | sets[1]
    return len(sets[0] & sets[1]) / len(union) if union else 1.0


@functools.cache
def _empty_minhash() -> Any:
    """A MinHash of nothing; copies of it share its permutations, which are costly to make."""
    from datasketch import MinHash

    return MinHash(num_perm=_PERMUTATIONS, seed=1, hashfunc=int)


class _Index:
    """Validation documents that are compared by n-grams of one length.

    The MinHash search is made at the first query: most corpora have no near duplicates.
    """

    def __init__(self, n: int, documents: Iterable[tuple[int, str]]) -> None:
        self.n = n
        self.texts = dict(documents)
        self._grams = {
            number: np.unique(ngram_hashes(word_hashes(text), n))
            for number, text in self.texts.items()
        }
        # Bloom filter with one hash: whether an n-gram may occur in any of the documents.
        grams = np.concatenate([np.zeros(0, dtype=np.uint64), *self._grams.values()])
        bits = max(10, min(25, (64 * len(grams)).bit_length()))
        self._mask = np.uint64(2**bits - 1)
        self._seen = np.zeros(2**bits, dtype=np.bool_)
        self._seen[grams & self._mask] = True

    @functools.cached_property
    def _search(self) -> Any:
        from datasketch import MinHashLSH

        search = MinHashLSH(num_perm=_PERMUTATIONS, params=_BANDS)
        for number, grams in self._grams.items():
            search.insert(number, self._minhash(grams))
        return search

    @staticmethod
    def _minhash(grams: Hashes) -> Any:
        made = _empty_minhash().copy()
        made.update_batch((grams & np.uint64(0xFFFFFFFF)).tolist())
        return made

    def _could_be_similar(self, grams: Hashes) -> bool:
        """Whether a share of the distinct n-grams as large as the threshold may have been seen."""
        found = int(self._seen[grams & self._mask].sum())
        # Most texts fail already against a lower bound of their distinct n-grams, which is cheap.
        if found < THRESHOLD * len(np.unique(grams[: 64 + 3 * found])):
            return False
        return bool(np.mean(self._seen[np.unique(grams) & self._mask]) >= THRESHOLD)

    def similar(self, text: str, words: Hashes) -> int | None:
        grams = ngram_hashes(words, self.n)
        if not len(grams) or not self._could_be_similar(grams):
            return None
        for number in sorted(self._search.query(self._minhash(np.unique(grams)))):
            if jaccard(text, self.texts[number], self.n) >= THRESHOLD:
                return int(number)
        return None


class NearDuplicates:
    """Search for the validation document that a training document nearly equals."""

    def __init__(self, validation: Iterable[str]) -> None:
        """Index the full texts of the validation documents."""
        short: list[tuple[int, str]] = []
        long: list[tuple[int, str]] = []
        for number, text in enumerate(validation):
            (short if len(normalise(text).split()) < SHORT else long).append((number, text))
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
