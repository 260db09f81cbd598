"""A corpus that is read while it is trained on; nothing of it is kept, in memory or on disk.

    files, hub ──► lane 0 ──► group: about 64 rows of documents ──► rows in random order
                   lane 1 ──► …

Each process reads lanes of its own: stripes of some hundred rows of a table, files of a data set on
the hub, or else every n-th document. A lane gathers documents until they fill some rows, packs
these as a corpus that fits into memory is packed, and gives the rows out in random order. Where it
stands is therefore a few numbers: the place in each source where its group began, and how many of
its rows have been given. Whoever goes on from there reads that one group again.

Row k of the run comes from lane k modulo their number. How many lanes there are is decided once:
with fewer processes later, each reads several, and the rows stay the same.

The price beside a corpus that is prepared: documents come in the order of their files, mixed among
sources and within a group only; see :mod:`.held_back` for what validates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...config.run import Config
from ...errors import InputError
from .encoder import Encoder
from .packing import PackedRows, joined, no_rows
from .stream import StreamedCorpus
from .stream_shard import Lane, State


class StreamedRows:
    """The rows of a run, in order, as far as they are this process's.

    Attributes:
        max_length: Positions in a row.

    Args:
        corpus: What is streamed.
        config: The settings.
        definition: The tokenizer's, as :func:`~.encoder.definition_of` gives it.
        shape: ``max_length``, ``bos_id``, ``eos_id`` and ``mask_prompt`` of the rows.
        rank: The number of this process.
        processes: How many there are.
        lanes: Streams that the corpus is divided into, ``processes`` of them without it.

    Raises:
        InputError: There are fewer lanes than processes.
    """

    def __init__(
        self,
        corpus: StreamedCorpus,
        config: Config,
        definition: str,
        shape: Mapping[str, Any],
        rank: int = 0,
        processes: int = 1,
        lanes: int | None = None,
    ) -> None:
        self._count = lanes or processes
        if self._count < processes:
            raise InputError(
                f"the run streams in {self._count} parts, which {processes} processes can't share",
                f"start at most {self._count} processes",
            )
        encoder = Encoder(definition)
        self.max_length = int(shape["max_length"])
        self._next = 0
        self._lanes = {
            number: Lane(corpus, config, encoder, shape, (number, self._count))
            for number in range(rank, self._count, processes)
        }

    def take(self, count: int) -> PackedRows:
        """This process's part of the next rows of the run; there may be none of them.

        Args:
            count: Rows of all processes.
        """
        numbers = np.arange(self._next, self._next + count)
        self._next += count
        parts, places = [], []
        for number, lane in self._lanes.items():
            own = numbers[numbers % self._count == number]
            if len(own):
                parts.append(lane.take(len(own)))
                places.append(own)
        if not parts:
            return no_rows(self.max_length)
        return joined(parts).take(np.argsort(np.concatenate(places)))

    def state(self) -> State:
        """Where this process stands, ready for JSON."""
        lanes = {str(number): lane.state() for number, lane in self._lanes.items()}
        return {"next": self._next, "lanes": self._count, "lane": lanes}

    def restore(self, state: State) -> None:
        """Go on from a state, of one process or of all (see :func:`together`).

        Raises:
            InputError: The state is of another number of lanes, or lacks one of this process.
        """
        absent = [number for number in self._lanes if str(number) not in state["lane"]]
        if state["lanes"] != self._count or absent:
            raise InputError(
                f"the run streams in {state['lanes']} parts, of which this process finds "
                f"{len(state['lane'])}",
                "go on with the checkpoint of all processes",
            )
        self._next = state["next"]
        for number, lane in self._lanes.items():
            lane.restore(state["lane"][str(number)])

    def stats(self) -> dict[str, dict[str, Any]]:
        """By source, what this process has trained on and left out."""
        made: dict[str, dict[str, Any]] = {}
        for lane in self._lanes.values():
            for cursor in lane.cursors:
                entry = made.setdefault(
                    cursor.source.name, {"documents": 0, "tokens": 0, "passes": 0, "left_out": 0}
                )
                entry["documents"] += cursor.place.documents
                entry["tokens"] += cursor.place.tokens
                entry["passes"] = max(entry["passes"], cursor.place.passes)
                entry["left_out"] += cursor.report.near_duplicates + cursor.report.dropped.total()
        return made


def together(states: Sequence[State]) -> State:
    """The states of all processes as one, which any number of them can go on from."""
    lanes = {number: lane for state in states for number, lane in state["lane"].items()}
    return {"next": states[0]["next"], "lanes": states[0]["lanes"], "lane": lanes}
