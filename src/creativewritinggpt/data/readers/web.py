"""Web pages: ``.html``, ``.htm``, ``.xhtml``, archives of one (``.mht``), and HTML in other texts.

What a page's elements become is said in :mod:`.pages`, which e-books share. Around the text are
left out and counted: navigation, headers and footers, forms, comments of readers, and what the
Archive of Our Own and Project Gutenberg put around a story. ``<`` that begins no tag of HTML is a
sign of the text.
"""

from __future__ import annotations

import email
import email.policy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import InputError
from .. import text as encoding
from ..document import characters
from ..text import clean_characters
from .archive import check_markup
from .books import Book, Part
from .manuscripts import cut_parts
from .pages import TAGS, PageReader, all_text, name_of

_STRAY = re.compile(
    rf"<(?!/?(?:{'|'.join(sorted(TAGS))})(?=[\s/>])|!--|!doctype|!\[|\?|/?[a-z][\w.]*[:-][\w.:-]*)",
    re.I,
)
_PLAIN_INLINE = re.compile(r"</?(?:b|i|u|em|strong|font|big|tt|nobr)(?:\s[^<>]*)?>", re.I)
_SELF_CLOSED = re.compile(
    r"<(title|script|style|textarea|iframe|noscript|a|div|p|span)(\s[^<>]*)?/>", re.I
)
_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]+)", re.I)
_DECLARED = re.compile(rb"<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([\w.:-]+)", re.I)
_DECLARATION = re.compile(r"\A\ufeff?\s*<\?xml.*?\?>", re.S)

_FURNITURE = "navigation, headers and footers"
_FORMS = {"button", "select", "textarea", "datalist", "option", "progress", "meter", "legend"}
_ROLES = {"navigation", "banner", "contentinfo", "search", "complementary", "menu", "toolbar"}
_NO_TEXT = {"noscript", "iframe", "canvas", "svg", "applet", "embed", "math"}
_AROUND = re.compile(
    r"(?:^|\s)(?:site-?|page-?|global-?|main-?)?(?:nav(?:igation|bar)?|menu|breadcrumbs?|sidebar"
    r"|footer|masthead|cookie-?(?:banner|notice|consent)|share-?(?:buttons|links)|social-?links"
    r"|related-?posts|pagination|advert(?:isement)?s?|sponsored|skip-?link)(?:$|\s)",
    re.I,
)
_COMMENTS = re.compile(
    r"(?:^|\s)(?:comments?|comment-?(?:list|section)|disqus_thread)(?:$|\s)", re.I
)

_AO3 = re.compile(r"archiveofourown\.org|archive of our own", re.I)
_AO3_LABELS = {
    "summary": "summaries", "chapter summary": "summaries", "notes": "author's notes",
    "chapter notes": "author's notes", "end notes": "author's end notes",
    "chapter end notes": "author's end notes", "series this work belongs to": "front matter",
}  # fmt: skip
_AO3_PLACES = {
    "preface": "front matter", "afterword": "author's end notes", "feedback": "comments of readers",
    "kudos": "comments of readers", "work_endnotes": "author's end notes",
}  # fmt: skip
_AO3_CLASSES = {
    "summary": "summaries", "notes": "author's notes", "endnote-link": "author's notes",
    "endnotes": "author's end notes", "landmark": _FURNITURE, "actions": _FURNITURE,
    "series": "front matter", "byline": "front matter",
}  # fmt: skip


def page_source(data: bytes, path: Path) -> str:
    """A page's text by the encoding that it declares, or else that of any text."""
    declared = _CHARSET.search(data[:4096]) or _DECLARED.search(data[:256])
    if declared and not data.startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")):
        name = declared[1].decode("ascii", "replace").lower()
        # What browsers do: Latin-1 is Windows-1252.
        name = {"iso-8859-1": "cp1252", "latin-1": "cp1252", "us-ascii": "utf-8"}.get(name, name)
        if (text := encoding.decode_as(data, name)) is not None:
            return text
    return encoding.decode(data, path, lambda _: None)


def parse_html(source: str) -> Any:
    """The root element of a page or a piece of one.

    Raises:
        ValueError: It is nested too deeply.
        ImportError: ``lxml`` is not installed.
    """
    from lxml import etree
    from lxml import html as lxml_html

    check_markup(source)
    source = _DECLARATION.sub("", source.replace("\0", ""), count=1)
    source = _SELF_CLOSED.sub(r"<\1\2></\1>", source)  # of XHTML
    # Marks of emphasis say nothing here; left open, as many do, they nest without end.
    source = _PLAIN_INLINE.sub("", _STRAY.sub("&lt;", source))
    parser = lxml_html.HTMLParser(huge_tree=True, no_network=True)
    try:
        root = lxml_html.document_fromstring(f"<!DOCTYPE html>{source}", parser=parser)
    except etree.ParserError:  # nothing in it
        return lxml_html.fromstring("<html><body></body></html>")
    if any(error.type_name == "ERR_RESOURCE_LIMIT" for error in parser.error_log):
        raise ValueError("its elements are nested more than 2,000 deep")
    return root


def html_parts(source: str, book: Book) -> list[Part]:
    """The parts of HTML, and in the book what it leaves out and how many characters there are.

    Raises:
        ValueError: It is nested too deeply.
    """
    root = parse_html(source)
    body = root.find("body") if root.find("body") is not None else root
    try:
        text = all_text(body)
        _without_furniture(root, book)
        reader = PageReader(book)
        reader.read(body)
    except RecursionError:
        raise ValueError("its elements are nested too deeply") from None
    book.characters = characters(clean_characters(text))
    return reader.parts


def read_page(source: str) -> Book:
    """The chapters of a web page.

    Raises:
        ValueError: It is nested too deeply.
    """
    book = Book()
    cut_parts(html_parts(source, book), book)
    return book


def _without_furniture(root: Any, book: Book) -> None:
    """Take out what stands around the text."""
    whole = all_text(root)
    if _AO3.search(whole) or root.find(".//*[@id='workskin']") is not None:
        _without_archive(root, book)
    most = 0.5 * characters(whole)

    def reason_of(element: Any) -> str:
        reason = _furniture(element)
        # A frame for all of a page is no furniture, whatever it is called.
        large = reason == _FURNITURE and characters(all_text(element)) > most
        return "" if large else reason

    _take_out(root, reason_of, book)


def _take_out(root: Any, reason_of: Callable[[Any], str], book: Book) -> None:
    """Remove the elements that have a reason, and count their text."""
    stack = [root]
    while stack:
        for element in list(stack.pop()):
            if not isinstance(element.tag, str):
                continue
            if name_of(element) in ("script", "style", "img"):
                book.dropped["scripts and styles"] += name_of(element) != "img"
            elif reason := reason_of(element):
                book.leave_out(reason, all_text(element))
                element.drop_tree()
            else:
                stack.append(element)


def _without_archive(root: Any, book: Book) -> None:
    """Take out what the Archive of Our Own puts around a story."""
    for label in list(root.iter("p", "b", "div", "h2", "h3", "h4")):
        reason = _AO3_LABELS.get(all_text(label).strip(" :\n").lower())
        quote = label.getnext() if reason else None
        if quote is not None and name_of(quote) == "blockquote":
            for element in (quote, label):
                book.leave_out(reason or "", all_text(element))
                element.drop_tree()

    def reason_of(element: Any) -> str:
        classes = (element.get("class") or "").lower().split()
        if {"work", "meta"} <= set(classes):
            return "front matter"
        known = (_AO3_CLASSES[one] for one in classes if one in _AO3_CLASSES)
        return _AO3_PLACES.get(element.get("id") or "") or next(known, "")

    _take_out(root, reason_of, book)


def _furniture(element: Any) -> str:
    """Why an element is no part of any text, or nothing."""
    name = name_of(element)
    if name in _FORMS or name in _NO_TEXT:
        return "forms" if name in _FORMS else "content for other programs"
    above = {name_of(one) for one in element.iterancestors()}
    if name in ("header", "footer") and not above & {"article", "main", "section"}:
        return _FURNITURE
    if name == "nav" or (name == "aside" and not above & {"article"}):
        return _FURNITURE
    if (element.get("role") or "").lower() in _ROLES:
        return _FURNITURE
    said = f"{element.get('class') or ''} {element.get('id') or ''}"
    if _AROUND.search(said):
        return _FURNITURE
    return "comments of readers" if _COMMENTS.search(said) else ""


def read_web(path: Path, data: bytes) -> Book:
    """The chapters of a file that is a web page, or an archive of one.

    Raises:
        InputError: It is nested too deeply, or an archive without a page.
        ImportError: ``lxml`` is not installed.
    """
    source = page_source(data, path)
    if (
        path.suffix.lower() in (".mht", ".mhtml")
        or source[:2000].lower().find("mime-version:") >= 0
    ):
        source = _archived_page(data, path) or source
    try:
        return read_page(source)
    except ValueError as error:
        raise InputError(
            f"{path} can't be read as a web page: {error}", "save its text as .txt"
        ) from error


def _archived_page(data: bytes, path: Path) -> str | None:
    """The page in a MIME archive; None where it is no archive."""
    message = email.message_from_bytes(data, policy=email.policy.default)
    if not message.is_multipart() and message.get_content_type() != "text/html":
        return None
    for part in message.walk():
        if part.get_content_type() == "text/html":
            content = part.get_payload(decode=True)
            charset = part.get_content_charset()
            if isinstance(content, bytes):
                text = encoding.decode_as(content, charset or "utf-8")
                return page_source(content, path) if text is None else text
    raise InputError(f"{path} is a web archive without a page", "save the page as .html")
