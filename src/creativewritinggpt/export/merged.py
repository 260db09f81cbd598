"""Folders of merged safetensors, for transformers of any age, vLLM, MLX and converters.

What transformers 5 writes is not read rightly by transformers 4: it finds no ``rope_theta`` and
takes 10,000, and knows no class ``TokenizersBackend``. Both spellings are written here.

The file of weights is written by this module and not by the safetensors library, which wants all
tensors in memory at once: eight bytes of length, a JSON header, the tensors one after the other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..files import write_json
from ..models.checks import quiet
from ..models.loaded_model import LoadedModel
from .verify import (
    PROBES,
    Level,
    Reference,
    VerificationFailed,
    compare,
    level,
    not_run,
    streamed_logits,
    token_ids,
)
from .weights import SafetensorsFolder

DTYPES = {"fp32": ("F32", torch.float32, 1e-6), "bf16": ("BF16", torch.bfloat16, 1e-2)}
"""Formats by name: their names in safetensors and torch, and the largest mean KL that is right."""

SHARD_BYTES = 5_000_000_000
_NAMES = {"fp32": "float32", "bf16": "bfloat16"}
# Keys of every configuration that say nothing about a causal language model.
_NOTHING = (
    "_name_or_path", "transformers_version", "_attn_implementation", "output_hidden_states",
    "output_attentions", "return_dict", "chunk_size_feed_forward", "is_encoder_decoder",
    "id2label", "label2id", "problem_type",
)  # fmt: skip


def write_weights(
    folder: Path,
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    dtype: str,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write ``model.safetensors``, or shards of 5 GB with their index.

    Args:
        folder: An existing folder.
        tensors: Float32, each read once.
        shapes: Of each tensor.
        dtype: A key of :data:`DTYPES`.
        progress: Called with the bytes written and all there are.

    Raises:
        InputError: A value is not a number.
    """
    name_of_type, kind, _ = DTYPES[dtype]
    width = kind.itemsize
    sizes = {name: width * math.prod(shape) for name, shape in shapes.items()}
    shards: list[list[str]] = [[]]
    for name in shapes:
        if shards[-1] and sum(sizes[other] for other in shards[-1]) + sizes[name] > SHARD_BYTES:
            shards.append([])
        shards[-1].append(name)
    total, done = sum(sizes.values()), 0
    places: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = "model.safetensors"
        if len(shards) > 1:
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        with (folder / file).open("wb") as stream:
            stream.write(_header(names, shapes, sizes, name_of_type))
            for name in names:
                values = tensors[name]
                if not bool(torch.isfinite(values).all()):
                    raise InputError(
                        f"{name} holds values that are not numbers", "train or fetch it again"
                    )
                flat = values.to(kind).contiguous().reshape(-1).view(torch.uint8)
                stream.write(flat.numpy().data)
                places[name] = file
                done += sizes[name]
                if progress is not None:
                    progress(done, total)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": places}
        write_json(folder / "model.safetensors.index.json", index)


def _header(
    names: Sequence[str],
    shapes: Mapping[str, tuple[int, ...]],
    sizes: Mapping[str, int],
    dtype: str,
) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name in names:
        end = start + sizes[name]
        entries[name] = {
            "dtype": dtype, "shape": list(shapes[name]), "data_offsets": [start, end],
        }  # fmt: skip
        start = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def config_json(config: Any, dtype: str) -> dict[str, Any]:
    """The content of ``config.json``, readable by transformers 4 and 5.

    Args:
        config: A configuration of transformers.
        dtype: A key of :data:`DTYPES`.
    """
    found: dict[str, Any] = config.to_dict()
    for key in _NOTHING:
        found.pop(key, None)
    found["dtype"] = found["torch_dtype"] = _NAMES[dtype]
    rope = found.get("rope_parameters")
    if isinstance(rope, dict) and "rope_theta" in rope:
        found["rope_theta"] = rope["rope_theta"]
        kind = rope.get("rope_type", "default")
        scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
        found["rope_scaling"] = None if kind == "default" else {**scaling, "type": kind}
    if found.get("model_type") == "gpt2":
        found["n_ctx"] = found["n_positions"]
    return found


def write_tokenizer(folder: Path, model: LoadedModel, chat_template: str | None = None) -> None:
    """Write ``tokenizer.json`` and a ``tokenizer_config.json`` that any transformers reads.

    Args:
        folder: An existing folder.
        model: Whose tokenizer it is.
        chat_template: To write, or None.
    """
    content = json.loads(model.tokenizer.backend_tokenizer.to_str())
    content["truncation"] = content["padding"] = None
    bos = str(model.tokenizer.convert_ids_to_tokens(model.bos_id))
    # As in training: a text begins with that token, whoever encodes it.
    content["post_processor"] = _begins_with(bos, model.bos_id)
    (folder / "tokenizer.json").write_text(
        json.dumps(content, ensure_ascii=False, indent=2) + "\n", "utf-8"
    )
    tokenizer = model.tokenizer
    eos = str(tokenizer.convert_ids_to_tokens(model.eos_id))
    pad = tokenizer.pad_token_id
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": eos,
        "pad_token": eos if pad is None else str(tokenizer.convert_ids_to_tokens(pad)),
        "model_max_length": model.context_length,
        "clean_up_tokenization_spaces": False,
    }
    if chat_template is not None:
        settings["chat_template"] = chat_template
    write_json(folder / "tokenizer_config.json", settings)


def _begins_with(token: str, number: int) -> dict[str, Any]:
    """A post-processor of ``tokenizers`` that puts a token before each text."""
    start = {"SpecialToken": {"id": token, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [start, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [
            start,
            {"Sequence": {"id": "A", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 1}},
        ],
        "special_tokens": {token: {"id": token, "ids": [number], "tokens": [token]}},
    }


def generation_json(model: LoadedModel, sampling: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``generation_config.json``.

    Args:
        model: The model.
        sampling: Generation settings to recommend, by our names.
    """
    pad = model.tokenizer.pad_token_id
    found: dict[str, Any] = {
        "bos_token_id": model.bos_id,
        "eos_token_id": model.eos_id,
        "pad_token_id": model.eos_id if pad is None else pad,
    }
    known = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty")
    chosen = {key: sampling[key] for key in known if key in sampling}
    if chosen:
        found |= {"do_sample": True, **chosen}
    return found


def structure(folder: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> Level:
    """Level 1: the files open, with the tensors planned.

    Raises:
        VerificationFailed: They do not.
    """
    found = SafetensorsFolder(folder)
    wanted = DTYPES[dtype][0]
    if found.shapes != dict(shapes):
        raise VerificationFailed("structure: the files hold other tensors than were written")
    if odd := [name for name, kind in found.dtypes.items() if kind != wanted]:
        raise VerificationFailed(f"structure: {odd[0]} is not {wanted}")
    return level(1, "structure", tensors=len(found))


def weights(folder: Path, tensors: Mapping[str, Tensor], dtype: str) -> Level:
    """Level 2: every tensor equals its source, cast.

    Raises:
        VerificationFailed: One does not.
    """
    found = SafetensorsFolder(folder)
    kind = DTYPES[dtype][1]
    for name in found:
        if not torch.equal(found[name], tensors[name].to(kind).float()):
            raise VerificationFailed(f"weights: {name} differs from its source")
    return level(2, "weights", equal=True)


def logits(
    folder: Path, model: LoadedModel, wanted: Reference, dtype: str, by_layers: bool
) -> Level:
    """Level 3: the folder in plain transformers against the reference, tokens included.

    Args:
        folder: What was written.
        model: What it was made from.
        wanted: Its logits.
        dtype: A key of :data:`DTYPES`.
        by_layers: Whether the files' names are those of the modules, so that they can be read one
            by one.

    Raises:
        VerificationFailed: Token ids or logits differ.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    with quiet():
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    begins = True
    for text in PROBES:
        ids, found = token_ids(model, text), tokenizer(text)["input_ids"]
        # Some classes of transformers build the pipeline anew, and leave the first token out.
        begins = begins and found == ids
        if found not in (ids, ids[1:]):
            raise VerificationFailed(f"logits: transformers reads {text[:40]!r} as other tokens")
    if by_layers:
        found_logits = streamed_logits(config, SafetensorsFolder(folder), wanted.rows)
    else:
        with quiet(), torch.no_grad():
            read = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False
            )
            found_logits = read.eval()(input_ids=wanted.rows, use_cache=False).logits.float()
    figures = compare(found_logits, wanted)
    if not figures["mean_kl"] <= DTYPES[dtype][2]:
        raise VerificationFailed(
            f"logits: the mean divergence from the fp32 model is {figures['mean_kl']:.3g} nats"
        )
    return level(3, "logits", **figures, reference=wanted.how, tokenizer_adds_first_token=begins)


def other_program() -> Level:
    """Level 4, which is for GGUF alone."""
    return not_run(4, "llama.cpp", "llama.cpp reads no safetensors; level 3 was transformers")
