"""What the engine asks of a model: next-token logits for a few growing rows of tokens.

The engine samples, explains and goes back, so it needs the full logits of each step and a cache it
can cut and copy; which kernels compute them is the backend's business. Rows are the alternatives
that are written side by side; each has its own length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch


class Context(Protocol):
    """Rows of tokens that a model has read, with what it keeps of them (keys and values)."""

    @property
    def lengths(self) -> list[int]:
        """Tokens read, for each row."""

    def prefill(self, ids: Sequence[int]) -> torch.Tensor:
        """Read ``ids`` after what the only row holds.

        Returns:
            float32 ``[1, vocabulary]``: the logits after the last of them.
        """

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Read one more token in each row.

        Returns:
            float32 ``[rows, vocabulary]``: the logits after it. The tensor may be used again by
            the next step.
        """

    def fork(self, rows: Sequence[int], capacity: int | None = None) -> Context:
        """A context of its own whose rows are copies of ``rows`` (one may come several times).

        Args:
            rows: Which, in order.
            capacity: Tokens it may grow to; without it as many as this one.
        """

    def truncate(self, row: int, length: int) -> None:
        """Forget all but the first ``length`` tokens of ``row``."""


class Backend(Protocol):
    """A model, ready to continue texts."""

    name: str
    vocabulary: int

    def read(self, ids: Sequence[int], capacity: int) -> tuple[Context, torch.Tensor]:
        """Read a text, going on from an earlier reading of its beginning where there is one.

        Returns:
            A context of one row that may grow to ``capacity`` tokens, and float32
            ``[1, vocabulary]`` logits after the last token.
        """

    def start(self, capacity: int) -> Context:
        """An empty context of one row that may grow to ``capacity`` tokens."""

    def join(self, contexts: Sequence[Any]) -> Context:
        """One context with the rows of all of ``contexts`` (of this backend), in order."""
