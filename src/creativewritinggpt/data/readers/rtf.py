r"""Rich Text Format (``.rtf``) as parts, as Word, LibreOffice, Pages and Scrivener write it.

An own parser, of the RTF 1.9 specification's syntax: libraries give one flat string, in which
deleted text stays and footnotes are gone without a count. Text is decoded by the code page of its
font, Unicode escapes with their surrogate pairs; a byte that the code page lacks is read as
Latin-1, so that no letter is lost. Deleted and hidden text, footnotes, comments, page headers,
numbers of lists and contents are left out and counted; text boxes stand behind their paragraph.
"""

from __future__ import annotations

import codecs
import contextlib
import re
from collections import defaultdict
from dataclasses import dataclass, field, replace

from ..document import characters
from ..text import clean_characters, tidy_layout
from .books import Book, Part
from .layout import SCENE_BREAK, is_break
from .word import heading_level

_TOKEN = re.compile(
    r"\\([A-Za-z]{1,32})(-?\d{1,10})? ?|\\'([0-9A-Fa-f]{2})|\\(.)|([{}])|[\r\n\0]+"
    r"|([^\\{}\r\n\0]+)",
    re.DOTALL,
)
_CHARSETS = {
    0: "cp1252", 1: "", 77: "mac_roman", 78: "cp932", 79: "big5", 80: "cp949", 81: "mac_arabic",
    84: "mac_cyrillic", 85: "mac_greek", 86: "mac_turkish", 88: "mac_latin2", 89: "mac_cyrillic",
    128: "cp932", 129: "cp949", 130: "johab", 134: "gbk", 136: "big5", 161: "cp1253",
    162: "cp1254", 163: "cp1258", 177: "cp1255", 178: "cp1256", 186: "cp1257", 204: "cp1251",
    222: "cp874", 238: "cp1250", 254: "cp437", 255: "cp850",
}  # fmt: skip
_SYMBOLS = "symbols"
"""The encoding of fonts whose characters are pictures."""
_SIGNS = {
    "tab": "\t", "line": "\n", "lbr": "\n", "softline": "\n", "emdash": "—", "endash": "–",
    "emspace": " ", "enspace": " ", "qmspace": " ", "bullet": "•", "lquote": "‘", "rquote": "’",
    "ldblquote": "“", "rdblquote": "”", "cell": "\n", "nestcell": "\n", "zwj": "\u200d",
    "zwnj": "\u200c",
}  # fmt: skip
_ENDS = {"par", "sect", "page", "pagebb", "column", "row", "nestrow"}
_NOTES, _HEADERS = "footnotes and endnotes", "page headers and footers"
_LEFT_OUT = {
    **dict.fromkeys(("footnote", "ftnsep", "ftnsepc", "aftnsep", "aftnsepc"), _NOTES),
    **dict.fromkeys(("ftncn", "aftncn"), _NOTES),
    **dict.fromkeys(("header", "headerl", "headerr", "headerf"), _HEADERS),
    **dict.fromkeys(("footer", "footerl", "footerr", "footerf"), _HEADERS),
    "annotation": "comments", "Scrv": "comments", "listtext": "numbers of lists",
    "pntext": "numbers of lists", "tc": "table of contents", "xe": "table of contents",
}  # fmt: skip
_NO_TEXT_NAMES = (
    "fonttbl colortbl stylesheet info pict object objdata datafield filetbl listtable revtbl "
    "rsidtbl listoverridetable generator themedata datastore latentstyles xmlnstbl fldinst "
    "bkmkstart bkmkend pgptbl userprops sp nonshppict shprslt do template password atnid "
    "atnauthor atndate atnref atrfstart atrfend atntime atnparent pntxta pntxtb private "
    "formfield ffname background mmathPr upr docvar blipuid picprop title author company "
    "operator keywords subject doccomm"
)
_NO_TEXT = frozenset(_NO_TEXT_NAMES.split())
_FLAGS = {"deleted": "deleted text", "v": "hidden text", "mvf": "text moved elsewhere"}
_PAGE_FIELD = re.compile(r"\s*(?:PAGE|NUMPAGES|PAGEREF|SECTIONPAGES)\b", re.I)
_CONTENTS_FIELD = re.compile(r"\s*(?:TOC|INDEX|TOA)\b", re.I)


@dataclass(frozen=True, slots=True)
class _Group:
    r"""What holds within a pair of braces.

    Attributes:
        reason: Why its text is left out; empty where it is no text, None where it is read.
        outer: The reason that held before the group was found to be no text.
        place: What it is: ``fonttbl``, ``stylesheet``, ``fldinst``, or nothing of note.
        flags: Properties of characters by which they are left out.
        starred: Whether ``\*`` was the last word.
        box: Number of the text box that it stands in, or 0.
    """

    reason: str | None = None
    outer: str | None = None
    place: str = ""
    flags: frozenset[str] = frozenset()
    skip: int = 1
    encoding: str = ""
    starred: bool = False
    box: int = 0
    field: tuple[list[str], ...] = ()


@dataclass
class _Reader:
    """State of reading: the text so far, the paragraph's properties, fonts and styles."""

    book: Book
    encoding: str = "cp1252"
    parts: list[Part] = field(default_factory=list)
    boxes: list[Part] = field(default_factory=list)
    fonts: dict[int, str] = field(default_factory=dict)
    styles: dict[int, str] = field(default_factory=dict)
    font: int = 0
    style: int = 0
    outline: int | None = None
    pending: bytearray = field(default_factory=bytearray)
    text: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    left: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    num_boxes: int = 0
    skip: int = 0

    def add(self, group: _Group, text: str) -> None:
        """Put a text where the group's text goes."""
        reason = group.reason
        if reason is None:
            reason = next((_FLAGS[flag] for flag in _FLAGS if flag in group.flags), None)
        if reason is None:
            self.text[group.box].append(text)
        elif reason:
            self.left[reason].append(text)
        elif group.place == "fldinst" and group.field:
            group.field[-1].append(text)
        elif group.place == "stylesheet":
            self.styles[self.style] = self.styles.get(self.style, "") + text

    def flush(self, group: _Group) -> None:
        """Decode the bytes that have come together."""
        if not self.pending:
            return
        data, encoding = bytes(self.pending), group.encoding or self.encoding
        self.pending.clear()
        if encoding == _SYMBOLS:
            encoding = "ascii"
            if any(byte >= 128 for byte in data):
                self.book.dropped["symbols without a letter"] += 1
                data = bytes(byte for byte in data if byte < 128)
        try:
            text = data.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            text = "".join(_decode(data[i : i + 1], self.encoding) for i in range(len(data)))
        self.add(group, text)

    def end_paragraph(self, group: _Group) -> None:
        """Make a part of the text since the last end."""
        if group.reason is not None:
            self.add(group, "\n")
            return
        text = tidy_layout(clean_characters(_joined(self.text[group.box]))).strip()
        self.text[group.box] = []
        level = self.outline + 1 if self.outline is not None and self.outline < 9 else 0
        level = level or heading_level(self.styles.get(self.style, "").strip(" ;").lower())
        target = self.boxes if group.box else self.parts
        target.append(Part(level if text else 0, SCENE_BREAK if is_break(text) else text))
        if not group.box:
            self.parts += self.boxes
            self.boxes = []


def _decode(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        return data.decode("latin-1")


def _joined(pieces: list[str]) -> str:
    """The pieces as one text, in which halves of surrogate pairs are characters again."""
    text = "".join(pieces)
    if any("\ud800" <= piece[:1] <= "\udfff" for piece in pieces):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")
    return text


def read_rtf(data: bytes) -> tuple[list[Part], Book]:
    r"""The parts of a text in RTF, empty paragraphs too, and a book that holds what is counted.

    Args:
        data: From ``{\rtf`` on; what follows the closing brace is not read.
    """
    source, is_unicode = data.decode("latin-1"), False
    if not data.isascii():
        with contextlib.suppress(UnicodeDecodeError):
            source, is_unicode = data.decode("utf-8"), True
    reader = _Reader(Book())
    group = _Group()
    groups: list[_Group] = []
    position = 0
    while found := _TOKEN.match(source, position):
        position = found.end()
        word, number, code, sign, brace, plain = found.groups()
        if brace == "{":
            reader.flush(group)
            groups.append(group)
            group = replace(group, starred=False)
            if group.place == "stylesheet":
                reader.style = 0
        elif brace:
            reader.flush(group)
            reader.skip = 0
            if not groups:
                break
            group = groups.pop()
            if not groups:
                break
        elif code:
            if reader.skip:
                reader.skip -= 1
            else:
                reader.pending.append(int(code, 16))
        elif plain:
            plain, reader.skip = plain[reader.skip :], max(0, reader.skip - len(plain))
            if plain and (is_unicode and not plain.isascii()):
                reader.flush(group)
                reader.add(group, plain)
            elif plain:
                reader.pending += plain.encode("latin-1")
        elif word == "bin":
            position += max(0, int(number or 0))
        elif word or sign:
            if reader.skip:
                reader.skip -= 1
                continue
            value = int(number) if number else None
            group = _sign(reader, group, sign) if sign else _word(reader, group, word, value)
    reader.flush(group)
    body = replace(group, reason=None, box=0)
    for box in [*sorted(reader.text, reverse=True)]:
        if "".join(reader.text[box]).strip():
            reader.end_paragraph(replace(body, box=box))
    reader.parts += reader.boxes
    book = reader.book
    for reason, pieces in reader.left.items():
        book.leave_out(reason, clean_characters(_joined(pieces)))
    kept = sum(characters(part.text) for part in reader.parts)
    book.characters = kept + book.left_out.total()
    return reader.parts, book


def _sign(reader: _Reader, group: _Group, sign: str) -> _Group:
    r"""Read ``\`` and a character that is no letter."""
    if sign == "*":
        return replace(group, starred=True)
    if sign in "\r\n":
        reader.flush(group)
        reader.end_paragraph(group)
    elif sign in "{}\\":
        reader.pending += sign.encode("ascii")
    elif sign in "~_":
        reader.pending += b" " if sign == "~" else b"-"
    return group


def _word(reader: _Reader, group: _Group, word: str, value: int | None) -> _Group:
    """Read a control word."""
    on = value != 0
    if word == "u" and value is not None:
        reader.flush(group)
        reader.add(group, chr(value % 0x10000))
        reader.skip = group.skip
    elif word in _SIGNS:
        reader.flush(group)
        reader.add(group, _SIGNS[word])
    elif word in _ENDS:
        reader.flush(group)
        reader.end_paragraph(group)
    elif word == "uc":
        return replace(group, skip=max(0, value or 0))
    elif word in ("f", "deff", "fcharset", "ansicpg", "cpg", "mac", "pc", "pca"):
        return _font(reader, group, word, value)
    elif word in _FLAGS or word == "plain":
        reader.flush(group)
        flags = group.flags - {word} if word != "plain" else frozenset()
        return replace(group, flags=flags | {word} if on and word != "plain" else flags)
    elif word in ("pard", "s", "outlinelevel"):
        if word == "s":
            reader.style = value or 0
        elif word == "pard":
            reader.outline, reader.style = None, 0
        elif group.place != "stylesheet":
            reader.outline = value
    else:
        return _destination(reader, group, word)
    return replace(group, starred=False)


def _font(reader: _Reader, group: _Group, word: str, value: int | None) -> _Group:
    """Read a word that says in what encoding text is."""
    reader.flush(group)
    value = value or 0
    if word in ("mac", "pc", "pca"):
        reader.encoding = {"mac": "mac_roman", "pc": "cp437", "pca": "cp850"}[word]
    elif word == "ansicpg":
        with contextlib.suppress(LookupError):
            name = {65001: "utf-8", 10000: "mac_roman", 936: "gbk"}.get(value, f"cp{value}")
            reader.encoding = codecs.lookup(name).name
    elif group.place == "fonttbl":
        if word == "f":
            reader.font = value
        elif word == "fcharset":
            reader.fonts[reader.font] = _SYMBOLS if value == 2 else _CHARSETS.get(value, "")
    elif word == "f":
        return replace(group, encoding=reader.fonts.get(value, ""))
    return group


def _destination(reader: _Reader, group: _Group, word: str) -> _Group:
    """Read a word that says what the group is, if it is one."""
    if word == "shptxt":
        reader.num_boxes += 1
        return replace(group, reason=group.outer, box=reader.num_boxes, starred=False)
    if word == "ud":
        return replace(group, reason=group.outer, starred=False)
    if word == "field":
        return replace(group, field=(*group.field, []))
    if word == "fldrslt" and group.field:
        instruction = "".join(group.field[-1])
        if _PAGE_FIELD.match(instruction):
            return replace(group, reason="page numbers")
        if _CONTENTS_FIELD.match(instruction):
            return replace(group, reason="table of contents")
        return replace(group, starred=False)
    if group.reason is not None and word not in _NO_TEXT and not group.starred:
        return group
    if word in _LEFT_OUT and group.reason is None:
        return replace(group, reason=_LEFT_OUT[word], starred=False)
    if word in _NO_TEXT or group.starred:
        if word == "pict" and group.place != "pict":
            reader.book.dropped["pictures"] += 1
        outer = group.reason if group.reason != "" else group.outer
        return replace(group, reason="", outer=outer, place=word, starred=False)
    return group
