"""The training loop: optimizer steps, validations, checkpoints, and how it ends.

What is trained on is the setup's: rows of a corpus (:mod:`.setup`), or the writer's choices. The
loop asks it for the gradient of a step and for a validation, and keeps what the validation finds
best.
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
from typing import Any, NoReturn, Protocol

import numpy as np
import torch

from .. import devices
from ..config.run import Config
from ..distributed import ProcessGroup, ProcessLost
from ..errors import RunError
from ..models.loaded_model import LoadedModel
from .checkpoint import TrainState, trained_parameters
from .loss import MicroBatch
from .metrics import (
    Display,
    Validation,
    note_evaluation,
    note_samples,
    patience_ends,
    write_metrics,
)
from .run_dir import MetricsLog
from .run_files import CHECKPOINTS
from .schedule import Plan

_RELEASE_EVERY = 16
"""Steps after which memory that was freed and kept goes back to the system."""


class Batches(Protocol):
    """What the loop takes the rows of its steps from."""

    @property
    def max_length(self) -> int:
        """Positions in a row."""

    def step(self, step: int) -> tuple[Any, np.ndarray, int]:
        """Rows of a step, this process's among them, and the target tokens of all processes."""

    def first(self, count: int) -> tuple[Any, np.ndarray]:
        """Rows to time a step with, which stay to be trained on."""

    def applied(self) -> None:
        """Note that the step asked for last has been applied."""

    def state(self) -> dict[str, Any] | None:
        """Position for a checkpoint."""

    def restore(self, state: dict[str, Any] | None) -> None:
        """Continue from a position."""


class Setup(Protocol):
    """What is trained, on what, and what is best."""

    @property
    def config(self) -> Config:
        """The settings."""

    @property
    def model(self) -> LoadedModel:
        """The model."""

    @property
    def plan(self) -> Plan:
        """The schedule."""

    @property
    def group(self) -> ProcessGroup:
        """The processes that train."""

    @property
    def batches(self) -> Batches:
        """The rows of each step."""

    @property
    def output(self) -> Path:
        """The run's folder."""

    def gradient(self, rows: Any, indices: np.ndarray, batch_size: int, tokens: int) -> float:
        """Add the gradient of a step to the parameters.

        Args:
            rows: Rows of the step, as the batches gave them.
            indices: This process's among them.
            batch_size: Rows per pass; it does not change the gradient.
            tokens: Target tokens of the whole step.

        Returns:
            The loss of the step.
        """

    def validate(self) -> Validation:
        """Measure the model as it is."""

    def keep_best(self, state: TrainState) -> None:
        """Keep the model as it is now, the best so far; called in the main process."""


DRAW_EVERY = 30.0
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
        quiet: Show and write nothing.

    Attributes:
        optimizer: AdamW over the trained parameters.
        micro: Rows per micro-batch.
        log: Log of steps and validations.
    """

    def __init__(
        self,
        setup: Setup,
        state: TrainState,
        sample: Callable[[], list[dict[str, str]]] | None = None,
        quiet: bool = False,
    ) -> None:
        self.setup, self.state, self.sample, self.quiet = setup, state, sample, quiet
        self._output = setup.output if setup.group.is_main and not quiet else None
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
            Display(self.plan.total_steps, self.state.step, device, quiet=self.quiet) as display,
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
                draw = time.monotonic() - drawn >= DRAW_EVERY
                drawn = time.monotonic() if draw else drawn
                if self._output is not None:
                    write_metrics(self._output, state, draw)
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
        steps = self.state.metrics["evaluation_steps"]
        display.validation = losses[-1] if losses else None
        known = state.best_step in steps
        display.best = (losses[steps.index(state.best_step)], state.best_step) if known else None

    def _evaluate(self, display: Display) -> bool:
        """Validate and save the best model; whether patience has run out."""
        state, metrics = self.state, self.state.metrics
        result = self.setup.validate()
        if not math.isfinite(result.loss):
            what = f"the validation loss is {result.loss} after step {state.step}"
            self._give_up(what, good=False)
        note_evaluation(state, result)
        note_samples(state, self.sample)
        if state.best_loss is None or result.criterion < state.best_loss:
            state.best_loss, state.best_step = result.criterion, state.step
            metrics["best_step"] = state.step
            if self.group.is_main:
                self.setup.keep_best(state)
        ended = patience_ends(state, result.criterion, self.plan.warmup_steps, self.config)
        self._show_validation(display)
        display.say(result.line(state))
        for sample in metrics["samples"][-1:] if self.sample is not None else ():
            display.say(f"  {sample['prompt']} …{' '.join(sample['text'].split())}")
        if (warning := result.warning(metrics)) is not None:
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
                **result.figures(),
            }
        )
        return ended or result.stops

    def _step(self) -> tuple[float, int, bool]:
        """One optimizer step; its loss, its target tokens, and whether to stop after it."""
        state, group, optimizer = self.state, self.group, self.optimizer
        began = time.monotonic()
        rate = self.plan.learning_rate(state.step)
        for settings in optimizer.param_groups:
            settings["lr"] = rate
        rows, indices, tokens = self.batches.step(state.step)

        def gradient(batch_size: int) -> float:
            # Each of several processes has noise of its own.
            seeds = [self.config.seed, state.step, *([group.rank] if group.rank else [])]
            torch.manual_seed(int(np.random.SeedSequence(seeds).generate_state(1)[0]))
            return self.setup.gradient(rows, indices, batch_size, tokens)

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
        if state.step % _RELEASE_EVERY == 0:
            devices.release_freed_memory()
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
        wanted = min(self.plan.rows, self.plan.rows_per_step)

        def timed(batch_size: int) -> float:
            began, at_once = time.monotonic(), batch_size * self.group.size
            self.setup.gradient(*self.batches.first(at_once), batch_size, 1)
            return (time.monotonic() - began) * math.ceil(wanted / at_once)

        seconds = self.micro.run(timed, self._clear_gradient)
        self._clear_gradient()
        return seconds

    def save_checkpoint(self) -> None:
        """Save a checkpoint; all processes must call this."""
        state = self.state
        state.stream = self.batches.state()
        state.choices["micro_batch"] = self.micro.rows
        if self._output is not None:
            folder, keep = self._output / CHECKPOINTS, self.config.save_total_limit
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
