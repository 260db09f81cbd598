"""Exact and near duplicates.

Exact duplicates are texts that agree but for case, punctuation and spacing. Near duplicates have
sets of word 5-grams (3-grams for short texts) with a Jaccard similarity of at least 0.7, counted
exactly over an inverted index of the validation documents' n-grams (64-bit hashes). Most training
documents never reach it: a Bloom filter says how many of their n-grams may occur there at all.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable

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


class _Index:
    """Validation documents that are compared by n-grams of one length."""

    def __init__(self, n: int, documents: Iterable[tuple[int, str]]) -> None:
        self.n = n
        empty = np.zeros(0, dtype=np.uint64)
        sets = [(number, np.unique(ngram_hashes(word_hashes(t), n))) for number, t in documents]
        grams = np.concatenate([empty, *(own for _, own in sets)])
        order = np.argsort(grams, kind="stable")
        self._grams = grams[order]  # every n-gram as often as there are documents with it
        self._documents = np.repeat(np.arange(len(sets)), [len(own) for _, own in sets])[order]
        self._numbers = np.array([number for number, _ in sets])
        self._sizes = np.array([len(own) for _, own in sets])
        # Bloom filter with one hash: whether an n-gram may occur in any of the documents.
        bits = max(10, min(25, (64 * len(grams)).bit_length()))
        self._mask = np.uint64(2**bits - 1)
        self._seen = np.zeros(2**bits, dtype=np.bool_)
        self._seen[grams & self._mask] = True

    def similar(self, words: Hashes) -> int | None:
        grams = ngram_hashes(words, self.n)
        found = int(self._seen[grams & self._mask].sum())
        # Most texts fail already against a lower bound of their distinct n-grams, which is cheap.
        if not found or found < THRESHOLD * len(np.unique(grams[: 64 + 3 * found])):
            return None
        grams = np.unique(grams)
        first, after = (np.searchsorted(self._grams, grams, side) for side in ("left", "right"))
        places = np.concatenate([np.arange(i, j) for i, j in zip(first, after, strict=True)])
        shared = np.bincount(self._documents[places.astype(np.int64)], minlength=len(self._sizes))
        alike = shared / (self._sizes + len(grams) - shared) >= THRESHOLD
        return int(self._numbers[alike][0]) if alike.any() else None


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
            found = self._short.similar(words)
            if found is not None:
                return found
        if self._long is not None and len(words) >= SHORT * THRESHOLD - 5:
            return self._long.similar(words)
        return None
