"""ROCStories: everyday stories of five sentences.

Known as the official CSV (a column for each sentence), as rows of first sentence and continuation,
and as the Story Cloze CSV, of which the right ending is taken. In every form the first sentence is
the prompt, so that the same story is the same document whatever file it came from. A story is one
paragraph: a space joins its first sentence and the others.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..document import Document, Reading
from ..readers.columns import Row, cell_text
from ..readers.tables import Table, row_group
from ..text import clean_line, count_words, is_explicit, sentence_ends
from . import HubSet, NamedSource, RowForm, official_split, per_row

_SENTENCES = tuple(f"sentence{i}" for i in range(1, 6))
_CLOZE = tuple(f"InputSentence{i}" for i in range(1, 5))
_ENDINGS = ("RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2")
_ANSWER = "AnswerRightEnding"
_PAIR = ("prompt", "continuation")


def is_story(document: Document) -> bool:
    """Whether a document is a short story of several sentences, not a fragment."""
    return document.prompt is not None and 8 <= document.words <= 120


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
        joint=" ",
    )


def _cells(row: Row, columns: Sequence[str]) -> list[str]:
    return [cell_text(row.get(column)) or "" for column in columns]


@per_row
def _from_official(row: Row, reading: Reading, label: str, number: int) -> Document | None:
    title = cell_text(row.get("storytitle")) or ""
    return _document(_cells(row, _SENTENCES), reading, label, number, title)


@per_row
def _from_cloze(row: Row, reading: Reading, label: str, number: int) -> Document | None:
    answer = str(row.get(_ANSWER) or "").strip()
    if answer not in ("1", "2"):
        reading.report.drop("rows without a right ending")
        return None
    sentences = [*_cells(row, _CLOZE), *_cells(row, [_ENDINGS[int(answer) - 1]])]
    return _document(sentences, reading, label, number)


@per_row
def _from_pairs(row: Row, reading: Reading, label: str, number: int) -> Document | None:
    return _document(_cells(row, _PAIR), reading, label, number)


def _pairs_look_right(table: Table) -> bool:
    """Whether most rows are one sentence and a few more."""
    right = 0
    for row in table.head:
        prompt, text = _cells(row, _PAIR)
        sentences = len(sentence_ends(text.strip()))
        right += count_words(prompt) <= 30 and 2 <= sentences <= 6 and count_words(text) <= 120
    return right >= 0.8 * len(table.head)


SOURCE = NamedSource(
    name="rocstories",
    rows=(
        RowForm(
            description="ROCStories with a column for each sentence",
            has_columns=set(_SENTENCES).issubset,
            looks_right=lambda _: True,
            documents=_from_official,
        ),
        RowForm(
            description="Story Cloze with its right endings",
            has_columns={*_CLOZE, *_ENDINGS, _ANSWER}.issubset,
            looks_right=lambda _: True,
            documents=_from_cloze,
        ),
        RowForm(
            description="ROCStories rows of first sentence and continuation",
            has_columns=set(_PAIR).issubset,
            looks_right=_pairs_look_right,
            documents=_from_pairs,
        ),
    ),
    keep=is_story,
    hub=HubSet("Ximing/ROCStories"),
)
