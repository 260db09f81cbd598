"""Forward passes by onnxruntime, on the keys and values of :mod:`..kv_cache`.

A step of a small model is so short that what torch does around each product would take as long as
the product; onnxruntime runs the whole step as one call. All inputs and outputs lie in memory that
is bound once per context, so a step sets a few numbers and allocates nothing.

Trade-off: activations of 8 bits, and two optional packages. Starter on 2 cores of Zen 4 (Zen 3):
first token of 500 2.8 (1.7) times as fast as transformers, one text 4 (3) times as fast as fp32.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..kv_cache import KeyValueCache
from .matrices import Int8PerRow

if TYPE_CHECKING:
    from ..gpt2 import GPT2Forward
    from ..llama import LlamaForward
    from .graph import Graph

_OLDEST = (1, 24)
_KINDS = {torch.float32: np.float32, torch.int32: np.int32, torch.uint8: np.uint8}


def available() -> bool:
    """Whether onnx and an onnxruntime that multiplies weights of 8 bits are installed."""
    if any(importlib.util.find_spec(name) is None for name in ("onnxruntime", "onnx")):
        return False
    import onnxruntime

    version = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
    return version >= _OLDEST


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


def offsets(rows: int, tokens: int) -> Tensor:
    """The graph's input ``zeros``, uint8 ``[rows, tokens, 1]``."""
    return torch.full((rows, tokens, 1), Int8PerRow.levels + 1, dtype=torch.uint8)


class OnnxForward:
    """The forward pass of one model, by onnxruntime.

    Args:
        forward: Our own forward pass, with matrices in the format ``onnx``.
        threads: Processor threads.
    """

    def __init__(self, forward: GPT2Forward | LlamaForward, threads: int) -> None:
        from .graph import forward_graph

        self.forward = forward
        graph = forward_graph(forward)
        self.session = session_of(graph, threads)
        self.logits = self.session.get_outputs()[-1].name

    def bind(self, cache: KeyValueCache) -> BoundForward:
        """Passes over the rows of ``cache``."""
        return BoundForward(self, cache)


class BoundForward:
    """A forward pass whose inputs and outputs lie in fixed memory.

    Args:
        model: The model.
        cache: Keys and values; several tokens at once go into a cache of one row only.
    """

    def __init__(self, model: OnnxForward, cache: KeyValueCache) -> None:
        rows = len(cache.entries[0, 0])
        self.model = model
        self.last = torch.zeros(rows, dtype=torch.int32)
        self.longest = torch.zeros((), dtype=torch.int32)
        self.logits = torch.zeros(rows, model.forward.vocabulary)
        self._binding = model.session.io_binding()
        self._in("last", self.last)
        self._in("longest", self.longest)
        self._out(model.logits, self.logits, (rows, 1, model.forward.vocabulary))
        self._entries = cache.entries  # must live as long as what is bound to them
        for layer in range(len(cache.entries)):
            for number, kind in enumerate(("keys", "values")):
                part = cache.entries[layer, number]
                self._in(f"{kind}.{layer}", part)
                self._out(f"new_{kind}.{layer}", part, tuple(part.shape))
        self._make_room(1)

    def _make_room(self, tokens: int) -> None:
        """Bind inputs for so many tokens of each row."""
        rows, forward = len(self.last), self.model.forward
        self.x = torch.zeros(rows, tokens, int(forward.token_embedding.shape[1]))
        self._inputs = {"x": self.x, "zeros": offsets(rows, tokens)}
        for name, tensor in self._inputs.items():
            self._in(name, tensor)

    def __call__(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Read some more tokens of each row.

        Args:
            tokens: int64 ``[rows, tokens]``.
            lengths: Tokens that each row holds already, int64 ``[rows]``.

        Returns:
            float32 ``[rows, vocabulary]`` after the last of them, overwritten by the next call.
        """
        count = tokens.shape[1]
        if count != self.x.shape[1]:
            self._make_room(count)
        positions = lengths.unsqueeze(1) + torch.arange(count)
        self.x.copy_(self.model.forward.embed(tokens, positions))
        self.last.copy_(positions[:, -1])
        self.longest.fill_(int(lengths.max()) + count)
        self.model.session.run_with_iobinding(self._binding)
        return self.logits

    def _in(self, name: str, tensor: Tensor) -> None:
        kind = _KINDS[tensor.dtype]
        shape = tuple(tensor.shape)
        self._binding.bind_input(name, "cpu", 0, kind, shape, tensor.data_ptr())

    def _out(self, name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
        self._binding.bind_output(name, "cpu", 0, np.float32, shape, tensor.data_ptr())
