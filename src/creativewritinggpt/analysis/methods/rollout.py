"""Attention rollout: what attention alone could have carried from each token to each other.

Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers": half of each layer's output
is taken to come from the token itself (the residual stream) and half by the mean attention of its
heads, and the layers are multiplied::

    R = Ã_L · … · Ã_1        Ã = (A + I) / 2

In a causal model the first token can look at nothing but itself, so all mass that reaches it stays:
with depth R drifts to the first column whatever the text says. To mask that column and renormalise
would only hand its part to the next: in the starter's 30 layers the second token then takes 98 %.
So the view without the sink takes attention to the first token for what it is, a way to look
nowhere, and leaves that share with the token that looks.

It is cheap and knows nothing of what is carried: values, the output projection and the feed-forward
layers are left out, and early tokens gain with every layer even so.
"""

from __future__ import annotations

import numpy as np

from ..registry import Attribution
from ..subject import Subject
from .attention import ROLLOUT, ROLLOUT_WITHOUT_SINK, AttentionMaps


def rollout(maps: AttentionMaps, sink: bool = True) -> np.ndarray:
    """The product of all layers.

    Args:
        maps: The attention with its first token.
        sink: Whether attention to the first token counts; without it, it stays where it is.

    Returns:
        ``[tokens, tokens]`` float64, lower triangular, rows summing to 1.
    """
    result = np.eye(maps.tokens)
    for layer in maps.weights:
        mean = layer.mean(0, dtype=np.float64)
        if not sink:
            np.fill_diagonal(mean, np.diagonal(mean) + mean[:, 0])
            mean[1:, 0] = 0
        mean /= mean.sum(-1, keepdims=True)  # half precision sums to 1 only roughly
        result = 0.5 * (mean @ result + result)
    return result


def rollout_attribution(
    maps: AttentionMaps, subject: Subject, *, sink: bool = False
) -> Attribution:
    """The rows of the rollout that belong to the targets.

    Returns:
        Shares: each row sums to 1 over the tokens before its target.
    """
    queries = [target.position - 1 for target in subject.targets]
    return (ROLLOUT if sink else ROLLOUT_WITHOUT_SINK).attribution(
        rollout(maps, sink)[queries],
        {"layers": maps.layers, "heads": maps.heads, "sink": sink},
    )
