"""Markup inside of texts: HTML, BBCode, RTF and encoded pictures, turned into plain text.

A text is touched only where it surely holds markup: pairs of HTML's own tags, ``<br>`` and ``<p>``
as layout, entities (``&amp;``), pairs of BBCode's. ``x < y`` and a lone ``<sigh>`` stay.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from typing import NamedTuple

from ...errors import InputError
from ..document import characters
from .books import Book
from .pages import TAGS

BLOCKS = r"p|div|h[1-6]|li|ul|ol|blockquote|pre|table|section|article|body|center|dl"

_COMMENT = r"<!--(?:(?!-->).){0,5000}-->"
PAGE = re.compile(
    rf"\A\ufeff?\s*(?:<\?xml[^>]*\?>\s*)?(?:{_COMMENT}\s*){{0,9}}<(?:!doctype\s+html|html)\b",
    re.I | re.S,
)
"""How a whole web page begins."""

_SURE = (
    "p|div|span|i|b|em|strong|u|s|h[1-6]|blockquote|ul|ol|li|table|tr|td|font|center|sup|sub|pre"
    "|small|big|a"
)
_OPENING = re.compile(rf"<({_SURE})(?:\s[^<>]*)?>", re.I)
_CLOSING = re.compile(rf"</({_SURE})\s*>", re.I)
_LAYOUT = re.compile(r"<(br|p|hr)(?:\s[^<>]*)?/?>", re.I)
_TAG = re.compile(rf"</?(?:{'|'.join(sorted(TAGS))})(?:\s[^<>]*)?/?>|{_COMMENT}", re.I | re.S)
_BLOCK = re.compile(rf"</?(?:{BLOCKS}|br|hr)(?=[\s/>])", re.I)
_NO_PARAGRAPHS = re.compile(r"<(?:p|div|pre|li|td)(?=[\s/>])", re.I)
_ENTITY = re.compile(r"&(?:[A-Za-z][A-Za-z0-9]{1,30}|#\d{2,7}|#[xX][0-9a-fA-F]{2,6});")
_SURE_ENTITY = re.compile(
    r"&(?:amp|nbsp|quot|apos|lt|gt|[mn]dash|hellip|[lr][sd]quo|[lr]aquo|shy|e[nm]sp|thinsp|copy|reg"
    r"|[aeiouyAEIOUY](?:acute|grave|circ|uml)|[anoANO]tilde|[cC]cedil|szlig|aelig|oslash|aring"
    r"|trade|deg|sect|para|middot|bull|euro|pound|#\d{2,7}|#[xX][0-9a-fA-F]{2,6});"
)
_BB_NAMES = (
    "b|i|u|s|quote|url|img|spoiler|center|right|left|size|color|font|code|sup|sub|indent|youtube"
)
_BB_OPENING = re.compile(rf"\[({_BB_NAMES})(?:[=\s][^\[\]\n]{{0,200}})?\]", re.I)
_BB_CLOSING = re.compile(rf"\[/({_BB_NAMES})\]", re.I)
_BB_PICTURE = re.compile(
    r"\[(img|youtube)(?:[=\s][^\[\]\n]{0,200})?\](.{0,2000}?)\[/\1\]", re.I | re.S
)
_BB_RULE = re.compile(r"^[ \t]*\[hr\][ \t]*$", re.I | re.M)
_BB_TAG = re.compile(
    rf"\[/?(?:{_BB_NAMES}|list|\*)(?:=[^\[\]\n]{{0,200}}|\s\w+=[^\[\]\n]{{0,200}})?\]", re.I
)
_DATA = re.compile(
    r"(?:!\[[^\[\]\n]{0,200}\]\()?data:[\w.+-]{1,40}/[\w.+-]{1,80}(?:;[\w=.-]{1,80}){0,4};base64,"
    r"[A-Za-z0-9+/=%]{16,}\)?"
)
_ENCODED = re.compile(
    r"(?<![A-Za-z0-9+/])(?:(?:[A-Za-z0-9+/]{60,100}\r?\n){3,}[A-Za-z0-9+/=]*"
    r"|[A-Za-z0-9+/]{400,}={0,2})"
)
_ROUNDS = 3


class Plain(NamedTuple):
    """A text without markup, what it had (empty: none), and characters left out by reason."""

    text: str
    what: str
    left_out: Counter[str]


def has_html(text: str) -> bool:
    """Whether a text surely holds HTML."""
    if "<" not in text:
        return False
    if PAGE.match(text) or _names(_OPENING, text) & _names(_CLOSING, text):
        return True
    layout = list(_LAYOUT.finditer(text))
    # One in the middle of a line, between spaces, may be what somebody typed.
    return len(layout) > 1 or any(
        not (
            text[max(0, found.start() - 1) : found.start()] in (" ", '"', "'", "“", "`")
            and text[found.end() : found.end() + 1] in (" ", '"', "'", "”", "`", ".", ",")
        )
        for found in layout
    )


def _names(pattern: re.Pattern[str], text: str) -> set[str]:
    return {found[1].lower() for found in pattern.finditer(text)}


def unescape(text: str) -> str:
    """Entities as their characters; only those that end in a semicolon."""
    return _ENTITY.sub(lambda found: html.unescape(found[0]), text)


def plain_text(text: str) -> Plain:
    """A text with its markup turned into text; one without markup comes back as it is.

    Raises:
        InputError: It holds HTML, and the extra ``documents`` is not installed.
    """
    left_out: Counter[str] = Counter()
    found: list[str] = []
    if text.lstrip()[:5] == "{\\rtf":
        from .rtf import read_rtf

        parts, book = read_rtf(text.lstrip().encode("utf-8", "surrogatepass"))
        left_out += book.left_out
        found.append("RTF")
        text = "\n\n".join(part.text for part in parts if part.text)
    if "base64," in text or len(text) > 400:
        for pattern in (_DATA, _ENCODED):
            for match in pattern.finditer(text):
                if pattern is _DATA or _is_encoded(match[0]):
                    left_out["encoded pictures and files"] += characters(match[0])
                    text = text.replace(match[0], "")
                    found.append("encoded data")
    for _ in range(_ROUNDS):  # what was escaped twice is HTML once more
        if has_html(text):
            text, gone = _without_html(text)
            left_out += gone
            found.append("HTML")
        elif "&" in text and _SURE_ENTITY.search(text):
            text = unescape(text)
            found.append("HTML")
        else:
            break
    if "[/" in text and _names(_BB_OPENING, text) & _names(_BB_CLOSING, text):
        for match in _BB_PICTURE.finditer(text):
            left_out["addresses of pictures"] += characters(match[2])
        text = _BB_TAG.sub("", _BB_RULE.sub("* * *", _BB_PICTURE.sub("", text)))
        found.append("BBCode")
    return Plain(text, " and ".join(dict.fromkeys(found)), left_out)


def _is_encoded(run: str) -> bool:
    """Whether a run of letters is base64: figures, capitals and small letters in turn."""
    kinds = (str.isdigit, str.isupper, str.islower)
    return all(sum(map(kind, run)) > len(run) / 30 for kind in kinds)


def _without_html(text: str) -> tuple[str, Counter[str]]:
    """HTML as text: by its elements, or where it marks words only by its lines as they are."""
    if not PAGE.match(text):
        if not _BLOCK.search(text):
            return unescape(_TAG.sub("", text)), Counter()
        if not _NO_PARAGRAPHS.search(text):  # empty lines are paragraphs
            text = re.sub(r"\n[ \t]*\n", "\n<p>", text)
            if not re.search(r"<br\b", text, re.I):
                text = text.replace("\n", "<br>")
    from .web import html_parts

    book = Book()
    try:
        parts = html_parts(text, book)
    except ImportError as error:
        raise InputError(
            "there is HTML in the text, and reading it needs the extra 'documents'",
            "pip install 'creativewritinggpt[documents]'",
        ) from error
    except ValueError:  # nested without end: the tags go, the text stays
        return unescape(_TAG.sub("", text)), Counter()
    return "\n\n".join(part.text for part in parts), book.left_out
