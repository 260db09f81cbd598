"""Process group: the processes that ``torchrun`` or ``accelerate launch`` has started together.

Work that several processes can share takes a :class:`ProcessGroup`. In a single process every
collective returns its argument; :func:`init_process_group` gives the group of a launch, joined by
Accelerate.

Trade-off: a foreseen error (``UserError``) is exchanged at fixed places, so that all processes end
with one line; an error in one process is therefore reported only when the others arrive there.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from . import console
from .errors import InputError, RunError, UserError

Result = TypeVar("Result")
Number = TypeVar("Number", bound=np.generic)

BUCKET = 1 << 24
"""Numbers exchanged by one collective: 64 MB in fp32."""

START_TIMEOUT = datetime.timedelta(minutes=10)
"""Time for all processes to start; torchrun's own default."""

COLLECTIVE_TIMEOUT = datetime.timedelta(hours=2)
"""Time that a collective waits, which covers one process that prepares the data."""

NOTE_AFTER = 20.0
"""Seconds of waiting for the other processes after which a note says so."""


class ProcessLost(RunError):
    """Another process of the group has ended."""


class RemoteError(UserError):
    """A ``UserError`` in another process, which reports it.

    Args:
        rank: Rank of that process.
        exit_code: Exit code of its error.
    """

    def __init__(self, rank: int, exit_code: int) -> None:
        super().__init__(f"process {rank} has an error, and says which")
        self.exit_code = exit_code


class ProcessGroup:
    """The processes of a launch; without ``accelerator`` one process, whose collectives do nothing.

    Args:
        accelerator: Accelerate's ``Accelerator``, which has joined the processes.
        lost_advice: What to do where another process has ended, for ``ProcessLost``.

    Attributes:
        rank: Rank of this process.
        size: Number of processes.
        local_size: Number of processes on this machine.
        is_main: Whether this process writes files and messages for the group.
        is_local_main: Whether it is the main process of its machine.
    """

    def __init__(
        self, accelerator: Any = None, lost_advice: str = "its own message says why"
    ) -> None:
        self.accelerator, self.lost_advice = accelerator, lost_advice
        self.rank, self.size, self.local_size = 0, 1, 1
        self.is_local_main = True
        if accelerator is not None:
            self.rank, self.size = accelerator.process_index, accelerator.num_processes
            self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            self.is_local_main = accelerator.is_local_main_process
        self.is_main = self.rank == 0

    def device(self, wanted: str | None) -> str | None:
        """Device of this process, where the settings say ``wanted``."""
        if self.size == 1:
            return wanted
        device: torch.device = self.accelerator.device
        return str(device) if device.type == "cuda" else device.type

    @contextlib.contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Translate a failed collective into ``ProcessLost``."""
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, ProcessLost):
                raise
            raise ProcessLost(
                "another process of the run has ended, or can't be reached any more",
                self.lost_advice,
            ) from error

    def _sum(self, tensor: Tensor) -> Tensor:
        with self.translate_errors():
            summed: Tensor = self.accelerator.reduce(tensor, "sum")
            return summed

    def all_reduce(self, values: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """Elementwise sum over the processes, in buckets that a device has room for."""
        if self.size == 1:
            return values
        flat = np.ascontiguousarray(values).reshape(-1)
        result = np.empty_like(flat)
        for start in range(0, len(flat), BUCKET):
            part = slice(start, start + BUCKET)
            # A copy: the collective may write into its input.
            bucket = torch.from_numpy(flat[part].copy()).to(self.accelerator.device)
            result[part] = self._sum(bucket).cpu().numpy()
        return result.reshape(values.shape)

    def all_reduce_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Sum of the gradients over the processes, in place; a missing gradient counts as zero.

        Trade-off: one exchange after the backward pass, instead of DistributedDataParallel's hooks
        during it: any path through the model works, and a process may have no row in a step. It
        costs time only for large gradients (``method: full``) on slow networks.
        """
        if self.size == 1:
            return
        bucket: list[Tensor] = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            bucket.append(parameter.grad)
            if sum(gradient.numel() for gradient in bucket) >= BUCKET:
                self._sum_bucket(bucket)
                bucket = []
        if bucket:
            self._sum_bucket(bucket)

    def _sum_bucket(self, bucket: Sequence[Tensor]) -> None:
        summed = self._sum(torch.cat([tensor.reshape(-1) for tensor in bucket]))
        parts = torch.split(summed, [tensor.numel() for tensor in bucket])
        for tensor, part in zip(bucket, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def broadcast(self, value: Tensor | None, like: Tensor) -> Tensor:
        """Tensor of the main process on the device of ``like``, in every process.

        Args:
            value: The tensor; None in all processes but the main one.
            like: A tensor of its shape and dtype.
        """
        if self.size == 1:
            assert value is not None
            return value.to(like.device)
        result = torch.empty(like.shape, dtype=like.dtype, device=self.accelerator.device)
        if value is not None:
            result.copy_(value)
        with self.translate_errors():
            torch.distributed.broadcast(result, 0)
        return result

    def broadcast_text(self, text: str) -> str:
        """Text of the main process, in every process."""
        return self.all_gather_text(text if self.is_main else "")[0]

    def all_gather_text(self, text: str) -> list[str]:
        """Text of each process by rank, in every process."""
        if self.size == 1:
            return [text]
        content = np.frombuffer(text.encode(), dtype=np.uint8)
        lengths = np.zeros(self.size, dtype=np.int64)
        lengths[self.rank] = len(content)
        lengths = self.all_reduce(lengths)
        padded = torch.zeros(int(lengths.max()), dtype=torch.uint8, device=self.accelerator.device)
        padded[: len(content)] = torch.from_numpy(content.copy())
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        with self.translate_errors():
            torch.distributed.all_gather(parts, padded)
        return [
            bytes(part[:length].cpu().numpy()).decode()
            for part, length in zip(parts, lengths.tolist(), strict=True)
        ]

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            with self.translate_errors():
                torch.distributed.barrier()

    @contextlib.contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Run the block first in the main process of each machine; the others find its cache."""
        if not self.is_local_main:
            self.barrier()
        yield
        if self.is_local_main:
            self.barrier()

    @contextlib.contextmanager
    def share_errors(self) -> Iterator[None]:
        """Raise a ``UserError`` of one process in all; the block must not use collectives.

        Raises:
            UserError: The block's own error, in the first process that has one.
            RemoteError: In the others.
        """
        own: UserError | None = None
        try:
            yield
        except UserError as error:
            own = error
        codes = [int(code) for code in self.all_gather_text(str(own.exit_code if own else 0))]
        failed = next((rank for rank, code in enumerate(codes) if code), None)
        if own is not None and failed == self.rank:
            raise own
        if failed is not None:
            raise RemoteError(failed, codes[failed])

    def run_main_first(self, work: Callable[[], Result]) -> Result:
        """Result of ``work``, done first in the main process of each machine, errors shared."""
        done: list[Result] = []
        for turn in (True, False):
            with self.share_errors():
                if self.is_local_main is turn:
                    done.append(work())
        return done[0]

    def assert_same(self, value: Callable[[], str], what: str) -> None:
        """Refuse a value that differs from the main process's.

        Args:
            value: Computes the value; not called in a single process.
            what: What it stands for, in the plural, for the message.

        Raises:
            InputError: It differs.
            RemoteError: It differs in another process.
        """
        if self.size == 1:
            return
        own = value()
        wanted = self.broadcast_text(own)
        with self.share_errors():
            if own != wanted:
                raise InputError(
                    f"this process has other {what} than the first one",
                    "give every machine the same files and settings",
                )

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Context of all work of the group; only the main process writes more than errors."""
        if self.size == 1:
            yield
            return
        with contextlib.ExitStack() as stack:
            if not self.is_main:
                silence = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(contextlib.redirect_stderr(silence))
            whole = False
            try:
                yield
                self.barrier()
                whole = True
            finally:
                # NCCL would wait for processes that have ended.
                if whole or torch.distributed.get_backend() == "gloo":
                    self.accelerator.end_training()


SINGLE_PROCESS = ProcessGroup()


def init_process_group(
    device: str | None,
    verb: str,
    timeout: datetime.timedelta = COLLECTIVE_TIMEOUT,
    **options: Any,
) -> ProcessGroup:
    """The group that this process was launched in; ``SINGLE_PROCESS`` without a launcher.

    Args:
        device: Device as the settings name it.
        verb: Command that was launched, for the messages.
        timeout: Time that a collective waits for the other processes.
        **options: Of :class:`ProcessGroup`.

    Raises:
        InputError: The launcher's variables contradict each other, or the device can't be shared.
        RunError: The other processes have not started in time.
    """
    if "WORLD_SIZE" not in os.environ and {"ACCELERATE_USE_CPU", "MASTER_ADDR"} <= set(os.environ):
        raise InputError(
            "accelerate launch was to start several processes on the processor, but starts one",
            f"use torchrun --nproc-per-node N -m creativewritinggpt {verb} … for processors",
        )
    told = os.environ.get("WORLD_SIZE", "1")
    size = int(told) if told.isdigit() else 1
    if size < 2:
        return SINGLE_PROCESS
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    _check_launch(size, kind, verb)
    from accelerate import Accelerator, InitProcessGroupKwargs

    store = _rendezvous(size)
    accelerator = Accelerator(
        cpu=kind == "cpu",
        mixed_precision="no",  # the model's own autocast sets the precision
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timeout)],
    )
    del store  # Accelerate has joined by now
    if accelerator.num_processes != size:
        raise InputError(
            f"WORLD_SIZE is {size}, but {accelerator.num_processes} processes have joined",
            "start them with torchrun or accelerate launch, one for each device",
        )
    return ProcessGroup(accelerator, **options)


def _check_launch(size: int, device: str, verb: str) -> None:
    """Check the launcher's variables; torch would wait for hours or end in a traceback.

    Raises:
        InputError: Naming the variable.
    """
    if "MASTER_ADDR" not in os.environ or "RANK" not in os.environ:
        raise InputError(
            f"WORLD_SIZE is {size}, but no launcher has started this process",
            f"torchrun --nproc-per-node {size} -m creativewritinggpt {verb} …, or unset WORLD_SIZE",
        )
    if device not in ("cpu", "cuda"):
        raise InputError(
            f"device is {device}, and {size} processes can share only cpu or cuda",
            "leave --device out: each process takes a GPU of its own",
        )
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


def _rendezvous(size: int) -> Any:
    """Wait until all processes of the launch have started.

    The wait runs in a thread, since Ctrl-C does not interrupt torch's own wait.

    Returns:
        The store, which must live until Accelerate has joined.

    Raises:
        RunError: A process has not started in time.
    """
    from torch.distributed.rendezvous import rendezvous

    found: list[Any] = []

    def wait() -> None:
        try:
            found.append(next(rendezvous("env://", timeout=START_TIMEOUT))[0])
        except Exception as error:
            found.append(error)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    waiting.join(NOTE_AFTER)
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
