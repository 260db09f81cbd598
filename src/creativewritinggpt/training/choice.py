"""Whether torch compiles what stands between the products: tried before a run that may repay it.

Compiling costs some seconds and makes a step a tenth or so faster, on some machines not at
all. So a run that is too short to get the seconds back is left alone; a longer one tries both ways
on the rows that it begins with, and takes the faster. A run that is resumed does as it did before,
since the two ways round differently.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from ..models.writer import Writer
from .fast.kernels import can_compile

_COST = 30.0
"""Seconds that compiling takes, about."""

_GAIN = 0.1
"""The share of a step that it may save, about."""

_WORTH = 0.98
"""A compiled step must take less than this share of a plain one."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """Whether functions are compiled, and the sentence why.

    Attributes:
        compiled: Whether they are.
        reason: Why.
        step_seconds: What an optimizer step takes that way, where it was measured.
    """

    compiled: bool
    reason: str
    step_seconds: float = 0.0


def choose_compiled(
    writer: Writer, measure: Callable[[], float], steps: int, recorded: bool | None = None
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
        return Choice(recorded, "as the run began")
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
