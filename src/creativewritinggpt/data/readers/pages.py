"""Pages of HTML and XHTML as parts.

Paragraphs, ``<pre>``, ``<br>``, stanzas of lines and what stands in no paragraph are text;
``<sup>`` and ``<sub>`` are part of the word, and so are drop caps, as letters or as pictures.
Left out and counted are marks of notes and the notes, readings of characters (ruby), lists of
contents, page numbers and hidden text.
"""

from __future__ import annotations

import re
from typing import Any

from ..text import clean_characters, tidy_layout, without_spaces_at_ends
from .books import LICENCE, Book, Part
from .layout import SCENE_BREAK, blocks, is_break, unwrap, wrap_width

_TAG_NAMES = (
    "a abbr acronym address applet area article aside audio b base bdi bdo big blockquote body "
    "br button canvas caption center cite code col colgroup data datalist dd del details dfn "
    "dialog dir div dl dt em embed fieldset figcaption figure font footer form frame frameset "
    "h1 h2 h3 h4 h5 h6 head header hgroup hr html i iframe img input ins kbd label legend li "
    "link main map mark menu meta meter nav nobr noscript object ol optgroup option output p "
    "param picture pre progress q rb rp rt rtc ruby s samp script section select small source "
    "span strike strong style sub summary sup svg table tbody td template textarea tfoot th "
    "thead time title tr track tt u ul var video wbr"
)
TAGS = frozenset(_TAG_NAMES.split())
"""The names of HTML's elements."""

_INLINE_NAMES = (
    "a abbr acronym b bdi bdo big cite code data del dfn em font i img ins kbd label mark q s samp "
    "small span strike strong sub sup time tt u var wbr br ruby rb rbc rt rtc rp image"
)
_NO_TEXT_NAMES = "script style head title template object audio video desc metadata"
_INLINE, _NO_TEXT = set(_INLINE_NAMES.split()), set(_NO_TEXT_NAMES.split())
CUT = 10
"""Added to the level of a part that stands for an entry of the contents."""

# Values of epub:type and role.
_TYPES = {
    "table of contents": "toc landmarks page-list loi lot lov doc-toc doc-pagelist index doc-index",
    "front matter": "cover titlepage halftitlepage copyright-page imprint colophon doc-colophon "
    "doc-cover other-credits contributors",
    "notes": "footnote footnotes endnote endnotes rearnote rearnotes note doc-footnote doc-endnote "
    "doc-endnotes",
    "page numbers": "pagebreak doc-pagebreak",
    "marks of notes": "noteref doc-noteref doc-backlink backlink",
}
_REASONS = {name: reason for reason, names in _TYPES.items() for name in names.split()}
_CLASSES = (
    (re.compile(r"(?:^|\s)(?:foot|end)-?notes?(?:$|\s)", re.I), "notes"),
    (re.compile(r"(?:^|\s)page-?(?:num|number|no|break)(?:$|\s)", re.I), "page numbers"),
    (re.compile(r"(?:^|\s)pg-boilerplate(?:$|\s)", re.I), LICENCE),
    (re.compile(r"(?:^|\s)(?:noteref|fnanchor|footnote-?ref)(?:$|\s)", re.I), "marks of notes"),
)
_SPACES = re.compile(r"[ \t\r\n\f]+")
_WIDE = r"[\u3001-\u9fff\uff01-\uff60]"
_UNSPACED_BREAK = re.compile(rf"(?<={_WIDE})\s*\n\s*(?={_WIDE})")
_STANZA = re.compile(
    r"(?:^|[\s_-])(?:stanza|strophe|verse|line-?group|lg|poem|poetry)(?:$|[\s_-])", re.I
)
_DROP_CAP = re.compile(r"drop|initial|lettrine|\bcap", re.I)
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.I)
_NOTE_MARK = re.compile(r"[\[({]?(?:\d{1,4}|[*†‡§¶]{1,3}|[ivxlc]{1,5}|[a-z])[\])}]?", re.I)
_SURE_NOTE_MARK = re.compile(r"[\[({]?(?:\d{1,4}|[*†‡§¶]{1,3})[\])}]?")


class PageReader:
    """Reads the elements of a page.

    Args:
        book: What is left out is counted in it.
        marks: Labels of the contents with their depth, by the id of the element that they name.
    """

    def __init__(self, book: Book, marks: dict[str, tuple[int, str]] | None = None) -> None:
        self.book = book
        self.marks = dict(marks or {})
        self.parts: list[Part] = []
        self.quoted: list[bool] = []
        self._buffer: list[str] = []
        self._cap = ""
        self._quotes = 0

    def read(self, body: Any) -> None:
        """Read everything below an element."""
        if "" in self.marks:
            self._mark("")
        self._element(body, 0, False)
        self._flush(0)
        if self._cap:
            self._add(0, self._cap)

    def _mark(self, anchor: str) -> None:
        depth, label = self.marks.pop(anchor)
        self._flush(0)
        self._add(CUT + depth, label)

    def _add(self, level: int, text: str) -> None:
        self.parts.append(Part(level, text))
        self.quoted.append(self._quotes > 0)

    def _flush(self, level: int) -> None:
        """Make a part of the text that has come together."""
        text = without_spaces_at_ends("".join(self._buffer))
        self._buffer.clear()
        text = tidy_layout(clean_characters(text)).strip()
        if text:
            text, self._cap = self._cap + text, ""
            self._add(level, SCENE_BREAK if not level and is_break(text) else text)

    def _element(self, element: Any, level: int, is_pre: bool) -> None:
        """Read an element's own text and what is below it; its tail is the parent's."""
        name = name_of(element)
        anchor = element.get("id") or (element.get("name") if name == "a" else None)
        if anchor in self.marks:
            self._mark(anchor)
        reason = _reason(element, name)
        if reason is not None:
            if reason:
                self.book.leave_out(reason, all_text(element))
            return
        if name in _INLINE:
            self._inline(element, name, level, is_pre)
            return
        self._flush(level)
        start = len(self.parts)
        if name == "hr":
            self._add(0, SCENE_BREAK)
        elif name == "pre":
            self._pre(element)
        else:
            level = int(name[1]) if re.fullmatch("h[1-6]", name) else level
            quote = name == "blockquote"
            self._quotes += quote
            self._children(element, level, is_pre)
            cap, style = "".join(self._buffer).strip(), element.get("class") or ""
            if 0 < len(cap) <= 2 and cap[-1].isalpha() and _DROP_CAP.search(style):
                self._cap += cap
                self._buffer.clear()
            self._flush(level)
            self._quotes -= quote
            if _STANZA.search(style):
                self._join_lines(start)

    def _children(self, element: Any, level: int, is_pre: bool) -> None:
        self._text(element.text, is_pre)
        for child in element:
            if isinstance(child.tag, str):
                self._element(child, level, is_pre)
            elif isinstance(child.text, str) and child.text.startswith("&"):
                self._text(child.text, is_pre)
            self._text(child.tail, is_pre)

    def _text(self, text: str | None, is_pre: bool) -> None:
        if text and not is_pre:
            text = _SPACES.sub(" ", _UNSPACED_BREAK.sub("", text))
        if text:
            self._buffer.append(text)

    def _inline(self, element: Any, name: str, level: int, is_pre: bool) -> None:
        if name == "br":
            self._buffer.append("\n" if not level else " ")
        elif name in ("img", "image"):
            alt = (element.get("alt") or "").strip()
            tail = (element.tail or "")[:1]
            if is_break(alt) and alt:
                self._buffer.append(alt)
            elif 0 < len(alt) <= 2 and alt[-1].isalpha() and (tail.isalpha() or tail in "’'"):
                self._buffer.append(alt)
                self.book.characters += len(alt)
            else:
                self.book.dropped["pictures"] += 1
        elif name == "a" and _is_note_mark(element) or name == "sup" and _holds_note_mark(element):
            self.book.leave_out("marks of notes", all_text(element))
        else:
            self._children(element, level, is_pre)

    def _pre(self, element: Any) -> None:
        """Lines as they stand, joined where they are wrapped paragraphs."""
        self._children(element, 0, True)
        text = clean_characters("".join(self._buffer)).expandtabs(4)
        self._buffer.clear()
        lines = blocks(text)
        width = wrap_width(lines)
        for block in lines:
            self._add(0, SCENE_BREAK if block.is_break else unwrap(block, width))

    def _join_lines(self, start: int) -> None:
        """Make one stanza of parts that are a line each."""
        lines = [part.text for part in self.parts[start:]]
        plain = all(not part.level and "\n" not in part.text for part in self.parts[start:])
        if len(lines) > 1 and plain and max(map(len, lines)) <= 120 and SCENE_BREAK not in lines:
            self.parts[start:] = [Part(0, "\n".join(lines))]
            self.quoted[start:] = self.quoted[start : start + 1]


def name_of(element: Any) -> str:
    """An element's name in lower case, without its namespace; empty for comments."""
    tag = element.tag
    return tag.rpartition("}")[2].lower() if isinstance(tag, str) else ""


def types_of(element: Any) -> list[str]:
    """Values of ``epub:type`` and ``role``."""
    found = [element.get("role") or ""]
    found += [v for k, v in element.attrib.items() if k == "epub:type" or k.endswith("}type")]
    return " ".join(found).lower().split()


def _reason(element: Any, name: str) -> str | None:
    """Why an element is left out; None where it is read, empty where it is no text."""
    if name in _NO_TEXT:
        return ""
    if name in ("rt", "rtc", "rp"):
        return "readings of characters"
    if name == "nav":
        return "table of contents"
    for kind in types_of(element):
        if kind in _REASONS:
            return _REASONS[kind]
    if element.get("hidden") is not None or _HIDDEN.search(element.get("style") or ""):
        return "hidden text"
    style = element.get("class") or ""
    return next((reason for pattern, reason in _CLASSES if style and pattern.search(style)), None)


def all_text(element: Any) -> str:
    """All text below an element but scripts and the like."""
    if not isinstance(element.tag, str) or name_of(element) in _NO_TEXT:
        return ""
    below = (all_text(child) + (child.tail or "") for child in element)
    return (element.text or "") + "".join(below)


def _is_note_mark(link: Any) -> bool:
    """Whether a link is the mark of a note: a raised sign, or a number that leads to an anchor."""
    text = all_text(link).strip()
    if "#" not in (link.get("href") or ""):
        return False
    raised = any(name_of(child) == "sup" for child in (*link, *link.iterancestors()))
    return bool((_NOTE_MARK if raised else _SURE_NOTE_MARK).fullmatch(text))


def _holds_note_mark(raised: Any) -> bool:
    links = [child for child in raised.iter() if name_of(child) == "a"]
    outside = (raised.text or "").strip(" [](),")
    return bool(links) and not outside and all(map(_is_note_mark, links))
