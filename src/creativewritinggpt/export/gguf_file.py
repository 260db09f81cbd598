"""GGUF files of whole models, written one tensor at a time.

Keys, names and orders are those of llama.cpp's converter but for three: the token that begins
texts is added (``add_bos_token``), as in training; no chat template stands in the file unless it
is asked for, since programs would wrap every prompt in it; and GPT-2's feed-forward width is the
real one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from ..models.gguf_model import (
    ARCHITECTURES,
    ROPE_FACTORS,
    is_transposed,
    rotated_heads,
    tensor_name,
)
from .quantization import Format, ggml_type, quantized, tensor_format
from .tokenizer import GGUFTokenizer
from .weights import MergedWeights

_ADVICE = "export it with --to merged, which other programs convert themselves"
_ROPE_ONLY = ("default", "linear", "llama3")
_SAMPLING = {
    "temperature": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "xtc_probability": "xtc_probability",
    "xtc_threshold": "xtc_threshold",
    "repetition_penalty": "penalty_repeat",
    "penalty_range": "penalty_last_n",
}


@dataclasses.dataclass(frozen=True)
class Description:
    """What a file says about its model, beyond its shape.

    Attributes:
        name: Of the model.
        basename: Of its base, as ``SmolLM2``.
        size_label: As ``135M``.
        finetune: What it was tuned to, or None.
        version: As ``v1.0``.
        license: SPDX identifier, or None.
        base_model: Hub id of the base, or None.
        datasets: Names of what it was trained on.
    """

    name: str
    basename: str
    size_label: str
    finetune: str | None
    version: str
    license: str | None = None
    base_model: str | None = None
    datasets: tuple[str, ...] = ()

    def add_to(self, writer: Any) -> None:
        """Write the keys ``general.*`` that name a model."""
        writer.add_name(self.name)
        writer.add_basename(self.basename)
        writer.add_size_label(self.size_label)
        writer.add_version(self.version)
        if self.finetune:
            writer.add_finetune(self.finetune)
        if self.license:
            writer.add_license(self.license)
        if self.base_model:
            writer.add_base_model_count(1)
            writer.add_base_model_name(0, self.base_model.rpartition("/")[2])
            if "/" in self.base_model:
                writer.add_base_model_organization(0, self.base_model.partition("/")[0])
                writer.add_base_model_repo_url(0, f"https://huggingface.co/{self.base_model}")


@dataclasses.dataclass(frozen=True)
class PlannedTensor:
    """A tensor of a GGUF file.

    Attributes:
        name: GGUF's name.
        parameter: transformers' name of what it is made from; None where it follows from the
            configuration.
        shape: ``[rows, row length]`` or ``[length]``.
        kind: Its number format.
    """

    name: str
    parameter: str | None
    shape: tuple[int, ...]
    kind: str

    @property
    def bytes(self) -> int:
        """Bytes in the file, padding apart."""
        from gguf import GGML_QUANT_SIZES

        block, size = GGML_QUANT_SIZES[ggml_type(self.kind)]
        return math.prod(self.shape) // int(block) * int(size)


def check_family(weights_config: Any, name: str) -> None:
    """Refuse a model that GGUF has no words for here, before any work.

    Raises:
        InputError: Another family, or a variant of one.
    """
    config = weights_config
    family = config.model_type
    if family not in ARCHITECTURES:
        raise InputError(
            f"{name} is of the family {family}, and GGUF is written for "
            f"{', '.join(ARCHITECTURES)} only",
            _ADVICE,
        )
    odd: str | None = None
    if family == "gpt2":
        activation = config.activation_function
        if activation not in ("gelu_new", "gelu_pytorch_tanh"):
            odd = f"the activation {activation}"
        elif config.add_cross_attention:
            odd = "cross-attention"
        elif config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights:
            odd = "attention that is scaled in a way of its own"
    else:
        rope = config.rope_parameters
        if config.hidden_act != "silu":
            odd = f"the activation {config.hidden_act}"
        elif getattr(config, "use_sliding_window", False):
            odd = "attention within a sliding window"
        elif rope.get("rope_type", "default") not in _ROPE_ONLY:
            odd = f"rotary embedding of the type {rope['rope_type']}"
        elif rope.get("partial_rotary_factor", 1.0) != 1.0:
            odd = "rotary embedding of a part of each head"
        elif family != "llama" and rope.get("rope_type") == "llama3":
            odd = "Llama's scaling of the rotary embedding"
        elif family == "qwen3" and config.attention_bias:
            odd = "biases in its attention"
    if odd:
        raise InputError(f"{name} is a {family} with {odd}, which is not written as GGUF", _ADVICE)


def plan(weights: MergedWeights, form: Format) -> list[PlannedTensor]:
    """The tensors of a file, in their order.

    Raises:
        InputError: A parameter that GGUF has no name for.
    """
    family, tied = weights.family, weights.tied
    layers = int(weights.config.num_hidden_layers)
    planned = []
    for parameter in weights:
        try:
            name = tensor_name(family, parameter)
        except KeyError as error:
            raise InputError(
                f"GGUF has no name for {parameter} in a {family} model", _ADVICE
            ) from error
        shape = weights.shape(parameter)
        if is_transposed(family, name):
            shape = shape[::-1]
        kind = tensor_format(form, name, shape, layers, tied)
        planned.append(PlannedTensor(name, parameter, shape, kind))
    factors = rope_factors(weights.config)
    if factors is not None:
        planned.append(PlannedTensor(ROPE_FACTORS, None, factors.shape, "F32"))
    return planned


def values_of(weights: MergedWeights, tensor: PlannedTensor) -> np.ndarray:
    """A planned tensor's values, float32 in GGUF's order.

    Raises:
        InputError: A value is not a number.
    """
    if tensor.parameter is None:
        factors = rope_factors(weights.config)
        assert factors is not None
        return factors
    values = weights[tensor.parameter].detach().float().numpy()
    if not np.isfinite(values).all():
        raise InputError(
            f"{tensor.parameter} holds values that are not numbers", "train or fetch it again"
        )
    if is_transposed(weights.family, tensor.name):
        values = np.ascontiguousarray(values.T)
    config = weights.config
    heads = rotated_heads(
        weights.family,
        tensor.name,
        int(config.num_attention_heads),
        int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads),
    )
    return values if heads is None else permute_to_pairs(values, heads)


def permute_to_pairs(values: np.ndarray, heads: int) -> np.ndarray:
    """Put a projection's rows in the order that llama.cpp's rotary embedding expects.

    transformers turns the halves of a head (0, d/2), (1, d/2 + 1)…; llama.cpp turns neighbours.

    Args:
        values: ``[heads * d, …]``.
        heads: Number of heads that the rows belong to.
    """
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, -1)
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)


def rope_factors(config: Any) -> np.ndarray | None:
    """Divisors of Llama 3.1's rotary frequencies, ``[head size / 2]``; None for other models."""
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "llama3":
        return None
    size = head_size(config)
    exponents = torch.arange(0, size, 2, dtype=torch.float32) / size
    waves = 2 * math.pi * rope["rope_theta"] ** exponents
    length = rope["original_max_position_embeddings"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = (length / waves - low) / (high - low)
    between = 1 / ((1 - smooth) / rope["factor"] + smooth)
    factors = torch.where(
        waves > length / low,
        torch.full_like(waves, rope["factor"]),
        torch.where(waves < length / high, torch.ones_like(waves), between),
    )
    found: np.ndarray = factors.numpy()
    return found


def head_size(config: Any) -> int:
    """The width of an attention head."""
    found = getattr(config, "head_dim", None)
    return int(found or config.hidden_size // config.num_attention_heads)


def write(
    path: Path,
    weights: MergedWeights,
    tokenizer: GGUFTokenizer,
    form: Format,
    description: Description,
    *,
    sampling: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[PlannedTensor]:
    """Write a GGUF file.

    Args:
        path: The file.
        weights: What it holds.
        tokenizer: The tokenizer.
        form: The number format.
        description: What it says about itself.
        sampling: Generation settings to recommend in it, by our names.
        progress: Called with the bytes written and all there are.

    Returns:
        The tensors that it holds.

    Raises:
        InputError: The model can't be held by a GGUF file, or not in this format.
    """
    from gguf import GGUFWriter

    planned = plan(weights, form)
    writer = GGUFWriter(path, weights.family)
    writer.add_type("model")
    description.add_to(writer)
    writer.add_quantization_version(2)
    writer.add_file_type(form.file_type)
    for name, value in sampling_keys(sampling or {}).items():
        getattr(writer, f"add_sampling_{name}")(value)
    _add_shape(writer, weights.config)
    _add_tokenizer(writer, tokenizer)
    for tensor in planned:
        writer.add_tensor_info(
            tensor.name, tensor.shape, np.dtype(np.float32), tensor.bytes, ggml_type(tensor.kind)
        )
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        total, done = sum(tensor.bytes for tensor in planned), 0
        for tensor in planned:
            values = values_of(weights, tensor)
            writer.write_tensor_data(quantized(values, tensor.kind, tensor.name))
            done += tensor.bytes
            if progress is not None:
                progress(done, total)
    finally:
        writer.close()
    return planned


def sampling_keys(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The generation settings that GGUF has keys for, under its names."""
    found = {theirs: settings[ours] for ours, theirs in _SAMPLING.items() if ours in settings}
    if found.get("penalty_last_n") == 0:
        found["penalty_last_n"] = -1  # all of the text, which is 0 here
    return found


def _add_shape(writer: Any, config: Any) -> None:
    """Write the keys of the architecture."""
    heads = int(config.num_attention_heads)
    writer.add_context_length(int(config.max_position_embeddings))
    writer.add_embedding_length(int(config.hidden_size))
    writer.add_block_count(int(config.num_hidden_layers))
    writer.add_head_count(heads)
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(int(config.n_inner or 4 * config.n_embd))
        writer.add_layer_norm_eps(float(config.layer_norm_epsilon))
        return
    size = head_size(config)
    rope = config.rope_parameters
    writer.add_feed_forward_length(int(config.intermediate_size))
    writer.add_head_count_kv(int(config.num_key_value_heads or heads))
    writer.add_layer_norm_rms_eps(float(config.rms_norm_eps))
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    writer.add_vocab_size(int(config.vocab_size))
    if size * heads != config.hidden_size or config.model_type == "qwen3":
        writer.add_key_length(size)
        writer.add_value_length(size)
    if rope.get("rope_type") == "linear":
        from gguf import RopeScalingType

        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))


def _add_tokenizer(writer: Any, tokenizer: GGUFTokenizer) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(tokenizer.pre)
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types(tokenizer.types)
    writer.add_token_merges(tokenizer.merges)
    writer.add_bos_token_id(tokenizer.bos_id)
    writer.add_eos_token_id(tokenizer.eos_id)
    writer.add_pad_token_id(tokenizer.pad_id)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template)
