"""Documents on disk, read back by number, so that memory does not grow with the corpus.

A source's documents are written once, cleaned, as lines of JSON; what the split needs of each (a
few numbers) stands beside in arrays. For each document 60 bytes or so are in memory, whatever its
length; the price is that reading one costs a seek and some parsing, which is far cheaper than
tokenizing it. Stores are kept in the cache under a key of what made them, so that a second run
finds them; those of sources without such a key live in a temporary folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from .document import Document
from .duplicates import fingerprint
from .report import SourceReport

# Characters of documents that are handled together.
_BLOCK = 1_000_000
_SPLITS = {None: 0, "train": 1, "validation": 2}


def hash_text(text: str, salt: str = "") -> int:
    """64 bits of a text, the same in every process."""
    content = f"{salt}\0{text}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


class DocumentStore(Sequence[Document]):
    """The documents of one source.

    Attributes:
        folder: Where it is.
        report: The account of how they were made.
        offsets: [documents + 1] where each begins in the file.
        groups: [documents] 64 bits of each group's name.
        fingerprints: [documents] 64 bits of each text without case, punctuation and spacing.
        digests: [documents, 20] SHA-1 of each, as bytes.
        splits: [documents] 0 where there is no official split, 1 for training, 2 for validation.
    """

    def __init__(self, folder: Path) -> None:
        """Open what :func:`write_store` wrote."""
        self.folder = folder
        described = json.loads((folder / "report.json").read_text("utf-8"))
        self.report = SourceReport.from_dict(described)
        self.offsets: npt.NDArray[np.int64] = np.load(folder / "offsets.npy")
        self.groups: npt.NDArray[np.uint64] = np.load(folder / "groups.npy")
        self.fingerprints: npt.NDArray[np.uint64] = np.load(folder / "fingerprints.npy")
        self.digests: npt.NDArray[np.uint8] = np.load(folder / "digests.npy")
        self.splits: npt.NDArray[np.uint8] = np.load(folder / "splits.npy")
        self._stream = (folder / "documents.jsonl").open("rb")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> Document: ...
    @overload
    def __getitem__(self, index: slice) -> list[Document]: ...
    def __getitem__(self, index: int | slice) -> Document | list[Document]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        self._stream.seek(self.offsets[index])
        line = self._stream.read(int(self.offsets[index + 1] - self.offsets[index]))
        return Document(*json.loads(line.decode("utf-8", "surrogatepass")))


@dataclass(frozen=True)
class Block:
    """Some documents as they go to disk.

    Attributes:
        key: Where they belong in the order of their source.
        lines: uint8, their lines one after another.
        lengths: [documents] int64, of each line.
        groups: As in :class:`DocumentStore`.
        fingerprints: As in :class:`DocumentStore`.
        digests: [documents × 20] as in :class:`DocumentStore`.
        splits: As in :class:`DocumentStore`.
        words: [documents] int64, how many words each has.
    """

    key: int
    lines: npt.NDArray[np.uint8]
    lengths: npt.NDArray[np.int64]
    groups: npt.NDArray[np.uint64]
    fingerprints: npt.NDArray[np.uint64]
    digests: npt.NDArray[np.uint8]
    splits: npt.NDArray[np.uint8]
    words: npt.NDArray[np.int64]


def blocks(documents: Iterable[Document], key: Callable[[], int]) -> Iterator[Block]:
    """Documents as they go to disk; those of a block have the same key.

    Args:
        documents: In order.
        key: Asked after each document where it belongs.
    """
    waiting: list[Document] = []
    current = size = 0
    for document in documents:
        at = key()
        if waiting and (at != current or size >= _BLOCK):
            yield _block(current, waiting)
            waiting, size = [], 0
        current = at
        waiting.append(document)
        size += len(document.text)
    if waiting:
        yield _block(current, waiting)


def _block(key: int, documents: Sequence[Document]) -> Block:
    rows = ([getattr(d, name) for name in Document.__slots__] for d in documents)
    lines = [
        json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n" for row in rows
    ]
    digests = b"".join(bytes.fromhex(document.digest) for document in documents)
    return Block(
        key=key,
        lines=np.frombuffer(b"".join(lines), dtype=np.uint8),
        lengths=np.array([len(line) for line in lines], dtype=np.int64),
        groups=np.array([hash_text(d.group) for d in documents], dtype=np.uint64),
        fingerprints=np.array([fingerprint(d.full_text()) for d in documents], dtype=np.uint64),
        digests=np.frombuffer(digests, dtype=np.uint8),
        splits=np.array([_SPLITS[d.split] for d in documents], dtype=np.uint8),
        words=np.array([d.words for d in documents], dtype=np.int64),
    )


def write_store(folder: Path, documents: Iterable[Block], report: SourceReport) -> None:
    """Write documents and what the split needs of them into an existing folder.

    ``report`` is filled by the iteration and counted here; it is written last.
    """
    kept: list[Block] = []
    with (folder / "documents.jsonl").open("wb") as stream:
        for block in documents:
            stream.write(block.lines.tobytes())
            report.documents += len(block.lengths)
            report.words += int(block.words.sum())
            kept.append(replace(block, lines=np.zeros(0, dtype=np.uint8)))

    def joined(name: str, dtype: Any) -> npt.NDArray[Any]:
        return np.concatenate([np.zeros(0, dtype), *(getattr(block, name) for block in kept)])

    lengths = joined("lengths", np.int64)
    np.save(folder / "offsets.npy", np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]))
    np.save(folder / "groups.npy", joined("groups", np.uint64))
    np.save(folder / "fingerprints.npy", joined("fingerprints", np.uint64))
    np.save(folder / "digests.npy", joined("digests", np.uint8).reshape(-1, 20))
    np.save(folder / "splits.npy", joined("splits", np.uint8))
    (folder / "report.json").write_text(json.dumps(report.to_dict()), "utf-8")


class Documents(Sequence[Document]):
    """Chosen documents of several stores, in a fixed order; a list in all but memory."""

    def __init__(
        self,
        stores: Sequence[DocumentStore],
        chosen: Sequence[npt.NDArray[np.int64]],
        extra: Sequence[Document] = (),
    ) -> None:
        """Take ``chosen[i]`` of ``stores[i]``, store after store, and ``extra`` at the end."""
        self._stores = list(stores)
        self._store = np.repeat(np.arange(len(stores)), [len(c) for c in chosen])
        self._index = np.concatenate([*chosen, np.zeros(0, dtype=np.int64)]).astype(np.int64)
        self._extra = list(extra)

    def __len__(self) -> int:
        return len(self._index) + len(self._extra)

    @overload
    def __getitem__(self, index: int) -> Document: ...
    @overload
    def __getitem__(self, index: slice) -> list[Document]: ...
    def __getitem__(self, index: int | slice) -> Document | list[Document]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        if index >= len(self._index):
            return self._extra[index - len(self._index)]
        document: Document = self._stores[int(self._store[index])][int(self._index[index])]
        return document

    def digests(self) -> Iterator[str]:
        """The digest of each document, without reading the texts."""
        for store, index in zip(self._store, self._index, strict=True):
            yield self._stores[store].digests[index].tobytes().hex()
        for document in self._extra:
            yield document.digest

    def on_disk(self) -> tuple[list[Path], npt.NDArray[np.int64], npt.NDArray[np.int64], list[int]]:
        """Where another process finds the documents.

        Returns:
            The folders of the stores; of each document but the extra ones at the end, which store
            it is in and its number there; and its size in bytes.
        """
        sizes = [np.diff(store.offsets) for store in self._stores]
        size = [int(sizes[s][i]) for s, i in zip(self._store, self._index, strict=True)]
        return [store.folder for store in self._stores], self._store, self._index, size

    def sources(self) -> list[str]:
        """The source of each document, without reading the texts."""
        names = [store.report.name for store in self._stores]
        return [names[i] for i in self._store] + [document.source for document in self._extra]


def to_json(value: Any) -> str:
    """JSON with sorted keys, for hashing."""
    return json.dumps(value, sort_keys=True, ensure_ascii=True)


def sources_of(documents: Sequence[Document]) -> list[str]:
    """The source of each document; collections on disk are not read for it."""
    known = getattr(documents, "sources", None)
    return known() if known is not None else [document.source for document in documents]
