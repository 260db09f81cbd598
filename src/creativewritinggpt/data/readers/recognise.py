"""What a file is, by its first bytes before the ending of its name.

A Word file named ``.txt`` is read as a Word file, a web page as a web page; what can't be read is
refused by name, with the way out.
"""

from __future__ import annotations

import functools
import json
import re
import zipfile
from pathlib import Path

from ...errors import InputError
from .. import text as encoding
from ..unpacking import PACKED, open_bytes
from .markup import PAGE, has_html

TEXTS = (".txt", ".text", ".md", ".markdown", ".raw", ".tokens", ".wp_source", ".fountain")
TABLES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
PAGES = (".html", ".htm", ".xhtml", ".mht", ".mhtml")
OTHERS = (
    ".docx",
    ".docm",
    ".dotm",
    ".dotx",
    ".epub",
    ".fodt",
    ".odt",
    ".ott",
    ".pdf",
    ".rtf",
    ".scriv",
)
ENDINGS = (*TEXTS, *PAGES, *OTHERS, *TABLES)
"""The endings of all files that can be read, besides those of packed ones."""

_HEAD = 1 << 16
_SAVE_DOCX = "open it in {} and save it as .docx"
_CONVERT = "convert it with calibre: ebook-convert FILE FILE.epub"
_REFUSED = {
    ".doc": ("a Word file of before 2007", _SAVE_DOCX.format("Word or LibreOffice")),
    ".dot": ("a Word template of before 2007", _SAVE_DOCX.format("Word or LibreOffice")),
    ".wps": ("a file of Microsoft Works", _SAVE_DOCX.format("LibreOffice")),
    ".wpd": ("a WordPerfect file", _SAVE_DOCX.format("LibreOffice")),
    ".sxw": ("an OpenOffice 1 text", "open it in LibreOffice and save it as .odt"),
    ".pages": ("a Pages file", "export it in Pages: File, Export To, Word or EPUB"),
    ".mobi": ("a Kindle book", _CONVERT),
    ".azw": ("a Kindle book", _CONVERT),
    ".azw3": ("a Kindle book", _CONVERT),
    ".kfx": ("a Kindle book", _CONVERT),
    ".prc": ("a Palm or Kindle book", _CONVERT),
    ".lit": ("a Microsoft Reader book", _CONVERT),
    ".fb2": ("a FictionBook", _CONVERT),
    ".djvu": ("a scan (DjVu)", "give its text as .txt"),
    ".fdx": ("a Final Draft screenplay", "export it as .fountain or .txt in Final Draft"),
    ".celtx": ("a Celtx screenplay", "export it as .fountain or .txt"),
    ".highland": ("a Highland screenplay", "export it as .fountain"),
    ".scrivx": ("a part of a Scrivener project", "give the .scriv folder that it lies in"),
    ".tex": ("LaTeX", "make it plain text: pandoc -t plain FILE -o FILE.txt"),
    ".xls": ("an Excel sheet", "save it as .csv"),
    ".xlsx": ("an Excel sheet", "save it as .csv"),
    ".ods": ("a spreadsheet", "save it as .csv"),
    ".pptx": ("a PowerPoint file", "save its text as .txt"),
    ".odp": ("a presentation", "save its text as .txt"),
    ".zip": ("an archive", "unpack it and give the folder"),
    ".tar": ("an archive", "unpack it and give the folder"),
    ".xml": ("XML of a kind that is not known", "save its text as .txt"),
}
_SIGNATURES = (
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", ".doc"),
    (b"AT&TFORM", ".djvu"),
    (b"ITOLITLS", ".lit"),
    (b"\xffWPC", ".wpd"),
)
_PICTURE = ("a picture", "give text; a scan has to be recognised (OCR) first")
_FOREIGN = (
    (b"\x89PNG", _PICTURE), (b"\xff\xd8\xff", _PICTURE), (b"GIF8", _PICTURE),
    (b"II*\0", _PICTURE), (b"MM\0*", _PICTURE), (b"8BPS", _PICTURE), (b"\0\0\1\0", _PICTURE),
    (b"ID3", ("a sound file", "give text")), (b"OggS", ("a sound file", "give text")),
    (b"fLaC", ("a sound file", "give text")), (b"\x1aE\xdf\xa3", ("a film", "give text")),
    (b"Rar!", ("a RAR archive", "unpack it and give the folder")),
    (b"7z\xbc\xaf", ("a 7-Zip archive", "unpack it and give the folder")),
    (b"BZh", ("a file packed by bzip2", "unpack it: bunzip2 FILE")),
    (b"\xfd7zXZ", ("a file packed by xz", "unpack it: xz -d FILE")),
    (b"SQLite format 3", ("a database", "export its texts as .csv or .jsonl")),
    (b"\x7fELF", ("a program", "give text")), (b"MZ\x90", ("a program", "give text")),
    (b"\x80\x02", ("a Python pickle", "give text")), (b"GGUF", ("a model", "give text")),
    (b"ARROW1", ("an Arrow file", "save it as .parquet")),
)  # fmt: skip
_JSON = re.compile(r"\A\ufeff?\s*[\[{]\s*[\"{\[}\]]")
_LATEX = re.compile(r"\A(?:\s*%[^\n]*\n)*\s*\\documentclass\b")
_ROOTS = (
    ("<FictionBook", ".fb2"), ("<FinalDraft", ".fdx"), ("<office:document", ".fodt"),
)  # fmt: skip
_FRAGMENT = re.compile(r"</(?:p|div|h[1-6]|body)\s*>|<br\s*/?>", re.I)


def packed_name(path: Path) -> str:
    """A file's name without the ending of what packed it."""
    return path.stem if path.suffix.lower() in PACKED else path.name


def stem(path: Path) -> str:
    """A file's name without its endings."""
    return Path(packed_name(path)).stem


def is_project(path: Path) -> bool:
    """Whether a folder is a Scrivener project."""
    return path.is_dir() and any(path.glob("*.scrivx"))


def refusal(path: Path, ending: str) -> InputError:
    """The error of a kind of file that can't be read, by its ending."""
    what, advice = _REFUSED.get(ending, ("", ""))
    if what:
        return InputError(f"{path} is {what}, which can't be read", advice)
    return InputError(
        f"{path}: files with the ending '{ending}' can't be read",
        f"save it as one of {' '.join(ENDINGS)}",
    )


def ending_of(path: Path) -> str:
    """The ending that a file should have by its content, in lower case.

    Raises:
        InputError: It is missing, not readable, or of a kind that can't be read.
    """
    try:
        state = path.stat()
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist", "check the path") from error
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from error
    if not (path.is_file() or path.is_dir()):
        raise InputError(f"{path} is no regular file", "give a file or a folder")
    return _ending(path, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _ending(path: Path, _size: int, _time: int) -> str:
    named = Path(packed_name(path)).suffix.lower()
    if path.is_dir():
        if is_project(path):
            return ".scriv"
        raise InputError(f"{path} is a folder without a .scrivx, no Scrivener project")
    try:
        with open_bytes(path) as stream:
            head = stream.read(_HEAD)
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from error
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _of_archive(path, named)
    if head.startswith(b"%PDF") or b"%PDF-" in head[:1024]:
        return ".pdf"
    if head.startswith(b"PAR1"):
        return ".parquet"
    if head[60:68] in (b"BOOKMOBI", b"TEXtREAd"):
        raise refusal(path, ".mobi")
    for signature, ending in _SIGNATURES:
        if head.startswith(signature) and named not in (".docx", ".docm", ".dotm", ".dotx"):
            raise refusal(path, ending)
    for signature, (what, advice) in _FOREIGN:
        if head.startswith(signature) or (what == "a picture" and _is_picture(head)):
            raise InputError(f"{path} is {what}", advice)
    if named in (".docx", ".docm", ".dotm", ".dotx", ".epub", ".odt", ".ott", ".parquet") and (
        b"\0" in head or not head
    ):
        return named  # whose reader says what is wrong with it
    return _of_text(path, named, head.decode(encoding.sniff(head, path), errors="ignore"))


def _is_picture(head: bytes) -> bool:
    return head[8:12] == b"WEBP" or head[4:12] in (b"ftypheic", b"ftypavif", b"ftypmif1")


def _of_archive(path: Path, named: str) -> str:
    """The ending that an archive should have by its members."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist()]
            kind = b""
            if "mimetype" in names and archive.getinfo("mimetype").file_size < 200:
                kind = archive.read("mimetype").strip()
    except Exception:  # whatever is wrong with it, its reader says it
        if named in (".docx", ".docm", ".dotm", ".dotx", ".epub", ".odt", ".ott"):
            return named
        raise InputError(f"{path} is a damaged archive", "fetch or save it again") from None
    known = set(names)
    if kind.startswith(b"application/epub") or "META-INF/container.xml" in known:
        return ".epub"
    if kind.startswith(b"application/vnd.oasis.opendocument.text"):
        return ".odt"
    if kind.startswith(b"application/vnd.oasis.opendocument."):
        raise refusal(path, ".ods" if b"spreadsheet" in kind else ".odp")
    if any(name.lower().startswith("word/") for name in names):
        return ".docx"
    for folder, ending in (("xl/", ".xlsx"), ("ppt/", ".pptx"), ("Index/", ".pages")):
        if any(name.startswith(folder) for name in names):
            raise refusal(path, ending)
    if any(name.lower().endswith(".scrivx") for name in names):
        return ".scriv"
    if "index.xml" in known or "index.apxl" in known:
        raise refusal(path, ".pages")
    if named in (".docx", ".docm", ".dotm", ".dotx", ".epub", ".odt", ".ott"):
        return named
    raise refusal(path, named if named in _REFUSED else ".zip")


def _of_text(path: Path, named: str, head: str) -> str:
    """The ending that a text should have by how it begins."""
    if head.lstrip("\ufeff \r\n\t").startswith("{\\rtf"):
        return ".rtf"
    for root, ending in _ROOTS:
        if root in head[:2000] and head.lstrip("\ufeff \r\n\t").startswith("<"):
            if ending in ENDINGS:
                return ending
            raise refusal(path, ending)
    if named in PAGES and ("<" in head or "mime-version:" in head.lower()):
        return named
    if PAGE.match(head):
        return ".html"
    if named in _REFUSED:
        raise refusal(path, named)
    if _LATEX.match(head):
        raise refusal(path, ".tex")
    if named in TABLES:
        return named
    if named in (".txt", ".text") or named not in ENDINGS:
        if re.match(r"(?:[\w-]+:.*\r?\n)*mime-version:", head, re.I):
            return ".mht"
        if _JSON.match(head) and _is_json(path, head):
            return ".jsonl"
        if len(_FRAGMENT.findall(head)) >= 3 and has_html(head):
            return ".html"
    if named in ENDINGS and named not in (*PAGES, *OTHERS):
        return named
    if named in ENDINGS:  # a text under the name of something else
        return ".txt"
    raise refusal(path, named)


def _is_json(path: Path, head: str) -> bool:
    """Whether a text is JSON, as a whole or in its first line."""
    try:
        json.loads(head.lstrip("\ufeff \r\n").split("\n", 1)[0])
        return True
    except (ValueError, RecursionError):
        pass
    if len(head) < _HEAD // 4 or path.stat().st_size > 200_000_000:
        content = head
    else:
        with open_bytes(path) as stream:
            content = stream.read().decode("utf-8", errors="ignore")
    try:
        json.loads(content)
        return True
    except (ValueError, RecursionError):
        return False
