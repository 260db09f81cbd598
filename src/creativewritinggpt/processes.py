"""The processes that a launcher has started together; here, one that was started alone.

Rooms that share work ask for their share and for what the others made of theirs. Alone, all of that
is nothing: the methods hand back what they were given. :mod:`.joined` has the same for several
processes, and is imported only where ``torchrun`` or ``accelerate launch`` has started them.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import InputError, RunError, UserError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Result = TypeVar("Result")


class ProcessLost(RunError):
    """Another process of the run has ended."""


class SaidElsewhere(UserError):
    """Another process has an error that ends all, and says it.

    Args:
        rank: The number of that process.
        exit_code: The exit code that goes with its error.
    """

    def __init__(self, rank: int, exit_code: int) -> None:
        super().__init__(f"process {rank} has an error, and says which")
        self.exit_code = exit_code


class Processes:
    """One process.

    Attributes:
        rank: The number of this process.
        size: Processes in all.
        local_size: Processes on this machine.
    """

    rank = 0
    size = 1
    local_size = 1

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def device(self, wanted: str | None) -> str | None:
        """The device of this process, where the settings say ``wanted``."""
        return wanted

    def told(self, text: str) -> str:
        """What the first process says, in every process."""
        return text

    def all_told(self, text: str) -> list[str]:
        """What each process says, in every process."""
        return [text]

    def total(self, count: int) -> int:
        """The sum of a number that each process has."""
        return count

    def added(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The sums over the processes of numbers that each has, number by number."""
        return values

    def wait(self) -> None:
        """Wait until every process has come here."""

    @contextlib.contextmanager
    def in_turn(self) -> Iterator[None]:
        """Let one process of a machine go first, so that the others find its cache."""
        yield

    @contextlib.contextmanager
    def agreed(self) -> Iterator[None]:
        """End all processes where one can't do the block, which must exchange nothing.

        Raises:
            UserError: The block's own error, in the first of the processes that have one.
            SaidElsewhere: In the others.
        """
        yield

    def prepared(self, work: Callable[[], Result]) -> Result:
        """What ``work`` gives, done :meth:`in_turn` and :meth:`agreed`."""
        return work()

    def alike(self, value: Callable[[], str], what: str) -> None:
        """Refuse to go on where a process has something else than the first one.

        Args:
            value: Makes what must be the same in all.
            what: Its name, in the plural.

        Raises:
            InputError: It is not.
        """

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """The work of all processes stands in this block."""
        yield


ALONE = Processes()
PATIENCE = datetime.timedelta(hours=2)
"""How long processes wait for one that prepares the data."""


def join(device: str | None, verb: str, patience: datetime.timedelta = PATIENCE) -> Any:
    """Join the processes that a launcher has started together with this one.

    Args:
        device: The device as the settings name it.
        verb: What they were started for, as ``train``.
        patience: How long a process waits for the others.

    Returns:
        Accelerate's view of the processes, or None where this one was started alone.

    Raises:
        InputError: The launch is not what it says.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if "WORLD_SIZE" not in os.environ and {"ACCELERATE_USE_CPU", "MASTER_ADDR"} <= set(os.environ):
        raise InputError(
            "accelerate launch was to start several processes on the processor, but starts one",
            f"use torchrun --nproc-per-node N -m creativewritinggpt {verb} … for processors",
        )
    if not size.isdigit() or int(size) < 2:
        return None
    from .distributed import accelerator_of

    return accelerator_of(int(size), device, verb, patience)


def gather(device: str | None, verb: str, patience: datetime.timedelta = PATIENCE) -> Processes:
    """The processes that a launcher has started together with this one; see :func:`join`."""
    accelerator = join(device, verb, patience)
    if accelerator is None:
        return ALONE
    from .distributed import Joined

    return Joined(accelerator)
