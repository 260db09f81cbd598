"""Decoding steps by onnxruntime, on the same keys and values that our own forward pass fills.

Prompts are read by torch, where many rows keep the processor busy; a step is so short that what
torch does around each product would take as long as the product, and here onnxruntime runs the
whole of it as one call. Everything it reads and writes lies in memory that is bound once for each
context, so a step sets a few numbers and allocates nothing. The price is an optional package
(``pip install 'creativewritinggpt[fast]'``) and activations of 8 bits.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .cache import KeyValueCache

if TYPE_CHECKING:
    from .gpt2_forward import GPT2Forward
    from .llama_forward import LlamaForward
    from .onnx_graph import Graph

_OLDEST = (1, 23)


def available() -> bool:
    """Whether onnx and an onnxruntime that multiplies weights of 8 bits are installed."""
    if any(importlib.util.find_spec(name) is None for name in ("onnxruntime", "onnx")):
        return False
    import onnxruntime

    version = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
    return version >= _OLDEST


def knows(config: Any) -> bool:
    """Whether the runtime's operators know heads of the size that a model has."""
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return bool(size % (8 if config.model_type == "gpt2" else 16) == 0)


def session_of(graph: Graph, threads: int) -> Any:
    """A session that runs ``graph`` on so many threads."""
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # which only its builds for Windows have
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Between steps the processor is the samplers'.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(v) for v in graph.weights.values()]
    options.add_external_initializers(list(graph.weights), values)
    return onnxruntime.InferenceSession(
        graph.message(), options, providers=["CPUExecutionProvider"]
    )


class Steps:
    """The step of one model.

    Args:
        forward: Our own forward pass, with grouped matrices.
        threads: Processor threads.
    """

    def __init__(self, forward: GPT2Forward | LlamaForward, threads: int) -> None:
        from .onnx_graph import step_graph

        self.forward = forward
        self.width = int(forward.token_embedding.shape[1])
        self.session = session_of(step_graph(forward), threads)
        self.logits = self.session.get_outputs()[-1].name

    def bind(self, cache: KeyValueCache) -> Bound:
        """Steps on the rows of ``cache``."""
        return Bound(self, cache)


class Bound:
    """A step whose inputs and outputs lie in fixed memory."""

    def __init__(self, steps: Steps, cache: KeyValueCache) -> None:
        layers, _, rows, heads, capacity, size = cache.entries.shape
        self.steps = steps
        self.x = torch.zeros(rows, 1, steps.width)
        self.last = torch.zeros(rows, dtype=torch.int32)
        self.longest = torch.zeros((), dtype=torch.int32)
        self.logits = torch.zeros(rows, steps.forward.vocabulary)
        self._kept = cache.entries
        self._binding = steps.session.io_binding()
        for name, tensor in (("x", self.x), ("last", self.last), ("longest", self.longest)):
            self._in(name, tensor)
        self._out(steps.logits, self.logits, (rows, 1, steps.forward.vocabulary))
        for layer in range(layers):
            for number, kind in enumerate(("keys", "values")):
                part = cache.entries[layer, number]
                self._in(f"{kind}.{layer}", part)
                self._out(f"new_{kind}.{layer}", part, tuple(part.shape))

    def __call__(self, tokens: Sequence[int], lengths: Sequence[int]) -> Tensor:
        """Read one more token in each row.

        Args:
            tokens: One for each row.
            lengths: Tokens that each row holds already.

        Returns:
            float32 ``[rows, vocabulary]``, written over by the next step.
        """
        positions = torch.tensor(lengths)
        self.x[:, 0] = self.steps.forward.embed(torch.tensor(tokens), positions)
        self.last.copy_(positions)
        self.longest.fill_(max(lengths) + 1)
        self.steps.session.run_with_iobinding(self._binding)
        return self.logits

    def _in(self, name: str, tensor: Tensor) -> None:
        kind = np.float32 if tensor.dtype == torch.float32 else np.int32
        shape = tuple(tensor.shape)
        self._binding.bind_input(name, "cpu", 0, kind, shape, tensor.data_ptr())

    def _out(self, name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
        self._binding.bind_output(name, "cpu", 0, np.float32, shape, tensor.data_ptr())
