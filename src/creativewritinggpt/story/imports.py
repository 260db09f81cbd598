"""Import of stories: plain text, Markdown, files of KoboldAI and mikupad.

Text with its author, memory, author's note and world info are imported; the settings of other
programs are not, since their samplers differ.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import from_home, read_json, read_text
from .file import FORMAT, load
from .tree import Lore, Story

MOST_BYTES = 64_000_000
_HEADING = re.compile(r"#{1,3}[ \t]+(.+?)[ \t]*#*[ \t]*$")
_PLACE = re.compile(r"\{\{\[(?:INPUT|OUTPUT|SYSTEM)(?:_END)?\]\}\}")  # of KoboldAI Lite's chats
# Control characters and surrogates, which terminals obey and XML refuses.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def import_story(path: str | os.PathLike[str]) -> Story:
    """Read a story of any known format.

    Args:
        path: ``.json`` (this program's, KoboldAI's, mikupad's), ``.md`` or text.

    Raises:
        InputError: The file can't be read, is too large, or is no story.
    """
    place = from_home(path)
    try:
        if place.stat().st_size > MOST_BYTES:
            raise InputError(f"{path} is larger than {MOST_BYTES // 1_000_000} MB")
        if place.suffix.lower() == ".json":
            return _from_json(read_json(place), str(path))
        text = clean(read_text(place))
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except (OSError, RecursionError) as error:
        raise InputError(f"{path} can't be read as UTF-8 text") from error
    story = Story()
    if place.suffix.lower() in (".md", ".markdown"):
        _add_markdown(story, text)
    elif text.strip():
        story.write(text.rstrip(), did="import")
    return _fresh(story, place.stem)


def clean(text: str) -> str:
    """``text`` with plain line ends and without control characters."""
    return _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def _from_json(record: Any, where: str) -> Story:
    if isinstance(record, dict) and record.get("format") == FORMAT:
        return load(record, where)
    try:
        if isinstance(record, dict) and "actions" in record and "prompt" in record:
            return _fresh(_kobold(record), Path(where).stem)
        if isinstance(record, dict) and "prompt" in record:
            return _fresh(_mikupad(record), Path(where).stem)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{where} looks like a story, but can't be understood") from error
    raise InputError(
        f"{where} is no story that is known here",
        "known are .txt, .md and the files of this program, KoboldAI and mikupad",
    )


def _fresh(story: Story, title: str) -> Story:
    """The story without a history: an import can't be undone."""
    if not story.state.title:
        story.set("import", title=title)
    return Story(story.passages, [story.state])


def _add_markdown(story: Story, text: str) -> None:
    """Add Markdown: headings become chapters, the first at the top the title."""
    headings = [m[1] for m in map(_HEADING.match, text.split("\n")) if m]
    lines: list[str] = []
    for line in text.split("\n"):
        match = _HEADING.match(line)
        if match is None:
            lines.append(line)
            continue
        _add(story, "\n".join(lines).strip("\n"))
        lines = []
        first = line.startswith("# ") and not story.passages and len(headings) > 1
        if first and not story.state.title:
            story.set("import", title=match[1])
        else:
            story.chapter(match[1])
    _add(story, "\n".join(lines).strip("\n"))


def _add(story: Story, text: str, by: str = "writer") -> None:
    if text:
        story.write(clean(text), did="import", by=by)


def _kobold(record: dict[str, Any]) -> Story:
    """A file of KoboldAI or KoboldAI Lite."""
    story = Story()
    actions = record["actions"]
    if isinstance(actions, dict):  # version 2: numbered, each with the chosen version
        inner = actions.get("actions", actions)
        texts = [inner[key]["Selected Text"] for key in sorted(inner, key=int)]
    else:
        texts = list(actions)
    _add(story, str(record["prompt"]))
    for text in texts:
        by = "writer" if "{{[INPUT]}}" in str(text) else "model"
        _add(story, _PLACE.sub("", str(text)), by)
    info = record.get("worldinfo") or record.get("worldinfo_v2") or []
    if isinstance(info, dict):
        info = list(info.get("entries", {}).values())
    note = str(record.get("authorsnote") or record.get("authornote") or "")
    frame = record.get("anotetemplate") or record.get("authornotetemplate") or "<|>"
    story.set(
        "import",
        memory=clean(str(record.get("memory") or "")),
        note=clean(str(frame).replace("<|>", note)) if note else "",
        lore=tuple(
            _lore(one.get("key") or "", one.get("content"), always=bool(one.get("constant")))
            for one in info
            if one.get("content") and not one.get("widisabled")
        ),
        title=clean(str(record.get("story_name") or "")),
    )
    return story


def _mikupad(record: dict[str, Any]) -> Story:
    """A session exported by mikupad: every value is a JSON string."""
    values = {key: _unwrapped(value) for key, value in record.items()}
    story = Story()
    prompt = values["prompt"]
    parts: Iterable[Any] = [prompt] if isinstance(prompt, str) else prompt
    for by, text in _joined(parts):
        _add(story, text, by)
    entries = (values.get("worldInfo") or {}).get("entries") or []
    story.set(
        "import",
        title=clean(str(values.get("name") or "")),
        memory=_whole(values.get("memoryTokens")),
        note=_whole(values.get("authorNoteTokens")),
        lore=tuple(_lore(one.get("keys") or [], one["text"]) for one in entries if one["text"]),
    )
    return story


def _joined(parts: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Chunks of mikupad joined by author; those of its model are single tokens."""
    author, texts = "", [""]
    for part in parts:
        text = part if isinstance(part, str) else str(part["content"])
        by = "writer" if isinstance(part, str) or part.get("type") == "user" else "model"
        if by != author:
            yield author or by, "".join(texts)
            author, texts = by, []
        texts.append(text)
    yield author or "writer", "".join(texts)


def _unwrapped(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _whole(part: Any) -> str:
    if not isinstance(part, dict) or not part.get("text"):
        return ""
    return clean("".join(str(part.get(name) or "") for name in ("prefix", "text", "suffix")))


def _lore(keys: Any, text: Any, *, always: bool = False) -> Lore:
    words = keys.split(",") if isinstance(keys, str) else keys
    names = tuple(name for word in words if (name := clean(str(word)).strip()))
    return Lore(names, clean(str(text)), always or not names)
