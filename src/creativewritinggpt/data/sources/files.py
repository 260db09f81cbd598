"""A writer's own files and folders, and the files of named sources, told apart by what they hold.

The form of a file is told by its ending, its columns and its content, and said. ``NAME=PATH`` says
it instead: a named source is then read by the form that its columns have, any other name becomes
the name of the domain.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ...config.run import Config
from ...errors import InputError
from ...files import from_home
from ..document import Document
from ..readers.columns import find_columns
from ..readers.manuscripts import MANUSCRIPTS
from ..readers.tables import DIVISIBLE, KINDS, Reading, Table, open_table
from ..readers.text import (
    ENDINGS,
    PARTNER,
    existing_file,
    file_identity,
    head,
    manuscript_documents,
    partners,
    row_documents,
    text_documents,
)
from .base import Keep, NamedSource, RowForm, Source, TextForm, kept
from .registry import named_sources


@dataclasses.dataclass(frozen=True)
class _File:
    """One file and how it will be read.

    Attributes:
        path: The file.
        label: What tells its groups from those of other files.
        domain: The source of its documents.
        documents: Reads it.
        keep: Which of its documents are wanted, where it is of a named source.
        divisible: Whether it can be read in stripes.
    """

    path: Path
    label: str
    domain: str
    documents: Callable[[Reading], Iterator[Document]]
    keep: Keep | None = None
    divisible: bool = False


def open_files(files: Sequence[str], config: Config) -> list[Source]:
    """The sources that FILE arguments name, one for each domain.

    Args:
        files: Paths of files or folders, each perhaps as ``NAME=PATH``.
        config: For the columns that the user named.

    Raises:
        InputError: A file is missing, empty or can't be understood.
    """
    opened: list[_File] = []
    skipped: dict[str, int] = {}
    given = [_named(file) for file in files]
    names = Counter(path.name for _, path in given)
    for name, path in given:
        # Files of one name from different folders are kept apart.
        alike = names[path.name] > 1
        if path.is_dir():
            found, others = _folder(path)
            domain = name or _apart(path.resolve().name, path, alike)
            opened += [
                _open(file, _label(path, file, alike), domain, name, config) for file in found
            ]
            if others:
                skipped[domain] = skipped.get(domain, 0) + others
        else:
            domain = _apart(path.stem, path, alike)
            label = _apart(path.name, path, alike)
            opened.append(_open(existing_file(path), label, domain, name, config))
    domains: dict[str, list[_File]] = {}
    for file in opened:
        domains.setdefault(file.domain, []).append(file)
    return [
        _source(domain, its_files, skipped.get(domain, 0), tuple(files))
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


def _folder(path: Path) -> tuple[list[Path], int]:
    """The files of a folder that can be read, and how many can't."""
    found, others = [], 0
    for file in sorted(path.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
        if hidden or not file.is_file():
            continue
        if file.suffix.lower() in ENDINGS and file.stat().st_size:
            found.append(file)
        elif file.suffix != PARTNER:
            others += 1
    if not found:
        raise InputError(
            f"{path} holds no file that can be read", f"endings that can: {' '.join(ENDINGS)}"
        )
    return found, others


def _open(path: Path, label: str, domain: str, name: str | None, config: Config) -> _File:
    """Tell what a file is."""
    named = named_sources()
    asked = [named[name]] if name in named else list(named.values())
    chosen = name or domain
    if path.suffix.lower() in MANUSCRIPTS:
        return _File(path, label, chosen, lambda r: manuscript_documents(path, r, chosen, label))
    if path.suffix.lower() not in KINDS:
        text_source, text_form = _text_form(path, asked, certain=name in named)
        if text_source is None or text_form is None:
            return _File(path, label, chosen, lambda r: text_documents(path, r, chosen, label))
        chosen = name or text_source.name
        keep = text_source.keep
        return _File(path, label, chosen, lambda r: _from_text(text_form, path, r, label), keep)
    table = open_table(path)
    source, form = _row_form(table, asked, certain=name in named, config=config)
    if source is not None and form is not None:
        chosen, keep = name or source.name, source.keep
        divisible = form.divisible and path.suffix.lower() in DIVISIBLE
        return _File(
            path, label, chosen, lambda r: _from_rows(form, table, r, label), keep, divisible
        )
    if name in named and not config.text_column:
        forms = "; ".join(form.said for form in named[name].rows)
        raise InputError(
            f"{path} has none of the forms of {name}: {forms}",
            f"its columns are {', '.join(table.columns)}; name one with --text-column",
        )
    columns = find_columns(path, table.columns, config.prompt_column, config.text_column)
    return _File(
        path,
        label,
        chosen,
        lambda r: row_documents(table, columns, r, chosen, label),
        divisible=path.suffix.lower() in DIVISIBLE,
    )


def _row_form(
    table: Table, asked: Sequence[NamedSource], *, certain: bool, config: Config
) -> tuple[NamedSource | None, RowForm | None]:
    # The user's word on the columns wins in files that have them.
    if {config.text_column, config.prompt_column} & set(table.columns):
        return None, None
    for source in asked:
        for form in source.rows:
            if form.has_columns(table.columns) and (certain or form.looks_right(table)):
                return source, form
    return None, None


def _text_form(
    path: Path, asked: Sequence[NamedSource], *, certain: bool
) -> tuple[NamedSource | None, TextForm | None]:
    beginning = head(path)
    for source in asked:
        for form in source.texts:
            if path.suffix.lower() in form.endings and (certain or form.looks_right(beginning)):
                return source, form
    return None, None


def _from_rows(form: RowForm, table: Table, reading: Reading, label: str) -> Iterator[Document]:
    reading.report.understood(f"{form.said} ({table.kind})")
    yield from form.documents(table.rows(reading), reading, label)


def _from_text(form: TextForm, path: Path, reading: Reading, label: str) -> Iterator[Document]:
    reading.report.understood(form.said)
    yield from form.documents(path, reading, label)


def _source(
    domain: str, files: Sequence[_File], skipped: int, arguments: tuple[str, ...]
) -> Source:
    paths = [(path, file.label) for file in files for path in (file.path, *partners(file.path))]
    identities = [{**file_identity(path), "label": label} for path, label in paths]

    def read(reading: Reading) -> Iterator[Document]:
        if reading.stripe == 0:
            reading.report.drop("files of other kinds, or empty", skipped)
        reading.report.origin = {"files": identities}
        for file in files:
            if not reading.next_file():
                continue
            for document in kept(file.documents(reading), file.keep, reading):
                if document.source != domain:
                    document = dataclasses.replace(document, source=domain)
                yield document

    return Source(
        name=domain,
        identity={"files": identities, "skipped": skipped},
        read=read,
        size=sum(identity["bytes"] for identity in identities),
        files=arguments if all(file.divisible for file in files) else (),
        striped=all(file.divisible for file in files),
    )
