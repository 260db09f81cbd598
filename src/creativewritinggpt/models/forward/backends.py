"""The choice of backend and number format for a model, kept while its weights stay the same.

The choice depends on the device, on the settings and on one measurement on this processor, which is
remembered, so that the same command gives the same text each time. The measurement is of a small
model that reads a prompt and writes, one text alone and eight at once: kernels can be equally fast
where the work around them is not. Making a fast backend takes about a second; the last two are kept
beside the model.

Families without a forward pass of ours get :class:`TransformersBackend`, which calls the model as
it is, so it is also the reference for the faster backends. Rows of different lengths share its
cache's columns and end in the last one; a column that a row does not use is masked, and positions
are counted per row.

Trade-off: the library's cache grows by copying, and masks are built at each step.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...devices import fastest, measured
from ...errors import InputError
from .families import LlamaForward
from .native_backend import Backend, NativeBackend, NativeContext, onnx_fits
from .onnx_int8 import Int8PerRow, offsets, onnx_available, session_of
from .weights import FileWeights, ModuleWeights, Unsupported, Weights

if TYPE_CHECKING:
    from ..loaded_model import LoadedModel

# Two per model: base and tuned are often written side by side.
_MOST = 2
_Kept = list[tuple[tuple[Any, ...], Backend]]
kept_backends: weakref.WeakKeyDictionary[Any, _Kept] = weakref.WeakKeyDictionary()
"""The last backends of each model, by the state of its weights and adapters."""

# The small model: a few layers of the starter's shape, long enough that the synchronisation of
# threads counts as in a real step.
_SHAPE = {
    "model_type": "llama",
    "vocab_size": 2048,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 4,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
}
# Tokens that it reads, tokens that it writes, texts that are written at once.
_READ, _WRITTEN, _ROWS = 128, 64, 8


def backend_for(model: LoadedModel, weights: str = "auto", *, required: bool = True) -> Backend:
    """The backend for a model.

    Args:
        model: The model.
        weights: ``fp32``, ``bf16``, ``int8`` and ``onnx``: our own forward pass in that format;
            ``transformers``: the model as it is; ``auto``: on a processor the fastest here of
            fp32, int8 and onnx, or fp32 where that was asked for; on other devices, and for
            families that our own forward pass doesn't know, ``transformers``. The formats for
            passes of many rows are those of :func:`~.linear.matrix_factory`.
        required: Whether an unavailable format is an error; else ``transformers`` takes its place.

    Raises:
        InputError: The format can't be had for this model.
    """
    on_processor = model.device.torch_device.type == "cpu"
    if weights == "transformers" or (weights == "auto" and not on_processor):
        return _transformers(model)
    if not on_processor:
        raise InputError(
            f"weights is {weights}, which is for processors, and the device is "
            f"{model.device.device}",
            "use weights auto, or device cpu",
        )
    if weights == "onnx" and not onnx_available():
        raise InputError(
            f"weights is {weights}, and onnxruntime is not installed",
            "pip install onnxruntime onnx, or use weights auto",
        )
    if model.files is not None:
        try:
            return _native(model, model.files, weights)
        except Unsupported:
            pass  # transformers may know what it is
    try:
        return _native(model, ModuleWeights(model.bare), weights)
    except Unsupported as error:
        if weights == "auto" or not required:
            return _transformers(model)
        raise InputError(
            f"weights is {weights}, and our own forward pass does not know {error}",
            "use weights auto or transformers",
        ) from error


def _native(model: LoadedModel, weights: Weights, wanted: str) -> Backend:
    """A native backend on these weights, one that was made before where nothing has changed."""
    kind = _automatic(model, weights.config) if wanted == "auto" else wanted
    state = (kind, *weights.state())
    known = kept_backends.get(weights.owner, [])
    for entry in known:
        if entry[0] == state:
            kept_backends[weights.owner] = [
                entry,
                *(other for other in known if other is not entry),
            ]
            return entry[1]
    backend = NativeBackend(weights, kind)
    kept_backends[weights.owner] = [(state, backend), *known][:_MOST]
    return backend


def store_readings() -> int:
    """Write what all models have read of long texts to the disk; the number of texts."""
    backends = [backend for known in kept_backends.values() for _, backend in known]
    return sum(one.store_readings() for one in backends if isinstance(one, NativeBackend))


def _automatic(model: LoadedModel, config: Any) -> str:
    """The fastest format here, or fp32 where approximate ones may not be used."""
    device = model.device
    if device.precision != "bf16" and not device.approximate:
        return "fp32"
    kind = fastest_weights(device.threads)
    return "int8" if kind == "onnx" and not onnx_fits(config) else kind


def _transformers(model: LoadedModel) -> Backend:
    if model.device.torch_device.type == "cpu":
        return TransformersBackend(model.model)
    return TransformersBackend(model.model, model.device.autocast)


def fastest_weights(threads: int) -> str:
    """The fastest format on this processor: ``fp32``, ``int8`` or, if installed, ``onnx``."""
    kinds = ["fp32", "int8"] + ["onnx"] * onnx_available()
    ways = {kind: functools.partial(_seconds, kind, threads) for kind in kinds}
    found = measured("reading and writing", ways, threads)
    for kind in sorted(found, key=lambda name: found[name]):
        if kind != "onnx" or rows_are_independent(threads):
            return kind
    return "fp32"


@functools.cache
def rows_are_independent(threads: int) -> bool:
    """Whether onnxruntime computes a row to the same bits alone and among others.

    Its kernels differ between processors; without this a seed would not give the same text alone
    and in a batch. The answer is kept with what was measured on this machine.
    """
    import onnxruntime

    question = f"whether rows are independent in onnxruntime {onnxruntime.__version__}"
    return bool(measured(question, {"yes": lambda: _rows_are_equal(threads)}, threads)["yes"])


def _rows_are_equal(threads: int) -> float:
    """1.0 where they are in some products of the small model's size, else 0.0."""
    from .onnx_graph import chain

    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(size, generator=generator) for size in ((640, 576), (96, 640))]
    run = session_of(chain([Int8PerRow(weight, None) for weight in weights]), threads).run
    rows = torch.randn(_ROWS, 1, 576, generator=generator)

    def product(some: Tensor) -> Tensor:
        inputs = {"x": some.numpy(), "zeros": offsets(len(some), 1).numpy()}
        return torch.from_numpy(run(None, inputs)[0])

    alone = torch.cat([product(rows[i : i + 1]) for i in range(_ROWS)])
    counts = range(2, _ROWS + 1)
    return float(all(torch.equal(product(rows[:count]), alone[:count]) for count in counts))


def _seconds(kind: str, threads: int) -> float:
    """Seconds in which the small model reads a prompt and writes."""
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
def small_model() -> FileWeights:
    """Random weights of the small model that is measured."""
    config = types.SimpleNamespace(**LlamaForward.defaults, **_SHAPE)
    generator = torch.Generator().manual_seed(0)
    shapes = LlamaForward.shapes(config)
    tensors = {
        name: torch.ones(shape) if len(shape) == 1
        else torch.randn(shape, generator=generator) * 0.02
        for name, shape in {**shapes, "lm_head.weight": shapes[LlamaForward.embedding]}.items()
    }  # fmt: skip
    return FileWeights(config, tensors)


class TransformersBackend:
    """Any ``PreTrainedModel`` or ``PeftModel`` for causal language modelling.

    Args:
        model: The model.
        autocast: A context to call it in, for another precision than that of its weights.
    """

    name = "transformers"

    def __init__(
        self,
        model: Any,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.model = model
        self.autocast = autocast
        self.vocabulary = int(model.config.vocab_size)
        self.device = next(model.parameters()).device

    def read(self, ids: Sequence[int], capacity: int) -> tuple[TransformersContext, torch.Tensor]:
        """A context that has read ``ids``, and ``[1, vocabulary]`` logits after the last."""
        context = self.start(capacity)
        return context, context.prefill(ids)

    def begin(
        self, ids: Sequence[int], capacity: int, owner: str = ""
    ) -> tuple[TransformersContext, torch.Tensor | None]:
        """An empty context: readings are not kept."""
        return self.start(capacity), None

    def keep(
        self,
        ids: Sequence[int],
        context: TransformersContext,
        logits: torch.Tensor,
        owner: str = "",
    ) -> None:
        """Readings are not kept."""

    def start(self, capacity: int) -> TransformersContext:
        """An empty context of one row; this cache needs no capacity."""
        return TransformersContext(self, _empty_cache(), torch.ones(1, 0, dtype=torch.bool))

    def join(self, contexts: Sequence[TransformersContext]) -> TransformersContext:
        """One context with the rows of all of ``contexts``: shorter ones get masked columns."""
        width = max(context.used.shape[1] for context in contexts)
        cache = _empty_cache()
        for layer in range(max(len(context.cache.layers) for context in contexts)):
            keys, values = [], []
            for context in contexts:
                missing = width - context.used.shape[1]
                part = context.cache.layers[layer]
                keys.append(torch.nn.functional.pad(part.keys, (0, 0, missing, 0)))
                values.append(torch.nn.functional.pad(part.values, (0, 0, missing, 0)))
            cache.update(torch.cat(keys), torch.cat(values), layer)
        used = torch.cat(
            [
                torch.nn.functional.pad(context.used, (width - context.used.shape[1], 0))
                for context in contexts
            ]
        )
        return TransformersContext(self, cache, used)


class TransformersContext:
    """Rows that a model of transformers has read.

    Args:
        backend: Whose model reads.
        cache: Keys and values, all rows with the same number of columns.
        used: bool ``[rows, columns]``: whether the column holds a token of the row.
    """

    def __init__(self, backend: TransformersBackend, cache: Any, used: torch.Tensor) -> None:
        self.backend = backend
        self.cache = cache
        self.used = used

    @property
    def lengths(self) -> list[int]:
        """Tokens read, for each row."""
        return [int(length) for length in self.used.sum(1)]

    def prefill(self, ids: Sequence[int]) -> torch.Tensor:
        """Read ``ids`` after what the only row holds; ``[1, vocabulary]`` logits."""
        return self._read(torch.tensor([list(ids)]))

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Read one more token in each row; ``[rows, vocabulary]`` logits."""
        return self._read(torch.tensor([[token] for token in tokens]))

    def _read(self, ids: torch.Tensor) -> torch.Tensor:
        rows, count = ids.shape
        lengths = self.used.sum(1, keepdim=True)
        self.used = torch.cat([self.used, torch.ones(rows, count, dtype=torch.bool)], 1)
        device = self.backend.device
        with torch.inference_mode(), self.backend.autocast():
            output = self.backend.model(
                input_ids=ids.to(device),
                position_ids=(lengths + torch.arange(count)).to(device),
                attention_mask=self.used.long().to(device),
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        logits: torch.Tensor = output.logits[:, -1].float().cpu()
        return logits

    def fork(self, rows: Sequence[int], capacity: int | None = None) -> TransformersContext:
        """A context of its own with copies of ``rows``; this cache needs no capacity."""
        index = torch.tensor(list(rows))
        used = self.used[index]
        # Columns that no chosen row uses are not copied.
        columns = used.any(0)
        cache = _empty_cache()
        for number, layer in enumerate(self.cache.layers):
            where = index.to(layer.keys.device)
            keys, values = layer.keys[where], layer.values[where]
            if not bool(columns.all()):
                kept = columns.to(keys.device)
                keys, values = keys[:, :, kept], values[:, :, kept]
            cache.update(keys, values, number)
        return TransformersContext(self.backend, cache, used[:, columns])

    def truncate(self, row: int, length: int) -> None:
        """Forget all but the first ``length`` tokens of ``row``."""
        columns = self.used[row].nonzero().flatten()
        self.used[row, columns[length:]] = False
        filled = self.used.any(0).nonzero()
        width = int(filled[-1]) + 1 if len(filled) else 0
        self.used = self.used[:, :width]
        kept = self.used[row].nonzero().flatten()
        gap = width - 1 - int(kept[-1]) if len(kept) else 0
        self.used[row] = self.used[row].roll(gap)
        with torch.inference_mode():
            for layer in self.cache.layers:
                layer.keys = layer.keys[:, :, :width]
                layer.values = layer.values[:, :, :width]
                if gap:  # sliding windows count columns, so a row's last token stands in the last
                    layer.keys[row] = layer.keys[row].roll(gap, 1)
                    layer.values[row] = layer.values[row].roll(gap, 1)


def _empty_cache() -> Any:
    from transformers import DynamicCache

    return DynamicCache()
