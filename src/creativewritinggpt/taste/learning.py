"""Training on the writer's choices: as a run with a folder, or of a model in memory.

choices ──► decisions ──► comparisons ──► objective ──► the training loop ──► best_model
held out ──► measures, drafts ──► guards, choices_report.json
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from ..config.run import Config
from ..distributed import SINGLE_PROCESS, ProcessGroup
from ..errors import InputError
from ..files import from_home, true_path, write_json
from ..models.adapter import trainable
from ..models.loaded_model import LoadedModel
from ..models.loading import adapter_base
from ..story.choice_files import read_any
from ..story.decisions import Decision, Decisions
from ..training.checkpoint import TrainState
from ..training.fast.block import fast_path, rows_per_pass
from ..training.metrics import new_metrics
from ..training.run import TrainingResult, train
from ..training.run_files import CHOICES_REPORT, MANIFEST, METRICS
from ..training.trainer import Trainer
from .report import report
from .settings import ChoiceSettings, choices_config
from .setup import ChoiceSetup, Material, method_for


@dataclasses.dataclass(frozen=True)
class Learnt:
    """What came of training on choices.

    Attributes:
        outcome: ``finished``, ``early`` (a guard) or ``interrupted``.
        steps: Optimizer steps taken.
        best_step: The step whose state is kept; 0 where nothing beat the start.
        report: Content of ``choices_report.json``.
        losses: Loss of each step.
        run: The run, where there is a folder.
    """

    outcome: str
    steps: int
    best_step: int
    report: dict[str, Any]
    losses: list[float]
    run: TrainingResult | None = None

    def to_dict(self) -> dict[str, Any]:
        """The report and the figures of the run, as JSON."""
        run = {} if self.run is None else dataclasses.asdict(self.run)
        for name in ("domains", "base_val_loss", "best_val_loss"):
            run.pop(name, None)
        return {**run, **self.report}


def fit(
    model: LoadedModel,
    decisions: Sequence[Decision],
    settings: ChoiceSettings | None = None,
    config: Config | None = None,
) -> Learnt:
    """Train a model in memory, in place; nothing is shown or written.

    The model is left in its best state by the held-out decisions, or where they can't tell, in the
    last one that no guard stops.

    Args:
        model: A model with a trainable adapter; the reference is its state now.
        decisions: What to learn from, oldest first.
        settings: How choices are learnt from.
        config: Rate, passes, batch and seed.

    Raises:
        InputError: There is too little to learn from.
    """
    settings, config = settings or ChoiceSettings(), config or choices_config()
    setup = ChoiceSetup(
        config, settings, Material(tuple(decisions)), model, SINGLE_PROCESS, output=None
    )
    state = TrainState(fingerprint={"probed": {}})
    with fast_path(model):
        state.metrics = new_metrics(config, setup.start, trainable(model.model))
        setup.begin(state)
        trainer = Trainer(setup, state, quiet=True)
        trainer.micro.rows = rows_per_pass(model, setup.batches.max_length, trainer.micro.rows)
        outcome = trainer.fit()
        setup.finish(state)
    metrics = {**state.metrics, "best_step": state.best_step}
    return Learnt(
        outcome, state.step, state.best_step, report(setup, metrics, outcome),
        state.metrics["batch_losses"],
    )  # fmt: skip


def read_material(files: Sequence[str], config: Config) -> Material:
    """The decisions of stories and files of choices, with what was left out.

    Args:
        files: Stories, and files of choices.
        config: The settings, for the names of the model.

    Raises:
        InputError: A file can't be read.
    """
    found = Decisions()
    for path in dict.fromkeys(str(true_path(from_home(name))) for name in files):
        found.add(read_any(path))
    found.drop_contradicting()
    remarks = list(found.remarks)
    left_out = dict(found.left_out)
    if left_out:
        reasons = ", ".join(f"{why} ({count})" for why, count in sorted(left_out.items()))
        remarks.append(f"left out: {reasons}.")
    own = {_name(name) for name in (config.model_name, config.init_adapter) if name}
    others = sorted({one.model for one in found.used if one.model and _name(one.model) not in own})
    if others:
        count = sum(one.model in others for one in found.used)
        remarks.append(
            f"{count} of {len(found.used)} choices are among texts by other models "
            f"({', '.join(others[:3])}): they are used, and say less about this one's drafts."
        )
    record = {
        "recorded": found.recorded, "inferred": found.inferred, "used": len(found.used),
        "left_out": left_out, "alternatives_left_out": dict(found.alternatives_left_out),
        "files": [Path(name).name for name in files], "other_models": others, "remarks": remarks,
    }  # fmt: skip
    # Files may be moved between a run and its resume; their names group the decisions.
    texts = [dataclasses.replace(one, where=Path(one.where).name) for one in found.used]
    content = json.dumps([dataclasses.asdict(one) for one in texts], sort_keys=True)
    return Material(tuple(texts), record, hashlib.sha256(content.encode()).hexdigest())


def _name(model: str) -> str:
    """A model's name, a folder by its place."""
    place = from_home(model)
    return str(place.resolve()) if place.exists() else model


def recorded_settings(folder: str | Path) -> dict[str, Any]:
    """The settings of choices that the run in a folder was begun with; empty without one."""
    try:
        recorded = json.loads((Path(folder) / MANIFEST).read_text("utf-8"))["run"]["choices"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return recorded if isinstance(recorded, dict) else {}


def _inside(path: str, folder: Path) -> bool:
    return from_home(path).resolve().is_relative_to(folder.resolve())


def with_base(config: Config) -> Config:
    """The settings with the base of ``init_adapter`` as the model.

    Raises:
        InputError: The adapter or its base is not there.
    """
    if not config.init_adapter:
        return config
    base = adapter_base(
        from_home(config.init_adapter), cache_dir=config.cache_dir, starter_file=config.starter_file
    )
    return dataclasses.replace(config, model_name=base.name)


def learn_from_choices(
    config: Config,
    files: Sequence[str],
    settings: ChoiceSettings | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    force: bool = False,
    said: Collection[str] | None = None,
) -> Learnt:
    """Train on choices as a run with a folder.

    Args:
        config: The settings of the run; with ``init_adapter``, ``model_name`` must be its base
            (:func:`with_base` finds it).
        files: Stories, and files of choices.
        settings: How choices are learnt from.
        resume: Continue the run in ``config.output_dir``.
        overwrite: Replace the run there.
        force: Resume although settings or choices have changed.
        said: Names of the settings of ``config`` that were given, for ``resume``.

    Raises:
        InputError: Settings, files or the output folder can't be used, or there is too little to
            learn from.
        RunError: The work failed.
    """
    settings = settings or ChoiceSettings()
    if config.streaming:
        raise InputError("choices are not streamed", "leave --streaming out")
    output = Path(config.output_dir)
    if overwrite and config.init_adapter and _inside(config.init_adapter, output):
        raise InputError(
            f"--overwrite would remove the adapter to begin with, {config.init_adapter}",
            "name another --output-dir",
        )
    made: list[ChoiceSetup] = []

    def read(config: Config) -> Callable[[LoadedModel, ProcessGroup], ChoiceSetup]:
        material = read_material(files, config)

        def prepare(model: LoadedModel, group: ProcessGroup) -> ChoiceSetup:
            setup = ChoiceSetup(config, settings, material, model, group, output)
            made.append(setup)
            return setup

        method_for(settings, material.decisions)  # too little is said before a model is loaded
        return prepare

    result = train(config, resume=resume, overwrite=overwrite, force=force, said=said, choices=read)
    [setup] = made
    metrics = json.loads((setup.output / METRICS).read_text("utf-8"))
    found = report(setup, metrics, result.outcome)
    write_json(setup.output / CHOICES_REPORT, found)
    return Learnt(
        result.outcome, result.steps, result.best_step, found, metrics["batch_losses"], result
    )
