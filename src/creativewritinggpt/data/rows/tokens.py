"""Token ids of documents: made once, then memory-mapped.

The cache is keyed by what the ids depend on and nothing else: the prompt and text of every document
in their order, and the tokenizer (its whole definition, as JSON). Row length, masking and mixing
come later and share one entry. An entry is a folder that appears whole or not at all; a second
process that wants the same entry waits for the first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...console import ProgressCallback
from ...files import cached_folder
from ..document import Document
from .encoder import Encoder, Ids, definition_of
from .sharing import encoded

_FORMAT = "1"


@dataclass(frozen=True)
class TokenizedDocuments:
    """The ids of all documents, one after another.

    Attributes:
        ids: [tokens] int32, memory-mapped where they come from the cache.
        offsets: [documents + 1] int64; document i is ``ids[offsets[i]:offsets[i + 1]]``.
        prompt_lengths: [documents] int32, how many of its ids are the prompt and the empty line
            after it.
    """

    ids: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    prompt_lengths: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> npt.NDArray[np.int32]:
        """The ids of one document, without begin and end of text."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.ids[int(self.offsets[index]) : int(self.offsets[index + 1])]

    def lengths(self) -> npt.NDArray[np.int64]:
        """[documents] the number of ids of each."""
        return np.diff(self.offsets)


def tokenizer_identity(tokenizer: Any) -> str:
    """SHA-256 of all that the tokenizer is, as JSON."""
    return hashlib.sha256(definition_of(tokenizer).encode()).hexdigest()


def encode(tokenizer: Any, text: str) -> list[int]:
    """The ids of one text as documents are encoded: no special tokens, none recognised."""
    ids: list[int] = Encoder(definition_of(tokenizer)).encode([text])[0].tolist()
    return ids


def _encode_all(
    documents: Sequence[Document],
    tokenizer: Any,
    write: Callable[[Ids], Any],
    progress: ProgressCallback | None,
    processes: int | None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Hand the ids to ``write`` batch by batch; returns offsets and prompt lengths."""
    counts: list[Ids] = [np.zeros(1, dtype=np.int32)]
    prompts: list[Ids] = [np.zeros(0, dtype=np.int32)]
    done = 0
    for ids, lengths, prompt_lengths in encoded(documents, definition_of(tokenizer), processes):
        write(ids)
        counts.append(lengths)
        prompts.append(prompt_lengths)
        done += len(lengths)
        if progress is not None:
            progress("tokenizing", done, len(documents))
    return np.cumsum(np.concatenate(counts), dtype=np.int64), np.concatenate(prompts)


def _key(documents: Sequence[Document], tokenizer: Any) -> str:
    content = hashlib.sha256(f"{_FORMAT}\n{tokenizer_identity(tokenizer)}\n".encode())
    for digest in digests(documents):
        content.update(digest.encode())
    return content.hexdigest()


def digests(documents: Sequence[Document]) -> Iterator[str]:
    """The digest of each document; collections that know theirs are asked for them."""
    known = getattr(documents, "digests", None)
    if known is not None:
        yield from known()
    else:
        for document in documents:
            yield document.digest


def _load(entry: Path) -> TokenizedDocuments | None:
    """The entry's arrays, or None where there is none that is whole."""
    try:
        ids = np.load(entry / "ids.npy", mmap_mode="r", allow_pickle=False)
        offsets = np.load(entry / "offsets.npy", allow_pickle=False)
        prompts = np.load(entry / "prompt_lengths.npy", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if len(offsets) != len(prompts) + 1 or len(ids) != offsets[-1]:
        return None
    return TokenizedDocuments(ids, offsets, prompts)


def _write_ids(path: Path) -> tuple[Any, Callable[[Ids], Any]]:
    """Open a growing ``.npy`` of int32; its header is completed by :func:`_finish_ids`."""
    stream = path.open("wb")
    _header(stream, 0)

    def write(ids: Ids) -> None:
        stream.write(ids.tobytes())

    return stream, write


def _header(stream: Any, count: int) -> None:
    # A fixed width for the shape keeps the header's length, so that it can be written again.
    text = f"{{'descr': '<i4', 'fortran_order': False, 'shape': ({count:>20d},), }}"
    text = text.ljust(128 - 10 - 1) + "\n"
    stream.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode("latin1"))


def tokenize(
    documents: Sequence[Document],
    tokenizer: Any,
    cache: Path | None,
    progress: ProgressCallback | None = None,
    processes: int | None = None,
) -> TokenizedDocuments:
    """The ids of ``documents``, from the cache where it has them.

    Args:
        documents: What to encode, prompt and text together.
        tokenizer: A fast tokenizer of transformers.
        cache: The folder that holds cache entries; None encodes in memory.
        progress: Called after each batch with documents done and to be done.
        processes: How many share the work; one for each core without it. The ids are the same.

    Raises:
        RunError: The disk is full.
        InputError: The cache folder can't be written.
    """
    if cache is None:
        parts: list[Ids] = [np.zeros(0, dtype=np.int32)]
        offsets, prompts = _encode_all(documents, tokenizer, parts.append, progress, processes)
        return TokenizedDocuments(np.concatenate(parts), offsets, prompts)

    entry = cache / "tokens" / _key(documents, tokenizer)

    def make(folder: Path) -> None:
        stream, write = _write_ids(folder / "ids.npy")
        with stream:
            offsets, prompts = _encode_all(documents, tokenizer, write, progress, processes)
            stream.seek(0)
            _header(stream, int(offsets[-1]))
        np.save(folder / "offsets.npy", offsets)
        np.save(folder / "prompt_lengths.npy", prompts)

    return cached_folder(entry, lambda: _load(entry), make)
