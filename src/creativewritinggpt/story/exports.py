"""Export of a story as a manuscript: text, Markdown, HTML, Word, EPUB, or its JSON.

A line of the story becomes a paragraph, a chapter heading a heading. Memory, note and lore are
exported in the JSON only.

Trade-off: all formats but Word are written here, so that only Word needs a library.
"""

from __future__ import annotations

import datetime
import os
import re
import uuid
import zipfile
from collections.abc import Callable
from html import escape
from pathlib import Path

from ..errors import InputError
from ..files import atomic_file, from_home, write_text
from .file import dump
from .imports import clean
from .tree import Story

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
