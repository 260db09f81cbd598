"""Adapter folders of PEFT and MLX: what is in them, and what can't be used, by name.

A folder of PEFT has ``adapter_config.json`` and ``adapter_model.safetensors``; Unsloth, Axolotl and
the checkpoints of transformers' Trainer are such folders with other files beside them. MLX has
``adapters.safetensors`` and a configuration of its own, which is turned into PEFT's here::

    MLX    y = W x + scale · (x A) B            A: [in, r]   B: [r, out]
    PEFT   y = W x + alpha / r · B (A x)        A: [r, in]   B: [out, r]      alpha = scale · r

This module imports neither transformers nor PEFT.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import InputError
from ..files import read_json
from .checks import open_safetensors

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
_MLX_WEIGHTS = "adapters.safetensors"
_MOST_LAYERS, _MOST_REPETITIONS = 1000, 12
_PICKLED = ("adapter_model.bin", "adapter_model.pt", "pytorch_model.bin")

# Kinds that are no change of weights: they add tokens, gates or layers in front of each text.
_NO_WEIGHTS = {
    "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT",
    "CPT", "XLORA", "POLY", "CARTRIDGE",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class AdapterFolder:
    """An adapter as its folder says it.

    Attributes:
        folder: The folder.
        weights: Its file of weights.
        config: Its settings under PEFT's names.
        shapes: The shape of each tensor in the file.
        mlx: Whether it was made by MLX.
    """

    folder: Path
    weights: Path
    config: dict[str, Any]
    shapes: dict[str, list[int]]
    mlx: bool = False

    def tensors(self, model: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Settings and tensors under PEFT's names, for a transformers model."""
        from safetensors.torch import load_file

        found = load_file(self.weights)
        return (_from_mlx(self, found, model)) if self.mlx else (self.config, found)


def is_adapter(folder: Path) -> bool:
    """Whether a folder says that it holds an adapter."""
    return (folder / CONFIG).is_file()


def adapter_config(folder: Path) -> dict[str, Any]:
    """The settings of an adapter, with PEFT's names for its base and its kind.

    Raises:
        InputError: They can't be read, or are of a kind that can't be used.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(
            f"{folder} holds no adapter: {CONFIG} is missing", _checkpoint_hint(folder)
        )
    config: Any = read_json(path)
    if isinstance(config, dict) and "peft_type" not in config and "fine_tune_type" in config:
        return _mlx_config(path, config)
    if isinstance(config, dict) and "lora_parameters" in config and "peft_type" not in config:
        return _mlx_config(path, {"fine_tune_type": "lora", **config})
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if not isinstance(kind, str):
        raise InputError(
            f"{path} does not say what kind of adapter it is: peft_type is missing",
            "adapters of PEFT and of MLX can be used",
        )
    if kind.upper() in _NO_WEIGHTS:
        raise InputError(
            f"{folder} is an adapter of the kind {kind}, which is no change of the base's weights",
            "LoRA, DoRA, LoHa, LoKr, IA3, AdaLoRA, OFT and other kinds that can be merged work",
        )
    found: dict[str, Any] = config
    return found


def read_adapter(folder: Path) -> AdapterFolder:
    """What is in an adapter's folder, its weights not read yet.

    Raises:
        InputError: There is no adapter, it is damaged, pickled, or of a kind that can't be used.
    """
    if not folder.is_dir():
        raise InputError(f"there is no adapter folder {folder}")
    config = adapter_config(folder)
    mlx = "mlx" in config
    weights = folder / (_MLX_WEIGHTS if mlx else WEIGHTS)
    if not weights.is_file():
        pickled = next((name for name in _PICKLED if (folder / name).is_file()), None)
        if pickled:
            raise InputError(
                f"{folder} has its weights only as {pickled}, a pickle, which can run code",
                f"convert it once: {_conversion(folder / pickled, weights)}",
            )
        raise InputError(
            f"{folder} has no adapter weights: {weights.name} is missing",
            "only safetensors are read",
        )
    shapes = open_safetensors(weights)
    if not shapes:
        raise InputError(f"{weights} holds no weights")
    _check_sizes(folder, config, shapes)
    _check_patterns(folder, config)
    return AdapterFolder(folder, weights, config, shapes, mlx)


def _check_sizes(folder: Path, config: dict[str, Any], shapes: dict[str, list[int]]) -> None:
    """Refuse ranks and layers that its weights don't have, before memory is taken for them."""
    largest = max((size for shape in shapes.values() for size in shape), default=0)
    ranks = config.get("rank_pattern")
    given = [config.get("r"), *(ranks.values() if isinstance(ranks, dict) else ())]
    # Other kinds take a large rank for "not factored".
    for rank in given if config.get("peft_type") == "LORA" else ():
        if isinstance(rank, (int, float)) and not rank <= max(largest, 1):
            raise InputError(
                f"{folder} says that its rank is {rank:g}, and has no weights of that size",
                "save it again with the tool that it was trained with",
            )
    copies = config.get("layer_replication")
    if copies:
        try:
            layers = sum(max(0, end - start) for start, end in copies)
        except (TypeError, ValueError):
            layers = _MOST_LAYERS + 1
        if not layers <= _MOST_LAYERS:
            raise InputError(f"{folder / CONFIG} repeats layers in a way that can't be read")


def _check_patterns(folder: Path, config: dict[str, Any]) -> None:
    """Refuse names of modules that are patterns on which matching would not end.

    PEFT matches them with Python's ``re``, which has no limit of time: a repeated group with a
    repetition in it, or many repetitions after each other, take for ever on some name.
    """
    found: list[Any] = []
    for key in ("target_modules", "exclude_modules", "modules_to_save", "layers_pattern",
                "rank_pattern", "alpha_pattern", "target_parameters"):  # fmt: skip
        value = config.get(key)
        if value:
            found += list(value) if isinstance(value, (list, dict)) else [value]
    for pattern in found:
        text = str(pattern)
        repeated = len(re.findall(r"(?<!\\)[*+]|\{\d*,\d*\}", text))
        if re.search(r"\)\s*(?:[*+]|\{\d+)", text) or repeated > _MOST_REPETITIONS:
            raise InputError(
                f"{folder / CONFIG} names modules by a pattern that might take for ever: "
                f"{text[:80]}",
                "name the modules one by one",
            )


def _conversion(source: Path, target: Path) -> str:
    """A command that turns pickled tensors into safetensors without running code in them."""
    return (
        'python -c "import torch, safetensors.torch as s; '
        f"w = torch.load(r'{source}', map_location='cpu', weights_only=True); "
        "s.save_file({k: v.clone().contiguous() for k, v in w.items()}, "
        f"r'{target}')\""
    )


def _checkpoint_hint(folder: Path) -> str:
    """The newest checkpoint of a Trainer in the folder, as advice."""
    inside = [path.parent for path in folder.glob(f"*/{CONFIG}")]
    newest = max(inside, key=lambda path: path.stat().st_mtime, default=None)
    return f"did you mean {newest}?" if newest else "give the folder that the adapter was saved in"


def _mlx_config(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """MLX's settings under PEFT's names; what they were stands under ``mlx``."""
    kind = config["fine_tune_type"]
    if kind not in ("lora", "dora"):
        raise InputError(
            f"{path.parent} holds what MLX calls a {kind} fine-tuning, which is no adapter",
            f"make a whole model of it: mlx_lm.fuse --model {config.get('model')} --adapter-path "
            f"{path.parent} --save-path fused; then give that folder",
        )
    parameters = config.get("lora_parameters")
    parameters = parameters if isinstance(parameters, dict) else {}
    scale: Any = parameters.get("scale")
    dropout: Any = parameters.get("dropout") or 0.0
    for one in (scale, dropout):
        if not isinstance(one, (int, float)) or not abs(one) < 1e9:
            raise InputError(
                f"{path} has no lora_parameters with a scale", "restore the file as MLX wrote it"
            )
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": config.get("model"),
        "lora_dropout": float(dropout),
        "use_dora": kind == "dora",
        "mlx": {"scale": float(scale)},
    }


def _from_mlx(
    adapter: AdapterFolder, found: dict[str, Tensor], model: nn.Module
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """MLX's tensors turned and named as PEFT's, and the settings that go with them."""
    modules = dict(model.named_modules())
    # MLX calls the body of every model "model"; transformers has other names for some.
    inside = {name.partition(".")[2]: name for name in modules}
    scale = adapter.config["mlx"]["scale"]
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for key, value in found.items():
        name, _, part = key.rpartition(".")
        if part not in ("lora_a", "lora_b", "m"):
            raise InputError(
                f"{adapter.weights} holds {key}, which is no part of an adapter",
                "make a whole model of it with mlx_lm.fuse, and give that folder",
            )
        if value.ndim != (1 if part == "m" else 2):
            raise InputError(
                f"{adapter.weights}: {key} is for several experts at once, which is not read",
                "make a whole model of it with mlx_lm.fuse, and give that folder",
            )
        own = name if name in modules else inside.get(name.partition(".")[2])
        if own is None:
            raise InputError(
                f"the adapter {adapter.folder} was made for another base: there is no {name}",
                "give the base that it was trained on",
            )
        embedding = isinstance(modules[own], nn.Embedding)
        names = {
            "lora_a": "lora_embedding_A" if embedding else "lora_A.weight",
            "lora_b": "lora_embedding_B" if embedding else "lora_B.weight",
            "m": "lora_magnitude_vector",
        }
        tensors[f"{PREFIX}{own}.{names[part]}"] = value.T.contiguous() if part != "m" else value
        if part == "lora_a":
            ranks[own] = value.shape[1]
    if not ranks:
        raise InputError(f"{adapter.weights} holds no adapter of any projection")
    rank = max(ranks.values())
    config = {key: value for key, value in adapter.config.items() if key != "mlx"}
    config |= {
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": scale * rank,
        "target_modules": sorted(ranks),
        "rank_pattern": {f"^{name}": r for name, r in ranks.items() if r != rank},
        "alpha_pattern": {f"^{name}": scale * r for name, r in ranks.items() if r != rank},
    }
    return config, tensors
