"""Checkpoints: everything needed for bit-exact resume.

A checkpoint is a folder ``step-N`` with the trained weights, the optimizer's moments and
``state.json``, all of it safetensors and JSON. It appears by renaming and carries checksums;
checkpoints are tried newest first, and a damaged one is reported and skipped. Data order and
dropout noise are functions of seed and step and need no state.

What was chosen when the run began (precision, threads, micro-batch, compilation) is recorded and
used again, since another choice rounds differently. A resume with other settings or data is
refused, or recorded with ``--force``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .. import console
from ..config.run import Config
from ..data.document import SEPARATOR, joint_name
from ..data.sources.files import as_recorded, files_again
from ..distributed import ProcessGroup
from ..errors import InputError
from ..files import atomic_folder, file_sha256, from_home, to_home, write_json

# Settings that may differ in a resume: places and how the work is done (the record's are used) …
_PLACES = frozenset(
    {"output_dir", "results_dir", "cache_dir", "device", "precision", "num_workers", "starter_file",
     "compile"}
)  # fmt: skip
# … and what is kept and shown.
SHOWN = frozenset({"save_total_limit", "samples", "sample_prompts", "track"})
FREE_TO_CHANGE = _PLACES | SHOWN

_WEIGHTS, _OPTIMIZER, _STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
_COUNT = "step."  # prefix of the optimizer's step count of each parameter


@dataclasses.dataclass
class TrainState:
    """Progress of a run, as JSON.

    Attributes:
        step: Optimizer steps taken.
        best_loss: Lowest validation loss; ``best_step`` its step.
        reference_loss: Validation loss that the next improvement is measured from.
        evaluations_without_improvement: Validations since the last improvement.
        seconds: Duration of the run; ``step_seconds`` of its optimizer steps alone.
        useful_tokens: Target tokens trained on.
        since_evaluation: Loss and target tokens of each step since the last validation.
        metrics: Content of ``metrics.json``.
        fingerprint: Settings, files, hashes and choices that a resume is compared with.
        stream: Position in a streamed corpus.
    """

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

    @property
    def choices(self) -> dict[str, Any]:
        """What was chosen when the run began: precision, threads, micro-batch, compilation."""
        choices: dict[str, Any] = self.fingerprint["probed"]
        return choices

    def save(
        self, folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, keep: int
    ) -> None:
        """Write ``folder/step-N`` and remove the oldest checkpoints.

        Args:
            folder: The run's ``checkpoints`` folder.
            model: Its trained parameters are saved.
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
        with atomic_folder(folder / f"step-{self.step}") as temporary:
            save_file(weights, temporary / _WEIGHTS)
            save_file(moments, temporary / _OPTIMIZER)
            body = dataclasses.asdict(self)
            write_json(temporary / _STATE, {"state": body, "sha256": _checksums(temporary, body)})
        # Newer ones were damaged, or this run would not be at this step again.
        found = _checkpoints(folder)
        newer = [path for path in found if _step(path) > self.step]
        for old in newer + found[len(newer) + keep :]:
            shutil.rmtree(old, ignore_errors=True)

    @classmethod
    def load(cls, folder: Path) -> tuple[Path, TrainState] | None:
        """Newest whole checkpoint and its state, or None; damaged ones are reported and skipped."""
        for path in _checkpoints(folder):
            try:
                record = json.loads((path / _STATE).read_text("utf-8"))
                if record["sha256"] == _checksums(path, record["state"]):
                    return path, cls(**record["state"])
                reason = "its checksum does not fit"
            except (OSError, ValueError, KeyError, TypeError) as error:
                reason = str(error) or type(error).__name__
            console.warn(f"checkpoint {path} is damaged ({reason}); trying the one before it")
        return None

    def check_same_run(self, now: dict[str, Any], config: Config, force: bool) -> bool:
        """Compare with the run that continues, and record the continuation.

        Args:
            now: Fingerprint of the run that continues.
            config: Its settings.
            force: Continue although something has changed.

        Returns:
            Whether data or base model differ, so that losses must be measured anew.

        Raises:
            InputError: Something has changed.
        """
        # Before it was recorded, every joint was an empty line.
        self.fingerprint.setdefault("joints", dict.fromkeys(now["joints"], joint_name(SEPARATOR)))
        now = _by_the_same_name(self.fingerprint, now)
        parts = ("config", "data", "base", "joints", "choices")
        compared = {key: now[key] for key in parts if key in now}
        changed = _changed_texts(self.fingerprint, now) + _changes(self.fingerprint, compared)
        if not force:
            _refuse(changed)
        metrics = self.metrics
        metrics["resumed_from"].append(self.step)
        metrics["config"] = to_home(config.to_dict())
        if changed:
            metrics["forced"].append({"step": self.step, "changes": changed})
            console.warn(f"going on although the run has changed: {'; '.join(changed)}")
        other = bool(
            _changes(self.fingerprint, {key: now[key] for key in ("data", "base", "joints")})
        )
        self.fingerprint = {**self.fingerprint, **now}
        if other:
            self.best_loss, self.best_step, self.reference_loss = None, 0, None
            self.evaluations_without_improvement = 0
            metrics["best_step"] = None
        return other


def trained_parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Parameters that require a gradient, by name."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def _on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous()


def _checksums(folder: Path, state: dict[str, Any]) -> dict[str, str]:
    """SHA-256 of the files and of the state."""
    content = json.dumps(state, sort_keys=True).encode()
    return {
        **{name: file_sha256(folder / name) for name in (_WEIGHTS, _OPTIMIZER)},
        "state": hashlib.sha256(content).hexdigest(),
    }


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, newest first."""
    found = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted(found, key=_step, reverse=True)


def restore(
    path: Path | None,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    group: ProcessGroup,
) -> None:
    """Load the weights and moments of a checkpoint into the model and its optimizer.

    Args:
        path: The checkpoint in the main process; the others get its content from there.
        model: Its trained parameters are set.
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
    """Weights and moments of a checkpoint, checked against the parameters."""
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


def state_before_first_step(
    manifest: Path, config: Config, group: ProcessGroup
) -> TrainState | None:
    """State of a run that ended before its first checkpoint, from ``manifest.json``; None without.

    Args:
        manifest: Written before the first step; read by the main process.
        config: The settings that were given.
        group: The processes of the run.
    """
    run = None
    if group.is_main:
        try:
            run = json.loads(manifest.read_text("utf-8"))["run"]
        except (OSError, ValueError, KeyError, TypeError):  # killed before, or of an older version
            run = None
    run = json.loads(group.broadcast_text(json.dumps(run)))
    if run is None:
        return None
    # Nothing is lost yet: another precision may be chosen, and threads are counted anew.
    choices = {
        "precision": run["precision"] if config.precision == "auto" else config.precision,
        "compiled": config.compile or run.get("compile", False),
        "processes": 0,
    }
    return TrainState(fingerprint={**run, "probed": choices})


def resumed_settings(
    state: TrainState,
    config: Config,
    files: Sequence[str],
    *,
    said: Collection[str] | None,
    force: bool,
    processes: int,
) -> tuple[Config, Sequence[str]]:
    """Settings and files of the run that is resumed, with this machine's places.

    Args:
        state: State of the run.
        config: The settings that were given.
        files: The files that were given.
        said: Names of the settings that the user gave. Without it: all of them where any differs
            from its default, else none.
        force: Let what was given override the record.
        processes: Number of processes now.

    Raises:
        InputError: What was given differs from the record.
    """
    then, given, default = state.fingerprint, config.to_dict(), Config().to_dict()
    values = {
        **given,
        **{name: then["shown"][name] for name in SHOWN if given[name] == default[name]},
    }
    if said is None:
        fixed = [name for name in given if name not in FREE_TO_CHANGE]
        known = fixed if any(given[name] != default[name] for name in fixed) else []
        said = [*known, *(["compile"] if config.compile else [])]
    now = {name: given[name] for name in said if name not in FREE_TO_CHANGE}
    changed = _changes(then["config"], now)
    if files and not then["files"]:
        changed.append("it was trained on named sources, not on files")
    asked: dict[str, Any] = {} if config.precision == "auto" else {"precision": config.precision}
    if "compile" in said:
        asked["compiled"] = config.compile
    changed += _changes(state.choices, asked)
    if not force:
        _refuse(changed)
    chosen = {**state.choices, **asked}
    values |= {**then["config"], **now}
    values |= {"precision": chosen["precision"], "compile": bool(chosen["compiled"])}
    # A launcher gives each of several processes its own part of the processor.
    if config.num_workers is None and processes == chosen["processes"]:
        values["num_workers"] = chosen["threads"]
    files = list(files) or files_again(then)
    model = Path(then.get("model_place") or "")
    if not from_home(values["model_name"]).exists() and model.is_absolute() and model.exists():
        values["model_name"] = str(model)
    resumed = Config(**values)
    return resumed, as_recorded(files, resumed, then.get("content", ()))


def _by_the_same_name(then: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """What is compared, with the name that the run has for a model in the same folder."""
    place = then.get("model_place")
    if place is None or place != now["model_place"]:
        return now
    model_name = then["config"]["model_name"]
    names = {key: then["base"][key] for key in ("name", "base_name")}
    return {
        **now,
        "config": {**now["config"], "model_name": model_name},
        "base": {**now["base"], **names},
    }


def _changed_texts(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Files whose bytes are others than those that the run began with, where data has changed."""
    if then["data"] == now["data"] or "content" not in then:
        return []
    before, after = (
        {(record["domain"], record["label"]): record["sha256"] for record in run["content"]}
        for run in (then, now)
    )
    return [
        *(f"{k[1]} holds other text" for k in before if after.get(k, before[k]) != before[k]),
        *(f"{label} is not there any more" for _, label in before.keys() - after.keys()),
        *(f"{label} is new" for _, label in after.keys() - before.keys()),
    ]


def _changes(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Differences between two records as text; only the keys of ``now`` are compared."""
    found = []
    for key, value in now.items():
        before = then.get(key)
        if json.dumps(before, sort_keys=True) == json.dumps(value, sort_keys=True):
            continue
        if isinstance(before, dict) and isinstance(value, dict):
            found += _changes(before, value)
            continue
        text = f"{key} was {before!r}, is {value!r}"
        found.append(text if len(text) < 120 else text[:117] + "…")
    return found


def _refuse(changed: list[str]) -> None:
    if changed:
        raise InputError(
            f"the run can't be resumed, since it has changed: {'; '.join(changed[:3])}",
            "resume with the settings and data of the run, go on all the same with --force, or "
            "start afresh with --overwrite",
        )
