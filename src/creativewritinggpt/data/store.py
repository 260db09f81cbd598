"""Documents on disk, read back by number, so that memory does not grow with the corpus.

A source's documents are written once, cleaned, as lines of JSON; what the split needs of each (a
few numbers) stands beside in arrays, 60 bytes or so per document.

Trade-off: reading a document costs a seek and some parsing, far less than tokenizing it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from .document import Document, SourceReport
from .duplicates import fingerprint

# Characters of documents that are handled together.
PART_CHARACTERS = 1_000_000
# What the split needs of each document.
_ARRAYS = ("groups", "fingerprints", "digests", "joints", "splits")
_SPLITS = {None: 0, "train": 1, "validation": 2}


def hash_text(text: str, salt: str = "") -> int:
    """64 bits of a text, the same in every process."""
    content = f"{salt}\0{text}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


class _OnDisk(Sequence[Document]):
    """Documents that are read from disk one by one."""

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
        return self.read(index)

    def read(self, index: int) -> Document:
        """The document with this number, which is in range."""
        raise NotImplementedError


class DocumentStore(_OnDisk):
    """The documents of one source.

    Attributes:
        report: Counts and notes of how they were made.
        offsets: [documents + 1] where each begins in the file.
        groups: [documents] 64 bits of each group's name.
        fingerprints: [documents] 64 bits of each text without case, punctuation and spacing.
        digests: [documents, 20] SHA-1 of each, as bytes.
        joints: [documents] 64 bits of what stands between prompt and text.
        splits: [documents] official split: 0 none, 1 training, 2 validation.
    """

    def __init__(self, folder: Path) -> None:
        """Open what :func:`write_store` wrote."""
        self.folder = folder
        described = json.loads((folder / "report.json").read_text("utf-8"))
        self.report = SourceReport.from_dict(described)
        names = ("offsets", *_ARRAYS)
        arrays = [np.load(folder / f"{name}.npy", allow_pickle=False) for name in names]
        self.offsets, self.groups, self.fingerprints, self.digests, self.joints, self.splits = (
            arrays
        )
        self._stream = (folder / "documents.jsonl").open("rb")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def read(self, index: int) -> Document:
        """See :class:`_OnDisk`."""
        self._stream.seek(self.offsets[index])
        line = self._stream.read(int(self.offsets[index + 1] - self.offsets[index]))
        return Document(*json.loads(line.decode("utf-8", "surrogatepass")))


@dataclass(frozen=True)
class Block:
    """Some documents as they go to disk.

    Attributes:
        lines: Their lines one after another.
        lengths: [documents] int64, of each line.
        words: Words of all documents.
        joined: What stands between their prompts and texts, and how often.
        groups, fingerprints, digests, joints, splits: As in :class:`DocumentStore`.
    """

    lines: bytes
    lengths: npt.NDArray[np.int64]
    words: int
    joined: Counter[str]
    groups: npt.NDArray[np.uint64]
    fingerprints: npt.NDArray[np.uint64]
    digests: npt.NDArray[np.uint8]
    joints: npt.NDArray[np.uint64]
    splits: npt.NDArray[np.uint8]


def in_parts(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents in lists of about a million characters."""
    part: list[Document] = []
    size = 0
    for document in documents:
        part.append(document)
        size += len(document.text)
        if size >= PART_CHARACTERS:
            yield part
            part, size = [], 0
    if part:
        yield part


def blocks(documents: Iterable[Document]) -> Iterator[Block]:
    """Documents as they go to disk, in order."""
    return map(_block, in_parts(documents))


def _block(documents: Sequence[Document]) -> Block:
    rows = ([getattr(d, name) for name in Document.__slots__] for d in documents)
    lines = [
        json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n" for row in rows
    ]
    hashes = b"".join(bytes.fromhex(document.digest) for document in documents)
    return Block(
        lines=b"".join(lines),
        lengths=np.array([len(line) for line in lines], dtype=np.int64),
        groups=np.array([hash_text(d.group) for d in documents], dtype=np.uint64),
        fingerprints=np.array([fingerprint(d.full_text()) for d in documents], dtype=np.uint64),
        digests=np.frombuffer(hashes, dtype=np.uint8).reshape(-1, 20),
        joints=np.array([_joint_hash(d) for d in documents], dtype=np.uint64),
        joined=Counter(d.joint for d in documents if d.prompt),
        splits=np.array([_SPLITS[d.split] for d in documents], dtype=np.uint8),
        words=sum(d.words for d in documents),
    )


def write_store(folder: Path, documents: Iterable[Block], report: SourceReport) -> None:
    """Write documents and what the split needs of them into an existing folder.

    ``report`` is filled by the iteration and counted here; it is written last.
    """
    kept = [_block([])]
    with (folder / "documents.jsonl").open("wb") as stream:
        for block in documents:
            stream.write(block.lines)
            report.documents += len(block.lengths)
            report.words += block.words
            report.joints += block.joined
            kept.append(replace(block, lines=b""))
    lengths = np.concatenate([block.lengths for block in kept])
    np.save(folder / "offsets.npy", np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]))
    for name in _ARRAYS:
        np.save(folder / f"{name}.npy", np.concatenate([getattr(block, name) for block in kept]))
    (folder / "report.json").write_text(json.dumps(report.to_dict()), "utf-8")


class Documents(_OnDisk):
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

    def read(self, index: int) -> Document:
        """See :class:`_OnDisk`."""
        if index >= len(self._index):
            return self._extra[index - len(self._index)]
        return self._stores[int(self._store[index])].read(int(self._index[index]))

    def digests(self) -> Iterator[str]:
        """The digest of each document, without reading the texts."""
        for store, index in zip(self._store, self._index, strict=True):
            yield self._stores[store].digests[index].tobytes().hex()
        for document in self._extra:
            yield document.digest

    def joints(self) -> Iterator[int]:
        """64 bits of each document's joint, without reading the texts."""
        for store, index in zip(self._store, self._index, strict=True):
            yield int(self._stores[store].joints[index])
        yield from map(_joint_hash, self._extra)

    @property
    def size(self) -> int:
        """Bytes of the documents on disk."""
        return sum(
            int(np.diff(store.offsets)[self._index[self._store == number]].sum())
            for number, store in enumerate(self._stores)
        )

    def sources(self) -> list[str]:
        """The source of each document, without reading the texts."""
        names = [store.report.name for store in self._stores]
        return [names[i] for i in self._store] + [document.source for document in self._extra]


def digests(documents: Sequence[Document]) -> Iterator[str]:
    """The digest of each document; collections on disk are not read for it."""
    if isinstance(documents, Documents):
        return documents.digests()
    return (document.digest for document in documents)


def identities(documents: Sequence[Document]) -> Iterator[tuple[str, int]]:
    """The digest of each document and 64 bits of its joint: what its tokens depend on."""
    joints: Iterable[int] = (
        documents.joints() if isinstance(documents, Documents) else map(_joint_hash, documents)
    )
    return zip(digests(documents), joints, strict=True)


def _joint_hash(document: Document) -> int:
    return hash_text(document.joint) if document.prompt else 0


def to_json(value: Any) -> str:
    """JSON with sorted keys, for hashing."""
    return json.dumps(value, sort_keys=True, ensure_ascii=True)


def sources_of(documents: Sequence[Document]) -> list[str]:
    """The source of each document; collections on disk are not read for it."""
    if isinstance(documents, Documents):
        return documents.sources()
    return [document.source for document in documents]
