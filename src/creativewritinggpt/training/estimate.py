"""Time and memory of a run, measured before its first step; nothing is written.

The run is prepared as it would be for training. Then a part of the held-out rows is scored and an
optimizer step is timed a few times; the estimate is the number of steps and validations times
these. The interval spans the fastest and the slowest of the timed steps and some room for what is
not timed, so other work on the machine, or a change of its clock, may still lead out of it.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

import torch

from .. import console, devices
from ..config.run import Config
from ..data.corpus import load_corpus
from ..distributed import SINGLE_PROCESS
from ..errors import InputError
from ..files import from_home
from ..models.adapter import attach, trainable
from ..models.loading import load_base, use_tokenizer
from .checkpoint import TrainState
from .fast.block import fast_path, has_fast_body, rows_per_pass
from .loss import fitting_rows
from .run import INT8, check_path, pick_device
from .setup import prepare
from .trainer import Trainer

_SCORED = 1500  # tokens of the timed validation
_TIMED = 3  # optimizer steps
_ADAM_BYTES = 8  # two fp32 moments per trained parameter
_ROOM = 0.15
"""Part by which the interval is wider than the timed steps: saving, drawing, reading."""


@dataclasses.dataclass(frozen=True)
class RunEstimate:
    """What a run would take; each interval is (least, likely, most).

    Attributes:
        total_steps: Optimizer steps, where patience does not end it before.
        epochs: Epochs.
        rows: Packed rows.
        tokens: Tokens that are trained on per epoch.
        evaluations: Number of validations.
        step_seconds: Of an optimizer step.
        seconds: Of the whole run, without loading.
        memory_bytes: Most memory of the process.
        free_bytes: Memory that was free before the model was loaded.
        trainable_parameters: Trained parameters.
        total_parameters: All parameters.
        device: Where it would run.
    """

    total_steps: int
    epochs: float
    rows: int
    tokens: int
    evaluations: int
    step_seconds: tuple[float, float, float]
    seconds: tuple[float, float, float]
    memory_bytes: int
    free_bytes: int
    trainable_parameters: int
    total_parameters: int
    device: str

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON."""
        return dataclasses.asdict(self)


def estimate(config: Config, files: Sequence[str] = ()) -> RunEstimate:
    """Measure what a run with these settings would take.

    Args:
        config: The settings.
        files: Texts to train on; without any, ``config.sources``.

    Raises:
        InputError: The texts or settings can't be used; streamed texts have no length.
        RunError: The memory does not suffice.
    """
    if config.streaming:
        raise InputError(
            "a streamed corpus has no length that could be measured", "leave --streaming out"
        )
    free = devices.memory()[1]
    device = pick_device(config, SINGLE_PROCESS)
    check_path(config, device.torch_device.type == "cpu", resumed=False)
    with console.progress("reading") as tell:
        corpus = load_corpus(config, files, tell)
    model = load_base(
        config.model_name, device, cache_dir=config.cache_dir, starter_file=config.starter_file
    )
    if config.init_adapter:
        use_tokenizer(model, from_home(config.init_adapter))
    short = dataclasses.replace(config, val_tokens=min(config.val_tokens or _SCORED, _SCORED))
    setup = prepare(short, files, corpus, model, SINGLE_PROCESS)
    assert setup.rows is not None
    plan, held_out = setup.plan, setup.held_out
    began = time.monotonic()
    setup.validate()
    scored = max(1, held_out.scored)
    per_evaluation = (time.monotonic() - began) * max(
        1.0, min(config.val_tokens or held_out.tokens, held_out.tokens) / scored
    )
    torch.manual_seed(config.seed)
    attach(model, config)
    sizes = trainable(model.model)
    check_path(config, has_fast_body(model), resumed=False)
    trainer = Trainer(setup, TrainState())
    with fast_path(model, int8=config.precision == INT8, compiled=False):
        micro, length = trainer.micro, setup.batches.max_length
        micro.rows = fitting_rows(model, length, micro.rows)
        micro.rows = rows_per_pass(model, length, micro.rows)
        trainer.time_step()  # the first one allocates
        times = sorted(trainer.time_step() for _ in range(_TIMED))
    evaluations = sum(plan.evaluates_after(step) for step in range(1, plan.total_steps + 1))
    steps = (times[0], times[len(times) // 2], times[-1])
    fixed = (evaluations + 1) * (per_evaluation + 1.0)
    low, likely, high = (plan.total_steps * each + fixed for each in steps)
    return RunEstimate(
        total_steps=plan.total_steps,
        epochs=plan.epochs,
        rows=len(setup.rows),
        tokens=int(setup.rows.target_counts().sum()),
        evaluations=evaluations,
        step_seconds=steps,
        seconds=(low * (1 - _ROOM), likely, math.ceil(high * (1 + 2 * _ROOM))),
        memory_bytes=devices.peak_memory_bytes(model.device.device) + _ADAM_BYTES * sizes[0],
        free_bytes=free,
        trainable_parameters=sizes[0],
        total_parameters=sizes[1],
        device=model.device.device,
    )
