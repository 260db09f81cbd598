"""Training loss without the whole matrix of logits, and the rows that fit into memory.

    hidden [N, d] ──chunk──► logits [C, V] ──► nats, softmax − one-hot ──► gradient [C, d]

Logits exist for one chunk of positions at a time: the loss is a plain sum, so the gradient of the
hidden states follows from a chunk's logits at once and is all that is kept for the backward pass. A
frozen head takes two matrix products this way instead of three.

The gradient of an optimizer step is that of all its rows for any micro-batch. On a CPU too large a
micro-batch swaps or gets the process killed, so the memory per row is measured on short rows before
the first step; a GPU reports that it is full, and the pass is repeated with half the rows.

Trade-off: the backward pass can't be differentiated again; measuring takes three forward passes
over short rows, but needs no formula per model.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from .. import console, devices
from ..data.rows.packing import IGNORE, PackedRows, Rows
from ..errors import RunError
from ..models.loaded_model import LoadedModel
from ..models.scoring import Head, body_and_head
from .fast.attention import end_to_end

CHUNK = 512
"""Positions per chunk: 50 MB of bf16 logits for a vocabulary of 50,000."""

_ROWS = 8
"""Rows of a chunk that a CPU turns into gradients at once: 1.6 MB, which stay in its cache."""


def _log_probabilities_(
    logits: Tensor, wanted: Tensor, bend: _Bend, share: Tensor | None
) -> Tensor:
    """Log-probabilities of the wanted tokens; the logits become their gradient.

    Computed in float32, some rows at a time, whatever the dtype of the logits.

    Args:
        logits: The head's product, [C, V]; replaced by the gradient of the summed loss.
        wanted: Token ids, [C, 1].
        bend: What comes between product and softmax.
        share: What each position counts, [C, 1], or None.

    Returns:
        float32, [C, 1].
    """
    rows = _ROWS if logits.device.type == "cpu" else len(logits)
    chosen = logits.new_empty(wanted.shape, dtype=torch.float32)
    place = logits.new_empty((min(rows, len(logits)), logits.shape[1]), dtype=torch.float32)
    for start in range(0, len(logits), rows):
        part, ids = logits[start : start + rows], wanted[start : start + rows]
        block = place[: len(part)].copy_(part)
        slope = bend.apply_(block)
        block.sub_(block.amax(-1, keepdim=True))
        difference = block.gather(1, ids)
        total = block.exp_().sum(-1, keepdim=True)
        chosen[start : start + rows] = difference.sub_(total.log())
        block.div_(total).scatter_add_(1, ids, block.new_full(ids.shape, -1.0))
        if share is not None:
            block.mul_(share[start : start + rows])
        if slope is not None:
            block.mul_(slope)
        part.copy_(block)
    return chosen


class _Bend(NamedTuple):
    """What a head does to its product: a bias, a factor, a bound."""

    bias: Tensor | None
    scale: float
    cap: float | None

    def apply_(self, block: Tensor) -> Tensor | float | None:
        """Bend float32 logits [R, V] in place; returns the slope, None where it is 1."""
        if self.bias is not None:
            block.add_(self.bias)
        if self.scale != 1.0:
            block.mul_(self.scale)
        slope = None if self.scale == 1.0 else self.scale
        if self.cap is None:
            return slope
        block.div_(self.cap).tanh_()
        bent = 1 - block.square()
        block.mul_(self.cap)
        return bent if slope is None else bent.mul_(slope)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scale: float,
        cap: float | None,
        targets: Tensor,
        chunk: int,
        head_forward: Callable[[Tensor], Tensor] | None,
        weights: Tensor | None,
    ) -> Tensor:
        device = hidden.device.type
        dtype = (
            torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        )
        with torch.autocast(device, enabled=False):
            product = weight.to(dtype)
            hidden_gradient = torch.empty_like(hidden)
            wants_weight, wants_bias = ctx.needs_input_grad[1], ctx.needs_input_grad[2]
            weight_gradient = torch.zeros_like(weight) if wants_weight else None
            bias_gradient = torch.zeros_like(bias) if wants_bias and bias is not None else None
            total = torch.zeros((), dtype=torch.float32, device=hidden.device)
            bend = _Bend(bias, scale, cap)
            # Memory reused for the logits of all chunks: allocating it costs more than the work.
            size = (min(chunk, len(hidden)), len(weight))
            place = hidden.new_empty(size if head_forward is None else 0, dtype=dtype)
            for start in range(0, hidden.shape[0], chunk):
                part = hidden[start : start + chunk].to(dtype)  # [C, d]
                wanted = targets[start : start + chunk, None]  # [C, 1]
                if head_forward is not None:
                    logits = head_forward(hidden[start : start + chunk])
                else:
                    logits = torch.mm(part, product.T, out=place[: len(part)])  # [C, V]
                share = None if weights is None else weights[start : start + chunk, None]
                chosen = _log_probabilities_(logits, wanted, bend, share)
                total -= chosen.sum() if share is None else (chosen * share).sum()
                gradient = logits.to(dtype)
                hidden_gradient[start : start + chunk] = gradient @ product
                if weight_gradient is not None:
                    weight_gradient += (gradient.T @ part).to(weight.dtype)
                if bias_gradient is not None:
                    bias_gradient += gradient.sum(0).to(bias_gradient.dtype)
        ctx.gradients = (hidden_gradient, weight_gradient, bias_gradient)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias = (
            None if gradient is None else gradient * scale.to(gradient.dtype)
            for gradient in ctx.gradients
        )
        return hidden, weight, bias, None, None, None, None, None, None


def chunked_cross_entropy(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    chunk: int = CHUNK,
    head_forward: Callable[[Tensor], Tensor] | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Sum of negative log-probabilities, with its gradient computed in the forward pass.

    Products run in autocast's dtype where it is on, sums and exponentials in float32.

    Args:
        hidden: Hidden states after the last norm, [N, d].
        head: The head; its weight, [V, d], gets a gradient only where it requires one.
        targets: Token ids, [N].
        chunk: Positions per chunk.
        head_forward: Computes the head's product, [C, d] to float32 [C, V], which is then modified;
            the gradient still uses the weight.
        weights: What each position counts, [N] float32, of either sign; 1 without it.

    Returns:
        The sum in nats (scalar, float32).
    """
    result: Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, head.weight, head.bias, head.scale, head.cap, targets, chunk, head_forward,
        weights,
    )  # fmt: skip
    return result


@dataclasses.dataclass(frozen=True)
class TargetStates:
    """Hidden states at the positions that have a target.

    Attributes:
        hidden: After the last norm, [N, d].
        targets: Token ids, [N].
        places: Index of each position in the flattened rows, [N].
        head: The output head.
        head_forward: Computes the head's product on the fast path, where it is not the plain one.
    """

    hidden: Tensor
    targets: Tensor
    places: Tensor
    head: Head
    head_forward: Callable[[Tensor], Tensor] | None = None


def target_states(model: LoadedModel, batch: PackedRows) -> TargetStates:
    """One pass of rows through the model's body, by the fastest path that it has.

    Args:
        model: The model.
        batch: Packed rows, [rows, tokens].
    """
    body, head = body_and_head(model.model)
    if model.fast_body is not None:
        documents = end_to_end(batch, model.fast_body.multiple)
        hidden, targets = model.fast_body(documents), documents.targets
        chosen = targets != IGNORE
        head = dataclasses.replace(head, weight=model.fast_body.head_weight)
        return TargetStates(
            hidden[chosen], targets[chosen], documents.places[chosen], head, model.fast_body.head
        )
    ids, targets, positions, segments = (
        torch.from_numpy(array).to(model.device.torch_device)
        for array in (batch.input_ids, batch.targets, batch.position_ids, batch.segment_ids)
    )
    with model.device.autocast():
        hidden = body.packed(ids, segments, positions)
    chosen = targets != IGNORE
    places = torch.nonzero(chosen.flatten())[:, 0]
    return TargetStates(hidden[chosen], targets[chosen], places, head)


def summed_loss(model: LoadedModel, batch: PackedRows) -> Tensor:
    """Sum of the negative log-probabilities of the rows' target tokens, in nats.

    Args:
        model: The model.
        batch: Packed rows, [rows, tokens].
    """
    states = target_states(model, batch)
    with model.device.autocast():
        return chunked_cross_entropy(
            states.hidden, states.head, states.targets, head_forward=states.head_forward
        )


T = TypeVar("T")

_LENGTHS = (32, 64, 96)
"""Lengths of the measured rows; a quadratic through them is extrapolated."""

_BACKWARD = 1.3
"""Peak memory of the backward pass over that of the forward pass."""

_MPS_ROWS = 4
"""An Apple GPU shares its memory with the machine, which gets slow before it is full."""

SPARE = 0.9
"""Share of the free memory that is used."""


def accumulate_gradient(
    model: LoadedModel, rows: Rows, indices: np.ndarray, batch_size: int, tokens: int | None = None
) -> tuple[float, int]:
    """Add the gradient of an optimizer step to the parameters.

    Args:
        model: The model.
        rows: Packed rows; every row has a target.
        indices: The step's rows, or this process's share of them, [rows].
        batch_size: Rows per micro-batch.
        tokens: Target tokens of the whole step; those of ``indices`` without it.

    Returns:
        The loss of the step in nats per token (or this share's part), and its target tokens.
    """
    if tokens is None:
        tokens = int(rows.target_counts()[indices].sum())
    total = 0.0
    for start in range(0, len(indices), batch_size):
        loss = summed_loss(model, rows.take(indices[start : start + batch_size]))
        (loss / tokens).backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return (total / tokens if tokens else 0.0), tokens


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
