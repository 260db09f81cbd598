"""Losses of one decision, from the log-probabilities of the texts offered.

Δ(y) = log π(y|x) − log π_ref(y|x) is a text's log-probability above that of the model at the start,
summed over its tokens. The text that was taken is the first of a decision's.

* :func:`choice_loss`: one softmax of β Δ over what was offered (the Plackett-Luce case of DPO,
  Rafailov et al. 2023, appendix A.3, top 1; of two texts it is DPO), with label smoothing (cDPO,
  Mitchell 2023) and a hinge on the chosen text (DPOP, Pal et al. 2024).
* :func:`kto_loss`: a text for itself, wanted or not (Ethayarajh et al. 2024).
* :func:`odds_ratio_loss`: the preference of ORPO (Hong et al. 2024), which has no reference.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def choice_loss(
    delta: Tensor, beta: float, smoothing: float = 0.0, chosen_penalty: float = 0.0
) -> Tensor:
    """Negative log-probability that the first text is taken.

    Args:
        delta: [texts] Δ of each, the chosen one first; at least two.
        beta: Scale of the rewards.
        smoothing: Probability that another text was meant, shared among the others.
        chosen_penalty: λ of DPOP: what the chosen text's fall below the reference costs.
    """
    rewards = beta * delta
    if chosen_penalty:
        fall = chosen_penalty * beta * F.relu(-delta[0])
        rewards = torch.cat([(rewards[0] - fall)[None], rewards[1:]])
    logs = torch.log_softmax(rewards, 0)
    return -(1 - smoothing) * logs[0] - smoothing * logs[1:].mean()


def kto_loss(delta: Tensor, wanted: Tensor, divergence: Tensor, beta: float) -> Tensor:
    """KTO's loss of each text, 0 to 1.

    Args:
        delta: [texts] Δ of each.
        wanted: [texts] whether the writer took it.
        divergence: Estimate of KL(π ‖ π_ref), at least 0, without a gradient.
        beta: Scale of the rewards.
    """
    above = beta * (delta - divergence)
    return 1 - torch.sigmoid(torch.where(wanted, above, -above))


def odds_ratio_loss(sums: Tensor, counts: Tensor) -> Tensor:
    """− log σ(logit p(chosen) − logit p(other)), a mean over the others; p is a token's mean.

    Args:
        sums: [texts] log-probabilities, the chosen one first.
        counts: [texts] tokens of each.
    """
    means = sums / counts
    odds = means - torch.log1p(-torch.exp(means).clamp(max=1 - 1e-6))
    return -F.logsigmoid(odds[0] - odds[1:]).mean()
