"""Settings of an export. This module does not import torch."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from ..config.fields import check, convert, field_types, from_mapping, setting
from ..errors import InputError
from ..generation.sampling.settings import settings_for

TARGETS = ("merged", "gguf", "lora-gguf", "ollama", "lm-studio", "hub")
GGUF_FORMATS = (
    "F32",
    "F16",
    "BF16",
    "Q8_0",
    "Q6_K",
    "Q5_K_M",
    "Q5_1",
    "Q5_0",
    "Q4_K_M",
    "Q4_0",
)
"""Number formats of GGUF files, from the most exact to the smallest."""

_USED_BY = {
    "quantize": ("gguf", "ollama", "lm-studio", "hub"),
    "dtype": ("merged", "hub"),
    "weights": ("hub",),
    "publisher": ("lm-studio",),
    "evaluation": ("hub",),
    "chat_template": ("merged", "gguf", "ollama", "lm-studio", "hub"),
    "preset": ("merged", "gguf", "ollama", "lm-studio", "hub"),
}


@dataclasses.dataclass(kw_only=True)
class ExportSettings:
    """What is exported, and how far it is verified."""

    quantize: list[str] | None = setting(
        None, "Number format of GGUF files; several make several files [Q8_0].",
        choices=GGUF_FORMATS, metavar="FORMAT,…",
    )  # fmt: skip
    dtype: str = setting("bf16", "Number format of safetensors files.", choices=("bf16", "fp32"))
    weights: str = setting(
        "auto", "What a hub folder holds; auto: the adapter, if it is one at full strength, else "
        "the merged model.", choices=("auto", "adapter", "merged", "gguf"),
    )  # fmt: skip
    name: str | None = setting(
        None, "Name of the model in its file names and card; default: that of its folder.",
        metavar="NAME",
    )  # fmt: skip
    release: str = setting("1.0", "Version in file names.", metavar="X.Y")
    publisher: str = setting(
        "local", "Folder above the model in LM Studio's folder of models.", metavar="NAME"
    )
    license: str | None = setting(
        None, "SPDX identifier of the licence; default: that of the base, where it is known.",
        metavar="ID",
    )  # fmt: skip
    evaluation: str | None = setting(
        None, "evaluation.json to take the card's figures from; default: that of the model's run.",
        metavar="FILE",
    )  # fmt: skip
    preset: str | None = setting(
        None, "Preset (see cwgpt generate --presets) to recommend in the files.", metavar="NAME"
    )
    chat_template: str = setting(
        "drop", "Whether the base's chat template is kept; with one, programs wrap each prompt.",
        choices=("drop", "keep"),
    )  # fmt: skip
    verify: int = setting(
        4, "Highest level of verification: 1 structure, 2 weights, 3 logits, 4 llama.cpp.",
        low=1, high=4, metavar="LEVEL",
    )  # fmt: skip

    def __post_init__(self) -> None:
        for name, kind in field_types(type(self)).items():
            setattr(self, name, convert(name, getattr(self, name), kind))
        if self.quantize is not None:
            self.quantize = list(dict.fromkeys(one.upper() for one in self.quantize))
            if not self.quantize:
                raise InputError("quantize is empty", f"choose from: {', '.join(GGUF_FORMATS)}")
        check(self)
        settings_for(self.preset, {})  # refuses one that is not there
        if not re.fullmatch(r"\d+(\.\d+)*", self.release):
            raise InputError(f"release is {self.release!r}", "give numbers, as 1.0")
        for field in ("name", "publisher"):
            value = getattr(self, field)
            if value is not None and not re.fullmatch(r"[A-Za-z0-9][\w.+ -]*", value):
                raise InputError(
                    f"{field} is {value!r}", "use letters, digits, spaces, dots and hyphens"
                )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> ExportSettings:
        """Settings by field name; unknown ones are refused."""
        return from_mapping(cls, values, "export")


def without_effect(to: str, given: Mapping[str, Any]) -> dict[str, str]:
    """Settings that were given and change nothing in an export to ``to``, and why."""
    return {
        name: f"--to {to} does not use it"
        for name, targets in _USED_BY.items()
        if name in given and to not in targets
    }
