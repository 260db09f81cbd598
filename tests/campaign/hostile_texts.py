"""Hostile texts, tables, manuscripts and projects for the readers of training texts."""

from __future__ import annotations

import gzip
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from corpora import TEXT
from hypothesis import strategies as st
from manuscript_files import epub, heading, inserted, page, paragraph, word, word_field

from .mutations import (
    ENTITIES,
    JUNK_DEEP,
    OUTSIDE,
    grown,
    json_files,
    mutated,
    mutated_json,
    mutated_zip,
    to_json,
    zipped,
)
from .others import documents
from .sandbox import Hostile, Target

PROSE = (TEXT * 3).encode()


def made(make: Any, ending: str) -> bytes:
    """The bytes of a file that a function writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"book{ending}"
        make(path)
        return path.read_bytes()


def read(name: str, data: bytes, folder: Path, skip: bool = False, **settings: Any) -> None:
    """Read a file as a training run does, and see that its documents can be kept."""
    path = folder / name
    path.write_bytes(data)
    read_path(path, skip, **settings)


def read_path(path: Path, skip: bool = False, **settings: Any) -> None:
    """Read a file or folder, and look at what became of it."""
    from creativewritinggpt.config.run import Config
    from creativewritinggpt.data.corpus import read_documents

    config = Config(cache_dir=str(path.parent / "cache"), num_workers=1, skip_bad_rows=skip,
                    **settings)  # fmt: skip
    for document in read_documents([str(path)], config):
        text = document.full_text() + (document.title or "")
        text.encode()
        if "root:x:0:" in text:
            raise Hostile("a file outside was read")


def _file(name: str, strategy: st.SearchStrategy[bytes]) -> st.SearchStrategy[Any]:
    return st.tuples(st.just(name), strategy, st.booleans())


def _act(case: tuple[str, bytes, bool], folder: Path) -> None:
    read(case[0], case[1], folder, case[2])


def reader(
    name: str, endings: Sequence[str], bases: Sequence[bytes], made_of: st.SearchStrategy[bytes]
) -> Target:
    """A target of files with some ending: half put together, half damaged."""
    cases = st.one_of(
        *(_file(f"a{ending}", st.one_of(mutated(bases), made_of)) for ending in endings)
    )
    return Target(name, cases, _act, _prepare)


@cache
def _prepare() -> None:
    """Import all that the readers need, so that it stands within the memory at the start."""
    import docx  # noqa: F401
    import lxml.etree  # noqa: F401
    import lxml.html  # noqa: F401
    import pypdf  # noqa: F401
    import zstandard  # noqa: F401
    from pyarrow import parquet  # noqa: F401

    import creativewritinggpt.data.corpus  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:
        for name, data in (("a.txt", PROSE), ("a.docx", WORDS[0]), ("a.epub", BOOKS[0])):
            read(name, data, Path(folder))


# --- texts and Markdown

TEXTS = [
    PROSE,
    b"CHAPTER I\n\n" + PROSE + b"\n\nCHAPTER II\n\n" + PROSE,
    ("# One\n\n" + TEXT + "\n\n* * *\n\n> quoted *word* [link](http://x.y)\n\n```\ncode\n```\n"
     "\n| a | b |\n|---|---|\n| 1 | 2 |\n\n## Two\n\n- item\n- item\n\n" + TEXT).encode(),
    TEXT.encode("utf-16"), TEXT.encode("latin-1", "replace"), gzip.compress(PROSE),
    b"<|im_start|>user\nTell.<|im_end|>\n<|im_start|>assistant\n" + PROSE + b"<|im_end|>\n",
    PROSE + b"<|endoftext|>" + PROSE,
    ("INT. HOUSE - NIGHT\n\nIDA\n(low)\nWho is there?\n\n" + TEXT).encode(),
]  # fmt: skip
_PIECES = [
    b"# ", b"\n\n", b"CHAPTER ", b"I\n", b"* * *\n", b"<|endoftext|>", b"<|im_start|>user\n",
    b"<|im_end|>", b"[INST]", b"[/INST]", b"<p>", b"</p>", b"<br>", b"&amp;", b"```\n", b"> ",
    b"- ",
    b"| a | b |\n", b"|---|---|\n", b"[x](y)", b"![x](y)", b"**", b"_", b"    ", b"1. ", b"\f",
    b"Contents\n", b"INT. X\n", b"THE END", b"---\n", b"title: x\n", b"...", b"\xe2\x80\x9c",
    b"word " * 30, b"A long line of words that goes on and on and is wrapped\n" * 4,
]  # fmt: skip

# --- tables

ROWS: list[Any] = [
    {"prompt": "Tell.", "story": TEXT}, {"text": TEXT, "title": "One"},
    {"messages": [{"role": "user", "content": "Tell."}, {"role": "assistant", "content": TEXT}]},
    {"conversations": [{"from": "human", "value": "Tell."}, {"from": "gpt", "value": TEXT}]},
    {"instruction": "Tell.", "input": "", "output": TEXT}, {"prompt": "a", "completion": TEXT},
    {"storyid": "x", "storytitle": "t", **{f"sentence{n}": TEXT for n in range(1, 6)}},
]  # fmt: skip
_LINES = [b"\n".join([to_json(row)] * 4) + b"\n" for row in ROWS]
_JSON: list[Any] = [
    *ROWS, [ROWS[0]] * 3, {"data": [ROWS[1]] * 3}, {"a": ROWS[0], "b": ROWS[0]},
    {"prompt": ["a", "b"], "story": [TEXT, TEXT]},
]  # fmt: skip


@st.composite
def _json_lines(draw: st.DrawFn) -> bytes:
    rows = draw(st.lists(st.one_of(st.sampled_from(ROWS), mutated_json(ROWS), JUNK_DEEP),
                         min_size=1, max_size=5))  # fmt: skip
    return draw(st.sampled_from((b"\n", b"\r\n", b"\n\n"))).join(map(to_json, rows))


_CSV = [
    b"prompt,story\n" + b'"Tell.","' + PROSE + b'"\n' * 1,
    b"text\n" + b'"' + PROSE + b'"\n',
    b"id;text\n1;" + PROSE + b"\n2;" + PROSE + b"\n",
    ("prompt\ttext\n" + f"Tell.\t{TEXT}\n" * 4).encode(),
    ("a,text\r\n" + f'1,"{TEXT} ""quoted"""\r\n' * 3).encode("utf-16"),
]
_CSV_PIECES = [b",", b'"', b'""', b"\n", b"\r\n", b";", b"\t", b"text", b"prompt,story\n", b"'",
               b"|", PROSE, b"1", b"=cmd()", b'"a\nb",', b"\\"]  # fmt: skip


def _parquet(path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"text": [TEXT] * 3, "n": [1, 2, 3]}), path)


def _parquet_chat(path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    talk = [[{"role": "user", "content": "Tell."}, {"role": "assistant", "content": TEXT}]] * 2
    parquet.write_table(pa.table({"messages": talk}), path, compression="zstd")


# --- manuscripts

WORDS = [
    made(lambda path: word(path, heading("One"), paragraph(TEXT), paragraph(inserted("in")),
                           paragraph(word_field("PAGE", "1")),
                           asides={"footnotes": paragraph(TEXT)}), ".docx"),
]  # fmt: skip
BOOKS = [
    made(lambda path: epub(path, {"a.xhtml": f"<h1>One</h1><p>{TEXT}</p>",
                                  "b.xhtml": f"<p>{TEXT}</p>"},
                           nav='<nav epub:type="toc"><ol><li><a href="a.xhtml">One</a></li></ol>'
                               "</nav>"), ".epub"),
    made(lambda path: epub(path, {"a.xhtml": f"<h1>One</h1><p>{TEXT}</p>"},
                           ncx='<navPoint><navLabel><text>One</text></navLabel>'
                               '<content src="a.xhtml#x"/></navPoint>'), ".epub"),
]  # fmt: skip
_ODT_XML = (
    '<?xml version="1.0"?><office:document-content '
    'xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0" '
    'xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0"><office:body><office:text>'
    '<text:h text:outline-level="1">One</text:h>'
    f'<text:p>{TEXT}<text:s text:c="3"/><text:tab/><text:span>x</text:span></text:p>'
    "<text:p><text:note><text:note-body><text:p>n</text:p></text:note-body></text:note></text:p>"
    "</office:text></office:body></office:document-content>"
).encode()
ODTS = [zipped({"mimetype": b"application/vnd.oasis.opendocument.text", "content.xml": _ODT_XML})]
FODT = [_ODT_XML.replace(b"document-content", b"document")]
HTML = [
    page(f"<h1>One</h1><p>{TEXT}</p><ul><li>x</li></ul><table><tr><td>y</td></tr></table>").encode(),
    f"<!doctype html><title>x</title><article><h2>A</h2><p>{TEXT}</p></article>".encode(),
    (b"MIME-Version: 1.0\nContent-Type: multipart/related; boundary=\"b\"\n\n--b\n"
     b"Content-Type: text/html; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n"
     b"<html><body><p>" + PROSE + b"</p></body></html>\n--b--\n"),
]  # fmt: skip
_HTML_PIECES = [
    b"<p>", b"</p>", b"<div>", b"</div>", b"<h1>", b"<table><tr><td>", b"</table>", b"<script>",
    b"</script>", b"<style>", b"<!--", b"-->", b"<![CDATA[", b"&#x110000;", b"&#xD800;", b"&nbsp;",
    b"<meta charset='utf-7'>", b"<meta charset='nothing'>", b"<br/>", b"<pre>", b"<svg>", b"<math>",
    b"<iframe src='http://192.0.2.1'>", b"<base href='//x'>", b"<?xml encoding='x'?>",
    b"<a href=#>",
    b"word " * 40, ENTITIES, OUTSIDE, b"&h;", b"<html xmlns='x:y'>", b"<plaintext>", b"<template>",
]  # fmt: skip
_RTF = [
    rb"{\rtf1\ansi\ansicpg1252{\fonttbl{\f0 Times;}}{\stylesheet{\s1 heading 1;}}"
    rb"\pard\s1 One\par\pard " + PROSE.replace(b"\n", b" ") +
    rb"\par {\*\generator x;}\u8220?\'e9{\footnote n}\bin3 abc\par}",
]  # fmt: skip
_RTF_PIECES = [
    b"{", b"}", rb"{\rtf1", rb"\par ", rb"\u8220?", rb"\u-1?", rb"\u55357?", rb"\u99999999999?",
    rb"\'e9", rb"\'zz", rb"\bin9999999999 ", rb"\bin-1 ", rb"\uc0 ", rb"\uc99999 ", rb"\ansicpg0 ",
    rb"\ansicpg65001 ", rb"\ansicpg932 ", rb"{\*\x", rb"{\fonttbl{\f0\fcharset128 x;}}", rb"\f0 ",
    rb"\f999999999999999999999 ", rb"{\pict 00", rb"{\object\objdata 00}",
                                      rb"{\field{\*\fldinst x}",
    rb"{\fldrslt y}}", rb"\trowd\cell\row", rb"\deleted ", rb"\v hidden\v0 ", b"\\", b"\\\n",
    b"w " * 50,
]  # fmt: skip
_PDF = [
    made(lambda path: documents.pdf(path, [["The lamp went out."] * 30] * 3), ".pdf"),
]
_PDF_PIECES = [
    b"%PDF-1.7\n", b"1 0 obj\n", b"endobj\n", b"<</Type/Catalog/Pages 2 0 R>>\n",
    b"<</Type/Pages/Kids[2 0 R]/Count 9>>\n", b"<</Type/Page/Parent 2 0 R/Contents 3 0 R>>\n",
    b"2 0 obj\n", b"3 0 obj\n", b"<</Length 99999999>>\n", b"stream\n", b"endstream\n", b"xref\n",
    b"0 4\n", b"0000000000 65535 f \n", b"trailer\n", b"<</Root 1 0 R/Size 4/Prev 9>>\n",
    b"startxref\n9\n%%EOF", b"BT /F1 12 Tf (x) Tj ET\n", b"<</Filter/FlateDecode/Length 5>>\n",
    b"<</Filter[/ASCIIHexDecode/LZWDecode]>>", b"[" * 500, b"<<" * 500, b"(" * 500,
]  # fmt: skip


# --- Scrivener

_BINDER = (
    '<?xml version="1.0" encoding="UTF-8"?><ScrivenerProject Version="2.0"><Binder>'
    '<BinderItem ID="0" UUID="0" Type="DraftFolder"><Title>Draft</Title><Children>{}</Children>'
    "</BinderItem></Binder></ScrivenerProject>"
)
_ITEM = (
    '<BinderItem ID="{0}" UUID="{0}" Type="Text"><Title>T{0}</Title><MetaData>'
    "<IncludeInCompile>Yes</IncludeInCompile></MetaData>{1}</BinderItem>"
)
_RTF_TEXT = rb"{\rtf1\ansi " + PROSE.replace(b"\n", b" ") + rb"\par}"


def _project(items: str, texts: dict[str, bytes]) -> dict[str, bytes]:
    found = {f"Files/Data/{name}/content.rtf": data for name, data in texts.items()}
    return {"novel.scrivx": _BINDER.format(items).encode(), **found}


_PROJECTS = [
    _project("".join(_ITEM.format(n, "") for n in "5678"), dict.fromkeys("5678", _RTF_TEXT)),
    _project(_ITEM.format("5", "<Children>" + _ITEM.format("6", "") + "</Children>"),
             {"5": b"", "6": _RTF_TEXT}),
]  # fmt: skip
_IDS = ("../../../outside", "/etc/passwd", "..", "", "x" * 300, "\x00", "5", "🦊", "a/b", "link")


@st.composite
def _scrivener(draw: st.DrawFn) -> tuple[str, Any]:
    """A project as a folder (names, contents, links) or packed."""
    members = dict(draw(st.sampled_from(_PROJECTS)))
    kind = draw(st.integers(0, 6))
    binder = members["novel.scrivx"]
    if kind == 0:
        members["novel.scrivx"] = draw(mutated([binder]))
    elif kind == 1:
        new = draw(st.sampled_from(_IDS)).encode().replace(b"\x00", b"&#1;")
        members["novel.scrivx"] = binder.replace(b'"5"', b'"' + new + b'"')
    elif kind == 2:
        depth = draw(st.sampled_from((50, 240, 3000)))
        items = ""
        for _ in range(depth):
            items = _ITEM.format("5", f"<Children>{items}</Children>") if depth < 300 else (
                f"<Children><BinderItem>{items}</BinderItem></Children>")  # fmt: skip
        members["novel.scrivx"] = _BINDER.format(items).encode()
    elif kind == 3:
        head, _, rest = binder.partition(b"?>")
        bomb = draw(st.sampled_from((ENTITIES, OUTSIDE)))
        members["novel.scrivx"] = head + b"?>" + bomb + rest.replace(b"<Title>", b"<Title>&h;")
    elif kind == 4:
        name = draw(st.sampled_from(sorted(members)))
        members[name] = draw(mutated([members[name]]))
    elif kind == 5:
        members["link"] = draw(st.sampled_from((b"/etc/passwd", b"/etc", b"..", b".", b"/dev/zero",
                                                b"Files/Data/5/content.rtf")))  # fmt: skip
        return "links", members
    else:
        count = draw(st.sampled_from((50, 2000)))
        items = "".join(_ITEM.format(n % 9, "") for n in range(count))
        members["novel.scrivx"] = _BINDER.format(items).encode()
    return draw(st.sampled_from(("folder", "zip"))), members


def _act_scrivener(case: tuple[str, dict[str, bytes]], folder: Path) -> None:
    how, members = case
    path = folder / "N.scriv"
    if how == "zip":
        path = folder / "N.zip"
        path.write_bytes(zipped({f"N.scriv/{name}": data for name, data in members.items()}))
    else:
        for name, data in members.items():
            place = path / name
            place.parent.mkdir(parents=True, exist_ok=True)
            if how == "links" and name == "link":
                for link in (place, path / "Files/Data/6/content.txt", path / "Files/Data/9"):
                    link.parent.mkdir(parents=True, exist_ok=True)
                    os.symlink(os.fsdecode(data), link)
            else:
                place.write_bytes(data)
    read_path(path)


# --- folders and names

_FOLDER_NAMES = st.sampled_from(
    ["a.txt", "b.md", "c.jsonl", "x" * 250 + ".txt", "🦊.txt", "a\nb.txt", "-n.txt", "=.txt",
     "a=b.txt", ".hidden.txt", "ÄÖ.txt", "e\u0301.txt", "con.txt", "\u202etxt.exe", "d/e/f.txt",
     "a.doc", "a.zip", "a.scriv/x", "a.txt.gz", "a.epub", "a b.csv", "\udcff.txt", "y.wp_source",
     "y.wp_target", "%s.txt", "*.txt", "~.txt", "\x1fx.txt"]
)  # fmt: skip
_FOLDERS = st.dictionaries(
    _FOLDER_NAMES, st.sampled_from([*TEXTS[:4], *_LINES[:2], b"", b"\x00" * 30]), min_size=1,
    max_size=5,
)  # fmt: skip


def _act_folder(case: dict[str, bytes], folder: Path) -> None:
    path = folder / "texts"
    for name, data in case.items():
        place = path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    os.symlink("..", path / "up")
    os.symlink("/dev/zero", path / "zero.txt")
    os.mkfifo(path / "pipe.txt")
    read_path(path)


@st.composite
def _packed(draw: st.DrawFn) -> tuple[str, bytes, bool]:
    """Compressed texts and tables: damaged, of several parts, bombs."""
    import zstandard

    data = draw(st.sampled_from([PROSE, _LINES[0], _CSV[0]]))
    inner = draw(st.sampled_from((".txt", ".jsonl", ".csv", ".docx", ".html")))
    kind = draw(st.integers(0, 3))
    ending = draw(st.sampled_from((".gz", ".zst", ".bz2", ".xz")))
    if kind == 0:
        data = data + draw(st.sampled_from((b" ", b"a", b"\n"))) * 30_000_000
    packed = {
        ".gz": lambda: gzip.compress(data, 1),
        ".zst": lambda: zstandard.compress(data),
        ".bz2": lambda: __import__("bz2").compress(data, 1),
        ".xz": lambda: __import__("lzma").compress(data, preset=0),
    }[ending]()
    if kind == 1:
        packed = draw(mutated([packed]))
    elif kind == 2:
        packed = packed * 3
    return f"a{inner}{ending}", packed, draw(st.booleans())


@st.composite
def _wrong_ending(draw: st.DrawFn) -> tuple[str, bytes, bool]:
    """A file of one kind with the name of another."""
    everything = [*TEXTS, *_LINES[:3], *_CSV, *WORDS, *BOOKS, *ODTS, *HTML, *_RTF, *_PDF]
    ending = draw(st.sampled_from(
        (".txt", ".md", ".jsonl", ".json", ".csv", ".tsv", ".parquet", ".docx", ".odt", ".fodt",
         ".epub", ".rtf", ".pdf", ".html", ".mht", ".fountain", ".scriv", ".zip", ".gz", ".doc", "",
         ".wp_source", ".tokens", ".raw")
    ))  # fmt: skip
    return f"a{ending}", draw(mutated(everything)), draw(st.booleans())


def _zipped_reader(name: str, ending: str, bases: Sequence[bytes]) -> Target:
    return Target(name, _file(f"a{ending}", mutated_zip(bases)), _act, _prepare, pace=80)


_MARKUP = grown(_HTML_PIECES)
TARGETS = (
    reader("text", (".txt", ".raw", ".fountain"), TEXTS, grown(_PIECES)),
    reader("markdown", (".md",), TEXTS, grown(_PIECES)),
    reader("jsonl", (".jsonl", ".ndjson"), _LINES, _json_lines()),
    reader("json", (".json",), [to_json(one) for one in _JSON], json_files(_JSON)),
    reader("csv", (".csv", ".tsv"), _CSV, grown(_CSV_PIECES)),
    reader("parquet", (".parquet",), [made(_parquet, ""), made(_parquet_chat, "")],
           grown([b"PAR1", b"\x15\x00", b"\x4c", PROSE])),
    _zipped_reader("docx", ".docx", WORDS),
    _zipped_reader("epub", ".epub", BOOKS),
    _zipped_reader("odt", ".odt", ODTS),
    reader("fodt", (".fodt",), FODT, grown([*_HTML_PIECES, b"<office:text>", b"<text:p>"])),
    reader("html", (".html", ".xhtml", ".mht"), HTML, _MARKUP),
    reader("rtf", (".rtf",), _RTF, st.builds(bytes.__add__, st.just(rb"{\rtf1 "),
                                             grown(_RTF_PIECES))),
    reader("pdf", (".pdf",), _PDF, st.builds(bytes.__add__, st.just(b"%PDF-1.4\n"),
                                             grown(_PDF_PIECES))),
    Target("scrivener", _scrivener(), _act_scrivener, _prepare, pace=80),
    Target("folder", _FOLDERS, _act_folder, _prepare, pace=40),
    Target("packed", _packed(), _act, _prepare, pace=40),
    Target("wrong-ending", _wrong_ending(), _act, _prepare),
)  # fmt: skip


def many_members(count: int = 100_000) -> bytes:
    """An e-book with very many members."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(BOOKS[0])) as base, zipfile.ZipFile(stream, "w") as archive:
        for name in base.namelist():
            archive.writestr(name, base.read(name))
        for number in range(count):
            archive.writestr(f"OEBPS/{number}", b"")
    return stream.getvalue()


def json_text(value: Any) -> str:
    """A value as JSON in one line."""
    return json.dumps(value)
