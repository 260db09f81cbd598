"""Settings of the machine, shared by every command: device, number format, threads, cache."""

from __future__ import annotations

import dataclasses

from .fields import check, convert, field_types, setting

DEFAULT_MODEL = "outputs/best_model"
PLACES = "places and machine"
"""Heading of these settings in the help of a command."""


@dataclasses.dataclass(kw_only=True)
class MachineSettings:
    """Where and in which number format a model runs, and where its files are cached."""

    device: str | None = setting(
        None, "Device: cpu, cuda, cuda:N or mps; default: the best available.", group=PLACES,
        metavar="NAME",
    )  # fmt: skip
    precision: str = setting(
        "auto", "Number format of matrix products; auto: bf16 where measured faster.",
        choices=("auto", "fp32", "bf16"), group=PLACES,
    )  # fmt: skip
    num_workers: int | None = setting(
        None, "CPU threads and data worker processes; default: one per core.",
        low=1, group=PLACES, metavar="N",
    )  # fmt: skip
    cache_dir: str | None = setting(
        None, "Folder for the starter model and caches.", group=PLACES, metavar="FOLDER"
    )
    starter_file: str | None = setting(
        None, "Local copy of the starter's wheel or GGUF file.", group=PLACES, metavar="FILE"
    )

    def __post_init__(self) -> None:
        for name, kind in field_types(type(self)).items():
            setattr(self, name, convert(name, getattr(self, name), kind))
        check(self)
