"""Screenplays in Fountain (``.fountain``), after the syntax at https://fountain.io/syntax.

Scene headings, action, names with their dialogue, lyrics and transitions are text, without their
marks; sections (``#``) are chapters. Left out and counted: the title page, notes (``[[ ]]``), what
is commented out (``/* */``), and synopses (``=``).
"""

from __future__ import annotations

import re

from ..document import characters
from ..text import clean_characters, tidy_layout
from .books import Book, Chapter, Part, chapters
from .layout import blocks, without_between

_LEFT_OUT = (("/*", "*/", "commented out (/* */)"), ("[[", "]]", "notes ([[ ]])"))
_KEY = re.compile(r"[A-Za-z][\w ]{0,40}:")
_SECTION = re.compile(r"(#{1,6})\s*(\S.*)")
_SCENE_NUMBER = re.compile(r"(?<!\s)\s*#[\w.\-)]{1,12}#\s*$")
_SCENE = re.compile(r"(?:INT|EXT|EST|I/E)[. /]", re.I)
_EMPHASIS = re.compile(r"(?<!\\)(\*{1,3}|_)(?=\S)([^\n]{1,600}?)(?<=\S)(?<!\\)\1")


def read_screenplay(text: str) -> Book:
    """A screenplay as a book: a chapter per section, or the whole."""
    book = Book()
    text = clean_characters(text)
    book.characters = characters(text)
    title, text = _title_page(text, book)
    for begin, end, reason in _LEFT_OUT:
        text, gone = without_between(text, begin, end)
        for part in gone:
            book.leave_out(reason, part)
    parts: list[Part] = []
    for block in blocks(text):
        parts += _block(block.lines, book)
    if any(part.level for part in parts):
        book.chapters = list(chapters(parts, book))
    elif parts:
        book.chapters = [Chapter(title, "\n\n".join(part.text for part in parts))]
    for chapter in book.chapters:
        chapter.text = tidy_layout(chapter.text)
    return book


def _title_page(text: str, book: Book) -> tuple[str | None, str]:
    """The title, and the text without the lines of keys and values that it may begin with."""
    text = text.lstrip("\n")
    page, empty, rest = text.partition("\n\n")
    lines = page.split("\n")
    if not empty or not all(_KEY.match(line) or line[:1] in (" ", "\t") for line in lines):
        return None, text
    if not _KEY.match(lines[0]) or lines[0].rstrip().isupper():
        return None, text
    whole = re.search(r"^title:[ \t]*(\S.*|(?:\n[ \t]+\S.*)+)", page, re.I | re.M)
    title = " ".join(_without_marks(whole[1]).split()) if whole else None
    book.leave_out("title page", page)
    if title:
        book.left_out["title page"] -= characters(title)
    return title, rest


def _block(lines: tuple[str, ...], book: Book) -> list[Part]:
    """The parts of some lines without an empty one among them."""
    made: list[Part] = []
    kept: list[str] = []

    def finish() -> None:
        if kept:
            made.append(Part(0, "\n".join(kept)))
            kept.clear()

    for line in lines:
        stripped = line.strip()
        section = _SECTION.fullmatch(stripped)
        if section:
            finish()
            book.leave_out("marks of Fountain", section[1])
            made.append(Part(len(section[1]), _without_marks(section[2])))
        elif re.fullmatch(r"={3,}", stripped):
            finish()
            book.leave_out("marks of Fountain", stripped)
        elif stripped.startswith("="):
            book.leave_out("synopses (=)", stripped)
        elif stripped:
            plain = _line(stripped)
            book.left_out["marks of Fountain"] += characters(stripped) - characters(plain)
            kept.append(plain)
    finish()
    book.left_out = +book.left_out
    return made


def _line(line: str) -> str:
    """A line without the marks that say what it is."""
    if line.startswith(">"):
        line = line[1:].strip()
        line = line[:-1].strip() if line.endswith("<") else line
    elif line[0] in "!@~" or (line[0] == "." and line[1:2] not in (".", "")):
        line = line[1:].strip()
    if line.endswith("^") and line[:-1].strip().isupper():
        line = line[:-1].strip()
    if _SCENE.match(line) or line.isupper():
        line = _SCENE_NUMBER.sub("", line)
    return _without_marks(line)


def _without_marks(text: str) -> str:
    for _ in range(2):  # bold within italics
        text = _EMPHASIS.sub(r"\2", text)
    return re.sub(r"\\([*_])", r"\1", text)
