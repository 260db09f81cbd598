"""Several processes that a launcher has started together, joined by Accelerate.

They talk in tensors: sums, and text as bytes. What one of them can't do, for a reason that a person
can understand, is exchanged at fixed places, so that all end with one line; what is not foreseen
ends its own process at once, and the launcher the others. The price of the first is that an error
in one process waits for the others to come to the same place.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from . import console
from .errors import InputError, RunError, UserError
from .processes import Processes, ProcessLost, Result, SaidElsewhere

BUCKET = 1 << 24
"""Numbers that are exchanged at once: 64 MB in fp32."""

_MEETING = datetime.timedelta(minutes=10)
"""How long the first process waits for the others to start; torchrun waits as long."""

_QUIET = 20.0
"""Seconds after which the waiting is spoken of."""


def accelerator_of(size: int, device: str | None, verb: str, patience: datetime.timedelta) -> Any:
    """Join the other processes of a launch.

    Args:
        size: Processes that the launcher says there are.
        device: The device as the settings name it.
        verb: What they were started for, as ``train``.
        patience: How long a process waits for the others.

    Returns:
        Accelerate's view of the processes.

    Raises:
        InputError: There is no launcher, the processes are not as many as it says, or the device
            can't be shared.
        RunError: The others have not come.
    """
    if "MASTER_ADDR" not in os.environ or "RANK" not in os.environ:
        raise InputError(
            f"WORLD_SIZE is {size}, but no launcher has started this process",
            f"torchrun --nproc-per-node {size} -m creativewritinggpt {verb} …, or unset WORLD_SIZE",
        )
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind not in ("cpu", "cuda"):
        raise InputError(
            f"device is {kind}, and {size} processes can share only cpu or cuda",
            "leave --device out: each process takes a GPU of its own",
        )
    _check_places(size)
    from accelerate import Accelerator, InitProcessGroupKwargs

    met = _meet(size)
    accelerator = Accelerator(
        cpu=kind == "cpu",
        mixed_precision="no",  # the writer's own autocast does it
        kwargs_handlers=[InitProcessGroupKwargs(timeout=patience)],
    )
    del met  # Accelerate has joined the same meeting
    if accelerator.num_processes != size:
        raise InputError(
            f"WORLD_SIZE is {size}, but {accelerator.num_processes} processes have joined",
            "start them with torchrun or accelerate launch, one for each device",
        )
    return accelerator


def _check_places(size: int) -> None:
    """Refuse what no launcher says of a process; torch would wait for hours or end in a traceback.

    Raises:
        InputError: Naming the variable.
    """
    for name in ("RANK", "LOCAL_RANK"):
        rank = os.environ.get(name, "0")
        if not (rank.isdecimal() and int(rank) < size):
            raise InputError(
                f"{name} is {rank}, but WORLD_SIZE is {size}",
                f"give each process a number from 0 to {size - 1}, as torchrun does",
            )
    port = os.environ.setdefault("MASTER_PORT", "29500")
    if not (port.isdecimal() and 0 < int(port) < 65536):
        raise InputError(f"MASTER_PORT is {port}", "give a number from 1 to 65535")


def _meet(size: int) -> Any:
    """Wait until the processes of a launch are there.

    Accelerate would wait as long as a later exchange may take, and Ctrl-C does not reach what waits
    in torch; so it is a thread that waits.

    Returns:
        What keeps the meeting open until Accelerate has joined it.

    Raises:
        RunError: Somebody has not come.
    """
    from torch.distributed.rendezvous import rendezvous

    found: list[Any] = []

    def wait() -> None:
        try:
            found.append(next(rendezvous("env://", timeout=_MEETING))[0])
        except Exception as error:
            found.append(error)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    waiting.join(_QUIET)
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    if waiting.is_alive():
        console.note(f"waiting at {place} for the other processes: WORLD_SIZE is {size}")
        waiting.join()
    if isinstance(found[0], Exception):
        reason = (str(found[0]).strip().splitlines() or ["no reason given"])[0][:200]
        raise RunError(
            f"the {size} processes of this launch could not meet at {place}: {reason}",
            "start all of them together, as torchrun does, or unset WORLD_SIZE to work alone",
        ) from found[0]
    return found[0]


class Joined(Processes):
    """One of several processes.

    Args:
        accelerator: Accelerate's view of them.
    """

    lost_advice = "its own message says why"

    def __init__(self, accelerator: Any) -> None:
        self.accelerator = accelerator
        self.rank, self.size = accelerator.process_index, accelerator.num_processes
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

    def device(self, wanted: str | None) -> str | None:
        """This process's own device."""
        device: torch.device = self.accelerator.device
        return str(device) if device.type == "cuda" else device.type

    def _sum(self, tensor: Tensor) -> Tensor:
        with self.heard():
            summed: Tensor = self.accelerator.reduce(tensor, "sum")
            return summed

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Turn the silence of another process into a sentence.

        Raises:
            ProcessLost: Another process has ended.
        """
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, ProcessLost):
                raise
            raise ProcessLost(
                "another process of the run has ended, or can't be reached any more",
                self.lost_advice,
            ) from error

    def told(self, text: str) -> str:
        """What the first process says, in every process."""
        device = self.accelerator.device
        content = torch.tensor(list(text.encode()), dtype=torch.uint8, device=device)
        length = torch.tensor([len(content)], device=device)
        with self.heard():
            torch.distributed.broadcast(length, 0)
            held = (
                content
                if self.first
                else torch.empty(int(length), dtype=torch.uint8, device=device)
            )
            torch.distributed.broadcast(held, 0)
        return bytes(held.cpu().numpy()).decode()

    def all_told(self, text: str) -> list[str]:
        """What each process says, in every process."""
        device = self.accelerator.device
        content = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).to(device)
        lengths = torch.zeros(self.size, dtype=torch.int64, device=device)
        lengths[self.rank] = len(content)
        lengths = self._sum(lengths)
        room = torch.zeros(int(lengths.max()), dtype=torch.uint8, device=device)
        room[: len(content)] = content
        held = [torch.empty_like(room) for _ in range(self.size)]
        with self.heard():
            torch.distributed.all_gather(held, room)
        return [
            bytes(part[: int(length)].cpu().numpy()).decode()
            for part, length in zip(held, lengths, strict=True)
        ]

    def total(self, count: int) -> int:
        """The sum of a number that each process has."""
        return int(self._sum(torch.tensor([count], device=self.accelerator.device))[0])

    def added(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The sums of numbers that each process has, in pieces that a device has room for."""
        flat = np.ascontiguousarray(values).reshape(-1)
        result = np.empty_like(flat)
        for start in range(0, len(flat), BUCKET):
            part = slice(start, start + BUCKET)
            # A copy: the exchange may write where it reads.
            held = torch.from_numpy(flat[part].copy()).to(self.accelerator.device)
            result[part] = self._sum(held).cpu().numpy()
        return result.reshape(values.shape)

    @contextlib.contextmanager
    def in_turn(self) -> Iterator[None]:
        """The first process of each machine goes before the others."""
        goes_first = self.accelerator.is_local_main_process
        if not goes_first:
            self.wait()
        yield
        if goes_first:
            self.wait()

    @contextlib.contextmanager
    def agreed(self) -> Iterator[None]:
        """Exchange whether each process could do the block."""
        own: UserError | None = None
        try:
            yield
        except UserError as error:
            own = error
        codes = [int(code) for code in self.all_told(str(own.exit_code if own else 0))]
        speaker = next((rank for rank, code in enumerate(codes) if code), None)
        if own is not None and speaker == self.rank:
            raise own
        if speaker is not None:
            raise SaidElsewhere(speaker, codes[speaker])

    def prepared(self, work: Callable[[], Result]) -> Result:
        """The first process of each machine works before the others."""
        done: list[Result] = []
        for turn in (True, False):
            with self.agreed():
                if self.accelerator.is_local_main_process is turn:
                    done.append(work())
        return done[0]

    def alike(self, value: Callable[[], str], what: str) -> None:
        """Compare with the first process."""
        own = value()
        wanted = self.told(own)
        with self.agreed():
            if own != wanted:
                raise InputError(
                    f"this process has other {what} than the first one",
                    "give every machine the same files and settings",
                )

    def wait(self) -> None:
        """Wait until every process has come here."""
        with self.heard():
            torch.distributed.barrier()

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """Only the first process speaks; the others say nothing but their errors."""
        with contextlib.ExitStack() as stack:
            if not self.first:
                silence = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(contextlib.redirect_stderr(silence))
            whole = False
            try:
                yield
                self.wait()
                whole = True
            finally:
                # NCCL would wait for the processes that are gone.
                if whole or torch.distributed.get_backend() == "gloo":
                    self.accelerator.end_training()
