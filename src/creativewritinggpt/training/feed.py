"""Where the rows of each optimizer step come from: a prepared corpus, or one that is streamed.

Rows of a prepared corpus have numbers, and which of them a step takes is a function of the seed and
the step. A stream gives the next ones, so its place is part of a checkpoint: the one after the last
step that was applied, of all processes together.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from ..config.run import Config
from ..data.rows.encoder import definition_of
from ..data.rows.packing import RowPlan, Rows
from ..data.rows.stream import StreamedCorpus
from ..data.rows.stream_rows import StreamedRows, together
from ..errors import InputError
from ..models.loaded_model import LoadedModel
from .schedule import Plan
from .strategy import Team


class Feed(Protocol):
    """What the loop asks for rows.

    Attributes:
        max_length: Positions in a row.
    """

    max_length: int

    def step(self, step: int) -> tuple[Rows, np.ndarray, int]:
        """The rows of a step, the numbers of this process's among them, all its target tokens.

        Args:
            step: Optimizer steps taken so far, from 0.
        """

    def first(self, count: int) -> tuple[Rows, np.ndarray]:
        """The same without the tokens, of the first ``count`` rows; nothing is used up."""

    def applied(self) -> None:
        """Note that the step asked for last has been applied."""

    def state(self) -> dict[str, Any] | None:
        """What a continuation needs, of all processes, each of which must ask."""

    def restore(self, state: dict[str, Any] | None) -> None:
        """Go on from there."""

    def account(self) -> dict[str, Any] | None:
        """What this process has read of each source, where that is not known before."""


class PreparedFeed:
    """Rows of a corpus that was prepared before.

    Args:
        rows: The rows of the whole run.
        plan: Which of them each step takes.
        team: The processes that share them.
    """

    def __init__(self, rows: RowPlan, plan: Plan, team: Team) -> None:
        self._rows, self._plan, self._team = rows, plan, team
        self.max_length = rows.max_length

    @functools.cached_property
    def _targets(self) -> np.ndarray:
        return self._rows.target_counts()

    def step(self, step: int) -> tuple[Rows, np.ndarray, int]:
        """See :class:`Feed`."""
        indices = self._plan.rows_of_step(step)
        return self._rows, self._team.share(indices), int(self._targets[indices].sum())

    def first(self, count: int) -> tuple[Rows, np.ndarray]:
        """See :class:`Feed`."""
        return self._rows, self._team.share(self._plan.rows_of_step(0)[:count])

    def applied(self) -> None:
        """Nothing: the step's number says which rows are next."""

    def state(self) -> dict[str, Any] | None:
        """Nothing."""
        return None

    def restore(self, state: dict[str, Any] | None) -> None:
        """Nothing: the step's number says which rows are next."""

    def account(self) -> dict[str, Any] | None:
        """Nothing: the mixture says it."""
        return None


class StreamFeed:
    """Rows of a corpus that is read meanwhile.

    Args:
        opened: Gives this process's part of the stream, for a number of parts.
        plan: How many rows a step takes.
        team: The processes that share them.
    """

    def __init__(self, opened: Callable[[int], StreamedRows], plan: Plan, team: Team) -> None:
        self._opened, self._plan, self._team = opened, plan, team
        self._rows = opened(team.size)
        self.max_length = self._rows.max_length
        self._applied = self._rows.state()

    def step(self, step: int) -> tuple[Rows, np.ndarray, int]:
        """See :class:`Feed`."""
        rows = self._rows.take(self._plan.rows_per_step)
        tokens = self._team.total(int(rows.target_counts().sum()))
        return rows, np.arange(len(rows)), tokens

    def first(self, count: int) -> tuple[Rows, np.ndarray]:
        """See :class:`Feed`."""
        rows = self._rows.take(count)
        self._rows.restore(self._applied)
        return rows, np.arange(len(rows))

    def applied(self) -> None:
        """See :class:`Feed`."""
        self._applied = self._rows.state()

    def state(self) -> dict[str, Any] | None:
        """See :class:`Feed`."""
        states = self._team.all_told(json.dumps(self._applied))
        return together([json.loads(state) for state in states])

    def restore(self, state: dict[str, Any] | None) -> None:
        """See :class:`Feed`.

        Raises:
            InputError: There are more processes than parts.
        """
        if state is not None:
            self._rows = self._opened(state["lanes"])
            self._rows.restore(state)
            self._applied = self._rows.state()

    def account(self) -> dict[str, Any] | None:
        """See :class:`Feed`."""
        return self._rows.account()


def stream_feed(
    corpus: StreamedCorpus,
    config: Config,
    writer: LoadedModel,
    shape: Mapping[str, Any],
    plan: Plan,
    team: Team,
) -> StreamFeed:
    """The rows of a corpus that is read while it is trained on.

    Raises:
        InputError: The processes hold a part of every weight each.
    """
    if team.sharded:
        raise InputError(
            "streaming feeds processes with a copy of the model each, not shards",
            "train without --streaming, or without FSDP",
        )
    definition = definition_of(writer.tokenizer)

    def opened(parts: int) -> StreamedRows:
        return StreamedRows(corpus, config, definition, shape, team.rank, team.size, parts)

    return StreamFeed(opened, plan, team)
