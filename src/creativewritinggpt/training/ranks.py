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

import contextlib
import datetime
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..models.scoring import Rows, token_nll
from ..models.writer import Writer
from .team import ProcessLost, Team

_BUCKET = 1 << 24
"""Numbers of a gradient that are exchanged at once: 64 MB."""

_PATIENCE = datetime.timedelta(hours=2)
"""How long processes wait for one that prepares the data."""


def join(size: int, device: str | None) -> Team:
    """Join the other processes of a launch.

    Args:
        size: Processes that the launcher says there are.
        device: The device as the settings name it.

    Raises:
        InputError: There is no launcher, the processes are not as many as it says, or the device
            can't be shared.
    """
    if "MASTER_ADDR" not in os.environ or "RANK" not in os.environ:
        raise InputError(
            f"WORLD_SIZE is {size}, but no launcher has started this process",
            f"torchrun --nproc-per-node {size} -m creativewritinggpt train …, or unset WORLD_SIZE",
        )
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind not in ("cpu", "cuda"):
        raise InputError(
            f"device is {kind}, and {size} processes can share only cpu or cuda",
            "leave --device out: each process takes a GPU of its own",
        )
    from accelerate import Accelerator, InitProcessGroupKwargs

    accelerator = Accelerator(
        cpu=kind == "cpu",
        mixed_precision="no",  # the writer's own autocast does it
        kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
    )
    if accelerator.num_processes != size:
        raise InputError(
            f"WORLD_SIZE is {size}, but {accelerator.num_processes} processes have joined",
            "start them with torchrun or accelerate launch, one for each device",
        )
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return Ranks(accelerator)
    from .shards import Shards

    return Shards(accelerator)


class Ranks(Team):
    """One of several processes with a replica each.

    Args:
        accelerator: Accelerate's view of the processes.
    """

    def __init__(self, accelerator: Any) -> None:
        self.accelerator = accelerator
        self.rank, self.size = accelerator.process_index, accelerator.num_processes
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

    def device(self, wanted: str | None) -> str | None:
        """This process's own device."""
        device: torch.device = self.accelerator.device
        return str(device) if device.type == "cuda" else device.type

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
            full = sum(member.numel() for member in bucket) >= _BUCKET
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
                "its own message says why; go on with --resume, with as many processes as you like",
            ) from error

    def score(self, writer: Writer, rows: Rows, batch_size: int) -> np.ndarray:
        """Each process scores its share of the rows."""
        mine = slice(self.rank, None, self.size)
        part: Any = rows.take(mine)  # type: ignore[attr-defined]
        found = np.zeros(rows.targets.shape, dtype=np.float64)
        if len(part):
            found[mine] = token_nll(writer, part, batch_size)
        return self._together(found)

    def _together(self, found: np.ndarray) -> np.ndarray:
        """Numbers of which each process has its rows, and zeros elsewhere."""
        summed = self._sum(torch.from_numpy(found).to(self.accelerator.device))
        return np.asarray(summed.cpu().numpy())

    def place(self, value: Tensor | None, like: Tensor) -> Tensor:
        """The first process's tensor, in every process."""
        held = torch.empty(like.shape, dtype=like.dtype, device=self.accelerator.device)
        if value is not None:
            held.copy_(value)
        with self.heard():
            torch.distributed.broadcast(held, 0)
        return held

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

    @contextlib.contextmanager
    def in_turn(self) -> Iterator[None]:
        """The first process of each machine goes before the others."""
        goes_first = self.accelerator.is_local_main_process
        if not goes_first:
            self.wait()
        yield
        if goes_first:
            self.wait()

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
