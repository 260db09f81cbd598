"""Word files (``.docx``, and its templates and files with macros) as parts.

The XML is read by names without their namespace, so that the strict form of the standard is read as
the usual one. Tracked changes are taken as accepted: insertions are in, deletions out, moved text
stands where it was moved to, and a paragraph whose mark was deleted is joined with the next. Text
of content controls, fields, links, tables and text boxes is in, each once. Footnotes, endnotes,
comments, page headers, tables of contents and hidden text are left out and counted. A heading is
told by its outline level, that of its style, or the style's own name.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..document import characters
from ..text import clean_characters, tidy_layout
from .archive import Archive, damaged, whole_number
from .books import Book, Part
from .layout import SCENE_BREAK, is_break

_HEADING_NAME = re.compile(
    r"(?:heading|überschrift|titre|título|titulo|titolo|kop|rubrik|overskrift|otsikko|nagłówek"
    r"|nadpis|заголовок|标题|標題|見出し|제목) ?([1-9])",
    re.IGNORECASE,
)
_TITLE_NAME = re.compile("title|titel|titre|título|titolo|название|标题|標題|表題", re.IGNORECASE)
_CONTENTS_NAME = re.compile(
    r"(?:toc|table of (?:figures|authorities)|index)(?: ?\d| heading)?", re.IGNORECASE
)
_CONTENTS_FIELD = re.compile(r"\s*(?:TOC|INDEX|TOA|RD)\b", re.IGNORECASE)
_PAGE_FIELD = re.compile(r"\s*(?:PAGE|NUMPAGES|PAGEREF|SECTIONPAGES)\b", re.IGNORECASE)
_OUT = {"del": "deleted text", "moveFrom": "text moved elsewhere", "rt": "readings of characters"}
_ASIDE = {
    "footnotes": "footnotes and endnotes",
    "endnotes": "footnotes and endnotes",
    "comments": "comments",
    "header": "page headers and footers",
    "footer": "page headers and footers",
}
_SYMBOL = "\ue000"
_DROP_CAP = 4


def heading_level(style: str) -> int:
    """The level of headings that have this style, by its name; 0 where it is none of theirs."""
    found = _HEADING_NAME.fullmatch(style)
    return int(found[1]) if found else 0


def _name(element: Any) -> str:
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def _child(element: Any, *path: str) -> Any | None:
    """The element below, by names without their namespace."""
    for name in path:
        element = next((child for child in element if _name(child) == name), None)
        if element is None:
            return None
    return element


def _value(element: Any | None, name: str = "val") -> str | None:
    """An attribute by its name without the namespace."""
    if element is None:
        return None
    return next((v for k, v in element.attrib.items() if k.rpartition("}")[2] == name), None)


def _is_on(element: Any | None) -> bool:
    return element is not None and _value(element) not in ("0", "false", "off")


def _all_text(element: Any) -> str:
    """All text below an element, deleted text too; of alternatives the one that is read."""
    if _name(element) in ("t", "delText"):
        return element.text or ""
    if _name(element) == "AlternateContent":
        element = _choice(element)
    return "".join(map(_all_text, element))


def _choice(element: Any) -> Any:
    """One of the alternatives of some content: the first that has text."""
    choices = [child for child in element if _name(child) in ("Choice", "Fallback")]
    return next((child for child in choices if _all_text(child)), [])


@dataclass
class _Style:
    name: str
    level: int | None
    numbered: bool
    based_on: str | None


@dataclass
class _Field:
    """An open field: its instruction, and whether its result has begun."""

    instruction: str = ""
    begun: bool = False


@dataclass
class _Paragraph:
    """A paragraph as it is read: its text so far and the text boxes that hang on it."""

    text: list[str] = field(default_factory=list)
    boxes: list[Any] = field(default_factory=list)


class _Document:
    """The parts of one document's body."""

    def __init__(self, styles: dict[str, _Style], book: Book) -> None:
        self.styles = styles
        self.book = book
        self.fields: list[_Field] = []  # those that are open
        self.before = ""  # text of paragraphs whose mark was deleted, or a drop cap

    def blocks(self, element: Any) -> Iterator[Part]:
        """The parts of paragraphs and tables below an element, in order."""
        for child in element:
            name = _name(child)
            if name == "p":
                yield from self._paragraph(child)
            elif name == "tbl":
                yield from self._table(child)
            elif name in _OUT:
                self.book.leave_out(_OUT[name], _all_text(child))
            elif name == "sdt":
                gallery = _child(child, "sdtPr", "docPartObj", "docPartGallery")
                kind = (_value(gallery) or "").lower()
                if "contents" in kind or "cover" in kind:
                    reason = "front matter" if "cover" in kind else "table of contents"
                    self.book.leave_out(reason, _all_text(child))
                elif _is_on(_child(child, "sdtPr", "showingPlcHdr")):
                    self.book.leave_out("placeholders of forms", _all_text(child))
                else:
                    yield from self.blocks(child)
            elif name == "AlternateContent":
                yield from self.blocks(_choice(child))
            elif name == "altChunk":
                self.book.dropped["files embedded in a Word file"] += 1
            elif not name.endswith("Pr"):
                yield from self.blocks(child)

    def _table(self, table: Any) -> Iterator[Part]:
        """Rows whose cells hold a paragraph each are a part each, other cells are as the body."""
        for row in table:
            if _name(row) in ("sdt", "sdtContent", "ins", "customXml"):
                yield from self._table(row)
            elif _name(row) == "tr" and _child(row, "trPr", "del") is not None:
                self.book.leave_out("deleted text", _all_text(row))
            elif _name(row) == "tr":
                cells = [
                    [part for part in self.blocks([cell]) if part.text]
                    for cell in row
                    if _name(cell) in ("tc", "sdt")
                ]
                if all(len(cell) <= 1 for cell in cells):
                    text = "\n".join(part.text for cell in cells for part in cell)
                    yield Part(0, text)
                else:
                    yield from (part for cell in cells for part in cell)

    def _paragraph(self, element: Any) -> Iterator[Part]:
        found = _Paragraph()
        properties = _child(element, "pPr")
        properties = [] if properties is None else properties
        style = self._style(_value(_child(properties, "pStyle")))
        contents = bool(style and any(_CONTENTS_NAME.fullmatch(one.name) for one in style))
        in_contents = contents or self._in_field(_CONTENTS_FIELD)
        self._inline(element, found)
        text = "".join(found.text)
        if in_contents or self._in_field(_CONTENTS_FIELD):
            self.book.leave_out("table of contents", text)
        else:
            text, self.before = self.before + text, ""
            mark = _child(properties, "rPr")
            joined = mark is not None and any(_name(child) in ("del", "moveFrom") for child in mark)
            cap = _value(_child(properties, "framePr"), "dropCap") in ("drop", "margin")
            if joined or (cap and 0 < len(text.strip()) <= _DROP_CAP):
                self.before = text.strip() if cap else text
            else:
                yield from self._finished(text, style, properties)
        for box in found.boxes:
            yield from self.blocks(box)

    def rest(self) -> Iterator[Part]:
        """What waits for a paragraph that did not come."""
        if self.before.strip():
            yield from self._finished(self.before, [], [])

    def _finished(self, text: str, style: list[_Style], properties: Any) -> Iterator[Part]:
        symbols = text.count(_SYMBOL)
        if symbols and not text.replace(_SYMBOL, "").strip():
            text = SCENE_BREAK
        text = tidy_layout(clean_characters(text.replace(_SYMBOL, ""))).strip()
        self.book.dropped["symbols without a letter"] += symbols
        outline = _value(_child(properties, "outlineLvl"))
        level = self._level(outline, style)
        if style and _TITLE_NAME.fullmatch(style[0].name) and outline is None:
            self.book.leave_out("front matter", text)
        elif level and (text or any(one.numbered for one in style)):
            yield Part(level, text)
        else:
            yield Part(0, SCENE_BREAK if is_break(text) else text)

    def _style(self, style_id: str | None) -> list[_Style]:
        """The style and those that it is based on."""
        chain: list[_Style] = []
        while style_id in self.styles and self.styles[style_id] not in chain:
            chain.append(self.styles[style_id])
            style_id = chain[-1].based_on
        return chain

    def _level(self, outline: str | None, style: list[_Style]) -> int:
        """The level of a heading from 1, or 0."""
        if (level := whole_number(outline, -1)) >= 0:
            return (level + 1) % 10
        for one in style:
            if one.level is not None:
                return one.level
            if level := heading_level(one.name):
                return level
        return 0

    def _in_field(self, kind: re.Pattern[str]) -> bool:
        return any(one.begun and kind.match(one.instruction) for one in self.fields)

    def _inline(self, element: Any, found: _Paragraph) -> None:
        for child in element:
            name = _name(child)
            if name == "r":
                self._run(child, found)
            elif name in _OUT:
                self.book.leave_out(_OUT[name], _all_text(child))
            elif name == "sdt" and _is_on(_child(child, "sdtPr", "showingPlcHdr")):
                self.book.leave_out("placeholders of forms", _all_text(child))
            elif name == "fldSimple":
                self._simple_field(child, found)
            elif name == "AlternateContent":
                self._inline(_choice(child), found)
            elif not name.endswith("Pr"):
                self._inline(child, found)

    def _simple_field(self, element: Any, found: _Paragraph) -> None:
        instruction = _value(element, "instr") or ""
        if _PAGE_FIELD.match(instruction):
            self.book.leave_out("page numbers", _all_text(element))
        elif _CONTENTS_FIELD.match(instruction):
            self.book.leave_out("table of contents", _all_text(element))
        else:
            self._inline(element, found)

    def _run(self, run: Any, found: _Paragraph) -> None:
        if _is_on(_child(run, "rPr", "vanish")):
            self.book.leave_out("hidden text", _all_text(run))
            return
        for child in run:
            name = _name(child)
            if name == "t":
                if self._in_field(_PAGE_FIELD):
                    self.book.leave_out("page numbers", child.text or "")
                else:
                    found.text.append(child.text or "")
            elif name == "delText":
                self.book.leave_out("deleted text", child.text or "")
            elif name in ("tab", "ptab"):
                found.text.append("\t")
            elif name in ("br", "cr"):
                found.text.append("\n")
            elif name == "noBreakHyphen":
                found.text.append("-")
            elif name == "sym":
                found.text.append(_symbol(_value(child, "char")))
            elif name == "instrText" and self.fields:
                self.fields[-1].instruction += child.text or ""
            elif name == "fldChar":
                self._field(_value(child, "fldCharType"))
            elif name == "AlternateContent":
                self._run(_choice(child), found)
            elif name == "ruby":
                self._inline(child, found)
            elif name in ("drawing", "pict", "object"):
                boxes = [below for below in child.iter() if _name(below) == "txbxContent"]
                # A box in a box is read with the outer one.
                inner = {box for outer in boxes for box in outer.iterdescendants() if box in boxes}
                found.boxes += [box for box in boxes if box not in inner]
                if not boxes:
                    self.book.leave_out("drawings", _all_text(child))
                    self.book.dropped["pictures"] += 1

    def _field(self, kind: str | None) -> None:
        if kind == "begin":
            self.fields.append(_Field())
        elif kind == "separate" and self.fields:
            self.fields[-1].begun = True
        elif kind == "end" and self.fields:
            self.fields.pop()


def _symbol(code: str | None) -> str:
    """A sign given by its number; those of symbol fonts have none in Unicode."""
    number = int(code or "0", 16) if re.fullmatch("[0-9A-Fa-f]{1,6}", code or "") else 0
    if number == 0 or 0xE000 <= number <= 0xF8FF or number > 0x10FFFF:
        return _SYMBOL
    return chr(number)


def _styles(archive: Archive, name: str | None) -> dict[str, _Style]:
    if name is None or name not in archive:
        return {}
    made = {}
    for element in archive.xml(name):
        key = _value(element, "styleId")
        if _name(element) != "style" or key is None:
            continue
        level = whole_number(_value(_child(element, "pPr", "outlineLvl")), -1)
        made[key] = _Style(
            name=(_value(_child(element, "name")) or key).lower(),
            level=(level + 1) % 10 if level >= 0 else None,
            numbered=_child(element, "pPr", "numPr") is not None,
            based_on=_value(_child(element, "basedOn")),
        )
    return made


def _related(archive: Archive, source: str) -> list[tuple[str, str]]:
    """Kind and name of the members that a member refers to."""
    folder, name = posixpath.split(source)
    relations = posixpath.join(folder, "_rels", f"{name}.rels")
    if relations not in archive:
        return []
    return [
        (
            (_value(element, "Type") or "").rpartition("/")[2],
            posixpath.join("/" + folder, _value(element, "Target") or ""),
        )
        for element in archive.xml(relations)
        if _value(element, "TargetMode") != "External"
    ]


def read_word(path: Path) -> tuple[list[Part], Book]:
    """The parts of a Word file, empty paragraphs too, and a book that holds what is counted.

    Raises:
        InputError: It is damaged, protected or of another kind.
    """
    book = Book()
    with Archive(path) as archive:
        mains = [name for kind, name in _related(archive, "") if kind == "officeDocument"]
        main = (mains or ["word/document.xml"])[0]
        body = _child(archive.xml(main), "body")
        if body is None:
            raise damaged(path, "it has no body")
        related = _related(archive, main)
        styles = next((name for kind, name in related if kind == "styles"), None)
        for kind, name in related:
            if kind in _ASIDE and name in archive:
                text = _all_text(archive.xml(name))
                book.leave_out(_ASIDE[kind], text)
        book.characters = characters(clean_characters(_all_text(body))) + book.left_out.total()
        document = _Document(_styles(archive, styles), book)
        parts = [*document.blocks(body), *document.rest()]
    book.dropped = +book.dropped
    return parts, book
