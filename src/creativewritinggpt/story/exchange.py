"""Stories of other programs in, manuscripts out.

Text with its author, memory, author's note and world info are imported; the settings of other
programs are not, since their samplers differ. Exported is the current branch as text, Markdown,
HTML, Word or EPUB, or the whole story as JSON; a line of the story becomes a paragraph, a chapter
heading a heading.

Trade-off: all formats but Word are written here, so that only Word needs a library.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import uuid
import zipfile
from collections.abc import Callable, Iterable, Iterator
from html import escape
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import atomic_file, from_home, read_json, read_text, write_text
from .file import FORMAT, dump, load
from .tree import Lore, Story

ENDINGS = (".txt", ".md", ".html", ".docx", ".epub", ".json")

_MARKDOWN = re.compile(r"([\\`*_\[\]<>&~|])")
# Beginnings of Markdown blocks: headings, lists, rules.
_BLOCK = re.compile(r"^(\s*)([#+=-]|\d+(?=[.)]))")
_SPACES = re.compile(r"^[ \t]+")
_STYLE = (
    "body { font-family: serif; line-height: 1.5; max-width: 36em; margin: 2em auto; "
    "padding: 0 1em; }\n"
    "h1, h2 { line-height: 1.2; font-weight: normal; }\n"
    "p { margin: 0; text-indent: 1.5em; }\n"
    "h1 + p, h2 + p { text-indent: 0; }\n"
)
_CONTAINER = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
    '<rootfiles><rootfile full-path="EPUB/package.opf" '
    'media-type="application/oebps-package+xml"/></rootfiles></container>\n'
)
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


def export_story(story: Story, path: str | os.PathLike[str]) -> None:
    """Write the current branch of a story as a manuscript.

    Args:
        story: The story.
        path: The file; its ending is the format: ``.txt .md .html .docx .epub .json``.

    Raises:
        InputError: The ending is unknown, or a library is missing.
        RunError: The disk is full.
    """
    place = from_home(path)
    forms: dict[str, Callable[[Story, Path], None]] = {
        ".txt": lambda story, path: write_text(path, clean(story.text).strip() + "\n"),
        ".md": lambda story, path: write_text(path, markdown(story)),
        ".html": lambda story, path: write_text(path, html(story)),
        ".docx": _docx,
        ".epub": _epub,
        ".json": lambda story, path: write_text(path, dump(story)),
    }
    write = forms.get(place.suffix.lower())
    if write is None:
        raise InputError(
            f"{place.name} has no ending that is known", f"give one of {' '.join(ENDINGS)}"
        )
    write(story, place)


def title_of(story: Story) -> str:
    """The story's title, or ``Untitled``."""
    return clean(story.state.title).strip() or "Untitled"


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a text: its lines that are not blank."""
    return [line.strip() for line in clean(text).split("\n") if line.strip()]


def markdown(story: Story) -> str:
    """The story as Markdown, with the characters escaped that Markdown would interpret."""
    blocks = [f"# {_escaped(title_of(story))}"]
    for title, text in story.chapters():
        if title:
            blocks.append(f"## {_escaped(clean(title))}")
        blocks += map(_escaped, paragraphs(text))
    return "\n\n".join(blocks) + "\n"


def html(story: Story) -> str:
    """The story as one HTML page."""
    title = escape(title_of(story))
    body = f"<h1>{title}</h1>\n" + "".join(
        _section(heading, text, "h2") for heading, text in story.chapters()
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}'
        f"</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )


def _escaped(line: str) -> str:
    text = _MARKDOWN.sub(r"\\\1", _SPACES.sub("", line))
    found = _BLOCK.match(text)
    if found is None:
        return text
    end = found.end() if found[2].isdigit() else found.end() - 1
    return f"{text[:end]}\\{text[end:]}"


def _section(heading: str, text: str, level: str) -> str:
    top = f"<{level}>{escape(clean(heading))}</{level}>\n" if heading else ""
    return top + "".join(f"<p>{escape(line)}</p>\n" for line in paragraphs(text))


def _docx(story: Story, path: Path) -> None:
    try:
        import docx
    except ImportError as error:
        raise InputError(
            "python-docx, which writes Word files, is not installed",
            'pip install "creativewritinggpt[documents]"',
        ) from error
    document = docx.Document()
    document.core_properties.title = title_of(story)
    document.core_properties.author = ""
    document.add_heading(title_of(story), 0)
    for title, text in story.chapters():
        if title:
            document.add_heading(clean(title), 1)
        for line in paragraphs(text):
            document.add_paragraph(line)
    with atomic_file(path) as temporary:
        document.save(str(temporary))


def _epub(story: Story, path: Path) -> None:
    """EPUB 3.3, with the table of contents of EPUB 2 for older readers."""
    title = escape(title_of(story))
    chapters = story.chapters() or [("", "")]
    names = [f"chapter-{number}" for number in range(1, len(chapters) + 1)]
    heads = [escape(clean(heading)) or title for heading, _ in chapters]
    identifier = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, story.text)}"
    pages = {
        f"{name}.xhtml": _page(head, _section(heading or title_of(story), text, "h1"))
        for name, head, (heading, text) in zip(names, heads, chapters, strict=True)
    }
    with atomic_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        # Uncompressed and first, as the format wants.
        archive.writestr(zipfile.ZipInfo("mimetype"), "application/epub+zip")
        files = {
            "META-INF/container.xml": _CONTAINER,
            "EPUB/package.opf": _package(title, identifier, names),
            "EPUB/nav.xhtml": _navigation(names, heads),
            "EPUB/toc.ncx": _old_contents(title, identifier, names, heads),
            "EPUB/style.css": _STYLE,
            **{f"EPUB/{name}": page for name, page in pages.items()},
        }
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)


def _page(title: str, body: str) -> str:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE html>\n'
        '<html xmlns="http://www.w3.org/1999/xhtml" '
        'xmlns:epub="http://www.idpf.org/2007/ops" lang="en" xml:lang="en">\n'
        f'<head><title>{title}</title><link rel="stylesheet" href="style.css"/></head>\n'
        f"<body>\n{body}</body>\n</html>\n"
    )


def _navigation(names: list[str], heads: list[str]) -> str:
    entries = "".join(
        f'<li><a href="{name}.xhtml">{head}</a></li>'
        for name, head in zip(names, heads, strict=True)
    )
    return _page("Contents", f'<nav epub:type="toc"><h1>Contents</h1><ol>{entries}</ol></nav>\n')


def _package(title: str, identifier: str, names: list[str]) -> str:
    manifest = "".join(
        f'<item id="{name}" href="{name}.xhtml" media-type="application/xhtml+xml"/>\n'
        for name in names
    )
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    spine = "".join(f'<itemref idref="{name}"/>' for name in names)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="id">\n'
        '<metadata xmlns:dc="http://purl.org/dc/elements/1.1/">\n'
        f'<dc:identifier id="id">{identifier}</dc:identifier>\n<dc:title>{title}</dc:title>\n'
        "<dc:language>en</dc:language>\n"
        f'<meta property="dcterms:modified">{now}</meta>\n</metadata>\n<manifest>\n'
        '<item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>\n'
        '<item id="ncx" href="toc.ncx" media-type="application/x-dtbncx+xml"/>\n'
        '<item id="style" href="style.css" media-type="text/css"/>\n'
        f'{manifest}</manifest>\n<spine toc="ncx">{spine}</spine>\n</package>\n'
    )


def _old_contents(title: str, identifier: str, names: list[str], heads: list[str]) -> str:
    points = "".join(
        f'<navPoint id="p{number}" playOrder="{number}"><navLabel><text>{head}</text></navLabel>'
        f'<content src="{name}.xhtml"/></navPoint>'
        for number, (name, head) in enumerate(zip(names, heads, strict=True), 1)
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<ncx xmlns="http://www.daisy.org/z3986/2005/ncx/" version="2005-1">'
        f'<head><meta name="dtb:uid" content="{identifier}"/></head>'
        f"<docTitle><text>{title}</text></docTitle><navMap>{points}</navMap></ncx>\n"
    )
