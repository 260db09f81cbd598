"""The corpus of a run: files or named sources, read, cleaned, cached and split.

Cleaned documents are cached on disk under a key of all that made them: the content of the files,
the settings that matter and the code of this package.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..config.run import Config
from ..console import ProgressCallback
from ..errors import InputError, UserError
from ..files import cache_folder, disk_errors
from ..locking import cached_folder, clear_scratch, scratch_folder
from .document import Document, Reading, SourceReport
from .rows.pool import in_order
from .sources import Chunk, Keep, Source, kept, named_sources, open_custom
from .sources.files import open_files
from .sources.hub import open_hub
from .splits import split
from .store import Block, DocumentStore, blocks, digests, to_json, write_store


@dataclass
class Corpus:
    """Training and validation documents of a run, with a report per source.

    Attributes:
        train: Read from disk one by one; empty where the corpus is streamed.
        validation: The validation split.
        reports: Counts and notes by source.
        missing: The sources that were skipped, and why.
    """

    train: Sequence[Document]
    validation: Sequence[Document]
    reports: dict[str, SourceReport]
    missing: dict[str, str] = field(default_factory=dict)

    def manifest(self) -> dict[str, Any]:
        """The digests of all documents, what they were made from, and a hash over all of it."""
        content: dict[str, Any] = {
            "train": list(digests(self.train)),
            "validation": list(digests(self.validation)),
            "sources": {name: report.to_dict() for name, report in self.reports.items()},
            "missing": dict(self.missing),
        }
        sides: dict[str, Any] = {side: content[side] for side in ("train", "validation")}
        if not len(self.train):  # streamed: what it is read from stands for the documents
            content["streamed"] = True
            sides["train"] = [report.origin for report in self.reports.values()]
        content["manifest_hash"] = hashlib.sha256(to_json(sides).encode()).hexdigest()
        return content


def load_corpus(
    config: Config,
    files: Sequence[str] = (),
    progress: ProgressCallback | None = None,
    keep: Mapping[str, Keep] | None = None,
) -> Corpus:
    """Read, clean and split what a run trains on.

    Args:
        config: Sources, sizes, seed, columns.
        files: The FILE arguments; where there are none, ``config.sources`` are read.
        progress: Called while files are read and compared.
        keep: By source, which of its documents are wanted besides; the rest is counted. Sources
            with such a predicate are read anew each time.

    Raises:
        InputError: A file or setting is wrong, or there is too little text.
        RunError: A source can't be reached.
    """
    stores, missing = _stores(config, files, progress, keep or {})
    unknown = sorted(set(keep or {}) - {store.report.name for store in stores} - set(missing))
    if unknown:
        raise InputError(
            f"keep names {', '.join(unknown)}, which is not among the sources read",
            f"they are: {', '.join(store.report.name for store in stores)}",
        )
    train, validation = split(
        stores,
        train_size=config.train_size,
        val_size=config.val_size,
        seed=config.seed,
        progress=progress,
        processes=config.num_workers,
    )
    return Corpus(train, validation, {store.report.name: store.report for store in stores}, missing)


def read_documents(
    files: Sequence[str], config: Config, progress: ProgressCallback | None = None
) -> list[Document]:
    """All documents of files, or of ``config.sources``, without a split."""
    stores, _ = _stores(config, files, progress, {})
    return [document for store in stores for document in store]


def _stores(
    config: Config,
    files: Sequence[str],
    progress: ProgressCallback | None,
    keep: Mapping[str, Keep],
) -> tuple[list[DocumentStore], dict[str, str]]:
    stores: list[DocumentStore] = []
    missing: dict[str, str] = {}
    for name, found in opened(config, files, keep, missing):
        with tolerated(name, config, missing):
            made = [_stored(source, config, progress) for source in found]
            for store in made:
                if not len(store):
                    raise _nothing(store.report)
            stores += made
    if not stores:
        raise nothing_read(missing)
    return stores, missing


def nothing_read(missing: Mapping[str, str]) -> InputError:
    """Error: no source could be read."""
    return InputError(
        f"no source could be read: {'; '.join(missing.values()) or 'none was named'}",
        "name other sources with --sources, or give files",
    )


def only(source: Source, keep: Keep) -> Source:
    """The source with a filter on its documents; without identity, so that nothing is cached."""
    name = getattr(keep, "__qualname__", type(keep).__qualname__)
    said = f"{getattr(keep, '__module__', type(keep).__module__)}.{name}"

    def read(reading: Reading) -> Iterator[Document]:
        reading.report.note(f"only what {said} keeps")
        yield from kept(source.read(reading), keep, reading, f"not kept by {name}")

    return replace(source, identity=None, read=read, chunks=None)


def opened(
    config: Config, files: Sequence[str], keep: Mapping[str, Keep], missing: dict[str, str]
) -> Iterator[tuple[str, list[Source]]]:
    """The sources of files or of ``config.sources``, under the names that the user gave.

    ``missing`` gets the sources that can't be read and may be skipped, and why.
    """
    for name, found in _opened(config, files, missing):
        yield name, [only(s, keep[s.name]) if s.name in keep else s for s in found]


def _opened(
    config: Config, files: Sequence[str], missing: dict[str, str]
) -> Iterator[tuple[str, list[Source]]]:
    if files:
        readable = list(files)
        if config.skip_missing:
            readable = []
            for file in files:
                with tolerated(file, config, missing):
                    open_files([file], config)
                    readable.append(file)
        # Together, so that files of one source become one domain.
        if readable:
            yield from ((source.name, [source]) for source in open_files(readable, config))
        return
    for name in dict.fromkeys(config.sources):
        with tolerated(name, config, missing):
            yield name, open_named(name, config)


def open_named(name: str, config: Config) -> list[Source]:
    """The sources behind a name in ``--sources``.

    Raises:
        InputError: Nothing is known by that name.
        RunError: The hub can't be reached.
    """
    known = named_sources().get(name)
    if known is None:
        return [open_custom(name, config)]
    return [open_hub(known, config)] if known.files is None else open_files(known.files(), config)


@contextlib.contextmanager
def tolerated(name: str, config: Config, missing: dict[str, str]) -> Iterator[None]:
    """Record a source that can't be read, where the user said to go on without."""
    try:
        yield
    except UserError as error:
        if not config.skip_missing:
            raise
        missing[name] = error.message


def _nothing(report: SourceReport) -> InputError:
    reasons = ", ".join(f"{count} {reason}" for reason, count in report.dropped.items())
    return InputError(
        f"{report.name} holds no text" + (f" (left out: {reasons})" if reasons else ""),
        "give a file with text in it",
    )


@functools.cache
def _code() -> str:
    """Hash of the code that reads and cleans: part of the cache key."""
    content = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        content.update(file.read_bytes())
    return content.hexdigest()


def _stored(source: Source, config: Config, progress: ProgressCallback | None) -> DocumentStore:
    """The source's documents on disk, from the cache or made now."""
    cache = cache_folder(config.cache_dir) / "documents"
    with disk_errors(cache):
        cache.mkdir(parents=True, exist_ok=True)
    if source.identity is None:
        folder, remove = scratch_folder(cache, "passing")
        _write(folder, source, config, progress)
        store = DocumentStore(folder)
        weakref.finalize(store, remove)
        return store
    clear_scratch(cache, "passing")
    settings = ("prompt_column", "text_column", "skip_bad_rows", "max_documents")
    key = {
        "name": source.name,
        "identity": source.identity,
        "settings": {name: getattr(config, name) for name in settings},
        "code": _code(),
    }
    entry = cache / hashlib.sha256(to_json(key).encode()).hexdigest()
    return cached_folder(
        entry,
        lambda: _found(entry),
        lambda folder: _write(folder, source, config, progress),
        checked=True,
    )


def _found(entry: Path) -> DocumentStore | None:
    """The store at ``entry``, or None where there is none that is whole."""
    try:
        store = DocumentStore(entry)
        size = (entry / "documents.jsonl").stat().st_size
    except (OSError, ValueError, KeyError, TypeError, EOFError, json.JSONDecodeError):
        return None
    return store if size == store.offsets[-1] else None


def _write(folder: Path, source: Source, config: Config, progress: ProgressCallback | None) -> None:
    report = SourceReport(source.name)
    reading = Reading(report, config.skip_bad_rows, progress, source.size)
    if config.max_documents is not None:
        write_store(folder, blocks(_first(source, reading, config.max_documents)), report)
    elif source.chunks is None:
        write_store(folder, blocks(source.read(reading)), report)
    else:
        write_store(folder, _blocks_of_chunks(source, config, reading), report)


def _first(source: Source, reading: Reading, most: int) -> Iterator[Document]:
    """The first documents; of the file where they end, what comes later does not count."""
    documents = source.read(reading)
    left = most
    for document in itertools.islice(documents, most):
        left -= 1
        yield document
    if isinstance(documents, Generator):
        documents.close()
    if not left:
        file = reading.file
        file.characters = min(file.characters, file.kept + file.left_out.total())
        reading.report.note(f"no more than {most:,} documents were read (max_documents)")


Parsed = tuple[list[Block], SourceReport]


def _blocks_of_chunks(source: Source, config: Config, reading: Reading) -> Iterator[Block]:
    """Documents of a table: rows are read here, parsed and cleaned by worker processes too."""
    assert source.chunks is not None
    for parsed, report in in_order(
        source.chunks.split(reading),
        chunk_parser,
        (source.chunks.files, config, source.name),
        size=source.size or 0,
        processes=config.num_workers,
        here=_parser(source, config),
    ):
        reading.report.add(report)
        yield from parsed


def chunk_parser(files: Sequence[str], config: Config, name: str) -> Callable[[Chunk], Parsed]:
    """Function that parses and cleans chunks of the source ``name`` of some files."""
    found = {source.name: source for source in open_files(files, config)}
    return _parser(found[name], config)


def _parser(source: Source, config: Config) -> Callable[[Chunk], Parsed]:
    def parse(chunk: Chunk) -> Parsed:
        assert source.chunks is not None
        reading = Reading(SourceReport(source.name), config.skip_bad_rows)
        return list(blocks(source.chunks.read(chunk, reading))), reading.report

    return parse
