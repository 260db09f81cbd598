"""Negative log-probabilities of given tokens.

The output head is a third of a small model's arithmetic, and its logits are by far its largest
tensor: 8 rows of 512 tokens over 50,257 entries are 0.8 GB. So the body runs once, and the head
only at positions that have a target, a few hundred at a time.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from .attention import packed_inputs
from .checks import check_passes
from .loaded_model import LoadedModel

IGNORE = -100
# Positions that go through the head at once: 100 MB of logits at 50,257 words in fp32.
CHUNK = 512

# Models that were tried once in this process and found fit.
_TRIED: weakref.WeakSet[Any] = weakref.WeakSet()


class Rows(Protocol):
    """Packed rows: arrays ``[rows, tokens]`` (see ``data.packing.PackedRows``)."""

    @property
    def input_ids(self) -> np.ndarray: ...  # noqa: D102
    @property
    def targets(self) -> np.ndarray: ...  # noqa: D102
    @property
    def position_ids(self) -> np.ndarray: ...  # noqa: D102
    @property
    def segment_ids(self) -> np.ndarray: ...  # noqa: D102


def body_and_head(model: Any) -> tuple[Callable[..., Tensor], Tensor, Tensor | None]:
    """A model in two parts, so that the head can be run where it is needed.

    Args:
        model: A causal language model of transformers, or a PEFT wrapper of it; an adapter in it
            works in the body, switched on or off as it is.

    Returns:
        The body (``input_ids=…`` and more to hidden states ``[rows, tokens, width]``), the head's
        weight ``[vocabulary, width]`` and its bias ``[vocabulary]`` or None.

    Raises:
        InputError: The model can't be used so: it does more after its body than one linear
            product, or it can't keep packed documents apart (both are tried, once a model).
    """
    bare = model.get_base_model() if hasattr(model, "peft_config") else model
    inner, head = bare.base_model, bare.get_output_embeddings()
    if inner is bare or not isinstance(head, torch.nn.Linear):
        raise InputError(
            f"{type(bare).__name__} has no linear output head of its own",
            "models of the GPT-2, Llama and Qwen families work",
        )

    def body(**inputs: Any) -> Tensor:
        states: Tensor = inner(**inputs, return_dict=True).last_hidden_state
        return states

    if bare not in _TRIED:
        check_passes(bare, body, head)
        _TRIED.add(bare)
    return body, head.weight, head.bias


def token_nll(
    model: LoadedModel,
    rows: Rows,
    batch_size: int = 8,
    *,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """The negative log-probability of every target, in the mode the model is in.

    Args:
        model: The model; its adapter works unless this is called within ``model.base()``. Call
            it in ``eval()`` mode for numbers without dropout.
        rows: Packed rows.
        batch_size: Rows in a forward pass; it does not change the result beyond rounding.
        progress: Called after each pass with the number of rows done.

    Returns:
        ``[rows, tokens]`` float64, in nats; 0 where there is no target.
    """
    body, weight, bias = body_and_head(model.model)
    if model.device.precision == "bf16":
        weight = weight.to(torch.bfloat16)  # once, where autocast would for every chunk
    device = model.device.torch_device
    result = np.zeros(rows.targets.shape, dtype=np.float64)
    for start in range(0, len(result), batch_size):
        part = slice(start, start + batch_size)
        inputs, targets, positions, segments = (
            torch.as_tensor(array[part]).to(device)
            for array in (rows.input_ids, rows.targets, rows.position_ids, rows.segment_ids)
        )
        # Not inference_mode: what a model keeps from a pass would be useless for training later.
        with torch.no_grad(), model.device.autocast():
            kwargs = packed_inputs(segments, positions, model.model)
            states = body(input_ids=inputs, **kwargs)
            has_target = targets != IGNORE
            nll = head_nll(states[has_target], targets[has_target], weight, bias)
        result[part][has_target.cpu().numpy()] = nll.cpu().numpy()
        if progress is not None:
            progress(min(start + batch_size, len(result)))
    return result


def head_nll(
    states: Tensor,
    targets: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    chunk: int = CHUNK,
) -> Tensor:
    """The negative log-probabilities of ``targets`` given hidden states, in fp32, in chunks.

    Args:
        states: ``[positions, width]``.
        targets: ``[positions]`` token ids.
        weight: ``[vocabulary, width]``.
        bias: ``[vocabulary]`` or None.
        chunk: Positions that go through the head at once.

    Returns:
        ``[positions]`` float32.
    """
    parts = []
    for part, wanted in zip(torch.split(states, chunk), torch.split(targets, chunk), strict=True):
        logits = F.linear(part, weight, bias).float()
        parts.append(F.cross_entropy(logits, wanted, reduction="none"))
    return torch.cat(parts) if parts else states.new_zeros(0, dtype=torch.float32)
