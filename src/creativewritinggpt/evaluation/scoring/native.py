"""Windows through our own forward pass, on a processor.

What transformers does around the products takes a third of the time of a small model, and a head
that writes all its logits to memory waits for the memory. Here windows are laid end to end as in
:mod:`.passes`, which is the plain twin, all products are of 512 rows, and the head takes a slice of
the vocabulary at a time and keeps the logarithms of the sums. The price is a copy of the weights,
merged with the adapter, for models that multiply their norms into them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from ...data.rows.packing import IGNORE
from ...models.forward.backends import backend_for
from ...models.forward.linear import ROWS_AT_ONCE
from ...models.forward.native_backend import NativeBackend
from ...models.loaded_model import LoadedModel
from .varlen_attention import attend_apart
from .windows import Window

_SLICE = 4096  # words of the vocabulary at a time: a block's logits are 8 MB


def forward_for(writer: LoadedModel) -> Any:
    """Our own forward pass in the writer's precision, if it knows the model; else None."""
    if writer.device.torch_device.type != "cpu":
        return None
    backend = backend_for(writer, f"{writer.device.precision}-blocks", required=False)
    return backend.forward if isinstance(backend, NativeBackend) else None


def score_natively(
    forward: Any, fill: int, longest: int, windows: Sequence[Window]
) -> list[npt.NDArray[np.float64]]:
    """Score windows in one pass.

    Args:
        forward: From :func:`forward_for`.
        fill: A token for places that no window needs.
        longest: The model's context window, in tokens.
        windows: Of any lengths.

    Returns:
        For each window, [tokens] nats, 0 where there is no target.
    """
    lengths = [len(window.inputs) for window in windows]
    total = sum(lengths)
    rest = -total % ROWS_AT_ONCE
    parts = [*lengths, *([longest] * (rest // longest)), rest % longest]
    ids = np.full(total + rest, fill)
    ids[:total] = np.concatenate([window.inputs for window in windows])
    targets = np.concatenate([window.targets for window in windows])
    places = np.flatnonzero(targets != IGNORE)
    positions = np.concatenate([np.arange(part) for part in parts])
    # Not inference_mode: what a model keeps from a pass would be useless for training later.
    with torch.no_grad():
        attention = _Apart(forward.heads, parts)
        states = forward.hidden(torch.as_tensor(ids), torch.as_tensor(positions), attention)
        nll = _nll(forward, states[torch.as_tensor(places)], torch.as_tensor(targets[places]))
    values = np.zeros(total)
    values[places] = nll.numpy()
    return np.split(values, np.cumsum(lengths)[:-1])


def _nll(forward: Any, states: Tensor, targets: Tensor) -> Tensor:
    """Negative log-probabilities of ``targets``; float32 ``[rows]``."""
    head = forward.head
    rows = len(states)
    # Whole blocks, so that these products too have always the same shape.
    states = F.pad(states, (0, 0, 0, -rows % ROWS_AT_ONCE))
    targets = F.pad(targets, (0, -rows % ROWS_AT_ONCE))
    results = []
    for part, wanted in zip(
        *(torch.split(each, ROWS_AT_ONCE) for each in (states, targets)), strict=True
    ):
        x = forward.before_head(part)
        sums, chosen = [], torch.zeros(ROWS_AT_ONCE)
        for first in range(0, forward.vocabulary, _SLICE):
            words = slice(first, first + _SLICE)
            bias = None if head.bias is None else head.bias[words]
            logits = F.linear(x, head.weight[words], bias).float()
            sums.append(torch.logsumexp(logits, -1))
            here = ((wanted >= first) & (wanted < first + _SLICE)).nonzero().squeeze(1)
            chosen[here] = logits[here, wanted[here] - first]
        results.append(torch.logsumexp(torch.stack(sums), 0) - chosen)
    return torch.cat([*results, torch.zeros(0)])[:rows]


class _Apart:
    """Attention of windows that lie end to end and see nothing of each other.

    Args:
        heads: Key and value heads of a layer.
        lengths: Tokens of each window.
    """

    def __init__(self, heads: int, lengths: Sequence[int]) -> None:
        self.heads, self.lengths = heads, lengths

    def wanted(self, x: Tensor) -> Tensor:
        """All places: products have whole blocks."""
        return x

    def __call__(self, layer: int, query: Tensor, new: Tensor) -> Tensor:
        """What the tokens of each window take from those before them and themselves.

        Args:
            layer: Which.
            query: ``[tokens, query heads, size]``.
            new: ``[tokens, key heads then value heads, size]``.

        Returns:
            ``[tokens, query heads × size]``.
        """
        keys, values = torch.split(new, self.heads, 1)
        q, k, v = (part.transpose(0, 1)[None] for part in (query, keys, values))
        return attend_apart(q, k, v, self.lengths)[0].flatten(1)
