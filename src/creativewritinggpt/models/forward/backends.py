"""Which backend continues texts with a writer, and keeping it while its weights stay the same.

The choice depends on the device, on the settings and on what was measured here once, so that the
same command gives the same text each time. Making a fast backend takes about a second; the last two
are kept beside the model, for the weights and the adapter's state that they were made of.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from .backend import Backend
from .linear import Unsupported, adapter_state
from .native_backend import NativeBackend
from .onnx import session
from .transformers_backend import TransformersBackend
from .weight_format import fastest_weights

if TYPE_CHECKING:
    from ..loaded_model import LoadedModel

# Two of a model: base and tuned are often written side by side.
_MOST = 2
_Kept = list[tuple[tuple[Any, ...], Backend]]
_kept: weakref.WeakKeyDictionary[Any, _Kept] = weakref.WeakKeyDictionary()


def backend_for(writer: LoadedModel, weights: str = "auto", *, required: bool = True) -> Backend:
    """The backend for a writer.

    Args:
        writer: The model.
        weights: ``fp32``, ``bf16``, ``int8``: our own forward pass in that format; ``onnx``:
            the same with steps by onnxruntime; ``rotated``: all by onnxruntime, with rotated
            activations; ``transformers``: the model as it is; ``auto``: on a processor the fastest
            here of fp32, int8, onnx and rotated, or fp32 where that was asked for; on other
            devices, and for families that our own forward pass doesn't know, ``transformers``;
            ``many``, ``by-row``, ``fp32-blocks``, ``bf16-blocks``: for passes of many rows (see
            ``matrices.maker``).
        required: Whether a format that can't be had is an error; else it is ``transformers`` then.

    Raises:
        InputError: The format named can't be had for this model.
    """
    on_processor = writer.device.torch_device.type == "cpu"
    if weights == "transformers" or (weights == "auto" and not on_processor):
        return _transformers(writer)
    if not on_processor:
        raise InputError(
            f"weights is {weights}, which is for processors, and the device is "
            f"{writer.device.device}",
            "use weights auto, or device cpu",
        )
    if weights in session.BY_ONNXRUNTIME and not session.available():
        raise InputError(
            f"weights is {weights}, and onnxruntime is not installed",
            "pip install 'creativewritinggpt[fast]', or use weights auto",
        )
    kind = _automatic(writer) if weights == "auto" else weights
    state = (kind, *adapter_state(writer.model))
    known = _kept.get(writer.model, [])
    for entry in known:
        if entry[0] == state:
            _kept[writer.model] = [entry, *(other for other in known if other is not entry)]
            return entry[1]
    try:
        backend = NativeBackend(writer.bare, kind)
    except Unsupported as error:
        if weights == "auto" or not required:
            return _transformers(writer)
        raise InputError(
            f"weights is {weights}, and our own forward pass does not know {error}",
            "use weights auto or transformers",
        ) from error
    _kept[writer.model] = [(state, backend), *known][:_MOST]
    return backend


def _automatic(writer: LoadedModel) -> str:
    """The fastest format here, or fp32 where others may not be used."""
    device = writer.device
    if device.precision != "bf16" and not device.approximate:
        return "fp32"
    fastest = fastest_weights(device.threads)
    if fastest in session.BY_ONNXRUNTIME and not session.knows(writer.bare.config):
        return "int8"
    return fastest


def _transformers(writer: LoadedModel) -> TransformersBackend:
    if writer.device.torch_device.type == "cpu":
        return TransformersBackend(writer.model)
    return TransformersBackend(writer.model, writer.device.autocast)
