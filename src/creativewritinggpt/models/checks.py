"""Checks of a model folder and a loaded model, with one-line messages.

A model folder can be wrong in many ways that transformers either answers with a page of traceback
or does not notice, such as missing weights, which it initialises at random.

Trade-off: a few tenths of a second at each load.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from .. import console
from ..errors import InputError, UserError
from ..files import read_json
from .attention import packed_inputs

_FAMILIES = "models of the GPT-2, Llama and Qwen families work, and most with plain attention"
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
            quantised weights, or a model that does not write text.
    """
    if not (folder / "config.json").is_file():
        inner = [sub for sub in ("best_model", "final_model") if (folder / sub).is_dir()]
        raise InputError(f"{name} holds no model: config.json is missing", _hint(folder, inner))
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or "model_type" not in config:
        raise InputError(f"{folder / 'config.json'} does not describe a model")
    quantised = config.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method", "?") if isinstance(quantised, dict) else "?"
        raise InputError(
            f"{name} has quantised weights ({method})", "use the model they were made from"
        )
    kinds = config.get("architectures") or []
    if kinds and not any("CausalLM" in kind or "LMHead" in kind for kind in kinds):
        raise InputError(
            f"{name} is a {kinds[0]}, which does not write text",
            "use a causal language model, as GPT-2, Llama or Qwen",
        )
    _check_weight_files(folder, name)


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
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, TypeError) as error:
        raise InputError(
            f"{name} can't be loaded: {first_line(error)}",
            f"any causal language model of transformers with safetensors will do; see {folder}",
        ) from error


def check_model(model: Any, info: dict[str, Any], name: str) -> None:
    """Refuse a model with missing, misshapen or non-finite weights.

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


def check_passes(model: Any, body: Callable[..., torch.Tensor], head: torch.nn.Linear) -> None:
    """Try on six tokens what is taken for granted of every family of models.

    The head after the body gives the model's logits (some families scale or bend them), and a
    document that shares its row with another gets what it gets alone (models with a recurrent
    state, for one, mix them).

    Args:
        model: The transformers model, without a PEFT wrapper.
        body: Its part before the head, giving hidden states.
        head: Its output projection.

    Raises:
        InputError: One of the two does not hold.
    """
    device, kind = head.weight.device, type(model).__name__
    ids = torch.arange(1, 7, device=device)[None] % head.weight.shape[0]
    segments = torch.tensor([[1, 1, 1, 2, 2, 2]], device=device)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2]], device=device)
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), quiet():
            alone = body(input_ids=ids[:, 3:], use_cache=False)
            logits = model(input_ids=ids[:, 3:], use_cache=False).logits
            kwargs = packed_inputs(segments, positions, model)
            packed = body(input_ids=ids, **kwargs)[:, 3:]
            apart, plain = _near(packed, alone), _near(head(alone), logits)
    except torch.OutOfMemoryError:
        raise
    except (ValueError, TypeError, RuntimeError, IndexError, AttributeError) as error:
        raise InputError(
            f"{kind} can't be run over packed rows: {first_line(error)}", _FAMILIES
        ) from error
    finally:
        for module, mode in training.items():
            module.training = mode
    if not bool(torch.isfinite(logits).all()):
        raise InputError(
            f"{kind} computes no numbers (NaN): its weights are damaged", "load another model"
        )
    if not apart:
        raise InputError(f"{kind} can't keep documents that share a row apart", _FAMILIES)
    if not plain:
        raise InputError(f"{kind} does more after its body than one product", _FAMILIES)


def _near(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two results differ by rounding only."""
    return bool((first - second).abs().max() <= 3e-4 * second.abs().max())


def first_line(error: Exception) -> str:
    """What an exception says, in one line."""
    said = console.printable(str(error)).strip().splitlines()
    return said[0] if said else type(error).__name__
