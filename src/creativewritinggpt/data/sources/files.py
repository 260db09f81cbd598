"""A writer's own files and folders, and the files of named sources, told apart by what they hold.

The form of a file is told by its ending, its columns and its content, and said. ``NAME=PATH`` says
it instead: a named source is then read by the form that its columns have, any other name becomes
the name of the domain.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...config.run import Config
from ...errors import InputError
from ...files import from_home
from ..document import Document, FileReport, RawRow, Reading, characters
from ..readers import (
    BOOKS,
    PARTNER,
    book_documents,
    existing_file,
    file_identity,
    head,
    partners,
)
from ..readers.columns import Row, count_text, find_columns
from ..readers.recognise import ENDINGS, ending_of, is_project, packed_name, stem
from ..readers.tables import Table, open_table, row_documents
from ..text import lines
from . import Chunk, Keep, NamedSource, RowChunks, RowForm, Source, TextForm, kept, named_sources

# Bytes and rows of a chunk: enough that handing it over is little beside parsing and cleaning it.
CHUNK_BYTES, _CHUNK_ROWS = 500_000, 2048


@dataclasses.dataclass(frozen=True)
class _File:
    """One file and how it is read.

    Attributes:
        label: What tells its groups from those of other files.
        domain: The source of its documents.
        divisible: Its table, where each row is a document whatever the others are.
        name: What it was called when it was read first, where that is known.
    """

    path: Path
    label: str
    domain: str
    documents: Callable[[Reading], Iterator[Document]]
    keep: Keep | None = None
    divisible: Table | None = None
    name: str | None = None


def open_files(files: Sequence[str], config: Config) -> list[Source]:
    """The sources that FILE arguments name, one for each domain.

    Args:
        files: Paths of files or folders, each perhaps as ``NAME=PATH``.
        config: For the columns that the user named.

    Raises:
        InputError: A file is missing, empty or can't be understood.
    """
    opened: list[_File] = []
    skipped: dict[str, dict[str, str]] = {}
    for argument in filter(_is_exact, files):
        opened.append(_open_exact(argument, config))
    given = [_named(file) for file in files if not _is_exact(file)]
    names = Counter(path.name for _, path in given)
    for name, path in given:
        # Files of one name from different folders are kept apart.
        alike = names[path.name] > 1
        if path.is_dir() and not is_project(path):
            found, others = _folder(path)
            domain = name or _apart(path.resolve().name, path, alike)
            opened += [
                _open(file, _label(path, file, alike), domain, name, config) for file in found
            ]
            skipped.setdefault(domain, {}).update(others)
        else:
            domain = _apart(stem(path), path, alike)
            label = _apart(path.name, path, alike)
            opened.append(_open(existing_file(path), label, domain, name, config))
    domains: dict[str, list[_File]] = {}
    for file in opened:
        domains.setdefault(file.domain, []).append(file)
    return [
        _source(domain, its_files, skipped.get(domain, {}), tuple(files))
        for domain, its_files in domains.items()
    ]


def _apart(name: str, path: Path, alike: bool) -> str:
    return f"{path.resolve().parent.name}-{name}" if alike else name


def _label(folder: Path, file: Path, alike: bool) -> str:
    inside = str(file.relative_to(folder))
    return f"{folder.resolve().parent.name}/{inside}" if alike else inside


def _named(given: str) -> tuple[str | None, Path]:
    """The parts of ``NAME=PATH``; an existing file whose name has ``=`` is a path."""
    name, equals, rest = given.partition("=")
    if equals and name and rest and not from_home(given).exists():
        return name.strip(), from_home(rest)
    return None, from_home(given)


def _folder(path: Path) -> tuple[list[Path], dict[str, str]]:
    """The files of a folder that can be read, and of the others the name and why not."""
    found: list[Path] = []
    others: dict[str, str] = {}
    for folder, folders, names in os.walk(path):
        here = Path(folder)
        projects = [name for name in sorted(folders) if is_project(here / name)]
        folders[:] = [n for n in sorted(folders) if n[0] != "." and n not in projects]
        for file in [here / name for name in sorted([*names, *projects]) if name[0] != "."]:
            if file.suffix == PARTNER:
                continue
            try:
                found.append(existing_file(file))
            except InputError as error:
                why = error.message.removeprefix(str(file)).strip(" :")
                others[str(file.relative_to(path))] = why
    if not found:
        named = "; ".join(f"{name} {why}" for name, why in itertools.islice(others.items(), 3))
        raise InputError(
            f"{path} holds no file that can be read" + (f": {named}" if named else ""),
            f"endings that can: {' '.join(ENDINGS)}",
        )
    return sorted(found), others


def _open(path: Path, label: str, domain: str, name: str | None, config: Config) -> _File:
    """How a file is read: by a form of a named source, or else by its format alone."""
    # The sample stands for files and has no form of its own.
    named = {known: source for known, source in named_sources().items() if not source.files}
    certain = name in named
    asked = [named[name]] if name in named else list(named.values())
    own = name or domain
    if ending_of(path) in BOOKS:
        text_form = _text_form(path, asked, certain)
        if text_form is None:
            read = functools.partial(book_documents, path, own, label)
            return _File(path, label, own, read)
        source, form = text_form
        read = functools.partial(_from_text, form, path, label)
        return _File(path, label, name or source.name, read, source.keep)
    told = [name for name in (config.text_column, config.prompt_column) if name]
    table = open_table(path, told)
    divisible = table if table.format.divisible else None
    # The user's word on the columns wins in files that have them.
    row_form = None if set(told) & set(table.columns) else _row_form(table, asked, certain)
    if row_form is not None:
        source, rows = row_form
        read = functools.partial(_from_rows, rows, table, label)
        divisible = divisible if rows.divisible else None
        return _File(path, label, name or source.name, read, source.keep, divisible)
    if name in named and not config.text_column:
        forms = "; ".join(form.description for form in named[name].rows)
        raise InputError(
            f"{path} has none of the forms of {name}: {forms}",
            f"its columns are {', '.join(table.columns)}; name one with --text-column",
        )
    prompt, text = table.column(config.prompt_column), table.column(config.text_column)
    columns = find_columns(path, table.columns, prompt, text, table.head)
    if columns.talk is not None:  # which goes on from row to row
        divisible = None
    read = functools.partial(row_documents, table, columns, own, label)
    return _File(path, label, own, read, divisible=divisible)


def _row_form(
    table: Table, asked: Sequence[NamedSource], certain: bool
) -> tuple[NamedSource, RowForm] | None:
    fitting = (
        (source, form)
        for source in asked
        for form in source.rows
        if form.has_columns(table.columns) and (certain or form.looks_right(table))
    )
    return next(fitting, None)


def _text_form(
    path: Path, asked: Sequence[NamedSource], certain: bool
) -> tuple[NamedSource, TextForm] | None:
    beginning = head(path) if BOOKS[ending_of(path)].is_text else ""
    ending = Path(packed_name(path)).suffix.lower()
    fitting = (
        (source, form)
        for source in asked
        for form in source.texts
        if ending in form.endings and (certain or form.looks_right(beginning))
    )
    return next(fitting, None)


def _from_rows(form: RowForm, table: Table, label: str, reading: Reading) -> Iterator[Document]:
    reading.file.form = f"{form.description} ({table.format.kind})"
    reading.report.add_form(reading.file.form)

    def counted() -> Iterator[tuple[int, Row]]:
        for number, row in table.rows(reading):
            reading.file.characters += count_text(row)
            yield number, row

    yield from form.documents(counted(), reading, label)


def _from_text(form: TextForm, path: Path, label: str, reading: Reading) -> Iterator[Document]:
    reading.file.form = form.description
    reading.report.add_form(form.description)
    for file in (path, *partners(path)):
        reading.file.characters += sum(map(characters, lines(file, reading.report.note)))
    yield from form.documents(path, reading, label)


def _source(
    domain: str, files: Sequence[_File], skipped: dict[str, str], arguments: tuple[str, ...]
) -> Source:
    paths = [(path, file) for file in files for path in (file.path, *partners(file.path))]
    identities = [_identity(path, file) for path, file in paths]

    def files_to_read(reading: Reading) -> Iterator[tuple[int, _File]]:
        if reading.shard == 0:
            reading.report.drop("files that can't be read", len(skipped))
            for label, why in skipped.items():
                reading.report.files[label] = FileReport(label, refused=why)
        reading.report.origin = {"files": identities}
        yield from ((number, file) for number, file in enumerate(files) if reading.next_file())

    def documents_of(file: _File, reading: Reading) -> Iterator[Document]:
        reading.begin(file.label)
        reading.whole = file.divisible is None
        for document in kept(file.documents(reading), file.keep, reading):
            reading.keep(document)
            same = document.source == domain
            yield document if same else dataclasses.replace(document, source=domain)

    def read(reading: Reading) -> Iterator[Document]:
        for _, file in files_to_read(reading):
            yield from documents_of(file, reading)

    def split(reading: Reading) -> Iterator[Chunk]:
        for number, file in files_to_read(reading):
            assert file.divisible is not None
            raw_rows = file.divisible.format.raw_rows(file.path, reading)
            while rows := _next_rows(raw_rows, reading):
                yield number, rows

    def read_chunk(chunk: Chunk, reading: Reading) -> Iterator[Document]:
        number, reading.raw = chunk
        return documents_of(files[number], reading)

    divisible = all(file.divisible is not None for file in files)
    return Source(
        name=domain,
        identity={"files": identities, "skipped": skipped},
        read=read,
        size=sum(identity["bytes"] for identity in identities),
        sharded=divisible,
        chunks=RowChunks(arguments, split, read_chunk) if divisible else None,
        paths=tuple(str(path.resolve()) for path, _ in paths),
    )


def _identity(path: Path, file: _File) -> dict[str, Any]:
    made = {**file_identity(path), "label": file.label}
    return {**made, "name": file.name} if file.name and path == file.path else made


_EXACT = "\x1f"
"""Begins and parts a FILE argument that says by which names a file is read: the NAME of
``NAME=PATH``, the domain, the label, what it was called, and where it is."""


def _open_exact(argument: str, config: Config) -> _File:
    given_name, domain, label, called, path = argument.split(_EXACT)[1:]
    opened = _open(existing_file(Path(path)), label, domain, given_name or None, config)
    return dataclasses.replace(opened, domain=domain, name=called)


def _is_exact(argument: str) -> bool:
    return argument.startswith(_EXACT)


def plain_argument(argument: str) -> str:
    """A FILE argument as a user writes it."""
    if not _is_exact(argument):
        return argument
    name, *_, path = argument.split(_EXACT)[1:]
    return f"{name}={path}" if name else path


def absolute_argument(argument: str) -> str:
    """A FILE argument that means the same in every working directory."""
    if _is_exact(argument):
        return argument
    name, path = _named(argument)
    return f"{name}={path.resolve()}" if name else str(path.resolve())


def argument_exists(argument: str) -> bool:
    """Whether there is a file or folder where a FILE argument says."""
    return _named(plain_argument(argument))[1].exists()


def files_again(recorded: Mapping[str, Any]) -> list[str]:
    """FILE arguments of a run (``files`` and ``places`` of its record) that can be read from here.

    Raises:
        InputError: One is at neither place.
    """
    found = []
    places = recorded.get("places", recorded["files"])
    for given, place in zip(recorded["files"], places, strict=True):
        there = [file for file in (place, given) if argument_exists(file)]
        if not there:
            raise InputError(
                f"{plain_argument(place)} is not there any more",
                "say where the texts are now: cwgpt train FILE… --resume",
            )
        found.append(there[0])
    return found


def as_recorded(
    files: Sequence[str], config: Config, recorded: Sequence[Mapping[str, Any]]
) -> list[str]:
    """FILE arguments that read files by the names they had, whatever they are called now.

    Args:
        files: FILE arguments.
        config: The settings.
        recorded: Of each file ``domain``, ``label``, ``name`` and ``sha256``, as
            :func:`file_records` has them.

    Returns:
        ``files`` where the names are the same or the bytes are not.
    """
    sources = open_files(files, config)
    now = [record for s in sources for record in file_records(s.name, s.identity or {})]
    if now == list(recorded) or sorted(r["sha256"] for r in now) != sorted(
        record["sha256"] for record in recorded
    ):
        return list(files)
    names = [name for name, _ in map(_named, map(plain_argument, files)) if name in named_sources()]
    places: dict[str, list[str]] = {}
    for record, path in zip(now, (path for s in sources for path in s.paths), strict=True):
        places.setdefault(record["sha256"], []).append(path)
    exact = []
    for was in recorded:
        path = places[was["sha256"]].pop(0)
        known = was["domain"] if was["domain"] in names else ""
        if not was["name"].endswith(PARTNER):
            parts = ("", known, was["domain"], was["label"], was["name"], path)
            exact.append(_EXACT.join(parts))
    return exact


def file_records(domain: str, origin: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What tells the files of a source from others: the names they are read by, and their hash."""
    keys = ("label", "name", "sha256")
    return [
        {"domain": domain, **{key: file[key] for key in keys}} for file in origin.get("files", ())
    ]


def _next_rows(raw_rows: Iterator[RawRow], reading: Reading) -> list[RawRow]:
    """The next rows of a file, as many as make a chunk."""
    begun = reading.done
    rows: list[RawRow] = []
    for row in raw_rows:
        rows.append(row)
        if reading.done - begun >= CHUNK_BYTES or len(rows) >= _CHUNK_ROWS:
            break
    return rows
