"""Negative log-probabilities of given tokens.

The output head is a third of a small model's arithmetic, and its logits are by far its largest
tensor: 8 rows of 512 tokens over 50,257 entries are 0.8 GB. So the body runs once, and the head
only at positions that have a target, a few hundred at a time.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .. import console
from ..errors import InputError
from .attention import by_document, packed_inputs
from .checks import FAMILIES, packs_by_mask
from .loaded_model import LoadedModel

IGNORE = -100
# Positions that go through the head at once: 100 MB of logits at 50,257 words in fp32.
CHUNK = 512

# Models that were tried once in this process and found fit: whether a mask keeps documents apart.
_TRIED: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()
_SAID: weakref.WeakSet[Any] = weakref.WeakSet()  # those whose documents get rows of their own


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


@dataclasses.dataclass(frozen=True)
class Head:
    """The output head: logits of hidden states.

        z = scale · (W h + b)        logits = cap · tanh(z / cap), or z without a cap

    Attributes:
        weight: W, ``[vocabulary, width]``.
        bias: b, ``[vocabulary]``, or None.
        scale: Granite and Cohere scale their logits.
        cap: Gemma 2 bends its logits to stay within ± cap.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None

    def logits(self, states: Tensor, tokens: list[int] | None = None) -> Tensor:
        """Logits of all tokens, or of some.

        Args:
            states: ``[…, width]``.
            tokens: Ids.

        Returns:
            ``[…, vocabulary]``, or ``[…, tokens]``.
        """
        weight, bias = self.weight, self.bias
        if tokens is not None:
            weight, bias = weight[tokens], None if bias is None else bias[tokens]
        return self.bend(F.linear(states, weight, bias))

    def bend(self, products: Tensor) -> Tensor:
        """``W h + b`` to logits."""
        if self.scale != 1.0:
            products = products * self.scale
        return products if self.cap is None else torch.tanh(products / self.cap) * self.cap

    def to(self, dtype: torch.dtype) -> Head:
        """The same head with its weight in another format."""
        return dataclasses.replace(self, weight=self.weight.to(dtype))


class Body:
    """A model without its head.

    Args:
        model: The transformers model, without a PEFT wrapper; adapters in it work or not, as they
            are switched.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.inner = model.base_model

    def __call__(self, **inputs: Any) -> Tensor:
        """``input_ids=…`` and more to hidden states ``[rows, tokens, width]``."""
        states: Tensor = self.inner(**inputs, return_dict=True).last_hidden_state
        return states

    @property
    def takes_masks(self) -> bool:
        """Whether a mask keeps documents apart that share a row."""
        return _TRIED.get(self.model, True)

    def packed(self, ids: Tensor, segment_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Hidden states ``[rows, tokens, width]`` of packed rows (see ``attention``)."""
        if self.takes_masks:
            return self(input_ids=ids, **packed_inputs(segment_ids, position_ids, self.model))
        if self.model not in _SAID:
            _SAID.add(self.model)
            kind = type(self.model).__name__
            console.note(
                f"{kind} takes no mask between documents: each is read in a row of its own"
            )
        return by_document(self, ids, segment_ids)


def body_and_head(model: Any) -> tuple[Body, Head]:
    """A model in two parts, so that the head can be run where it is needed.

    Args:
        model: A causal language model of transformers, or a PEFT wrapper of it; an adapter in it
            works in the body, switched on or off as it is.

    Raises:
        InputError: The model can't be used so: it does more after its body than a :class:`Head`
            does, or it can't keep packed documents apart (both are tried, once a model).
    """
    bare = model.get_base_model() if hasattr(model, "peft_config") else model
    matrix = None if bare.base_model is bare else _matrix(bare.get_output_embeddings())
    if matrix is None:
        raise InputError(f"{type(bare).__name__} has no linear output head of its own", FAMILIES)
    settings = bare.config.get_text_config()
    scale = getattr(settings, "logit_scale", None) or getattr(settings, "lm_head_multiplier", None)
    divisor = getattr(settings, "logits_scaling", None)
    cap = getattr(settings, "final_logit_softcapping", None)
    factor = 1 / divisor if divisor else scale if isinstance(scale, float | int) else 1.0
    body, head = Body(bare), Head(*matrix, float(factor), cap or None)
    if bare not in _TRIED:
        _TRIED[bare] = packs_by_mask(bare, body, head.logits)
    return body, head


def _matrix(head: Any) -> tuple[Tensor, Tensor | None] | None:
    """Weight and bias of an output head with any adapter in it, with their gradients.

    A LoRA's dropout is left out, since the head is computed by its weight alone.

    Returns:
        None where the head is no linear product.
    """
    if isinstance(head, torch.nn.Linear):
        return head.weight, head.bias
    if not type(head).__module__.startswith("peft."):
        return None
    from peft.tuners.lora import Linear
    from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper

    off = getattr(head, "disable_adapters", False)
    if isinstance(head, ModulesToSaveWrapper):
        return _matrix(
            head.original_module if off else head.modules_to_save[head.active_adapters[0]]
        )
    if isinstance(head, TrainableTokensWrapper):
        layer = head.token_adapter
        base = layer.get_base_layer()
        return (base.weight if off else layer.get_merged_weights(layer.active_adapters)), base.bias
    if isinstance(head, Linear) and not any(head.use_dora.values()):
        weight, bias = head.base_layer.weight, head.base_layer.bias
        for name in () if off or head.merged else head.active_adapters:
            if name in head.lora_A:
                weight = weight + head.get_delta_weight(name)
        return weight, bias
    return None


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
    body, head = body_and_head(model.model)
    if model.device.precision == "bf16":
        head = head.to(torch.bfloat16)  # once, where autocast would for every chunk
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
            states = body.packed(inputs, segments, positions)
            has_target = targets != IGNORE
            nll = head_nll(states[has_target], targets[has_target], head)
        result[part][has_target.cpu().numpy()] = nll.cpu().numpy()
        if progress is not None:
            progress(min(start + batch_size, len(result)))
    return result


def head_nll(states: Tensor, targets: Tensor, head: Head, *, chunk: int = CHUNK) -> Tensor:
    """The negative log-probabilities of ``targets`` given hidden states, in fp32, in chunks.

    Args:
        states: ``[positions, width]``.
        targets: ``[positions]`` token ids.
        head: The output head.
        chunk: Positions that go through the head at once.

    Returns:
        ``[positions]`` float32.
    """
    rows = len(head.weight)
    if len(targets) and int(targets.max()) >= rows:
        raise InputError(
            f"the text holds token {int(targets.max())}, and the model knows {rows}",
            "leave tokens that an adapter added out of texts that models are compared on",
        )
    parts = []
    for part, wanted in zip(torch.split(states, chunk), torch.split(targets, chunk), strict=True):
        parts.append(F.cross_entropy(head.logits(part).float(), wanted, reduction="none"))
    return torch.cat(parts) if parts else states.new_zeros(0, dtype=torch.float32)
