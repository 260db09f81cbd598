"""Token ids of documents: made once, then memory-mapped.

The cache is keyed by what the ids depend on: the prompt and text of every document in their order,
and the tokenizer's definition. Row length, masking and mixing come later and share one entry. An
entry is a folder that appears whole or not at all; a second process that wants it waits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...console import ProgressCallback
from ...files import cached_folder
from ..document import SEPARATOR, Document
from ..store import digests, in_parts

_FORMAT = "2"

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class TokenizedDocuments:
    """Token ids of documents, concatenated.

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


def _definition(tokenizer: Any) -> str:
    """The JSON definition of a fast tokenizer of transformers."""
    definition: str = tokenizer.backend_tokenizer.to_str()
    return definition


class Encoder:
    """Encodes texts as plain characters: no special token is added or recognised.

    The ``tokenizers`` library encodes a batch on all cores (``RAYON_NUM_THREADS`` bounds them).

    Args:
        tokenizer: A fast tokenizer of transformers, which stays as it is.
    """

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_str(_definition(tokenizer))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text."""
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encoded]

    def encode_documents(self, batch: Sequence[Document]) -> tuple[Ids, Ids, Ids]:
        """The ids of some documents, prompt and text together.

        Returns:
            All ids one after another; [documents] how many each has; [documents] how many of those
            are its prompt and the empty line after it (a token that spans both counts as text).
        """
        ids = self.encode([document.full_text() for document in batch])
        lengths = np.zeros(len(batch), dtype=np.int32)
        prompted = [i for i, document in enumerate(batch) if document.prompt]
        prompts = self.encode([f"{batch[i].prompt}{SEPARATOR}" for i in prompted])
        for i, prompt in zip(prompted, prompts, strict=True):
            lengths[i] = _common(prompt, ids[i])
        counts = np.array([len(document) for document in ids], dtype=np.int32)
        return np.concatenate([np.zeros(0, np.int32), *ids]), counts, lengths


def _common(first: Ids, second: Ids) -> int:
    """How many leading ids agree."""
    shorter = min(len(first), len(second))
    differ = np.flatnonzero(first[:shorter] != second[:shorter])
    return int(differ[0]) if len(differ) else shorter


def encode(tokenizer: Any, text: str) -> list[int]:
    """The ids of one text as documents are encoded: no special tokens, none recognised."""
    ids: list[int] = Encoder(tokenizer).encode([text])[0].tolist()
    return ids


def _encode_all(
    documents: Sequence[Document],
    tokenizer: Any,
    write: Callable[[Ids], Any],
    progress: ProgressCallback | None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Hand the ids to ``write`` batch by batch; returns offsets and prompt lengths."""
    encoder = Encoder(tokenizer)
    counts: list[Ids] = [np.zeros(1, dtype=np.int32)]
    prompts: list[Ids] = [np.zeros(0, dtype=np.int32)]
    done = 0
    for batch in in_parts(documents):
        ids, lengths, prompt_lengths = encoder.encode_documents(batch)
        write(ids)
        counts.append(lengths)
        prompts.append(prompt_lengths)
        done += len(lengths)
        if progress is not None:
            progress("tokenizing", done, len(documents))
    return np.cumsum(np.concatenate(counts), dtype=np.int64), np.concatenate(prompts)


def _key(documents: Sequence[Document], tokenizer: Any) -> str:
    identity = hashlib.sha256(_definition(tokenizer).encode()).hexdigest()
    content = hashlib.sha256(f"{_FORMAT}\n{identity}\n".encode())
    for digest in digests(documents):
        content.update(digest.encode())
    return content.hexdigest()


def _load(entry: Path) -> TokenizedDocuments | None:
    """The entry's arrays, or None where there is none that is whole."""
    try:
        offsets = np.load(entry / "offsets.npy", allow_pickle=False)
        prompts = np.load(entry / "prompt_lengths.npy", allow_pickle=False)
        # An empty file can't be mapped.
        ids = np.memmap(entry / "ids.bin", "<i4", "r") if offsets[-1] else np.zeros(0, np.int32)
    except (OSError, ValueError, EOFError):
        return None
    if len(offsets) != len(prompts) + 1 or len(ids) != offsets[-1]:
        return None
    return TokenizedDocuments(ids, offsets, prompts)


def tokenize(
    documents: Sequence[Document],
    tokenizer: Any,
    cache: Path | None,
    progress: ProgressCallback | None = None,
) -> TokenizedDocuments:
    """The ids of ``documents``, from the cache where it has them.

    Args:
        documents: What to encode, prompt and text together.
        tokenizer: A fast tokenizer of transformers.
        cache: The folder that holds cache entries; None encodes in memory.
        progress: Called after each batch with documents done and to be done.

    Raises:
        RunError: The disk is full.
        InputError: The cache folder can't be written.
    """
    if cache is None:
        parts: list[Ids] = [np.zeros(0, dtype=np.int32)]
        offsets, prompts = _encode_all(documents, tokenizer, parts.append, progress)
        return TokenizedDocuments(np.concatenate(parts), offsets, prompts)

    entry = cache / "tokens" / _key(documents, tokenizer)

    def make(folder: Path) -> None:
        with (folder / "ids.bin").open("wb") as stream:
            offsets, prompts = _encode_all(
                documents, tokenizer, lambda ids: stream.write(ids.tobytes()), progress
            )
        np.save(folder / "offsets.npy", offsets)
        np.save(folder / "prompt_lengths.npy", prompts)

    return cached_folder(entry, lambda: _load(entry), make)
