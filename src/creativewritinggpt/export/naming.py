"""Names of exported models and files, by ggml's naming convention (docs/gguf.md of ggml)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..models.loaded_model import LoadedModel
from .gguf_file import Description

_RUN_NAMES = ("best_model", "final_model", "outputs")


def plain(name: str) -> str:
    """A name as file names by the convention may have it."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.") or "model"


def own_name(folder: str) -> str:
    """A name for a model folder; that of its run says more than ``best_model``."""
    parts = [part for part in Path(folder).parts if part not in (*_RUN_NAMES, "/", ".", "..")]
    return plain(parts[-1]) if parts else "tuned"


def by_name(strengths: Mapping[str, float]) -> dict[str, float]:
    """Strengths by name instead of by folder; names that two folders share are numbered."""
    found: dict[str, float] = {}
    for folder, strength in strengths.items():
        name = own_name(folder)
        number = sum(
            re.fullmatch(rf"{re.escape(name)}(-\d+)?", other) is not None for other in found
        )
        found[f"{name}-{number + 1}" if number else name] = strength
    return found


def model_name(model: LoadedModel, adapters: Iterable[str], given: str | None) -> str:
    """The name of a model: as given, of its adapters, or of its folder or base."""
    if given:
        return given
    if names := dict.fromkeys(own_name(folder) for folder in adapters):
        return "-".join(names)
    if model.run is not None:
        return own_name(model.name)
    return plain(_last_part(model.base_name))


def base_id(model: LoadedModel) -> str | None:
    """The hub id of a model's base, if it has one."""
    if model.kind != "folder":
        return model.base_name
    # A model that was trained as a whole is its own base here; its record names the other.
    record = (model.run or {}).get("base") or {}
    found = record.get("base_name")
    return str(found) if found and record.get("kind") in ("hub", "starter") else None


def description(
    model: LoadedModel,
    name: str,
    tuned: bool,
    parameters: int,
    release: str,
    license_id: str | None,
) -> Description:
    """What a GGUF file says about a model.

    Args:
        model: The model.
        name: What it is called.
        tuned: Whether the name is that of a tuned model, and not its base's.
        parameters: Number of parameters.
        release: Version, as ``1.0``.
        license_id: SPDX identifier, or None.
    """
    from gguf import Metadata
    from gguf.utility import size_label

    base = _last_part(base_id(model) or model.base_name)
    _, _, basename, finetune, _, label = Metadata.get_model_id_components(base, parameters)
    return Description(
        name=name,
        basename=plain(basename or base),
        size_label=label or size_label(parameters, 0, 0, 0),
        finetune=plain(name) if tuned else finetune,
        version=f"v{release}",
        license=license_id,
        base_model=base_id(model),
    )


def file_name(about: Description, encoding: str, kind: str | None = None) -> str:
    """The name of a GGUF file, as ``SmolLM2-135M-ferry-v1.0-Q8_0.gguf``.

    Args:
        about: The model.
        encoding: Its number format.
        kind: ``LoRA``, or None for a whole model.
    """
    parts = (about.basename, about.size_label, about.finetune, about.version, encoding, kind)
    return "-".join(part for part in parts if part) + ".gguf"


def adapter_strengths(model: LoadedModel) -> dict[str, float]:
    """The active adapters of a model and their strengths, by folder (in memory: by name)."""
    if not model.has_adapter:
        return {}
    holder = model.overlays or model.files
    found: dict[str, float] = {}
    if holder is not None:
        found = holder.strengths
    else:
        module: Any
        for module in model.bare.modules():
            if not hasattr(module, "lora_A"):
                continue
            for name in module.lora_A:
                if name in model.model.active_adapters and name not in found:
                    divisor = module.r[name]
                    if getattr(module, "use_rslora", {}).get(name):
                        divisor = math.sqrt(divisor)
                    strength = float(module.scaling[name]) * divisor / module.lora_alpha[name]
                    found[name] = round(strength, 6)
    return {str(model.folders.get(name, name)): strength for name, strength in found.items()}


def _last_part(name: str) -> str:
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2]
