"""The training loop: steps, validation, early stopping, saving.

Dropout noise is seeded for every step from (seed, step), and rows come in an order computed from
(seed, epoch); a run that was interrupted therefore goes on exactly as it would have.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from ..config import Config
from ..data.packing import RowPlan
from ..errors import RunError
from ..files import write_json
from ..models.writer import Writer
from .checkpoint import State, save_checkpoint, trained_parameters
from .curves import draw_curves
from .display import Display
from .engine import accumulate_gradient
from .output import BEST, CHECKPOINTS, CURVES, METRICS
from .schedule import Plan
from .validation import Validation

_DRAW_EVERY = 30.0
"""Seconds between two pictures of the curves while a run goes on."""


class Interrupt:
    """Ctrl-C asks the loop to stop after the step; a second one stops at once."""

    def __init__(self) -> None:
        self.asked = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[Interrupt]:
        """Listen while the block runs (only the main thread can)."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return

        def ask(number: int, frame: FrameType | None) -> None:
            if self.asked:
                raise KeyboardInterrupt
            self.asked = True

        before = signal.signal(signal.SIGINT, ask)
        try:
            yield self
        finally:
            signal.signal(signal.SIGINT, before)


def fit(
    writer: Writer,
    rows: RowPlan,
    plan: Plan,
    config: Config,
    state: State,
    optimizer: torch.optim.Optimizer,
    validate: Callable[[], Validation],
    save: Callable[[Path, State], None],
) -> str:
    """Train until the plan ends, nothing improves any more, or somebody asks to stop.

    Args:
        writer: The model with its adapter attached.
        rows: The training rows.
        plan: The course of the run.
        config: The settings.
        state: Where the run stands; changed as it goes.
        optimizer: AdamW over the trained parameters.
        validate: Scores the held-out rows.
        save: Writes the model into a folder.

    Returns:
        ``finished``, ``early`` or ``interrupted``.

    Raises:
        RunError: The loss is not finite; what was saved before stays.
    """
    output = Path(config.output_dir)
    parameters = list(trained_parameters(writer.model).values())
    metrics = state.metrics
    began, before = time.monotonic(), state.seconds
    outcome = "finished"
    drawn = began
    with Interrupt().listening() as interrupt, Display(plan.total_steps, state.step) as display:
        display.validation = metrics["val_loss"][-1] if metrics["val_loss"] else None
        while state.step < plan.total_steps:
            rate = plan.learning_rate(state.step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            torch.manual_seed(
                int(np.random.SeedSequence([config.seed, state.step]).generate_state(1)[0])
            )
            writer.model.train()
            step_began = time.monotonic()
            loss, tokens = accumulate_gradient(
                writer, rows, plan.rows_of_step(state.step), config.batch_size
            )
            norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
            if not (math.isfinite(loss) and math.isfinite(norm.item())):
                raise RunError(
                    f"the loss is not a finite number any more at step {state.step + 1}",
                    "what was saved before stays; try a lower --learning-rate or --precision fp32",
                )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            state.step += 1
            state.useful_tokens += tokens
            state.step_seconds += time.monotonic() - step_began
            state.seconds = before + time.monotonic() - began
            metrics["batch_losses"].append(loss)
            metrics["learning_rate"].append(rate)
            state.since_evaluation.append((loss, tokens))
            display.step(state.step, loss, tokens)

            stop_early = False
            if plan.evaluates_after(state.step):
                result = validate()
                _note_evaluation(state, result)
                display.validation = result.loss
                if state.best_loss is None or result.loss < state.best_loss:
                    state.best_loss, state.best_step = result.loss, state.step
                    metrics["best_step"] = state.step
                    save(output / BEST, state)
                stop_early = _patience_ends(state, result.loss, plan, config)
                display.say(_evaluation_line(state, result))
                state.seconds = before + time.monotonic() - began
                # The picture takes longer than a short run's step: not with every validation.
                draw = time.monotonic() - drawn >= _DRAW_EVERY
                drawn = time.monotonic() if draw else drawn
                write_metrics(output, state, draw)
            if plan.saves_after(state.step) or stop_early or interrupt.asked:
                save_checkpoint(output / CHECKPOINTS, state, writer.model, optimizer)
            if stop_early and state.step < plan.total_steps:
                outcome = "early"
                break
            if interrupt.asked and state.step < plan.total_steps:
                outcome = "interrupted"
                break
    state.seconds = before + time.monotonic() - began
    return outcome


def _note_evaluation(state: State, result: Validation) -> None:
    metrics, since = state.metrics, state.since_evaluation
    tokens = sum(count for _, count in since)
    metrics["evaluation_steps"].append(state.step)
    metrics["train_loss"].append(sum(loss * count for loss, count in since) / max(tokens, 1))
    metrics["val_loss"].append(result.loss)
    metrics["val_perplexity"].append(result.perplexity)
    metrics["val_eos_loss"].append(result.eos_loss)
    for name, loss in result.domains.items():
        metrics["domains"][name]["val_loss"].append(loss)
    state.since_evaluation = []


def _patience_ends(state: State, loss: float, plan: Plan, config: Config) -> bool:
    """Count evaluations without an improvement, from the end of the warm-up on."""
    if state.reference_loss is None or loss < state.reference_loss - config.min_delta:
        state.reference_loss = loss
        state.evaluations_without_improvement = 0
    elif state.step > plan.warmup_steps:
        state.evaluations_without_improvement += 1
    return 0 < config.patience <= state.evaluations_without_improvement


def _evaluation_line(state: State, result: Validation) -> str:
    base = state.metrics["base_val_loss"]
    mark = " (best so far)" if state.best_step == state.step else ""
    return (
        f"step {state.step}: validation loss {result.loss:.4f}, perplexity "
        f"{result.perplexity:.2f}{mark}; base model {base:.4f}, {math.exp(base):.2f}"
    )


def write_metrics(output: Path, state: State, draw: bool = True) -> None:
    """Write ``metrics.json``, and the picture of it where it is wanted."""
    write_json(output / METRICS, state.metrics)
    if draw:
        draw_curves(state.metrics, output / CURVES)


def new_metrics(config: Config, base: Validation, sizes: tuple[int, int]) -> dict[str, Any]:
    """The content of ``metrics.json`` before the first step.

    Args:
        config: The settings.
        base: Losses of the base model.
        sizes: Trained and total parameters.
    """
    trainable, total = sizes
    return {
        "train_loss": [],
        "val_loss": [],
        "val_perplexity": [],
        "val_eos_loss": [],
        "evaluation_steps": [],
        "learning_rate": [],
        "batch_losses": [],
        "base_val_loss": base.loss,
        "base_val_perplexity": base.perplexity,
        "base_val_eos_loss": base.eos_loss,
        "domains": {
            name: {"base_val_loss": loss, "val_loss": []} for name, loss in base.domains.items()
        },
        "best_step": None,
        "trainable_parameters": trainable,
        "total_parameters": total,
        "trainable_percent": 100 * trainable / total,
        "useful_tokens_per_second": None,
        "peak_memory_bytes": None,
        "seconds": None,
        "resumed_from": [],
        "config": config.to_dict(),
    }
