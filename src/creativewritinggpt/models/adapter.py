"""The adapter: attach one to a base model, go on from one, merge it, save the result.

LoRA adds to a frozen projection ``W`` a product of two thin matrices that starts at zero::

    W x   →   W x + (alpha / r) · B (A x)        A: [r, in]   B: [out, r] = 0

PEFT does the work, so that any PEFT client can load what we save. The output head and the
embeddings never get an adapter: they are tied in small models, and the chunked loss reads the head
directly.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .. import console
from ..config.run import Config
from ..errors import InputError
from ..files import atomic_folder, write_json
from .adapter_files import CONFIG, PREFIX, AdapterFolder, read_adapter
from .checks import finite, first_line, near, quiet
from .forward.weights import HEAD, LoraFile, Unsupported, read_lora

if TYPE_CHECKING:
    from .loaded_model import LoadedModel

ALL_LINEAR = "all-linear"
_ALIAS = re.compile(r"\.(modules_to_save|original_module)(?=\.)")


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
    (:class:`Overlays`).

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
        loaded.model = _wrapped(loaded.model, adapter, trainable, name)
    loaded.folders[name] = folder
    loaded.has_adapter = True


def _plain_lora(loaded: LoadedModel, adapter: AdapterFolder) -> LoraFile | None:
    """An adapter that is LoRA of projections below the head and nothing else, or None."""
    if adapter.mlx:
        return None
    try:
        lora = read_lora(adapter.folder, adapter.config)
    except Unsupported:
        return None
    if loaded.files is not None:
        return None if HEAD in lora.pairs else lora
    adapted = {name for name, module in loaded.bare.named_modules() if hasattr(module, "lora_A")}
    return lora if lora.pairs.keys() <= adapted | set(linear_names(loaded.bare)) else None


def _wrapped(model: Any, adapter: AdapterFolder, trainable: bool, name: str) -> Any:
    """A model of transformers, or a PEFT wrapper, with one more adapter in it.

    Raises:
        InputError: The adapter does not fit, or has weights that belong nowhere.
    """
    folder = adapter.folder
    config, tensors = adapter.tensors(model)
    with quiet(), torch.random.fork_rng(devices=[]):
        from peft import PeftModelForCausalLM
        from peft.utils import set_peft_model_state_dict

        try:
            settings = _peft_config(folder, config)
            settings.inference_mode = not trainable
            if hasattr(model, "peft_config"):
                model.add_adapter(name, settings)
            else:
                model = PeftModelForCausalLM(model, settings, name)
            result = set_peft_model_state_dict(model, tensors, name)
        except KeyError as error:
            raise InputError(
                f"the adapter {folder} can't be loaded: it has no weights for {error.args[0]}",
                "save it again with the tool that it was trained with",
            ) from error
        except (ValueError, RuntimeError, TypeError, AttributeError, ImportError) as error:
            raise _not_loaded(folder, config, error) from error
    prefix = str(getattr(model.base_model, "prefix", "lora_"))
    missing = [key for key in result.missing_keys if prefix in key and f".{name}" in key]
    # PEFT saves embeddings of a new size under several names.
    odd = [key for key in result.unexpected_keys if _ALIAS.sub("", key) not in tensors]
    for keys, what in (
        (odd, "that belong nowhere in"),
        (missing, "missing for"),
    ):
        if keys:
            raise InputError(
                f"the adapter {folder} has weights {what} its base: {keys[0]}"
                + f" and {len(keys) - 1} more" * (len(keys) > 1),
                "give the base that it was trained on, or save the adapter again",
            )
    for key, parameter in model.named_parameters():
        if f".{name}" in key and not finite(parameter):
            raise InputError(f"the adapter {folder} has weights that are not numbers: {key}")
    return model.eval()


def _peft_config(folder: Path, config: dict[str, Any]) -> Any:
    """PEFT's settings; what this version does not know is named and left out, as PEFT does."""
    import peft

    kinds = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING
    kind = kinds.get(config["peft_type"])
    if kind is None:
        raise InputError(
            f"{folder} is an adapter of the kind {config['peft_type']}, which PEFT "
            f"{peft.__version__} does not know",
            "train it as LoRA, or merge it into its base and give the whole model",
        )
    known = {field.name for field in dataclasses.fields(kind) if field.init}
    odd = sorted(key for key, value in config.items() if key not in known and value)
    odd = [key for key in odd if key not in ("auto_mapping", "peft_type", "peft_version")]
    if odd:
        console.warn(
            f"{folder / CONFIG} has settings that PEFT {peft.__version__} does not know and leaves "
            f"out: {', '.join(odd)}"
        )
    settings = kind(**{k: v for k, v in config.items() if k in known and k != "peft_type"})
    if settings.is_prompt_learning:
        raise InputError(
            f"{folder} is an adapter of the kind {config['peft_type']}, which is no change of the "
            "base's weights",
            "LoRA and other kinds that can be merged work",
        )
    return settings


def _not_loaded(folder: Path, config: dict[str, Any], error: Exception) -> InputError:
    """What an exception of PEFT means, in one line."""
    wrong = re.search(
        r"size mismatch for (\S+?): .*?shape torch.Size\((.*?)\).*?torch.Size\((.*?)\)", str(error)
    )
    if wrong:
        place = wrong.group(1).removeprefix(PREFIX)
        return InputError(
            f"the adapter {folder} was made for another base: at {place} it has size "
            f"{wrong.group(2)}, the base {wrong.group(3)}",
            "give the base that it was trained on",
        )
    return InputError(
        f"the adapter {folder} can't be loaded: {first_line(error)}",
        f"it is a {config.get('peft_type')} of {config.get('base_model_name_or_path')}",
    )


class Overlays:
    """A base model and the models that adapters make of it, which share all unchanged weights.

    The base is the very model that was loaded: nothing is written into it, so that it is bit-equal
    whatever an adapter brings. Strength ``s`` is ``base + s · (tuned - base)`` for every weight, as
    PEFT scales LoRA; a blend is the base and the weighted sum of such changes.

    Trade-off: changed weights are held twice.

    Args:
        base: The transformers model.

    Attributes:
        tuned: By adapter, the base with that adapter merged, or a PEFT wrapper in training.
        strengths: By adapter, what ``current`` is made of.
        current: The model in use.
    """

    def __init__(self, base: Any) -> None:
        self.base = self.current = base
        self.tuned: dict[str, Any] = {}
        self.strengths: dict[str, float] = {}

    @contextlib.contextmanager
    def only_base(self) -> Iterator[None]:
        """The base in use for the block."""
        before, self.current = self.current, self.base
        try:
            yield
        finally:
            self.current = before

    def use(self, strengths: dict[str, float]) -> None:
        """Make the model of some strengths the one in use.

        Raises:
            InputError: They can't be had, since an adapter has tokens or layers of its own.
        """
        active = {name: strength for name, strength in strengths.items() if strength}
        if not active:
            self.current = self.base
        elif list(active.values()) == [1.0]:
            self.current = self.tuned[next(iter(active))]
        else:
            self.current = self._sum(active)
        self.strengths = dict(strengths)

    def _sum(self, strengths: dict[str, float]) -> Any:
        base = _parameters(self.base)
        changes: dict[str, Tensor] = {}
        for name, strength in strengths.items():
            for key, change in self.changes(name).items():
                if change is None:
                    raise InputError(
                        "an adapter with tokens or layers of its own has no strength between 0 and "
                        "1, and can't be blended",
                        "use it as it is, by --style 1, or not at all, by --style 0",
                    )
                changes[key] = changes.get(key, 0) + strength * change
        model = _sharing_copy(self.base)
        untie(model, changes)
        for key, change in changes.items():
            place, _, own = key.rpartition(".")
            weight = change if key not in base else base[key].detach() + change
            setattr(model.get_submodule(place), own, nn.Parameter(weight, requires_grad=False))
        return model.eval()

    def changes(self, name: str) -> dict[str, Tensor | None]:
        """What an adapter adds to each weight that it changes; None where shapes differ."""
        base, tuned = _parameters(self.base), _parameters(self.tuned[name])
        found: dict[str, Tensor | None] = {key: None for key in base.keys() - tuned.keys()}
        for key, weight in tuned.items():
            before = base.get(key)
            if before is None:
                # Biases are zero where there are none; other new weights are new layers.
                found[key] = weight.detach() if weight.ndim == 1 and "bias" in key else None
            elif before.shape != weight.shape:
                found[key] = None
            elif before.data_ptr() != weight.data_ptr():
                found[key] = weight.detach() - before.detach()
        return found


def _parameters(model: Any) -> dict[str, nn.Parameter]:
    """Every parameter under each of its names."""
    return dict(model.named_parameters(remove_duplicate=False))


def _sharing_copy(model: Any) -> Any:
    """A copy of a model's structure whose parameters are new objects on the same memory."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()
    }
    memo.update({id(buffer): buffer for buffer in model.buffers()})
    return copy.deepcopy(model, memo)


def untie(model: Any, names: Iterable[str]) -> None:
    """Note that embeddings and head differ, where one of them is about to change."""
    if any(model.get_submodule(name.rpartition(".")[0]) in _ends(model) for name in names):
        model.config.tie_word_embeddings = False


def _ends(model: Any) -> tuple[Any, Any]:
    return model.get_input_embeddings(), model.get_output_embeddings()


def _overlay(loaded: LoadedModel, adapter: AdapterFolder, trainable: bool, name: str) -> None:
    """Add an adapter as a model of its own beside the base, in place."""
    if loaded.overlays is None:
        base = loaded.model
        if loaded.has_adapter:
            base = base.unload()
        loaded.overlays = Overlays(base)
        for other, folder in loaded.folders.items():
            loaded.overlays.tuned[other] = _merged_model(base, read_adapter(folder))
        loaded.overlays.use(dict.fromkeys(loaded.folders, 1.0))
    overlays = loaded.overlays
    if trainable:
        overlays.current = _prepared(overlays.base, adapter, trainable=True)
        overlays.tuned[name] = overlays.current
        return
    overlays.tuned[name] = _merged_model(overlays.base, adapter)
    if not overlays.strengths:
        overlays.use({name: 1.0})


def _prepared(base: Any, adapter: AdapterFolder, trainable: bool, name: str = "default") -> Any:
    """A PEFT model on a copy of the base that shares every weight that nothing is written into."""
    model = _sharing_copy(base)
    rows = adapter_rows(adapter, model)
    if rows is not None and rows != len(model.get_input_embeddings().weight):
        with quiet(), torch.random.fork_rng(devices=[]):
            model.resize_token_embeddings(rows, mean_resizing=False)
        _guard(base)
    own = _parameters(model)
    for key in adapter.shapes:
        parameter = own.get(key.removeprefix(PREFIX))
        if parameter is not None:
            parameter.data = parameter.data.clone()
    return _wrapped(model, adapter, trainable, name)


def _merged_model(base: Any, adapter: AdapterFolder) -> Any:
    """A plain transformers model: the base with the adapter merged.

    Raises:
        InputError: The adapter can't be merged, or computes more than merged weights do.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    model = _prepared(base, adapter, trainable=False)
    ids = torch.arange(1, 9, device=model.device)[None] % len(base.get_input_embeddings().weight)
    with torch.no_grad(), quiet():
        wanted = model(input_ids=ids, use_cache=False).logits
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            inner: Any = module.get_base_layer()
            # Tied weights and replicated layers share parameters; each is merged on its own.
            for key, value in list(inner._parameters.items()):
                if value is not None:
                    inner._parameters[key] = nn.Parameter(value.detach().clone(), False)
            if any(getattr(module, "lora_bias", {}).values()) and inner.bias is None:
                inner.bias = nn.Parameter(inner.weight.new_zeros(inner.out_features), False)
    kind = adapter.config["peft_type"]
    try:
        with quiet(), torch.no_grad():
            merged = model.merge_and_unload(safe_merge=True).eval()
            found = merged(input_ids=ids, use_cache=False).logits
    except (ValueError, RuntimeError, NotImplementedError, AttributeError, TypeError) as error:
        raise InputError(
            f"the adapter {adapter.folder} ({kind}) can't be merged: {first_line(error)}",
            "LoRA, DoRA, LoHa, LoKr, IA3, AdaLoRA and OFT can",
        ) from error
    merged.requires_grad_(False)
    if not near(found, wanted):
        raise InputError(
            f"the adapter {adapter.folder} ({kind}) does more than change the base's weights",
            "LoRA, DoRA, LoHa, LoKr, IA3, AdaLoRA and OFT change weights only",
        )
    first, last = _ends(merged)
    if last is not None and getattr(last, "weight", None) is not first.weight:
        merged.config.tie_word_embeddings = False
    for key, parameter in merged.named_parameters():
        if not finite(parameter):
            raise InputError(f"the adapter {adapter.folder} makes {key} infinite")
    return merged


def adapter_rows(adapter: AdapterFolder, model: Any) -> int | None:
    """Token embeddings that an adapter holds, where it holds all of them."""
    ends = [module for module in _ends(model) if module is not None]
    for name, module in model.named_modules():
        if any(module is end for end in ends):
            shape = adapter.shapes.get(f"{PREFIX}{name}.weight")
            if shape is not None:
                return shape[0]
    return None


def changed_base(model: Any) -> str | None:
    """What a PEFT wrapper made in memory may have changed in its base, which it can't undo."""
    for settings in model.peft_config.values():
        if getattr(settings, "bias", "none") != "none":
            return f"bias is {settings.bias}, so that the base's biases were trained"
        if getattr(settings, "layer_replication", None):
            return "layer_replication repeats layers"
        init = getattr(settings, "init_lora_weights", True)
        if isinstance(init, str) and init not in ("gaussian", "eva", "orthogonal"):
            return f"init_lora_weights is {init}, which takes its share out of the base"
    return None


def _guard(base: Any) -> None:
    """Let the base refuse tokens that an adapter added."""
    table = base.get_input_embeddings()

    def check(module: Any, inputs: tuple[Tensor, ...]) -> None:
        highest = int(inputs[0].max()) if inputs and inputs[0].numel() else 0
        if highest >= len(module.weight):
            raise InputError(
                f"the text holds token {highest}, which the adapter added: the base has only "
                f"{len(module.weight)}",
                "leave such tokens out of texts that base and tuned are compared on",
            )

    if not getattr(table, "_refuses_added_tokens", False):
        table.register_forward_pre_hook(check)
        table._refuses_added_tokens = True


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
        write_json(temporary / "run.json", {**run, "base": base})
        (temporary / "README.md").write_text(card, encoding="utf-8")
