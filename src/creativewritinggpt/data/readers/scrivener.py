"""Scrivener projects (``.scriv``): the manuscript in the order of the binder.

The binder (``.scrivx``) names the documents. Read are those of the draft folder that are to be
compiled, from ``Files/Data/UUID/content.rtf`` (Scrivener 3) or ``Files/Docs/ID.rtf`` (1 and 2).
Titles down to the level that has chapters are headings; below it documents are scenes, apart by a
scene break. Synopses, notes, research and trash are not the manuscript. A project packed as a zip
file is read without unpacking it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ...errors import InputError
from ..document import characters
from ..text import clean_characters
from .archive import Archive, check_markup, damaged, whole_number, xml_parser
from .books import Book, Part
from .layout import SCENE_BREAK
from .manuscripts import cut_paragraphs
from .rtf import read_rtf

_TEMPLATE = re.compile(r"<[!/]?\$Scr\w*(?:::\d+)?>")
_ASIDE = re.compile(r"\{\\Scrv_(annot|fn|ps)\b.*?\\end_Scrv_\1\s*\}", re.S)
_ASIDE_HEAD = re.compile(r"\\(?:color=\{.*?\}|text=)", re.S)
_LARGEST = 100_000_000
_CONTENTS = (
    "Files/Data/{}/content.rtf", "Files/Data/{}/content.txt", "Files/Data/{}/content.rtfd/TXT.rtf",
    "Files/Docs/{}.rtf", "Files/Docs/{}.txt", "Files/Docs/{}.rtfd/TXT.rtf",
)  # fmt: skip


class _Members(Protocol):
    """The files of a project, by their names within it."""

    def __contains__(self, name: str) -> bool: ...

    def names(self) -> list[str]: ...

    def read(self, name: str) -> bytes: ...


class _Folder:
    """The files below a folder; links that lead out of it are not followed."""

    def __init__(self, path: Path) -> None:
        self._root = path.resolve()

    def _path(self, name: str) -> Path | None:
        path = (self._root / name).resolve()
        inside = path.is_relative_to(self._root) and path.is_file()
        return path if inside and path.stat().st_size <= _LARGEST else None

    def __contains__(self, name: str) -> bool:
        return self._path(name) is not None

    def names(self) -> list[str]:
        """The names of all files."""
        files = (path for path in sorted(self._root.rglob("*")) if path.is_file())
        return [path.relative_to(self._root).as_posix() for path in files]

    def read(self, name: str) -> bytes:
        """The content of a file."""
        path = self._path(name)
        return path.read_bytes() if path else b""


@dataclass(frozen=True)
class _Item:
    """A document or folder of the draft: its depth from 1, its title and its key."""

    depth: int
    title: str
    key: str
    is_included: bool


def read_scrivener(path: Path) -> tuple[Book, list[str]]:
    """The chapters of a project, a folder or a zip file of one, and notes on what it is.

    Raises:
        InputError: Its binder can't be read, or its texts are missing.
        ImportError: ``lxml`` is not installed.
    """
    if path.is_dir():
        return _read(path, _Folder(path))
    with Archive(path) as archive:
        return _read(path, archive)


def _read(path: Path, members: _Members) -> tuple[Book, list[str]]:
    from lxml import etree

    names = members.names()
    binder = min((name for name in names if name.lower().endswith(".scrivx")), key=len, default="")
    folder = binder.rpartition("/")[0]
    prefix = f"{folder}/" if folder else ""
    try:
        root = etree.fromstring(check_markup(members.read(binder)), xml_parser())
    except (etree.XMLSyntaxError, ValueError) as error:
        raise damaged(path, f"its binder is no XML: {error}") from error
    book, notes = Book(), list[str]()
    items = list(_draft(root))
    if root.find(".//BinderItem") is None:
        items = _without_binder(names, prefix)
        notes.append("its binder names nothing: its texts come in the order of their folders")
    elif not items:
        raise InputError(f"{path} has nothing in its draft folder", "write something, or export it")
    texts = [_text(members, prefix, item) for item in items]
    if not any(texts):
        raise InputError(
            f"{path} has none of the texts that its binder names",
            "give the whole .scriv folder, with Files in it",
        )
    parts: list[Part] = []
    depths = Counter(item.depth for item in items if item.is_included)
    chapter_depth = next((depth for depth in sorted(depths) if depths[depth] > 1), 1)
    for item, content in zip(items, texts, strict=True):
        found = _parts(content, book)
        text = "".join(part.text for part in found)
        book.characters += characters(text) + characters(item.title)
        if not item.is_included:
            book.leave_out("not included in compiling", item.title + text)
            continue
        if item.depth <= chapter_depth:
            parts.append(Part(item.depth, item.title))
        else:
            book.leave_out("titles of scenes", item.title)
            if text and parts and not parts[-1].level:
                parts.append(Part(0, SCENE_BREAK))
        parts += found if text else ()
    others = sum(name.endswith(("synopsis.txt", "_synopsis.txt")) for name in names)
    others += sum(name.endswith(("notes.rtf", "_notes.rtf")) for name in names)
    book.dropped["synopses and notes"] += others
    outside = len(root.findall(".//BinderItem")) - len(items) - 1  # the draft folder itself
    book.dropped["binder entries outside of the draft"] += max(0, outside)
    book.dropped = +book.dropped
    book.characters += book.left_out["annotations and footnotes"]
    cut_paragraphs(parts, book)
    return book, notes


def _draft(root: Any) -> Iterator[_Item]:
    """The entries of the draft folder, in order."""
    draft = next((one for one in root.iter("BinderItem") if one.get("Type") == "DraftFolder"), None)
    if draft is None:
        return
    said = draft.find(".//BinderItem/MetaData/IncludeInCompile") is not None
    stack = [(1, item) for item in reversed(draft.findall("Children/BinderItem"))]
    while stack:
        depth, item = stack.pop()
        included = (item.findtext("MetaData/IncludeInCompile") or "").strip().lower()
        yield _Item(
            min(depth, 6),
            " ".join((item.findtext("Title") or "").split()),
            item.get("UUID") or item.get("ID") or "",
            included in ("yes", "true", "1") or not said,
        )
        stack += [(depth + 1, one) for one in reversed(item.findall("Children/BinderItem"))]


def _without_binder(names: list[str], prefix: str) -> list[_Item]:
    """The texts of a project whose binder is empty, in the order of their names."""
    found = re.compile(
        re.escape(prefix) + r"Files/(?:Data/([^/]+)/content|Docs/(\d+))\.(?:rtf|txt)"
    )
    keys = [match[1] or match[2] for name in names if (match := found.fullmatch(name))]
    keys.sort(key=lambda key: (whole_number(key, 0), key))
    return [_Item(1, "", key, True) for key in keys]


def _text(members: _Members, prefix: str, item: _Item) -> bytes:
    if not re.fullmatch(r"[\w.-]{1,64}", item.key) or item.key.startswith("."):
        return b""
    names = (prefix + name.format(item.key) for name in _CONTENTS)
    return next((members.read(name) for name in names if name in members), b"")


def _parts(content: bytes, book: Book) -> list[Part]:
    """The paragraphs of a document, without Scrivener's own marks."""
    if content.lstrip()[:5] == b"{\\rtf":
        parts, own = read_rtf(content.lstrip())
        book.left_out += own.left_out
        book.dropped += own.dropped
        book.characters += own.left_out.total()
    else:
        text = clean_characters(content.decode("utf-8", "replace"))
        parts = [Part(0, line.strip()) for line in text.split("\n")]
    text = "\n".join(part.text for part in parts)
    if "$Scr" not in text and "\\Scrv" not in text:
        return parts
    for found in _ASIDE.finditer(text):
        aside = _ASIDE_HEAD.sub("", found[0].partition(" ")[2].rpartition("\\end_Scrv")[0])
        book.leave_out("annotations and footnotes", aside)
    text = _TEMPLATE.sub("", _ASIDE.sub("", text))
    return [Part(0, line.strip()) for line in text.split("\n")]
