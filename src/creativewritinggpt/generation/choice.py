"""Which number format writes fastest on this processor.

It is measured once and kept, because the choice decides the text: the same command has to give the
same text each time. What is measured is what a step is made of, one row through some matrices.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from ..probe import fastest, measured
from . import onnx_steps
from .matrices import Grouped, maker

_WIDTH = 1024
# Enough that waking the runtime's threads counts as little as in a step.
_MATRICES = 16


def fastest_weights(threads: int) -> str:
    """``fp32``, ``int8``, or ``onnx`` where onnxruntime is installed: the fastest for one row."""
    kinds = ["fp32", "int8"]
    if onnx_steps.available():
        kinds.append("onnx")
    ways = {kind: functools.partial(_seconds, kind, threads) for kind in kinds}
    found = measured(f"one row through {_MATRICES} matrices", ways, threads)
    best = min(found, key=lambda kind: found[kind])
    if best == "onnx" and not rows_are_independent(threads):
        del found["onnx"]
        best = min(found, key=lambda kind: found[kind])
    return best


@functools.cache
def rows_are_independent(threads: int) -> bool:
    """Whether onnxruntime gives a row the same bits here, alone and among others.

    Its kernels differ between processors; without this a seed would not make the same text alone
    and in a batch.
    """
    run = _onnx([Grouped(weight, None, torch.float32) for weight in _weights(2)], threads)
    rows = torch.randn(8, _WIDTH, generator=torch.Generator().manual_seed(1))
    alone = torch.cat([run(rows[i : i + 1]) for i in range(len(rows))])
    return all(torch.equal(run(rows[:count]), alone[:count]) for count in range(2, len(rows) + 1))


def _seconds(kind: str, threads: int) -> float:
    make, dtype = maker(kind, torch.float32)
    matrices: list[Any] = [make(weight, None) for weight in _weights(_MATRICES)]
    row = torch.ones(1, _WIDTH, dtype=dtype)
    if kind == "onnx":
        run = _onnx(matrices, threads)
        return fastest(lambda: run(row))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            return fastest(lambda: functools.reduce(lambda x, matrix: matrix(x), matrices, row))
    finally:
        torch.set_num_threads(before)


def _weights(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(_WIDTH, _WIDTH, generator=generator) / 32 for _ in range(count)]


def _onnx(matrices: list[Grouped], threads: int) -> Callable[[torch.Tensor], torch.Tensor]:
    from .onnx_graph import chain

    session = onnx_steps.session_of(chain(matrices), threads)
    return lambda rows: torch.from_numpy(session.run(None, {"x": rows.numpy()})[0])
