"""WikiText: encyclopaedic articles, line by line, as the raw set and its copies have them.

Rows and lines are paragraphs, not documents: an article is what stands from one `` = Title = `` to
the next. The raw set's spaced punctuation and ``@-@`` marks are undone (:func:`detokenize`), since
a model of prose should not learn them; the old form, in which rare words are ``<unk>``, is read too
and said to be lossy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from .. import text as encoding
from ..document import Document, Reading
from ..readers.columns import cell_text
from ..readers.tables import Table
from ..text import clean, count_words
from . import HubSet, NamedSource, RowForm, Rows, TextForm, official_split

_HEADING = re.compile(r"\s*(?P<marks>=(?: =)*) (?P<title>[^=\s](?:.*[^=\s])?) (?P=marks)\s*")
_AT = re.compile(r" @([-,.])@ ")
_QUOTED = re.compile(r'" (.*?) "')
_SINGLE_QUOTED = re.compile(r"(?<= )' (\S[^']*?\S|\S) '(?= )")
_CLOSING = re.compile(r" ([.,;:!?%)\]}’”…]|\.\.\.|n't\b|['’] ?(?:s|S|re|ve|ll|d|m)\b)")
_OPENING = re.compile(r"([(\[{‘“$£€¥#]) ")
_PLURAL = re.compile(r"(?<=s) '(?= [A-Za-z(—–])")
_SLASH = re.compile(r"(?<=\w) / (?=\w)")
_RANGE = re.compile(r"(?<=\d) – (?=\d)")
_DEGREE = re.compile(r"(?<=\d) ° ?(?=[CFNSEW]\b|\d)")
_APOSTROPHE = re.compile(r"(?<=\w)’ (?=(?:s|t|re|ve|ll|d|m)\b)")
_UNKNOWN = "<unk>"


def heading(line: str) -> tuple[int, str] | None:
    """The level (1 for an article's title) and the words of a heading, or None."""
    if "=" not in line:
        return None
    found = _HEADING.fullmatch(line)
    if found is None:
        return None
    return found["marks"].count("="), found["title"]


def detokenize(text: str) -> str:
    """Undo the spaces around punctuation and the ``@`` marks; letters and their order stay."""
    text = _AT.sub(r"\1", f" {text.strip()} ")
    if '"' in text:
        text = _QUOTED.sub(r'"\1"', text)
    if "'" in text:
        text = _SINGLE_QUOTED.sub(r"'\1'", text)
        text = _PLURAL.sub("'", text)
    text = _CLOSING.sub(r"\1", text)
    text = _OPENING.sub(r"\1", text)
    text = _RANGE.sub("–", _SLASH.sub("/", text))
    text = _APOSTROPHE.sub("’", _DEGREE.sub(" °", text))
    return text.strip()


def articles(lines: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Title, text and original text of each article; what stands before any title has none."""
    title = ""
    body: list[str] = []
    original: list[str] = []
    for line in lines:
        found = heading(line)
        if found is not None and found[0] == 1:
            if body:
                yield title, "\n\n".join(body), "\n".join(original)
            title, body, original = detokenize(found[1]), [], []
        elif line.strip():
            body.append(detokenize(found[1] if found is not None else line))
            original.append(line.strip())
    if body:
        yield title, "\n\n".join(body), "\n".join(original)


def _documents(lines: Iterable[str], reading: Reading, label: str) -> Iterator[Document]:
    split = official_split(label)
    unknown = 0
    for number, (title, text, original) in enumerate(articles(lines), 1):
        unknown += text.count(_UNKNOWN)
        cleaned = clean(text)
        if cleaned:
            group = f"article:{title.casefold()}" if title else f"{label}:{number}"
            yield Document(
                "wikitext",
                group,
                cleaned,
                title=clean(title) or None,
                split=split,
                original_words=count_words(original),
                original_bytes=len(original.encode("utf-8", "surrogatepass")),
            )
    if unknown:
        reading.report.flag("words lost as <unk>", unknown)
        reading.report.note(
            f"{label} is WikiText's old form, in which rare words are <unk>: use the raw one"
        )


def _from_rows(rows: Rows, reading: Reading, label: str) -> Iterator[Document]:
    return _documents(((cell_text(row.get("text")) or "") for _, row in rows), reading, label)


def _from_text(path: Path, reading: Reading, label: str) -> Iterator[Document]:
    lines = encoding.lines(path, reading.report.note, reading.advance)
    return _documents(lines, reading, label)


def _has_headings(lines: Sequence[str]) -> bool:
    return any((found := heading(line)) is not None and found[0] == 1 for line in lines)


def _rows_look_right(table: Table) -> bool:
    return _has_headings([cell_text(row.get("text")) or "" for row in table.head])


def is_article(document: Document) -> bool:
    """Whether a document is an article with something to read: 50 words or more."""
    return document.words >= 50


SOURCE = NamedSource(
    name="wikitext",
    rows=(
        RowForm(
            description="WikiText rows of lines",
            has_columns=lambda columns: "text" in columns,
            looks_right=_rows_look_right,
            documents=_from_rows,
            divisible=False,
        ),
    ),
    texts=(
        TextForm(
            description="WikiText lines",
            endings=(".raw", ".txt", ".tokens"),
            looks_right=lambda beginning: _has_headings(beginning.splitlines()),
            documents=_from_text,
        ),
    ),
    keep=is_article,
    hub=HubSet(
        "Salesforce/wikitext", "wikitext-103-raw-v1", {"train": "train", "validation": "validation"}
    ),
)
