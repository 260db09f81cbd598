"""One of the streams that a corpus is divided into.

A lane gathers documents until they fill some rows, packs these as a corpus that fits into memory is
packed, and gives the rows out in random order. Its state is the place in each source where the
group began and the number of rows given: whoever goes on from there reads that one group again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...config.run import Config
from ...errors import InputError
from ..document import Document
from ..readers.tables import Reading
from ..report import SourceReport
from ..sources.base import Source
from .encoder import Encoder, encode_documents
from .packing import PackedRows, RowPlan, joined, plan_rows
from .reserved import HeldBack
from .stream import StreamedCorpus
from .tokens import TokenizedDocuments

GROUP_ROWS = 64
"""Rows of a group, about."""

_CHARACTERS = 4  # of a token, about; it only says how much text a group takes

State = dict[str, Any]


@dataclass
class Place:
    """Where a lane stands in a source.

    Attributes:
        at: The stripe or file (see :class:`~.tables.Reading`).
        number: Documents of it that have been read.
        passes: How often the source has been read to its end.
        documents: Documents trained on.
        tokens: Their tokens, each document's end counted as one.
    """

    at: int = 0
    number: int = 0
    passes: int = 0
    documents: int = 0
    tokens: int = 0


class _Cursor:
    """The documents of one source that a lane trains on, from a place on."""

    def __init__(
        self, source: Source, held_back: HeldBack, config: Config, lane: tuple[int, int]
    ) -> None:
        self.source, self.place, self.ended = source, Place(), False
        self.report = SourceReport(source.name)
        self._held_back, self._config, self._lane = held_back, config, lane
        self._documents: Iterator[Document] | None = None

    def go_to(self, place: Place) -> None:
        self.place, self.ended, self._documents = place, False, None

    def begin_again(self) -> None:
        passes = self.place.passes + 1
        self.go_to(Place(0, 0, passes, self.place.documents, self.place.tokens))

    def next(self) -> Document | None:
        """The next document, or None at the end."""
        if self._documents is None:
            self._documents = self._read()
        document = next(self._documents, None)
        self.ended = document is None
        return document

    def _read(self) -> Iterator[Document]:
        lane, lanes = self._lane
        reading = Reading(self.report, self._config.skip_bad_rows)
        if self.source.striped:
            reading.stripe, reading.stripes = lane, lanes
        begin = self.place.at, self.place.number
        reading.start = begin[0]
        at, number = begin[0], 0
        for document in self.source.read(reading):
            if reading.at != at:
                at, number = reading.at, 0
            number += 1
            mine = self.source.striped or ((at >> 40) + number) % lanes == lane
            if (at, number) <= begin or not mine:
                continue
            self.place.at, self.place.number = at, number
            if self._held_back.lets_through(document, self.report):
                yield document


class Lane:
    """One of the streams that a corpus is divided into."""

    def __init__(
        self,
        corpus: StreamedCorpus,
        config: Config,
        encoder: Encoder,
        shape: Mapping[str, Any],
        lane: tuple[int, int],
    ) -> None:
        self._encoder, self._shape, self._seed, self._lane = encoder, shape, config.seed, lane
        self._weights, self._repeats = corpus.weights, corpus.repeats
        self.cursors = [
            _Cursor(source, corpus.held_back, config, lane)
            for source in corpus.sources
            if source.name in corpus.weights
        ]
        self._group, self._row = 0, 0
        self._begun = self._places()
        self._plan: RowPlan | None = None
        self._order = np.zeros(0, dtype=np.int64)

    def _places(self) -> dict[str, dict[str, int]]:
        return {cursor.source.name: asdict(cursor.place) for cursor in self.cursors}

    def state(self) -> State:
        """Where the lane stands, ready for JSON."""
        return {"group": self._group, "row": self._row, "sources": self._begun}

    def restore(self, state: State) -> None:
        """Go on from there.

        Raises:
            InputError: The state is of other sources.
        """
        names = {cursor.source.name for cursor in self.cursors}
        if set(state["sources"]) != names:
            raise InputError(
                f"the checkpoint's place is in {', '.join(state['sources'])}, and "
                f"{', '.join(sorted(names))} is streamed",
                "give the same files or sources, or start anew with --overwrite",
            )
        for cursor in self.cursors:
            cursor.go_to(Place(**state["sources"][cursor.source.name]))
        self._group, self._row, self._plan = state["group"], state["row"], None
        self._begun = self._places()

    def take(self, count: int) -> PackedRows:
        """The next rows."""
        parts: list[PackedRows] = []
        while count:
            if self._plan is None:
                self._gather()
            assert self._plan is not None
            chosen = self._order[self._row : self._row + count]
            if len(chosen):
                parts.append(self._plan.take(chosen))
            self._row += len(chosen)
            count -= len(chosen)
            if self._row >= len(self._order):
                self._group, self._row, self._plan = self._group + 1, 0, None
                self._begun = self._places()
        return joined(parts)

    def _gather(self) -> None:
        """Read and pack the group that begins here."""
        documents, owners = self._read_group()
        ids, counts, prompts = encode_documents(self._encoder, documents)
        for owner, tokens in zip(owners, counts.tolist(), strict=True):
            owner.place.documents += 1
            owner.place.tokens += tokens + 1
        offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        seed = [self._seed, self._lane[0], self._group]
        self._plan = plan_rows(
            TokenizedDocuments(ids, offsets, prompts), **self._shape, seed=self._seed
        )
        self._order = np.random.default_rng(seed).permutation(len(self._plan))

    def _read_group(self) -> tuple[list[Document], list[_Cursor]]:
        """Documents for about a group's rows, and where each is from; at least one."""
        room = GROUP_ROWS * self._shape["max_length"] * _CHARACTERS
        documents: list[Document] = []
        owners: list[_Cursor] = []
        given = {cursor.source.name: float(cursor.place.tokens) for cursor in self.cursors}
        fruitless = 0
        while room > 0:
            cursor = self._turn(given)
            if cursor is None:
                if documents:
                    break  # a pass ends with the group
                fruitless += 1
                self._begin_again(self.cursors, fruitless)
                continue
            document = cursor.next()
            if document is None:
                if self._repeats:
                    fruitless += 1
                    self._begin_again([cursor], fruitless)
                continue
            size = len(document.text) + len(document.prompt or "")
            documents.append(document)
            owners.append(cursor)
            room -= size
            given[cursor.source.name] += size / _CHARACTERS + 1
            fruitless = 0
        return documents, owners

    def _turn(self, given: Mapping[str, float]) -> _Cursor | None:
        """The source whose turn it is, or None where all have ended."""
        left = [cursor for cursor in self.cursors if not cursor.ended]

        def behind(cursor: _Cursor) -> float:
            return given[cursor.source.name] / self._weights[cursor.source.name]

        return min(left, key=behind, default=None)

    def _begin_again(self, cursors: Sequence[_Cursor], fruitless: int) -> None:
        if fruitless > 1:
            lane, lanes = self._lane
            raise InputError(
                f"there is nothing to train on in part {lane + 1} of {lanes} of "
                f"{', '.join(cursor.source.name for cursor in cursors)}",
                "give more text, start fewer processes, or train without --streaming",
            )
        for cursor in cursors:
            cursor.begin_again()
