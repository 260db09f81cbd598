"""A writer's own file as documents, whatever it is: a book, notes in Markdown, rows of a table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...files import file_sha256
from .. import text as encoding
from ..cleaning import clean, clean_line
from ..document import Document
from .books import Book, read_book, separate, strip_emphasis
from .columns import Columns
from .manuscripts import MANUSCRIPTS, read_manuscript
from .markdown import read_markdown
from .tables import KINDS, Reading, Row, Table

TEXTS = (".txt", ".text", ".md", ".markdown", ".raw", ".tokens", ".wp_source")
"""The endings of plain texts."""

PARTNER = ".wp_target"
"""The ending of the file that goes with a ``.wp_source``."""

ENDINGS = (*TEXTS, *KINDS, *MANUSCRIPTS)
"""The endings of all files that can be read."""

_HEAD = 1 << 16


def existing_file(path: Path) -> Path:
    """``path``, if it is a file that can be read and holds something.

    Raises:
        InputError: It is missing, empty, not readable or of a kind that can't be read.
    """
    if path.suffix == PARTNER:
        raise InputError(f"{path} holds stories only", "give the .wp_source beside it")
    if path.suffix.lower() not in ENDINGS:
        raise InputError(
            f"{path}: files with the ending '{path.suffix}' can't be read",
            f"save it as one of {' '.join(ENDINGS)}",
        )
    try:
        with path.open("rb") as stream:
            head = stream.read(1)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist", "check the path") from error
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from error
    if not head:
        raise InputError(f"{path} is empty", "give a file with text")
    return path


def partners(path: Path) -> list[Path]:
    """The files that are read along with ``path``."""
    partner = path.with_suffix(PARTNER)
    return [partner] if path.suffix.lower() == ".wp_source" and partner.is_file() else []


def file_identity(path: Path) -> dict[str, Any]:
    """The file's name, size and SHA-256."""
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": file_sha256(path)}


def head(path: Path) -> str:
    """The first characters of a text, for telling what it is."""
    with path.open("rb") as stream:
        data = stream.read(_HEAD)
    name = encoding.sniff(data, path)
    return data.decode(name, errors="ignore")


def text_documents(path: Path, reading: Reading, domain: str, label: str) -> Iterator[Document]:
    """A plain text or Markdown file: a document for each chapter.

    Args:
        path: The file.
        reading: Where it is accounted for.
        domain: The source of the documents.
        label: What tells its groups from those of other files.
    """
    data = path.read_bytes()
    whole = encoding.decode(data, path, reading.report.say)
    markdown = path.suffix.lower() in (".md", ".markdown")
    texts = separate(whole)
    books = [read_markdown(text) if markdown else read_book(text) for text in texts]
    for number, book in enumerate(books, 1):
        name = label if len(books) == 1 else f"{label}#{number}"
        yield from book_documents(book, reading, domain, name)
    reading.report.understood(_said(books, "Markdown" if markdown else "text"))
    reading.advance(len(data))


def manuscript_documents(
    path: Path, reading: Reading, domain: str, label: str
) -> Iterator[Document]:
    """A Word file or e-book: a document for each chapter."""
    book = read_manuscript(path)
    yield from book_documents(book, reading, domain, label)
    kind = "Word file" if path.suffix.lower() == ".docx" else "e-book"
    reading.report.understood(_said([book], kind))
    reading.advance(path.stat().st_size)


def _said(books: list[Book], kind: str) -> str:
    chapters = sum(len(book.chapters) for book in books)
    if len(books) > 1:
        form = f"{kind}s set apart by <|endoftext|>"
    elif chapters > 1:
        form = f"{kind} in {chapters} chapters"
    else:
        form = f"{kind} without chapters"
    return form + (", wrapped lines joined" if any(book.wrapped for book in books) else "")


def book_documents(book: Book, reading: Reading, domain: str, label: str) -> Iterator[Document]:
    """The chapters of a book, each a group of its own."""
    for reason, count in book.dropped.items():
        reading.report.drop(reason, count)
    for number, chapter in enumerate(book.chapters, 1):
        text = clean(chapter.text)
        if text:
            title = clean_line(chapter.title) if chapter.title else None
            yield Document(domain, f"{label}/{number:04d}", text, title=title or None)


def _value(row: Row, column: str | None) -> str:
    """What a cell holds, as text; a list of texts as paragraphs."""
    value = row.get(column) if column else None
    if value is None:
        return ""
    if isinstance(value, list):
        return "\n\n".join(part for part in value if isinstance(part, str))
    return value if isinstance(value, str) else str(value)


def row_documents(
    table: Table, columns: Columns, reading: Reading, domain: str, label: str
) -> Iterator[Document]:
    """The rows of a table whose columns are known by name.

    Rows of the same prompt are one group, or else of the same title, or else each row.
    """
    reading.report.understood(f"{table.kind}, {columns.said()}")
    for number, row in table.rows(reading):
        text = strip_emphasis(clean(_value(row, columns.text)))
        if not text:
            reading.report.drop("rows without text")
            continue
        prompt = clean(_value(row, columns.prompt)) or None
        title = clean_line(_value(row, columns.title)) or None
        yield Document(domain, row_group(label, number, prompt or title), text, prompt, title)


def row_group(label: str, number: int, common: str | None) -> str:
    """The group of a row: what it has in common with others, or the row itself.

    The same prompt is the same group in every file.
    """
    if common is None:
        return f"{label}:{number}"
    return f"prompt:{' '.join(common.casefold().split())}"
