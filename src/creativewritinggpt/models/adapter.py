"""The adapter: attach one to a base model, go on from one, merge it, save the result.

LoRA adds to a frozen projection ``W`` a product of two thin matrices that starts at zero::

    W x   →   W x + (alpha / r) · B (A x)        A: [r, in]   B: [out, r] = 0

PEFT does the work, so that any PEFT client can load what we save. The output head and the
embeddings never get an adapter: they are tied in small models, and the chunked loss reads the head
directly.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..config.run import Config
from ..errors import InputError
from ..files import atomic_folder, read_json, write_json
from .checks import finite, first_line, open_safetensors, quiet
from .forward.weights import Unsupported, read_lora

if TYPE_CHECKING:
    from .loaded_model import LoadedModel

ALL_LINEAR = "all-linear"
_ADAPTER_FILE = "adapter_model.safetensors"


def attach(model: LoadedModel, config: Config) -> None:
    """Make a loaded model trainable, in place: by an adapter, or as a whole.

    Args:
        model: A base model without an adapter.
        config: ``method``, the ``lora_*`` settings, ``target_modules``, ``init_adapter``, ``seed``.

    Raises:
        InputError: Target modules that the model does not have, or an adapter to go on from that
            is missing or of another base.
    """
    if config.method == "full":
        if config.init_adapter:
            raise InputError(
                "init_adapter goes with method lora, and method is full",
                "leave one of the two out",
            )
        model.model.requires_grad_(True)
        return
    if config.init_adapter:
        load_adapter(model, Path(config.init_adapter), trainable=True)
        model.adapter = config.init_adapter
        return

    from peft import LoraConfig, TaskType, get_peft_model
    from transformers.pytorch_utils import Conv1D

    targets = target_names(model.model, config.target_modules)
    alpha = config.lora_alpha
    lora = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=config.lora_r,
        lora_alpha=int(alpha) if float(alpha).is_integer() else alpha,
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        # GPT-2 keeps its projections transposed.
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.model.modules()),
        base_model_name_or_path=model.base_name,
        revision=model.revision,
    )
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model.model = get_peft_model(model.model, lora)
    model.has_adapter = True


def linear_names(model: torch.nn.Module) -> list[str]:
    """The full names of all projections that can get an adapter, in the model's order."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()  # type: ignore[operator]
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not head
    ]


def target_names(model: torch.nn.Module, wanted: list[str] | None) -> list[str]:
    """The endings of module names that get an adapter.

    Args:
        model: The base model.
        wanted: Nothing for the attention's projections, ``["all-linear"]``, or endings of names as
            ``q_proj`` or ``attn.c_proj``.

    Raises:
        InputError: A name that no projection of the model ends in; the message lists what there is.
    """
    names = linear_names(model)
    if not wanted:
        attention = [name for name in names if _in_attention(name)]
        if not attention:
            raise InputError(
                "the model's attention projections can't be told by their names",
                f"name them, or all-linear, with --target-modules; there are: {_endings(names)}",
            )
        return _shortest(attention, [name for name in names if name not in attention])
    if ALL_LINEAR in wanted:
        return _shortest(names, [])
    for name in wanted:
        if not any(full == name or full.endswith(f".{name}") for full in names):
            raise InputError(
                f"target_modules: the model has no projection '{name}'",
                f"there are: {_endings(names)}; or all-linear",
            )
    return wanted


def _in_attention(name: str) -> bool:
    """Whether a projection stands inside an attention block, by the names above it."""
    return any("attn" in part or "attention" in part for part in name.split(".")[:-1])


def _shortest(names: list[str], others: list[str]) -> list[str]:
    """Endings of one or two parts that match ``names`` and none of ``others``."""
    single = sorted({name.rpartition(".")[2] for name in names})
    if not any(other.rpartition(".")[2] in single for other in others):
        return single
    return sorted({".".join(name.split(".")[-2:]) for name in names})


def _endings(names: list[str]) -> str:
    """The projections of a model for a message, each kind once."""
    return ", ".join(dict.fromkeys(".".join(name.split(".")[-2:]) for name in names))


def load_adapter(
    loaded: LoadedModel, folder: Path, trainable: bool = False, name: str = "default"
) -> None:
    """Put the adapter of ``folder`` on the model's base, in place.

    Args:
        loaded: A model with or without adapters; those it has stay.
        folder: The adapter.
        trainable: Whether it is to be trained on.
        name: What the model calls it; a model's first adapter is ``default``.

    Raises:
        InputError: The adapter is missing, damaged or made for another base.
    """
    if not folder.is_dir():
        raise InputError(f"there is no adapter folder {folder}")
    if not (folder / "adapter_config.json").is_file():
        raise InputError(f"{folder} holds no adapter: adapter_config.json is missing")
    if not (folder / _ADAPTER_FILE).is_file():
        raise InputError(
            f"{folder} has no adapter weights: {_ADAPTER_FILE} is missing",
            "only safetensors are read",
        )
    config = read_json(folder / "adapter_config.json")
    shapes = open_safetensors(folder / _ADAPTER_FILE)
    _check_shapes(loaded, folder, shapes)
    if loaded.files is not None and not trainable:
        try:
            loaded.files.adapters[name] = read_lora(folder, config)
        except Unsupported:
            pass  # PEFT knows more
        else:
            if not loaded.has_adapter:
                loaded.files.strengths = {name: 1.0}
            loaded.has_adapter = True
            return
    with quiet():
        from peft import PeftModel

        try:
            if loaded.has_adapter:
                model = loaded.model
                model.load_adapter(str(folder), name, is_trainable=trainable, local_files_only=True)
            else:
                model = PeftModel.from_pretrained(
                    loaded.model, str(folder), name, is_trainable=trainable, local_files_only=True
                )
        except (ValueError, RuntimeError, KeyError, TypeError) as error:
            raise InputError(
                f"the adapter {folder} can't be loaded: {first_line(error)}",
                f"it is a {config.get('peft_type')} of {config.get('base_model_name_or_path')}",
            ) from error
    for name, parameter in model.named_parameters():
        if "lora_" in name and not finite(parameter):
            raise InputError(f"the adapter {folder} has weights that are not numbers: {name}")
    loaded.model = model.eval()
    loaded.has_adapter = True


def _check_shapes(model: LoadedModel, folder: Path, shapes: dict[str, list[int]]) -> None:
    """Refuse an adapter whose matrices don't fit the model's projections."""
    if not shapes:
        raise InputError(f"{folder / _ADAPTER_FILE} holds no weights")
    sizes = _sizes(model)
    for key, shape in shapes.items():
        name, part, _ = key.partition(".lora_")
        name = name.removeprefix("base_model.model.")
        if not part or len(shape) != 2:
            continue
        if name not in sizes:
            raise InputError(
                f"the adapter {folder} was made for another base: {model.name} has no {name}",
                "give the base that it was trained on",
            )
        rows, columns = sizes[name]
        is_first = ".lora_A" in key or ".lora_embedding_A" in key
        wanted, found = (columns, shape[1]) if is_first else (rows, shape[0])
        if wanted != found:
            raise InputError(
                f"the adapter {folder} was made for another base: at {name} it has size {found}, "
                f"{model.name} has {wanted}",
                "give the base that it was trained on",
            )


def _sizes(model: LoadedModel) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of each matrix of the base model, by module name."""
    if model.files is not None:
        return model.files.sizes()
    from transformers.pytorch_utils import Conv1D

    found = {}
    module: Any
    for name, module in model.bare.named_modules():
        module = getattr(module, "base_layer", module)
        weight = getattr(module, "weight", None)
        if isinstance(weight, torch.Tensor) and weight.ndim == 2:
            first, second = weight.shape
            found[name] = (second, first) if isinstance(module, Conv1D) else (first, second)
    return found


def active_adapters(model: LoadedModel) -> list[str]:
    """The names of the adapters that the model computes with."""
    if model.files is not None:
        return list(model.files.strengths)
    return list(model.model.active_adapters)


def set_strengths(loaded: LoadedModel, strengths: dict[str, float]) -> None:
    """Compute with the adapters named, each times its strength, and with no others, in place."""
    if loaded.files is not None:
        loaded.files.strengths = dict(strengths)
        return
    model = loaded.model
    model.base_model.set_adapter(list(strengths))
    for module in model.modules():
        if hasattr(module, "lora_A"):
            for name, strength in strengths.items():
                module.set_scale(name, strength)
    model.requires_grad_(False)
    model.eval()


def trainable(model: torch.nn.Module) -> tuple[int, int]:
    """How many parameters are trained, and how many there are in all."""
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, on in counts if on), sum(n for n, _ in counts)


def merge(model: LoadedModel) -> None:
    """Add the adapter into the base weights, in place; the adapter is gone afterwards."""
    if model.has_adapter:
        model.model = model.model.merge_and_unload(safe_merge=True).eval()
        model.has_adapter = False


def save_model(
    model: LoadedModel,
    folder: str | Path,
    run: dict[str, Any],
    card: str,
) -> None:
    """Save adapter or model with tokenizer, run record and model card, all or nothing.

    Args:
        model: What to save: the adapter where there is one, else the whole model.
        folder: The folder; one that was there is replaced only when the new one is whole.
        run: What ``run.json`` is to say; the base is added here, so that loading finds it.
        card: The model card (``README.md``), Markdown.

    Raises:
        RunError: The disk is full.
    """
    base = {
        "name": model.base_name if model.kind != "starter" else "starter",
        "kind": model.kind,
        "base_name": model.base_name,
        "revision": model.revision,
    }
    with atomic_folder(folder) as temporary, quiet():
        if model.has_adapter:
            settings = model.model.peft_config[model.model.active_adapter]
            settings.base_model_name_or_path = model.base_name
            settings.revision = model.revision
            # The default would ask the hub whether the embeddings were resized.
            model.model.save_pretrained(temporary, save_embedding_layers=False)
        else:
            model.model.save_pretrained(temporary)
        model.tokenizer.save_pretrained(temporary)
        write_json(temporary / "run.json", {**run, "base": base})
        (temporary / "README.md").write_text(card, encoding="utf-8")
