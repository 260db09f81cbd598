"""The processes that train together; here, one that trains alone.

The loop asks its team for its share of a step's rows and gives it what came of them. Alone, all of
that is nothing: the methods hand back what they were given. :mod:`.ranks` has the same for several
processes, and is imported only where a launcher has started them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ..data.packing import Rows as RowSource
from ..devices import DeviceChoice
from ..errors import InputError, RunError
from ..models.scoring import Rows, token_nll
from ..models.writer import Writer

Accumulate = Callable[[Writer, RowSource, np.ndarray, int, int], tuple[float, int]]


class ProcessLost(RunError):
    """Another process of the run has ended."""


class Team:
    """One process.

    Attributes:
        rank: The number of this process.
        size: Processes in all.
        sharded: Whether each process holds only a part of every weight.
        local_size: Processes on this machine.
        accumulate: What takes the place of :func:`~.engine.accumulate_gradient`, if anything.
    """

    rank = 0
    size = 1
    sharded = False
    local_size = 1
    accumulate: Accumulate | None = None

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def device(self, wanted: str | None) -> str | None:
        """The device of this process, where the settings say ``wanted``."""
        return wanted

    def share(self, rows: np.ndarray) -> np.ndarray:
        """This process's rows of a step."""
        return rows

    def add_up(
        self, parameters: Sequence[torch.nn.Parameter], loss: float, stop: bool
    ) -> tuple[float, bool]:
        """Sum the gradients of all processes into each one's parameters.

        Args:
            parameters: The trained parameters.
            loss: This process's share of the step's loss.
            stop: Whether this process was asked to stop.

        Returns:
            The loss of the step, and whether any process was asked to stop.

        Raises:
            ProcessLost: Another process has ended.
        """
        return loss, stop

    def clip(self, parameters: Sequence[torch.nn.Parameter], longest: float) -> float:
        """Cut the gradient to a length; the length that it had is returned."""
        return torch.nn.utils.clip_grad_norm_(parameters, longest).item()

    def score(self, writer: Writer, rows: Rows, batch_size: int) -> np.ndarray:
        """Negative log-probabilities of all targets, as :func:`~.token_nll` gives them."""
        return token_nll(writer, rows, batch_size)

    def whole(self, tensor: Tensor) -> Tensor:
        """All of a parameter or moment, in this process's main memory."""
        return tensor.detach().cpu().contiguous()

    def place(self, value: Tensor | None, like: Tensor) -> Tensor:
        """A tensor that the first process has, as this process holds ``like``."""
        assert value is not None
        return value.to(like.device)

    def split(self, writer: Writer, device: DeviceChoice) -> None:
        """Leave each process its part of the weights, on its device; only where they are sharded.

        Args:
            writer: The model, made trainable, in main memory.
            device: This process's device.
        """
        raise NotImplementedError

    @contextlib.contextmanager
    def base(self, writer: Writer) -> Iterator[None]:
        """The model as it is without its adapter, for the block."""
        with writer.base():
            yield

    def told(self, text: str) -> str:
        """What the first process says, in every process."""
        return text

    def all_told(self, text: str) -> list[str]:
        """What each process says, in every process."""
        return [text]

    def total(self, count: int) -> int:
        """The sum of a number that each process has."""
        return count

    def wait(self) -> None:
        """Wait until every process has come here."""

    @contextlib.contextmanager
    def in_turn(self) -> Iterator[None]:
        """Let one process of a machine go first, so that the others find its cache."""
        yield

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """The work of the whole team stands in this block."""
        yield


def gather(device: str | None) -> Team:
    """The processes that a launcher has started together with this one.

    Args:
        device: The device as the settings name it.

    Raises:
        InputError: The launch is not what it says.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if "WORLD_SIZE" not in os.environ and {"ACCELERATE_USE_CPU", "MASTER_ADDR"} <= set(os.environ):
        raise InputError(
            "accelerate launch was to start several processes on the processor, but starts one",
            "use torchrun --nproc-per-node N -m creativewritinggpt train … for processors",
        )
    if not size.isdigit() or int(size) < 2:
        return Team()
    from .ranks import join

    return join(int(size), device)
