from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

from creativewritinggpt.config.run import Config
from creativewritinggpt.data.corpus import load_corpus
from creativewritinggpt.data.readers.manuscripts import read_manuscript
from creativewritinggpt.errors import InputError

CONTAINER = (
    '<?xml version="1.0"?><container xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
    '<rootfiles><rootfile full-path="OEBPS/book.opf"/></rootfiles></container>'
)
LONG = "Nobody in the town would say whose boat it was, and nobody went down to look at it."


def epub(path: Path, pages: dict[str, str], nav: str = "") -> Path:
    items = "".join(
        f'<item id="p{i}" href="{name}" media-type="application/xhtml+xml"/>'
        for i, name in enumerate(pages)
    )
    spine = "".join(f'<itemref idref="p{i}"/>' for i in range(len(pages)))
    if nav:
        items += '<item id="nav" href="nav.xhtml" properties="nav"/>'
        spine = f'<itemref idref="nav"/>{spine}'
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("META-INF/container.xml", CONTAINER)
        archive.writestr(
            "OEBPS/book.opf",
            f'<package xmlns="http://www.idpf.org/2007/opf"><manifest>{items}</manifest>'
            f"<spine>{spine}</spine></package>",
        )
        for name, body in {**pages, **({"nav.xhtml": nav} if nav else {})}.items():
            archive.writestr(
                f"OEBPS/{name}",
                f"<?xml version='1.0' encoding='utf-8'?><html xmlns='http://www.w3.org/1999/xhtml'>"
                f"<head><title>t</title></head><body>{body}</body></html>",
            )
    return path


def test_an_epub_is_its_chapters(tmp_path: Path) -> None:
    pytest.importorskip("lxml")
    pages = {
        "title.xhtml": "<h1>The Harbour</h1><p>by A. Writer</p>",
        "1.xhtml": f"<h2>One</h2><div><p>It <i>came</i>\n home &#8212; late. {LONG}</p></div>",
        "2.xhtml": "<h2>Two</h2><p>A poem<br/>of sea.</p><hr/><blockquote>So.</blockquote>",
        "ack.xhtml": "<h2>Acknowledgements</h2><p>Thanks to all.</p>",
    }
    book = read_manuscript(epub(tmp_path / "a.epub", pages, nav="<nav><ol><li>One</li></ol></nav>"))
    assert [(c.title, c.text) for c in book.chapters] == [
        ("The Harbour, One", f"It came home — late. {LONG}"),
        ("The Harbour, Two", "A poem\nof sea.\n\n* * *\n\nSo."),
    ]
    assert set(book.left_out) == {"front matter", "table of contents", "front and back matter"}


def test_an_epub_without_headings_is_its_pages(tmp_path: Path) -> None:
    pytest.importorskip("lxml")
    pages = {"cover.xhtml": "<p>Cover</p>"}
    pages |= {f"{i}.xhtml": f"<p>{'word ' * 60}{i}.</p>" for i in range(3)}
    book = read_manuscript(epub(tmp_path / "a.epub", pages))
    assert len(book.chapters) == 3 and book.left_out == {"front matter": 5}


def word_file(path: Path, paragraphs: list[tuple[str, str]]) -> Path:
    docx: Any = pytest.importorskip("docx")
    document = docx.Document()
    for style, text in paragraphs:
        document.add_paragraph(text, style=style or None)
    document.save(str(path))
    return path


def test_a_word_file_is_cut_at_its_heading_styles(tmp_path: Path) -> None:
    path = word_file(
        tmp_path / "a.docx",
        [("Title", "The Harbour"), ("Heading 1", "One"), ("", "It came."), ("", "# # #")]
        + [("", "It went."), ("Heading 1", "Two"), ("", "Nobody spoke.")],
    )
    assert [(c.title, c.text) for c in read_manuscript(path).chapters] == [
        ("One", "It came.\n\n* * *\n\nIt went."),
        ("Two", "Nobody spoke."),
    ]


def test_a_word_file_with_plain_chapter_lines_is_read_like_a_text(tmp_path: Path) -> None:
    story = "The harbour lay still and nobody in the town would say whose boat had come back. " * 3
    paragraphs = [("", text) for i in (1, 2, 3) for text in (f"Chapter {i}", story, story)]
    book = read_manuscript(word_file(tmp_path / "a.docx", paragraphs))
    assert [chapter.title for chapter in book.chapters] == ["Chapter 1", "Chapter 2", "Chapter 3"]
    path = word_file(tmp_path / "b.docx", paragraphs)
    report = load_corpus(Config(), [str(path)]).reports["b"]
    assert report.form == "Word file in 3 chapters"


@pytest.mark.parametrize("ending", [".docx", ".epub"])
@pytest.mark.parametrize("content", [b"not a zip\0", b"PK\x03\x04 cut off"])
def test_broken_manuscripts_are_one_clear_line(tmp_path: Path, ending: str, content: bytes) -> None:
    pytest.importorskip("docx")
    path = tmp_path / f"a{ending}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"a\{ending} is not a whole \{ending} file"):
        load_corpus(Config(), [str(path)])
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other.txt", "x")
    with pytest.raises(InputError, match="is not a whole"):
        load_corpus(Config(), [str(path)])


def test_without_the_extra_the_way_to_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    word_file(tmp_path / "a.docx", [("", "It came.")])
    monkeypatch.setitem(sys.modules, "lxml", None)
    with pytest.raises(InputError, match="needs the extra 'documents'"):
        load_corpus(Config(), [str(tmp_path / "a.docx")])
