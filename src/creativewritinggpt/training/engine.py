"""One optimizer step's gradient, from packed rows.

The loss of a step is the sum over all its target tokens divided by their number, however the rows
are spread over micro-steps; so 8 rows at once, 2 × 4 and 8 × 1 give the same gradient.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch

from .. import console
from ..data.rows.packing import IGNORE, PackedRows, Rows
from ..devices import product_seconds
from ..errors import InputError
from ..models.attention import packed_inputs
from ..models.forward.int8 import seconds as int8_seconds
from ..models.loaded_model import LoadedModel
from ..models.scoring import body_and_head
from .fast.body import fast_body, has_fast_body
from .fast.varlen import end_to_end
from .loss import chunked_cross_entropy
from .projections import fused_projections


@contextlib.contextmanager
def fast_path(writer: LoadedModel, int8: bool = False, compiled: bool = False) -> Iterator[None]:
    """Let the block's passes take the fastest path that the model has.

    Args:
        writer: The model, made trainable.
        int8: Whether the frozen products are made in int8, where there is a fast path.
        compiled: Whether torch compiles what stands between the products.
    """
    # First, since it joins weights, which the others then refer to.
    body = fast_body(writer, int8=int8, compiled=compiled)
    with fused_projections(writer):
        writer.fast_body = body
        try:
            yield
        finally:
            writer.fast_body = None


def check_int8(writer: LoadedModel) -> None:
    """Refuse int8 products where there is no fast path, and tell where they are no faster.

    Raises:
        InputError: The model, the device or the method has none.
    """
    if not has_fast_body(writer):
        raise InputError(
            "precision int8 trains LoRA adapters of GPT-2, Llama and Qwen models on a CPU only",
            "leave --precision out",
        )
    threads = torch.get_num_threads()
    others = product_seconds(threads)
    slower = min(int8_seconds(threads).values()) / min(others.values())
    if slower > 1:
        console.warn(
            f"products in int8 take {slower:.1f} times as long as in "
            f"{min(others, key=lambda name: others[name])} on this processor; leave --precision out"
        )


def rows_at_once(writer: LoadedModel, max_length: int, most: int) -> int:
    """Rows that the path which a block takes is made for.

    Args:
        writer: The model, within its fast path if it has one.
        max_length: Tokens of a row.
        most: Rows that there are and that fit.
    """
    if writer.fast_body is None:
        return most
    made_for: int = writer.fast_body.tokens_at_once // max_length
    return max(1, min(most, made_for))


def summed_loss(writer: LoadedModel, batch: PackedRows) -> torch.Tensor:
    """The sum of the negative log-probabilities of the rows' target tokens, in nats.

    Args:
        writer: The model; gradients reach whatever of it requires them.
        batch: Packed rows, [batch, tokens].
    """
    body, weight, bias = body_and_head(writer.model)
    if writer.fast_body is not None:
        documents = end_to_end(batch)
        hidden, targets = writer.fast_body(documents), documents.targets
        chosen = targets != IGNORE
        with writer.device.autocast():
            return chunked_cross_entropy(
                hidden[chosen], weight, bias, targets[chosen], head_forward=writer.fast_body.head
            )
    ids, targets, positions, segments = (
        torch.from_numpy(array).to(writer.device.torch_device)
        for array in (batch.input_ids, batch.targets, batch.position_ids, batch.segment_ids)
    )
    with writer.device.autocast():
        hidden = body(input_ids=ids, **packed_inputs(segments, positions, writer.model))
        chosen = targets != IGNORE
        return chunked_cross_entropy(hidden[chosen], weight, bias, targets[chosen])


def accumulate_gradient(
    writer: LoadedModel,
    rows: Rows,
    indices: np.ndarray,
    batch_size: int,
    tokens: int | None = None,
) -> tuple[float, int]:
    """Add the gradient of a whole optimizer step to the parameters.

    Args:
        writer: The model.
        rows: The packed rows of the whole run; every row has a target.
        indices: The rows of the step, or this process's share of them.
        batch_size: Rows of a micro-step, see :func:`rows_at_once`.
        tokens: Target tokens of the whole step; those of ``indices`` without it.

    Returns:
        The loss of the step in nats a token (or this share's part of it), and its number of target
        tokens.
    """
    if tokens is None:
        tokens = int(rows.target_counts()[indices].sum())
    total = 0.0
    for start in range(0, len(indices), batch_size):
        loss = summed_loss(writer, rows.take(indices[start : start + batch_size]))
        (loss / tokens).backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return (total / tokens if tokens else 0.0), tokens
