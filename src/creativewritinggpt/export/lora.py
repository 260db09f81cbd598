"""LoRA adapters as GGUF, for ``llama-server --lora`` on a base in GGUF.

llama.cpp computes ``W x + s · alpha / r · B (A x)``, with ``s`` from the command line, one
``alpha`` for the whole file and ``r`` from each B. Whatever else scales an adapter (rank-stabilised
LoRA, patterns of ranks and alphas, the strength it is exported at) is multiplied into B. Several
adapters become one whose matrices stand side by side, which is their weighted sum::

    Σ s_i B_i A_i   =   [s_1 B_1, s_2 B_2, …] [A_1; A_2; …]

PEFT's A is ``[r, in]`` and B ``[out, r]`` for GPT-2, too, so nothing is transposed; the rows of
Llama's B for queries and keys are permuted as those of the weights are.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..models.adapter_files import PREFIX, AdapterFolder, read_adapter
from ..models.forward.weights import HEAD
from ..models.gguf_model import is_transposed, parameter_name, permute_to_halves, rotated_heads
from ..models.gguf_model import tensor_name as gguf_name
from ..models.loaded_model import LoadedModel
from .gguf_file import Description, permute_to_pairs

_ADVICE = "export it with --to merged or --to gguf, where everything is merged"
# Initialisations that leave the base as it is.
_PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal")
_MORE_THAN_LORA = {
    "use_dora": "DoRA",
    "modules_to_save": "modules_to_save (layers trained as a whole)",
    "trainable_token_indices": "trained token embeddings",
    "layer_replication": "layer_replication",
    "target_parameters": "target_parameters",
    "alora_invocation_tokens": "activated LoRA",
    "lora_bias": "LoRA with a bias",
    "arrow_config": "Arrow",
}


@dataclasses.dataclass(frozen=True)
class Pair:
    """The matrices of one module.

    Attributes:
        low: A, ``[r, in]`` float32.
        high: B, ``[out, r]`` float32.
        scale: What ``B A`` is multiplied by.
    """

    low: Tensor
    high: Tensor
    scale: float


def lora_pairs(model: LoadedModel) -> dict[str, Pair]:
    """The active adapters of a model as one plain LoRA, by module.

    Args:
        model: A model with adapters at their strengths.

    Raises:
        InputError: There is none, or it is more than LoRA of projections.
    """
    if not model.has_adapter:
        raise InputError(
            f"{model.name} has no adapter to export",
            "give an adapter with --model or --adapter, or take --to gguf for the whole model",
        )
    if model.files is None and model.overlays is None:
        found = [_from_memory(model)]
    else:
        strengths = (model.overlays or model.files).strengths  # type: ignore[union-attr]
        found = [
            {
                module: dataclasses.replace(pair, scale=pair.scale * strength)
                for module, pair in _from_folder(model, model.folders[name]).items()
            }
            for name, strength in strengths.items()
        ]
    modules = list(dict.fromkeys(module for pairs in found for module in pairs))
    return {module: _joined([p[module] for p in found if module in p]) for module in modules}


def _joined(pairs: list[Pair]) -> Pair:
    if len(pairs) == 1:
        return pairs[0]
    return Pair(
        torch.cat([pair.low for pair in pairs]),
        torch.cat([pair.high * pair.scale for pair in pairs], 1),
        1.0,
    )


def check_plain(config: Mapping[str, Any], name: str) -> None:
    """Refuse an adapter that is more than LoRA of projections.

    Args:
        config: PEFT's settings.
        name: The adapter, for the message.

    Raises:
        InputError: Naming what it has.
    """
    kind = str(config.get("peft_type", "LORA")).upper().rpartition(".")[2]
    odd = kind if kind != "LORA" else None
    odd = odd or next((words for key, words in _MORE_THAN_LORA.items() if config.get(key)), None)
    if config.get("bias", "none") != "none":
        odd = odd or f"trained biases (bias: {config['bias']})"
    if config.get("init_lora_weights", True) not in _PLAIN_STARTS:
        odd = odd or f"init_lora_weights: {config['init_lora_weights']}, which changes the base"
    if odd:
        raise InputError(f"the adapter {name} has {odd}, which no LoRA GGUF can say", _ADVICE)


def _from_folder(model: LoadedModel, folder: Path) -> dict[str, Pair]:
    """The pairs of an adapter folder, scaled as PEFT scales them."""
    from peft.utils.other import get_pattern_key

    adapter: AdapterFolder = read_adapter(folder)
    check_plain(adapter.config, str(folder))
    config, tensors = (
        adapter.tensors(model.overlays.base if model.overlays is not None else model.bare)
        if adapter.mlx
        else adapter.tensors(torch.nn.Module())
    )
    check_plain(config, str(folder))
    halves: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    for key, value in tensors.items():
        module, _, part = key.removeprefix(PREFIX).rpartition(".lora_")
        if part not in ("A.weight", "B.weight") or module == HEAD:
            raise InputError(
                f"the adapter {folder} has {key.removeprefix(PREFIX)}, which no LoRA GGUF can say",
                _ADVICE,
            )
        halves[part.startswith("B")][module] = value.float()
    alphas: dict[str, float] = config.get("alpha_pattern") or {}
    found = {}
    for module, low in halves[0].items():
        rank = len(low)
        key = get_pattern_key(alphas.keys(), module)
        alpha = alphas.get(key, config["lora_alpha"])
        divisor = math.sqrt(rank) if config.get("use_rslora") else rank
        found[module] = Pair(low, halves[1][module], float(alpha) / divisor)
    return found


def _from_memory(model: LoadedModel) -> dict[str, Pair]:
    """The pairs of PEFT's layers in a model; PEFT has computed their scales."""
    active = list(model.model.active_adapters)
    for name in active:
        check_plain(model.model.peft_config[name].to_dict(), name)
    head = model.bare.get_output_embeddings()
    found: dict[str, Pair] = {}
    module: Any
    for full, module in model.bare.named_modules():
        if not hasattr(module, "lora_A"):
            continue
        pairs = [
            Pair(
                module.lora_A[name].weight.detach().float().cpu(),
                module.lora_B[name].weight.detach().float().cpu(),
                float(module.scaling[name]),
            )
            for name in active
            if name in module.lora_A
        ]
        if module is head or (not pairs and len(getattr(module, "lora_embedding_A", ()))):
            raise InputError(
                f"the adapter of {model.name} changes {full}, which no LoRA GGUF can say", _ADVICE
            )
        if pairs:
            found[full] = _joined(pairs)
    return found


def write(
    path: Path, pairs: Mapping[str, Pair], config: Any, description: Description
) -> dict[str, tuple[int, ...]]:
    """Write a LoRA GGUF, in float32.

    Args:
        path: The file.
        pairs: By module of transformers.
        config: The base's configuration.
        description: What the file says about itself.

    Returns:
        Shape of each tensor, by GGUF's name.

    Raises:
        InputError: A module that GGUF has no name for, or a value that is not a number.
    """
    from gguf import GGUFWriter

    family = str(config.model_type)
    writer = GGUFWriter(path, family)
    writer.add_type("adapter")
    description.add_to(writer)
    writer.add_string("adapter.type", "lora")
    alpha, folded = folded_pairs(pairs)
    writer.add_float32("adapter.lora.alpha", alpha)
    shapes: dict[str, tuple[int, ...]] = {}
    for module, (low, high) in folded.items():
        try:
            name = gguf_name(family, f"{module}.weight")
        except KeyError as error:
            raise InputError(
                f"GGUF has no name for {module} in a {family} model", _ADVICE
            ) from error
        rows = high.numpy()
        heads = rotated_heads(family, name, *_heads(config))
        if heads is not None:
            rows = permute_to_pairs(rows, heads)
        for end, values in (("lora_a", low.numpy()), ("lora_b", rows)):
            if not np.isfinite(values).all():
                raise InputError(f"the adapter's {module} holds values that are not numbers")
            writer.add_tensor(f"{name}.{end}", np.ascontiguousarray(values, dtype=np.float32))
            shapes[f"{name}.{end}"] = tuple(values.shape)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    return shapes


def folded_pairs(pairs: Mapping[str, Pair]) -> tuple[float, dict[str, tuple[Tensor, Tensor]]]:
    """One alpha for all, and A and B by module such that ``alpha / r · B A`` is what each adds."""
    alphas = {pair.scale * len(pair.low) for pair in pairs.values()}
    same = max(alphas) - min(alphas) <= 1e-6 * max(map(abs, alphas))
    # Zero would mean "no scaling" to llama.cpp.
    if same and max(alphas) > 0:
        alpha = next(iter(alphas))
        return alpha, {module: (pair.low, pair.high) for module, pair in pairs.items()}
    alpha = float(max(len(pair.low) for pair in pairs.values()))
    return alpha, {
        module: (pair.low, pair.high * (pair.scale * len(pair.low) / alpha))
        for module, pair in pairs.items()
    }


def _heads(config: Any) -> tuple[int, int]:
    heads = int(config.num_attention_heads)
    return heads, int(getattr(config, "num_key_value_heads", None) or heads)


class WithLora(Mapping[str, Tensor]):
    """A base with a LoRA GGUF added as llama.cpp adds it, under transformers' names.

    Args:
        base: The base's parameters.
        path: The LoRA GGUF.
        config: The base's configuration.
        strength: Of the adapter, as ``--lora-scaled`` gives it.
    """

    def __init__(
        self, base: Mapping[str, Tensor], path: Path, config: Any, strength: float = 1.0
    ) -> None:
        from gguf import GGUFReader

        reader = GGUFReader(path)
        self._base, self._strength = base, strength
        self._family, self._heads = str(config.model_type), _heads(config)
        self.alpha = float(reader.fields["adapter.lora.alpha"].contents())
        self.tensors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
        self._names = {
            parameter_name(self._family, name.removesuffix(".lora_a")): name.removesuffix(".lora_a")
            for name in self.tensors
            if name.endswith(".lora_a")
        }

    def __getitem__(self, name: str) -> Tensor:
        weight = self._base[name]
        own = self._names.get(name)
        if own is None:
            return weight
        low, high = self.tensors[f"{own}.lora_a"], self.tensors[f"{own}.lora_b"]
        heads = rotated_heads(self._family, own, *self._heads)
        if heads is not None:
            high = permute_to_halves(high, heads)
        scale = self._strength * (self.alpha / len(low) if self.alpha else 1.0)
        change = torch.from_numpy(scale * (high @ low))
        return weight + (change.t() if is_transposed(self._family, own) else change)

    def __iter__(self) -> Iterator[str]:
        return iter(self._base)

    def __len__(self) -> int:
        return len(self._base)
