"""Adapters of every kind that PEFT can merge, beside a base that stays as it is.

PEFT switches the layers of an adapter off, but not the biases that were trained, the layers that
were repeated or the embeddings that were resized. So the base and the tuned model are two models
here, which share the memory of every weight that the adapter leaves alone.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import console
from ..errors import InputError, UserError
from .adapter_files import CONFIG, PREFIX, AdapterFolder
from .checks import finite, first_line, near, quiet

_ALIAS = re.compile(r"\.(modules_to_save|original_module)(?=\.)")


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
        _untie(model, changes)
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


def _detach(model: Any, parameters: Iterable[nn.Parameter]) -> None:
    """Give parameters memory of their own, in place; what is tied stays tied."""
    fresh = {id(p): nn.Parameter(p.detach().clone(), requires_grad=False) for p in parameters}
    for module in model.modules():
        for key, value in module._parameters.items():
            module._parameters[key] = fresh.get(id(value), value)


def _untie(model: Any, names: Iterable[str]) -> None:
    """Note that embeddings and head differ, where one of them is about to change."""
    if any(model.get_submodule(name.rpartition(".")[0]) in _ends(model) for name in names):
        model.config.tie_word_embeddings = False


def _ends(model: Any) -> tuple[Any, Any]:
    return model.get_input_embeddings(), model.get_output_embeddings()


def prepared(base: Any, adapter: AdapterFolder, trainable: bool, name: str = "default") -> Any:
    """A PEFT model on a copy of the base that shares every weight that nothing is written into."""
    model = _sharing_copy(base)
    rows = adapter_rows(adapter, model)
    if rows is not None and rows != len(model.get_input_embeddings().weight):
        with quiet(), torch.random.fork_rng(devices=[]):
            model.resize_token_embeddings(rows, mean_resizing=False)
        _guard(base)
    own = _parameters(model)
    written = (key.removeprefix(PREFIX).replace(".base_layer.", ".") for key in adapter.shapes)
    _detach(model, [own[key] for key in written if key in own])
    versions = [p._version for p in base.parameters()]
    result = wrapped(model, adapter, trainable, name)
    # A copy shares the counter of changes with what it shares memory with.
    if versions != [p._version for p in base.parameters()]:
        raise InputError(
            f"the adapter {adapter.folder} writes into its base in a way that is not known here",
            "merge it into its base with PEFT, and give the whole model",
        )
    return result


def merged_model(base: Any, adapter: AdapterFolder) -> Any:
    """A plain transformers model: the base with the adapter merged.

    Raises:
        InputError: The adapter can't be merged, or computes more than merged weights do.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    model = prepared(base, adapter, trainable=False)
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
    except Exception as error:
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


def wrapped(model: Any, adapter: AdapterFolder, trainable: bool, name: str) -> Any:
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
        except UserError:
            raise
        except Exception as error:
            raise _not_loaded(folder, config, error) from error
    prefix = str(getattr(model.base_model, "prefix", "lora_"))
    missing = [key for key in result.missing_keys if prefix in key and f".{name}" in key]
    # PEFT saves embeddings of a new size under several names.
    odd = [key for key in result.unexpected_keys if not _is_alias(key, tensors)]
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


def _is_alias(key: str, tensors: dict[str, Tensor]) -> bool:
    """Whether a weight is in the file under its usual name, too."""
    usual = _ALIAS.sub("", key)
    return usual != key and usual in tensors


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
