"""A corpus that is read while it is trained on; nothing of it is kept, in memory or on disk.

    files, hub ──► shard 0 ──► group: about 64 rows of documents ──► rows in random order
                   shard 1 ──► …

Each process reads stream shards of its own: chunks of rows of a table, files of a data set on the
hub, or else every n-th document. A shard gathers documents until they fill some rows, packs these
as a corpus that fits into memory is packed, and gives the rows out in random order. Its position is
therefore a few numbers: the place in each source where its group began, and how many of its rows
have been given. A run that is resumed reads that one group again and goes on bit for bit.

Row k of the run comes from shard k modulo their number. How many shards there are is decided once:
with fewer processes later, each reads several, and the rows stay the same.

Trade-off: documents come in the order of their files, mixed among sources and within a group only;
see :mod:`~creativewritinggpt.data.splits` for what validates. ``datasets.IterableDataset`` with
``state_dict`` is no substitute (5.2.0): resumed with a shuffle buffer of 64 rows, 38 of 1,200 rows
were lost and 6 came twice, since the buffer is not in the state; its rows depend on the number of
processes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ...config.run import Config
from ...console import ProgressCallback
from ...errors import InputError
from ..corpus import Corpus, nothing_read, opened, tolerated
from ..document import Document, Reading, SourceReport
from ..mixing import TEMPERATURE
from ..sources import Keep, Source
from ..splits import ReservedGroups
from .packing import (
    Encoder,
    PackedRows,
    RowPlan,
    Rows,
    TokenizedDocuments,
    concatenate_rows,
    empty_rows,
    plan_rows,
)

if TYPE_CHECKING:
    from ...distributed import ProcessGroup

GROUP_ROWS = 64
"""Rows of a group, about."""

_WORDS = 0.75  # of a token, about
_CHARACTERS = 4  # of a token, about; it only says how much text a group takes

State = dict[str, Any]


@dataclass
class StreamedCorpus:
    """Sources to stream, and what validates.

    Attributes:
        weights: Relative amounts of text, by source.
        repeats: Whether a source that has ended begins again beside the others; without it all
            are read to their ends before any begins again.
        reports: Counts and notes of what was read for validation, by source.
        missing: The sources that were skipped, and why.
    """

    sources: list[Source]
    weights: dict[str, float]
    repeats: bool
    reserved: ReservedGroups
    reports: dict[str, SourceReport]
    missing: dict[str, str] = field(default_factory=dict)

    def known(self) -> Corpus:
        """What is known of it before training: the validation documents and the accounts."""
        return Corpus([], self.reserved.documents, self.reports, self.missing)


def open_corpus(
    config: Config,
    files: Sequence[str] = (),
    progress: ProgressCallback | None = None,
    keep: Mapping[str, Keep] | None = None,
) -> StreamedCorpus:
    """Open what a run streams, and read what it validates on.

    Args:
        config: Sources, sizes, seed, mix.
        files: The FILE arguments; where there are none, ``config.sources`` are read.
        progress: Called while validation documents are looked for.
        keep: By source, which of its documents are wanted besides; the rest is counted.

    Raises:
        InputError: A file or setting is wrong, or there is too little text.
        RunError: A source can't be reached.
    """
    for unfit, what in (
        (config.max_steps is None, "streaming reads on without an end"),
        (config.max_documents is not None, "streaming does not go with max_documents"),
    ):
        if unfit:
            raise InputError(what, "say with max_steps how long to train")
    missing: dict[str, str] = {}
    sources: list[Source] = []
    reserved = ReservedGroups(config.seed)
    for name, found in opened(config, files, keep or {}, missing):
        with tolerated(name, config, missing):
            for source in found:
                # What fails, fails now.
                documents = source.read(_reading(source.name, config))
                if all(document.split == "validation" for document in documents):
                    reserved.without_training.add(source.name)
            sources += found
    if not sources:
        raise nothing_read(missing)
    reports: dict[str, SourceReport] = {}
    words = float("inf") if config.val_tokens is None else config.val_tokens * _WORDS
    for source in sources:
        reading = _reading(source.name, config, progress, source.size)
        reports[source.name] = reading.report
        documents = _counted(source.read(reading), reading.report)
        most = -(-config.val_size // len(sources))
        reading.report.validation = reserved.take(documents, most, words / len(sources))
    reserved.index()
    return StreamedCorpus(
        sources, _weights(sources, config.mix), config.mix is not None, reserved, reports, missing
    )


def _reading(
    name: str, config: Config, progress: ProgressCallback | None = None, size: int | None = None
) -> Reading:
    return Reading(SourceReport(name), config.skip_bad_rows, progress, size)


def _counted(documents: Iterable[Document], report: SourceReport) -> Iterator[Document]:
    for document in documents:
        report.documents += 1
        report.words += document.words
        report.joints.update([document.joint] if document.prompt else [])
        yield document


def _weights(sources: Sequence[Source], mix: Mapping[str, float] | None) -> dict[str, float]:
    """How much text of each source comes beside the others, as the user says or as there is."""
    names = [source.name for source in sources]
    if mix is None:
        known = all(source.size is not None for source in sources)
        return {source.name: float(source.size or 0) if known else 1.0 for source in sources}
    if TEMPERATURE in mix:
        raise InputError(
            "mix: a temperature needs the sizes of all sources, which streaming does not know",
            "give the weights themselves: name=weight",
        )
    if unknown := sorted(set(mix) - set(names)):
        raise InputError(
            f"mix names {', '.join(unknown)}, which is not among the sources read",
            f"they are: {', '.join(names)}",
        )
    return {name: mix[name] for name in names if mix.get(name, 0) > 0}


@dataclass
class Place:
    """Position of a shard in a source.

    ``at`` is that of :class:`~creativewritinggpt.data.document.Reading`, ``number`` counts the
    documents read there, ``passes`` the ends reached, ``documents`` and ``tokens`` what was trained
    on (each document's end is a token).
    """

    at: int = 0
    number: int = 0
    passes: int = 0
    documents: int = 0
    tokens: int = 0


class _Cursor:
    """Iterator over the documents of one source that a shard trains on, from a position on."""

    def __init__(
        self, source: Source, reserved: ReservedGroups, config: Config, shard: tuple[int, int]
    ) -> None:
        self.source, self.place, self.ended = source, Place(), False
        self.report = SourceReport(source.name)
        self._reserved, self._config, self._shard = reserved, config, shard
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
        shard, shards = self._shard
        reading = Reading(self.report, self._config.skip_bad_rows)
        if self.source.sharded:
            reading.shard, reading.num_shards = shard, shards
        begin = self.place.at, self.place.number
        reading.start = begin[0]
        at, number = begin[0], 0
        for document in self.source.read(reading):
            if reading.at != at:
                at, number = reading.at, 0
            number += 1
            mine = self.source.sharded or ((at >> 40) + number) % shards == shard
            if (at, number) <= begin or not mine:
                continue
            self.place.at, self.place.number = at, number
            if self._reserved.may_train(document, self.report):
                yield document


class StreamShard:
    """One shard of a streamed corpus."""

    def __init__(
        self,
        corpus: StreamedCorpus,
        config: Config,
        encoder: Encoder,
        shape: Mapping[str, Any],
        shard: tuple[int, int],
    ) -> None:
        self._encoder, self._shape, self._seed, self._shard = encoder, shape, config.seed, shard
        self._weights, self._repeats = corpus.weights, corpus.repeats
        self.cursors = [
            _Cursor(source, corpus.reserved, config, shard)
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
        """Position, ready for JSON."""
        return {"group": self._group, "row": self._row, "sources": self._begun}

    def restore(self, state: State) -> None:
        """Resume from a position.

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
        return concatenate_rows(parts)

    def _gather(self) -> None:
        """Read and pack the group that begins here."""
        documents, owners = self._read_group()
        ids, counts, prompts = self._encoder.encode_documents(documents)
        for owner, tokens in zip(owners, counts.tolist(), strict=True):
            owner.place.documents += 1
            owner.place.tokens += tokens + 1
        offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        seed = [self._seed, self._shard[0], self._group]
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
            shard, shards = self._shard
            raise InputError(
                f"there is nothing to train on in part {shard + 1} of {shards} of "
                f"{', '.join(cursor.source.name for cursor in cursors)}",
                "give more text, start fewer processes, or train without --streaming",
            )
        for cursor in cursors:
            cursor.begin_again()


class StreamedRows:
    """This process's rows of a streamed run, in order.

    Args:
        corpus: What is streamed.
        config: The settings.
        tokenizer: The model's.
        shape: ``max_length``, ``bos_id``, ``eos_id`` and ``mask_prompt`` of the rows.
        rank, processes: The number of this process, of how many.
        shards: Shards that the corpus is divided into, ``processes`` of them without it.

    Raises:
        InputError: There are fewer shards than processes.
    """

    def __init__(
        self,
        corpus: StreamedCorpus,
        config: Config,
        tokenizer: Any,
        shape: Mapping[str, Any],
        rank: int = 0,
        processes: int = 1,
        shards: int | None = None,
    ) -> None:
        self._count = shards or processes
        if self._count < processes:
            raise InputError(
                f"the run streams in {self._count} parts, which {processes} processes can't share",
                f"start at most {self._count} processes",
            )
        encoder = Encoder(tokenizer)
        self.max_length = int(shape["max_length"])
        self._next = 0
        self._shards = {
            number: StreamShard(corpus, config, encoder, shape, (number, self._count))
            for number in range(rank, self._count, processes)
        }

    def take(self, count: int) -> PackedRows:
        """This process's part of the next ``count`` rows of the run, which may be none."""
        numbers = np.arange(self._next, self._next + count)
        self._next += count
        parts, places = [], []
        for number, shard in self._shards.items():
            own = numbers[numbers % self._count == number]
            if len(own):
                parts.append(shard.take(len(own)))
                places.append(own)
        if not parts:
            return empty_rows(self.max_length)
        return concatenate_rows(parts).take(np.argsort(np.concatenate(places)))

    def state(self) -> State:
        """Position of this process's shards, ready for JSON."""
        shards = {str(number): shard.state() for number, shard in self._shards.items()}
        return {"next": self._next, "lanes": self._count, "lane": shards}

    def restore(self, state: State) -> None:
        """Resume from a state, of one process or of all (see :func:`together`).

        Raises:
            InputError: The state is of another number of shards, or lacks one of this process.
        """
        absent = [number for number in self._shards if str(number) not in state["lane"]]
        if state["lanes"] != self._count or absent:
            raise InputError(
                f"the run streams in {state['lanes']} parts, of which this process finds "
                f"{len(state['lane'])}",
                "go on with the checkpoint of all processes",
            )
        self._next = state["next"]
        for number, shard in self._shards.items():
            shard.restore(state["lane"][str(number)])

    def stats(self) -> dict[str, dict[str, Any]]:
        """By source, what this process has trained on and left out."""
        made: dict[str, dict[str, Any]] = {}
        for shard in self._shards.values():
            for cursor in shard.cursors:
                entry = made.setdefault(
                    cursor.source.name, {"documents": 0, "tokens": 0, "passes": 0, "left_out": 0}
                )
                entry["documents"] += cursor.place.documents
                entry["tokens"] += cursor.place.tokens
                entry["passes"] = max(entry["passes"], cursor.place.passes)
                entry["left_out"] += cursor.report.near_duplicates + cursor.report.dropped.total()
        return made


def together(states: Sequence[State]) -> State:
    """Merge of the states of all processes, from which any number of them can be resumed."""
    shards = {number: shard for state in states for number, shard in state["lane"].items()}
    return {"next": states[0]["next"], "lanes": states[0]["lanes"], "lane": shards}


class PreparedBatches:
    """Rows of a corpus that was prepared before training; their position is the step's number.

    Args:
        rows: The rows of the whole run.
        rows_of_step: The numbers of the rows of a step.
        group: The processes that share a step's rows.

    Attributes:
        max_length: Positions in a row.
    """

    def __init__(
        self, rows: RowPlan, rows_of_step: Callable[[int], np.ndarray], group: ProcessGroup
    ) -> None:
        self._rows, self._rows_of_step = rows, rows_of_step
        self._mine = slice(group.rank, None, group.size)
        self.max_length = rows.max_length
        self._targets = functools.cache(rows.target_counts)

    def step(self, step: int) -> tuple[Rows, np.ndarray, int]:
        """The rows of a step.

        Args:
            step: Optimizer steps taken so far, from 0.

        Returns:
            Rows, the numbers of this process's among them, and the target tokens of all processes.
        """
        indices = self._rows_of_step(step)
        return self._rows, indices[self._mine], int(self._targets()[indices].sum())

    def first(self, count: int) -> tuple[Rows, np.ndarray]:
        """This process's part of the first ``count`` rows, which stay to be trained on."""
        return self._rows, self._rows_of_step(0)[:count][self._mine]

    def applied(self) -> None:
        """Nothing to note: the position is the step's number."""

    def state(self) -> dict[str, Any] | None:
        """No position of its own."""
        return None

    def restore(self, state: dict[str, Any] | None) -> None:
        """Nothing to restore."""

    def stats(self) -> dict[str, Any] | None:
        """None: what is read of each source is known beforehand."""
        return None


class StreamedBatches:
    """Rows of a corpus that is read while it is trained on.

    Args:
        open_rows: Opens this process's rows of a stream of so many shards.
        rows_per_step: Rows of a step, of all processes.
        group: The processes that share them.
    """

    def __init__(
        self, open_rows: Callable[[int], StreamedRows], rows_per_step: int, group: ProcessGroup
    ) -> None:
        self._open_rows, self._rows_per_step, self._group = open_rows, rows_per_step, group
        self._rows = open_rows(group.size)
        self.max_length = self._rows.max_length
        self._applied = self._rows.state()

    def step(self, step: int) -> tuple[Rows, np.ndarray, int]:
        """See :meth:`PreparedBatches.step`."""
        rows = self._rows.take(self._rows_per_step)
        tokens = self._group.all_reduce(np.array([rows.target_counts().sum()]))
        return rows, np.arange(len(rows)), int(tokens[0])

    def first(self, count: int) -> tuple[Rows, np.ndarray]:
        """This process's part of the first ``count`` rows, which stay to be trained on."""
        rows = self._rows.take(count)
        self._rows.restore(self._applied)
        return rows, np.arange(len(rows))

    def applied(self) -> None:
        """Note that the step asked for last has been applied."""
        self._applied = self._rows.state()

    def state(self) -> dict[str, Any] | None:
        """The position for a checkpoint, of all processes, each of which must call this."""
        states = self._group.all_gather_text(json.dumps(self._applied))
        return together([json.loads(state) for state in states])

    def restore(self, state: dict[str, Any] | None) -> None:
        """Continue from a position.

        Raises:
            InputError: There are more processes than stream shards.
        """
        if state is not None:
            self._rows = self._open_rows(state["lanes"])
            self._rows.restore(state)
            self._applied = self._rows.state()

    def stats(self) -> dict[str, Any] | None:
        """What this process has read of each source."""
        return self._rows.stats()


Batches: TypeAlias = PreparedBatches | StreamedBatches
"""What the training loop takes rows from."""
