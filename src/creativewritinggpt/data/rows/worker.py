"""The other end of a data worker: it does what it is told until its input ends.

A task that answers is a generator of messages. What can't be done is answered too, so that there
is one answer to every question (reading answers many times and says when it is done).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...config.run import Config
from ...errors import InputError, UserError
from ..document import Document
from ..duplicates import NearDuplicates
from ..readers.tables import Reading
from ..report import SourceReport
from ..store import DocumentStore, blocks
from .encoder import Encoder, encode_documents
from .wire import Array, receive, send

Answer = tuple[dict[str, Any], tuple[Array, ...]]


class _Tasks:
    """The tasks, and what was set up for them."""

    def __init__(self) -> None:
        self._stores: list[DocumentStore] = []
        self._work: Callable[[list[Document]], tuple[Array, ...]] | None = None

    def encode(self, header: dict[str, Any], arrays: list[Array]) -> Iterator[Answer]:
        """Documents to ids; the first message brings the tokenizer."""
        if "definition" in header:
            encoder = Encoder(header["definition"])
            self._set_up(header, lambda documents: encode_documents(encoder, documents))
            return
        yield from self._documents(arrays)

    def compare(self, header: dict[str, Any], arrays: list[Array]) -> Iterator[Answer]:
        """Documents to whether they nearly equal one of the first message's texts."""
        if "validation" in header:
            near = NearDuplicates(header["validation"])
            self._set_up(
                header,
                lambda documents: (
                    np.array([near.find(d.full_text()) is not None for d in documents], np.bool_),
                ),
            )
            return
        yield from self._documents(arrays)

    def _set_up(
        self, header: dict[str, Any], work: Callable[[list[Document]], tuple[Array, ...]]
    ) -> None:
        self._stores = [DocumentStore(Path(folder)) for folder in header["folders"]]
        self._work = work

    def _documents(self, arrays: list[Array]) -> Iterator[Answer]:
        if self._work is None:
            raise RuntimeError("nothing was set up")
        stores, numbers = arrays
        documents = [
            self._stores[int(store)][int(number)]
            for store, number in zip(stores, numbers, strict=True)
        ]
        yield {}, self._work(documents)

    def read(self, header: dict[str, Any], arrays: list[Array]) -> Iterator[Answer]:
        """Some stripes of a source, block by block, and the account of them."""
        from ..sources.files import open_files

        config = Config(**header["config"])
        sources = {source.name: source for source in open_files(header["files"], config)}
        reading = Reading(SourceReport(header["name"]), config.skip_bad_rows)
        reading.stripe, reading.stripes = header["stripe"], header["stripes"]
        try:
            found = sources[header["name"]].read(reading)
            for block in blocks(found, lambda: reading.at):
                fields = (block.lines, block.lengths, block.groups, block.fingerprints)
                yield (
                    {"at": block.key, "last": False},
                    (*fields, block.digests, block.splits, block.words),
                )
        except UserError as error:
            what = {"error": error.message, "advice": error.advice}
            yield {"at": reading.at, "input": isinstance(error, InputError), **what}, ()
            return
        yield {"at": reading.at, "report": reading.report.to_dict()}, ()


def main() -> None:
    """Serve the process that started this one."""
    # Ctrl-C reaches all processes of a terminal; the other one decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    sys.stdout = sys.stderr
    tasks = _Tasks()
    while (message := receive(sys.stdin.buffer)) is not None:
        header, arrays = message
        task: Callable[..., Iterator[Answer]] = getattr(tasks, str(header["task"]))
        try:
            for answer, results in task(header, arrays):
                send(output, answer, *results)
        except BrokenPipeError:
            return
        except Exception as error:  # whoever asked does it without us
            send(output, {"failed": f"{type(error).__name__}: {error}"})
