"""A fine-tuning run: from documents to a folder with a model, its metrics and its record.

The loss of an optimizer step is the sum over its target tokens divided by their number, so 8 rows
at once, 2 × 4 and 8 × 1 give the same gradient. Dropout noise is seeded from (seed, step) and the
order of rows from (seed, epoch), so a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from .. import console, devices
from ..config.run import Config
from ..data.corpus import load_corpus
from ..data.rows.stream import open_corpus
from ..data.sources import Keep
from ..distributed import ProcessGroup, init_process_group
from ..errors import InputError
from ..files import from_home, write_json, write_text
from ..models.adapter import attach, trainable
from ..models.loaded_model import LoadedModel
from ..models.loading import load_base, use_tokenizer
from .checkpoint import (
    TrainState,
    restore,
    resumed_settings,
    state_before_first_step,
)
from .fast.block import fast_path, has_fast_body, knows_family, rows_per_pass, warn_if_int8_is_slow
from .fast.layers import check_compile
from .loss import fitting_rows
from .metrics import (
    Validation,
    new_metrics,
    note_base,
    note_samples,
    write_metrics,
)
from .run_dir import (
    MetricsLog,
    check_no_model,
    check_trackers,
    claimed,
    clear,
    open_metrics_log,
)
from .run_files import CHECKPOINTS, FINAL, MANIFEST, VALIDATION
from .setup import prepare
from .trainer import Setup, Trainer

INT8 = "int8"
_LOST_ADVICE = "its own message says why; go on with --resume, with as many processes as you like"

Sample = Callable[[LoadedModel], list[dict[str, str]]]
Found = tuple[Path | None, TrainState]
"""A checkpoint, whose folder only the main process knows, and its state."""


class RunSetup(Setup, Protocol):
    """A setup with the records that a run's folder is to hold."""

    @property
    def manifest(self) -> dict[str, Any]:
        """Hashes of what is trained on."""

    def begin(self, state: TrainState) -> None:
        """Measure what the run is compared with: the model is trainable, nothing is trained yet."""

    def announce(
        self,
        base: Validation,
        sizes: tuple[int, int],
        micro_batch: int,
        seconds: tuple[float, float],
    ) -> None:
        """Summarise the run before its first step."""

    def fingerprint(self) -> dict[str, Any]:
        """What a resume is compared with."""

    def full_manifest(self, base: Validation) -> dict[str, Any]:
        """Content of ``manifest.json``."""

    def held_out_lines(self) -> str:
        """Content of ``validation.jsonl``."""

    def save(self, folder: Path, state: TrainState) -> None:
        """Write the model as it is now, with its record and card."""

    def finish(self, state: TrainState) -> None:
        """Add what the run is to leave beside its models."""


Prepare = Callable[[LoadedModel, ProcessGroup], RunSetup]
"""Makes the setup of what was read, for a loaded base model."""

Read = Callable[[Config], Prepare]
"""Reads what is trained on."""


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """Result of a run; losses in nats per token."""

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
        """All fields and the perplexities, as JSON."""
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
    choices: Read | None = None,
) -> TrainingResult:
    """Fine-tune a model.

    Args:
        config: The settings.
        files: Texts to train on; without any, ``config.sources``.
        resume: Continue the run in ``config.output_dir``.
        overwrite: Replace the run in ``config.output_dir``.
        force: Resume although settings or data have changed.
        said: Names of the settings that were given, for ``resume``: the others are the run's own.
            Without it all count where any differs from its default.
        keep: By source, a filter of its documents; the others are counted.
        sampler: Makes of the settings a function that continues fixed prompts with the model
            (``prompt`` and ``text`` of each), called at each validation.
        choices: Reads what is trained on in place of texts: the writer's choices.

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
        found = _newest_checkpoint(output, group) if resume else None
        state = found[1] if found else None
        if resume and state is None:
            if group.is_main:
                check_no_model(output)
            console.note(f"no checkpoint in {output}: starting from the first step")
            state = state_before_first_step(output / MANIFEST, config, group)
        if state is not None:
            _check_kind(output, state, choices is not None)
            config, files = resumed_settings(
                state, config, files, said=said, force=force, processes=group.size
            )
        sample = sampler(config) if group.is_main else None
        device = pick_device(config, group)
        check_path(config, device.torch_device.type == "cpu", resumed=found is not None)
        with group.main_process_first():
            made = read_texts(config, files, keep) if choices is None else choices(config)
            console.phase(f"loading the model {config.model_name}")
            model = load_base(
                config.model_name, device, cache_dir=config.cache_dir,
                starter_file=config.starter_file,
            )  # fmt: skip
            if config.init_adapter:
                use_tokenizer(model, from_home(config.init_adapter))
            check_path(config, knows_family(model), resumed=found is not None)
            setup = made(model, group)
        group.assert_same(lambda: str(setup.manifest["manifest_hash"]), "documents")
        return _run(setup, found, force, sample)


def read_texts(
    config: Config, files: Sequence[str], keep: Mapping[str, Keep] | None = None
) -> Prepare:
    """Read the texts of a run, or open them for streaming."""
    console.phase("reading the texts")
    with console.progress("reading") as tell:
        read = open_corpus if config.streaming else load_corpus
        corpus = read(config, files, tell, keep)

    def pack(model: LoadedModel, group: ProcessGroup) -> RunSetup:
        console.phase("packing the texts into rows")
        return prepare(config, files, corpus, model, group)

    return pack


def _check_kind(output: Path, state: TrainState, on_choices: bool) -> None:
    """Refuse to go on with choices where the run is on texts, and the other way round."""
    if ("choices" in state.fingerprint) != on_choices:
        kind = "texts" if on_choices else "choices"
        flag = "leave --choices out" if on_choices else "name them again: --choices FILE…"
        raise InputError(f"the run in {output} is on {kind}", f"to go on with it, {flag}")


def _newest_checkpoint(output: Path, group: ProcessGroup) -> Found | None:
    """The newest checkpoint, read by the main process."""
    found = TrainState.load(output / CHECKPOINTS) if group.is_main else None
    state = group.broadcast_text("" if found is None else json.dumps(dataclasses.asdict(found[1])))
    if not state:
        return None
    return (None, TrainState(**json.loads(state))) if found is None else found


def pick_device(config: Config, group: ProcessGroup) -> devices.DeviceChoice:
    """This process's device, with the precision of the main process."""
    name = group.device(config.device)
    # What does not run in int8 takes the best other precision.
    wanted = "auto" if config.precision == INT8 else config.precision
    chosen = devices.choose(name, wanted, config.num_workers)
    if (precision := group.broadcast_text(chosen.precision)) != chosen.precision:
        chosen = devices.choose(name, precision, config.num_workers)
    chosen.apply()
    if chosen.torch_device.type == "cpu":
        devices.keep_freed_memory()
    return chosen


def check_path(config: Config, has_fast_path: bool, resumed: bool) -> None:
    """Refuse int8 and compilation without a fast path; a resume may do without compilation.

    Raises:
        InputError: They are asked for and can't be had.
    """
    has_fast_path = has_fast_path and config.method == "lora" and not config.use_dora
    for what, flag, asked in (
        ("precision int8", "--precision", config.precision == INT8),
        ("compile", "--compile", config.compile and not resumed),
    ):
        if asked and not has_fast_path:
            raise InputError(
                f"{what} trains LoRA adapters of GPT-2, Llama and Qwen models on a CPU only",
                f"leave {flag} out",
            )


def _run(
    setup: RunSetup, found: Found | None, force: bool, sample: Sample | None
) -> TrainingResult:
    """Train from the start or from a checkpoint, and save the results."""
    config, model, group = setup.config, setup.model, setup.group
    folder, state = (None, TrainState()) if found is None else found
    fingerprint = setup.fingerprint()
    changed = found is not None and state.check_same_run(fingerprint, config, force)
    began = time.monotonic()
    if changed or found is None:
        console.phase("judging the base model by the held-out text")
    base = setup.validate() if changed or found is None else None
    samples = None if sample is None else lambda: sample(model)
    first = TrainState(metrics={"samples": []})
    if found is None:
        if samples is not None:
            console.phase("writing samples before the training")
        note_samples(first, samples)
    scoring_seconds = time.monotonic() - began
    torch.manual_seed(config.seed)
    attach(model, config)
    sizes = trainable(model.model)
    check_path(config, has_fast_body(model), resumed=found is not None)
    compiled = config.compile and has_fast_body(model)
    if compiled:
        check_compile()
    if config.precision == INT8:
        warn_if_int8_is_slow()
    trainer = Trainer(setup, state, samples)
    with fast_path(model, int8=config.precision == INT8, compiled=compiled):
        micro, length = trainer.micro, setup.batches.max_length
        if found is None:
            assert base is not None
            trial = "a step is tried for its memory and time"
            console.phase(f"compiling; then {trial}" if compiled else trial)
            micro.rows = fitting_rows(model, length, micro.rows, group.local_size)
            micro.rows = rows_per_pass(model, length, micro.rows)
            state.metrics = {**new_metrics(config, base, sizes), **first.metrics}
            state.fingerprint = fingerprint
            if group.is_main:
                clear(setup.output)
                write_json(setup.output / MANIFEST, setup.full_manifest(base))
            setup.begin(state)
            setup.announce(base, sizes, micro.rows, (scoring_seconds, trainer.time_step()))
        else:
            setup.begin(state)
            micro.rows = min(micro.rows, state.choices["micro_batch"])
            if base is not None:
                note_base(state.metrics, base)
            restore(folder, model.model, trainer.optimizer, group)
            setup.batches.restore(state.stream)
            console.note(f"going on from step {state.step} of {setup.plan.total_steps}")
        if base is not None and group.is_main:
            write_text(setup.output / VALIDATION, setup.held_out_lines())
        device = model.device
        state.fingerprint["probed"] = {
            "precision": INT8 if config.precision == INT8 else device.precision,
            "compiled": compiled,
            "threads": device.threads,
            "processes": group.size,
            "micro_batch": micro.rows,
            "reasons": dict(device.reasons),
        }
        with (
            open_metrics_log(config, state.step, device.device)
            if group.is_main
            else contextlib.nullcontext(MetricsLog()) as trainer.log
        ):
            console.phase("the first step")
            outcome = trainer.fit()
    return _finish(setup, state, outcome)


def _finish(setup: RunSetup, state: TrainState, outcome: str) -> TrainingResult:
    """Save the last model and the metrics, and return the result."""
    metrics = state.metrics
    metrics["seconds"] = state.seconds
    metrics["useful_tokens_per_second"] = state.useful_tokens / max(state.step_seconds, 1e-9)
    metrics["peak_memory_bytes"] = devices.peak_memory_bytes(setup.model.device.device)
    if setup.group.is_main:
        setup.save(setup.output / FINAL, state)
        setup.finish(state)
        write_metrics(setup.output, state)
    return TrainingResult(
        outcome=outcome,
        output_dir=str(setup.output),
        steps=state.step,
        total_steps=setup.plan.total_steps,
        best_step=state.best_step,
        base_val_loss=metrics["base_val_loss"],
        best_val_loss=state.best_loss,
        seconds=state.seconds,
        useful_tokens_per_second=metrics["useful_tokens_per_second"],
        peak_memory_bytes=metrics["peak_memory_bytes"],
        domains=_at_best(metrics),
    )


def _at_best(metrics: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Validation loss of the base model and of the best model, by domain."""
    best, at = metrics["best_step"], metrics["evaluation_steps"]
    place = at.index(best) if best in at else None
    return {
        name: {
            "base_val_loss": losses["base_val_loss"],
            "best_val_loss": None if place is None else losses["val_loss"][place],
        }
        for name, losses in metrics["domains"].items()
    }
