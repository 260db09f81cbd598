"""What is tried before a run that may repay it: compiled functions, rows that go through at once.

Compiling what stands between the products costs some seconds and makes a step a tenth or so faster,
on some machines not at all. More rows at once use a processor better until what they keep outgrows
its caches, or the memory that the C library has in hand. So a run that is too short to get the
seconds back is left alone; a longer one tries the ways on the rows that it begins with, and takes
the fastest. A run that is resumed does as it did before, since each way rounds differently; and
since dropout's noise follows the rows, their number is tried once a machine for each kind of step,
so that what a busy moment says does not change the model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from ..autotune import measured
from ..models.loaded_model import LoadedModel
from .fast.kernels import can_compile
from .memory import MicroBatch

_COST = 30.0
"""Seconds that compiling takes, about."""

_GAIN = 0.1
"""The share of a step that it may save, about."""

_WORTH = 0.98
"""Another way must take less than this share of the time."""

_WORTH_MEMORY = 0.95
"""More rows at once, which take memory, must take less than this share of the time."""

_STEPS = 200
"""From so many steps on, a few hundredths of each repay the handful that trying takes."""

_BEGAN = "as the run began"


@dataclasses.dataclass(frozen=True)
class Choice:
    """Whether functions are compiled, the rows of a micro-step, and the sentences why.

    Attributes:
        compiled: Whether they are.
        reason: Why.
        step_seconds: What an optimizer step takes that way, where it was measured.
        rows: Rows that go through the model at once.
        rows_reason: Why so many.
    """

    compiled: bool
    reason: str
    step_seconds: float = 0.0
    rows: int = 0
    rows_reason: str = _BEGAN


def choose(
    writer: LoadedModel,
    micro: MicroBatch,
    most: int,
    measure: Callable[[], float],
    steps: int,
    fixed: str = "",
) -> Choice:
    """Choose both, and leave the fast path and ``micro`` as chosen.

    Args:
        writer: The model, within its fast path.
        micro: Rows of a micro-step to begin with.
        most: Rows that fit into memory, and no more than a step has.
        measure: Seconds of an optimizer step, by a micro-step that changes nothing.
        steps: Optimizer steps of the run.
        fixed: Why nothing is tried, where nothing is.
    """
    chosen = choose_compiled(writer, measure, steps, False if fixed else None)
    if fixed:
        return dataclasses.replace(chosen, reason=fixed, rows=micro.rows, rows_reason=fixed)
    first = micro.rows
    reason = "other numbers are tried on processors only"
    if writer.device.device == "cpu":
        reason = choose_rows(_kind(writer), micro, most, measure, steps, writer.device.threads)
    seconds = chosen.step_seconds if micro.rows == first else measure()
    return dataclasses.replace(chosen, step_seconds=seconds, rows=micro.rows, rows_reason=reason)


def choose_rows(
    kind: str,
    micro: MicroBatch,
    most: int,
    measure: Callable[[], float],
    steps: int,
    threads: int,
) -> str:
    """Try half and twice the rows at once, and leave ``micro`` with the fastest.

    Args:
        kind: What the time of a step depends on beside its rows.
        micro: Rows of a micro-step to begin with.
        most: Rows that fit into memory.
        measure: Seconds of an optimizer step with the rows of ``micro``.
        steps: Optimizer steps of the run.
        threads: Processor threads that are used.

    Returns:
        The reason.
    """
    first = micro.rows
    numbers = [rows for rows in (first, 2 * first, first // 2) if 1 <= rows <= most]
    if len(numbers) == 1:
        return "batch_size and memory allow no other"
    if steps < _STEPS:
        return "the run is too short to try others"

    def way(rows: int) -> Callable[[], float]:
        def timed() -> float:
            micro.rows = rows
            return measure()

        return timed

    question = f"a training step of {kind} in rows of {micro.max_length} tokens"
    seconds = measured(question, {str(rows): way(rows) for rows in numbers}, threads)
    took = {rows: seconds[str(rows)] for rows in numbers}
    fastest = min(numbers, key=lambda rows: took[rows])
    worth = _WORTH_MEMORY if fastest > first else _WORTH
    micro.rows = fastest if took[fastest] < worth * took[first] else first
    # No seconds: a step of the run that measured them may have had other rows.
    others = [rows for rows in sorted(numbers) if rows != micro.rows]
    told = ", ".join(
        f"{took[rows] / took[micro.rows]:.2f} times as long with {rows}" for rows in others
    )
    return f"a step takes {told}"


def _kind(writer: LoadedModel) -> str:
    """What the time of a step depends on, but for its rows and the processor."""
    config = writer.bare.config
    trained = sum(p.numel() for p in writer.model.parameters() if p.requires_grad)
    body = writer.fast_body
    path = "plain" if body is None else "int8" if body.int8 else "fast"
    return (
        f"{type(writer.bare).__name__}, {config.num_hidden_layers} x {config.hidden_size}, "
        f"{trained} trained, {writer.device.precision}, {path}"
    )


def choose_compiled(
    writer: LoadedModel, measure: Callable[[], float], steps: int, recorded: bool | None = None
) -> Choice:
    """Choose, and leave the fast path as chosen.

    Args:
        writer: The model, within its fast path.
        measure: Seconds of an optimizer step, by a micro-step that changes nothing.
        steps: Optimizer steps of the run.
        recorded: What the run began with, where it is resumed.
    """
    kernels = getattr(writer.fast_body, "kernels", None)
    if recorded is not None:
        if kernels is not None:
            kernels.use(recorded)
        return Choice(recorded, _BEGAN)
    plain = measure()
    if kernels is None:
        return Choice(False, "this model and device take the plain path", plain)
    if plain * steps * _GAIN < _COST:
        return Choice(False, "the run is too short to repay it", plain)
    if not can_compile():
        return Choice(False, "there is no C++ compiler here", plain)
    plain = min(plain, measure())
    kernels.use(True)
    try:
        measure()  # compiles
        compiled = min(measure(), measure())
    except (RuntimeError, OSError) as error:  # torch's compiler errors are RuntimeErrors
        kernels.use(False)
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return Choice(False, f"compiling failed: {said[:120]}", plain)
    told = f"a step takes {compiled:.2f} s compiled and {plain:.2f} s not"
    if compiled < _WORTH * plain:
        return Choice(True, told, compiled)
    kernels.use(False)
    return Choice(False, told, plain)
