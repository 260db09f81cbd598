"""Which number format writes fastest on this processor.

It is measured once and kept, because the choice decides the text: the same command has to give the
same text each time. What is measured is a step of a small model, not a product alone: the kernels
of two formats can be equally fast where what is done around them is not.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from ..models.int8 import Workspace
from ..probe import fastest, measured
from . import onnx_steps
from .matrices import ForMany, Grouped
from .native_backend import NativeBackend

# A few layers of the starter's shape: long enough that waking threads counts as in a real step.
_SHAPE = {
    "vocab_size": 2048,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 4,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 64,
}
_READ = 16


def fastest_weights(threads: int) -> str:
    """``fp32``, ``int8``, or ``onnx`` where onnxruntime is installed: the fastest for one row."""
    kinds = ["fp32", "int8"]
    if onnx_steps.available():
        kinds.append("onnx")
    ways = {kind: functools.partial(_seconds, kind, threads) for kind in kinds}
    found = measured("one step", ways, threads)
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
    from .onnx_graph import chain

    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(size, generator=generator) for size in ((640, 576), (96, 640))]
    many = functools.partial(ForMany, format="fp32", workspace=Workspace())
    graph = chain([Grouped(weight, None, many) for weight in weights])
    session = onnx_steps.session_of(graph, threads)
    rows = torch.randn(8, 576, generator=generator).numpy()
    alone = [session.run(None, {"x": rows[i : i + 1]})[0] for i in range(len(rows))]
    for count in range(2, len(rows) + 1):
        [together] = session.run(None, {"x": rows[:count]})
        if any((together[row] != alone[row][0]).any() for row in range(count)):
            return False
    return True


def _seconds(kind: str, threads: int) -> float:
    """Seconds for a step of a small model."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        context = NativeBackend(_model(), kind).start(_READ + 1)
        context.prefill(list(range(_READ)))

        def step() -> None:
            context.step([1])
            context.truncate(0, _READ)

        return fastest(step)
    finally:
        torch.set_num_threads(before)


@functools.cache
def _model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**_SHAPE)).eval()
