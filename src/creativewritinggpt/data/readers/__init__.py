"""Readers: what a file is (:mod:`.recognise`) says how it is read into documents.

``BOOKS`` are files of running text, a document per chapter; ``tables.FORMATS`` files with rows. A
new format of either kind is one entry in its table, its ending in :mod:`.recognise`, and a line in
docs/data.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...files import file_sha256
from .. import text as encoding
from ..document import Document, Reading, SourceReport
from ..text import clean, clean_line
from ..unpacking import open_bytes, read_bytes
from .books import Book, Chapter, read_book, separate
from .markup import plain_text
from .recognise import PAGES, TABLES, ending_of, packed_name

PARTNER = ".wp_target"
"""The ending of the file that goes with a ``.wp_source``."""

_HEAD = 1 << 16
_READ_WHOLE = 64_000_000
_LONGEST_TEXT = 200_000_000
_MARKS = ("<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "[/INST]")

Read = Callable[[Path, Reading], Iterable[Book]]


@dataclass(frozen=True)
class BookFormat:
    """A file format of running text.

    Attributes:
        kind: Its name for the user.
        read: Its reader; a file may hold several books.
        is_text: Whether it is text rather than bytes.
        largest: Bytes of the largest file that is read.
    """

    kind: str
    read: Read
    is_text: bool = False
    largest: int = 1_000_000_000


def _text(path: Path, reading: Reading) -> Iterator[Book]:
    return (_text_book(text, path, reading) for text in _texts(path, reading))


def _texts(path: Path, reading: Reading) -> Iterator[str]:
    """The texts of a file, which may set several apart; a large one is not read as a whole."""
    if path.stat().st_size <= _READ_WHOLE:
        yield from separate(encoding.decode(read_bytes(path), path, reading.report.note))
        return
    pieces: list[str] = []
    size = passed = 0
    empty = encoding.EmptyLines()
    lines = encoding.lines(path, reading.report.note, empty=empty)
    for line in chain(lines, ("<|endoftext|>",)):
        pieces += ["\n" * (empty.count - passed), line]
        size += empty.count - passed + len(line)
        passed = empty.count
        if "<|" in line and len(texts := separate(f"{line}x")) > 1 or line == "<|endoftext|>":
            *texts, rest = separate("".join(pieces) + "x")
            yield from texts
            pieces, size = [rest[:-1]], len(rest)
        elif size > _LONGEST_TEXT:
            raise InputError(
                f"{path} holds a text of more than {_LONGEST_TEXT / 1e6:.0f} million characters",
                "set its texts apart by lines of <|endoftext|>, or give .jsonl",
            )


def _text_book(text: str, path: Path, reading: Reading) -> Book:
    """A plain text; markup in it is turned into text, and said."""
    if any(mark in text for mark in _MARKS) and (talk := _talk(text)) is not None:
        reading.report.note(f"{path.name}: the messages of a chat model's template are its text")
        return talk
    plain = plain_text(text)
    if plain.what:
        reading.report.note(f"{path.name}: {plain.what} in it was turned into text")
    book = read_book(plain.text)
    book.left_out += plain.left_out
    book.characters += plain.left_out.total()
    return book


def _talk(text: str) -> Book | None:
    """A text in the template of a chat model as a book of one chapter."""
    from .chats import compose, template_messages

    messages = template_messages(text)
    talk = compose(messages) if messages else None
    if talk is None or not talk.text:
        return None
    whole = f"{talk.prompt}\n\n{talk.text}" if talk.prompt else talk.text
    book = Book([Chapter(None, whole)], left_out=talk.left_out)
    book.characters = len("".join(whole.split())) + talk.left_out.total()
    return book


def _markdown(path: Path, reading: Reading) -> Iterator[Book]:
    from .manuscripts import read_markdown

    for text in _texts(path, reading):
        yield read_markdown(text)


def _screenplay(path: Path, reading: Reading) -> Iterator[Book]:
    from .screenplay import read_screenplay

    for text in _texts(path, reading):
        yield read_screenplay(text)


def _web(path: Path, _: Reading) -> list[Book]:
    from .web import read_web

    return [read_web(path, read_bytes(path))]


def _manuscript(path: Path, _: Reading) -> list[Book]:
    from .manuscripts import read_manuscript

    return [read_manuscript(path, ending_of(path))]


def _pdf(path: Path, reading: Reading) -> list[Book]:
    from .pdf import read_pdf

    return _noted(path, reading, *read_pdf(path))


def _scrivener(path: Path, reading: Reading) -> list[Book]:
    from .scrivener import read_scrivener

    return _noted(path, reading, *read_scrivener(path))


def _noted(path: Path, reading: Reading, book: Book, notes: Iterable[str]) -> list[Book]:
    for note in notes:
        reading.report.note(f"{path.name}: {note}")
    return [book]


_TEXT = BookFormat("text", _text, is_text=True, largest=2**63)
_MARKDOWN = BookFormat("Markdown", _markdown, is_text=True)
BOOKS = {
    **dict.fromkeys((".txt", ".text"), _TEXT),
    **dict.fromkeys((".md", ".markdown"), _MARKDOWN),
    **dict.fromkeys((".raw", ".tokens", ".wp_source"), _TEXT),
    **dict.fromkeys(PAGES, BookFormat("web page", _web, largest=100_000_000)),
    **dict.fromkeys((".odt", ".ott", ".fodt"), BookFormat("OpenDocument text", _manuscript)),
    **dict.fromkeys((".docx", ".docm", ".dotx", ".dotm"), BookFormat("Word file", _manuscript)),
    ".epub": BookFormat("e-book", _manuscript),
    ".fountain": BookFormat("screenplay", _screenplay, is_text=True),
    ".pdf": BookFormat("PDF", _pdf),
    ".rtf": BookFormat("RTF text", _manuscript),
    ".scriv": BookFormat("Scrivener project", _scrivener),
}
"""The formats of running text by the ending that a file's content has."""


@contextlib.contextmanager
def _unpacked(path: Path, form: BookFormat) -> Iterator[Path]:
    """The file itself, or a temporary one with its bytes where it is packed and no text."""
    if form.is_text or path.is_dir() or packed_name(path) == path.name:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="cwgpt-", ignore_cleanup_errors=True) as folder:
        copy = Path(folder) / packed_name(path)
        with open_bytes(path) as packed, copy.open("wb") as stream:
            shutil.copyfileobj(packed, stream)
        yield copy


def _books(path: Path, reading: Reading) -> Iterator[Book]:
    """The books of a file of running text, one by one."""
    form = BOOKS[ending_of(path)]
    try:
        with _unpacked(path, form) as plain:
            if not plain.is_dir() and plain.stat().st_size > form.largest:
                raise InputError(
                    f"{path} is larger than {form.largest / 1e6:,.0f} MB, as no {form.kind} is",
                    "give it in several files, or as .txt",
                )
            yield from form.read(plain, reading)
    except ImportError as error:
        raise InputError(
            f"{path}: reading a {form.kind} needs the extra 'documents'",
            "pip install 'creativewritinggpt[documents]', or save it as .txt or .md",
        ) from error


def existing_file(path: Path) -> Path:
    """``path``, if it is a file that can be read and holds something.

    Raises:
        InputError: It is missing, empty, not readable or of a kind that can't be read.
    """
    if path.suffix == PARTNER:
        raise InputError(f"{path} holds stories only", "give the .wp_source beside it")
    ending = ending_of(path)
    if not path.is_dir() and not path.stat().st_size:
        raise InputError(f"{path} is empty", "give a file with text")
    assert ending in BOOKS or ending in TABLES
    return path


def partners(path: Path) -> list[Path]:
    """The files that are read along with ``path``."""
    partner = path.with_suffix(PARTNER)
    return [partner] if path.suffix.lower() == ".wp_source" and partner.is_file() else []


def file_identity(path: Path) -> dict[str, Any]:
    """The name, size and SHA-256 of a file, or of all that lies in a project's folder."""
    if not path.is_dir():
        return {"name": path.name, "bytes": path.stat().st_size, "sha256": file_sha256(path)}
    content = hashlib.sha256()
    size = 0
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        name = os.fsencode(file.relative_to(path).as_posix())
        content.update(name + f"\0{file_sha256(file)}\n".encode())
        size += file.stat().st_size
    return {"name": path.name, "bytes": size, "sha256": content.hexdigest()}


def head(path: Path) -> str:
    """The first characters of a text, for telling what it is."""
    with open_bytes(path) as stream:
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
    books = _books(path, reading)
    begun = [book for book, _ in zip(books, range(2), strict=False)]
    chapters, wrapped = 0, False
    try:
        for number, book in enumerate(chain(begun, books), 1):
            name = label if len(begun) == 1 else f"{label}#{number}"
            reading.file.characters += book.characters
            reading.file.left_out += book.left_out
            reading.report.dropped += book.dropped
            chapters, wrapped = chapters + len(book.chapters), wrapped or book.wrapped
            for place, chapter in enumerate(book.chapters, 1):
                text = clean(chapter.text)
                if text:
                    title = clean_line(chapter.title) if chapter.title else None
                    yield Document(domain, f"{name}/{place:04d}", text, title=title or None)
    finally:  # also where no more documents are wanted
        described = describe(path, len(begun) > 1, chapters, wrapped)
        reading.report.add_form(described)
        reading.file.form = described
    reading.advance(path.stat().st_size)


def describe(path: Path, several: bool = False, chapters: int = 1, wrapped: bool = False) -> str:
    """What a file of running text was taken for, in words."""
    ending = ending_of(path)
    kind, named = BOOKS[ending].kind, Path(packed_name(path)).suffix.lower()
    alias = named in BOOKS and BOOKS[named].kind == kind
    if not alias:
        kind = f"{kind} (by its content{f', not {named}' if named else ''})"
    if several:
        kind = f"{kind}s set apart by <|endoftext|>"
    else:
        kind += f" in {chapters} chapters" if chapters > 1 else " without chapters"
    return kind + (", wrapped lines joined" if wrapped else "")


@dataclass(frozen=True)
class TextFile:
    """A file of running text, read as a whole.

    Attributes:
        form: What it was taken for, in words.
        texts: Title, where there is one, and text of each chapter.
        notes: What the user should know: what was left out, in characters, and the like.
    """

    form: str
    texts: list[tuple[str | None, str]]
    notes: list[str]


def read_texts(path: Path) -> TextFile:
    """The chapters of a file of running text in any of the formats.

    Raises:
        InputError: It can't be read, holds rows, or no text.
    """
    ending = ending_of(existing_file(path))
    if ending not in BOOKS:
        raise InputError(f"{path} is a table of rows", "give a file of running text")
    reading = Reading(SourceReport(path.stem))
    reading.begin(path.name)
    documents = list(book_documents(path, path.stem, path.name, reading))
    report, file = reading.report, reading.file
    if not documents:
        raise InputError(f"{path} holds no text", "give a file with text in it")
    notes = [f"{count:,} characters left out: {why}" for why, count in file.left_out.items()]
    notes += [f"left out: {count:,} {what}" for what, count in report.dropped.items()]
    return TextFile(file.form, [(d.title, d.text) for d in documents], notes + report.notes)
