"""NovelAI: stories, scenarios and lorebooks.

The text of a story is a list of fragments (to 2022), the blocks of a tree of edits from which they
come, or the editor's document: MessagePack in base64, as the library msgpackr writes it
(https://github.com/kriszyp/msgpackr), a text section per paragraph.

Trade-off: msgpackr's records and bundled strings are read here in some sixty lines, since no
library of Python knows them.
"""

from __future__ import annotations

import base64
import struct
from typing import Any

from ..errors import InputError
from .draft import Draft, Form, has_all, has_any, records
from .programs import placeholders

_MOST_DEPTH = 60
_ORIGINS = {"ai": "model", "prompt": "writer", "user": "writer", "edit": "writer", "root": "writer"}


def _is_container(record: Any) -> bool:
    return has_all(record, "content") and has_any(record, "storyContainerVersion", "metadata")


def _container(record: dict[str, Any], draft: Draft) -> None:
    metadata, content = record.get("metadata"), record["content"]
    if not isinstance(content, dict):
        raise InputError("the file of NovelAI has no content that can be read")
    draft.title = draft.text(metadata.get("title"), "titles") if isinstance(metadata, dict) else ""
    story, document = content.get("story"), content.get("document")
    if isinstance(document, str) and document:
        _document(document, draft)
    elif isinstance(story, dict):
        _fragments(story, draft)
    elif document is not None or story is not None:
        draft.lost["texts that can't be read"] += 1
    _context(content, draft)


def _context(content: dict[str, Any], draft: Draft) -> None:
    """Memory, author's note and lore, and what a story has no place for."""
    context = records(content.get("context"))
    for name, one in zip(("memory", "note"), context, strict=False):
        setattr(draft, name, placeholders(draft.prose(one.get("text"), "contexts"), draft))
    _lorebook(content.get("lorebook"), draft)
    further = [one for one in context[2:] if one.get("text")]
    draft.without_place("further contexts", [*further, *records(content.get("ephemeralContext"))])
    for field, things in (
        ("phraseBiasGroups", "phrase biases"),
        ("bannedSequenceGroups", "banned sequences"),
    ):
        groups = records(content.get(field))
        lists = (one.get("phrases", one.get("sequences")) for one in groups)
        draft.lost[things] += sum(len(one) for one in lists if isinstance(one, list))
    draft.without_place("settings", content.get("settings"))
    draft.without_place("scripts", content.get("userScripts"))


def _fragments(story: dict[str, Any], draft: Draft) -> None:
    """The fragments of the text, or the current branch of the blocks from which they come."""
    fragments = records(story.get("fragments"))
    pieces = [(one.get("data"), one.get("origin")) for one in fragments]
    if not any(isinstance(text, str) and text for text, _ in pieces):
        pieces = _blocks(story)
    for text, origin in pieces:
        by = _ORIGINS.get(origin, "model") if isinstance(origin, str) else "model"
        draft.add(draft.prose(text), by)


def _blocks(story: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Pieces of the text with their origins: the edits from the root to the current block."""
    found = story.get("datablocks", story.get("blocks"))
    blocks = found if isinstance(found, list) else []
    place, path, seen = story.get("currentBlock", len(blocks) - 1), [], set()
    while type(place) is int and 0 <= place < len(blocks) and place not in seen:
        seen.add(place)
        block = blocks[place]
        if not isinstance(block, dict):
            break
        path.append(block)
        place = block.get("prevBlock")
    text, origins = "", ""  # of each character the index of its origin
    names: list[Any] = []
    for block in reversed(path):
        inner = block.get("dataFragment")
        inner = inner if isinstance(inner, dict) else block
        data, start, end = inner.get("data"), block.get("startIndex"), block.get("endIndex")
        if not isinstance(data, str):
            continue
        start = start if type(start) is int and 0 <= start <= len(text) else len(text)
        end = end if type(end) is int and start <= end <= len(text) else start
        names.append(inner.get("origin", block.get("origin")))
        mark = chr(0x100 + (len(names) - 1) % 0xD000)
        text = text[:start] + data + text[end:]
        origins = origins[:start] + mark * len(data) + origins[end:]
    pieces: list[tuple[Any, Any]] = []
    begin = 0
    for index in range(1, len(text) + 1):
        if index == len(text) or origins[index] != origins[begin]:
            pieces.append((text[begin:index], names[ord(origins[begin]) - 0x100]))
            begin = index
    return pieces


def _is_scenario(record: Any) -> bool:
    return has_all(record, "scenarioVersion") and has_any(record, "prompt", "context", "lorebook")


def _scenario(record: dict[str, Any], draft: Draft) -> None:
    draft.title = draft.text(record.get("title"), "titles")
    for one in records(record.get("placeholders")):
        name, value = one.get("key"), one.get("defaultValue")
        if isinstance(name, str) and isinstance(value, str) and value:
            draft.defaults[name] = draft.text(value)
    draft.add(placeholders(draft.prose(record.get("prompt"), "prompts"), draft), "writer")
    _context(record, draft)


def _is_lorebook(record: Any) -> bool:
    return has_all(record, "lorebookVersion", "entries")


def _lorebook_alone(record: dict[str, Any], draft: Draft) -> None:
    draft.lore_only = True
    _lorebook(record, draft)


def _lorebook(book: Any, draft: Draft) -> None:
    if not isinstance(book, dict):
        return
    for one in records(book.get("entries")):
        draft.entry(
            one.get("keys"),
            one.get("text"),
            always=one.get("forceActivation") is True,
            enabled=one.get("enabled", True) is not False,
        )
        groups = records(one.get("loreBiasGroups"))
        draft.lost["phrase biases"] += sum(bool(group.get("phrases")) for group in groups)


# --- the document of the editor


def _document(encoded: str, draft: Draft) -> None:
    """Add the sections of the document, with the changes that the editor had not filed yet."""
    try:
        document = Unpacker(base64.b64decode(encoded, validate=True)).value()
    except (ValueError, IndexError, TypeError, OverflowError):
        document = None
    sections = document.get("sections") if isinstance(document, dict) else None
    order = document.get("order") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(sections, dict) or type(order) is not list:
        raise InputError(
            "the document of the NovelAI story can't be read",
            "export it as text in NovelAI, and load that",
        )
    order = [one for one in order if isinstance(one, (int, str))]
    _pending(document.get("dirtySections"), sections, order, draft)
    found = [section for one in order if isinstance(section := sections.get(one), dict)]
    lines = [draft.prose(one.get("text")) for one in found if one.get("type", 1) == 1]
    draft.add("\n".join(lines), "writer")
    draft.said.append("who wrote which part is not read from the editor's document")
    history = document.get("history")
    nodes = history.get("nodes") if isinstance(history, dict) else None
    if isinstance(nodes, dict) and len(nodes) > 1:
        draft.lost["steps of its history"] += len(nodes) - 1


def _pending(changes: Any, sections: dict[Any, Any], order: list[Any], draft: Draft) -> None:
    """Apply changes that are not in the sections yet: 0 creates, 1 edits, 2 removes one."""
    for name, step in changes.items() if isinstance(changes, dict) else ():
        kind = step.get("type") if isinstance(step, dict) else None
        if kind == 0:
            sections[name] = step.get("section")
            after = step.get("after")
            place = 0 if after == 0 else order.index(after) + 1 if after in order else len(order)
            order.insert(place, name)
        elif kind == 2 and name in order:
            order.remove(name)
        elif kind != 1 or not _edited(step.get("diff"), sections, name):
            draft.lost["last changes that can't be read"] += 1


def _edited(diff: Any, sections: dict[Any, Any], name: Any) -> bool:
    inner = diff.get("diff", diff) if isinstance(diff, dict) else None
    section = sections.get(name)
    if not isinstance(inner, dict) or not isinstance(section, dict):
        return False
    if isinstance(inner.get("to"), dict):
        sections[name] = inner["to"]
        return True
    text, done, place = section.get("text"), [], 0
    if not isinstance(text, str) or not isinstance(inner.get("parts"), list):
        return False
    for part in records(inner["parts"]):
        start, gone, new = (part.get(field) for field in ("from", "delete", "insert"))
        if type(start) is not int or not isinstance(gone, str) or not isinstance(new, str):
            return False
        if start < 0 or not text.startswith(gone, place + start):
            return False
        done += [text[place : place + start], new]
        place += start + len(gone)
    sections[name] = {**section, "text": "".join([*done, text[place:]])}
    return True


class Unpacker:
    """MessagePack as msgpackr writes it: records, bundled strings, structured extensions.

    Args:
        data: The bytes.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0
        self._depth = 0
        self._records: dict[int, list[Any]] = {}
        self._wide: set[int] = set()  # first bytes of records whose number has a second one
        self._bundle: tuple[list[bytes], list[int]] | None = None

    def value(self) -> Any:
        """The next value; an object for a record or a map.

        Raises:
            ValueError: The bytes are none, or too deep.
            IndexError: They end too early.
        """
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            raise ValueError("too deep")
        try:
            return self._read()
        finally:
            self._depth -= 1

    def _take(self, count: int) -> bytes:
        taken = self._data[self._place : self._place + count]
        if len(taken) < count:
            raise IndexError("the bytes end too early")
        self._place += count
        return taken

    def _number(self, form: str) -> Any:
        return struct.unpack(f">{form}", self._take(struct.calcsize(form)))[0]

    def _read(self) -> Any:
        token = self._take(1)[0]
        first = token & 0x3F
        if 0x40 <= token < 0x80 and (first in self._records or first in self._wide):
            return self._record(first)
        if token < 0x80:
            return token
        if token < 0xA0:
            return self._many(token & 15, token < 0x90)
        if token < 0xC0:
            return self._take(token & 31).decode()
        if token >= 0xE0:
            return token - 256
        if token == 0xC1:
            return self._bundled()
        if token <= 0xC3:
            return {0xC0: None, 0xC2: False, 0xC3: True}[token]
        if token <= 0xC6:
            return self._take(self._number("BHI"[token - 0xC4]))
        if token <= 0xC9:
            return self._extension(self._number("BHI"[token - 0xC7]))
        if token <= 0xD3:
            return self._number("fdBHIQbhiq"[token - 0xCA])
        if token <= 0xD8:
            return self._extension(1 << (token - 0xD4))
        if token <= 0xDB:
            return self._take(self._number("BHI"[token - 0xD9])).decode()
        return self._many(self._number("HI"[token & 1]), token >= 0xDE)

    def _many(self, count: int, paired: bool) -> Any:
        if count > len(self._data):
            raise ValueError("more values than bytes")
        if not paired:
            return [self.value() for _ in range(count)]
        found = {}
        for _ in range(count):
            key = self.value()
            found[key if isinstance(key, (str, int)) else repr(key)] = self.value()
        return found

    def _extension(self, size: int) -> Any:
        kind = self._take(1)[0]
        if kind == 0x72 and size <= 2:
            first = self._take(1)[0] & 0x3F
            number = first
            if size == 2:
                number += self._take(1)[0] << 6
                self._wide.add(first)
            names = self.value()
            if not isinstance(names, list):
                raise ValueError("a record without names")
            self._records[number] = names
            return self._fields(names)
        if kind == 0x62 and size == 4:
            return self._with_bundle(self._number("I"))
        content = self._take(size)
        structured = size == 1 and content == b"\0" and kind
        return self.value() if structured else None

    def _record(self, first: int) -> Any:
        number = first
        if first in self._wide:
            number += self._take(1)[0] << 6
        return self._fields(self._records[number])

    def _fields(self, names: list[Any]) -> dict[Any, Any]:
        return {str(name): self.value() for name in names}

    def _with_bundle(self, size: int) -> Any:
        """A value whose strings stand together behind it: UTF-8 ones, and plain ones."""
        here = self._place
        self._place += size - 4
        strings = [self.value() for _ in range(2)]
        end, self._place = self._place, here
        if not all(isinstance(one, str) for one in strings):
            raise ValueError("a bundle without strings")
        self._bundle = [one.encode("utf-16-le") for one in strings], [0, 0]
        value = self.value()
        self._place = end
        return value

    def _bundled(self) -> Any:
        length = self.value()
        if self._bundle is None or type(length) is not int:
            raise ValueError("a string outside of its bundle")
        (strings, places), which = self._bundle, int(length > 0)
        start = places[which]
        places[which] = end = start + 2 * abs(length)  # in units of UTF-16
        return strings[which][start:end].decode("utf-16-le", "replace")


FORMS = (
    Form("NovelAI scenario", _is_scenario, _scenario),
    Form("NovelAI lorebook", _is_lorebook, _lorebook_alone),
    Form("NovelAI story", _is_container, _container),
)
"""The forms of NovelAI."""
