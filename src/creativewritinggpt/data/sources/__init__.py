"""Sources: what documents are read from, and the names that ``--sources`` takes.

A named source is one :class:`NamedSource` in a module of its own, listed in ``BUILT_IN``. It is
known by its *forms*, the layouts in which people have its files: a form says whether a file fits
it, by columns and content, and how its rows or lines become documents.

A custom source is a function that yields documents. It is registered by a decorator, in the same
process, or by an entry point of the group ``creativewritinggpt.sources`` in an installed package::

    @register_source("mine")
    def mine(config):
        for number, text in enumerate(texts):
            yield Document("mine", group=str(number), text=text)
"""

from __future__ import annotations

import difflib
import functools
import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

from ...config.run import Config
from ...errors import InputError
from ..document import Document, RawRow, Reading
from ..readers.columns import Row
from ..readers.tables import Table
from ..text import clean

BUILT_IN = ("writingprompts", "rocstories", "wikitext", "openwebtext")
"""The modules with a ``SOURCE`` each, in the order in which their forms are tried."""

_GROUP = "creativewritinggpt.sources"
_VALIDATION = re.compile(r"(?:^|[.\-_])(?:valid|validation)[.\-_0-9]")
_TRAIN = re.compile(r"(?:^|[.\-_])train[.\-_0-9]")

Rows = Iterable[tuple[int, Row]]
Keep = Callable[[Document], bool]
"""Says of a document whether it is wanted."""

Chunk = tuple[int, list[RawRow]]
"""The number of a file among those of its source, and some of its rows."""

CustomSource = Callable[[Config], Iterable[Document]]
"""A function that yields documents; it is called with the run's settings."""

Function = TypeVar("Function", bound=CustomSource)


@dataclass(frozen=True)
class RowChunks:
    """A second way to read a source, by worker processes in chunks of rows.

    Attributes:
        files: FILE arguments that a worker opens the source from.
        split: Reads the rows without parsing them, in order.
        read: The documents of a chunk.
    """

    files: tuple[str, ...]
    split: Callable[[Reading], Iterator[Chunk]]
    read: Callable[[Chunk, Reading], Iterator[Document]]


@dataclass(frozen=True)
class Source:
    """Something that documents can be read from.

    Attributes:
        name: The name of its domain.
        identity: All that fixes what it yields, the key of its cache; None where that can't be
            known before reading.
        read: Yields the documents and counts into the report of the reading.
        size: Bytes to be read, where known.
        sharded: Whether its reading heeds the shard that it is asked for.
        chunks: The same documents in chunks, where each row is one whatever the others are.
        paths: The files of ``identity``, in its order, where they are now.
    """

    name: str
    identity: dict[str, Any] | None
    read: Callable[[Reading], Iterator[Document]]
    size: int | None = None
    sharded: bool = False
    chunks: RowChunks | None = None
    paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class RowForm:
    """A layout of rows.

    Attributes:
        description: What it is, for the user.
        has_columns: Whether these columns can be of this form.
        looks_right: Whether the first rows are the source's own; asked where it was not named.
        documents: The documents of numbered rows, given the label of their file.
        divisible: Whether each row is a document, whatever the others are.
    """

    description: str
    has_columns: Callable[[Sequence[str]], bool]
    looks_right: Callable[[Table], bool]
    documents: Callable[[Rows, Reading, str], Iterator[Document]]
    divisible: bool = True


@dataclass(frozen=True)
class TextForm:
    """A layout of plain text, as :class:`RowForm`; ``looks_right`` takes the beginning."""

    description: str
    endings: tuple[str, ...]
    looks_right: Callable[[str], bool]
    documents: Callable[[Path, Reading, str], Iterator[Document]]


@dataclass(frozen=True)
class HubSet:
    """A data set on the Hugging Face hub, of parquet files.

    ``name`` is its configuration; ``splits`` says of each split whether it is ``"train"`` or
    ``"validation"``.
    """

    repository: str
    name: str | None = None
    splits: Mapping[str, str] = field(default_factory=lambda: {"train": "train"})


@dataclass(frozen=True)
class NamedSource:
    """A built-in source.

    Attributes:
        name: Its name, in ``--sources`` and as a domain.
        rows, texts: The layouts of its rows and of its plain texts.
        keep: Which of its documents are wanted; the rest is counted.
        hub: Where it is on the hub.
        files: Gives the FILE arguments that it stands for, where it comes with the package.
    """

    name: str
    rows: tuple[RowForm, ...] = ()
    texts: tuple[TextForm, ...] = ()
    keep: Keep | None = None
    hub: HubSet | None = None
    files: Callable[[], list[str]] | None = None


def official_split(label: str) -> str | None:
    """The split that the name of an official file says: ``valid.wp_source``, ``wiki.train.raw``."""
    name = Path(label).name.lower()
    if _VALIDATION.search(name):
        return "validation"
    return "train" if _TRAIN.search(name) else None


def per_row(
    make: Callable[[Row, Reading, str, int], Document | None],
) -> Callable[[Rows, Reading, str], Iterator[Document]]:
    """The ``documents`` of a form whose rows are a document each, or None where it is none.

    Args:
        make: Takes a row, the reading, the label of the file and the row's number.
    """

    def documents(rows: Rows, reading: Reading, label: str) -> Iterator[Document]:
        made = (make(row, reading, label, number) for number, row in rows)
        return (document for document in made if document is not None)

    return documents


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


@functools.cache
def named_sources() -> dict[str, NamedSource]:
    """The built-in sources, by name."""
    modules = (importlib.import_module(f".{name}", __name__) for name in BUILT_IN)
    return {source.name: source for source in (*(m.SOURCE for m in modules), _SAMPLE)}


def _sample_files() -> list[str]:
    folder = Path(str(resources.files("creativewritinggpt.data") / "sample"))
    return [f"{file.stem}={file}" for file in sorted(folder.glob("*.jsonl"))]


_SAMPLE = NamedSource(name="sample", files=_sample_files)
"""The corpus that comes with the package: original pieces in the forms of four named sources."""


_registered: dict[str, CustomSource] = {}


def register_source(name: str) -> Callable[[Function], Function]:
    """Make a function that yields documents a source, to be used as ``--sources NAME``.

    Args:
        name: The name of the source and of its domain.

    Raises:
        InputError: The name belongs to one of the built-in sources.
    """
    if name in named_sources():
        raise InputError(f"'{name}' is the name of a built-in source", "choose another name")

    def register(function: Function) -> Function:
        _registered[name] = function
        return function

    return register


def source_names() -> list[str]:
    """Every name that ``--sources`` takes."""
    points = (point.name for point in entry_points(group=_GROUP))
    return list(dict.fromkeys([*named_sources(), *_registered, *points]))


def open_custom(name: str, config: Config) -> Source:
    """The source that a function was registered for under this name.

    Raises:
        InputError: Nothing is known by that name.
    """
    custom = _custom(name)
    if custom is None:
        near = difflib.get_close_matches(name, source_names(), n=1)
        raise InputError(
            f"no source '{name}'",
            f"did you mean '{near[0]}'?" if near else f"known: {', '.join(source_names())}",
        )
    return Source(name, None, functools.partial(_read_custom, name, custom, config))


def _custom(name: str) -> CustomSource | None:
    if name in _registered:
        return _registered[name]
    for point in entry_points(group=_GROUP):
        if point.name == name:
            try:
                loaded: CustomSource = point.load()
            except Exception as error:
                raise InputError(
                    f"the source '{name}' of {point.value} can't be loaded: {error}",
                    "mend or remove the package that provides it",
                ) from error
            return loaded
    return None


def _read_custom(
    name: str, custom: CustomSource, config: Config, reading: Reading
) -> Iterator[Document]:
    """The documents of a custom source, checked and cleaned of what no text should hold."""
    reading.report.add_form("a custom source")
    reading.report.origin = {"function": f"{custom.__module__}.{custom.__name__}"}
    for document in custom(config):
        if not isinstance(document, Document):
            raise InputError(
                f"the source '{name}' yields {type(document).__name__} instead of Document",
                "yield creativewritinggpt.data.document.Document(source, group, text)",
            )
        if not isinstance(document.joint, str):
            raise InputError(
                f"the source '{name}' yields a document whose joint is {document.joint!r}",
                "give what stands between prompt and text, such as a space, or leave it out",
            )
        text, prompt = clean(document.text), clean(document.prompt or "")
        if text:
            yield replace(document, source=name, text=text, prompt=prompt or None)
        else:
            reading.report.drop("documents without text")
