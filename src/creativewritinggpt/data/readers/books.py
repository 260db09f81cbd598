"""A book as it comes, cut into its chapters.

What is not the story is told apart and counted: the licence and notices of Project Gutenberg, title
page, contents, and what follows ``THE END``. Lines wrapped inside paragraphs are joined, verse and
scene breaks stay, marks of emphasis (``_so_``) and ``[Illustration]`` go. A text without chapters
comes out as one. Prose is never dropped for standing in an unusual place: a passage of some length
before the first heading is a chapter without a title.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ..cleaning import clean_characters, tidy_layout
from .headings import Heading, find_headings, is_matter, is_prose, page_numbers
from .layout import SCENE_BREAK, Block, blocks, unwrap, wrap_width

_START = re.compile(r"^.*\*\*\* ?START OF (?:THE|THIS) PROJECT GUTENBERG.*?\*\*\*.*$", re.M | re.I)
_END = re.compile(
    r"^.*(?:\*\*\* ?END OF (?:THE|THIS) PROJECT GUTENBERG"
    r"|End of (?:the |this )?Project Gutenberg).*$",
    re.M | re.I,
)
_PRODUCED = re.compile(r"\s*(?:Produced by|E-?text prepared by|Transcribed (?:from|by))\b", re.I)
_ILLUSTRATION = re.compile(r"[ \t]*\[(?:Illustration|Frontispiece)\b[^\]]{0,2000}\]", re.I)
_PAGE_MARK = re.compile(r"\[(?:Pg|Page|p\.) ?\d+\]|\{\d{1,4}\}", re.I)
_ITALICS = re.compile(r"(?<![\w_])_+(?=[^\s_])([^_]{1,600}?)(?<=[^\s_])_+(?![\w_])")
_THE_END = re.compile(r"[\s*_.~—-]*(?:the end|finis|fin|end)[\s*_.!~—-]*", re.I)
_BY = re.compile(r"(?:by|written by|a novel by)\s+\S.{1,60}", re.I)
_SEPARATOR = re.compile(r"<\|(?:endoftext|startoftext|end_of_text)\|>|</?s>(?=\s*$)", re.M)
# Prose of so many words before the first heading is kept.
_LONG_OPENING = 60
_REAL_CHAPTER = 20


@dataclass
class Chapter:
    """One chapter: its heading in one line, where it has one, and its paragraphs."""

    title: str | None
    text: str


@dataclass
class Book:
    """What a text turned into.

    Attributes:
        chapters: In order; one for a text without chapters.
        wrapped: Whether its paragraphs had been wrapped.
        dropped: What was left out, and how many lines of it.
    """

    chapters: list[Chapter] = field(default_factory=list)
    wrapped: bool = False
    dropped: dict[str, int] = field(default_factory=dict)

    def drop(self, reason: str, text: Sequence[Block]) -> None:
        """Count the lines of blocks that are left out."""
        lines = sum(len(block.lines) for block in text)
        if lines:
            self.dropped[reason] = self.dropped.get(reason, 0) + lines


def separate(text: str) -> list[str]:
    """The texts of a file that sets them apart with ``<|endoftext|>``, or the one text it is."""
    if "<|" not in text:
        return [text]
    return [part for part in _SEPARATOR.split(text) if part.strip()]


def read_book(text: str) -> Book:
    """Cut a plain text into chapters.

    Args:
        text: The whole file, decoded.
    """
    book = Book()
    text = clean_characters(text)
    text = _PAGE_MARK.sub("", _ILLUSTRATION.sub("", _without_licence(text, book)))
    all_blocks = blocks(text)
    numbers = page_numbers(all_blocks)
    book.drop("page numbers", [all_blocks[number] for number in sorted(numbers)])
    kept = _without_pages(all_blocks, numbers)
    if kept and _PRODUCED.match(kept[0].text):
        book.drop("lines of front matter", kept[:1])
        kept = kept[1:]
    width = wrap_width(kept)
    book.wrapped = width is not None
    kept = _without_back_matter(kept, book)
    headings = find_headings(kept)
    first = _first_chapter(headings, kept)
    if first is None:
        chapters = [_title_page(kept, book)]
    else:
        chapters = list(_sections(kept, headings, first, book))
    for title, body in chapters:
        joined = _paragraphs(body, width)
        if joined:
            book.chapters.append(Chapter(title, joined))
    return book


def strip_emphasis(text: str) -> str:
    """``_so_`` without its marks; names with underscores stay."""
    return _ITALICS.sub(r"\1", text) if "_" in text else text


def _without_licence(text: str, book: Book) -> str:
    """What stands between the marks of Project Gutenberg, where there are any."""
    if "gutenberg" not in text.lower():
        return text
    start = _START.search(text)
    if start:
        book.drop("lines of licence", blocks(text[: start.end()]))
        text = text[start.end() :]
    end = _END.search(text)
    if end:
        book.drop("lines of licence", blocks(text[end.start() :]))
        text = text[: end.start()]
    return text


def _without_pages(text: Sequence[Block], numbers: set[int]) -> list[Block]:
    """Without the blocks of page numbers; a sentence that one interrupted is joined again."""
    kept: list[Block] = []
    interrupted = False
    for number, block in enumerate(text):
        if number in numbers:
            interrupted = True
            continue
        if interrupted and kept and kept[-1].text[-1:].isalpha() and block.text[0].islower():
            kept[-1] = Block(kept[-1].lines + block.lines, kept[-1].gap)
        else:
            kept.append(block)
        interrupted = False
    return kept


def _without_back_matter(text: list[Block], book: Book) -> list[Block]:
    """Without ``THE END`` and what follows it near the end of the text."""
    total = sum(block.words for block in text)
    after = 0
    for number in range(len(text) - 1, 0, -1):
        block = text[number]
        story = text[:number]
        if _THE_END.fullmatch(block.text) or (is_matter(block) and any(map(is_prose, story))):
            book.drop("lines of back matter", text[number:])
            return _without_back_matter(story, book)
        after += block.words
        if after > 0.15 * total:
            break
    return text


def _prose_words(text: Sequence[Block]) -> int:
    return sum(block.words for block in text if is_prose(block))


def _first_chapter(headings: Sequence[Heading], text: Sequence[Block]) -> int | None:
    """The number of the first heading that has prose under it, so contents lists are passed by."""
    for number, heading in enumerate(headings):
        end = headings[number + 1].first if number + 1 < len(headings) else len(text)
        body = text[heading.after : end]
        matter = next((i for i, block in enumerate(body) if is_matter(block)), len(body))
        if _prose_words(body[:matter]) >= _REAL_CHAPTER:
            return number
    return None


def _title_page(text: Sequence[Block], book: Book) -> tuple[str | None, Sequence[Block]]:
    """Tell the title and the author's line of a text without chapters apart from the text."""
    for number, block in enumerate(text[:4]):
        lines = block.lines
        if len(lines) > 3 or is_prose(block):
            break
        if any(_BY.fullmatch(line.strip()) for line in lines) and number + 1 < len(text):
            book.drop("lines of front matter", text[: number + 1])
            return text[0].lines[0].strip(" #*_"), text[number + 1 :]
    return None, text


def _sections(
    text: Sequence[Block], headings: Sequence[Heading], first: int, book: Book
) -> Iterator[tuple[str | None, Sequence[Block]]]:
    """Title and body of each chapter; a heading without a body lends its title to the next."""
    start = first
    # Books and parts that begin with this chapter; entries of a contents list are no higher.
    while (
        start > 0
        and headings[start - 1].after >= headings[start].first
        and headings[start - 1].level < headings[start].level
    ):
        start -= 1
    opening = text[: headings[start].first]
    if _prose_words(opening) >= _LONG_OPENING:
        skipped = next((i for i, block in enumerate(opening) if is_prose(block)), 0)
        book.drop("lines of front matter", opening[:skipped])
        yield None, opening[skipped:]
    else:
        book.drop("lines of front matter", opening)
    above: list[Heading] = []
    for number in range(start, len(headings)):
        heading = headings[number]
        end = headings[number + 1].first if number + 1 < len(headings) else len(text)
        while above and above[-1].level >= heading.level:
            above.pop()
        above.append(heading)
        body = text[heading.after : end]
        if any(not block.is_break for block in body):
            yield ", ".join(part.title for part in above), body


def _paragraphs(body: Sequence[Block], width: int | None) -> str:
    """The chapter's text: paragraphs, verse and scene breaks, with an empty line between."""
    made: list[str] = []
    for block in body:
        if not block.is_break:
            made.append(strip_emphasis(unwrap(block, width)))
        elif made and made[-1] != SCENE_BREAK:
            made.append(SCENE_BREAK)
    while made and made[-1] == SCENE_BREAK:
        made.pop()
    return tidy_layout("\n\n".join(made))
