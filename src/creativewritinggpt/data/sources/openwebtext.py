"""OpenWebText: pages of the web that people had recommended.

Known as rows with a column ``text`` and as a folder of texts. Nothing but the name tells it from
any other set of texts, so it is read as itself only where the user says so (``openwebtext=PATH``)
or names it as a source. Lines of advertisements and of the page's own furniture go, and so do bare
addresses; pages that are not prose (code, tables, lists of links) are not kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from .. import text as encoding
from ..document import Document, Reading
from ..readers.columns import Row, cell_text
from ..text import clean, count_words, is_explicit
from . import HubSet, NamedSource, RowForm, TextForm, official_split, per_row

_FURNITURE = re.compile(
    r"(?:story continues(?: below)?(?: advertisement)?|advertisements?|sponsored(?: content)?"
    r"|advertisement continue reading(?: the main story)?|continue reading(?: the main story)?"
    r"|(?:newsletter )?sign up(?: for .{0,80})?(?: continue reading.{0,120})?"
    r"|newsletter sign up.{0,160}|sign up for newsletters.{0,300}"
    r"|share(?: this)?(?: (?:story|article|on|with|via|:).{0,60})?:?|share this: ?\w*"
    r"|(?:tweet|pin it|print|e-?mail|comments?|loading|related|subscribe|follow us)"
    r"(?: (?:this|on|to|us).{0,60})?[.…:]*"
    r"|related (?:stories|articles|posts|content):?.{0,80}|read more(?: (?:at|about))?:?.{0,80}"
    r"|see also:?.{0,80}|photos?|image (?:copyright|caption).{0,40}"
    r"|media playback is (?:un)?supported.{0,80}|please enable javascript.{0,80}"
    r"|(?:copyright )?©.{0,120}|copyright \d{4}.{0,120}|all rights reserved.?"
    r"|click here (?:for|to) .{0,80})",
    re.IGNORECASE,
)
_URL = re.compile(r"\(?<?\b(?:https?://|www\.)\S+>?\)?")
_FEWEST_WORDS = 100
_SENTENCE = re.compile(r"[a-z][.!?…][\"”’')]*(?:\s|$)")


def clean_page(text: str) -> tuple[str, int, int]:
    """The page as prose, and how many lines of advertisement and how many links it lost."""
    text = clean(text)
    kept: list[str] = []
    furniture = links = 0
    for line in text.split("\n"):
        if line and _FURNITURE.fullmatch(line.strip()):
            furniture += 1
            continue
        if "http" in line or "www." in line:
            line, found = _URL.subn("", line)
            links += found
        kept.append(line)
    return clean("\n".join(kept)), furniture, links


def is_prose(document: Document) -> bool:
    """Whether a page is prose: 100 words or more, mostly letters, in sentences."""
    text = document.text
    words = count_words(text)
    if words < _FEWEST_WORDS:
        return False
    letters = sum(map(str.isalpha, text[:5000])) / min(len(text), 5000)
    sentences = len(_SENTENCE.findall(text))
    return letters > 0.6 and sentences >= words / 80


def _document(text: str, reading: Reading, group: str, split: str | None) -> Document | None:
    cleaned, furniture, links = clean_page(text)
    reading.report.drop("lines of advertisement", furniture)
    reading.report.drop("links", links)
    if not cleaned:
        reading.report.drop("rows without text")
        return None
    if is_explicit(cleaned):
        reading.report.flag("explicit")
    return Document("openwebtext", group, cleaned, split=split)


@per_row
def _from_rows(row: Row, reading: Reading, label: str, number: int) -> Document | None:
    text = cell_text(row.get("text")) or ""
    return _document(text, reading, f"{label}:{number}", official_split(label))


def _from_text(path: Path, reading: Reading, label: str) -> Iterator[Document]:
    data = path.read_bytes()
    text = encoding.decode(data, path, reading.report.note)
    reading.advance(len(data))
    made = _document(text, reading, label, official_split(label))
    if made is not None:
        yield made


SOURCE = NamedSource(
    name="openwebtext",
    rows=(
        RowForm(
            description="OpenWebText rows",
            has_columns=lambda columns: "text" in columns,
            looks_right=lambda _: False,
            documents=_from_rows,
        ),
    ),
    texts=(
        TextForm(
            description="OpenWebText pages",
            endings=(".txt", ".text"),
            looks_right=lambda _: False,
            documents=_from_text,
        ),
    ),
    keep=is_prose,
    hub=HubSet("Skylion007/openwebtext"),
)
