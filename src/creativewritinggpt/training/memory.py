"""How many rows go through the model at once: what fits, and fewer where it does not.

The rows of an optimizer step are the user's to choose, how they are cut into micro-steps is ours:
the gradient is that of the whole step either way. On a processor too large a cut is no error but a
machine that swaps or a process that is killed, so what a row takes is measured on short rows before
the first step, and compared with the memory that is free. A GPU says when it is full: the step is
then done again with half the rows. The price of a measurement instead of a formula is some passes
over short rows, well under a second for a small model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

from .. import console, devices
from ..data.rows.packing import PackedRows
from ..errors import RunError
from ..models.loaded_model import LoadedModel
from .engine import summed_loss
from .loss import CHUNK

T = TypeVar("T")

_LENGTHS = (32, 64, 96)
"""Short rows; what they keep gives the share that grows with a row and with its square."""

_BACKWARD = 1.3
"""What the backward pass adds at its height to what the forward pass has kept."""

_MPS_ROWS = 4
"""An Apple GPU shares its memory with the machine, which gets slow long before it is full."""

_SPARE = 0.9
"""The share of the free memory that is counted on."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch says that the device is full."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError)
        and ("out of memory" in text or "can't allocate memory" in text)
    )


class MicroBatch:
    """The rows of a micro-step; fewer once the device was full.

    Args:
        rows: Rows to begin with, at least 1.
        max_length: Tokens of a row, for the message.
    """

    def __init__(self, rows: int, max_length: int) -> None:
        self.rows, self.max_length = rows, max_length

    def fitted(self, work: Callable[[int], T], undo: Callable[[], None]) -> T:
        """Do ``work(rows)``, again with half the rows as long as they don't fit.

        Args:
            work: What takes memory.
            undo: Puts back what ``work`` has changed before it failed.

        Raises:
            RunError: Not even one row fits.
        """
        while True:
            try:
                return work(self.rows)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                text = str(error)
            # Outside the handler: the error's traceback holds the tensors of the failed pass.
            undo()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if torch.backends.mps.is_available():
                torch.mps.empty_cache()
            if self.rows == 1:
                raise RunError(
                    f"there is not enough memory for one row of {self.max_length} tokens "
                    f"({text.splitlines()[0][:100]})",
                    "try a smaller --max-length, or end other programs on the device",
                )
            self.rows = math.ceil(self.rows / 2)
            console.note(
                f"out of memory: going on with micro-steps of {self.rows} rows; the rows of an "
                "optimizer step stay the same"
            )


def fitting_rows(writer: LoadedModel, max_length: int, wanted: int, processes: int = 1) -> int:
    """How many of the rows wanted fit into the memory that a processor has free.

    Args:
        writer: The model, made trainable.
        max_length: Tokens of a row.
        wanted: Rows of a micro-step as the settings ask.
        processes: Processes that share the machine.

    Returns:
        ``wanted``, or fewer; on CUDA always ``wanted``, since it says when it is full.

    Raises:
        RunError: Not even one row fits.
    """
    kind = writer.device.torch_device.type
    if kind != "cpu":
        return min(wanted, _MPS_ROWS) if kind == "mps" else wanted
    free = devices.memory()[1] / processes
    row, fixed = bytes_of_a_row(writer, max_length), _fixed_bytes(writer)
    rows = int((_SPARE * free - fixed) / row)
    if rows < 1:
        raise RunError(
            f"one row of {max_length} tokens takes about {console.size(fixed + row)} to train on, "
            f"and {console.size(free)} of memory are free",
            "try a smaller --max-length, or end other programs",
        )
    if rows < wanted:
        console.note(
            f"{console.size(free)} of memory are free: {rows} of {wanted} rows go through the "
            "model at once; the rows of an optimizer step stay the same"
        )
    return min(rows, wanted)


def _fixed_bytes(writer: LoadedModel) -> float:
    """What a step takes however many rows it has: gradients, moments, logits of a chunk."""
    trained: int = sum(
        p.numel() * p.element_size() for p in writer.model.parameters() if p.requires_grad
    )
    vocabulary = int(writer.bare.config.vocab_size)
    return float(3 * trained + 12 * CHUNK * vocabulary)


def bytes_of_a_row(writer: LoadedModel, max_length: int) -> float:
    """Memory that one row takes in a training step, in bytes.

    Measured on rows of two short documents: what autograd keeps of them, extrapolated with a share
    that grows with the row and one that grows with its square (attention masks).

    Args:
        writer: The model, made trainable.
        max_length: Tokens of a row.
    """
    lengths = [length for length in _LENGTHS if length <= writer.window] or [writer.window]
    kept = [_kept_bytes(writer, length) for length in lengths]
    curve = np.polyfit(lengths, kept, len(lengths) - 1)
    square, line = ([0.0, 0.0, *curve[:-1]])[-2:]
    # The part that no row changes is left out: it is there already.
    return float(_BACKWARD * (max(square, 0.0) * max_length**2 + max(line, 1.0) * max_length))


def _kept_bytes(writer: LoadedModel, length: int) -> int:
    """What autograd keeps of one row of two documents."""
    half = length // 2
    segments = np.where(np.arange(length) < half, 1, 2).astype(np.int32)[None]
    ids = np.zeros((1, length), dtype=np.int64)
    positions = np.concatenate([np.arange(half), np.arange(length - half)])[None]
    row = PackedRows(
        input_ids=ids, targets=ids, position_ids=positions, segment_ids=segments,
        document_ids=segments, is_eos=ids.astype(bool),
    )  # fmt: skip
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        # Without its history: with it, what a function saves of its own output is never let go.
        return tensor.detach()

    was_training = writer.model.training
    writer.model.train()
    with (
        torch.random.fork_rng(devices=[]),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        # The loss holds the pass's tensors until it is gone, so that no address comes twice.
        loss = summed_loss(writer, row)
    del loss
    writer.model.train(was_training)
    return sum(kept.values())
