"""Checks of a model folder and a loaded model, with one-line messages.

A model folder can be wrong in many ways that transformers either answers with a page of traceback
or does not notice, such as missing weights, which it initialises at random.

Trade-off: a few tenths of a second at each load.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from .. import console
from ..errors import InputError, UserError
from ..files import read_json
from .attention import by_document, packed_inputs

FAMILIES = "docs/models.md lists the families that work"
_CAUSAL = "use a causal language model, as GPT-2, Llama, Qwen or Gemma; see docs/models.md"
# Settings of models that see or hear.
_SENSES = ("vision_config", "audio_config", "speech_config", "vision_tower", "mm_vision_tower")
_RECURRENT = {
    "bamba", "falcon_h1", "falcon_mamba", "jamba", "mamba", "mamba2", "nemotron_h",
    "recurrent_gemma", "rwkv", "xlstm", "zamba", "zamba2",
}  # fmt: skip
_RECURRENT_LAYERS = ("mamba", "linear_attention", "recurrent", "conv", "lightning")
# Families with a forward pass of ours: no need to import transformers to know them.
_KNOWN = {"gpt2", "llama", "qwen2", "qwen3"}
_WRITES = re.compile("CausalLM|LMHead")
_PAIRS = "is an encoder-decoder: it turns one text into another"
_MASKED = "fills gaps in texts (a masked model) and does not write on"
_LABELS = re.compile("Classification|QuestionAnswering|MultipleChoice|RewardModel|Embedding")
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' progress bars and warnings from the user's terminal."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def check_folder(folder: Path, name: str) -> None:
    """Refuse a folder that can't be a model, before transformers sees it.

    Raises:
        InputError: No config, no safetensors, a weight file missing, cut off or not safetensors,
            or a model of a kind that can't be used.
    """
    if not (folder / "config.json").is_file():
        if any(folder.glob("*.gguf")):
            raise InputError(
                f"{name} holds a GGUF, which is not read",
                "use the folder or hub id it was made from",
            )
        inner = [sub for sub in ("best_model", "final_model") if (folder / sub).is_dir()]
        raise InputError(f"{name} holds no model: config.json is missing", _hint(folder, inner))
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or "model_type" not in config:
        raise InputError(
            f"{folder / 'config.json'} does not describe a model: it has no model_type",
            "give a model's folder as transformers saves it",
        )
    check_config(config, name)
    _check_weight_files(folder, name)


def check_config(config: dict[str, Any], name: str) -> None:
    """Refuse a model by what its ``config.json`` says, before its weights are fetched or read.

    Raises:
        InputError: Quantised weights, or a kind of model that can't be used.
    """
    quantised = config.get("quantization_config") or config.get("quantization")  # the latter: MLX
    if quantised:
        method = quantised.get("quant_method", "?") if isinstance(quantised, dict) else "?"
        method = "MLX" if "quantization_config" not in config else method
        raise InputError(
            f"{name} has quantised weights ({method})",
            "use the model they were made from, whose weights are fp32, bf16 or fp16",
        )
    check_kind(config, name)


def check_kind(config: dict[str, Any], name: str) -> None:
    """Refuse models that don't write text from left to right by attention.

    Args:
        config: What ``config.json`` says.
        name: What to call the model.

    Raises:
        InputError: It is of another kind.
    """
    family = str(config["model_type"])
    kinds = _names(config, "architectures")
    kind = kinds[0] if kinds else family
    layers = _names(config, "layer_types") or _names(config, "layers_block_type")
    why, advice = None, _CAUSAL
    if any(key in config for key in _SENSES):
        why = "works with pictures or sound beside text"
        advice = "use a text-only model of its family (ForCausalLM, not ForConditionalGeneration)"
    elif config.get("is_encoder_decoder"):
        why = _PAIRS
    elif family in _RECURRENT or any(part in x for x in layers for part in _RECURRENT_LAYERS):
        why = "keeps a recurrent state, which can't be rewound or split"
    elif any(_LABELS.search(found) for found in kinds):
        why = "gives labels or vectors for texts and writes none"
    elif not config.get("is_decoder") and any("MaskedLM" in found for found in kinds):
        why = _MASKED
    elif family not in _KNOWN:
        why, advice = _by_family(family, config)
    if why is None and kinds and not any(_WRITES.search(found) for found in kinds):
        why = "does not write text"
    if why is not None:
        raise InputError(f"{name if name == kind else f'{name} ({kind})'} {why}", advice)


def _names(config: dict[str, Any], key: str) -> list[str]:
    found = config.get(key) or []
    if not isinstance(found, (list, tuple)):
        raise InputError(f"config.json: {key} is no list of names", "fetch the model again")
    return [str(name) for name in found]


def _by_family(family: str, config: dict[str, Any]) -> tuple[str | None, str]:
    """What transformers' tables have against a family of models, and the way out."""
    from transformers import __version__
    from transformers.models.auto import configuration_auto, modeling_auto

    if family not in configuration_auto.CONFIG_MAPPING_NAMES:
        if "auto_map" in config:
            why = "needs Python code from its own folder, which is never run"
            return why, "use a model whose family transformers has itself"
        why = f"is of a family that transformers {__version__} does not know ({family})"
        return why, "update transformers, or use another model"
    masked = family in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if masked and not config.get("is_decoder"):
        return _MASKED, _CAUSAL
    if family not in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        pairs = modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
        return _PAIRS if family in pairs else "does not write text", _CAUSAL
    return None, _CAUSAL


def _hint(folder: Path, inner: list[str]) -> str:
    return f"did you mean {folder / inner[0]}?" if inner else "give a folder with a saved model"


def _check_weight_files(folder: Path, name: str) -> None:
    """Refuse weight files that are missing, cut off or damaged."""
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if single.is_file():
        files = [single]
    elif index.is_file():
        try:
            files = sorted({folder / file for file in read_json(index)["weight_map"].values()})
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{index} does not say where the weights are") from error
    else:
        pickled = [found.name for pattern in _PICKLED for found in sorted(folder.glob(pattern))]
        if pickled:
            raise InputError(
                f"{name} has no safetensors, only {pickled[0]}",
                "pickled weights can run code and are not read; save them as safetensors first",
            )
        raise InputError(f"{name} has no weights: model.safetensors is missing")
    for file in files:
        open_safetensors(file)


def open_safetensors(file: Path) -> dict[str, list[int]]:
    """The shape of every tensor in a safetensors file, whose size fits its header.

    Raises:
        InputError: The file is missing, cut off or damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise InputError(f"{file} is missing", "restore the file or fetch the model again")
    try:
        with safe_open(file, framework="pt") as opened:
            return {key: list(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{file} is damaged ({error})", "restore the file or fetch the model again"
        ) from error


@contextlib.contextmanager
def describe(folder: Path, name: str) -> Iterator[None]:
    """Turn what transformers raises for an unusable folder into one line."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # the tokenizers' library raises bare ones
        raise InputError(
            f"{name} can't be loaded: {first_line(error)}",
            f"any causal language model of transformers with safetensors will do; see {folder}",
        ) from error


def check_model(model: Any, info: dict[str, Any], name: str) -> None:
    """Refuse a model with missing, misshapen or non-finite weights, or without a cache.

    Raises:
        InputError: Naming the first such weight.
    """
    for key, wrong in (
        ("missing_keys", "has no weights for"),
        ("mismatched_keys", "has a wrong shape for"),
    ):
        if info.get(key):
            first = sorted(info[key], key=str)[0]
            first = first[0] if isinstance(first, tuple) else first
            raise InputError(
                f"{name} {wrong} {first}", "its config.json and its weights don't belong together"
            )
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        raise InputError(
            f"{name} ({type(model).__name__}) keeps no keys and values of what it has read", _CAUSAL
        )
    for parameter_name, parameter in model.named_parameters():
        if not finite(parameter):
            raise InputError(
                f"{name} has weights that are not numbers: {parameter_name}",
                "the file is damaged, or its training went wrong",
            )


def finite(values: torch.Tensor) -> bool:
    """Whether all values are numbers, in one pass and without a copy."""
    low, high = torch.aminmax(values.detach())
    return math.isfinite(low) and math.isfinite(high)


def check_tokenizer(tokenizer: Any, rows: int, name: str) -> None:
    """Refuse a tokenizer that does not belong to the model.

    Args:
        tokenizer: The tokenizer.
        rows: Token embeddings of the model.
        name: What to call the model.

    Raises:
        InputError: It knows more tokens than the model has embeddings, or hardly any.
    """
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= rows:
        raise InputError(
            f"{name}: the tokenizer has tokens up to {highest}, the model only {rows} embeddings",
            "the tokenizer belongs to another model",
        )
    text = "Once upon a time"
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    if not ids or all(token in tokenizer.all_special_ids for token in ids):
        raise InputError(
            f"{name} has no usable tokenizer", "its folder needs tokenizer.json or what made it"
        )


def packs_by_mask(
    model: Any, body: Callable[..., torch.Tensor], logits_of: Callable[[torch.Tensor], torch.Tensor]
) -> bool:
    """Try on six tokens what is taken for granted of every family of models.

    What is taken for the head gives the model's logits, and a document that shares its row with
    another gets what it gets alone: by a mask, or read in a row of its own.

    Args:
        model: The transformers model, without a PEFT wrapper.
        body: Its part before the head, giving hidden states.
        logits_of: Its head.

    Returns:
        Whether a mask keeps documents apart.

    Raises:
        InputError: One of the two does not hold.
    """
    kind = type(model).__name__
    check_kind(model.config.to_dict(), kind)
    embedding = model.get_input_embeddings().weight
    device = embedding.device
    ids = torch.arange(1, 7, device=device)[None] % len(embedding)
    segments = torch.tensor([[1, 1, 2, 2, 2, 2]], device=device)
    positions = torch.tensor([[0, 1, 0, 1, 2, 3]], device=device)
    training = {module: module.training for module in model.modules()}
    model.eval()

    def apart(packed: Callable[[], torch.Tensor]) -> bool:
        try:
            return near(packed()[:, 2:], alone)
        except (ValueError, TypeError, RuntimeError, IndexError, AttributeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            return False

    try:
        with torch.no_grad(), quiet():
            alone = body(input_ids=ids[:, 2:], use_cache=False)
            logits = model(input_ids=ids[:, 2:], use_cache=False).logits
            masked = apart(lambda: body(input_ids=ids, **packed_inputs(segments, positions, model)))
            fit = masked or apart(lambda: by_document(body, ids, segments))
            plain = near(logits_of(alone), logits)
    except torch.OutOfMemoryError:
        raise
    except (ValueError, TypeError, RuntimeError, IndexError, AttributeError) as error:
        raise InputError(f"{kind} can't be run: {first_line(error)}", FAMILIES) from error
    finally:
        for module, mode in training.items():
            module.training = mode
    if not bool(torch.isfinite(logits).all()):
        raise InputError(
            f"{kind} computes no numbers (NaN): its weights are damaged", "load another model"
        )
    if not fit:
        raise InputError(f"{kind} can't keep documents that share a row apart", FAMILIES)
    if not plain:
        raise InputError(f"{kind} does more after its body than one product", FAMILIES)
    return masked


def near(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two results differ by rounding only."""
    return bool((first - second).abs().max() <= 3e-4 * second.abs().max())


def first_line(error: Exception) -> str:
    """What an exception says, in one line."""
    said = console.printable(str(error)).strip().splitlines()
    return said[0] if said else type(error).__name__
