"""Output folder of a run: names of its files, its lock, log of metrics, record and model card.

One run at a time holds the folder, and a run in it is overwritten only on request. The log of
metrics (``metrics.jsonl``) gets a line per step and per validation as they happen; a resumed run
first removes the lines after its checkpoint. The same numbers go to the trackers of ``--track``;
texts never do. ``run.json`` (reproduction) and ``README.md`` (model card) stand beside each model.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any, TextIO

from filelock import FileLock, Timeout

from .._version import __version__
from ..config.run import Config
from ..data.document import joint_name
from ..devices import DeviceChoice, memory, processor
from ..errors import InputError
from ..files import check_name, clean_up, disk_errors, to_home, write_text
from .run_files import BEST, CHECKPOINTS, FINAL, METRICS_LOG, OF_A_RUN, TRACKING, holds_run


@contextlib.contextmanager
def claimed(folder: Path, *, resume: bool, overwrite: bool) -> Iterator[None]:
    """Lock the folder for one run; the lock ends with the process, even if it is killed.

    Raises:
        InputError: The folder holds a run and neither ``resume`` nor ``overwrite`` is given,
            another run is writing into it, or it can't be made.
    """
    check_name(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, not a folder", "choose another --output-dir")
    if holds_run(folder) and not (resume or overwrite):
        raise InputError(
            f"{folder} already holds a run",
            "--resume goes on with it, --overwrite replaces it, --output-dir names another folder",
        )
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise InputError(
                f"another run is writing into {folder}",
                "wait for it, or choose another --output-dir",
            ) from error
    try:
        for place in (folder, folder / CHECKPOINTS):
            clean_up(place)
        yield
    finally:
        lock.release()


def check_no_model(folder: Path) -> None:
    """Refuse to start over without a checkpoint where that would overwrite a finished model.

    A run that was killed before its first checkpoint may start over; one that has ended, or whose
    checkpoints are all damaged, may not.

    Raises:
        InputError: There is such a model.
    """
    models = [name for name in (FINAL, BEST) if (folder / name).exists()]
    checkpoints = folder / CHECKPOINTS
    if models and (FINAL in models or (checkpoints.is_dir() and any(checkpoints.iterdir()))):
        raise InputError(
            f"{folder} holds no checkpoint to go on from, but a model: starting over would cost it",
            f"--init-adapter {folder / models[-1]} with another --output-dir goes on from it, "
            "--overwrite starts over",
        )


def clear(folder: Path) -> None:
    """Remove the files of an earlier run; other files in the folder stay."""
    for name in OF_A_RUN:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


class MetricsLog:
    """Open log of metrics.

    Args:
        stream: ``metrics.jsonl``, open for appending, or None.
        tracker: An ``Accelerator`` with trackers, or None.
    """

    def __init__(self, stream: TextIO | None = None, tracker: Any = None) -> None:
        self._stream, self._tracker = stream, tracker

    def write(self, entry: dict[str, Any]) -> None:
        """Append a line.

        Args:
            entry: ``step`` and the values known at it; None is left out.

        Raises:
            RunError: The disk is full.
        """
        if self._stream is not None:
            known = {key: value for key, value in entry.items() if value is not None}
            with disk_errors(Path(self._stream.name)):
                self._stream.write(json.dumps(known, ensure_ascii=False) + "\n")
                self._stream.flush()
        if self._tracker is not None:
            numbers = {
                k: v for k, v in entry.items() if isinstance(v, (int, float)) and k != "step"
            }
            for name, value in (entry.get("domains") or {}).items():
                numbers[f"val_loss/{name}"] = value
            self._tracker.log(numbers, step=entry["step"])


@contextlib.contextmanager
def open_metrics_log(config: Config, step: int, device: str) -> Iterator[MetricsLog]:
    """Open the log of metrics and the trackers.

    Args:
        config: The settings; ``output_dir`` and ``track`` are used here.
        step: Steps taken so far; later lines are removed.
        device: Device of the training.

    Raises:
        InputError: A tracker that does not exist or is not installed.
    """
    folder = Path(config.output_dir)
    tracker = _trackers(config, folder, step, device) if config.track else None
    path = folder / METRICS_LOG
    _cut(path, step)
    try:
        with (
            disk_errors(path),
            path.open("a", encoding="utf-8", errors="backslashreplace") as stream,
        ):
            yield MetricsLog(stream, tracker)
    finally:
        if tracker is not None:
            for one in tracker.trackers:
                one.finish()


def _cut(path: Path, step: int) -> None:
    """Remove lines after a step, and incomplete ones."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text("utf-8", errors="replace").split("\n"):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    write_text(path, "".join(kept))


def check_trackers(names: list[str] | None) -> None:
    """Check that Accelerate knows the trackers and that they are installed.

    Raises:
        InputError: Naming the tracker.
    """
    if not names:
        return
    from accelerate.tracking import get_available_trackers
    from accelerate.utils import LoggerType

    known = [str(kind.value) for kind in LoggerType if kind.value != "all"]
    installed = [str(kind.value) for kind in get_available_trackers()]
    for name in names:
        if name not in known:
            raise InputError(f"no tracker '{name}'", f"there are: {', '.join(known)}")
        if name not in installed or (
            name == "tensorboard" and importlib.util.find_spec("tensorboard") is None
        ):
            raise InputError(f"the tracker {name} is not installed", f"pip install {name}")


def _trackers(config: Config, folder: Path, step: int, device: str) -> Any:
    """Accelerate with its trackers started."""
    from accelerate import Accelerator

    names = config.track or []
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision="no",
        log_with=names,
        project_dir=folder / TRACKING,
    )
    settings = {
        key: value if isinstance(value, (int, float, str, bool)) else json.dumps(value)
        for key, value in config.to_dict().items()
        # Paths are private.
        if value is not None and not key.endswith(("_dir", "_file", "_prompts"))
    }
    # Repeated steps replace the earlier ones.
    options = {"tensorboard": {"purge_step": step + 1}} if "tensorboard" in names else {}
    accelerator.init_trackers("creativewritinggpt", config=settings, init_kwargs=options)
    return accelerator


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
        "command": to_home([Path(sys.argv[0]).name, *sys.argv[1:]]),
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
        "base": to_home(base),
        "config": to_home(config.to_dict()),
        "data": to_home(data),
        "training": training,
        "source": source_revision(),
    }


_STARTER = (
    "The base is the *starter* of CreativeWritingGPT: SmolLM2-135M-Instruct, a model tuned for "
    "chat, taken from its 4-bit GGUF file and dequantised. The adapter was trained on those "
    "dequantised weights, as a plain writer: text begins after and ends with `<|endoftext|>`, "
    "without the chat marks. It loads on the original weights too, where its figures will be "
    "others.\n\n"
)
_ON_CARD = (
    "method", "lora_r", "lora_alpha", "lora_dropout", "target_modules", "max_length", "batch_size",
    "gradient_accumulation_steps", "learning_rate", "schedule", "seed",
)  # fmt: skip


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
    before, after = training["base_val_loss"], training["val_loss"]
    domains = []
    for name, entry in data["sources"].items():
        count = "streamed" if data.get("streamed") is not None else f"{entry['train']:,}"
        joint = " or ".join(map(joint_name, entry.get("joints", ()))) or "–"
        domains.append(f"| {name} | {count} | {entry['validation']:,} | {joint} |")
    template = resources.files("creativewritinggpt.training") / "model_card.md"
    return Template(template.read_text("utf-8")).substitute(
        front="\n".join(front),
        kind="LoRA adapter" if lora else "fully fine-tuned model",
        base=base["name"],
        version=run["versions"]["creativewritinggpt"],
        note=_STARTER if base["kind"] == "starter" else "",
        before=_figure(before),
        after=_figure(after),
        perplexity_before=_figure(math.exp(before), 2),
        perplexity_after=_figure(None if after is None else math.exp(after), 2),
        step=training["step"],
        total_steps=training["total_steps"],
        trained=f"{training['trainable_parameters']:,}",
        total=f"{training['total_parameters']:,}",
        percent=_figure(training["trainable_percent"], 2),
        domains="\n".join(domains),
        settings=json.dumps({key: config[key] for key in _ON_CARD}, indent=2),
        precision=run["hardware"]["precision"],
        device=run["hardware"]["device"],
    )


def write_card_section(folder: Path, title: str, lines: Sequence[str]) -> None:
    """Write a section into the model card of a folder, in place of an earlier one of that title.

    Args:
        folder: The model's folder; one without a card is left alone.
        title: The heading.
        lines: Paragraphs of plain text.
    """
    path = folder / "README.md"
    if not path.is_file():
        return
    heads, before, after = f"## {title}\n", path.read_text("utf-8"), ""
    before, found, rest = before.partition(heads)
    if found:
        after = "\n## ".join(["", *rest.split("\n## ")[1:]]).lstrip("\n")
    elif "## Data\n" in before:
        before, data, rest = before.partition("## Data\n")
        after = data + rest
    content = f"{before.rstrip()}\n\n{heads}\n" + "\n\n".join(lines) + "\n"
    write_text(path, content + (f"\n{after}" if after else ""))
