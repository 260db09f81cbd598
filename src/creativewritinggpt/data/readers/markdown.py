"""Markdown as plain text: the marks go, the words and the chapters stay.

The parsing is ``markdown-it``'s, so that an asterisk in a sentence is not taken for emphasis. The
result is a list of parts, of which headings can begin chapters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..cleaning import clean_characters, tidy_layout
from .books import Book, Chapter
from .headings import is_matter
from .layout import SCENE_BREAK, Block

if TYPE_CHECKING:
    from markdown_it.token import Token

_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n(?:---|\.\.\.)\s*(?:\n|\Z)", re.DOTALL)
_TAG = re.compile(r"<(?:/?[A-Za-z][^<>]*|!--.*?--)>", re.DOTALL)

Part = tuple[int, str]
"""The level of a heading (0 for anything else) and the text."""


def _inline(token: Token) -> str:
    """The words of a paragraph; a hard break is a new line, a soft one a space."""
    made: list[str] = []
    for child in token.children or []:
        if child.type in ("text", "code_inline", "text_special"):
            made.append(child.content)
        elif child.type == "softbreak":
            made.append(" ")
        elif child.type == "hardbreak":
            made.append("\n")
    return re.sub(r" *\n *", "\n", "".join(made)).strip()


def parts(text: str) -> Iterator[Part]:
    """The headings, paragraphs and scene breaks of a Markdown text, in order."""
    from markdown_it import MarkdownIt

    level = 0
    # Indented text is a paragraph's first line far more often than code in what writers write.
    for token in MarkdownIt("commonmark").disable("code").enable("table").parse(text):
        if token.type == "heading_open":
            level = int(token.tag[1:])
        elif token.type == "heading_close":
            level = 0
        elif token.type == "inline" and (words := _inline(token)):
            yield level, words
        elif token.type in ("fence", "code_block") and token.content.strip():
            yield 0, token.content.rstrip("\n")
        elif token.type == "html_block" and (words := _TAG.sub("", token.content).strip()):
            yield 0, words
        elif token.type == "hr":
            yield 0, SCENE_BREAK


def chapter_level(levels: Sequence[int]) -> int | None:
    """The level whose headings are chapters: the highest that occurs more than once."""
    several = [level for level in range(1, 7) if levels.count(level) > 1]
    return several[0] if several else None


def chapters(text: Sequence[Part], book: Book) -> Iterator[Chapter]:
    """Cut parts at the headings of the level that has chapters.

    A heading of a higher level lends its title to what follows it; lower ones stay as lines of
    the text. Contents, acknowledgements and the like are dropped and counted.
    """
    level = chapter_level([level for level, _ in text])
    above: list[Part] = []
    body: list[str] = []
    matter = False

    def finished() -> Iterator[Chapter]:
        while body and body[-1] == SCENE_BREAK:
            body.pop()
        if body:
            yield Chapter(", ".join(title for _, title in above) or None, "\n\n".join(body))
            body.clear()

    for rank, words in text:
        if rank and (level is None or rank <= level):
            yield from finished()
            while above and above[-1][0] >= rank:
                above.pop()
            title = " ".join(words.split())
            above.append((rank, title))
            matter = is_matter(Block((title,), 1))
        elif matter:
            book.drop("lines of front and back matter", [Block(tuple(words.splitlines()), 0)])
        elif words != SCENE_BREAK or (body and body[-1] != SCENE_BREAK):
            body.append(words)
    yield from finished()


def read_markdown(text: str) -> Book:
    """Cut a Markdown text into chapters; a header between ``---`` lines is dropped and counted."""
    book = Book()
    text = clean_characters(text)
    header = _FRONT_MATTER.match(text)
    if header and ":" in header[1]:
        book.drop("lines of front matter", [Block(tuple(header[1].splitlines()), 0)])
        text = text[header.end() :]
    for chapter in chapters(list(parts(text)), book):
        book.chapters.append(Chapter(chapter.title, tidy_layout(chapter.text)))
    return book
