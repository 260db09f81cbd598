"""The three long pieces of data work, shared with worker processes where there is much to do.

Each gives the same as its plain form, in the same order: documents are dealt out in parts that are
put together again by number. What a worker fails to compare or to tokenize is done here; where one
fails to read, the reading stops and says so.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from ...config.run import Config
from ...console import ProgressCallback
from ...errors import InputError, RunError, UserError
from ..document import Document
from ..duplicates import NearDuplicates
from ..readers.tables import Reading
from ..report import SourceReport
from ..sources.base import Source
from ..store import Block, Documents, blocks
from .encoder import Encoder, Ids, encode_documents
from .wire import Array, Message
from .workers import Worker, WorkerError, workers

# Enough text that a message is little beside the work, little enough that memory stays flat.
_PART = 1_000_000
Encoded = tuple[Ids, Ids, Ids]
Result = TypeVar("Result")


def encoded(
    documents: Sequence[Document], definition: str, processes: int | None = None
) -> Iterator[Encoded]:
    """The ids of all documents, part by part (see :func:`encoder.encode_documents`)."""

    @functools.cache
    def encoder() -> Encoder:
        return Encoder(definition)

    def here(part: slice) -> Encoded:
        return encode_documents(encoder(), documents[part])

    def there(message: Message) -> Encoded:
        ids, counts, prompts = message[1]
        return ids, counts, prompts

    yield from _shared(documents, "encode", {"definition": definition}, here, there, processes)


def near_duplicates(
    documents: Documents, validation: Sequence[str], processes: int | None = None
) -> Iterator[Array]:
    """For each document whether it nearly equals one of ``validation``, part by part."""

    @functools.cache
    def near() -> NearDuplicates:
        return NearDuplicates(validation)

    def here(part: slice) -> Array:
        find = near().find
        return np.array([find(d.full_text()) is not None for d in documents[part]], np.bool_)

    def there(message: Message) -> Array:
        return message[1][0]

    setup = {"validation": list(validation)}
    yield from _shared(documents, "compare", setup, here, there, processes)


def _shared(
    documents: Sequence[Document],
    task: str,
    setup: dict[str, Any],
    here: Callable[[slice], Result],
    there: Callable[[Message], Result],
    processes: int | None,
) -> Iterator[Result]:
    """The results of all parts in order, every n-th of them from another process."""
    if not isinstance(documents, Documents):
        yield from map(here, _parts([len(document.text) for document in documents]))
        return
    folders, stores, numbers, sizes = documents.on_disk()
    parts = _parts(sizes)
    with workers(sum(sizes), processes) as helpers:
        places = {"folders": [str(folder) for folder in folders]}
        for helper in helpers:
            with contextlib.suppress(WorkerError):  # its answers will say so
                helper.tell(task, {**places, **setup}, np.zeros(0), np.zeros(0))
        turns = len(helpers) + 1

        def ask(turn: int) -> None:
            if turn < len(parts) and turn % turns:
                part = parts[turn]
                _ask(helpers[turn % turns - 1], task, {}, stores[part], numbers[part])

        for turn in range(min(turns, len(parts))):
            ask(turn)
        for turn, part in enumerate(parts):
            if turn % turns == 0:
                # One part ahead, so that no worker waits while this process is busy.
                for ahead in range(turn + turns, turn + 2 * turns):
                    ask(ahead)
                yield here(part)
            else:
                result = _answer(helpers[turn % turns - 1], there)
                yield here(part) if result is None else result
    extra = slice(len(numbers), len(documents))
    if len(documents) > len(numbers):
        yield here(extra)


def _parts(sizes: Sequence[int]) -> list[slice]:
    """Runs of documents of about so much text each."""
    parts, start, size = [], 0, 0
    for number, more in enumerate(sizes):
        size += more
        if size >= _PART:
            parts.append(slice(start, number + 1))
            start, size = number + 1, 0
    if start < len(sizes):
        parts.append(slice(start, len(sizes)))
    return parts


def _ask(helper: Worker, task: str, header: dict[str, Any], *arrays: Array) -> None:
    with contextlib.suppress(WorkerError):  # its answer will say so
        helper.ask(task, header, *arrays)


def _answer(helper: Worker, there: Callable[[Message], Result]) -> Result | None:
    try:
        return there(helper.answer())
    except WorkerError:
        return None


def read_blocks(
    source: Source, config: Config, report: SourceReport, progress: ProgressCallback | None = None
) -> Iterator[Block]:
    """The cleaned documents of a source in their order; ``report`` is complete at the end.

    Rows of large tables that mean nothing to each other are dealt out in stripes of some hundred;
    every process passes over the whole file and parses and cleans its own stripes.

    Raises:
        InputError: The first row, in the order of the file, that can't be read.
    """
    size = source.size or 0
    with workers(size if source.files else 0, config.num_workers) as helpers:
        reading = Reading(report, config.skip_bad_rows, progress, source.size)
        reading.stripes = len(helpers) + 1
        request = {"files": list(source.files), "config": config.to_dict(), "name": source.name}
        for number, helper in enumerate(helpers, 1):
            stripe = {"stripe": number, "stripes": reading.stripes}
            _ask(helper, "read", {**request, **stripe})
        streams: list[Iterator[tuple[int, Block | UserError]]] = [_own(source, reading)]
        streams += [_answers(helper, report) for helper in helpers]
        for _, block in heapq.merge(*streams, key=lambda item: item[0]):
            if isinstance(block, UserError):
                raise block
            yield block


def _own(source: Source, reading: Reading) -> Iterator[tuple[int, Block | UserError]]:
    try:
        for block in blocks(source.read(reading), lambda: reading.at):
            yield block.key, block
    except UserError as error:
        yield reading.at, error


def _answers(helper: Worker, report: SourceReport) -> Iterator[tuple[int, Block | UserError]]:
    """The blocks of a worker, and its account into ours at the end."""
    at = 0
    while True:
        try:
            header, arrays = helper.answer()
        except WorkerError as error:
            yield at, RunError(f"a process that was reading failed: {error}", "try again")
            return
        at = int(header["at"])
        if "error" in header:
            kind = InputError if header["input"] else RunError
            yield at, kind(header["error"], header["advice"])
            return
        if "report" in header:
            report.add(SourceReport.from_dict(header["report"]))
            return
        yield at, Block(at, *arrays)
