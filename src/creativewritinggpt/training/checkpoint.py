"""What an interrupted run needs to go on as if nothing had happened.

A checkpoint is a folder ``step-N`` with the trained weights, the optimizer's moments and
``state.json``; all of it safetensors and JSON, nothing that could run code. It appears by renaming,
carries the checksum of its files, and is tried newest first: a damaged one is named and the one
before it is used. Data order and dropout noise are functions of the seed and the step, so they need
no state.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .. import console
from ..errors import InputError
from ..files import atomic_folder, write_json

KEEP = 2
"""Checkpoints kept: the newest, and one before it in case the newest is damaged."""

_WEIGHTS, _OPTIMIZER, _STATE = "weights.safetensors", "optimizer.safetensors", "state.json"


@dataclasses.dataclass
class State:
    """Where a run stands. All of it is JSON."""

    step: int = 0
    best_loss: float | None = None
    best_step: int = 0
    reference_loss: float | None = None
    evaluations_without_improvement: int = 0
    seconds: float = 0.0
    step_seconds: float = 0.0
    useful_tokens: int = 0
    since_evaluation: list[tuple[float, int]] = dataclasses.field(default_factory=list)
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)
    fingerprint: dict[str, Any] = dataclasses.field(default_factory=dict)


def trained_parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that the run changes, by name."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def save_checkpoint(
    folder: Path, state: State, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> Path:
    """Write ``folder/step-N`` and remove the oldest beyond :data:`KEEP`.

    Args:
        folder: The run's ``checkpoints`` folder.
        state: Where the run stands.
        model: The model, whose trained parameters are saved.
        optimizer: AdamW over these parameters.

    Returns:
        The new checkpoint.
    """
    parameters = trained_parameters(model)
    moments: dict[str, torch.Tensor] = {}
    for name, parameter in parameters.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            moments[f"{key}.{name}"] = value.detach().cpu().contiguous()
    target = folder / f"step-{state.step}"
    with atomic_folder(target) as temporary:
        weights = {name: value.detach().cpu().contiguous() for name, value in parameters.items()}
        save_file(weights, temporary / _WEIGHTS)
        save_file(moments, temporary / _OPTIMIZER)
        checksums = {name: _digest(temporary / name) for name in (_WEIGHTS, _OPTIMIZER)}
        body = dataclasses.asdict(state)
        checksums["state"] = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        write_json(temporary / _STATE, {"state": body, "sha256": checksums})
    for old in _checkpoints(folder)[KEEP:]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, newest first."""
    found = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name[5:]), reverse=True)


def newest_checkpoint(folder: Path) -> tuple[Path, State] | None:
    """The newest whole checkpoint of a run, or None; damaged ones are named and passed over."""
    for path in _checkpoints(folder):
        try:
            record = json.loads((path / _STATE).read_text("utf-8"))
            checksums, body = record["sha256"], record["state"]
            expected = {name: _digest(path / name) for name in (_WEIGHTS, _OPTIMIZER)}
            expected["state"] = hashlib.sha256(
                json.dumps(body, sort_keys=True).encode()
            ).hexdigest()
            if checksums == expected:
                return path, State(**body)
            reason = "its checksum does not fit"
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = str(error) or type(error).__name__
        console.warn(f"checkpoint {path} is damaged ({reason}); trying the one before it")
    return None


def restore(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put the weights and moments of a checkpoint into the model and its optimizer.

    Raises:
        InputError: The checkpoint belongs to another model.
    """
    parameters = trained_parameters(model)
    try:
        weights, moments = load_file(path / _WEIGHTS), load_file(path / _OPTIMIZER)
    except SafetensorError as error:
        raise InputError(f"checkpoint {path} can't be read: {error}") from error
    if set(weights) != set(parameters) or any(
        weights[name].shape != parameter.shape for name, parameter in parameters.items()
    ):
        raise InputError(
            f"checkpoint {path} is of another model or adapter",
            "resume with the settings of the run, or start afresh with --overwrite",
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
            for key in ("exp_avg", "exp_avg_sq", "step"):
                value = moments.get(f"{key}.{name}")
                if value is not None:
                    moved = value if key == "step" else value.to(parameter.device)
                    optimizer.state[parameter][key] = moved


def refuse_changes(then: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to resume a run whose data or settings are not what they were.

    Raises:
        InputError: Naming what changed.
    """
    changed = [
        f"{key} was {then.get(key)!r}, is {now[key]!r}"
        for key in now
        if json.dumps(then.get(key), sort_keys=True) != json.dumps(now[key], sort_keys=True)
    ]
    if changed:
        shown = "; ".join(text if len(text) < 120 else text[:117] + "…" for text in changed[:3])
        raise InputError(
            f"the run can't be resumed, since it has changed: {shown}",
            "resume with the settings and data of the run, or start afresh with --overwrite",
        )
