"""Word files and e-books made by hand, as other programs write them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
STRICT = "http://purl.oclc.org/ooxml/wordprocessingml/main"
_RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_NAMES = (
    'xmlns:w="{main}" xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006" '
    'xmlns:wps="http://schemas.microsoft.com/office/word/2010/wordprocessingShape" '
    'xmlns:v="urn:schemas-microsoft-com:vml" '
    'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"'
)
STYLES = (
    '<w:style w:styleId="berschrift1"><w:name w:val="heading 1"/></w:style>'
    '<w:style w:styleId="Kopf"><w:name w:val="Kapitelkopf"/><w:basedOn w:val="Oben"/></w:style>'
    '<w:style w:styleId="Oben"><w:name w:val="Oben"/>'
    '<w:pPr><w:outlineLvl w:val="0"/></w:pPr></w:style>'
    '<w:style w:styleId="Gezaehlt"><w:name w:val="Gezaehlt"/>'
    '<w:pPr><w:numPr/><w:outlineLvl w:val="0"/></w:pPr></w:style>'
    '<w:style w:styleId="Titel"><w:name w:val="Title"/></w:style>'
    '<w:style w:styleId="Verzeichnis1"><w:name w:val="toc 1"/></w:style>'
)


def run(text: str, properties: str = "") -> str:
    """A run of text."""
    return f'<w:r><w:rPr>{properties}</w:rPr><w:t xml:space="preserve">{text}</w:t></w:r>'


def paragraph(*content: str, properties: str = "") -> str:
    """A paragraph of XML, or of texts that become runs."""
    runs = "".join(part if part.startswith("<") else run(part) for part in content)
    return f"<w:p><w:pPr>{properties}</w:pPr>{runs}</w:p>"


def heading(text: str, style: str = "berschrift1") -> str:
    """A heading by its style."""
    return paragraph(*[text] * bool(text), properties=f'<w:pStyle w:val="{style}"/>')


def inserted(*content: str) -> str:
    """A tracked insertion."""
    return f'<w:ins w:id="1">{"".join(map(run, content))}</w:ins>'


def deleted(text: str) -> str:
    """A tracked deletion."""
    return f'<w:del w:id="1"><w:r><w:delText xml:space="preserve">{text}</w:delText></w:r></w:del>'


def word_field(instruction: str, result: str) -> str:
    """A field with its result."""
    marks = {kind: f'<w:r><w:fldChar w:fldCharType="{kind}"/></w:r>' for kind in _FIELD}
    code = f"<w:r><w:instrText>{instruction}</w:instrText></w:r>"
    return f"{marks['begin']}{code}{marks['separate']}{result}{marks['end']}"


_FIELD = ("begin", "separate", "end")


def word(path: Path, *body: str, asides: Mapping[str, str] | None = None, main: str = WORD) -> Path:
    """A Word file with these blocks; ``asides`` are further parts by their kind."""
    names = _NAMES.format(main=main)
    asides = asides or {}
    with zipfile.ZipFile(path, "w") as archive:
        relation = f'<Relationship Type="{_RELATIONS}/officeDocument" Target="word/document.xml"/>'
        archive.writestr("_rels/.rels", f"<Relationships>{relation}</Relationships>")
        relations = "".join(
            f'<Relationship Type="{_RELATIONS}/{kind}" Target="{kind}.xml"/>'
            for kind in ("styles", *asides)
        )
        archive.writestr(
            "word/_rels/document.xml.rels", f"<Relationships>{relations}</Relationships>"
        )
        archive.writestr("word/styles.xml", f"<w:styles {names}>{STYLES}</w:styles>")
        archive.writestr(
            "word/document.xml",
            f"<w:document {names}><w:body>{''.join(body)}</w:body></w:document>",
        )
        for kind, content in asides.items():
            archive.writestr(f"word/{kind}.xml", f"<w:aside {names}>{content}</w:aside>")
    return path


CONTAINER = (
    '<?xml version="1.0"?><container xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
    '<rootfiles><rootfile full-path="OEBPS/book.opf"/></rootfiles></container>'
)


def page(body: str) -> str:
    """A page of XHTML."""
    return (
        '<?xml version="1.0" encoding="utf-8"?><html xmlns="http://www.w3.org/1999/xhtml" '
        'xmlns:epub="http://www.idpf.org/2007/ops"><head><title>HEAD</title>'
        f"<style>p {{}}</style></head><body>{body}</body></html>"
    )


def epub(
    path: Path,
    pages: Mapping[str, str | bytes],
    *,
    nav: str = "",
    ncx: str = "",
    beside: str = "",
    files: Mapping[str, str] | None = None,
) -> Path:
    """An e-book with these pages by name.

    Args:
        path: The file.
        pages: Bodies, or whole pages as bytes.
        nav: The body of the page of contents (EPUB 3).
        ncx: The ``navPoint`` elements of the contents (EPUB 2).
        beside: The page that is no part of the reading order.
        files: Further members by name.
    """
    kind = 'media-type="application/xhtml+xml"'
    items = "".join(
        f'<item id="p{i}" href="{quote(name)}" {kind}/>' for i, name in enumerate(pages)
    )
    spine = "".join(
        f'<itemref idref="p{i}"{" linear=" + chr(34) + "no" + chr(34) if name == beside else ""}/>'
        for i, name in enumerate(pages)
    )
    if nav:
        items += f'<item id="nav" href="nav.xhtml" properties="nav" {kind}/>'
        spine = f'<itemref idref="nav"/>{spine}'
    if ncx:
        items += '<item id="ncx" href="toc.ncx" media-type="application/x-dtbncx+xml"/>'
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("META-INF/container.xml", CONTAINER)
        archive.writestr(
            "OEBPS/book.opf",
            '<package xmlns="http://www.idpf.org/2007/opf">'
            '<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>The Harbour</dc:title>'
            "<dc:creator>A. Writer</dc:creator></metadata>"
            f"<manifest>{items}</manifest><spine>{spine}</spine></package>",
        )
        for name, body in pages.items():
            content = body if isinstance(body, bytes) else page(body)
            archive.writestr(f"OEBPS/{name}", content)
        if nav:
            archive.writestr("OEBPS/nav.xhtml", page(nav))
        if ncx:
            archive.writestr(
                "OEBPS/toc.ncx",
                f'<ncx xmlns="http://www.daisy.org/z3986/2005/ncx/"><navMap>{ncx}</navMap></ncx>',
            )
        for name, text in (files or {}).items():
            archive.writestr(name, text)
    return path
