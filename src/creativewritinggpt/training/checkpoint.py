"""What an interrupted run needs to go on as if nothing had happened.

A checkpoint is a folder ``step-N`` with the trained weights, the optimizer's moments and
``state.json``; all of it safetensors and JSON, nothing that could run code. It appears by renaming,
carries the checksums of its files, and is tried newest first: a damaged one is named and the one
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
from ..distributed import ProcessGroup
from ..errors import InputError
from ..files import atomic_folder, file_sha256, write_json

_WEIGHTS, _OPTIMIZER, _STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
_COUNT = "step."  # the optimizer's own count of steps, for each parameter


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
    stream: dict[str, Any] | None = None


def trained_parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that the run changes, by name."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def save_checkpoint(
    folder: Path,
    state: State,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    keep: int,
) -> None:
    """Write ``folder/step-N`` and remove the oldest beyond ``keep``.

    Args:
        folder: The run's ``checkpoints`` folder.
        state: Where the run stands.
        model: The model, whose trained parameters are saved.
        optimizer: AdamW over these parameters.
        keep: Checkpoints that stay, at least 1.
    """
    parameters = trained_parameters(model)
    weights = {name: _on_cpu(value) for name, value in parameters.items()}
    moments = {
        f"{key}.{name}": _on_cpu(value)
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    _write(folder, state, weights, moments, keep)


def _on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous()


def _write(
    folder: Path,
    state: State,
    weights: dict[str, torch.Tensor],
    moments: dict[str, torch.Tensor],
    keep: int,
) -> None:
    """Write the checkpoint and remove the oldest."""
    with atomic_folder(folder / f"step-{state.step}") as temporary:
        save_file(weights, temporary / _WEIGHTS)
        save_file(moments, temporary / _OPTIMIZER)
        checksums = {name: file_sha256(temporary / name) for name in (_WEIGHTS, _OPTIMIZER)}
        body = dataclasses.asdict(state)
        checksums["state"] = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        write_json(temporary / _STATE, {"state": body, "sha256": checksums})
    # What is newer was damaged, or this run would not have come by here again.
    found = _checkpoints(folder)
    newer = [path for path in found if _step(path) > state.step]
    for old in newer + found[len(newer) + keep :]:
        shutil.rmtree(old, ignore_errors=True)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, newest first."""
    found = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted(found, key=_step, reverse=True)


def newest_checkpoint(folder: Path) -> tuple[Path, State] | None:
    """The newest whole checkpoint of a run, or None; damaged ones are named and passed over."""
    for path in _checkpoints(folder):
        try:
            record = json.loads((path / _STATE).read_text("utf-8"))
            checksums, body = record["sha256"], record["state"]
            expected = {name: file_sha256(path / name) for name in (_WEIGHTS, _OPTIMIZER)}
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


def restore(
    path: Path | None, model: torch.nn.Module, optimizer: torch.optim.Optimizer, group: ProcessGroup
) -> None:
    """Put the weights and moments of a checkpoint into the model and its optimizer.

    Args:
        path: The checkpoint, where this process is the group's first; the others get it from there.
        model: The model, whose trained parameters are set.
        optimizer: AdamW over these parameters.
        group: The processes of the run.

    Raises:
        InputError: The checkpoint belongs to another model.
    """
    parameters = trained_parameters(model)
    weights, moments = ({}, {}) if path is None else _tensors(path, parameters)
    counts = {name: float(value) for name, value in moments.items() if name.startswith(_COUNT)}
    counts = json.loads(group.broadcast_text(json.dumps(counts)))
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(group.broadcast(weights.get(name), parameter))
            if _COUNT + name not in counts:
                continue
            state = optimizer.state[parameter]
            state["step"] = torch.tensor(counts[_COUNT + name])
            for key in ("exp_avg", "exp_avg_sq"):
                state[key] = group.broadcast(moments.get(f"{key}.{name}"), parameter)


def _tensors(
    path: Path, parameters: dict[str, torch.nn.Parameter]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The weights and moments of a checkpoint that fit the parameters."""
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
    return weights, moments


def changes(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between a run and its continuation, in words.

    Args:
        then: What the run was.
        now: What it is to be; only these keys are compared.
    """
    found = []
    for key, value in now.items():
        before = then.get(key)
        if json.dumps(before, sort_keys=True) == json.dumps(value, sort_keys=True):
            continue
        if isinstance(before, dict) and isinstance(value, dict):
            found += changes(before, value)
            continue
        text = f"{key} was {before!r}, is {value!r}"
        found.append(text if len(text) < 120 else text[:117] + "…")
    return found


def refuse(changed: list[str]) -> None:
    """Refuse to resume a run whose data or settings are not what they were.

    Raises:
        InputError: Something has changed; the message names it.
    """
    if changed:
        raise InputError(
            f"the run can't be resumed, since it has changed: {'; '.join(changed[:3])}",
            "resume with the settings and data of the run, go on all the same with --force, or "
            "start afresh with --overwrite",
        )
