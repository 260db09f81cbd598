"""Readers: the ending of a file's name says how it is read into documents.

``BOOKS`` are files of running text, a document per chapter; ``tables.FORMATS`` are files with rows.
A new format of either kind is one entry in its table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...files import file_sha256
from .. import text as encoding
from ..document import Document, Reading
from ..text import clean, clean_line
from .books import Book, read_book, separate
from .manuscripts import read_manuscript, read_markdown
from .tables import FORMATS

PARTNER = ".wp_target"
"""The ending of the file that goes with a ``.wp_source``."""

_HEAD = 1 << 16


@dataclass(frozen=True)
class BookFormat:
    """A file format of running text: its name for the user, its reader, text or binary."""

    kind: str
    read: Callable[[Path, Reading], list[Book]]
    is_text: bool = True


def _texts(read: Callable[[str], Book]) -> Callable[[Path, Reading], list[Book]]:
    """A reader of one book's text as a reader of a file, which may hold several."""

    def read_file(path: Path, reading: Reading) -> list[Book]:
        whole = encoding.decode(path.read_bytes(), path, reading.report.note)
        return [read(text) for text in separate(whole)]

    return read_file


def _manuscripts(path: Path, _: Reading) -> list[Book]:
    return [read_manuscript(path)]


_TEXT = BookFormat("text", _texts(read_book))
_WORD = BookFormat("Word file", _manuscripts, is_text=False)
_MARKDOWN = BookFormat("Markdown", _texts(read_markdown))
BOOKS = {
    **dict.fromkeys((".txt", ".text"), _TEXT),
    **dict.fromkeys((".md", ".markdown"), _MARKDOWN),
    **dict.fromkeys((".raw", ".tokens", ".wp_source"), _TEXT),
    **dict.fromkeys((".docx", ".docm", ".dotx", ".dotm"), _WORD),
    ".epub": BookFormat("e-book", _manuscripts, is_text=False),
}
"""The formats of running text by the ending of a file's name."""

ENDINGS = (*BOOKS, *FORMATS)
"""The endings of all files that can be read."""


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
    return data.decode(encoding.sniff(data, path), errors="ignore")


def book_documents(path: Path, domain: str, label: str, reading: Reading) -> Iterator[Document]:
    """A file of running text: a document per chapter, each a group of its own.

    Args:
        path: The file.
        domain: The source of the documents.
        label: What tells its groups from those of other files.
        reading: State and report.
    """
    form = BOOKS[path.suffix.lower()]
    books = form.read(path, reading)
    for number, book in enumerate(books, 1):
        name = label if len(books) == 1 else f"{label}#{number}"
        reading.file.characters += book.characters
        reading.file.left_out += book.left_out
        reading.report.dropped += book.dropped
        for place, chapter in enumerate(book.chapters, 1):
            text = clean(chapter.text)
            if text:
                title = clean_line(chapter.title) if chapter.title else None
                yield Document(domain, f"{name}/{place:04d}", text, title=title or None)
    chapters = sum(len(book.chapters) for book in books)
    if len(books) > 1:
        described = f"{form.kind}s set apart by <|endoftext|>"
    elif chapters > 1:
        described = f"{form.kind} in {chapters} chapters"
    else:
        described = f"{form.kind} without chapters"
    wrapped = any(book.wrapped for book in books)
    described += ", wrapped lines joined" if wrapped else ""
    reading.report.add_form(described)
    reading.file.form = described
    reading.advance(path.stat().st_size)
