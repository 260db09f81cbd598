"""What a text is compared with: embeddings that say nothing, and whether the choice matters.

Integrated gradients explain the difference between a text and a baseline, so that another baseline
is another question. None is right for all; so there are three, and their agreement is a number. In
each the start token stays what it is: models rest their attention on it, and without it the path
would lead through states that no text produces. A token that equals the baseline gets nothing by
construction, whatever it does.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...models.loaded_model import LoadedModel
from ..runtime.forward import embeddings

BASELINES = ("end_of_text", "mean", "zero")
# Embeddings summed at once for their mean.
_CHUNK = 8192


def check_baseline(kind: str) -> None:
    """Refuse a baseline that does not exist.

    Raises:
        InputError: There is no such baseline.
    """
    if kind not in BASELINES:
        raise InputError(f"there is no baseline '{kind}'", f"choose one of {', '.join(BASELINES)}")


def baseline_embedding(writer: LoadedModel, kind: str) -> Tensor:
    """The embedding that stands at every position of the baseline.

    Args:
        writer: The model.
        kind: ``end_of_text`` (the token that ends a text), ``mean`` (of all tokens) or ``zero``.

    Returns:
        ``[width]``.

    Raises:
        InputError: There is no such baseline.
    """
    check_baseline(kind)
    device = writer.device.torch_device
    end = embeddings(writer, torch.tensor([writer.eos_id], device=device))[0]
    if kind == "zero":
        return torch.zeros_like(end)
    if kind == "mean":
        rows = int(writer.bare.get_input_embeddings().weight.shape[0])
        total = torch.zeros_like(end)
        for ids in torch.split(torch.arange(rows, device=device), _CHUNK):
            total += embeddings(writer, ids).sum(0)
        return total / rows
    return end


def baseline_text(writer: LoadedModel, ids: Tensor, kind: str) -> Tensor:
    """The baseline of a text: the start token, and what says nothing at every other position.

    Args:
        writer: The model.
        ids: ``[rows, tokens]``, the start token first.
        kind: As for :func:`baseline_embedding`.

    Returns:
        ``[rows, tokens, width]``.
    """
    start = embeddings(writer, ids[:, :1])
    rest = baseline_embedding(writer, kind).expand(len(ids), ids.shape[1] - 1, -1)
    return torch.cat([start, rest], 1)


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation of two vectors, ties at their mean rank.

    Returns:
        -1…1; nan where a vector has fewer than two different values.
    """
    ranks = [_ranks(np.asarray(values, dtype=np.float64)) for values in (first, second)]
    a, b = (rank - rank.mean() for rank in ranks)
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else float("nan")


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0 on; equal values share their mean rank."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    result: np.ndarray = (last - (counts + 1) / 2)[group]
    return result
