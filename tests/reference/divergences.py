"""Divergences of a text with replacements by two whole passes and all logits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from creativewritinggpt.models.loaded_model import LoadedModel


def plain_divergences(
    writer: LoadedModel, ids: Sequence[int], variant: Sequence[int]
) -> dict[str, np.ndarray]:
    """What :func:`creativewritinggpt.analysis.methods.perturbation.perturb` averages.

    Args:
        writer: The model.
        ids: The text.
        variant: The text with replacements.

    Returns:
        ``kl``, ``js`` and ``flips`` ``[tokens]``, and the log-probabilities ``[tokens,
        vocabulary]`` as ``original`` and ``variant``.
    """
    device = writer.device.torch_device
    with torch.no_grad():
        log_p, log_q = (
            torch.log_softmax(
                writer.model(input_ids=torch.tensor([list(row)], device=device)).logits[0].double(),
                -1,
            )
            for row in (ids, variant)
        )
    p, q = log_p.exp(), log_q.exp()
    log_m = ((p + q) / 2).log()
    js = ((p * (log_p - log_m)).sum(-1) + (q * (log_q - log_m)).sum(-1)) / 2
    return {
        "kl": (p * (log_p - log_q)).sum(-1).numpy(),
        "js": js.numpy(),
        "flips": (log_p.argmax(-1) != log_q.argmax(-1)).numpy(),
        "original": log_p.numpy(),
        "variant": log_q.numpy(),
    }
