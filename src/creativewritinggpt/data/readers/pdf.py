"""PDF files with text, by ``pypdf``: second best, as a PDF has places on paper, not paragraphs.

Running heads, running feet and page numbers are left out and counted; lines are joined to
paragraphs by their lengths, and words that were divided at line ends are whole again. Files of
scanned pages and protected ones are refused.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ...errors import InputError
from ..document import characters
from ..text import clean_characters, ends_sentence
from .books import Book, cut_at_headings, licence
from .layout import Block, is_break

_EDGE = 2
"""Lines at the top and at the bottom of a page that may be a running head or foot."""

_DIGITS = re.compile(r"\d+|\b[ivxlc]+\b", re.I)
_PAGE_NUMBER = re.compile(
    r"[-–—\[(| ]*(?:page|p\.|seite|стр\.)?\s*(?:\d{1,4}|[ivxlc]{1,6})"
    r"(?:\s*(?:of|/|von|de)\s*\d{1,4})?[-–—\])| ]*",
    re.I,
)
_LEAST_LETTERS = 20
_MOST_PAGES = 20_000
_DIVIDED = re.compile(r"(\w+)-\Z")


def read_pdf(path: Path) -> tuple[Book, list[str]]:
    """The chapters of a PDF file, and notes on what it is.

    Raises:
        InputError: It is damaged, protected, or holds no text.
        ImportError: ``pypdf`` is not installed.
    """
    pages = [clean_characters(text).split("\n") for text in _pages(path)]
    book = Book()
    book.characters = sum(characters(line) for page in pages for line in page)
    with_text = sum(characters("".join(page)) >= _LEAST_LETTERS for page in pages)
    if not with_text:
        raise InputError(
            f"{path} holds no text: its pages are pictures, or empty",
            "recognise it first (OCR), for instance with ocrmypdf, or give it in another form",
        )
    notes = ["a PDF is second best: its paragraphs are guessed; .docx, .epub or .txt read better"]
    if with_text < len(pages):
        notes.append(f"{len(pages) - with_text:,} of {len(pages):,} pages hold no text")
    lines = _without_heads(
        [[line.strip() for line in page if line.strip()] for page in pages], book
    )
    text = _paragraphs(lines, book)
    gone = licence(text)
    book.drop("licence and notices", (text[number] for number in gone))
    cut_at_headings([block for number, block in enumerate(text) if number not in gone], book)
    return book, notes


def _pages(path: Path) -> list[str]:
    """The text of each page."""
    import pypdf
    from pypdf.errors import PyPdfError

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        reader = pypdf.PdfReader(str(path))
        if reader.is_encrypted and not reader.decrypt(""):
            raise InputError(
                f"{path} is protected by a password", "save it without one, or as .docx or .txt"
            )
        if len(reader.pages) > _MOST_PAGES:
            raise InputError(f"{path} has {len(reader.pages):,} pages, which no book has")
        return [page.extract_text() or "" for page in reader.pages]
    except InputError:
        raise
    except ImportError:
        raise
    except (PyPdfError, RecursionError) as error:
        raise _damaged(path, error) from error
    except Exception as error:  # what a broken file makes of a parser
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    why = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "cryptography" in why.lower():
        return InputError(f"{path} is protected", "save it without a password, or as .docx or .txt")
    return InputError(
        f"{path} can't be read as a PDF ({why})", "save it again, or as .docx or .txt"
    )


def _without_heads(pages: Sequence[list[str]], book: Book) -> list[list[str]]:
    """The pages without running heads and feet, which many of them share, and page numbers."""

    def key(line: str) -> str:
        return _DIGITS.sub("#", line).casefold()

    seen: Counter[str] = Counter()
    for page in pages:
        seen.update({key(line) for line in (*page[:_EDGE], *page[-_EDGE:])})
    least = max(3, 0.15 * len(pages))
    numbered = sum(any(map(_PAGE_NUMBER.fullmatch, (*page[:1], *page[-1:]))) for page in pages)
    has_numbers = numbered >= max(2, 0.5 * sum(map(bool, pages)))
    made = []
    for page in pages:
        kept = list(page)
        for place in (0, -1):
            for _ in range(_EDGE):
                if not kept:
                    break
                line = kept[place]
                is_number = has_numbers and _PAGE_NUMBER.fullmatch(line)
                if not is_number and not (seen[key(line)] >= least and not ends_sentence(line)):
                    break
                book.leave_out("page numbers" if is_number else "running heads and feet", line)
                del kept[place]
        made.append(kept)
    return made


def _paragraphs(pages: Sequence[list[str]], book: Book) -> list[Block]:
    """Lines as paragraphs: one ends with a line that is clearly shorter than the others."""
    lengths = sorted(len(line) for page in pages for line in page)
    width = lengths[int(0.8 * len(lengths))] if lengths else 0
    known = Counter(
        word.lower() for page in pages for line in page for word in re.findall(r"\w+-\w+", line)
    )
    made: list[Block] = []
    text = ""
    short: list[str] = []  # lines of verse, or a heading

    def finish() -> None:
        nonlocal text
        if text:
            made.append(Block((text,), 1))
        if short:
            made.append(Block(tuple(short), 1))
            short.clear()
        text = ""

    for page in pages:
        for number, line in enumerate(page):
            divided = _DIVIDED.search(text)
            if is_break(line):
                finish()
                made.append(Block((line,), 1))
            elif not text and len(line) < 0.6 * width and not ends_sentence(line):
                if number == 0:
                    finish()
                short.append(line)
            elif divided and line[0].islower():
                rest = re.split(r"\W", line, maxsplit=1)[0]
                if f"{divided[1]}-{rest}".lower() in known:
                    text += line
                else:
                    text = text[:-1] + line
                    book.leave_out("hyphens at line ends", "-")
            else:
                if short:
                    finish()
                text = f"{text} {line}" if text else line
            if text and len(line) < 0.85 * width and ends_sentence(line):
                finish()
    finish()
    return made
