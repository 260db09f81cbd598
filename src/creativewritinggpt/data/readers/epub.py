"""E-books (EPUB 2 and 3) as chapters.

Pages come in the order of the spine. A page is read as XML, with the named entities of HTML, or
where it is none as HTML. Left out and counted are covers, title and copyright pages, contents, the
licence of Project Gutenberg, pages beside the text, and what the Archive of Our Own puts around a
story: tags, summaries and notes. Nothing is left out for being short. Titles are the headings, or
else the labels of the contents.
"""

from __future__ import annotations

import html.entities
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import InputError
from .. import text as encoding
from ..document import characters
from ..text import clean_characters, count_words
from .archive import MOST_TAGS, Archive, damaged, xml_parser
from .books import (
    Book,
    Part,
    as_blocks,
    chapter_level,
    chapters,
    cut_at_headings,
    is_byline,
    without_licence,
)
from .headings import find_headings
from .pages import CUT, PageReader, all_text, name_of, types_of

_FRONT_NAME = re.compile(
    r"[\d_-]*(?:cover|title|half-?title|copyright|imprint|toc|contents|nav)[_-]?(?:page)?\d*", re.I
)
_COPYRIGHT = re.compile(
    r"all rights reserved|\bISBN\b|©|copyright\s+(?:©|\(c\)|\d{4})|alle rechte vorbehalten"
    r"|tous droits reserves|todos los derechos|版权所有|著作権|版權所有|все права защищены",
    re.I,
)
_DOCTYPE = re.compile(r"<!DOCTYPE[^>\[]*(?:\[.*?\]\s*)?>", re.S | re.I)
_DECLARATION = re.compile(r"\s*<\?xml[^>]*?(?:encoding\s*=\s*[\"']([\w.-]+)[\"'][^>]*)?\?>")
_ENTITY = re.compile(r"&([A-Za-z][A-Za-z0-9]{1,30});")
_FONT_ALGORITHMS = {"http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC"}
# Each level takes three calls, of which Python allows a thousand.
_DEEPEST = 150
_PAGE_TYPES = ("xhtml", "html", "dtbook")

# The Archive of Our Own.
_AO3 = re.compile(r"archiveofourown\.org|archive of our own", re.I)
_AO3_LABELS = {
    "summary": "summaries",
    "chapter summary": "summaries",
    "notes": "author's notes",
    "chapter notes": "author's notes",
    "end notes": "author's end notes",
    "chapter end notes": "author's end notes",
}
_AO3_LINE = re.compile(
    r"\(?see the end of the .{0,30}notes\.?\)?|posted originally on the archive of.*"
    r"|please (?:drop by|visit) the archive.*",
    re.I,
)


@dataclass
class _Page:
    """One page as it is read.

    Attributes:
        name: Its member of the archive.
        parts: What has been read.
        quoted: For each part, whether it stands in a quotation.
        reason: Why it is left out, where it is ...
        is_sure: ... and whether it says so itself.
        is_ao3: Whether it is of the Archive of Our Own.
    """

    name: str
    parts: list[Part] = field(default_factory=list)
    quoted: list[bool] = field(default_factory=list)
    reason: str = ""
    is_sure: bool = True
    is_ao3: bool = False


def read_epub(path: Path) -> Book:
    """The chapters of an e-book.

    Raises:
        InputError: It is damaged or protected.
        ImportError: ``lxml`` is not installed.
    """
    book = Book()
    with Archive(path) as archive:
        pages = list(_pages(archive, book))
    _leave_out_front(pages, book)
    found = [part for page in pages for part in page.parts]
    pieces = [part for part in found if part.level < CUT]
    cuts = len(found) - len(pieces)
    level = chapter_level(pieces)
    if level is not None and 2 * sum(0 < part.level <= level for part in pieces) >= cuts:
        book.chapters += chapters(pieces, book)
        return book
    text = as_blocks(pieces)
    if len(find_headings(text)) >= max(2, cuts):
        cut_at_headings(text, book)
    elif cuts > 1:
        book.chapters += chapters(_by_contents(found, book), book)
    else:
        for page in pages:
            book.chapters += chapters([part for part in page.parts if part.level < CUT], book)
    return book


def _by_contents(found: Sequence[Part], book: Book) -> list[Part]:
    """Parts whose headings are the entries of the contents, each with the words of the text."""
    made: list[Part] = []
    label = ""
    for part in found:
        letters = _letters(part.text)
        if part.level >= CUT:
            made.append(Part(part.level - CUT + 1, part.text))
            label = letters
            book.characters += characters(part.text)
        elif letters and label.startswith(letters):
            label = label.removeprefix(letters)
            book.characters -= characters(part.text)  # the entry's own words, once
        else:
            made.append(Part(0, part.text))
            label = ""
    return made


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))


def _pages(archive: Archive, book: Book) -> Iterator[_Page]:
    """The pages in reading order, each with its parts."""
    _refuse_protected(archive)
    package_name = _package_name(archive)
    package = archive.xml(package_name)
    folder = posixpath.dirname(package_name)
    items = {item.get("id"): item for item in package.iterfind(".//{*}manifest/{*}item")}
    order = [
        (items[one.get("idref")], (one.get("linear") or "yes").lower() != "no")
        for one in package.iterfind(".//{*}spine/{*}itemref")
        if one.get("idref") in items
    ]
    if not any(linear for _, linear in order):
        order = [(item, True) for item, _ in order] or [(item, True) for item in items.values()]
    marks = _contents(archive, package, items, folder)
    guide = {
        _member(folder, one.get("href") or ""): (one.get("type") or "").lower()
        for one in package.iterfind(".//{*}guide/{*}reference")
        if "#" not in (one.get("href") or "")
    }
    for item, linear in order:
        kind = (item.get("media-type") or "").lower()
        name = _member(folder, item.get("href") or "")
        if kind and not any(one in kind for one in _PAGE_TYPES):
            continue
        if name not in archive:
            book.dropped["pages that are missing"] += 1
            continue
        body = _parse(archive, name)
        if body is None:
            book.dropped["pages that are empty or can't be read"] += 1
            continue
        if body.xpath(f"boolean(.//*[count(ancestor::*) > {_DEEPEST}])"):
            book.dropped["pages nested too deeply"] += 1
            continue
        whole = clean_characters(all_text(body))
        book.characters += characters(whole)
        if "nav" in (item.get("properties") or "").split():
            book.leave_out("table of contents", whole)
            continue
        reader = PageReader(book, marks.get(name.casefold()))
        reader.read(body)
        page = _Page(name, reader.parts, reader.quoted, is_ao3=bool(_AO3.search(whole)))
        use = guide.get(name, "")
        if not linear:
            page.reason = "pages beside the text"
        elif use in ("cover", "title-page", "copyright-page", "toc"):
            page.reason = "table of contents" if use == "toc" else "front matter"
        elif _is_list_of_links(body):
            page.reason = "table of contents"
        elif _is_front_page(page, item, package):
            page.reason, page.is_sure = "front matter", False
        yield page


def _member(folder: str, href: str) -> str:
    return posixpath.normpath(posixpath.join(folder, href.partition("#")[0])).lstrip("/")


def _refuse_protected(archive: Archive) -> None:
    """Refuse books whose pages are encrypted; fonts may be."""
    protected = any(name in archive for name in ("META-INF/license.lcpl", "META-INF/sinf.xml"))
    if "META-INF/encryption.xml" in archive:
        root = archive.xml("META-INF/encryption.xml")
        methods = {
            method.get("Algorithm")
            for data in root.iterfind(".//{*}EncryptedData")
            for method in data.iterfind("./{*}EncryptionMethod")
        }
        protected |= bool(methods - _FONT_ALGORITHMS)
    if protected:
        raise InputError(
            f"{archive.path} is protected against copying (DRM)",
            "give a copy without protection, or the manuscript",
        )


def _package_name(archive: Archive) -> str:
    if "META-INF/container.xml" in archive:
        root = archive.xml("META-INF/container.xml").find(".//{*}rootfile")
        if root is not None and root.get("full-path") and root.get("full-path") in archive:
            return str(root.get("full-path"))
    name = next((name for name in archive.names() if name.lower().endswith(".opf")), None)
    if name is None:
        raise damaged(archive.path, "it names no contents")
    return name


def _contents(
    archive: Archive, package: Any, items: dict[str, Any], folder: str
) -> dict[str, dict[str, tuple[int, str]]]:
    """Depth and label of each entry of the contents, by page and by the id that it leads to."""
    made: dict[str, dict[str, tuple[int, str]]] = {}

    def add(base: str, href: str, depth: int, label: str) -> None:
        name = _member(posixpath.dirname(base), href).casefold()
        entry = (depth, " ".join(label.split()))
        made.setdefault(name, {}).setdefault(href.partition("#")[2], entry)

    nav = next((i for i in items.values() if "nav" in (i.get("properties") or "").split()), None)
    if nav is not None and (name := _member(folder, nav.get("href") or "")) in archive:
        body = _parse(archive, name)
        lists = [one for one in body.iter() if name_of(one) == "nav"] if body is not None else []
        chosen = next((one for one in lists if "toc" in types_of(one)), lists[0] if lists else None)
        for link in chosen.iter() if chosen is not None else ():
            if name_of(link) == "a" and link.get("href"):
                depth = sum(name_of(one) in ("ol", "ul") for one in link.iterancestors())
                add(name, link.get("href"), depth, all_text(link))
    ncx = next((i for i in items.values() if "ncx" in (i.get("media-type") or "")), None)
    if not made and ncx is not None and (name := _member(folder, ncx.get("href") or "")) in archive:
        for point in archive.xml(name).iterfind(".//{*}navMap//{*}navPoint"):
            label, content = point.find("./{*}navLabel/{*}text"), point.find("./{*}content")
            if label is not None and content is not None and content.get("src"):
                depth = sum(name_of(one) == "navpoint" for one in point.iterancestors()) + 1
                add(name, content.get("src"), depth, label.text or "")
    return made


def _parse(archive: Archive, name: str) -> Any | None:
    """The body of a page, or None where it has none."""
    from lxml import etree
    from lxml import html as lxml_html

    source = _decode(archive.read(name), archive.path)
    if not source.strip() or source.count("<") > MOST_TAGS:
        return None
    try:
        root = etree.fromstring(_ENTITY.sub(_entity, source), xml_parser())
    except (etree.XMLSyntaxError, ValueError):
        parser = lxml_html.HTMLParser()
        try:
            root = lxml_html.document_fromstring(source, parser)
        except (etree.ParserError, etree.XMLSyntaxError, ValueError):
            return None
        if any("depth" in one.message for one in parser.error_log):
            return None
    return next((one for one in root.iter() if name_of(one) in ("body", "book")), root)


def _decode(data: bytes, path: Path) -> str:
    """A page's text without declarations: UTF-8, what it declares, or what it seems to be."""
    declared = _DECLARATION.match(data[:200].decode("latin-1"))
    names = ["utf-8", (declared and declared[1]) or "utf-8"]
    text = ""
    while not text and names and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = encoding.decode_as(data, names.pop(0)) or ""
    text = text or encoding.decode(data, path, lambda _: None)
    return _DOCTYPE.sub("", _DECLARATION.sub("", text.lstrip("\ufeff"), count=1), count=1)


def _entity(found: re.Match[str]) -> str:
    """A named entity of HTML as its character; those of XML stay."""
    if found[1] in ("amp", "lt", "gt", "quot", "apos"):
        return found[0]
    return html.entities.html5.get(f"{found[1]};", found[0])


def _is_front_page(page: _Page, item: Any, package: Any) -> bool:
    """Whether a page is a cover, a title page or a copyright page, and surely no part of the text.

    It is short and says who holds the rights, its name says so, or it holds nothing but the book's
    title and the names of those who made it.
    """
    whole = "\n".join(part.text for part in page.parts if part.level < CUT)
    words = count_words(whole)
    stem = posixpath.splitext(posixpath.basename(page.name))[0]
    if words < 60 and any(map(_FRONT_NAME.fullmatch, (stem, item.get("id") or ""))):
        return True
    if words < 400 and len(_COPYRIGHT.findall(whole)) > (1 if words > 40 else 0):
        return True
    about = "".join(
        _letters(one.text or "")
        for name in ("title", "creator", "publisher", "contributor", "subject")
        for one in package.iterfind(f".//{{*}}metadata/{{*}}{name}")
    )
    whole = re.sub(r"^(?:by|von|par|de|di)\s", "", whole, flags=re.I | re.M)
    lines = [line for line in map(_letters, whole.split("\n")) if line]
    return bool(lines) and len(about) > 3 and all(len(line) > 1 and line in about for line in lines)


def _is_list_of_links(body: Any) -> bool:
    """Whether nearly all of a page's text but its headings is links to other pages."""
    links = [one for one in body.iter() if name_of(one) == "a" and one.get("href")]
    headings = [one for one in body.iter() if re.fullmatch("h[1-6]", name_of(one))]
    linked, headed = (sum(characters(all_text(one)) for one in them) for them in (links, headings))
    return len(links) >= 3 and linked >= 0.8 * (characters(all_text(body)) - headed)


def _leave_out_front(pages: list[_Page], book: Book) -> None:
    """Take out pages that are no text, the licence of Project Gutenberg, and notes of the AO3."""
    if any(page.is_ao3 for page in pages):
        for number, page in enumerate(pages):
            _without_archive(page, number, book)
    sizes = [sum(characters(part.text) for part in page.parts) for page in pages]
    unsure = sum(size for page, size in zip(pages, sizes, strict=True) if not page.is_sure)
    for page in pages:
        if page.reason and (page.is_sure or unsure <= 0.1 * sum(sizes)):
            for part in page.parts:
                if part.level < CUT:
                    book.leave_out(page.reason, part.text)
            page.parts.clear()
    kept = set(map(id, without_licence([part for page in pages for part in page.parts], book)))
    for page in pages:
        page.parts = [part for part in page.parts if id(part) in kept]
    pages[:] = [page for page in pages if page.parts]


def _without_archive(page: _Page, number: int, book: Book) -> None:
    """Take out what the Archive of Our Own puts around a story."""
    kept: list[Part] = []
    reason = ""
    preface = number < 2 and any("posted originally on" in part.text.lower() for part in page.parts)
    for part, quoted in zip(page.parts, page.quoted, strict=True):
        label = part.text.strip(" :").lower()
        if label in _AO3_LABELS:
            reason = _AO3_LABELS[label]
            book.leave_out(reason, part.text)
        elif reason and quoted:
            book.leave_out(reason, part.text)
        elif _AO3_LINE.fullmatch(part.text.replace("\n", " ")):
            book.leave_out("author's notes" if "notes" in label else "front matter", part.text)
        else:
            reason = ""
            preface &= not 0 < part.level < CUT
            if (preface and part.level < CUT) or (number < 2 and is_byline(part.text)):
                book.leave_out("front matter", part.text)
            else:
                kept.append(part)
    page.parts = kept
