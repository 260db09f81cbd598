"""ROCStories: everyday stories of five sentences.

Known as the official CSV (a column for each sentence), as rows of first sentence and continuation,
and as the Story Cloze CSV, of which the right ending is taken. In every form the first sentence is
the prompt, so that the same story is the same document whatever file it came from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ..cleaning import clean_line
from ..content import is_explicit
from ..document import Document
from ..readers.tables import Reading, Row, Table
from ..readers.text import row_group
from .base import HubSet, NamedSource, RowForm, Rows, official_split

_SENTENCES = tuple(f"sentence{i}" for i in range(1, 6))
_CLOZE = tuple(f"InputSentence{i}" for i in range(1, 5))
_ENDINGS = ("RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2")
_ANSWER = "AnswerRightEnding"
_SENTENCE_END = re.compile(r"[.!?]+[\"'”’)]*(?:\s|$)")


def is_story(document: Document) -> bool:
    """Whether a document is a short story of several sentences, not a fragment."""
    return document.prompt is not None and 8 <= len(document.text.split()) <= 120


def _document(
    sentences: Sequence[str], reading: Reading, label: str, number: int, title: str = ""
) -> Document | None:
    cleaned = [clean_line(sentence) for sentence in sentences]
    first, text = cleaned[0], " ".join(part for part in cleaned[1:] if part)
    if not first or not text:
        reading.report.drop("rows without text")
        return None
    if is_explicit(text):
        reading.report.flag("explicit")
    return Document(
        "rocstories",
        row_group(label, number, first),
        text,
        prompt=first,
        title=clean_line(title) or None,
        split=official_split(label),
    )


def _cells(row: Row, columns: Sequence[str]) -> list[str]:
    return [str(row.get(column) or "") for column in columns]


def _from_official(rows: Rows, reading: Reading, label: str) -> Iterator[Document]:
    for number, row in rows:
        title = str(row.get("storytitle") or "")
        made = _document(_cells(row, _SENTENCES), reading, label, number, title)
        if made is not None:
            yield made


def _from_cloze(rows: Rows, reading: Reading, label: str) -> Iterator[Document]:
    for number, row in rows:
        answer = str(row.get(_ANSWER) or "").strip()
        if answer not in ("1", "2"):
            reading.report.drop("rows without a right ending")
            continue
        sentences = [*_cells(row, _CLOZE), *_cells(row, [_ENDINGS[int(answer) - 1]])]
        made = _document(sentences, reading, label, number)
        if made is not None:
            yield made


def _from_pairs(rows: Rows, reading: Reading, label: str) -> Iterator[Document]:
    for number, row in rows:
        made = _document(_cells(row, ("prompt", "continuation")), reading, label, number)
        if made is not None:
            yield made


def _pairs_look_right(table: Table) -> bool:
    """Whether most rows are one sentence and a few more."""
    right = 0
    for row in table.head:
        prompt, text = _cells(row, ("prompt", "continuation"))
        sentences = len(_SENTENCE_END.findall(text))
        right += len(prompt.split()) <= 30 and 2 <= sentences <= 6 and len(text.split()) <= 120
    return right >= 0.8 * len(table.head)


def _among(wanted: Sequence[str], columns: Sequence[str]) -> bool:
    return set(wanted) <= set(columns)


SOURCE = NamedSource(
    name="rocstories",
    rows=(
        RowForm(
            said="ROCStories with a column for each sentence",
            has_columns=lambda columns: _among(_SENTENCES, columns),
            looks_right=lambda _: True,
            documents=_from_official,
        ),
        RowForm(
            said="Story Cloze with its right endings",
            has_columns=lambda columns: _among((*_CLOZE, *_ENDINGS, _ANSWER), columns),
            looks_right=lambda _: True,
            documents=_from_cloze,
        ),
        RowForm(
            said="ROCStories rows of first sentence and continuation",
            has_columns=lambda columns: _among(("prompt", "continuation"), columns),
            looks_right=_pairs_look_right,
            documents=_from_pairs,
        ),
    ),
    keep=is_story,
    hub=HubSet("Ximing/ROCStories"),
)
