"""Model weights for our own forward passes, read from safetensors files or a transformers model.

Both sources give the same tensors under transformers' parameter names, in float32, with the active
LoRA adapters merged. Reading the files needs neither transformers nor PEFT, whose import takes
longer than the first token; tensors are mapped into memory and not copied.

Trade-off: only plain LoRA is merged from files. Anything else raises ``Unsupported``, and the
caller loads the model with transformers and PEFT instead.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...files import fingerprint

Projection = tuple[Tensor, Tensor | None]
"""A weight ``[out, in]`` and its bias ``[out]`` or None, float32."""

HEAD = "lm_head"
# Settings of PEFT's LoraConfig that do not change what a plain LoRA layer computes.
_HARMLESS = {
    "auto_mapping", "base_model_name_or_path", "bias", "exclude_modules", "fan_in_fan_out",
    "inference_mode", "init_lora_weights", "lora_alpha", "lora_dropout", "megatron_core",
    "peft_type", "peft_version", "qalora_group_size", "r", "revision", "target_modules",
    "task_type", "use_rslora",
}  # fmt: skip


class Unsupported(Exception):
    """A model that our own forward passes do not know; says what is unknown."""


def join(projections: Iterable[Projection]) -> Projection:
    """Several projections of the same input as one, outputs one after the other."""
    parts = list(projections)
    weight = torch.cat([weight for weight, _ in parts])
    if all(bias is None for _, bias in parts):
        return weight, None
    return weight, torch.cat(
        [weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in parts]
    )


@dataclasses.dataclass(frozen=True)
class LoraFile:
    """A plain LoRA adapter as read from its folder.

    Attributes:
        folder: The folder.
        pairs: A ``[r, in]`` and B ``[out, r]`` by module name.
        alpha: The setting ``lora_alpha``.
        divisor: r, or its square root for rank-stabilised LoRA.
        source: Fingerprint of its files (see :mod:`.packed`).
    """

    folder: Path
    pairs: dict[str, tuple[Tensor, Tensor]]
    alpha: float
    divisor: float
    source: str | None = None


def read_lora(folder: Path, config: Mapping[str, Any]) -> LoraFile:
    """Read a plain LoRA adapter.

    Args:
        folder: Of the adapter.
        config: The content of its ``adapter_config.json``.

    Raises:
        Unsupported: It is another method, or a variant of LoRA.
    """
    from safetensors.torch import load_file

    more = {key for key, value in config.items() if value} - _HARMLESS
    if (
        more
        or config.get("peft_type") != "LORA"
        or config.get("bias", "none") != "none"
        or config.get("init_lora_weights", True) not in (True, False, "gaussian")
    ):
        raise Unsupported(f"an adapter with {', '.join(sorted(more)) or 'more than LoRA'}")
    halves: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    path = folder / "adapter_model.safetensors"
    source = fingerprint([path, folder / "adapter_config.json"])
    for key, value in load_file(path).items():
        name, _, part = key.removeprefix("base_model.model.").rpartition(".lora_")
        if part not in ("A.weight", "B.weight") or not bool(torch.isfinite(value).all()):
            raise Unsupported(f"an adapter with {key}")
        halves[part.startswith("B")][name] = value
    low, high = halves
    if low.keys() != high.keys():
        raise Unsupported("an adapter with half of a pair")
    rank = int(config["r"])
    if any(len(value) != rank for value in low.values()):
        raise Unsupported("an adapter of several ranks")
    divisor = math.sqrt(rank) if config.get("use_rslora") else rank
    pairs = {name: (low[name], high[name]) for name in low}
    return LoraFile(folder, pairs, config["lora_alpha"], divisor, source)


class FileWeights:
    """Weights from a model's safetensors files.

    Args:
        config: The model's configuration, by attributes.
        tensors: By parameter name; any floating dtype.
        transposed: Whether projections other than the head are stored ``[in, out]``, as GPT-2's.
        source: Fingerprint of the files (see :mod:`.packed`); None for weights of no file.

    Attributes:
        owner: The object whose life the weights share.
        adapters: Plain LoRA adapters by name.
        strengths: The weight of each active adapter, in the order in which they are added.
        enabled: Whether adapters are merged at all.
    """

    def __init__(
        self,
        config: Any,
        tensors: Mapping[str, Tensor],
        *,
        transposed: bool = False,
        source: str | None = None,
    ) -> None:
        self.config = config
        self.owner = self
        self.tensors = tensors
        self.transposed = transposed
        self.source = source
        self.adapters: dict[str, LoraFile] = {}
        self.strengths: dict[str, float] = {}
        self.enabled = True

    def projection(self, name: str) -> Projection:
        """``[out, in]`` and bias, with the active adapters merged."""
        weight = self.tensors[f"{name}.weight"].float()
        if self.transposed and name != HEAD:
            weight = weight.t()
        for adapter, strength in self.strengths.items() if self.enabled else ():
            lora = self.adapters[adapter]
            if name in lora.pairs:
                low, high = lora.pairs[name]
                scale = strength * lora.alpha / lora.divisor
                weight = weight + scale * (high.float() @ low.float())
        bias = self.tensors.get(f"{name}.bias")
        return weight, None if bias is None else bias.float()

    def tensor(self, name: str) -> Tensor:
        """A parameter, float32."""
        return self.tensors[name].float()

    def has(self, name: str) -> bool:
        """Whether there is a parameter of that name."""
        return name in self.tensors

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Outputs and inputs of each matrix, by module name."""
        found = {}
        for name, tensor in self.tensors.items():
            if tensor.ndim == 2:
                first, second = tensor.shape
                module = name.removesuffix(".weight")
                # Of GPT-2's matrices the transposed ones are those with a bias.
                turned = self.transposed and f"{module}.bias" in self.tensors
                found[module] = (second, first) if turned else (first, second)
        return found

    def state(self) -> tuple[Any, ...]:
        """A value that changes when the merged weights change."""
        return tuple(self.strengths.items()) if self.enabled else ()


class ModuleWeights:
    """Weights of a transformers model, with or without PEFT's LoRA layers in it.

    Args:
        model: A ``PreTrainedModel``.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = self.owner = model
        self.config: Any = model.config

    def projection(self, name: str) -> Projection:
        """``[out, in]`` and bias, with the active adapters merged.

        Raises:
            Unsupported: It is neither a projection of torch or transformers nor plain LoRA on one.
        """
        return _merged(self.model.get_submodule(name))

    def tensor(self, name: str) -> Tensor:
        """A parameter, float32.

        Raises:
            Unsupported: Its module is not there or has an adapter.
        """
        try:
            module: Any = self.model.get_submodule(name.rpartition(".")[0])
            parameter = module._parameters[name.rpartition(".")[2]]
        except (AttributeError, KeyError) as error:
            raise Unsupported(f"a model without {name}") from error
        found: Tensor = parameter.detach().float()
        return found

    def has(self, name: str) -> bool:
        """Whether there is a parameter of that name."""
        try:
            self.model.get_parameter(name)
        except AttributeError:
            return False
        return True

    def state(self) -> tuple[Any, ...]:
        """A value that changes when the merged weights change."""
        layers: list[tuple[str, float]] = []
        versions = 0
        module: Any
        # One walk over the modules: this is asked for each text.
        for module in self.model.modules():
            if "lora_A" in module._modules:
                layers += [(name, module.scaling[name]) for name in _active(module)]
            # An optimizer changes parameters in place, which torch counts.
            own = module._parameters.values()
            versions += sum(p._version for p in own if p is not None and not p.is_inference())
        return (*layers, versions)


def _merged(module: Any) -> Projection:
    from transformers.pytorch_utils import Conv1D

    if type(module) is nn.Linear:
        return module.weight.detach().float(), _detached(module.bias)
    if isinstance(module, Conv1D):
        return module.weight.detach().float().t(), _detached(module.bias)
    base = getattr(module, "base_layer", None)
    if base is None or not hasattr(module, "lora_A"):
        raise Unsupported(type(module).__name__)
    weight, bias = _merged(base)
    for name in _active(module):
        if getattr(module, "use_dora", {}).get(name) or name in getattr(module, "lora_variant", {}):
            raise Unsupported("a variant of LoRA")
        if getattr(module, "lora_bias", {}).get(name):
            raise Unsupported("LoRA with a bias")
        low, high = module.lora_A[name].weight, module.lora_B[name].weight
        weight = weight + module.scaling[name] * (high.detach().float() @ low.detach().float())
    return weight, bias


def _detached(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach().float()


def _active(module: Any) -> Sequence[str]:
    """The adapters of a LoRA layer that are on and not merged into its base weight."""
    if module.disable_adapters or module.merged:
        return []
    return [name for name in module.active_adapters if name in module.lora_A]


Weights = FileWeights | ModuleWeights
