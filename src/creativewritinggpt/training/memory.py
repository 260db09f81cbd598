"""Micro-batch size: rows per pass that fit into memory.

The gradient of an optimizer step is that of all its rows for any micro-batch. On a CPU too large a
micro-batch swaps or gets the process killed, so the memory per row is measured on short rows before
the first step; a GPU reports that it is full, and the pass is repeated with half the rows.

Trade-off: measuring takes three forward passes over short rows, but needs no formula per model.
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
from .loss import CHUNK, summed_loss

T = TypeVar("T")

_LENGTHS = (32, 64, 96)
"""Lengths of the measured rows; a quadratic through them is extrapolated."""

_BACKWARD = 1.3
"""Peak memory of the backward pass over that of the forward pass."""

_MPS_ROWS = 4
"""An Apple GPU shares its memory with the machine, which gets slow before it is full."""

SPARE = 0.9
"""Share of the free memory that is used."""


class MicroBatch:
    """Rows per pass, halved when the device is out of memory.

    Args:
        rows: Rows to begin with, at least 1.
        max_length: Tokens per row, for the message.
    """

    def __init__(self, rows: int, max_length: int) -> None:
        self.rows, self.max_length = rows, max_length

    def run(self, work: Callable[[int], T], undo: Callable[[], None] = lambda: None) -> T:
        """Call ``work(rows)``, again with half the rows as long as they don't fit.

        Args:
            work: What takes memory.
            undo: Reverts what ``work`` has changed before it failed.

        Raises:
            RunError: Not even one row fits.
        """
        while True:
            try:
                return work(self.rows)
            except RuntimeError as error:
                if not devices.is_out_of_memory(error):
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
                f"out of memory: going on with micro-batches of "
                f"{console.counted(self.rows, 'row')}; the rows of an optimizer step stay the same"
            )


def fitting_rows(model: LoadedModel, max_length: int, wanted: int, processes: int = 1) -> int:
    """Rows per pass that fit into a CPU's free memory.

    Args:
        model: The model, made trainable.
        max_length: Tokens per row.
        wanted: Rows that the settings ask for.
        processes: Processes that share the machine.

    Returns:
        ``wanted`` or fewer; on CUDA always ``wanted``.

    Raises:
        RunError: Not even one row fits.
    """
    kind = model.device.torch_device.type
    if kind != "cpu":
        return min(wanted, _MPS_ROWS) if kind == "mps" else wanted
    free = devices.memory()[1] / processes
    row, fixed = bytes_per_row(model, max_length), fixed_bytes(model)
    rows = int((SPARE * free - fixed) / row)
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


def fixed_bytes(model: LoadedModel) -> float:
    """Memory of a step for any number of rows: gradients, moments, logits of a chunk."""
    trained: int = sum(
        p.numel() * p.element_size() for p in model.model.parameters() if p.requires_grad
    )
    vocabulary = int(model.bare.config.vocab_size)
    return float(3 * trained + 12 * CHUNK * vocabulary)


def bytes_per_row(model: LoadedModel, max_length: int) -> float:
    """Memory of a row in a training step, extrapolated from what autograd keeps of short rows.

    One part grows with the row, one with its square (attention masks).

    Args:
        model: The model, made trainable.
        max_length: Tokens per row.
    """
    lengths = [length for length in _LENGTHS if length <= model.context_length] or [
        model.context_length
    ]
    kept = [_kept_bytes(model, length) for length in lengths]
    curve = np.polyfit(lengths, kept, len(lengths) - 1)
    square, line = ([0.0, 0.0, *curve[:-1]])[-2:]  # without the constant part
    return float(_BACKWARD * (max(square, 0.0) * max_length**2 + max(line, 1.0) * max_length))


def _kept_bytes(model: LoadedModel, length: int) -> int:
    """Bytes that autograd keeps of one row with two documents."""
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
        # Detached: otherwise what a function saves of its own output is never freed.
        return tensor.detach()

    was_training = model.model.training
    model.model.train()
    with (
        torch.random.fork_rng(devices=[]),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        # The loss holds the pass's tensors until it is deleted, so no address comes twice.
        loss = summed_loss(model, row)
    del loss
    model.model.train(was_training)
    return sum(kept.values())
