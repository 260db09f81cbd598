"""In which number format passes over many variants are fastest on this processor.

It is measured once and kept, on a small model: what is done around the products takes a third of
the time, and differs between the formats more than the products do.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from ...autotune import fastest, measured
from ...models.forward.linear import prefill_format
from ...models.forward.native_backend import NativeBackend
from ...models.forward.onnx import session
from ...models.forward.weights import ModuleWeights
from ...models.loaded_model import LoadedModel
from ..runtime.native_passes import knows, passes_of

# Rows of a pass, their tokens, and those of the text before them.
_ROWS, _TOKENS, _BEFORE = 32, 16, 16
# A few layers of the starter's shape.
_SHAPE = {
    "vocab_size": 2048, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 4,
    "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 256,
}  # fmt: skip


def rough_kind(writer: LoadedModel) -> str:
    """``fp32``, or where another format is faster ``prefill`` or ``int8_per_row``.

    Args:
        writer: The model; ``fp32`` too where our own forward pass does not know it.
    """
    if writer.device.torch_device.type != "cpu" or not knows(writer):
        return "fp32"
    return fastest_kind(writer.device.threads)


@functools.cache
def fastest_kind(threads: int) -> str:
    """The fastest kind of passes here, looked up once a process."""
    kinds = ["fp32"]
    if prefill_format(rough=True) != "fp32":
        kinds.append("prefill")
    if session.available():
        kinds.append("int8_per_row")
    ways = {kind: functools.partial(_seconds, kind, threads) for kind in kinds}
    found = measured("passes over variants", ways, threads)
    return min(found, key=lambda kind: found[kind])


def _seconds(kind: str, threads: int) -> float:
    """Seconds of a pass through a small model."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        from transformers import LlamaConfig, LlamaForCausalLM

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model: Any = LlamaForCausalLM(LlamaConfig(**_SHAPE)).eval()
        weights = ModuleWeights(model)
        passes = passes_of(model, NativeBackend(weights, "fp32"), NativeBackend(weights, kind))
        passes.read(torch.arange(_BEFORE + _TOKENS), torch.tensor([_BEFORE]))
        rows = torch.arange(_TOKENS).repeat(_ROWS, 1)
        last = torch.tensor([_TOKENS - 1])
        return fastest(functools.partial(passes.branch, rows, _BEFORE, last))
    finally:
        torch.set_num_threads(before)
