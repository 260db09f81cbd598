"""Forward passes in the ``onnx`` format, kept in the cache with their merged and rounded weights.

Merging adapters, balancing and rounding takes several times as long as the first token; reading the
result back maps a file. An entry is keyed by what it was made from: the model's files, the active
adapters with their strengths, and the code that packs. It is checked by its SHA-256 before use.

    packed/<model files>/<adapters, strengths, code>/  weights.safetensors, layout.json

That a model has a folder here also says that its weights were found finite when it was packed.

Trade-off: a packed starter takes 137 MB of disk, so the least recently used entries go when all
together exceed :data:`MOST_BYTES`.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from ...errors import UserError
from ...files import cache_folder, clean_up, file_sha256, read_json, write_json
from ...locking import cached_folder
from .families import FAMILIES, Forward
from .linear import matrix_factory
from .onnx_int8 import FOLDED, Int8Groups, Int8PerRow
from .weights import FileWeights, Weights

MOST_BYTES = 2 << 30
"""Bytes that all entries together may take."""

_MATRICES: dict[str, type[Int8Groups] | type[Int8PerRow]] = {
    "groups": Int8Groups,
    "per_row": Int8PerRow,
}
# Kept in the model's own files, which are mapped as well.
_EMBEDDINGS = {
    "token_embedding": ("transformer.wte.weight", "model.embed_tokens.weight"),
    "position_embedding": ("transformer.wpe.weight",),
}


def forward_pass(weights: Weights, kind: str) -> Forward:
    """The forward pass of a known family, read from the cache where it can be.

    Args:
        weights: Of the model.
        kind: The format of its products (see :func:`~.linear.matrix_factory`).

    Raises:
        Unsupported: Something in the model is not known here.
    """
    family = FAMILIES[weights.config.model_type]
    if kind != FOLDED or not isinstance(weights, FileWeights):
        return family(weights, kind)
    files, entry = weights, _entry(weights)
    if entry is None:
        return family(weights, kind)
    made: list[Forward] = []

    def make(folder: Path) -> None:
        made.append(family(weights, kind))
        _write(made[0], folder)

    try:
        found = cast("Forward", cached_folder(entry, lambda: _read(entry, files), make))
        if made:
            _make_room(entry)
        else:
            os.utime(entry)
    except (OSError, UserError):  # a full or read-only disk
        return made[0] if made else family(weights, kind)
    return found


def is_known(source: str) -> bool:
    """Whether the files of this fingerprint were packed before, and so found whole and finite."""
    return _folder(source).is_dir()


def _folder(source: str) -> Path:
    return cache_folder() / "packed" / source


def _entry(weights: FileWeights) -> Path | None:
    """The folder of an entry; None for weights that come from no files."""
    digest = weights_digest(weights)
    if digest is None or weights.source is None:
        return None
    return _folder(weights.source) / digest.rpartition(" ")[2]


def weights_digest(weights: FileWeights) -> str | None:
    """What says which merged weights these are: the model's files, adapters, strengths and code.

    None for weights that come from no files.
    """
    if weights.source is None:
        return None
    parts = [code_version()]
    for name, strength in weights.strengths.items() if weights.enabled else ():
        source = weights.adapters[name].source
        if source is None:
            return None
        parts.append(f"{source} {strength!r}")
    return f"{weights.source} {hashlib.sha256(chr(10).join(parts).encode()).hexdigest()[:24]}"


@functools.cache
def code_version() -> str:
    """A value that changes when the code that packs does."""
    here = Path(__file__).parent
    names = ("families.py", "linear.py", "onnx_int8.py", "packed.py", "weights.py")
    texts = [(here / name).read_bytes() for name in names]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()


def _write(forward: Forward, folder: Path) -> None:
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    layout = {
        name: _flat(value, name, tensors)
        for name, value in vars(forward).items()
        if name not in ("_make", "dtype", *_EMBEDDINGS)
    }
    path = folder / "weights.safetensors"
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path)
    write_json(folder / "layout.json", {"sha256": file_sha256(path), "layout": layout})


def _flat(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """``value`` as JSON; its tensors go to ``tensors`` under names that begin with ``name``."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, (list, tuple)):
        return [_flat(one, f"{name}.{i}", tensors) for i, one in enumerate(value)]
    for kind, matrix in _MATRICES.items():
        if type(value) is matrix:
            parts = {key: _flat(one, f"{name}.{key}", tensors) for key, one in vars(value).items()}
            return {"matrix": kind, **parts}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{name} is a {type(value).__name__}")


def _read(entry: Path, weights: FileWeights) -> Forward | None:
    """The forward pass of an entry; None where it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = entry / "weights.safetensors"
    try:
        record = read_json(entry / "layout.json")
        if file_sha256(path) != record["sha256"]:
            return None
        tensors = load_file(path)
        values = {name: _whole(value, tensors) for name, value in record["layout"].items()}
    except (OSError, UserError, ValueError, KeyError, TypeError, SafetensorError):
        return None
    family = FAMILIES[weights.config.model_type]
    forward: Forward = family.__new__(family)
    _, dtype = matrix_factory(FOLDED)
    vars(forward).update(values, dtype=dtype)
    for name, places in _EMBEDDINGS.items():
        for place in places:
            if weights.has(place):
                setattr(forward, name, weights.tensor(place))
    return forward


def _whole(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value that :func:`_flat` made JSON of, lists for tuples."""
    if isinstance(value, list):
        return [_whole(one, tensors) for one in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    kind = _MATRICES[value["matrix"]]
    matrix = kind.__new__(kind)
    parts = {key: _whole(one, tensors) for key, one in value.items() if key != "matrix"}
    vars(matrix).update(parts, shape=tuple(parts["shape"]))
    return matrix


def _make_room(kept: Path) -> None:
    """Remove the least recently used entries where all together are too large."""
    for folder in kept.parent.parent.iterdir():
        clean_up(folder, shared=True)
    entries = [path for path in kept.parent.parent.glob("*/*") if path.is_dir()]
    entries = [path for path in entries if not path.name.startswith(".")]

    def used(path: Path) -> float:
        try:
            return path.stat().st_mtime
        except OSError:
            return 0.0

    total = 0
    for entry in sorted(entries, key=used, reverse=True):
        total += sum(file.stat().st_size for file in entry.glob("*") if file.is_file())
        if total > MOST_BYTES and entry != kept:
            shutil.rmtree(entry, ignore_errors=True)
