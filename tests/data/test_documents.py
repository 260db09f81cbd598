"""Web pages, RTF, OpenDocument, PDF, screenplays, Scrivener, packed files, markup in texts."""

from __future__ import annotations

import gzip
import json
import zipfile
import zlib
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from creativewritinggpt.config.run import Config
from creativewritinggpt.data.corpus import load_corpus, read_documents
from creativewritinggpt.data.document import FileReport, characters
from creativewritinggpt.data.readers import TextFile, read_texts
from creativewritinggpt.data.readers.markup import plain_text
from creativewritinggpt.data.readers.recognise import ending_of
from creativewritinggpt.errors import InputError

pytest.importorskip("lxml")

LINES = (
    "The ferry came in at dusk and nobody stood on the pier to catch its rope.",
    "Marta had waited since noon with a basket of pears and a letter in her coat.",
    "“You are late,” she said, and the captain, who was never late, took off his cap.",
)
Paragraphs = Sequence[tuple[int, str]]
"""Level of a heading or 0, and text."""

NOVEL: Paragraphs = (
    (1, "The Pier"), (0, LINES[0]), (0, LINES[1]), (1, "The Letter"), (0, LINES[2]), (0, LINES[0]),
)  # fmt: skip


def rtf(paragraphs: Paragraphs) -> bytes:
    def code(text: str) -> str:
        units = text.encode("utf-16-le")
        numbers = (int.from_bytes(units[i : i + 2], "little") for i in range(0, len(units), 2))
        made = []
        for number in numbers:
            if 32 <= number < 127 and chr(number) not in "\\{}":
                made.append(chr(number))
            else:
                made.append(f"\\u{number - 65536 if number > 32767 else number}?")
        return "".join(made)

    body = "".join(
        (rf"\pard\s{level}\outlinelevel{level - 1} " if level else r"\pard\plain ")
        + code(text) + "\\par\n"
        for level, text in paragraphs
    )  # fmt: skip
    fonts = r"{\fonttbl{\f0\fcharset0 Serif;}}{\stylesheet{Normal;}{\s1 heading 1;}}"
    return (r"{\rtf1\ansi\ansicpg1252" + fonts + body + "}").encode("ascii")


_NAMESPACES = " ".join(
    f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{kind}:1.0"'
    for name, kind in (("office", "office"), ("text", "text"), ("draw", "drawing"))
)


def odt(path: Path, paragraphs: Paragraphs, more: str = "") -> Path:
    body = "".join(
        f'<text:h text:outline-level="{level}">{escape(text)}</text:h>'
        if level
        else f"<text:p>{escape(text)}</text:p>"
        for level, text in paragraphs
    )
    inner = f"<office:body><office:text>{more}{body}</office:text></office:body>"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.text")
        archive.writestr(
            "content.xml",
            f"<office:document-content {_NAMESPACES}>{inner}</office:document-content>",
        )
    return path


def page(paragraphs: Paragraphs, around: str = "") -> str:
    body = "".join(
        f"<h{level}>{escape(text)}</h{level}>" if level else f"<p>{escape(text)}</p>\n"
        for level, text in paragraphs
    )
    return f"<!DOCTYPE html><html><head><title>t</title></head><body>{around}{body}</body></html>"


def pdf(path: Path, pages: Sequence[Sequence[str]]) -> Path:
    """A PDF with the lines of each page in a standard font."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", ""]
    kids = []
    font = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"
    objects.append(font)
    for lines in pages:
        shown = "".join(
            f"({line.translate({40: '[', 41: ']', 92: '/'})}) Tj T*\n" for line in lines
        )
        stream = f"BT /F1 11 Tf 14 TL 72 760 Td\n{shown}ET"
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
        kids.append(len(objects) + 1)
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents {len(objects)} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
    objects[1] = (
        f"<< /Type /Pages /Count {len(kids)} /Kids [{' '.join(f'{k} 0 R' for k in kids)}] >>"
    )
    data, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(data))
        data += f"{number} 0 obj\n{content}\nendobj\n".encode("cp1252")
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    data += (
        f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer\n"
        f"<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(data)}\n%%EOF\n"
    ).encode()
    path.write_bytes(data)
    return path


def scrivener(folder: Path, items: str, texts: dict[str, bytes], version: int = 3) -> Path:
    folder.mkdir()
    draft = f'<BinderItem ID="0" UUID="D" Type="DraftFolder"><Title>D</Title><Children>{items}'
    binder = (
        f"<ScrivenerProject><Binder>{draft}</Children></BinderItem></Binder></ScrivenerProject>"
    )
    (folder / "novel.scrivx").write_text(binder)
    for key, content in texts.items():
        name = f"Files/Data/{key}/content.rtf" if version == 3 else f"Files/Docs/{key}.rtf"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def item(key: str, title: str, included: bool = True, below: str = "", kind: str = "Text") -> str:
    yes = "Yes" if included else "No"
    return (
        f'<BinderItem UUID="{key}" ID="{key}" Type="{kind}"><Title>{title}</Title><MetaData>'
        f"<IncludeInCompile>{yes}</IncludeInCompile></MetaData><Children>{below}</Children>"
        "</BinderItem>"
    )


def report(path: Path) -> FileReport:
    """What became of the characters of one file."""
    corpus = load_corpus(Config(), [str(path)])
    (source,) = corpus.reports.values()
    (file,) = source.files.values()
    return file


def texts(read: TextFile) -> list[str]:
    return [text for _, text in read.texts]


WRITERS: dict[str, Callable[[Path, Paragraphs], object]] = {
    "a.rtf": lambda path, novel: path.write_bytes(rtf(novel)),
    "a.odt": odt,
    "a.html": lambda path, novel: path.write_text(page(novel), "utf-8"),
    "page.txt": lambda path, novel: path.write_text(page(novel), "utf-8"),
    "rtf.txt": lambda path, novel: path.write_bytes(rtf(novel)),
    "odt.txt": odt,
    "a.rtf.gz": lambda path, novel: path.write_bytes(gzip.compress(rtf(novel))),
    "a.odt.gz": lambda path, novel: path.write_bytes(
        gzip.compress(odt(path.with_suffix(""), novel).read_bytes())
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_chapters_are_read_by_headings_whatever_the_form(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name, NOVEL)
    read = read_texts(tmp_path / name)
    assert read.texts == [
        ("The Pier", f"{LINES[0]}\n\n{LINES[1]}"),
        ("The Letter", f"{LINES[2]}\n\n{LINES[0]}"),
    ]
    assert ("by its content, not .txt" in read.form) == name.endswith(".txt")


LETTERS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cf", "Zl", "Zp", "Mn", "Co")),
    min_size=1,
    max_size=60,
)


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from((0, 0, 0, 1)), LETTERS), min_size=1, max_size=8))
@pytest.mark.parametrize("name", ["a.rtf", "a.odt", "a.html"])
def test_no_character_is_lost_without_a_count(
    tmp_path: Path, name: str, paragraphs: Paragraphs
) -> None:
    path = tmp_path / name
    WRITERS[name](path, paragraphs)
    try:
        documents = read_documents([str(path)], Config())
    except InputError:  # nothing but spaces
        return
    (source,) = [read_report(path)]
    kept = sum(characters(d.text) + characters(d.title or "") for d in documents)
    # Marks of emphasis and what cleaning mends are the only other differences.
    lost = source.characters - kept - source.left_out.total()
    marks = sum(text.count("_") + text.count("\ufffd") for _, text in paragraphs)
    breaks = 3 * sum(len(text) < 42 for _, text in paragraphs)
    assert -breaks <= lost <= marks + breaks + sum("�" in t for _, t in paragraphs)


def read_report(path: Path) -> FileReport:
    from creativewritinggpt.data.document import Reading, SourceReport
    from creativewritinggpt.data.readers import book_documents

    reading = Reading(SourceReport("x"))
    reading.begin("x")
    list(book_documents(path, "x", "x", reading))
    return reading.file


def test_rtf_leaves_out_and_counts_what_is_no_text(tmp_path: Path) -> None:
    content = rb"""{\rtf1\ansi\ansicpg1252
{\fonttbl{\f0\fcharset0 A;}{\f1\fcharset204 B;}{\f2\fcharset128 C;}}
{\info{\title INFO}}{\header HEAD\par}{\*\generator X;}{\*\unknown STARRED}
\pard She left{\deleted DELETED}, caf\'e9 \u-10179?\u-8704? and{\footnote NOTE} went.{\v HIDDEN}\par
\f1\'cf\'e8\'f0\f0  and \f2\'93\'fa\'96\'7b\f0  \ldblquote so\rdblquote\line next.\par
{\field{\*\fldinst{HYPERLINK "x"}}{\fldrslt a link}} {\field{\*\fldinst PAGE}{\fldrslt 7}}stays.\par
{\shp{\*\shpinst{\sp{\sn n}{\sv v}}{\shptxt BOX\par}}{\shprslt OLD}}{\pict 8950}
{\annotation COMMENT}
It ended here.\
On a Mac too.\par}junk"""
    path = tmp_path / "a.rtf"
    path.write_bytes(content)
    (text,) = texts(read_texts(path))
    assert text.split("\n\n") == [
        "She left, café 😀 and went.", "Пир and 日本 “so”\nnext.", "a link stays.",
        "It ended here.", "BOX", "On a Mac too.",
    ]  # fmt: skip
    left = read_report(path).left_out
    assert left == {
        "deleted text": 7, "footnotes and endnotes": 4, "hidden text": 6, "comments": 7,
        "page headers and footers": 4, "page numbers": 1,
    }  # fmt: skip


def test_open_document_leaves_out_and_counts_what_is_no_text(tmp_path: Path) -> None:
    more = (
        "<text:tracked-changes><text:changed-region><text:deletion><text:p>DELETED</text:p>"
        "</text:deletion></text:changed-region></text:tracked-changes>"
        "<text:table-of-content><text:p>CONTENTS</text:p></text:table-of-content>"
        "<text:p>She<text:s text:c='2'/>left<text:note><text:note-citation>1</text:note-citation>"
        "<text:note-body><text:p>NOTE</text:p></text:note-body></text:note>.<text:line-break/>It"
        " rained.<draw:frame><draw:text-box><text:p>BOX</text:p></draw:text-box></draw:frame>"
        "<office:annotation><text:p>COMMENT</text:p></office:annotation></text:p>"
    )
    path = odt(tmp_path / "a.odt", ((0, LINES[0]),), more)
    (text,) = texts(read_texts(path))
    assert text == f"She left.\nIt rained.\n\nBOX\n\n{LINES[0]}"
    assert read_report(path).left_out == {
        "deleted text": 7, "table of contents": 8, "footnotes and endnotes": 5, "comments": 7,
    }  # fmt: skip


def test_the_archive_of_our_own_gives_the_story_alone(tmp_path: Path) -> None:
    def quoted(label: str, text: str) -> str:
        return f"<p>{label}</p><blockquote class='userstuff'><p>{text}</p></blockquote>"

    content = (
        "<html><body><div id='preface'><p>Posted originally on the <a href='http://"
        "archiveofourown.org/'>Archive of Our Own</a></p><h1>Pears</h1>"
        f"{quoted('Summary', 'SUMMARY')}{quoted('Notes', 'BEFORE')}</div><div id='chapters'>"
        f"<div class='meta group'><h2>Chapter 1: Pier</h2>{quoted('Chapter Notes', 'NOW')}</div>"
        f"<div class='userstuff'><p>{LINES[0]}</p><hr/><p>One<br/>two</p></div>"
        f"<div class='meta group'><h2>Chapter 2: Coat</h2></div><div class='userstuff'>"
        f"<p>{LINES[1]}</p><blockquote><p>Dear Marta.</p></blockquote></div></div>"
        f"<div id='afterword'>{quoted('End Notes', 'AFTER')}</div></body></html>"
    )
    (tmp_path / "a.html").write_text(content, "utf-8")
    assert read_texts(tmp_path / "a.html").texts == [
        ("Chapter 1: Pier", f"{LINES[0]}\n\n* * *\n\nOne\ntwo"),
        ("Chapter 2: Coat", f"{LINES[1]}\n\nDear Marta."),
    ]
    left = read_report(tmp_path / "a.html").left_out
    assert {"summaries", "author's notes", "author's end notes", "front matter"} == set(left)


def test_what_stands_around_a_page_is_left_out_and_counted(tmp_path: Path) -> None:
    around = "<header>SITE</header><nav>NAV</nav><script>SCRIPT</script><footer>FOOT</footer>"
    (tmp_path / "a.htm").write_text(page(NOVEL, around), "utf-8")
    assert len(read_texts(tmp_path / "a.htm").texts) == 2
    assert read_report(tmp_path / "a.htm").left_out == {"navigation, headers and footers": 11}
    archive = f"MIME-Version: 1.0\nContent-Type: text/html; charset=utf-8\n\n{page(NOVEL)}"
    (tmp_path / "a.mht").write_text(archive, "utf-8")
    assert len(read_texts(tmp_path / "a.mht").texts) == 2
    (tmp_path / "deep.html").write_text("<div>" * 9000 + "x" + "</div>" * 9000)
    with pytest.raises(InputError, match="nested"):
        read_texts(tmp_path / "deep.html")


def test_a_pdf_is_read_without_heads_numbers_and_divided_words(tmp_path: Path) -> None:
    pytest.importorskip("pypdf")
    body = [
        "The ferry came in at dusk and nobody stood on the pier to catch its rope, as al-",
        "ways in autumn. Marta had waited since noon with a basket of ripe pears and a let-",
        "ter in her coat.",
        "The captain, who was never late, took off his cap and looked at the well-known wa-",
    ]
    names = ["Ada", "Ben", "Cid", "Dora", "Eve", "Finn"]
    pages = [
        ["A STORY OF PEARS", *(line.replace("The", f"{name}, the", 1) for line in body),
         f"ter below them, {name}.", str(n)]
        for n, name in enumerate(names, 1)
    ]  # fmt: skip
    path = pdf(tmp_path / "a.pdf", [["Chapter 1", *pages[0]], *pages[1:]])
    read = read_texts(path)
    whole = "\n\n".join(texts(read))
    assert "as always in autumn." in whole and "a letter in her coat.\n\nAda, the captain" in whole
    assert "well-known water below" in whole and "STORY" not in whole
    assert any("second best" in note for note in read.notes)
    left = read_report(path).left_out
    assert left["running heads and feet"] == 5 * 13 and left["hyphens at line ends"] == 18
    empty = pdf(tmp_path / "scan.pdf", [[], []])
    with pytest.raises(InputError, match="pictures, or empty"):
        read_texts(empty)


def test_a_screenplay_is_read_without_notes_and_marks(tmp_path: Path) -> None:
    (tmp_path / "a.fountain").write_text(
        "Title: Pears\nAuthor: M\n\n# One\n\n= SYNOPSIS\n\nEXT. PIER #3#\n\nThe *ferry* comes."
        " [[NOTE]]\n\nMARTA ^\n(quietly)\nLate.\n\n/* CUT\n\nOUT */\n\n# Two\n\n.INSIDE\n\n!A CAP"
        "\n\n> FADE OUT\n"
    )
    assert read_texts(tmp_path / "a.fountain").texts == [
        ("One", "EXT. PIER\n\nThe ferry comes.\n\nMARTA\n(quietly)\nLate."),
        ("Two", "INSIDE\n\nA CAP\n\nFADE OUT"),
    ]
    left = read_report(tmp_path / "a.fountain").left_out
    assert left["notes ([[ ]])"] == 8 and left["commented out (/* */)"] == 10
    assert left["synopses (=)"] == 9


@pytest.mark.parametrize("version", [2, 3])
def test_a_scrivener_project_gives_the_draft_in_the_binders_order(
    tmp_path: Path, version: int
) -> None:
    keys = ["10", "2", "31", "4", "9"]
    contents = {key: rtf(((0, f"{key} {LINES[i % 3]}"),)) for i, key in enumerate(keys)}
    items = item("70", "Pier", kind="Folder", below=item("10", "a") + item("2", "b"))
    items += item("71", "Coat", kind="Folder", below=item("31", "c") + item("4", "OUT", False))
    path = scrivener(tmp_path / "N.scriv", items, contents, version)
    aside = path / ("Files/Data/10/synopsis.txt" if version == 3 else "Files/Docs/10_synopsis.txt")
    aside.write_text("SYNOPSIS")
    wanted = [
        ("Pier", f"10 {LINES[0]}\n\n* * *\n\n2 {LINES[1]}"),
        ("Coat", f"31 {LINES[2]}"),
    ]
    assert read_texts(path).texts == wanted
    left = read_report(path).left_out
    assert left["not included in compiling"] == 3 + characters(f"4 {LINES[0]}")
    assert left["titles of scenes"] == 3
    with zipfile.ZipFile(tmp_path / "N.zip", "w") as archive:
        for file in path.rglob("*"):
            archive.write(file, f"N.scriv/{file.relative_to(path).as_posix()}")
    assert read_texts(tmp_path / "N.zip").texts == wanted
    # In a folder of other files it is one file.
    (tmp_path / "other.txt").write_text(" ".join(LINES * 3))
    (tmp_path / "N.zip").unlink()
    files = load_corpus(Config(), [str(tmp_path)]).reports[tmp_path.name].files
    assert set(files) == {"N.scriv", "other.txt"}


def test_a_key_of_the_binder_does_not_lead_out_of_the_project(tmp_path: Path) -> None:
    (tmp_path / "content.rtf").write_bytes(rtf(((0, "SECRET"),)))
    items = item("../../..", "a") + item("5", "b")
    path = scrivener(tmp_path / "N.scriv", items, {"5": rtf(((0, LINES[0]),))})
    assert "SECRET" not in "".join(texts(read_texts(path)))


UNTOUCHED = [
    "If x < y and y > z, she said, then <sigh> we lose.",
    "He typed <br> into the page.",
    "AT&T and R&D; Tom & Jerry; a [b] and a [c].",
    "I <3 you. {curly} and \\par is a word.",
    "<thinking>Who?</thinking> and <Odile> spoke.",
    "data: none; base64 is a word.",
]
MARKED = [
    ("<p>1 &amp; 2.</p><p>Three<br>four&nbsp;x < y.</p>", "1 & 2.\n\nThree\nfour x < y.", "HTML"),
    ("I <em>said</em> no.\n\nNext <3.", "I said no.\n\nNext <3.", "HTML"),
    ("One.<br />Two.\n\nThree.", "One.\nTwo.\n\nThree.", "HTML"),
    ("Tom &amp; Jerry &#8220;x&#8221;", "Tom & Jerry “x”", "HTML"),
    ("&lt;p&gt;Twice&lt;/p&gt;", "Twice", "HTML"),
    ("[b]Bold[/b] [url=http://a.b]link[/url][img]http://p[/img]", "Bold link", "BBCode"),
    ("{\\rtf1\\ansi Caf\\'e9\\par two}", "Café\n\ntwo", "RTF"),
    ("A ![x](data:image/png;base64,iVBORw0KGgoAAAANSUhEUg==) b", "A  b", "encoded data"),
]  # fmt: skip


@pytest.mark.parametrize("text", UNTOUCHED)
def test_a_text_without_markup_comes_back_as_it_is(text: str) -> None:
    assert plain_text(text) == (text, "", {})


@pytest.mark.parametrize(("text", "plain", "what"), MARKED)
def test_markup_is_turned_into_text(text: str, plain: str, what: str) -> None:
    made = plain_text(text)
    assert (made.text, made.what) == (plain, what)


@settings(deadline=None, max_examples=100)
@given(st.text(st.sampled_from("ab <>&;/[]{}p=\"'\n.!"), max_size=60))
def test_odd_signs_lose_no_letters(text: str) -> None:
    made = plain_text(text)
    if not made.what:
        assert made.text == text


def test_markup_in_rows_is_said(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"<b>Why {i}</b>?", "text": f"<p>{LINES[i % 3]} {i * 7919}</p>"}
        for i in range(40)
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = load_corpus(Config(), [str(path)])
    assert not any("<" in document.full_text() for document in (*corpus.train, *corpus.validation))
    (source,) = corpus.reports.values()
    assert "HTML in rows was turned into text" in source.notes
    assert source.files["a.jsonl"].share == 1


def test_packed_rows_and_texts_are_read_and_bombs_are_refused(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    rows = "".join(json.dumps({"text": f"{LINES[i % 3]} {i * 7919} {i}"}) + "\n" for i in range(90))
    plain = tmp_path / "a.jsonl"
    plain.write_text(rows)
    wanted = [d.text for d in read_documents([str(plain)], Config())]
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    (tmp_path / "c.jsonl.zst").write_bytes(zstandard.compress(rows.encode()))
    (tmp_path / "d.txt").write_bytes(gzip.compress(rows.encode()))  # two names that mislead
    for name in ("b.jsonl.gz", "c.jsonl.zst", "d.txt"):
        found = read_documents([str(tmp_path / name)], Config())
        assert [d.text for d in found] == wanted and found[0].source == name[0]
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(rows.encode())[:-40])
    with pytest.raises(InputError, match=r"cut\.jsonl\.gz can't be unpacked"):
        read_documents([str(tmp_path / "cut.jsonl.gz")], Config())
    packer = zlib.compressobj(wbits=31)
    bomb = b"".join(packer.compress(b" " * 1_000_000) for _ in range(60)) + packer.flush()
    (tmp_path / "bomb.txt.gz").write_bytes(bomb)
    with pytest.raises(InputError, match="unpacks to over 200 times its size"):
        read_texts(tmp_path / "bomb.txt.gz")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "Word file of before 2007"),
        ("a.pages", b"words", "Pages"),
        ("a.mobi", b"\0" * 60 + b"BOOKMOBI", "Kindle"),
        ("a.azw3", b"\0" * 60 + b"BOOKMOBI", "Kindle"),
        ("a.fdx", b"<?xml version='1.0'?><FinalDraft>", "Final Draft"),
        ("a.txt", b"<?xml version='1.0'?><FictionBook>", "FictionBook"),
        ("a.txt", b"\xff\xd8\xff\xe0\0\0", "a picture"),
        ("a.txt", b"\\documentclass{book}", "LaTeX"),
        ("a.txt", b"7z\xbc\xaf\x27\x1c", "7-Zip"),
        ("a.xyz", b"words", "the ending '.xyz'"),
        ("a.pdf", b"%PDF-1.4 nothing", "can't be read as a PDF"),
        ("a.odt", b"PK\x03\x04 cut", "is not a whole .odt file"),
        ("a.rtf", b"{\\rtf1 }", "holds no text"),
        ("a.html", b"<html><body></body></html>", "holds no text"),
    ],
)
def test_other_files_are_refused_by_name_with_a_way_out(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        read_texts(tmp_path / name)
    assert raised.value.advice


def test_a_protected_or_empty_open_document_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.odt", "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.text")
        archive.writestr("META-INF/manifest.xml", "<m><encryption-data/></m>")
        archive.writestr("content.xml", "<x/>")
    with pytest.raises(InputError, match="protected by a password"):
        read_texts(tmp_path / "a.odt")
    (tmp_path / "table.txt").write_text('{"text": "one"}\n{"text": "two"}\n')
    assert ending_of(tmp_path / "table.txt") == ".jsonl"
