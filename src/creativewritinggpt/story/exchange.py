"""Stories of other programs in, manuscripts out.

What a file is, its content tells. Text with its author, memory, author's note and world info are
imported; the settings of other programs are not, since their samplers differ. Exported is the
current branch as text, Markdown, HTML, Word or EPUB, or the whole story as JSON; a line of the
story becomes a paragraph, a chapter heading a heading.

Trade-off: all formats but Word are written here, so that only Word needs a library.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import io
import json
import os
import re
import uuid
import zipfile
import zlib
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..data.text import decode
from ..errors import InputError
from ..files import atomic_file, from_home, write_text
from .draft import Draft, Form, Imported, clean
from .file import FORMAT, dump, load
from .novelai import FORMS as NOVELAI
from .programs import ADVENTURE, collection
from .programs import FORMS as PROGRAMS
from .tree import Story

FORMS = (*NOVELAI, *PROGRAMS)
"""The forms of other programs that are imported, the most particular first."""
MANUSCRIPTS = (".docx", ".epub", ".odt", ".rtf", ".html", ".htm", ".xhtml", ".fountain", ".pdf")
"""Endings of manuscripts whose text is imported by chapters."""
# RTF, PDF, gzip, Zstandard, old Word files, web pages.
_MANUSCRIPT = re.compile(
    rb"\{\\rtf|%PDF|\x1f\x8b|\x28\xb5\x2f\xfd|\xd0\xcf\x11\xe0"
    rb"|(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--[^>]*-->\s*)?<(?:!doctype\s+html|html)\b",
    re.IGNORECASE,
)
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
"""Size of the largest file that is imported, and of what a packed one may hold."""
_HEADING = re.compile(r"#{1,3}[ \t]+(\S.*)$")
KNOWN = "known are KoboldAI, United and Lite, mikupad, NovelAI, AI Dungeon, SillyTavern, texts"
"""What can be imported, for messages."""
_JSON = (".json", ".jsonl", ".story", ".scenario", ".lorebook", ".card")
_WRAPPERS = ("data", "adventure", "scenario", "story", "session", "result")  # of answers of an API
IMPORTED = (*_JSON, ".kaistory", ".png", ".txt", ".md", ".markdown", *MANUSCRIPTS)
"""Endings of files that are imported as a rule; what such a file holds, its content tells."""


def import_story(path: str | os.PathLike[str]) -> Imported:
    """Read a story, chat, character or world info of any known form, told by its content.

    Args:
        path: The file; ``FILE#2`` is the second story of one that holds several.

    Raises:
        InputError: The file can't be read, is too large, or is no story.
    """
    place, number = from_home(path), ""
    if not place.exists() and "#" in place.name:
        name, _, number = str(place).rpartition("#")
        place = Path(name)
    try:
        if place.stat().st_size > MOST_BYTES:
            raise InputError(f"{path} is larger than {MOST_BYTES // 1_000_000} MB")
        if place.suffix.lower() == ".scriv" and place.is_dir():
            return _manuscript(place)
        if (place / "story.json").is_file():  # a folder of KoboldAI United
            place = place / "story.json"
        content = place.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from error
    return _read(content, place, number)


def _read(content: bytes, place: Path, number: str) -> Imported:
    """The story of a file's content."""
    ending = place.suffix.lower()
    if content.startswith(b"\x89PNG\r\n"):
        return _from_json(_png_record(content, place.name), place, number)
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        raise InputError(
            f"{place.name} is a picture in WebP", "export the character as .png or .json"
        )
    if _MANUSCRIPT.match(content) or (ending in MANUSCRIPTS and content[:4] != b"PK\3\4"):
        return _manuscript(place)
    if content.startswith(b"PK\3\4"):
        packed = _zip_record(content, place.name)
        if packed is None and ending == ".kaistory":
            raise InputError(f"{place.name} is packed without its story.json", KNOWN)
        return _manuscript(place) if packed is None else _from_json(packed, place, number)
    said: list[str] = []
    text = decode(content, place, said.append)
    record = _json_of(text, place)
    if record is not None:
        return _from_json(record, place, number)
    found = _from_text(clean(text), place)
    return found._replace(said=(*found.said, *said))


def _json_of(text: str, place: Path) -> Any:
    """The value of a file of JSON, a list for one of JSON lines; None for any other text.

    Raises:
        InputError: It begins like JSON, or is named so, and is none.
    """
    start = text.lstrip()
    named = place.suffix.lower() in _JSON
    if not named and not re.match(r'\{\s*["}]|\[\s*[\[{"\]]', start):
        return None
    try:
        return json.loads(start)
    except (ValueError, RecursionError) as error:
        reason = error
    try:
        lines = [json.loads(line) for line in start.split("\n") if line.strip()]
    except (ValueError, RecursionError):
        lines = []
    if lines:
        return lines
    deep = isinstance(reason, RecursionError)
    why = "it is nested too deeply" if deep else " ".join(str(reason).split())[:100]
    raise InputError(f"{place.name} is no valid JSON: {why}", "export the story once more")


def _from_json(record: Any, place: Path, number: str = "") -> Imported:
    if isinstance(record, dict) and record.get("format") == FORMAT:
        return Imported(load(record, place.name), "story of this program")
    stories = collection(record)
    form: Form | None = ADVENTURE
    if stories:
        record = _one_of(stories, place, number)
    else:
        form, record = _recognised(record)
    if form is None:
        raise InputError(f"{place.name} is no story that is known here", KNOWN)
    draft = Draft(form.name)
    form.read(record, draft)
    found = draft.finished(place.stem)
    state = found.story.state
    if not (found.story.passages or state.lore or state.memory or state.note):
        raise InputError(
            f"{place.name}, a {draft.form}, holds no text", "export the story once more"
        )
    return found


def _recognised(record: Any, depth: int = 2) -> tuple[Form | None, Any]:
    """The form of a record, or of one that it wraps, and that record."""
    form = next((one for one in FORMS if one.matches(record)), None)
    if form is None and depth and isinstance(record, dict):
        for name in _WRAPPERS:
            found, inner = _recognised(record.get(name), depth - 1)
            if found is not None:
                return found, inner
    return form, record


def _one_of(stories: Sequence[tuple[str, Any]], place: Path, number: str) -> Any:
    """The record of the story that was asked for, or of the only one."""
    if number.isdecimal() and len(number) < 6 and 0 < int(number) <= len(stories):
        return stories[int(number) - 1][1]
    if len(stories) == 1 and not number:
        return stories[0][1]
    titles = ", ".join(f"{n} {clean(title)[:30]}" for n, (title, _) in enumerate(stories[:12], 1))
    raise InputError(
        f"{place.name} holds {len(stories)} stories: {' '.join(titles.split())}",
        f"take one by its number, as in {place.name}#1",
    )


def _zip_record(content: bytes, name: str) -> Any:
    """The ``story.json`` in a packed story of KoboldAI United; None where there is none."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            found = [one for one in archive.infolist() if Path(one.filename).name == "story.json"]
            if not found:
                return None
            with archive.open(min(found, key=lambda one: len(one.filename))) as stream:
                text = stream.read(MOST_BYTES + 1)
    except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, NotImplementedError) as error:
        raise InputError(f"{name} can't be unpacked", "export the story once more") from error
    if len(text) > MOST_BYTES:
        raise InputError(f"{name} holds more than {MOST_BYTES // 1_000_000} MB")
    return _record(text, name)


def _png_record(content: bytes, name: str) -> Any:
    """The character or lorebook in the text chunks of a PNG picture."""
    found: dict[bytes, bytes] = {}
    place = 8
    while place + 12 <= len(content):
        size = int.from_bytes(content[place : place + 4], "big")
        kind, body = content[place + 4 : place + 8], content[place + 8 : place + 8 + size]
        if kind == b"tEXt" and b"\0" in body:
            key, _, value = body.partition(b"\0")
            found.setdefault(key.lower(), value)
        place += 12 + size
    for key in (b"ccv3", b"chara", b"naidata"):
        if key in found:
            try:
                return _record(base64.b64decode(found[key]), name)
            except binascii.Error as error:
                raise InputError(f"the character in {name} can't be read") from error
    raise InputError(f"{name} is a picture that holds no character", KNOWN)


def _record(content: bytes, name: str) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"what {name} holds is no valid JSON", "export the story once more"
        ) from error


def _manuscript(place: Path) -> Imported:
    """A manuscript, chapter by chapter, as the readers of training texts read it."""
    from ..data.readers import read_texts

    found = read_texts(place)
    draft = Draft(found.form)
    for title, text in found.texts:
        if title:
            draft.chapter(title)
        draft.paragraph()
        draft.add(draft.text(text).strip(), "writer")
    draft.said += found.notes
    return draft.finished(place.stem)


def _from_text(text: str, place: Path) -> Imported:
    """Plain text as it stands, or Markdown, whose headings become chapters."""
    markdown = place.suffix.lower() in (".md", ".markdown")
    draft = Draft("Markdown" if markdown else "text")
    if markdown:
        _add_markdown(draft, text)
    elif text.strip():
        draft.add(text.rstrip(), "writer")
    return draft.finished(place.stem)


def _add_markdown(draft: Draft, text: str) -> None:
    """Add Markdown: headings become chapters, the first at the top the title."""
    headings = sum(_HEADING.match(line) is not None for line in text.split("\n"))
    lines: list[str] = []

    def flush() -> None:
        if body := "\n".join(lines).strip("\n"):
            draft.add(body, "writer")
        lines.clear()

    for line in text.split("\n"):
        match = _HEADING.match(line)
        if match is None:
            lines.append(line)
            continue
        begun = bool(draft.begun or "".join(lines).strip())
        flush()
        if line.startswith("# ") and not begun and headings > 1 and not draft.title:
            draft.title = _heading(match[1])
        else:
            draft.chapter(_heading(match[1]))
    flush()


def _heading(text: str) -> str:
    """A heading without the signs that close it; one of such signs alone is its first."""
    text = text.rstrip(" \t")
    return text.rstrip("#").rstrip(" \t") or text[0]


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
