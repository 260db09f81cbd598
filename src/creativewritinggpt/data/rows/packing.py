"""Token ids of documents, and their packing into rows of equal length.

Ids are made once, then memory-mapped. Their cache is keyed by what they depend on: the prompt,
joint and text of every document in their order, and the tokenizer's definition. Row length, masking
and mixing come later and share one entry.

A document becomes ``[bos] ids… [eos]``. At each position a model reads one token and is to predict
the next, so a document of n ids has n + 1 pairs::

    reads     bos  i1  i2  i3
    predicts  i1   i2  i3  eos

A row takes ``max_length`` pairs. A longer document is cut into chunks; the next chunk begins by
reading what the last one ended by predicting, so every token is predicted exactly once. Chunks are
placed longest first, each into the fullest row that still takes it (best fit decreasing). Positions
restart at 0 in each chunk, and ``segment_ids`` tell them apart for the attention mask. Only the
plan, a few numbers per chunk, is kept for the whole corpus.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ...console import ProgressCallback
from ...locking import cached_folder
from ..document import Document
from ..store import identities, in_parts

_FORMAT = "3"

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class TokenizedDocuments:
    """Token ids of documents, concatenated.

    Attributes:
        ids: [tokens] int32, memory-mapped where they come from the cache.
        offsets: [documents + 1] int64; document i is ``ids[offsets[i]:offsets[i + 1]]``.
        prompt_lengths: [documents] int32, how many of its ids are the prompt and its joint. A
            token that spans joint and text counts as text: after a space, the text's first token.
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
            are its prompt and joint (a token that spans them and the text counts as text).
        """
        ids = self.encode([document.full_text() for document in batch])
        lengths = np.zeros(len(batch), dtype=np.int32)
        prompted = [i for i, document in enumerate(batch) if document.prompt]
        prompts = self.encode([f"{batch[i].prompt}{batch[i].joint}" for i in prompted])
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
    for digest, joint in identities(documents):
        content.update(f"{digest}{joint}".encode())
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

    return cached_folder(entry, lambda: _load(entry), make, checked=True)


IGNORE = -100
"""The target of a position that is not trained on or scored."""

Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PackedRows:
    """Packed rows, ready for a model; every array is [rows, max_length].

    Attributes:
        input_ids: What is read; the end-of-text token in the padding.
        targets: The token to be predicted at this position (already shifted); ``IGNORE`` in the
            padding and in masked prompts.
        position_ids: Restart at 0 for each chunk.
        segment_ids: 1, 2, … for the chunks of a row; 0 in the padding.
        document_ids: Which document the chunk is of; -1 in the padding.
        is_eos: The target is the end-of-text token that ends a document.
    """

    input_ids: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    position_ids: npt.NDArray[np.int64]
    segment_ids: npt.NDArray[np.int32]
    document_ids: npt.NDArray[np.int32]
    is_eos: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def max_length(self) -> int:
        """Positions in a row."""
        return int(self.input_ids.shape[1])

    def target_counts(self) -> Array:
        """[rows] the number of targets in each."""
        counts: Array = (self.targets != IGNORE).sum(axis=1)
        return counts

    def take(self, rows: Sequence[int] | slice | Array) -> PackedRows:
        """The rows with these numbers, in that order."""
        index = rows if isinstance(rows, slice) else np.asarray(rows, dtype=np.int64)
        return PackedRows(*(getattr(self, field.name)[index] for field in fields(self)))


def empty_rows(max_length: int) -> PackedRows:
    """Rows of this length, none of them."""
    kinds = (np.int64, np.int64, np.int64, np.int32, np.int32, np.bool_)
    return PackedRows(*(np.zeros((0, max_length), dtype=kind) for kind in kinds))


def concatenate_rows(parts: Sequence[PackedRows]) -> PackedRows:
    """Rows of the same length, one part after another; at least one part."""
    return PackedRows(
        *(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(PackedRows))
    )


def ranges(starts: Array, counts: Array) -> Array:
    """Concatenation of ``start, start + 1, …``, ``count`` numbers for each start."""
    total = int(counts.sum())
    before = np.cumsum(counts) - counts
    numbers: Array = np.arange(total, dtype=np.int64) + np.repeat(starts - before, counts)
    return numbers


class Chunks(NamedTuple):
    """Chunks of documents before they are placed in rows; every array is [chunks].

    ``starts`` and ``lengths`` are in pairs, counted within the document.
    """

    documents: Array
    starts: Array
    lengths: Array

    def take(self, chosen: Array) -> Chunks:
        """The chunks with these numbers."""
        return Chunks(*(array[chosen] for array in self))

    def target_counts(self, tokens: TokenizedDocuments, mask_prompt: bool) -> Array:
        """[chunks] how many targets each has."""
        if not mask_prompt:
            return self.lengths
        prompts = np.asarray(tokens.prompt_lengths, dtype=np.int64)[self.documents]
        counts: Array = self.lengths - np.clip(prompts - self.starts, 0, self.lengths)
        return counts


def cut_chunks(
    tokens: TokenizedDocuments,
    *,
    max_length: int,
    mask_prompt: bool = False,
    documents: Array | None = None,
) -> Chunks:
    """Cut documents (numbers, repeats allowed; None for each once) into chunks of at most a row.

    With ``mask_prompt``, prompts are no targets, and chunks without a target are left out.
    """
    chosen = np.arange(len(tokens)) if documents is None else np.asarray(documents, dtype=np.int64)
    offsets = np.asarray(tokens.offsets, dtype=np.int64)
    pairs = offsets[chosen + 1] - offsets[chosen] + 1
    counts = -(-pairs // max_length)
    places = np.repeat(np.arange(len(pairs), dtype=np.int64), counts)
    starts = ranges(np.zeros_like(counts), counts) * max_length
    chunks = Chunks(chosen[places], starts, np.minimum(max_length, pairs[places] - starts))
    if mask_prompt:
        chunks = chunks.take(np.flatnonzero(chunks.target_counts(tokens, mask_prompt)))
    return chunks


def place(lengths: Array, max_length: int, order: Array) -> tuple[Array, Array]:
    """Row and column of each chunk by best fit; ``order`` has the longest first."""
    rows = np.empty(len(lengths), dtype=np.int64)
    columns = np.empty(len(lengths), dtype=np.int64)
    open_rows: dict[int, list[int]] = {}
    # Bit r is set while a row has exactly r free positions: the fullest row that takes a chunk is
    # the lowest set bit from its length up.
    free = 0
    made = 0
    for chunk, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        fitting = free >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            candidates = open_rows[room]
            row = candidates.pop()
            if not candidates:
                free &= ~(1 << room)
        else:
            row, room = made, max_length
            made += 1
        rows[chunk], columns[chunk] = row, max_length - room
        left = room - length
        if left:
            open_rows.setdefault(left, []).append(row)
            free |= 1 << left
    return rows, columns


@dataclass(frozen=True)
class RowPlan:
    """Plan of packed rows: which chunk of which document goes where; :meth:`take` makes rows.

    Attributes:
        documents, starts, lengths: As in :class:`Chunks`, sorted by row and column.
        columns: [chunks] the position in its row where the chunk begins.
        first_chunk: [rows + 1] where each row's chunks begin in the arrays above.
        bos_id, eos_id: What a document begins and ends with; the latter is also the padding.
        mask_prompt: Whether the tokens of prompts are left out of the targets.
    """

    tokens: TokenizedDocuments
    documents: Array
    starts: Array
    lengths: Array
    columns: Array
    first_chunk: Array
    max_length: int
    bos_id: int
    eos_id: int
    mask_prompt: bool

    def __len__(self) -> int:
        return len(self.first_chunk) - 1

    @property
    def filled(self) -> float:
        """The share of positions that are not padding."""
        return float(self.lengths.sum()) / max(1, len(self) * self.max_length)

    def target_counts(self) -> Array:
        """The number of targets in each row, [rows], without making the rows."""
        chunks = Chunks(self.documents, self.starts, self.lengths)
        sums = np.concatenate([[0], np.cumsum(chunks.target_counts(self.tokens, self.mask_prompt))])
        counts: Array = sums[self.first_chunk[1:]] - sums[self.first_chunk[:-1]]
        return counts

    def take(self, rows: Sequence[int] | slice | Array) -> PackedRows:
        """Make the rows with these numbers, in that order.

        Only the ids that they hold are read from the (memory-mapped) tokens.
        """
        if isinstance(rows, slice):
            chosen = np.arange(*rows.indices(len(self)), dtype=np.int64)
        else:
            chosen = np.asarray(rows, dtype=np.int64).reshape(-1)
        if len(chosen) and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise IndexError(f"rows are numbered 0 to {len(self) - 1}")
        counts = self.first_chunk[chosen + 1] - self.first_chunk[chosen]
        chunks = ranges(self.first_chunk[chosen], counts)
        lengths, documents = self.lengths[chunks], self.documents[chunks]
        rank = ranges(np.zeros_like(counts), counts)

        shape = (len(chosen), self.max_length)
        # One entry for every pair: where it goes, and which pair of its document it is.
        within = ranges(np.zeros_like(lengths), lengths)
        row = np.repeat(np.repeat(np.arange(len(chosen)), counts), lengths)
        place = row * self.max_length + np.repeat(self.columns[chunks], lengths) + within
        pair = np.repeat(self.starts[chunks], lengths) + within
        offsets = np.asarray(self.tokens.offsets, dtype=np.int64)
        begin = np.repeat(offsets[documents], lengths)
        count = np.repeat(offsets[documents + 1] - offsets[documents], lengths)
        ends = pair == count

        ids = self.tokens.ids
        read = np.full(len(pair), self.bos_id, dtype=np.int64)
        inner = pair > 0
        read[inner] = ids[begin[inner] + pair[inner] - 1]
        predict = np.full(len(pair), self.eos_id, dtype=np.int64)
        predict[~ends] = ids[begin[~ends] + pair[~ends]]
        if self.mask_prompt:
            prompt = np.asarray(self.tokens.prompt_lengths, dtype=np.int64)[documents]
            masked = pair < np.repeat(prompt, lengths)
            predict[masked] = IGNORE

        made = PackedRows(
            input_ids=np.full(shape, self.eos_id, dtype=np.int64),
            targets=np.full(shape, IGNORE, dtype=np.int64),
            position_ids=np.zeros(shape, dtype=np.int64),
            segment_ids=np.zeros(shape, dtype=np.int32),
            document_ids=np.full(shape, -1, dtype=np.int32),
            is_eos=np.zeros(shape, dtype=np.bool_),
        )
        made.input_ids.reshape(-1)[place] = read
        made.targets.reshape(-1)[place] = predict
        made.position_ids.reshape(-1)[place] = within
        made.segment_ids.reshape(-1)[place] = np.repeat(rank + 1, lengths)
        made.document_ids.reshape(-1)[place] = np.repeat(documents, lengths)
        made.is_eos.reshape(-1)[place] = ends
        return made


Rows: TypeAlias = PackedRows | RowPlan
"""Rows by number: made already, or as they are taken."""


def plan_rows(
    tokens: TokenizedDocuments,
    *,
    max_length: int,
    bos_id: int,
    eos_id: int,
    mask_prompt: bool = False,
    seed: int = 0,
    documents: Array | None = None,
    chunks: Chunks | None = None,
) -> RowPlan:
    """Decide which chunk goes where, without making the rows.

    Args:
        tokens: The ids of the documents.
        max_length: Positions in a row, at least 1.
        bos_id: The token that a document begins with.
        eos_id: The token that a document ends with.
        mask_prompt: Leave the tokens of the prompt and its joint out of the targets;
            chunks without a target are left out.
        seed: Which of the equally long chunks share a row.
        documents: The numbers of the documents that are laid out, repeats allowed (as
            :func:`~creativewritinggpt.data.mixing.mix` chooses them); without it, each once.
        chunks: What is laid out instead, where documents have been cut already.
    """
    if chunks is None:
        chunks = cut_chunks(
            tokens, max_length=max_length, mask_prompt=mask_prompt, documents=documents
        )
    documents, starts, lengths = chunks
    shuffled = np.random.default_rng(seed).permutation(len(lengths))
    order = shuffled[np.argsort(-lengths[shuffled], kind="stable")]
    rows, columns = place(lengths, max_length, order)
    by_row = np.lexsort((columns, rows))
    count = int(rows.max()) + 1 if len(rows) else 0
    return RowPlan(
        tokens=tokens,
        documents=documents[by_row],
        starts=starts[by_row],
        lengths=lengths[by_row],
        columns=columns[by_row],
        first_chunk=np.searchsorted(rows[by_row], np.arange(count + 1)).astype(np.int64),
        max_length=max_length,
        bos_id=bos_id,
        eos_id=eos_id,
        mask_prompt=mask_prompt,
    )


def pack(tokens: TokenizedDocuments, **shape: Any) -> PackedRows:
    """All rows at once, for what fits in memory (33 bytes per position); see :func:`plan_rows`."""
    return plan_rows(tokens, **shape).take(slice(None))
