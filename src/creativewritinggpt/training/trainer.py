"""The training loop: steps, validation, early stopping, saving.

Dropout noise is seeded for every step from (seed, step), and rows come in an order computed from
(seed, epoch); a run that was interrupted therefore goes on exactly as it would have.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ..config.run import Config
from ..data.rows.batches import Batches
from ..distributed import ProcessGroup, ProcessLost
from ..errors import RunError
from ..models.loaded_model import LoadedModel
from .checkpoint import State, save_checkpoint, trained_parameters
from .display import Display
from .engine import accumulate_gradient
from .interrupt import Interrupt
from .memory import MicroBatch
from .metrics import (
    evaluation_line,
    note_evaluation,
    note_samples,
    overfitting,
    patience_ends,
    write_metrics,
)
from .metrics_log import Journal
from .run_dir import BEST, CHECKPOINTS
from .schedule import Plan
from .validation import Validation

_DRAW_EVERY = 30.0
"""Seconds between two pictures of the curves while a run goes on."""


@dataclasses.dataclass
class Job:
    """What the loop works with.

    Attributes:
        writer: The model with its adapter attached.
        batches: Where the rows of each step come from.
        plan: The course of the run.
        config: The settings.
        state: Where the run stands; changed as it goes.
        optimizer: AdamW over the trained parameters.
        micro: How many rows go through the model at once.
        group: The processes that train together.
        validate: Scores the held-out rows.
        save: Writes the model into a folder.
        sample: Continues fixed prompts, if anything does: ``prompt`` and ``text`` of each.
        journal: Where steps and validations are noted as they happen.
    """

    writer: LoadedModel
    batches: Batches
    plan: Plan
    config: Config
    state: State
    optimizer: torch.optim.Optimizer
    micro: MicroBatch
    group: ProcessGroup
    validate: Callable[[], Validation]
    save: Callable[[Path], None]
    sample: Callable[[], list[dict[str, str]]] | None = None
    journal: Journal = dataclasses.field(default_factory=Journal)

    @property
    def output(self) -> Path:
        """The run's folder."""
        return Path(self.config.output_dir)


def fit(job: Job) -> str:
    """Train until the plan ends, nothing improves any more, or somebody asks to stop.

    Returns:
        ``finished``, ``early`` or ``interrupted``.

    Raises:
        RunError: The loss is not finite; the last good state is saved.
    """
    plan, state, device = job.plan, job.state, job.writer.device.device
    began, before = time.monotonic(), state.seconds
    drawn = began
    with (
        Interrupt().listening() as interrupt,
        Display(plan.total_steps, state.step, device) as display,
    ):
        _show_validation(display, state)
        while state.step < plan.total_steps:
            step_began = time.monotonic()
            loss, tokens, asked = _step(job, interrupt)
            state.seconds = before + time.monotonic() - began
            display.step(state.step, loss, tokens, time.monotonic() - step_began)

            stop_early = False
            if plan.evaluates_after(state.step):
                stop_early = _evaluate(job, display)
                state.seconds = before + time.monotonic() - began
                # The picture takes longer than a short run's step: not with every validation.
                draw = time.monotonic() - drawn >= _DRAW_EVERY
                drawn = time.monotonic() if draw else drawn
                if job.group.is_main:
                    write_metrics(job.output, state, draw)
            if plan.saves_after(state.step) or stop_early or asked:
                keep(job)
            if stop_early and state.step < plan.total_steps:
                return "early"
            if asked and state.step < plan.total_steps:
                return "interrupted"
    return "finished"


def _show_validation(display: Display, state: State) -> None:
    """Tell the display what validation has found so far."""
    losses = state.metrics["val_loss"]
    display.validation = losses[-1] if losses else None
    display.best = None if state.best_loss is None else (state.best_loss, state.best_step)


def _evaluate(job: Job, display: Display) -> bool:
    """Validate, keep the model if it is the best so far, and say whether patience has ended."""
    state, metrics = job.state, job.state.metrics
    result = job.validate()
    if not math.isfinite(result.loss):
        what = f"the validation loss is {result.loss} after step {state.step}"
        _give_up(job, what, good=False)
    note_evaluation(state, result)
    note_samples(state, job.sample)
    if state.best_loss is None or result.loss < state.best_loss:
        state.best_loss, state.best_step = result.loss, state.step
        metrics["best_step"] = state.step
        if job.group.is_main:
            job.save(job.output / BEST)
    ended = patience_ends(state, result.loss, job.plan.warmup_steps, job.config)
    _show_validation(display, state)
    display.say(evaluation_line(state, result))
    for sample in metrics["samples"][-1:] if job.sample is not None else ():
        display.say(f"  {sample['prompt']} …{' '.join(sample['text'].split())}")
    if (warning := overfitting(metrics)) is not None:
        display.say(warning)
    job.journal.write(
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


def _step(job: Job, interrupt: Interrupt) -> tuple[float, int, bool]:
    """One optimizer step; its loss, its target tokens, and whether to stop after it."""
    state, group, config, optimizer = job.state, job.group, job.config, job.optimizer
    began = time.monotonic()
    parameters = list(trained_parameters(job.writer.model).values())
    rate = job.plan.learning_rate(state.step)
    for settings in optimizer.param_groups:
        settings["lr"] = rate
    rows_of_step, indices, tokens = job.batches.step(state.step)
    job.writer.model.train()

    def gradient(rows: int) -> float:
        # A process of several has noise of its own; alone it is that of (seed, step).
        place = [config.seed, state.step, *([group.rank] if group.rank else [])]
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))
        return accumulate_gradient(job.writer, rows_of_step, indices, rows, tokens)[0]

    loss = job.micro.fitted(gradient, lambda: optimizer.zero_grad(set_to_none=True))
    try:
        # Several processes stop after the same step: after the one that all have heard of it in.
        group.all_reduce_gradients(parameters)
        loss, asked = group.all_reduce(np.array([loss, float(interrupt.asked)])).tolist()
    except ProcessLost as lost:
        # Nothing of this step has been applied: what one replica holds is the whole state.
        # Only each process knows its place in a stream.
        if group.is_main and not job.config.streaming:
            keep(job)
            lost.message += f"; the state after step {state.step} is saved"
        raise
    norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm).item()
    if not (math.isfinite(loss) and math.isfinite(norm)):
        what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient is {norm}"
        _give_up(job, f"{what} at step {state.step + 1}, at a learning rate of {rate:.2g}")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    state.step += 1
    job.batches.applied()
    state.useful_tokens += tokens
    state.step_seconds += time.monotonic() - began
    state.metrics["batch_losses"].append(loss)
    state.metrics["learning_rate"].append(rate)
    state.since_evaluation.append((loss, tokens))
    job.journal.write(
        {
            "step": state.step,
            "loss": loss,
            "gradient_norm": norm,
            "learning_rate": rate,
            "tokens": tokens,
            "step_seconds": time.monotonic() - began,
        }
    )
    return loss, tokens, interrupt.asked if group.size == 1 else asked > 0


def probe(job: Job) -> float:
    """Seconds of one optimizer step, from one micro-step on real rows that changes nothing."""
    group, wanted = job.group, min(job.plan.rows, job.plan.rows_per_step)
    job.writer.model.train()

    def timed(rows: int) -> float:
        began, at_once = time.monotonic(), rows * group.size
        accumulate_gradient(job.writer, *job.batches.first(at_once), rows, 1)
        return (time.monotonic() - began) * math.ceil(wanted / at_once)

    def clear() -> None:
        job.optimizer.zero_grad(set_to_none=True)

    seconds = job.micro.fitted(timed, clear)
    clear()
    return seconds


def keep(job: Job) -> None:
    """Save a checkpoint; all processes must call this."""
    job.state.stream = job.batches.state()
    if not job.group.is_main:
        return
    job.state.fingerprint["probed"]["micro_batch"] = job.micro.rows
    save_checkpoint(
        job.output / CHECKPOINTS,
        job.state,
        job.writer.model,
        job.optimizer,
        job.config.save_total_limit,
    )


def _give_up(job: Job, what: str, good: bool = True) -> None:
    """End a run that computes no numbers any more.

    Args:
        job: The run.
        what: What is no number.
        good: Whether the weights are those of before it happened; then they are saved.

    Raises:
        RunError: Always.
    """
    if good:
        parameters = trained_parameters(job.writer.model)
        finite = [bool(value.isfinite().all()) for value in parameters.values()]
        good = all(finite)
    if good:
        keep(job)
        kept = f"the state after step {job.state.step} is saved"
    else:
        kept = "earlier checkpoints stay"
    raise RunError(
        f"training stopped: {what}; {kept}",
        "go on with --resume --force and a lower --learning-rate, or with --precision fp32",
    )
