"""Records beside a saved model: ``run.json`` (reproduction) and the model card (``README.md``)."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from .._version import __version__
from ..config.run import Config
from ..devices import DeviceChoice, memory, processor

_PACKAGES = (
    "torch", "transformers", "peft", "tokenizers", "huggingface_hub", "safetensors", "numpy",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of the packages that numbers depend on."""
    found = {"creativewritinggpt": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        found[name] = importlib.metadata.version(name)
    return found


@functools.cache
def source_revision() -> dict[str, Any] | None:
    """Commit of the package's checkout and whether it has changes; None without a checkout."""
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


def hardware(device: DeviceChoice) -> dict[str, Any]:
    """Processor, cores, memory, and the device with the reasons for its choice."""
    total, _ = memory()
    found: dict[str, Any] = {
        "system": platform.platform(terse=True),
        "processor": processor(),
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


def base_record(device: DeviceChoice) -> dict[str, Any]:
    """Command, time, machine and versions: what reproduces a result."""
    now = datetime.datetime.now(datetime.UTC)
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "created": now.isoformat(timespec="seconds"),
        "versions": versions(),
        "hardware": hardware(device),
    }


def run_record(
    config: Config,
    device: DeviceChoice,
    base: dict[str, Any],
    data: dict[str, Any],
    training: dict[str, Any],
) -> dict[str, Any]:
    """Content of ``run.json``, beside every saved model.

    Args:
        config: The settings of the run.
        device: Device and precision.
        base: Name, kind and revision of the base model.
        data: Manifest hash, sources and counts.
        training: Steps, losses, sizes and times.
    """
    return {
        "format": 1,
        **base_record(device),
        "base": base,
        "config": config.to_dict(),
        "data": data,
        "training": training,
        "source": source_revision(),
    }


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _figure(value: float | None, digits: int = 3) -> str:
    return "not measured" if value is None else f"{value:.{digits}f}"


def model_card(run: dict[str, Any]) -> str:
    """Model card of a run.

    Args:
        run: The record that stands in ``run.json``.

    Returns:
        Markdown with the front matter that model hubs read.
    """
    base, training, config, data = run["base"], run["training"], run["config"], run["data"]
    lora = config["method"] == "lora"
    front = [] if base["kind"] == "folder" else [f"base_model: {base['base_name']}"]
    front += [
        "pipeline_tag: text-generation",
        "library_name: " + ("peft" if lora else "transformers"),
    ]
    kind = "LoRA adapter" if lora else "fully fine-tuned model"
    before, after = training["base_val_loss"], training["val_loss"]
    rows = [
        ("validation loss, base model", f"{_figure(before)} nats per token"),
        ("validation loss, this model", f"{_figure(after)} nats per token"),
        ("validation perplexity, base model", _figure(math.exp(before), 2)),
        (
            "validation perplexity, this model",
            _figure(None if after is None else math.exp(after), 2),
        ),
        ("optimizer step", f"{training['step']} of {training['total_steps']}"),
        (
            "trained parameters",
            f"{training['trainable_parameters']:,} of {training['total_parameters']:,}"
            f" ({training['trainable_percent']:.2f} %)",
        ),
    ]
    streamed = data.get("streamed") is not None
    domains = "\n".join(
        f"| {name} | {'streamed' if streamed else format(entry['train'], ',')} "
        f"| {entry['validation']:,} |"
        for name, entry in data["sources"].items()
    )
    notes = []
    if base["kind"] == "starter":
        notes.append(
            "The base is the *starter* of CreativeWritingGPT: SmolLM2-135M-Instruct, a model tuned "
            "for chat, taken from its 4-bit GGUF file and dequantised. The adapter was trained on "
            "those dequantised weights, as a plain writer: text begins after and ends with "
            "`<|endoftext|>`, without the chat marks. It loads on the original weights too, where "
            "its figures will be others."
        )
    settings = {
        key: config[key]
        for key in (
            "method", "lora_r", "lora_alpha", "lora_dropout", "target_modules", "max_length",
            "batch_size", "gradient_accumulation_steps", "learning_rate", "schedule", "seed",
        )
    }  # fmt: skip
    usage = (
        'from creativewritinggpt import load\n\nwriter = load("FOLDER")\n'
        'print(writer.write("Once upon a time"))'
    )
    return (
        "---\n" + "\n".join([*front, "tags: [creative-writing, creativewritinggpt]"]) + "\n---\n\n"
        f"# A {kind} for creative writing\n\n"
        f"Fine-tuned from `{base['name']}` with CreativeWritingGPT "
        f"{run['versions']['creativewritinggpt']}.\n\n"
        + "".join(f"{note}\n\n" for note in notes)
        + f"## Use\n\n```python\n{usage}\n```\n\n"
        f"or `cwgpt generate --model FOLDER`.\n\n"
        f"## Results\n\n{_table(rows)}\n\n"
        "Loss is over the tokens of the held-out documents, end-of-text tokens apart.\n\n"
        "## Data\n\n| source | training documents | validation documents |\n|---|---|---|\n"
        f"{domains}\n\n"
        "The text itself is not in this folder. Whoever shares the model decides whether the texts "
        "it was trained on allow it.\n\n"
        "## Limits\n\n"
        "A small model: it loses the thread in long texts, invents facts, and can repeat what its "
        "base and training texts contain, offensive passages and verbatim sentences included. It "
        "is meant for drafting fiction that a person reads before others do.\n\n"
        f"## Settings\n\n```json\n{json.dumps(settings, indent=2)}\n```\n\n"
        f"Precision {run['hardware']['precision']} on {run['hardware']['device']}; everything else "
        "is in `run.json`.\n"
    )
