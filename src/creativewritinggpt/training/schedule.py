"""Schedule of a run: the number of steps, the rows and the learning rate of each, validations.

All of it is a function of the settings, the seed and the number of rows, so every process and every
resume of a run has the same schedule.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

from ..config.run import Config


def learning_rate_factor(step: int, total: int, warmup: int, schedule: str) -> float:
    """Learning rate at an optimizer step, relative to the peak, as transformers' ``get_scheduler``.

    Step 0 has 0, step ``warmup`` has 1, and linear and cosine would reach 0 at step ``total``.

    Args:
        step: Optimizer steps taken so far, from 0.
        total: Optimizer steps of the run.
        warmup: Warm-up steps.
        schedule: ``linear``, ``cosine`` or ``constant``.
    """
    if step < warmup:
        return step / max(1, warmup)
    if schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    return 1.0 - progress


@functools.lru_cache(maxsize=1)
def _order(seed: int, epoch: int, rows: int) -> np.ndarray:
    """Order of an epoch's rows; cached, since for millions of rows it takes longer than a step."""
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    order.setflags(write=False)
    return order


@dataclasses.dataclass(frozen=True)
class Plan:
    """Schedule of a run, in optimizer steps."""

    rows: int
    rows_per_step: int
    seed: int
    total_steps: int
    warmup_steps: int
    eval_steps: int
    save_steps: int
    peak_learning_rate: float
    schedule: str

    @property
    def steps_per_epoch(self) -> int:
        """Steps per epoch; the last one may have fewer rows."""
        return math.ceil(self.rows / self.rows_per_step)

    @property
    def epochs(self) -> float:
        """Epochs of the run."""
        whole, rest = divmod(self.total_steps, self.steps_per_epoch)
        return whole + rest * self.rows_per_step / self.rows

    def rows_of_step(self, step: int) -> np.ndarray:
        """Indices of the rows of a step, from the epoch's shuffled order.

        Args:
            step: Optimizer steps taken so far, from 0.
        """
        epoch, place = divmod(step, self.steps_per_epoch)
        order = _order(self.seed, epoch, self.rows)
        start = place * self.rows_per_step
        return order[start : start + self.rows_per_step]

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.peak_learning_rate * learning_rate_factor(
            step, self.total_steps, self.warmup_steps, self.schedule
        )

    def evaluates_after(self, steps_taken: int) -> bool:
        """Whether a validation follows step number ``steps_taken``."""
        return steps_taken % self.eval_steps == 0 or steps_taken == self.total_steps

    def saves_after(self, steps_taken: int) -> bool:
        """Whether a checkpoint follows step number ``steps_taken``."""
        return steps_taken % self.save_steps == 0 or steps_taken == self.total_steps


def plan_run(config: Config, rows: int) -> Plan:
    """Schedule of a run over ``rows`` packed rows.

    Args:
        config: The settings.
        rows: Packed rows of training data, at least one.
    """
    rows_per_step = config.batch_size * config.gradient_accumulation_steps
    steps_per_epoch = math.ceil(rows / rows_per_step)
    total = steps_per_epoch * config.num_epochs
    if config.max_steps is not None:
        total = config.max_steps
    eval_steps = config.eval_steps or min(steps_per_epoch, math.ceil(total / 5))
    return Plan(
        rows=rows,
        rows_per_step=rows_per_step,
        seed=config.seed,
        total_steps=total,
        warmup_steps=(
            min(500, math.ceil(total / 10)) if config.warmup_steps is None else config.warmup_steps
        ),
        eval_steps=eval_steps,
        save_steps=config.save_steps or eval_steps,
        peak_learning_rate=config.learning_rate,
        schedule=config.schedule,
    )
