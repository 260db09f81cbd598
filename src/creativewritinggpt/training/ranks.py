"""Several processes that train together, each with a replica of the model.

    rows of a step    0  1  2  3  4  5  6  7
    process 0         ■     ■     ■     ■        its part of the gradient ─┐
    process 1            ■     ■     ■     ■     its part of the gradient ─┴─ sum ─► the same step

Accelerate joins the processes that ``torchrun`` or ``accelerate launch`` has started. The rows of
a step are the same however many processes share them, and each part of the gradient is divided by
the target tokens of the whole step, so that the sum is what one process would have computed.

This is what DistributedDataParallel does, as one exchange at the end of a step instead of hooks in
the backward pass. An adapter's gradient is a few megabytes: there is nothing to hide behind the
computation, and without hooks any path through the model will do, a process may cut its rows as
its memory allows, and one without a row in the last step needs no pretence. The price is paid by
``method: full`` on slow networks, where the exchange is not overlapped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..distributed import BUCKET, Joined
from ..models.loaded_model import LoadedModel
from ..models.scoring import Rows, token_nll
from .strategy import Team


class Ranks(Joined, Team):
    """One of several processes with a replica each."""

    lost_advice = (
        "its own message says why; go on with --resume, with as many processes as you like"
    )

    def share(self, rows: np.ndarray) -> np.ndarray:
        """Every ``size``-th row."""
        return rows[self.rank :: self.size]

    def add_up(
        self, parameters: Sequence[torch.nn.Parameter], loss: float, stop: bool
    ) -> tuple[float, bool]:
        """Sum gradients and losses."""
        bucket: list[torch.nn.Parameter] = []
        for index, parameter in enumerate(parameters):
            if parameter.grad is None:  # no row in this step
                parameter.grad = torch.zeros_like(parameter)
            bucket.append(parameter)
            full = sum(member.numel() for member in bucket) >= BUCKET
            if full or index == len(parameters) - 1:
                self._exchange(bucket)
                bucket = []
        return self._numbers(loss, stop)

    def _exchange(self, bucket: Sequence[torch.nn.Parameter]) -> None:
        """Sum the gradients of some parameters in one go."""
        gradients = [parameter.grad for parameter in bucket if parameter.grad is not None]
        summed = self._sum(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        start = 0
        for gradient in gradients:
            gradient.copy_(summed[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    def _numbers(self, loss: float, stop: bool) -> tuple[float, bool]:
        numbers = self._sum(
            torch.tensor([loss, float(stop)], dtype=torch.float64, device=self.accelerator.device)
        )
        return float(numbers[0]), bool(numbers[1] > 0)

    def score(self, writer: LoadedModel, rows: Rows, batch_size: int) -> np.ndarray:
        """Each process scores its share of the rows."""
        mine = slice(self.rank, None, self.size)
        part: Any = rows.take(mine)  # type: ignore[attr-defined]
        found = np.zeros(rows.targets.shape, dtype=np.float64)
        if len(part):
            found[mine] = token_nll(writer, part, batch_size)
        return self.added(found)

    def place(self, value: Tensor | None, like: Tensor) -> Tensor:
        """The first process's tensor, in every process."""
        held = torch.empty(like.shape, dtype=like.dtype, device=self.accelerator.device)
        if value is not None:
            held.copy_(value)
        with self.heard():
            torch.distributed.broadcast(held, 0)
        return held
