"""The processes that train together; here, one that trains alone.

The loop asks its team for its share of a step's rows and gives it what came of them; what any work
of several processes needs is in :mod:`..processes`. Alone, all of that is nothing: the methods hand
back what they were given. :mod:`.ranks` has the same for several processes, and is imported only
where a launcher has started them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ..data.rows.packing import Rows as RowSource
from ..devices import DeviceChoice
from ..models.loaded_model import LoadedModel
from ..models.scoring import Rows, token_nll
from ..processes import Processes, join

Accumulate = Callable[[LoadedModel, RowSource, np.ndarray, int, int], tuple[float, int]]


class Team(Processes):
    """One process.

    Attributes:
        sharded: Whether each process holds only a part of every weight.
        accumulate: What takes the place of :func:`~.engine.accumulate_gradient`, if anything.
    """

    sharded = False
    accumulate: Accumulate | None = None

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

    def score(self, writer: LoadedModel, rows: Rows, batch_size: int) -> np.ndarray:
        """Negative log-probabilities of all targets, as :func:`~.token_nll` gives them."""
        return token_nll(writer, rows, batch_size)

    def whole(self, tensor: Tensor) -> Tensor:
        """All of a parameter or moment, in this process's main memory."""
        return tensor.detach().cpu().contiguous()

    def place(self, value: Tensor | None, like: Tensor) -> Tensor:
        """A tensor that the first process has, as this process holds ``like``."""
        assert value is not None
        return value.to(like.device)

    def split(self, writer: LoadedModel, device: DeviceChoice) -> None:
        """Leave each process its part of the weights, on its device; only where they are sharded.

        Args:
            writer: The model, made trainable, in main memory.
            device: This process's device.
        """
        raise NotImplementedError

    @contextlib.contextmanager
    def base(self, writer: LoadedModel) -> Iterator[None]:
        """The model as it is without its adapter, for the block."""
        with writer.base():
            yield


def gather(device: str | None) -> Team:
    """The processes that a launcher has started together with this one.

    Args:
        device: The device as the settings name it.

    Raises:
        InputError: The launch is not what it says.
    """
    accelerator = join(device, "train")
    if accelerator is None:
        return Team()
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        from .ranks import Ranks

        return Ranks(accelerator)
    from .shards import Shards

    return Shards(accelerator)
