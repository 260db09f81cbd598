"""OpenDocument texts (``.odt``, ``.ott``, ``.fodt``) as parts.

Headings have their outline level. Text of lists, tables, sections, links, text boxes and content of
fields is in. Deleted text of tracked changes, notes, comments, indexes, hidden text, readings
(ruby) and page numbers are left out and counted; headers and footers stand with the styles, which
are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..document import characters
from ..text import clean_characters, tidy_layout, without_spaces_at_ends
from .archive import Archive, check_markup, damaged, whole_number, xml_parser
from .books import Book, Part
from .layout import SCENE_BREAK, is_break

_LEFT_OUT = {
    "tracked-changes": "deleted text", "note": "footnotes and endnotes", "annotation": "comments",
    "ruby-text": "readings of characters", "page-number": "page numbers",
    "page-count": "page numbers", "hidden-text": "hidden text", "hidden-paragraph": "hidden text",
    "table-of-content": "table of contents", "illustration-index": "table of contents",
    "table-index": "table of contents", "object-index": "table of contents",
    "user-index": "table of contents", "alphabetical-index": "table of contents",
    "bibliography": "bibliography", "placeholder": "placeholders of forms",
}  # fmt: skip
_NO_TEXT = {
    "forms", "sequence-decls", "variable-decls", "user-field-decls", "dde-connection-decls",
    "alphabetical-index-auto-mark-file", "desc", "title", "event-listeners", "creator", "date",
    "change", "change-start", "change-end", "binary-data", "object", "script",
}  # fmt: skip
_MOST_SPACES = 200


def _name(element: Any) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _value(element: Any, name: str) -> str | None:
    return next((v for k, v in element.attrib.items() if k.rpartition("}")[2] == name), None)


def _all_text(element: Any) -> str:
    return "".join(part if isinstance(part, str) else "" for part in element.itertext())


class _Document:
    """Reads the body of one text."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.parts: list[Part] = []
        self.boxes: list[Any] = []

    def read(self, element: Any) -> None:
        """Read paragraphs, headings and what holds them."""
        for child in element:
            name = _name(child)
            if self._is_left_out(child, name) or not name:
                continue
            if name in ("p", "h"):
                self._paragraph(child, name)
            elif name == "table-row":
                self._row(child)
            else:
                self.read(child)

    def _is_left_out(self, element: Any, name: str) -> bool:
        reason = _LEFT_OUT.get(name)
        if name == "section" and _value(element, "display") == "none":
            reason = "hidden text"
        if reason is not None:
            self.book.leave_out(reason, _all_text(element))
        return reason is not None or name in _NO_TEXT

    def _row(self, row: Any) -> None:
        """A row: a part of lines where each cell holds one paragraph, as the body otherwise."""
        start = len(self.parts)
        cells = []
        for cell in row:
            before = len(self.parts)
            self.read(cell)
            cells.append(sum(bool(part.text) for part in self.parts[before:]))
        if max(cells, default=0) <= 1:
            texts = [part.text for part in self.parts[start:] if part.text]
            self.parts[start:] = [Part(0, "\n".join(texts))]

    def _paragraph(self, element: Any, name: str) -> None:
        level = whole_number(_value(element, "outline-level"), 1) if name == "h" else 0
        pieces = list(self._inline(element))
        text = without_spaces_at_ends("".join(pieces))
        text = tidy_layout(clean_characters(text)).strip()
        breaks = not level and is_break(text)
        self.parts.append(Part(level if text else 0, SCENE_BREAK if breaks else text))
        boxes, self.boxes = self.boxes, []
        for box in boxes:
            self.read(box)

    def _inline(self, element: Any) -> Iterator[str]:
        """The words below an element, without its tail; boxes are kept for later."""
        yield re.sub(r"\s+", " ", element.text or "")
        for child in element:
            name = _name(child)
            if not name or self._is_left_out(child, name):
                pass
            elif name == "s":
                yield " " * min(_MOST_SPACES, whole_number(_value(child, "c"), 1))
            elif name in ("tab", "line-break"):
                yield "\t" if name == "tab" else "\n"
            elif name in ("frame", "text-box", "custom-shape", "rect", "g"):
                self.boxes.append(child)
                self.book.dropped["pictures"] += sum(_name(one) == "image" for one in child.iter())
            else:
                yield from self._inline(child)
            yield re.sub(r"\s+", " ", child.tail or "")


def read_odt(path: Path) -> tuple[list[Part], Book]:
    """The parts of an OpenDocument text, empty paragraphs too, and a book with what is counted.

    Raises:
        InputError: It is damaged, protected, or no text.
        ImportError: ``lxml`` is not installed.
    """
    from lxml import etree

    with path.open("rb") as stream:
        is_archive = stream.read(2) == b"PK"
    if is_archive:
        with Archive(path) as archive:
            manifest = "META-INF/manifest.xml"
            if manifest in archive and b"encryption-data" in archive.read(manifest):
                raise InputError(
                    f"{path} is protected by a password",
                    "open it in LibreOffice and save it without one",
                )
            root = archive.xml("content.xml")
    else:
        try:
            root = etree.fromstring(check_markup(path.read_bytes()), xml_parser())
        except (etree.XMLSyntaxError, ValueError) as error:
            raise damaged(path, f"it is no XML: {error}") from error
    body = next((one for one in root.iter() if _name(one) == "body"), None)
    text = next((one for one in (body if body is not None else ()) if _name(one) == "text"), None)
    if text is None:
        raise damaged(path, "it holds no text")
    document = _Document(Book())
    document.read(text)
    kept = sum(characters(part.text) for part in document.parts)
    document.book.characters = kept + document.book.left_out.total()
    return document.parts, document.book
