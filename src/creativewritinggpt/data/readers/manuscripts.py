"""Manuscripts whose headings are marked: Markdown, and the files of word processors and e-books.

Each is parsed into parts, headings with their level and texts, which are cut at the level that has
chapters. One whose headings are not marked is read like a plain text.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING

from ...errors import InputError
from ..document import characters
from ..text import clean_characters, ends_sentence, tidy_layout, without_spaces_at_ends
from .books import Book, Part, as_blocks, chapter_level, chapters, cut_at_headings, without_licence
from .headings import find_headings
from .layout import SCENE_BREAK, Block, without_between, wrap_width

if TYPE_CHECKING:
    from markdown_it.rules_core import StateCore
    from markdown_it.token import Token

_FRONT_MATTER = re.compile(r"\A---[^\S\n]*\n(.*?)\n(?:---|\.\.\.)[^\S\n]*(?:\n|\Z)", re.DOTALL)
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_EMPTY_RUN = re.compile(r"\n{100,}")
_MARKS = "[]*_<&!`\\"
"""What Markdown looks at within a paragraph."""
_SOFT = "\v"
"""A line break that Markdown takes for a space."""


def _inline(token: Token) -> str:
    """The words of a paragraph; a hard break is a new line."""
    made: list[str] = []
    for child in token.children or []:
        if child.type in ("text", "code_inline", "text_special"):
            made.append(child.content)
        elif child.type == "softbreak":
            made.append(_SOFT)
        elif child.type == "hardbreak" or child.content.lower().startswith("<br"):
            made.append("\n")
    return re.sub(r"\n[ \v]+", "\n", without_spaces_at_ends("".join(made))).strip()


def parts(text: str) -> list[Part]:
    """The headings, paragraphs and scene breaks of a Markdown text, in order."""
    made = list(_parts(text))
    # Lines that are no wrapped paragraphs and end amid sentences are verse.
    soft = [Block(tuple(part.text.split(_SOFT))) for part in made if _SOFT in part.text]
    lines = [line for block in soft for line in block.lines]
    verse = (
        len(lines) - len(soft) >= 4
        and wrap_width(soft) is None
        and mean(map(len, lines)) < 60
        and mean(map(ends_sentence, lines)) < 0.6
    )
    return [Part(part.level, part.text.replace(_SOFT, "\n" if verse else " ")) for part in made]


def _inline_marks(state: StateCore) -> None:
    """The parser's own step for paragraphs; those that are dense with marks are kept as they stand.

    It makes an object or more of each mark, and looks at a bracket once for each of twenty before
    it.
    """
    from markdown_it.token import Token

    for token in state.tokens:
        if token.type != "inline":
            continue
        marks = sum(map(token.content.count, _MARKS))
        if marks > 1000 and 4 * marks > len(token.content):
            token.children = [Token("text", "", 0, content=token.content)]
        else:
            token.children = []
            state.md.inline.parse(token.content, state.md, state.env, token.children)


def _parts(text: str) -> Iterator[Part]:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark").disable("code").enable("table")
    parser.core.ruler.at("inline", _inline_marks)
    level, number = 0, ""
    # Indented text is a paragraph's first line far more often than code in what writers write.
    for token in parser.parse(text):
        if token.type == "heading_open":
            level = int(token.tag[1:])
        elif token.type == "heading_close":
            level = 0
        elif token.type == "list_item_open":
            number = f"{token.info}{token.markup} " if token.info else ""
        elif token.type == "inline" and (words := _inline(token)):
            yield Part(level, number + words)
            number = ""
        elif token.type in ("fence", "code_block") and token.content.strip():
            yield Part(0, token.content.rstrip("\n"))
        elif token.type == "html_block":
            words = _TAG.sub("", without_between(token.content, "<!--", "-->")[0])
            words = html.unescape(words).strip()
            yield from [Part(0, words)] if words else []
        elif token.type == "hr":
            yield Part(0, SCENE_BREAK)


def read_markdown(text: str) -> Book:
    """Cut a Markdown text into chapters; a header between ``---`` lines is dropped and counted."""
    book = Book()
    text = _EMPTY_RUN.sub("\n" * 100, clean_characters(text))  # the parser takes a step for each
    header = _FRONT_MATTER.match(text)
    if header and ":" in header[1]:
        book.leave_out("front matter", header[1])
        text = text[header.end() :]
    found = parts(text)
    book.characters = sum(characters(part.text) for part in found) + book.left_out.total()
    cut_parts(found, book)
    return book


def cut_parts(found: Sequence[Part], book: Book) -> None:
    """Add the chapters of parts, by their headings or else by what reads like one."""
    found = without_licence(found, book)
    if chapter_level(found) is None:
        text = as_blocks(found)
        marked = any(part.level for part in found)
        if not marked or len(find_headings(text)) > 1:
            cut_at_headings(text, book)
            return
    for chapter in chapters(found, book):
        chapter.text = tidy_layout(chapter.text)
        book.chapters.append(chapter)


def read_manuscript(path: Path, ending: str | None = None) -> Book:
    """The chapters of a Word file, an OpenDocument text, an RTF text or an e-book.

    Args:
        path: The file.
        ending: What it is; by its name without it.

    Raises:
        InputError: The file is not whole, or protected.
        ImportError: The extra ``documents`` is not installed.
    """
    ending = ending or path.suffix.lower()
    if ending == ".epub":
        from .epub import read_epub

        return read_epub(path)
    if ending == ".rtf":
        from .rtf import read_rtf

        data = path.read_bytes()
        if b"{\\rtf" not in data:
            raise InputError(f"{path} is no RTF text", "save it anew, or give it as .txt")
        found, book = read_rtf(data[data.index(b"{\\rtf") :])
    elif ending in (".odt", ".ott", ".fodt"):
        from .odt import read_odt

        found, book = read_odt(path)
    else:
        from .word import read_word

        found, book = read_word(path)
    cut_paragraphs(found, book)
    return book


def cut_paragraphs(found: Sequence[Part], book: Book) -> None:
    """Add the chapters of a word processor's paragraphs, of which empty ones are layout."""
    cut_parts([part for part in _stanzas(found) if part.text or part.level], book)


def _stanzas(found: Sequence[Part]) -> Sequence[Part]:
    """Lines of verse that are a paragraph each, with an empty one between stanzas, as stanzas."""
    groups = [
        [part.text for part in group] for is_text, group in groupby(found, _is_line) if is_text
    ]
    lines = [line for group in groups for line in group]
    if (
        len(groups) < 2
        or not 2 <= mean(map(len, groups)) <= 14
        or median(map(len, lines)) > 60
        or mean(map(ends_sentence, lines)) > 0.6
    ):
        return found
    made: list[Part] = []
    for is_text, group in groupby(found, _is_line):
        together = list(group)
        stanza = Part(0, "\n".join(part.text for part in together))
        made += [stanza] if is_text else together
    return made


def _is_line(part: Part) -> bool:
    return bool(part.text) and not part.level
