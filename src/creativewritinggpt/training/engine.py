"""One optimizer step's gradient, from packed rows.

The loss of a step is the sum over all its target tokens divided by their number, however the rows
are spread over micro-steps; so 8 rows at once, 2 × 4 and 8 × 1 give the same gradient.
"""

from __future__ import annotations

import numpy as np
import torch

from ..data.packing import IGNORE, PackedRows, RowPlan
from ..models.attention import packed_inputs
from ..models.scoring import body_and_head
from ..models.writer import Writer
from .loss import chunked_cross_entropy


def summed_loss(writer: Writer, batch: PackedRows) -> torch.Tensor:
    """The sum of the negative log-probabilities of the rows' target tokens, in nats.

    Args:
        writer: The model; gradients reach whatever of it requires them.
        batch: Packed rows, [batch, tokens].
    """
    ids, targets, positions, segments = (
        torch.from_numpy(array).to(writer.device.torch_device)
        for array in (batch.input_ids, batch.targets, batch.position_ids, batch.segment_ids)
    )
    body, weight, bias = body_and_head(writer.model)
    with writer.device.autocast():
        hidden = body(input_ids=ids, **packed_inputs(segments, positions, writer.model))
        chosen = targets != IGNORE
        return chunked_cross_entropy(hidden[chosen], weight, bias, targets[chosen])


def accumulate_gradient(
    writer: Writer,
    rows: RowPlan,
    indices: np.ndarray,
    batch_size: int,
    tokens: int | None = None,
) -> tuple[float, int]:
    """Add the gradient of a whole optimizer step to the parameters.

    Args:
        writer: The model.
        rows: The packed rows of the whole run; every row has a target.
        indices: The rows of the step, or this process's share of them.
        batch_size: Rows in a micro-step.
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
