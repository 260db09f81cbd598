"""``run.json``: what produced a model, so that its numbers can be believed and made again."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from .._version import __version__
from ..config.run import Config
from ..devices import DeviceChoice, memory

_PACKAGES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy")


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"creativewritinggpt": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        found[name] = importlib.metadata.version(name)
    return found


def source_revision() -> dict[str, Any] | None:
    """Commit of the package's own checkout and whether it was changed, or None outside one."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        tracked = git("ls-files", "--error-unmatch", str(Path(__file__).resolve()))
        if not tracked:
            return None
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        return platform.processor() or platform.machine()
    return platform.processor() or platform.machine()


def hardware(device: DeviceChoice) -> dict[str, Any]:
    """The machine: processor, cores, memory, device and the reasons for its choice."""
    total, _ = memory()
    found: dict[str, Any] = {
        "system": platform.platform(terse=True),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": total,
        "device": device.device,
        "precision": device.precision,
        "threads": device.threads,
        "reasons": dict(device.reasons),
    }
    if device.device.startswith("cuda"):
        import torch

        found["accelerator"] = torch.cuda.get_device_name(device.device)
    return found


def run_record(
    config: Config,
    device: DeviceChoice,
    base: dict[str, Any],
    data: dict[str, Any],
    training: dict[str, Any],
) -> dict[str, Any]:
    """The record that lies beside every saved model.

    Args:
        config: The settings of the run.
        device: Device and precision.
        base: Name, kind and revision of the base model.
        data: Manifest hash, sources and counts.
        training: Steps, losses, sizes and times.
    """
    return {
        "format": 1,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "base": base,
        "config": config.to_dict(),
        "data": data,
        "training": training,
        "hardware": hardware(device),
        "versions": versions(),
        "source": source_revision(),
    }
