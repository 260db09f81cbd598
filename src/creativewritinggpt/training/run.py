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
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import numpy as np
import torch

from .. import console, devices
from ..config.run import Config
from ..data.corpus import load_corpus
from ..data.rows.stream import open_corpus
from ..data.sources import Keep
from ..distributed import ProcessGroup, ProcessLost, init_process_group
from ..errors import InputError, RunError
from ..files import from_home, write_json, write_text
from ..models.adapter import attach, trainable
from ..models.loaded_model import LoadedModel
from ..models.loading import load_base, use_tokenizer
from .checkpoint import (
    TrainState,
    restore,
    resumed_settings,
    state_before_first_step,
    trained_parameters,
)
from .fast.block import fast_path, has_fast_body, knows_family, rows_per_pass, warn_if_int8_is_slow
from .fast.layers import check_compile
from .loss import MicroBatch, accumulate_gradient, fitting_rows
from .metrics import (
    Display,
    evaluation_line,
    new_metrics,
    note_base,
    note_evaluation,
    note_samples,
    overfitting,
    patience_ends,
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
from .run_files import BEST, CHECKPOINTS, FINAL, MANIFEST, VALIDATION
from .setup import TrainingSetup, announce, prepare

INT8 = "int8"
_LOST_ADVICE = "its own message says why; go on with --resume, with as many processes as you like"

Sample = Callable[[LoadedModel], list[dict[str, str]]]
Found = tuple[Path | None, TrainState]
"""A checkpoint, whose folder only the main process knows, and its state."""


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
            config, files = resumed_settings(
                state, config, files, said=said, force=force, processes=group.size
            )
        sample = sampler(config) if group.is_main else None
        device = pick_device(config, group)
        check_path(config, device.torch_device.type == "cpu", resumed=found is not None)
        with group.main_process_first():
            console.phase("reading the texts")
            with console.progress("reading") as tell:
                read = open_corpus if config.streaming else load_corpus
                corpus = read(config, files, tell, keep)
            console.phase(f"loading the model {config.model_name}")
            model = load_base(
                config.model_name, device, cache_dir=config.cache_dir,
                starter_file=config.starter_file,
            )  # fmt: skip
            if config.init_adapter:
                use_tokenizer(model, from_home(config.init_adapter))
            check_path(config, knows_family(model), resumed=found is not None)
            console.phase("packing the texts into rows")
            setup = prepare(config, files, corpus, model, group)
        group.assert_same(lambda: str(setup.manifest["manifest_hash"]), "documents")
        return _run(setup, found, force, sample)


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
    setup: TrainingSetup, found: Found | None, force: bool, sample: Sample | None
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
            announce(setup, base, sizes, micro.rows, (scoring_seconds, trainer.time_step()))
            if group.is_main:
                clear(setup.output)
                write_json(setup.output / MANIFEST, setup.full_manifest(base))
        else:
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
    return _finish(trainer, outcome)


def _finish(trainer: Trainer, outcome: str) -> TrainingResult:
    """Save the last model and the metrics, and return the result."""
    setup, state = trainer.setup, trainer.state
    metrics = state.metrics
    metrics["seconds"] = state.seconds
    metrics["useful_tokens_per_second"] = state.useful_tokens / max(state.step_seconds, 1e-9)
    metrics["peak_memory_bytes"] = devices.peak_memory_bytes(setup.model.device.device)
    if setup.group.is_main:
        setup.save(setup.output / FINAL, state)
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


_DRAW_EVERY = 30.0
"""Seconds between two drawings of the training curves during a run."""

_SAME_REQUEST = 1.0
"""Seconds in which further signals count as one: launchers pass on what the terminal sends too."""


class Interrupt:
    """Request to stop by Ctrl-C or SIGTERM: after the step, or at once if repeated.

    Attributes:
        asked: Whether a signal has come.
    """

    def __init__(self) -> None:
        self.asked = False
        self._at = 0.0

    @contextlib.contextmanager
    def listening(self) -> Iterator[Interrupt]:
        """Handle the signals within the context; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return

        def ask(number: int, frame: FrameType | None) -> None:
            now = time.monotonic()
            if self.asked and now - self._at > _SAME_REQUEST:
                raise KeyboardInterrupt
            if not self.asked:
                self.asked, self._at = True, now

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Trainer:
    """Training of a prepared run.

    Args:
        setup: Model, data and schedule; the model has its adapter attached.
        state: Progress of the run; changed by the training.
        sample: Continues fixed prompts (``prompt`` and ``text`` of each), or None.

    Attributes:
        optimizer: AdamW over the trained parameters.
        micro: Rows per micro-batch.
        log: Log of steps and validations.
    """

    def __init__(
        self,
        setup: TrainingSetup,
        state: TrainState,
        sample: Callable[[], list[dict[str, str]]] | None = None,
    ) -> None:
        self.setup, self.state, self.sample = setup, state, sample
        self.model, self.config, self.plan = setup.model, setup.config, setup.plan
        self.group, self.batches = setup.group, setup.batches
        self.parameters = list(trained_parameters(setup.model.model).values())
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=setup.config.learning_rate,
            weight_decay=setup.config.weight_decay,
        )
        self.micro = MicroBatch(setup.config.batch_size, setup.batches.max_length)
        self.log = MetricsLog()
        self.interrupt = Interrupt()

    def fit(self) -> str:
        """Train until the schedule ends, patience runs out or a signal asks to stop.

        Returns:
            ``finished``, ``early`` or ``interrupted``.

        Raises:
            RunError: The loss is not finite; the last good state is saved.
        """
        device = self.model.device.device
        with (
            self.interrupt.listening(),
            Display(self.plan.total_steps, self.state.step, device) as display,
        ):
            return self._run_loop(display)

    def _run_loop(self, display: Display) -> str:
        plan, state = self.plan, self.state
        began, before = time.monotonic(), state.seconds
        drawn = began
        self._show_validation(display)
        while state.step < plan.total_steps:
            step_began = time.monotonic()
            loss, tokens, asked = self._step()
            state.seconds = before + time.monotonic() - began
            display.step(state.step, loss, tokens, time.monotonic() - step_began)

            stop_early = False
            if plan.evaluates_after(state.step):
                stop_early = self._evaluate(display)
                state.seconds = before + time.monotonic() - began
                # Drawing takes longer than a step of a short run.
                draw = time.monotonic() - drawn >= _DRAW_EVERY
                drawn = time.monotonic() if draw else drawn
                if self.group.is_main:
                    write_metrics(self.setup.output, state, draw)
            if plan.saves_after(state.step) or stop_early or asked:
                self.save_checkpoint()
            if stop_early and state.step < plan.total_steps:
                return "early"
            if asked and state.step < plan.total_steps:
                return "interrupted"
        return "finished"

    def _show_validation(self, display: Display) -> None:
        """Pass the last and the best validation loss to the display."""
        state, losses = self.state, self.state.metrics["val_loss"]
        display.validation = losses[-1] if losses else None
        display.best = None if state.best_loss is None else (state.best_loss, state.best_step)

    def _evaluate(self, display: Display) -> bool:
        """Validate and save the best model; whether patience has run out."""
        state, metrics = self.state, self.state.metrics
        result = self.setup.validate()
        if not math.isfinite(result.loss):
            what = f"the validation loss is {result.loss} after step {state.step}"
            self._give_up(what, good=False)
        note_evaluation(state, result)
        note_samples(state, self.sample)
        if state.best_loss is None or result.loss < state.best_loss:
            state.best_loss, state.best_step = result.loss, state.step
            metrics["best_step"] = state.step
            if self.group.is_main:
                self.setup.save(self.setup.output / BEST, state)
        ended = patience_ends(state, result.loss, self.plan.warmup_steps, self.config)
        self._show_validation(display)
        display.say(evaluation_line(state, result))
        for sample in metrics["samples"][-1:] if self.sample is not None else ():
            display.say(f"  {sample['prompt']} …{' '.join(sample['text'].split())}")
        if (warning := overfitting(metrics)) is not None:
            display.say(warning)
        self.log.write(
            {
                "step": state.step,
                "val_loss": result.loss,
                "val_perplexity": result.perplexity,
                "val_eos_loss": result.eos_loss,
                "train_loss": metrics["train_loss"][-1],
                "best_step": state.best_step,
                "domains": result.domains,
            }
        )
        return ended

    def _step(self) -> tuple[float, int, bool]:
        """One optimizer step; its loss, its target tokens, and whether to stop after it."""
        state, group, optimizer = self.state, self.group, self.optimizer
        began = time.monotonic()
        rate = self.plan.learning_rate(state.step)
        for settings in optimizer.param_groups:
            settings["lr"] = rate
        rows, indices, tokens = self.batches.step(state.step)
        self.model.model.train()

        def gradient(batch_size: int) -> float:
            # Each of several processes has noise of its own.
            seeds = [self.config.seed, state.step, *([group.rank] if group.rank else [])]
            torch.manual_seed(int(np.random.SeedSequence(seeds).generate_state(1)[0]))
            return accumulate_gradient(self.model, rows, indices, batch_size, tokens)[0]

        loss = self.micro.run(gradient, self._clear_gradient)
        try:
            # Several processes stop after the step in which all have heard of the request.
            group.all_reduce_gradients(self.parameters)
            loss, asked = group.all_reduce(np.array([loss, float(self.interrupt.asked)])).tolist()
        except ProcessLost as lost:
            # Nothing of this step has been applied. A stream's position is known only by all.
            if group.is_main and not self.config.streaming:
                self.save_checkpoint()
                lost.message += f"; the state after step {state.step} is saved"
            raise
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm).item()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient is {norm}"
            self._give_up(f"{what} at step {state.step + 1}, at a learning rate of {rate:.2g}")
        optimizer.step()
        self._clear_gradient()
        state.step += 1
        self.batches.applied()
        state.useful_tokens += tokens
        state.step_seconds += time.monotonic() - began
        state.metrics["batch_losses"].append(loss)
        state.metrics["learning_rate"].append(rate)
        state.since_evaluation.append((loss, tokens))
        self.log.write(
            {
                "step": state.step,
                "loss": loss,
                "gradient_norm": norm,
                "learning_rate": rate,
                "tokens": tokens,
                "step_seconds": time.monotonic() - began,
            }
        )
        return loss, tokens, self.interrupt.asked if group.size == 1 else asked > 0

    def _clear_gradient(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def time_step(self) -> float:
        """Estimated seconds of an optimizer step, from one micro-batch that changes nothing."""
        self.model.model.train()
        wanted = min(self.plan.rows, self.plan.rows_per_step)

        def timed(batch_size: int) -> float:
            began, at_once = time.monotonic(), batch_size * self.group.size
            accumulate_gradient(self.model, *self.batches.first(at_once), batch_size, 1)
            return (time.monotonic() - began) * math.ceil(wanted / at_once)

        seconds = self.micro.run(timed, self._clear_gradient)
        self._clear_gradient()
        return seconds

    def save_checkpoint(self) -> None:
        """Save a checkpoint; all processes must call this."""
        state = self.state
        state.stream = self.batches.state()
        state.choices["micro_batch"] = self.micro.rows
        if self.group.is_main:
            folder, keep = self.setup.output / CHECKPOINTS, self.config.save_total_limit
            state.save(folder, self.model.model, self.optimizer, keep)

    def _give_up(self, what: str, good: bool = True) -> NoReturn:
        """End a run whose numbers are no longer finite.

        Args:
            what: What is not finite.
            good: Whether the weights are those from before; they are saved if they are finite.

        Raises:
            RunError: Always.
        """
        if good and all(bool(value.isfinite().all()) for value in self.parameters):
            self.save_checkpoint()
            kept = f"the state after step {self.state.step} is saved"
        else:
            kept = "earlier checkpoints stay"
        raise RunError(
            f"training stopped: {what}; {kept}",
            "go on with --resume --force and a lower --learning-rate, or with --precision fp32",
        )
