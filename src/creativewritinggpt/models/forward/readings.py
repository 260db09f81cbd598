"""Readings of long texts on disk: keys and values, so that a story is not read again when opened.

A reading is what a model has computed of a text: its keys and values, and the logits after its last
token. The last ones are written when a session or the studio ends, and found again by the tokens
that a new text has in common with them, up to the end of a block; what comes after is read as
always. The numbers are those that the same forward pass would compute, to the last bit, since a
text is read in the same blocks either way.

    readings/<model, adapters, format, machine>/<tokens>/  reading.safetensors, reading.json

The first folder's name is a digest of all that the numbers depend on: the model's files, its
adapters and their strengths, the format, the code, the processor, the threads and the libraries. An
entry is checked by its SHA-256 before use; a damaged one is removed.

Trade-off: a token of the starter takes 46 KB of disk, a story of 3,000 words some 180 MB, so that
the least recently used entries go when all together exceed :data:`MOST_BYTES`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ...devices import processor
from ...errors import UserError
from ...files import (
    atomic_folder,
    cache_folder,
    clean_up,
    file_sha256,
    read_json,
    write_json,
)

if TYPE_CHECKING:
    from .weights import Weights

MOST_BYTES = 1 << 30
"""Bytes that all entries together may take."""
LEAST_TOKENS = 768
"""Shorter texts are read again in less time than a reading takes to be found and checked."""

_CONTENT, _RECORD = "reading.safetensors", "reading.json"


def readings_of(weights: Weights, kind: str) -> Readings | None:
    """Where readings by these weights in a format lie; None for weights that come from no files."""
    from .packed import weights_digest
    from .weights import FileWeights

    digest = weights_digest(weights) if isinstance(weights, FileWeights) else None
    if digest is None:
        return None
    parts = [digest, kind, torch.__version__, processor(), str(torch.get_num_threads())]
    if kind == "onnx":
        import onnxruntime

        parts.append(onnxruntime.__version__)
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
    return Readings(cache_folder() / "readings" / name)


class Readings:
    """The stored readings of one model in one format.

    Args:
        folder: Where they lie; it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, ids: Sequence[int], least: int) -> tuple[list[int], Tensor, Tensor] | None:
        """The reading that has most in common with a text.

        Args:
            ids: The text's tokens.
            least: How many tokens it has to have in common with it, from the start.

        Returns:
            Its tokens, keys and values ``[layers, 2, heads, tokens, size]`` and the logits
            ``[1, vocabulary]`` after them; None where there is none.
        """
        wanted = np.asarray(ids, dtype=np.int64)
        found = [(common_tokens(wanted, known), entry) for entry, known in self._entries()]
        for common, entry in sorted(found, key=lambda one: -one[0]):
            if common < least:
                return None
            reading = _load(entry)
            if reading is not None:
                with contextlib.suppress(OSError):
                    os.utime(entry)
                return reading
            shutil.rmtree(entry, ignore_errors=True)
        return None

    def keep(self, ids: Sequence[int], entries: Tensor, logits: Tensor) -> bool:
        """Write a reading, in place of those of the same text when it was shorter.

        Args:
            ids: The tokens, at least :data:`LEAST_TOKENS`.
            entries: Keys and values ``[layers, 2, heads, tokens, size]``.
            logits: ``[1, vocabulary]`` after the last token.

        Returns:
            Whether it was written. It is not where it is known already, is too large, or the disk
            is full.
        """
        from safetensors.torch import save_file

        own = np.asarray(ids, dtype=np.int64)
        if len(own) < LEAST_TOKENS or entries.nbytes > MOST_BYTES // 2:
            return False
        older = []
        for entry, known in self._entries():
            common = common_tokens(own, known)
            if common == len(own):
                return False
            if 2 * common > len(known):
                older.append(entry)
        name = hashlib.sha256(own.tobytes()).hexdigest()[:32]
        tensors = {"entries": entries.contiguous(), "logits": logits.contiguous()}
        try:
            with atomic_folder(self.folder / name) as folder:
                save_file({"ids": torch.from_numpy(own), **tensors}, folder / _CONTENT)
                np.save(folder / "tokens.npy", own)
                write_json(folder / _RECORD, {"sha256": file_sha256(folder / _CONTENT)})
        except (OSError, UserError):  # a full or read-only disk
            return False
        for entry in older:
            shutil.rmtree(entry, ignore_errors=True)
        _make_room(self.folder / name)
        return True

    def _entries(self) -> list[tuple[Path, np.ndarray]]:
        """The folder and the tokens of each entry."""
        found = []
        for path in self.folder.glob("*/tokens.npy"):
            if path.parent.name.startswith("."):
                continue
            try:
                known = np.load(path, allow_pickle=False)
            except (OSError, ValueError, EOFError):
                continue
            if known.ndim == 1:
                found.append((path.parent, known))
        return found


def common_tokens(one: np.ndarray, other: np.ndarray) -> int:
    """How many tokens two texts have in common from their start."""
    length = min(len(one), len(other))
    differs = one[:length] != other[:length]
    return int(differs.argmax()) if differs.any() else length


def _load(entry: Path) -> tuple[list[int], Tensor, Tensor] | None:
    """A reading, checked; None where it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = entry / _CONTENT
    try:
        if file_sha256(path) != read_json(entry / _RECORD)["sha256"]:
            return None
        tensors = load_file(path)
        return tensors["ids"].tolist(), tensors["entries"], tensors["logits"]
    except (OSError, UserError, ValueError, KeyError, TypeError, SafetensorError):
        return None


def _make_room(kept: Path) -> None:
    """Remove the least recently used entries of all models where they are too large together."""
    found = []
    for folder in kept.parent.parent.iterdir():
        with contextlib.suppress(OSError):
            clean_up(folder, shared=True)
    for path in kept.parent.parent.glob("*/*"):
        with contextlib.suppress(OSError):
            if path.is_dir() and not path.name.startswith("."):
                size = sum(file.stat().st_size for file in path.iterdir())
                found.append((path.stat().st_mtime, size, path))
    total = 0
    for _, size, path in sorted(found, reverse=True):
        total += size
        if total > MOST_BYTES and path != kept:
            shutil.rmtree(path, ignore_errors=True)
