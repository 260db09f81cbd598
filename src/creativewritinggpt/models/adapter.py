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
from ..files import atomic_folder, to_home, write_json
from .adapter_files import PREFIX, AdapterFolder, read_adapter
from .checks import quiet
from .forward.weights import HEAD, LoraFile, Unsupported, read_lora
from .overlays import Overlays, merged_model, prepared, wrapped

if TYPE_CHECKING:
    from .loaded_model import LoadedModel

ALL_LINEAR = "all-linear"


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

    Plain LoRA is added where the model is, and switched off for the base. Whatever else an adapter
    brings (biases, saved modules, tokens, other kinds) makes a model of its own beside the base
    (:class:`~.overlays.Overlays`).

    Args:
        loaded: A model with or without adapters; those it has stay.
        folder: The adapter.
        trainable: Whether it is to be trained on.
        name: What the model calls it; a model's first adapter is ``default``.

    Raises:
        InputError: The adapter is missing, damaged, made for another base or of a kind that can't
            be used.
    """
    adapter = read_adapter(folder)
    _check_shapes(loaded, adapter)
    lora = None if loaded.overlays is not None else _plain_lora(loaded, adapter)
    if lora is None:
        _overlay(loaded, adapter, trainable, name)
    elif loaded.files is not None and not trainable:
        loaded.files.adapters[name] = lora
        if not loaded.has_adapter:
            loaded.files.strengths = {name: 1.0}
    else:
        loaded.model = wrapped(loaded.model, adapter, trainable, name)
    loaded.folders[name] = folder
    loaded.has_adapter = True


def _plain_lora(loaded: LoadedModel, adapter: AdapterFolder) -> LoraFile | None:
    """An adapter that is LoRA of projections below the head and nothing else, or None."""
    numbers = [adapter.config.get(key) for key in ("r", "lora_alpha")]
    if adapter.mlx or not all(isinstance(n, (int, float)) and n > 0 for n in numbers):
        return None  # what is odd about it is PEFT's to say
    try:
        lora = read_lora(adapter.folder, adapter.config)
    except Unsupported:
        return None
    if loaded.files is not None:
        return None if HEAD in lora.pairs else lora
    adapted = {name for name, module in loaded.bare.named_modules() if hasattr(module, "lora_A")}
    return lora if lora.pairs.keys() <= adapted | set(linear_names(loaded.bare)) else None


def _overlay(loaded: LoadedModel, adapter: AdapterFolder, trainable: bool, name: str) -> None:
    """Add an adapter as a model of its own beside the base, in place."""
    if loaded.overlays is None:
        base = loaded.model
        if loaded.has_adapter:
            if not loaded.folders:
                raise InputError(
                    f"{loaded.name} has an adapter in memory, which {adapter.folder} can't be put "
                    "beside",
                    "save that adapter, and name both folders",
                )
            base = base.unload()
        loaded.overlays = Overlays(base)
        for other, folder in loaded.folders.items():
            loaded.overlays.tuned[other] = merged_model(base, read_adapter(folder))
        loaded.overlays.use(dict.fromkeys(loaded.folders, 1.0))
    overlays = loaded.overlays
    if trainable:
        overlays.current = prepared(overlays.base, adapter, trainable=True)
        overlays.tuned[name] = overlays.current
        return
    overlays.tuned[name] = merged_model(overlays.base, adapter)
    if not overlays.strengths:
        overlays.use({name: 1.0})


def _check_shapes(model: LoadedModel, adapter: AdapterFolder) -> None:
    """Refuse an adapter whose matrices don't fit the model's projections."""
    if adapter.mlx or adapter.config.get("layer_replication"):
        return  # named otherwise, or of more layers; PEFT checks the shapes
    sizes = _sizes(model)
    for key, shape in adapter.shapes.items():
        name, part, kind = key.partition(".lora_")
        name = name.removeprefix(PREFIX)
        if not part or len(shape) != 2:
            continue
        if name not in sizes:
            raise InputError(
                f"the adapter {adapter.folder} was made for another base: {model.name} has no "
                f"{name}",
                "give the base that it was trained on",
            )
        rows, columns = sizes[name]
        # A table of embeddings reads tokens (its rows) and gives columns.
        inputs, outputs = (rows, columns) if kind.startswith("embedding") else (columns, rows)
        first = kind.startswith(("A", "embedding_A"))
        wanted, found = (inputs, shape[1]) if first else (outputs, shape[0])
        if wanted != found and kind.startswith(("A", "B", "embedding_A", "embedding_B")):
            raise InputError(
                f"the adapter {adapter.folder} was made for another base: at {name} it has size "
                f"{found}, {model.name} has {wanted}",
                "give the base that it was trained on",
            )


def _sizes(model: LoadedModel) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of each matrix of the base model, by module name."""
    if model.files is not None:
        return model.files.sizes()
    from transformers.pytorch_utils import Conv1D

    found = {}
    module: Any
    bare = model.bare if model.overlays is None else model.overlays.base
    for name, module in bare.named_modules():
        module = getattr(module, "base_layer", module)
        weight = getattr(module, "weight", None)
        if isinstance(weight, torch.Tensor) and weight.ndim == 2:
            first, second = weight.shape
            found[name] = (second, first) if isinstance(module, Conv1D) else (first, second)
    return found


def active_adapters(model: LoadedModel) -> list[str]:
    """The names of the adapters that the model computes with."""
    if model.overlays is not None:
        return list(model.overlays.strengths)
    if model.files is not None:
        return list(model.files.strengths)
    return list(model.model.active_adapters)


def set_strengths(loaded: LoadedModel, strengths: dict[str, float]) -> None:
    """Compute with the adapters named, each times its strength, and with no others, in place.

    Raises:
        InputError: An adapter has tokens or layers of its own, and the strengths are not one of 1.
    """
    if loaded.overlays is not None:
        loaded.overlays.use(strengths)
        return
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
    if not model.has_adapter:
        return
    merged = model.model
    if hasattr(merged, "peft_config"):
        merged = merged.merge_and_unload(safe_merge=True).eval()
    model.overlays = None
    model.model, model.has_adapter = merged, False


def _has_own_tokens(model: LoadedModel) -> bool:
    """Whether the adapter in training has another number of tokens than its base."""
    if model.overlays is None:
        return False
    tables = (model.bare.get_input_embeddings(), model.overlays.base.get_input_embeddings())
    return len(tables[0].weight) != len(tables[1].weight)


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
            model.model.save_pretrained(temporary, save_embedding_layers=_has_own_tokens(model))
        else:
            model.model.save_pretrained(temporary)
        model.tokenizer.save_pretrained(temporary)
        write_json(temporary / "run.json", {**run, "base": to_home(base)})
        (temporary / "README.md").write_text(card, "utf-8", "backslashreplace")
