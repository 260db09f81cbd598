"""How much the adapter changes each projection: the size of its update, beside the weight's own.

An update ``scale · B A`` of rank r never has to be multiplied out to be measured::

    ‖B A‖² = trace(Aᵀ Bᵀ B A) = sum of (Bᵀ B) ∘ (A Aᵀ)        two r × r matrices

Other kinds of adapters, and several at once, are merged into a copy of the projection, one at a
time.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ...models.loaded_model import LoadedModel

_LAYER = re.compile(r"\.(\d+)\.")


@dataclasses.dataclass(frozen=True)
class Update:
    """The change of one projection.

    Attributes:
        name: Of the projection in the model.
        layer: The number of the layer, from 0; None for a projection outside the layers.
        projection: What it is called within its layer: ``attn.c_attn``, ``self_attn.q_proj``.
        norm: Frobenius norm of the update.
        relative: The same over the norm of the base weight.
    """

    name: str
    layer: int | None
    projection: str
    norm: float
    relative: float

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return dataclasses.asdict(self)


def updates(writer: LoadedModel) -> list[Update]:
    """The update of every projection that has an adapter, in the model's order; none without one.

    Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models".
    """
    if not writer.has_adapter:
        return []
    from peft.tuners.tuners_utils import BaseTunerLayer

    result = []
    for name, module in writer.bare.named_modules():
        if not isinstance(module, BaseTunerLayer) or not list(module.active_adapters):
            continue
        weight = getattr(module.get_base_layer(), "weight", None)
        if weight is None or weight.ndim != 2:
            continue
        with torch.no_grad():
            own = float(torch.linalg.norm(weight.detach().float()))
            norm = _low_rank(module)
            norm = _merged(module) if norm is None else norm
        number = _LAYER.search(f".{name}")
        result.append(
            Update(
                name=name,
                layer=int(number.group(1)) if number else None,
                projection=f".{name}"[number.end() :] if number else name,
                norm=norm,
                relative=norm / own if own else float("inf") if norm else 0.0,
            )
        )
    return result


def _low_rank(module: Any) -> float | None:
    """The norm of a plain LoRA update; None for any other kind."""
    active = [name for name in module.active_adapters if name in getattr(module, "lora_A", {})]
    if len(active) != 1 or len(module.active_adapters) != 1:
        return None
    name = active[0]
    if getattr(module, "use_dora", {}).get(name) or getattr(module, "lora_variant", {}).get(name):
        return None
    first, second = _exact(module.lora_A[name].weight), _exact(module.lora_B[name].weight)
    square = ((second.T @ second) * (first @ first.T)).sum()
    return float(square.clamp(min=0).sqrt()) * abs(float(module.scaling[name]))


def _exact(weight: Tensor) -> Tensor:
    return weight.detach().cpu().double()


def _merged(module: Any) -> float:
    """The norm of what merging would add, tried on a copy."""
    twin = copy.deepcopy(module)
    before = _exact(twin.get_base_layer().weight).clone()
    twin.merge()
    return float(torch.linalg.norm(_exact(twin.get_base_layer().weight) - before))
