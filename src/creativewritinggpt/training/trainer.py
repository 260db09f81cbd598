"""Training loop: optimizer steps, validation, early stopping, checkpoints.

The loss of a step is the sum over its target tokens divided by their number, so 8 rows at once,
2 × 4 and 8 × 1 give the same gradient. Dropout noise is seeded from (seed, step) and the order of
rows from (seed, epoch), so a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

import numpy as np
import torch

from ..data.rows.packing import Rows
from ..distributed import ProcessLost
from ..errors import RunError
from ..models.loaded_model import LoadedModel
from .checkpoint import TrainState, trained_parameters
from .display import Display
from .loss import summed_loss
from .memory import MicroBatch
from .metrics import (
    evaluation_line,
    note_evaluation,
    note_samples,
    overfitting,
    patience_ends,
    write_metrics,
)
from .run_dir import BEST, CHECKPOINTS, MetricsLog
from .setup import TrainingSetup

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


def accumulate_gradient(
    model: LoadedModel,
    rows: Rows,
    indices: np.ndarray,
    batch_size: int,
    tokens: int | None = None,
) -> tuple[float, int]:
    """Add the gradient of an optimizer step to the parameters.

    Args:
        model: The model.
        rows: Packed rows; every row has a target.
        indices: The step's rows, or this process's share of them, [rows].
        batch_size: Rows per micro-batch.
        tokens: Target tokens of the whole step; those of ``indices`` without it.

    Returns:
        The loss of the step in nats per token (or this share's part), and its target tokens.
    """
    if tokens is None:
        tokens = int(rows.target_counts()[indices].sum())
    total = 0.0
    for start in range(0, len(indices), batch_size):
        loss = summed_loss(model, rows.take(indices[start : start + batch_size]))
        (loss / tokens).backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return (total / tokens if tokens else 0.0), tokens


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
