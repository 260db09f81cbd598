"""Manuscripts whose headings are marked: Markdown, Word files and e-books.

Each is parsed (by ``markdown-it``, ``python-docx``, ``lxml``) into parts, headings with their level
and texts, which are cut at the level that has chapters. A Word file without heading styles is read
like a plain text. Word files and e-books need the extra ``documents``.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from ...errors import InputError
from ..text import clean_characters, tidy_layout
from .books import SCENE_BREAK, Block, Book, Chapter, blocks, is_matter, is_prose, read_book

if TYPE_CHECKING:
    from markdown_it.token import Token

_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n(?:---|\.\.\.)\s*(?:\n|\Z)", re.DOTALL)
_TAG = re.compile(r"<(?:/?[A-Za-z][^<>]*|!--.*?--)>", re.DOTALL)
_HEADING_STYLE = re.compile(r"(?:heading|überschrift|titre|título|titolo) (\d)", re.IGNORECASE)
_TEXT_TAGS = {"p", "li", "pre", "td", "th", "dt", "dd", "figcaption"}
_BLOCKS = _TEXT_TAGS | {"div", "section", "article", "blockquote", "hr", "ul", "ol", "table"}
_BLOCKS |= {f"h{level}" for level in range(1, 7)}
_LEFT_OUT = {"script", "style", "head", "nav", "img", "svg", "sup"}
_OPENING_WORDS = 60
_TITLE_PAGE_WORDS = 20
_FEWEST_WORDS = 50
_LARGEST_MEMBER = 200_000_000

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
            book.drop("front and back matter", [Block(tuple(words.splitlines()), 0)])
        elif words != SCENE_BREAK or (body and body[-1] != SCENE_BREAK):
            body.append(words)
    yield from finished()


def read_markdown(text: str) -> Book:
    """Cut a Markdown text into chapters; a header between ``---`` lines is dropped and counted."""
    book = Book()
    text = clean_characters(text)
    header = _FRONT_MATTER.match(text)
    if header and ":" in header[1]:
        book.drop("front matter", [Block(tuple(header[1].splitlines()), 0)])
        text = text[header.end() :]
    for chapter in chapters(list(parts(text)), book):
        book.chapters.append(Chapter(chapter.title, tidy_layout(chapter.text)))
    return book


def read_manuscript(path: Path) -> Book:
    """The chapters of a ``.docx`` or ``.epub`` file.

    Raises:
        InputError: The file is not whole, or the extra ``documents`` is not installed.
    """
    try:
        return _read_docx(path) if path.suffix.lower() == ".docx" else _read_epub(path)
    except ImportError as error:
        raise InputError(
            f"{path}: reading {path.suffix} files needs the extra 'documents'",
            "pip install 'creativewritinggpt[documents]', or save it as .txt or .md",
        ) from error
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, SyntaxError) as error:
        raise InputError(
            f"{path} is not a whole {path.suffix} file ({error})", "save it again, or as .txt"
        ) from error


def _read_docx(path: Path) -> Book:
    import docx
    from docx.opc.exceptions import PackageNotFoundError

    try:
        document = docx.Document(str(path))
    except PackageNotFoundError as error:
        raise ValueError("it can't be opened") from error
    found = [part for part in _docx_parts(document) if part[1]]
    if any(level for level, _ in found):
        book = Book()
        book.chapters = list(chapters(found, book))
        return book
    return read_book("\n\n".join(text for _, text in found))


def _docx_parts(document: Any) -> Iterator[Part]:
    for item in document.iter_inner_content():
        rows = getattr(item, "rows", None)
        if rows is not None:
            for row in rows:
                yield 0, clean_characters("\n".join(cell.text for cell in row.cells)).strip()
            continue
        style = item.style.name if item.style is not None else ""
        heading = _HEADING_STYLE.fullmatch(style)
        level = int(heading[1]) if heading else 1 if style == "Title" else 0
        text = tidy_layout(clean_characters(item.text)).strip()
        yield level, SCENE_BREAK if _is_break(text) else text


def _is_break(text: str) -> bool:
    found = blocks(text)
    return len(found) == 1 and found[0].is_break


def _read_epub(path: Path) -> Book:
    book = Book()
    pages = list(_epub_pages(path))
    text = [part for page in pages for part in page]
    if chapter_level([level for level, _ in text]) is None:
        for page in pages:
            words = sum(len(part.split()) for _, part in page)
            if words >= _FEWEST_WORDS:
                book.chapters.append(Chapter(None, "\n\n".join(part for _, part in page)))
            else:
                book.drop("front and back matter", [_as_block(part) for _, part in page])
        return book
    book.chapters = list(chapters(text, book))
    # A title page is a page with a heading and a few words, or pages before the first heading.
    while len(book.chapters) > 1:
        first = book.chapters[0]
        opening = blocks(first.text)
        prose = sum(block.words for block in opening if is_prose(block))
        few = sum(block.words for block in opening) < _TITLE_PAGE_WORDS
        if not few and (first.title is not None or prose >= _OPENING_WORDS):
            break
        book.drop("front and back matter", opening)
        del book.chapters[0]
    return book


def _as_block(text: str) -> Block:
    return Block(tuple(text.splitlines()), 0)


def _epub_pages(path: Path) -> Iterator[list[Part]]:
    """The parts of each page, in reading order; contents pages are left out."""
    from lxml import etree, html  # type: ignore[import-untyped]

    parser = etree.XMLParser(resolve_entities=False, no_network=True)
    with zipfile.ZipFile(path) as archive:
        container = etree.fromstring(_member(archive, "META-INF/container.xml"), parser)
        root = container.find(".//{*}rootfile")
        if root is None:
            raise ValueError("it names no contents")
        package_path = PurePosixPath(root.get("full-path", ""))
        package = etree.fromstring(_member(archive, str(package_path)), parser)
        items = {item.get("id"): item for item in package.iterfind(".//{*}manifest/{*}item")}
        for reference in package.iterfind(".//{*}spine/{*}itemref"):
            item = items.get(reference.get("idref"))
            if item is None or reference.get("linear") == "no":
                continue
            if "nav" in (item.get("properties") or "").split():
                continue
            page = package_path.parent / unquote(item.get("href", ""))
            tree = html.document_fromstring(_member(archive, str(page)))
            found = [part for part in _html_parts(tree) if part[1]]
            if found:
                yield found


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > _LARGEST_MEMBER:
        raise ValueError(f"{name} in it is larger than any book")
    return archive.read(name)


def _html_parts(element: Any) -> Iterator[Part]:
    """Headings, paragraphs and rules below an element, in order."""
    for child in element:
        tag = child.tag.lower() if isinstance(child.tag, str) else ""
        if not tag or tag in _LEFT_OUT:
            continue
        if re.fullmatch("h[1-6]", tag):
            yield int(tag[1]), _words(child)
        elif tag == "hr":
            yield 0, SCENE_BREAK
        elif tag in _TEXT_TAGS or not _has_blocks(child):
            text = _words(child)
            yield 0, SCENE_BREAK if _is_break(text) else text
        else:
            yield from _html_parts(child)


def _has_blocks(element: Any) -> bool:
    """Whether there are paragraphs below the element, rather than words of its own only."""
    return any(below.tag in _BLOCKS for below in element.iterdescendants())


def _words(element: Any) -> str:
    """The words of an element; a line break is one, white space is not."""
    pieces: list[str] = []

    def collect(node: Any) -> None:
        if node.text and isinstance(node.tag, str):
            pieces.append(re.sub(r"\s+", " ", node.text))
        for child in node:
            tag = child.tag if isinstance(child.tag, str) else None
            if tag == "br":
                pieces.append("\n")
            elif tag is not None and tag not in _LEFT_OUT:
                collect(child)
            if child.tail:
                pieces.append(re.sub(r"\s+", " ", child.tail))

    collect(element)
    text = re.sub(r" *\n *", "\n", "".join(pieces))
    return tidy_layout(clean_characters(text)).strip()
