"""A whole fine-tuning run: from documents to a folder with a model, its curves and its record."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .. import console, devices
from ..config.run import Config
from ..data.corpus import load_corpus
from ..data.rows.stream import open_corpus
from ..data.sources import Keep
from ..distributed import ProcessGroup, init_process_group
from ..errors import InputError
from ..files import write_json, write_text
from ..models.adapter import attach, trainable
from ..models.loaded_model import LoadedModel
from ..models.loading import load_base
from .checkpoint import State, newest_checkpoint, restore, trained_parameters
from .choice import choose, choose_compiled
from .engine import check_int8, fast_path, rows_at_once
from .memory import MicroBatch, fitting_rows
from .metrics import new_metrics, note_base, note_samples, write_metrics
from .metrics_log import Journal, check_trackers, journal
from .resume import begun, choices, recorded, take_up
from .run_dir import CHECKPOINTS, FINAL, MANIFEST, VALIDATION, check_spared, claimed, clear
from .run_summary import Announcement, announce
from .setup import Parts, prepare
from .trainer import Job, fit, probe
from .validation import Validation

INT8 = "int8"

_LOST_ADVICE = "its own message says why; go on with --resume, with as many processes as you like"

Sample = Callable[[LoadedModel], list[dict[str, str]]]


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """What came of a run. Losses are in nats a token."""

    outcome: str
    output_dir: str
    steps: int
    total_steps: int
    best_step: int
    base_val_loss: float
    best_val_loss: float | None
    seconds: float
    useful_tokens_per_second: float
    peak_memory_bytes: int
    domains: dict[str, dict[str, float | None]]

    def to_dict(self) -> dict[str, Any]:
        """All fields, and the perplexities, ready for JSON."""
        best = self.best_val_loss
        return {
            **dataclasses.asdict(self),
            "base_val_perplexity": math.exp(self.base_val_loss),
            "best_val_perplexity": None if best is None else math.exp(best),
        }


def train(
    config: Config,
    files: Sequence[str] = (),
    *,
    resume: bool = False,
    overwrite: bool = False,
    force: bool = False,
    said: Collection[str] | None = None,
    keep: Mapping[str, Keep] | None = None,
    sampler: Callable[[Config], Sample | None] = lambda config: None,
) -> TrainingResult:
    """Fine-tune a model.

    Args:
        config: The settings.
        files: The texts to train on; without any, ``config.sources``.
        resume: Go on with the run in ``config.output_dir``.
        overwrite: Replace the run in ``config.output_dir``.
        force: Resume although settings or data have changed.
        said: Names of the settings that were given, for ``resume``: the others are those of the
            run. Without it all count where any differs from its default.
        keep: By source, which of its documents are wanted; the others are counted.
        sampler: Makes of the settings what continues fixed prompts with the model as it is
            (``prompt`` and ``text`` of each); that is asked at each validation.

    Raises:
        InputError: Settings, files or the output folder can't be used.
        RunError: The work failed.
    """
    if resume and overwrite:
        raise InputError(
            "--resume goes on with a run and --overwrite replaces it", "leave one of the two out"
        )
    check_trackers(config.track)
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        raise InputError(
            "the launcher asks for FSDP, but each process holds a copy of the whole model",
            "use an Accelerate config without FSDP; docs/scaling.md names tools for larger models",
        )
    output = Path(config.output_dir)
    group = init_process_group(config.device, "train", lost_advice=_LOST_ADVICE)
    with group.running(), contextlib.ExitStack() as stack:
        if group.is_main:
            stack.enter_context(claimed(output, resume=resume, overwrite=overwrite))
        found = _checkpoint(output, group) if resume else None
        if resume and found is None:
            if group.is_main:
                check_spared(output)
            console.note(f"no checkpoint in {output}: starting from the first step")
        then = found[1] if found else begun(output / MANIFEST, config, group) if resume else None
        if then is not None:
            config, files = recorded(
                then, config, files, said=said, force=force, processes=group.size
            )
        sample = sampler(config) if group.is_main else None
        device = _device(config, group)
        with group.main_process_first():
            with console.progress("reading") as tell:
                read = open_corpus if config.streaming else load_corpus
                corpus = read(config, files, tell, keep)
            writer = load_base(
                config.model_name, device, cache_dir=config.cache_dir,
                starter_file=config.starter_file,
            )  # fmt: skip
            parts = prepare(config, files, corpus, writer, group)
        group.assert_same(lambda: parts.manifest["manifest_hash"], "documents")
        return _go(parts, device, found, group, force, sample)


def _checkpoint(output: Path, group: ProcessGroup) -> tuple[Path | None, State] | None:
    """The newest checkpoint, which only the first process must be able to read."""
    found = newest_checkpoint(output / CHECKPOINTS) if group.is_main else None
    state = group.broadcast_text("" if found is None else json.dumps(dataclasses.asdict(found[1])))
    if not state:
        return None
    return (None, State(**json.loads(state))) if found is None else found


def _device(config: Config, group: ProcessGroup) -> devices.DeviceChoice:
    """This process's device, in the number format of the first one."""
    name = group.device(config.device)
    # What is not made in int8 takes the format that is best here.
    wanted = "auto" if config.precision == INT8 else config.precision
    chosen = devices.choose(name, wanted, config.num_workers)
    if (precision := group.broadcast_text(chosen.precision)) != chosen.precision:
        chosen = devices.choose(name, precision, config.num_workers)
    chosen.apply()
    return chosen


def _go(
    parts: Parts,
    device: devices.DeviceChoice,
    found: tuple[Path | None, State] | None,
    group: ProcessGroup,
    force: bool,
    sample: Sample | None,
) -> TrainingResult:
    """Run from the start or from a checkpoint, and save what comes of it."""
    config, writer, output = parts.config, parts.writer, Path(parts.config.output_dir)
    state = State() if found is None else found[1]
    anew = found is None or take_up(state, parts, force)
    micro, scored = (MicroBatch(config.batch_size, parts.batches.max_length) for _ in range(2))
    began = time.monotonic()
    before = _validate(parts, scored, group) if anew else None
    samples = None if sample is None else lambda: sample(writer)
    note_samples(first := State(metrics={"samples": []}), samples if found is None else None)
    scoring_seconds = time.monotonic() - began
    torch.manual_seed(config.seed)
    attach(writer, config)
    sizes = trainable(writer.model)
    optimizer = torch.optim.AdamW(
        trained_parameters(writer.model).values(),
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
    )
    job = Job(
        writer=writer,
        batches=parts.batches,
        plan=parts.plan,
        config=config,
        state=state,
        optimizer=optimizer,
        micro=micro,
        group=group,
        validate=lambda: _validate(parts, scored, group),
        save=lambda folder: parts.save(folder, state),
        sample=samples,
    )
    if config.precision == INT8:
        check_int8(writer)
    with fast_path(writer, config.precision == INT8):
        most = micro.rows
        if found is not None:
            micro.rows = min(micro.rows, state.fingerprint["probed"]["micro_batch"])
        else:
            most = fitting_rows(writer, parts.batches.max_length, micro.rows, group.local_size)
            micro.rows = rows_at_once(writer, parts.batches.max_length, most)
        if found is None:
            assert before is not None
            state.metrics = {**new_metrics(config, before, sizes), **first.metrics}
            state.fingerprint = {**parts.fingerprint(), "shown": parts.shown()}
            told = Announcement(
                config, writer, parts.corpus, parts.mixture, parts.rows, parts.held_out,
                parts.plan, before, sizes,
            )  # fmt: skip
            # Several processes must do the same, so none of them tries.
            fixed = "several processes do the same" if group.size > 1 else ""
            chosen = choose(writer, micro, most, lambda: probe(job), parts.plan.total_steps, fixed)
            announce(told, scoring_seconds, chosen.step_seconds or probe(job))
            console.note(f"Compiled: {'yes' if chosen.compiled else 'no'} ({chosen.reason}).")
            console.note(f"Rows at once: {micro.rows} ({chosen.rows_reason}).")
            if group.is_main:
                clear(output)
                write_json(output / MANIFEST, {**parts.manifest, "run": parts.begun()})
                write_text(output / VALIDATION, parts.held_out_lines())
        else:
            if before is not None:
                note_base(state.metrics, before)
            restore(found[0], writer.model, optimizer, group)
            parts.batches.restore(state.stream)
            before_it = bool(state.fingerprint["probed"]["compiled"])
            chosen = choose_compiled(writer, lambda: probe(job), parts.plan.total_steps, before_it)
            console.note(f"going on from step {state.step} of {parts.plan.total_steps}")
        state.fingerprint["probed"] = choices(parts, group.size, micro.rows, chosen)
        with (
            journal(config, state.step, device.device)
            if group.is_main
            else contextlib.nullcontext(Journal()) as log
        ):
            job.journal = log
            outcome = fit(job)
    return _finish(parts, job, outcome)


def _validate(parts: Parts, scored: MicroBatch, group: ProcessGroup) -> Validation:
    return scored.fitted(lambda rows: parts.validate(rows, group), lambda: None)


def _finish(parts: Parts, job: Job, outcome: str) -> TrainingResult:
    """Save the last model and the metrics, and say what came of the run."""
    state, output = job.state, job.output
    metrics = state.metrics
    metrics["seconds"] = state.seconds
    metrics["useful_tokens_per_second"] = state.useful_tokens / max(state.step_seconds, 1e-9)
    metrics["peak_memory_bytes"] = devices.peak_memory_bytes(job.writer.device.device)
    if job.group.is_main:
        job.save(output / FINAL)
        write_metrics(output, state)
    return TrainingResult(
        outcome=outcome,
        output_dir=str(output),
        steps=state.step,
        total_steps=parts.plan.total_steps,
        best_step=state.best_step,
        base_val_loss=metrics["base_val_loss"],
        best_val_loss=state.best_loss,
        seconds=state.seconds,
        useful_tokens_per_second=metrics["useful_tokens_per_second"],
        peak_memory_bytes=metrics["peak_memory_bytes"],
        domains=_at_best(metrics),
    )


def _at_best(metrics: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Each domain's validation loss, of the base model and of the best one."""
    best, at = metrics["best_step"], metrics["evaluation_steps"]
    place = at.index(best) if best in at else None
    return {
        name: {
            "base_val_loss": losses["base_val_loss"],
            "best_val_loss": None if place is None else losses["val_loss"][place],
        }
        for name, losses in metrics["domains"].items()
    }
