"""Originality: what a text shares with the training text, by an index over the training words.

For each text the longest run of words found in the training text, and the share of its 8-grams
found there, beside the same figures of held-out human text: all texts share some runs, and only
what is beyond that is copying. Case and punctuation don't count.

The index numbers all words, lower-cased and without punctuation, and lays them one after another
with a gap between documents; a suffix array sorts all places by the eight words that begin there.
Any run of words is found by bisection, and the longest run at a place is extended from the runs of
eight::

    words    … 17 4 92 4 | 17 4 92 5 31 …
    places   sorted:  4 92 4   4 92 5 31   17 4 92 4   17 4 92 5 …

It is built by prefix doubling (ranks of one word, two, four, eight) and memory-mapped: 8 bytes per
word of the corpus. It holds the words and the documents' names, so it works when the training text
is gone.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data.document import Document
from ..errors import InputError
from ..files import atomic_folder
from .metrics import word_spans, words_of
from .perplexity import mean_interval

RUN = 8
"""Words that places are sorted by; a shared run of so many is more than chance."""

# Occurrences of one 8-gram that are extended: a phrase may stand in hundreds of documents.
_MOST_PLACES = 256
_PASSAGES = 3
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
    """The index of one training corpus.

    Args:
        folder: As :func:`build_index` wrote it.

    Raises:
        InputError: There is no index, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self.words: Words = np.load(folder / "words.npy", mmap_mode="r", allow_pickle=False)
            self.places: Words = np.load(folder / "places.npy", mmap_mode="r", allow_pickle=False)
            self.starts: Places = np.load(folder / "starts.npy", allow_pickle=False)
            text = (folder / "vocabulary.txt").read_text("utf-8")
            # Titles may hold line ends of other kinds, which splitlines would take for ends too.
            lines = (folder / "documents.jsonl").read_text("utf-8").split("\n")
            self.documents: list[dict[str, Any]] = [json.loads(line) for line in lines if line]
        except (OSError, ValueError, EOFError, RecursionError) as error:
            raise InputError(f"{folder} holds no index of a training corpus: {error}") from error
        self.vocabulary = text.split("\n")
        self.numbers = {word: number for number, word in enumerate(self.vocabulary) if number}

    def longest_runs(self, words: Sequence[str]) -> npt.NDArray[np.int64]:
        """For each word of a text the length of the run from it on that is in the corpus, up to 8.

        Args:
            words: From :func:`~.style.words_of`.

        Returns:
            [words].
        """
        queries = self._queries(words)
        at = self._bisect(queries, after=False)
        best = np.zeros(len(queries), dtype=np.int64)
        for neighbour in (at - 1, at):
            inside = (neighbour >= 0) & (neighbour < len(self.places))
            place = np.clip(neighbour, 0, max(0, len(self.places) - 1))
            shared = self._shared(queries, self.places[place]) if len(self.places) else 0 * best
            best = np.maximum(best, np.where(inside, shared, 0))
        return best

    def longest_match(self, words: Sequence[str]) -> Match | None:
        """The longest run of words that is in the corpus; None where no word is."""
        runs = self.longest_runs(words)
        if not len(runs) or not runs.max():
            return None
        queries = self._queries(words)
        if runs.max() < RUN:
            start = int(runs.argmax())
            place = self._place_of(queries[start], int(runs[start]))
            return Match(start, int(runs[start]), self._document(place), place)
        full = np.flatnonzero(runs == RUN)
        low = self._bisect(queries[full], after=False)
        high = self._bisect(queries[full], after=True)
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

    def matches(self, words: Sequence[str]) -> list[Match]:
        """Every run of eight words or more that is in the corpus, each as long as it goes.

        Runs may overlap where two places of the corpus continue each other.

        Args:
            words: From :func:`~.metrics.words_of`.
        """
        full = np.flatnonzero(self.longest_runs(words) == RUN)
        if not len(full):
            return []
        queries = self._queries(words)
        low = self._bisect(queries[full], after=False)
        high = self._bisect(queries[full], after=True)
        text = np.concatenate([queries[:, 0], np.zeros(1, dtype=np.int64)])
        found: list[Match] = []
        covered = 0
        for start, first, last in zip(full.tolist(), low.tolist(), high.tolist(), strict=True):
            if start + RUN <= covered:
                continue  # within the run before
            best = (0, 0, 0)
            for place in self.places[first : min(last, first + _MOST_PLACES)].tolist():
                back = self._back(text, start, place)
                length = self._extend(text, start - back, place - back)
                best = max(best, (length, start - back, place - back), key=lambda one: one[0])
            found.append(Match(best[1], best[0], self._document(best[2]), best[2]))
            covered = best[1] + best[0]
        return found

    def passage(self, match: Match, around: int = 12) -> tuple[str, str, str]:
        """The words before a match in its document, the match, and the words after it."""
        begin, end = self.starts[match.document], self.starts[match.document + 1] - 1
        stop = match.place + match.words
        spans = ((max(begin, match.place - around), match.place), (match.place, stop),
                 (stop, min(end, stop + around)))  # fmt: skip
        before, own, after = (
            " ".join(self.vocabulary[number] for number in self.words[a:b]) for a, b in spans
        )
        return before, own, after

    def _queries(self, words: Sequence[str]) -> Places:
        """[words, 8] word numbers of the run at each word; unknown words are larger than any."""
        unknown = len(self.vocabulary)
        ids = [self.numbers.get(word, unknown) for word in words]
        padded = np.array([*ids, *([unknown + 1] * (RUN - 1))], dtype=np.int64)
        if not len(ids):
            return np.zeros((0, RUN), dtype=np.int64)
        return np.lib.stride_tricks.sliding_window_view(padded, RUN)

    def _rows(self, places: npt.NDArray[Any]) -> Places:
        """[places, 8] word numbers of the run at each place."""
        index = places.astype(np.int64)[:, None] + np.arange(RUN)
        inside = index < len(self.words)
        return np.where(inside, self.words[np.minimum(index, len(self.words) - 1)], _GAP).astype(
            np.int64
        )

    def _shared(self, queries: Places, places: npt.NDArray[Any]) -> Places:
        """[queries] how many words from the first on are equal."""
        same = (self._rows(places) == queries) & (queries != _GAP)
        shared: Places = np.where(same.all(1), RUN, same.argmin(1))
        return shared

    def _bisect(self, queries: Places, after: bool) -> Places:
        """Where each run would be inserted in the sorted places, before or after equals."""
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
        """A place of the first ``length`` words of a run."""
        cut = np.concatenate([query[:length], np.zeros(RUN - length, dtype=np.int64)])
        at = int(self._bisect(cut[None], after=False)[0])
        return int(self.places[at])

    def _back(self, text: Places, start: int, place: int) -> int:
        """How many words before ``start`` are also before ``place``."""
        count = 0
        while (
            count < min(start, place) and self.words[place - count - 1] == text[start - count - 1]
        ):
            count += 1
        return count

    def _extend(self, text: Places, start: int, place: int) -> int:
        """How many words from ``start`` on are also at ``place``; documents end at a gap."""
        most = min(len(text) - 1 - start, len(self.words) - place)
        theirs = self.words[place : place + most]
        same = (theirs == text[start : start + most]) & (theirs != _GAP)
        return most if bool(same.all()) else int(same.argmin())

    def _document(self, place: int) -> int:
        return int(np.searchsorted(self.starts, place, side="right")) - 1


def build_index(folder: Path, documents: Iterable[Document]) -> None:
    """Write the index of some documents into a folder, atomically.

    Args:
        folder: Replaced where it exists.
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
        (temporary / "vocabulary.txt").write_text("\n".join(numbers), "utf-8", "backslashreplace")
        lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in about)
        (temporary / "documents.jsonl").write_text(lines, "utf-8", "backslashreplace")


def _sorted_places(words: Words) -> Words:
    """The suffix array to depth 8: places of all words but gaps, sorted by the run there."""
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


def check(index: CorpusIndex, text: str) -> dict[str, Any]:
    """What one text shares with the training text.

    Returns:
        ``words``; ``longest_run`` in words; ``share_of_8grams`` found, None for shorter texts; and,
        for runs of three words or more, the ``passage``, its ``document`` and the ``context``
        in it.
    """
    words = words_of(text)
    runs = index.longest_runs(words)
    grams = len(words) - RUN + 1
    found: dict[str, Any] = {
        "words": len(words),
        "longest_run": 0,
        "share_of_8grams": float((runs[:grams] == RUN).mean()) if grams > 0 else None,
    }
    match = index.longest_match(words)
    if match is None:
        return found
    found["longest_run"] = match.words
    if match.words >= 3:
        before, own, after = index.passage(match)
        found["passage"] = own
        found["document"] = {"number": match.document, **index.documents[match.document]}
        found["context"] = [before, after]
    return found


def shared_runs(index: CorpusIndex, text: str) -> list[dict[str, Any]]:
    """The runs of eight words or more of a text that stand in the training text, with their places.

    Returns:
        ``start`` and ``end`` in characters of ``text``, ``words``, the ``document``, and the
        ``context`` (words before and after) in it.
    """
    spans = word_spans(text)
    found = []
    for match in index.matches([word for word, _, _ in spans]):
        before, _, after = index.passage(match)
        found.append(
            {
                "start": spans[match.start][1],
                "end": spans[match.start + match.words - 1][2],
                "words": match.words,
                "document": {"number": match.document, **index.documents[match.document]},
                "context": [before, after],
            }
        )
    return found


def originality(index: CorpusIndex, rows: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The originality figures of each row of texts.

    Args:
        index: Of the training text.
        rows: Texts by label, a model's or human.

    Returns:
        By label ``texts``, mean and highest ``longest_run`` with the mean's interval, mean
        ``share_of_8grams`` with its interval, and the three ``longest`` passages with their
        document.
    """
    result = {}
    for label, texts in rows.items():
        found = [check(index, text) for text in texts]
        runs = [float(entry["longest_run"]) for entry in found]
        shares = [f["share_of_8grams"] for f in found if f["share_of_8grams"] is not None]
        shown = sorted((f for f in found if "passage" in f), key=lambda f: -f["longest_run"])
        result[label] = {
            "texts": len(found),
            "longest_run_mean": sum(runs) / len(runs),
            "longest_run_ci95": mean_interval(runs),
            "longest_run_max": int(max(runs)),
            "share_of_8grams": sum(shares) / len(shares) if shares else None,
            "share_of_8grams_ci95": mean_interval(shares),
            "longest": shown[:_PASSAGES],
        }
    return result
