"""Which number format writes fastest on this processor.

It is measured once and kept, because the choice decides the text: the same command has to give the
same text each time. What is measured is a small model that reads a prompt and writes, alone and
eight texts at once, not a product alone: the kernels of two formats can be equally fast where what
is done around them is not.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from ...autotune import fastest, measured
from .int8 import Workspace
from .linear import ForMany
from .native_backend import NativeBackend, NativeContext
from .onnx import session as onnx_steps
from .onnx.matrices import ByRow, Grouped

# A few layers of the starter's shape: long enough that waking threads counts as in a real step.
_SHAPE = {
    "vocab_size": 2048,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 4,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 256,
}
# What is written with it, in tokens: a prompt, as many by one text alone and by eight together.
_READ, _WRITTEN, _ROWS = 128, 64, 8


def fastest_weights(threads: int) -> str:
    """``fp32``, ``int8``, or where onnxruntime is installed ``onnx`` or ``rotated``."""
    kinds = ["fp32", "int8"]
    if onnx_steps.available():
        kinds += onnx_steps.BY_ONNXRUNTIME
    ways = {kind: functools.partial(_seconds, kind, threads) for kind in kinds}
    found = measured("reading and writing", ways, threads)
    for kind in sorted(found, key=lambda name: found[name]):
        if kind not in onnx_steps.BY_ONNXRUNTIME or rows_are_independent(kind, threads):
            return kind
    return "fp32"


@functools.cache
def rows_are_independent(kind: str, threads: int) -> bool:
    """Whether onnxruntime gives a row the same bits here, alone and among others.

    Its kernels differ between processors; without this a seed would not make the same text alone
    and in a batch.

    Args:
        kind: ``onnx`` or ``rotated``.
        threads: Processor threads.
    """
    from .onnx.graph import chain

    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(size, generator=generator) for size in ((640, 576), (96, 640))]
    many = functools.partial(ForMany, format="fp32", workspace=Workspace())
    make = functools.partial(Grouped, many=many) if kind == "onnx" else ByRow
    session = onnx_steps.session_of(chain([make(weight, None) for weight in weights]), threads)
    rows = torch.randn(_ROWS, 1, 576, generator=generator)

    def product(some: Tensor) -> Tensor:
        inputs = {"x": some, **onnx_steps.offsets(kind != "onnx", len(some), 1)}
        [found] = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
        return torch.from_numpy(found)

    alone = torch.cat([product(rows[i : i + 1]) for i in range(_ROWS)])
    return all(torch.equal(product(rows[:count]), alone[:count]) for count in range(2, _ROWS + 1))


def _seconds(kind: str, threads: int) -> float:
    """Seconds that a small model takes to read a prompt and to write."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        backend = NativeBackend(small_model(), kind)

        def read() -> NativeContext:
            context = backend.start(_READ + 1)
            context.prefill(list(range(_READ)))
            return context

        def step(context: NativeContext) -> None:
            rows = len(context.lengths)
            context.step([1] * rows)
            for row in range(rows):
                context.truncate(row, _READ)

        one = read()
        eight = one.fork([0] * _ROWS)
        return (
            fastest(read)
            + _WRITTEN * fastest(functools.partial(step, one))
            + _WRITTEN / _ROWS * fastest(functools.partial(step, eight))
        )
    finally:
        torch.set_num_threads(before)


@functools.cache
def small_model() -> Any:
    """A few random layers of the starter's shape, to measure with."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**_SHAPE)).eval()
