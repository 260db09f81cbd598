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
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from .document import Document
from .duplicates import fingerprint
from .report import SourceReport

_SPLITS = {None: 0, "train": 1, "validation": 2}


def hash_text(text: str, salt: str = "") -> int:
    """64 bits of a text, the same in every process."""
    content = f"{salt}\0{text}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


class DocumentStore(Sequence[Document]):
    """The documents of one source.

    Attributes:
        report: The account of how they were made.
        offsets: [documents + 1] where each begins in the file.
        groups: [documents] 64 bits of each group's name.
        fingerprints: [documents] 64 bits of each text without case, punctuation and spacing.
        digests: [documents, 20] SHA-1 of each, as bytes.
        splits: [documents] 0 where there is no official split, 1 for training, 2 for validation.
    """

    def __init__(self, folder: Path) -> None:
        """Open what :func:`write_store` wrote."""
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


def write_store(folder: Path, documents: Iterable[Document], report: SourceReport) -> None:
    """Write documents and what the split needs of them into an existing folder.

    ``report`` is filled by the iteration and counted here; it is written last.
    """
    offsets, groups, fingerprints = array("q", [0]), array("Q"), array("Q")
    digests, splits = bytearray(), bytearray()
    with (folder / "documents.jsonl").open("wb") as stream:
        for document in documents:
            fields = [getattr(document, name) for name in Document.__slots__]
            line = json.dumps(fields, ensure_ascii=False).encode("utf-8", "surrogatepass")
            stream.write(line + b"\n")
            offsets.append(offsets[-1] + len(line) + 1)
            groups.append(hash_text(document.group))
            fingerprints.append(fingerprint(document.full_text()))
            digests += bytes.fromhex(document.digest)
            splits.append(_SPLITS[document.split])
            report.documents += 1
            report.words += document.words
    np.save(folder / "offsets.npy", np.frombuffer(offsets, dtype=np.int64))
    np.save(folder / "groups.npy", np.frombuffer(groups, dtype=np.uint64))
    np.save(folder / "fingerprints.npy", np.frombuffer(fingerprints, dtype=np.uint64))
    np.save(folder / "digests.npy", np.frombuffer(digests, dtype=np.uint8).reshape(-1, 20))
    np.save(folder / "splits.npy", np.frombuffer(splits, dtype=np.uint8))
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
