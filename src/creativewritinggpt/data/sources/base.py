"""What every source is to the rest: a name, what fixes its documents, and a way to read them.

A named source is known by its *forms*: the layouts in which people have its files. A form says
whether a file fits it, by columns and content, and how its rows or lines become documents.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..document import Document
from ..readers.tables import Reading, Row, Table

Rows = Iterable[tuple[int, Row]]
Keep = Callable[[Document], bool]
"""Says of a document whether it is wanted."""

_VALIDATION = re.compile(r"(?:^|[.\-_])(?:valid|validation)[.\-_0-9]")
_TRAIN = re.compile(r"(?:^|[.\-_])train[.\-_0-9]")


def official_split(label: str) -> str | None:
    """The split that the name of an official file says: ``valid.wp_source``, ``wiki.train.raw``."""
    name = Path(label).name.lower()
    if _VALIDATION.search(name):
        return "validation"
    return "train" if _TRAIN.search(name) else None


@dataclass(frozen=True)
class Source:
    """Something that documents can be read from.

    Attributes:
        name: The name of its domain.
        identity: All that fixes what it yields (content hashes, revision, settings); documents read
            once are found again under it. None where that can't be known before reading.
        read: Yields the documents and accounts for them in the report of the reading.
        size: Bytes to be read, where known.
        files: The FILE arguments that it was opened from, where workers can read it in stripes.
        striped: Whether its reading heeds the stripes that it is asked for.
    """

    name: str
    identity: dict[str, Any] | None
    read: Callable[[Reading], Iterator[Document]]
    size: int | None = None
    files: tuple[str, ...] = ()
    striped: bool = False


@dataclass(frozen=True)
class RowForm:
    """A layout of rows.

    Attributes:
        said: What it is, for the user.
        has_columns: Whether these columns can be of this form.
        looks_right: Whether the first rows are what the source's own would be; asked only where
            the user did not name the source.
        documents: The documents of numbered rows, given the label of their file.
        divisible: Whether each row is a document, whatever the others are.
    """

    said: str
    has_columns: Callable[[Sequence[str]], bool]
    looks_right: Callable[[Table], bool]
    documents: Callable[[Rows, Reading, str], Iterator[Document]]
    divisible: bool = True


@dataclass(frozen=True)
class TextForm:
    """A layout of plain text.

    Attributes:
        said: What it is, for the user.
        endings: The endings of its files.
        looks_right: Whether the beginning of the text is what the source's own would be.
        documents: The documents of a file, with its label.
    """

    said: str
    endings: tuple[str, ...]
    looks_right: Callable[[str], bool]
    documents: Callable[[Path, Reading, str], Iterator[Document]]


@dataclass(frozen=True)
class HubSet:
    """A data set on the hub, of parquet files.

    Attributes:
        repository: Its id.
        name: The configuration, where it has several.
        splits: Its splits that are read, and whether each is ``"train"`` or ``"validation"``.
    """

    repository: str
    name: str | None = None
    splits: Mapping[str, str] = field(default_factory=lambda: {"train": "train"})


@dataclass(frozen=True)
class NamedSource:
    """A source that is known by name.

    Attributes:
        name: Its name, in ``--sources`` and as a domain.
        rows: The layouts of its rows.
        texts: The layouts of its plain texts.
        keep: Which of its documents are wanted; the rest is counted.
        hub: Where it is on the hub.
    """

    name: str
    rows: tuple[RowForm, ...] = ()
    texts: tuple[TextForm, ...] = ()
    keep: Keep | None = None
    hub: HubSet | None = None


def kept(
    documents: Iterator[Document],
    keep: Keep | None,
    reading: Reading,
    reason: str = "not what the source is for",
) -> Iterator[Document]:
    """The documents that are wanted; the others are counted under ``reason``."""
    for document in documents:
        if keep is None or keep(document):
            yield document
        else:
            reading.report.drop(reason)
