"""The weights to be exported: float32, adapters merged, one tensor at a time.

A model of a family that we have a forward pass for is read from its files, tensor by tensor, with
plain LoRA added as each is read, so that a model is exported in the memory of its largest tensor
and not of all of it. Any other model, and any other adapter, is merged in memory by PEFT.

Trade-off: tensors are read and merged anew for writing and for each level of verification.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..models.checks import quiet
from ..models.forward.weights import HEAD, FileWeights
from ..models.gguf_model import ARCHITECTURES
from ..models.loaded_model import LoadedModel

_HEAD = f"{HEAD}.weight"


class MergedWeights(Mapping[str, Tensor]):
    """A model's parameters under transformers' names, float32, each read when asked for.

    The head is left out where it equals the token embedding: two equal tensors are one, whatever
    the configuration says, and two that differ are two.

    Args:
        tensors: By parameter name.
        config: The transformers configuration; ``tie_word_embeddings`` is set in place.
        embedding: Name of the token embedding.

    Attributes:
        family: transformers' ``model_type``.
        tied: Whether the head is the token embedding.
    """

    def __init__(self, tensors: Mapping[str, Tensor], config: Any, embedding: str) -> None:
        self._tensors = tensors
        self.config = config
        self.embedding = embedding
        self.family = str(config.model_type)
        self.tied = _HEAD not in tensors or equal(tensors[embedding], tensors[_HEAD])
        config.tie_word_embeddings = self.tied
        self._names = [name for name in tensors if not (self.tied and name == _HEAD)]

    def __getitem__(self, name: str) -> Tensor:
        if self.tied and name == _HEAD:
            name = self.embedding
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        """A parameter's shape, read without merging where the source knows it."""
        known = getattr(self._tensors, "shape", None)
        return known(name) if known is not None else tuple(self._tensors[name].shape)

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(math.prod(self.shape(name)) for name in self)


class _FromFiles(Mapping[str, Tensor]):
    """Tensors of weight files, the active adapters merged."""

    def __init__(self, files: FileWeights, *, adapted: bool = True) -> None:
        self._files = files
        active = files.strengths if adapted and files.enabled else ()
        adapters = [files.adapters[name] for name in active]
        self._adapted = {module for adapter in adapters for module in adapter.pairs}

    def __getitem__(self, name: str) -> Tensor:
        module = name.removesuffix(".weight")
        if module not in self._adapted or module == name:
            return self._files.tensor(name)
        weight, _ = self._files.projection(module)
        return weight.t().contiguous() if self._files.transposed else weight

    def __iter__(self) -> Iterator[str]:
        return iter(self._files.tensors)

    def __len__(self) -> int:
        return len(self._files.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._files.tensors[name].shape)


def equal(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors have the same shape and values."""
    if first.data_ptr() == second.data_ptr() and first.shape == second.shape:
        return True
    return torch.equal(first, second)


def merged_weights(model: LoadedModel) -> MergedWeights:
    """The weights of a model with its active adapters at their strengths.

    The model itself is not changed.

    Args:
        model: The model.

    Raises:
        InputError: Its adapter can't be merged, or a weight is not a number.
    """
    return _weights(model, adapted=True)


def base_weights(model: LoadedModel) -> MergedWeights:
    """The weights of a model's base, without its adapters; the model is not changed."""
    return _weights(model, adapted=False)


def _weights(model: LoadedModel, *, adapted: bool) -> MergedWeights:
    if model.files is not None:
        files = model.files
        embedding = "transformer.wte.weight" if files.transposed else "model.embed_tokens.weight"
        config = transformers_config(vars(files.config))
        return MergedWeights(_FromFiles(files, adapted=adapted), config, embedding)
    if adapted:
        merged = merged_copy(model)
    elif model.overlays is not None:
        merged = model.overlays.base
    elif hasattr(model.model, "peft_config"):
        merged = copy.deepcopy(model.model).unload()
    else:
        merged = model.model
    table = merged.get_input_embeddings()
    names = {id(parameter): name for name, parameter in merged.named_parameters()}
    state = {
        name: tensor.detach().float().cpu()
        for name, tensor in merged.state_dict().items()
        if tensor.is_floating_point()
    }
    if merged.config.model_type in ARCHITECTURES:  # buffers that old GPT-2 files hold
        state = {n: t for n, t in state.items() if not n.endswith((".attn.bias", "masked_bias"))}
    return MergedWeights(state, copy.deepcopy(merged.config), names[id(table.weight)])


def merged_copy(model: LoadedModel) -> Any:
    """The transformers model with its adapters merged; a copy, where there is anything to merge.

    Raises:
        InputError: The adapter can't be merged.
    """
    if not hasattr(model.model, "peft_config"):
        return model.model
    try:
        with quiet():
            return copy.deepcopy(model.model).merge_and_unload(safe_merge=True).eval()
    except (ValueError, NotImplementedError, AttributeError) as error:
        raise InputError(
            f"the adapter of {model.name} can't be merged: {error}",
            "LoRA, DoRA, LoHa, LoKr, IA3, AdaLoRA and OFT can",
        ) from error


def transformers_config(settings: Mapping[str, Any]) -> Any:
    """A configuration of transformers from the content of a ``config.json``.

    Args:
        settings: Keys of the file, with or without the defaults of our own forward passes.
    """
    from transformers import AutoConfig

    given = {key: value for key, value in settings.items() if value is not None}
    family = given.pop("model_type")
    if given.get("rope_parameters"):
        given.pop("rope_theta", None)
        given.pop("rope_scaling", None)
    given.pop("transformers_version", None)
    if family == "llama":
        given.pop("use_sliding_window", None)
    with quiet():
        config = AutoConfig.for_model(family, **given)
    for key in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if key in settings and settings[key] is None:
            setattr(config, key, None)
    return config


class SafetensorsFolder(Mapping[str, Tensor]):
    """Tensors of the safetensors files in a folder; a file is opened for the tensor alone.

    Args:
        folder: A folder with ``model.safetensors``, or with shards and their index.
    """

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        self._files: dict[str, Path] = {}
        self.dtypes: dict[str, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for path in sorted(folder.glob("model*.safetensors")):
            with safe_open(path, "pt") as stream:
                for name in stream.keys():  # noqa: SIM118 - no mapping
                    part = stream.get_slice(name)
                    self._files[name] = path
                    self.dtypes[name] = str(part.get_dtype())
                    self.shapes[name] = tuple(part.get_shape())

    def __getitem__(self, name: str) -> Tensor:
        from safetensors import safe_open

        with safe_open(self._files[name], "pt") as stream:
            found: Tensor = stream.get_tensor(name)
        # Bytes of their own, not a view of a file that is closed.
        return found.float() if found.dtype != torch.float32 else found.clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape."""
        return self.shapes[name]
