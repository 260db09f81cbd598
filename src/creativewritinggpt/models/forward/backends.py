"""The choice of backend and number format for a model, kept while its weights stay the same.

The choice depends on the device, on the settings and on one measurement on this processor, which is
remembered, so that the same command gives the same text each time. The measurement is of a small
model that reads a prompt and writes, one text alone and eight at once: kernels can be equally fast
where the work around them is not. Making a fast backend takes about a second; the last two are kept
beside the model.
"""

from __future__ import annotations

import functools
import types
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...autotune import fastest, measured
from ...errors import InputError
from .llama import LlamaForward
from .native_backend import Backend, NativeBackend, NativeContext, onnx_fits
from .onnx import session
from .onnx.matrices import Int8PerRow
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
    if weights == "onnx" and not session.available():
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


def _automatic(model: LoadedModel, config: Any) -> str:
    """The fastest format here, or fp32 where approximate ones may not be used."""
    device = model.device
    if device.precision != "bf16" and not device.approximate:
        return "fp32"
    kind = fastest_weights(device.threads)
    return "int8" if kind == "onnx" and not onnx_fits(config) else kind


def _transformers(model: LoadedModel) -> Backend:
    from .transformers_backend import TransformersBackend

    if model.device.torch_device.type == "cpu":
        return TransformersBackend(model.model)
    return TransformersBackend(model.model, model.device.autocast)


def fastest_weights(threads: int) -> str:
    """The fastest format on this processor: ``fp32``, ``int8`` or, if installed, ``onnx``."""
    kinds = ["fp32", "int8"] + ["onnx"] * session.available()
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
    and in a batch.
    """
    from .onnx.graph import chain

    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(size, generator=generator) for size in ((640, 576), (96, 640))]
    run = session.session_of(chain([Int8PerRow(weight, None) for weight in weights]), threads).run
    rows = torch.randn(_ROWS, 1, 576, generator=generator)

    def product(some: Tensor) -> Tensor:
        inputs = {"x": some.numpy(), "zeros": session.offsets(len(some), 1).numpy()}
        return torch.from_numpy(run(None, inputs)[0])

    alone = torch.cat([product(rows[i : i + 1]) for i in range(_ROWS)])
    return all(torch.equal(product(rows[:count]), alone[:count]) for count in range(2, _ROWS + 1))


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
