"""An index over the words of a training corpus that finds where a run of words stands in it.

All words, lower-cased and without punctuation, are numbered and laid one after another, with a gap
between documents; the places are sorted by the eight words that begin there. Any run of words is
then found by halving, and the longest run at a place is extended from the runs of eight::

    words    … 17 4 92 4 | 17 4 92 5 31 …
    places   sorted:  4 92 4   4 92 5 31   17 4 92 4   17 4 92 5 …

The sorting is done by doubling (ranks of single words, of two, of four, of eight), in arrays; both
arrays are memory-mapped, 8 bytes for each word of the corpus. Nothing but the words and the
documents' names is kept, so that the index works when the training text is gone.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...data.document import Document
from ...errors import InputError
from ...files import atomic_folder
from .style import words_of

RUN = 8
"""Words that the places are sorted by; a shared run of so many is more than chance."""

_MOST_PLACES = 256
"""Places of one run of eight that are looked at for longer runs: the rest of a phrase that stands
in hundreds of documents."""

_GAP = 0
Words = npt.NDArray[np.uint32]
Places = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Match:
    """A run of words that a text shares with the corpus.

    Attributes:
        start: Its first word in the text.
        words: How many.
        document: The number of the document in the corpus.
        place: Its first word in the corpus.
    """

    start: int
    words: int
    document: int
    place: int


class CorpusIndex:
    """The index of one training run."""

    def __init__(self, folder: Path) -> None:
        """Open what :func:`build_index` wrote.

        Raises:
            InputError: There is none, or it is not whole.
        """
        try:
            self.words: Words = np.load(folder / "words.npy", mmap_mode="r", allow_pickle=False)
            self.places: Words = np.load(folder / "places.npy", mmap_mode="r", allow_pickle=False)
            self.starts: Places = np.load(folder / "starts.npy", allow_pickle=False)
            text = (folder / "vocabulary.txt").read_text("utf-8")
            lines = (folder / "documents.jsonl").read_text("utf-8").splitlines()
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{folder} holds no index of a training corpus: {error}") from error
        self.vocabulary = text.split("\n")
        self.numbers = {word: number for number, word in enumerate(self.vocabulary) if number}
        self.documents: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def longest_runs(self, words: Sequence[str]) -> npt.NDArray[np.int64]:
        """For each word of a text, how many words from it on stand in the corpus, at most eight.

        Args:
            words: As :func:`~.style.words_of` gives them.

        Returns:
            [words].
        """
        queries = self._queries(words)
        at = self._halve(queries, after=False)
        best = np.zeros(len(queries), dtype=np.int64)
        for neighbour in (at - 1, at):
            inside = (neighbour >= 0) & (neighbour < len(self.places))
            place = np.clip(neighbour, 0, max(0, len(self.places) - 1))
            shared = self._shared(queries, self.places[place]) if len(self.places) else 0 * best
            best = np.maximum(best, np.where(inside, shared, 0))
        return best

    def longest_match(self, words: Sequence[str]) -> Match | None:
        """The longest run of words that stands in the corpus; None where no word does."""
        runs = self.longest_runs(words)
        if not len(runs) or not runs.max():
            return None
        queries = self._queries(words)
        if runs.max() < RUN:
            start = int(runs.argmax())
            place = self._place_of(queries[start], int(runs[start]))
            return Match(start, int(runs[start]), self._document(place), place)
        full = np.flatnonzero(runs == RUN)
        low = self._halve(queries[full], after=False)
        high = self._halve(queries[full], after=True)
        text = np.concatenate([queries[:, 0], np.zeros(1, dtype=np.int64)])
        found, looked_at = (0, 0, 0), -1
        for start, first, last in zip(full.tolist(), low.tolist(), high.tolist(), strict=True):
            for place in self.places[first : min(last, first + _MOST_PLACES)].tolist():
                longer = start and place and self.words[place - 1] == text[start - 1]
                if longer and (looked_at == start - 1 or last - first > _MOST_PLACES):
                    continue  # part of a longer run that began before
                back = self._back(text, start, place)
                length = self._extend(text, start - back, place - back)
                if length > found[0]:
                    found = (length, start - back, place - back)
            if last - first <= _MOST_PLACES:
                looked_at = start  # at every place of it
        return Match(found[1], found[0], self._document(found[2]), found[2])

    def passage(self, match: Match, around: int = 12) -> tuple[str, str, str]:
        """The words of a match in the corpus, and those before and after it in its document."""
        begin, end = self.starts[match.document], self.starts[match.document + 1] - 1
        stop = match.place + match.words
        spans = ((max(begin, match.place - around), match.place), (match.place, stop),
                 (stop, min(end, stop + around)))  # fmt: skip
        before, own, after = (
            " ".join(self.vocabulary[number] for number in self.words[a:b]) for a, b in spans
        )
        return before, own, after

    def _queries(self, words: Sequence[str]) -> Places:
        """[words, 8] the numbers of the run at each word; unknown words are larger than any."""
        unknown = len(self.vocabulary)
        ids = [self.numbers.get(word, unknown) for word in words]
        padded = np.array([*ids, *([unknown + 1] * (RUN - 1))], dtype=np.int64)
        if not len(ids):
            return np.zeros((0, RUN), dtype=np.int64)
        return np.lib.stride_tricks.sliding_window_view(padded, RUN)

    def _rows(self, places: npt.NDArray[Any]) -> Places:
        """[places, 8] the words that begin at each place."""
        index = places.astype(np.int64)[:, None] + np.arange(RUN)
        inside = index < len(self.words)
        return np.where(inside, self.words[np.minimum(index, len(self.words) - 1)], _GAP).astype(
            np.int64
        )

    def _shared(self, queries: Places, places: npt.NDArray[Any]) -> Places:
        """How many words from the first on are the same, [queries]."""
        same = (self._rows(places) == queries) & (queries != _GAP)
        shared: Places = np.where(same.all(1), RUN, same.argmin(1))
        return shared

    def _halve(self, queries: Places, after: bool) -> Places:
        """Where each run would stand among the sorted places, before or after its equals."""
        low = np.zeros(len(queries), dtype=np.int64)
        high = np.full(len(queries), len(self.places), dtype=np.int64)
        while len(queries) and (low < high).any():
            middle = np.minimum((low + high) // 2, len(self.places) - 1)
            rows = self._rows(self.places[middle])
            differs = rows != queries
            first = differs.argmax(1)
            index = np.arange(len(queries))
            below = rows[index, first] < queries[index, first]
            equal = ~differs.any(1)
            right = (below & ~equal) | (equal & after)
            going = low < high
            low = np.where(going & right, middle + 1, low)
            high = np.where(going & ~right, middle, high)
        return low

    def _place_of(self, query: Places, length: int) -> int:
        """A place where the first ``length`` words of a run stand."""
        cut = np.concatenate([query[:length], np.zeros(RUN - length, dtype=np.int64)])
        at = int(self._halve(cut[None], after=False)[0])
        return int(self.places[at])

    def _back(self, text: Places, start: int, place: int) -> int:
        """How many words before ``start`` stand before ``place`` too."""
        count = 0
        while (
            count < min(start, place) and self.words[place - count - 1] == text[start - count - 1]
        ):
            count += 1
        return count

    def _extend(self, text: Places, start: int, place: int) -> int:
        """How many words from ``start`` on stand at ``place``; documents end at a gap."""
        most = min(len(text) - 1 - start, len(self.words) - place)
        theirs = self.words[place : place + most]
        same = (theirs == text[start : start + most]) & (theirs != _GAP)
        return most if bool(same.all()) else int(same.argmin())

    def _document(self, place: int) -> int:
        return int(np.searchsorted(self.starts, place, side="right")) - 1


def build_index(folder: Path, documents: Iterable[Document]) -> None:
    """Write the index of some documents into a folder, all of it or nothing.

    Args:
        folder: Where; one that is there is replaced.
        documents: The training documents, read once.

    Raises:
        RunError: The disk is full.
    """
    numbers: dict[str, int] = {"": _GAP}
    parts: list[npt.NDArray[np.uint32]] = []
    starts, about = [0], []
    for document in documents:
        ids = [numbers.setdefault(word, len(numbers)) for word in words_of(document.full_text())]
        parts.append(np.array([*ids, _GAP], dtype=np.uint32))
        starts.append(starts[-1] + len(ids) + 1)
        beginning = " ".join(document.full_text()[:200].split())[:80]
        about.append({"source": document.source, "title": document.title, "begins": beginning})
    words = np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint32)
    with atomic_folder(folder) as temporary:
        np.save(temporary / "words.npy", words)
        np.save(temporary / "places.npy", _sorted_places(words))
        np.save(temporary / "starts.npy", np.array(starts, dtype=np.int64))
        (temporary / "vocabulary.txt").write_text("\n".join(numbers), encoding="utf-8")
        lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in about)
        (temporary / "documents.jsonl").write_text(lines, encoding="utf-8")


def _sorted_places(words: Words) -> Words:
    """Places of all words but the gaps, in the order of the eight words that begin there."""
    count = len(words)
    ranks = words.astype(np.int64)
    step = 1
    while step < RUN:
        following = np.zeros(count, dtype=np.int64)
        following[: max(0, count - step)] = ranks[step:] + 1
        keys = ranks * (int(ranks.max(initial=0)) + 2) + following
        order = np.argsort(keys)
        ordered = keys[order]
        changes = np.empty(count, dtype=np.int64)
        changes[:1] = 0
        np.cumsum(ordered[1:] != ordered[:-1], out=changes[1:])
        ranks = np.empty(count, dtype=np.int64)
        ranks[order] = changes
        step *= 2
    order = np.argsort(ranks, kind="stable")
    places: Words = order[words[order] != _GAP].astype(np.uint32)
    return places
