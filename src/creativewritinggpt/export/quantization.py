"""Number formats of GGUF: which tensor gets which, and the arithmetic.

``gguf`` quantises the formats of 32 weights a block, as llama.cpp's reference code does. It only
reads the K-formats of 256 a block; those are made by llama.cpp's own ``ggml_quantize_chunk``, out
of the library that xllamacpp or llama-cpp-python brings. Which tensor of a K-format gets more bits
follows llama.cpp's ``llama-quant.cpp``.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

INSTALL = "pip install 'creativewritinggpt[export]'"
_LARGEST_HALF = 65504.0


@dataclasses.dataclass(frozen=True)
class Format:
    """A number format of a whole file.

    Attributes:
        name: As llama.cpp calls it.
        file_type: Its number in ``general.file_type``.
        base: The type of most matrices.
        better: The type of the head, and of the token embedding where it is the head.
        mean_kl: Largest mean divergence from the fp32 model that counts as right, nats per token.
            Bounds of a check and not what to expect; docs/export.md has measurements.
    """

    name: str
    file_type: int
    base: str
    better: str
    mean_kl: float

    @property
    def by_llama_cpp(self) -> bool:
        """Whether llama.cpp's library has to quantise."""
        return "_K" in self.name


# Not Q4_1: the starter's weights were distributed in it, so a merge is rounded back to its grid,
# and what a small adapter changed is lost.
FORMATS = {
    form.name: form
    for form in (
        Format("F32", 0, "F32", "F32", 1e-6),
        Format("F16", 1, "F16", "F16", 1e-3),
        Format("BF16", 32, "BF16", "BF16", 1e-2),
        Format("Q8_0", 7, "Q8_0", "Q8_0", 2e-2),
        Format("Q6_K", 18, "Q6_K", "Q6_K", 0.1),
        Format("Q5_K_M", 17, "Q5_K", "Q6_K", 0.5),
        Format("Q5_1", 9, "Q5_1", "Q8_0", 0.5),
        Format("Q5_0", 8, "Q5_0", "Q8_0", 0.5),
        Format("Q4_K_M", 15, "Q4_K", "Q6_K", 1.0),
        Format("Q4_0", 2, "Q4_0", "Q8_0", 1.5),
    )
}
_FALLBACK = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}

# By type: what the largest error within a block is a share of, and the share. Types with a scale
# alone spread the largest value, those with a minimum the range; K-types scale their scales, too.
_STEP = {
    "Q8_0": ("largest", 32, 0.6 / 127),
    "Q5_0": ("largest", 32, 1.1 / 16),
    "Q4_0": ("largest", 32, 1.1 / 8),
    "Q5_1": ("range", 32, 0.6 / 31),
    "Q6_K": ("largest", 256, 1.1 / 32),
    "Q5_K": ("largest", 256, 2.4 / 31),
    "Q4_K": ("largest", 256, 2.4 / 15),
}


def tensor_format(form: Format, name: str, shape: tuple[int, ...], layers: int, tied: bool) -> str:
    """The number format of one tensor.

    Args:
        form: Of the file.
        name: GGUF's name of the tensor.
        shape: ``[rows, row length]``, or of one dimension.
        layers: Layers of the model.
        tied: Whether the token embedding is the head, too.
    """
    if len(shape) == 1 or name == "position_embd.weight" or form.name == "F32":
        return "F32"
    if form.base in ("F16", "BF16"):
        return form.base
    kind = form.base
    if name == "output.weight" or (name == "token_embd.weight" and tied):
        kind = form.better
    elif form.name.endswith("_M"):
        part = name.split(".")[2] if name.startswith("blk.") else ""
        if part in ("attn_v", "ffn_down") and _gets_more_bits(int(name.split(".")[1]), layers):
            kind = "Q6_K"
        elif part == "attn_qkv":
            kind = "Q5_K" if form.name == "Q4_K_M" else "Q6_K"
    if kind in _FALLBACK and shape[-1] % 256:
        kind = _FALLBACK[kind]
    return kind if shape[-1] % 32 == 0 else "F16"


def _gets_more_bits(layer: int, layers: int) -> bool:
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def quantized(values: np.ndarray, kind: str, name: str) -> np.ndarray:
    """A tensor in a number format, as the bytes or numbers that a file holds.

    Args:
        values: float32.
        kind: ``F32``, ``F16`` or a type of ggml.
        name: Of the tensor, for messages.

    Raises:
        InputError: F16 can't hold a value, or the library that makes K-formats is missing.
    """
    import gguf

    if kind == "F32":
        return values
    if kind == "F16":
        if np.abs(values).max(initial=0.0) > _LARGEST_HALF:
            raise InputError(f"{name} holds values that F16 can't", "take BF16 or Q8_0")
        return values.astype(np.float16)
    ggml = ggml_type(kind)
    if kind.endswith("_K"):
        return _quantized_by_llama_cpp(values, ggml)
    found: np.ndarray = gguf.quantize(np.ascontiguousarray(values), ggml)
    return found


def ggml_type(kind: str) -> GGMLQuantizationType:
    """The type of ``gguf`` for a name of a number format."""
    from gguf import GGMLQuantizationType

    return GGMLQuantizationType[kind]


def largest_error(values: np.ndarray, kind: str) -> np.ndarray | float:
    """The largest rounding error that a format may make, for each weight.

    Args:
        values: float32, what was written.
        kind: Its number format.

    Returns:
        In the shape of ``values``; 0 for formats that are not quantised.
    """
    if kind not in _STEP:
        return 0.0
    measure, block, share = _STEP[kind]
    blocks = values.reshape(-1, block)
    span = np.abs(blocks).max(1) if measure == "largest" else blocks.max(1) - blocks.min(1)
    # Scales are half-precision numbers, which begin at 6e-8.
    bound: np.ndarray = np.repeat(span * share + 1e-7, block).reshape(values.shape)
    return bound


@functools.cache
def llama_cpp_library() -> ctypes.CDLL | None:
    """A loaded library that has ``ggml_quantize_chunk``, or None."""
    for package, patterns in (
        ("xllamacpp", ("xllamacpp*.so", "xllamacpp*.pyd")),
        ("llama_cpp", ("lib/*ggml-base*", "lib/*llama*")),
    ):
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            for pattern in patterns:
                for path in sorted(Path(place).glob(pattern)):
                    try:
                        library = ctypes.CDLL(str(path))
                        function = library.ggml_quantize_chunk
                    except (OSError, AttributeError):
                        continue
                    function.restype = ctypes.c_size_t
                    function.argtypes = (
                        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64,
                        ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
                    )  # fmt: skip
                    return library
    return None


def check_available(form: Format) -> None:
    """Refuse a format that nothing installed can make.

    Raises:
        InputError: It needs llama.cpp's library.
    """
    if form.by_llama_cpp and llama_cpp_library() is None:
        raise InputError(
            f"{form.name} is made by llama.cpp's own library, which is not here",
            f"{INSTALL} (or llama-cpp-python), or take Q8_0, Q5_1 or Q4_0",
        )


def _quantized_by_llama_cpp(values: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """Quantise by ``ggml_quantize_chunk``; returns bytes ``[rows, bytes per row]``."""
    from gguf.quants import quant_shape_to_byte_shape

    library = llama_cpp_library()
    assert library is not None, "checked before"
    rows, length = values.shape
    source = np.ascontiguousarray(values, dtype=np.float32)
    result = np.empty(quant_shape_to_byte_shape(values.shape, kind), dtype=np.uint8)
    written = library.ggml_quantize_chunk(
        int(kind), source.ctypes.data, result.ctypes.data, 0, rows, length, None
    )
    if written != result.nbytes:
        raise RuntimeError(f"ggml wrote {written} bytes of {result.nbytes}")
    return result
