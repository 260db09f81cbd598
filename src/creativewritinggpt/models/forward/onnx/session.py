"""Forward passes by onnxruntime, on the same keys and values that our own forward pass fills.

A step is so short that what torch does around each product would take as long as the product; here
onnxruntime runs the whole of it as one call. Prompts are read by torch, where many rows keep the
processor busy, but for the format that onnxruntime multiplies many rows in faster. Everything it
reads and writes lies in memory that is bound once for each context, so a step sets a few numbers
and allocates nothing. The price is an optional package (``pip install 'creativewritinggpt[fast]'``)
and activations of 8 bits.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..kv_cache import KeyValueCache
from .matrices import ByRow

if TYPE_CHECKING:
    from ..gpt2 import GPT2Forward
    from ..llama import LlamaForward
    from .nodes import Graph

_OLDEST = (1, 24)
_KINDS = {torch.float32: np.float32, torch.int32: np.int32, torch.uint8: np.uint8}
# Formats that it multiplies.
BY_ONNXRUNTIME = ("onnx", "rotated")


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


def offsets(by_row: bool, rows: int, tokens: int) -> dict[str, Tensor]:
    """The input that a graph whose matrices are :class:`~.matrices.ByRow` has besides."""
    if not by_row:
        return {}
    return {"zeros": torch.full((rows, tokens, 1), ByRow.levels + 1, dtype=torch.uint8)}


class Steps:
    """The forward pass of one model, by onnxruntime.

    Args:
        forward: Our own forward pass, with matrices that the runtime multiplies.
        threads: Processor threads.

    Attributes:
        reads: Whether prompts can be read as well; else a pass is one token of each row.
    """

    def __init__(self, forward: GPT2Forward | LlamaForward, threads: int) -> None:
        from .graph import forward_graph

        self.forward = forward
        graph = forward_graph(forward)
        self.reads = bool(graph.zeros)
        self.session = session_of(graph, threads)
        self.logits = self.session.get_outputs()[-1].name

    def bind(self, cache: KeyValueCache) -> Bound:
        """Passes over the rows of ``cache``; with one, and matrices for it, of many tokens."""
        return Bound(self, cache)


class Bound:
    """A pass whose inputs and outputs lie in fixed memory.

    Args:
        steps: The model.
        cache: Keys and values.
    """

    def __init__(self, steps: Steps, cache: KeyValueCache) -> None:
        rows = len(cache.entries[0, 0])
        self.steps = steps
        self.last = torch.zeros(rows, dtype=torch.int32)
        self.longest = torch.zeros((), dtype=torch.int32)
        self.logits = torch.zeros(rows, steps.forward.vocabulary)
        self._binding = steps.session.io_binding()
        self._in("last", self.last)
        self._in("longest", self.longest)
        self._out(steps.logits, self.logits, (rows, 1, steps.forward.vocabulary))
        self._entries = cache.entries  # must live as long as what is bound to them
        for layer in range(len(cache.entries)):
            for number, kind in enumerate(("keys", "values")):
                part = cache.entries[layer, number]
                self._in(f"{kind}.{layer}", part)
                self._out(f"new_{kind}.{layer}", part, tuple(part.shape))
        self._make_room(1)

    def _make_room(self, tokens: int) -> None:
        """For so many tokens of each row."""
        rows, forward = len(self.last), self.steps.forward
        self.x = torch.zeros(rows, tokens, int(forward.token_embedding.shape[1]))
        self._inputs = {"x": self.x, **offsets(self.steps.reads, rows, tokens)}
        for name, tensor in self._inputs.items():
            self._in(name, tensor)

    def __call__(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Read some more tokens of each row.

        Args:
            tokens: int64 ``[rows, tokens]``.
            lengths: Tokens that each row holds already, int64 ``[rows]``.

        Returns:
            float32 ``[rows, vocabulary]`` after the last of them, written over by the next call.
        """
        count = tokens.shape[1]
        if count != self.x.shape[1]:
            self._make_room(count)
        positions = lengths.unsqueeze(1) + torch.arange(count)
        self.x.copy_(self.steps.forward.embed(tokens, positions))
        self.last.copy_(positions[:, -1])
        self.longest.fill_(int(lengths.max()) + count)
        self.steps.session.run_with_iobinding(self._binding)
        return self.logits

    def _in(self, name: str, tensor: Tensor) -> None:
        kind = _KINDS[tensor.dtype]
        shape = tuple(tensor.shape)
        self._binding.bind_input(name, "cpu", 0, kind, shape, tensor.data_ptr())

    def _out(self, name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
        self._binding.bind_output(name, "cpu", 0, np.float32, shape, tensor.data_ptr())
