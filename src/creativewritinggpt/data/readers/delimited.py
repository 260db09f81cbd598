"""Delimited text: CSV, TSV and what is called so.

What separates columns, what quotes mean and whether the first row is a header are told from the
first megabyte: every way of reading is tried, and the one under which most rows have as many
columns as the first wins. Then the whole file is read that way. A broken quote would swallow all
lines up to the next quote: such a row is taken back, only its first line counts as bad.
"""

from __future__ import annotations

import csv
import itertools
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...console import counted
from ...errors import InputError
from .. import text as encoding
from ..document import RawRow, Reading, characters
from .columns import is_known_name
from .recognise import ending_of

_SAMPLE = 1_000_000
# A quoted field longer than this is a quote that was never closed.
_LONGEST_ROW = 64_000_000
_COMPARED = 200
_LONGEST_PREAMBLE = 20
_SEPARATOR_LINE = re.compile(r"\s*\"?sep=(.)\"?\s*\Z", re.IGNORECASE)
_LONGEST_NAME = 60
_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars", "": "lines"}
_QUOTING: dict[str, dict[str, Any]] = {
    "double": {"strict": True},
    "backslash": {"strict": True, "escapechar": "\\"},
    "spaced": {"strict": True, "skipinitialspace": True},
    "single": {"strict": True, "quotechar": "'", "escapechar": "\\"},
    "none": {"quoting": csv.QUOTE_NONE},
}


@dataclass(frozen=True)
class Dialect:
    """How a delimited file is read.

    Attributes:
        delimiter: What separates columns; empty where each line is one text.
        quoting: ``double`` (quotes are doubled inside of quotes), ``backslash`` (or escaped),
            ``spaced`` (a space may stand before them), ``single`` (they are single ones), ``none``
            (they are part of the text), or ``last`` (and so is all that follows in the last
            column).
        skipped: Lines before the first row.
        names: The columns.
        header: Whether the first row names them.
        preamble: Lines before the table that are neither empty nor name the separator.
    """

    delimiter: str
    quoting: str = "double"
    skipped: int = 0
    names: tuple[str, ...] = ()
    header: bool = True
    preamble: int = 0

    def describe(self, kind: str) -> str:
        """For the user: ``CSV separated by tabs, without a header``."""
        usual = "\t" if kind == "TSV" else ","
        parts = [kind]
        if not self.delimiter:
            parts[0] += " with one text a line, commas and quotes being part of it"
        elif self.delimiter != usual:
            parts[0] += f" separated by {_NAMES.get(self.delimiter, repr(self.delimiter))}"
        if self.delimiter and self.quoting == "none":
            parts.append("quotes being part of the text")
        if self.preamble:
            parts.append(f"after {counted(self.preamble, 'other line')}")
        if self.quoting == "last":
            parts.append(f"the last column with its {_NAMES.get(self.delimiter, self.delimiter)}")
        if not self.header:
            parts.append("without a header (the first row is text)")
        return ", ".join(parts)


class _Lines(Iterator[str]):
    """Lines that can be put back; runs of empty ones are passed over where that is asked for.

    Args:
        source: The lines.
        empty: Those that the source passes over itself.
    """

    def __init__(self, source: Iterable[str], empty: encoding.EmptyLines | None = None) -> None:
        self._source = iter(source)
        self._empty = empty or encoding.EmptyLines()
        self._empty.skip = False
        self._back: list[str] = []
        self._taken = 0

    @property
    def number(self) -> int:
        """Number of the line that was taken last, from 1."""
        return self._taken + self._empty.count

    def __next__(self) -> str:
        line = self._back.pop() if self._back else next(self._source)
        self._taken += 1
        return line

    def put_back(self, lines: list[str]) -> None:
        self._back.extend(reversed(lines))
        self._taken -= len(lines)

    def pass_empty(self) -> None:
        """Pass over the empty lines that come next."""
        self._empty.skip = True
        for line in self:
            if line not in ("\n", "\r\n"):
                self.put_back([line])
                break
        self._empty.skip = False


def _record(lines: _Lines, dialect: Dialect) -> tuple[list[str], list[str] | None, str]:
    """The lines of the next record, its fields or None, and what is wrong with it."""
    lines.pass_empty()
    if not dialect.delimiter:
        line = next(lines, None)
        return ([], None, "") if line is None else ([line], _whole_line(line), "")
    if dialect.quoting == "last":
        line = next(lines, None)
        if line is None:
            return [], None, ""
        return [line], line.rstrip("\r\n").split(dialect.delimiter, len(dialect.names) - 1), ""
    taken: list[str] = []
    size = 0

    def feed() -> Iterator[str]:
        nonlocal size
        for line in lines:
            taken.append(line)
            size += len(line)
            yield line
            if size > _LONGEST_ROW:
                return

    try:
        reader = csv.reader(feed(), delimiter=dialect.delimiter, **_QUOTING[dialect.quoting])
        return taken, next(reader, None), ""
    except csv.Error as error:
        unclosed = "unexpected end" in str(error)
        return taken, None, "a quote is never closed" if unclosed else f"broken quotes ({error})"


def _whole_line(line: str) -> list[str]:
    """The text of a line that no writer of CSV wrote, unless it holds doubled quotes."""
    text = line.rstrip("\r\n")
    if text[:1] == text[-1:] == '"' and '""' in text[1:-1]:
        try:
            fields = next(csv.reader([text], strict=True))
        except csv.Error:
            return [text]
        return fields if len(fields) == 1 else [text]
    return [text] if text.strip() else []


def _lines(
    path: Path,
    note: Callable[[str], None],
    advance: Callable[[int], None] | None = None,
    empty: encoding.EmptyLines | None = None,
) -> Iterator[str]:
    """The lines of a file, those of an old Macintosh too."""
    lines = encoding.lines(path, note, advance, empty)
    first = next(lines, "")
    if "\r" in first[:-1] and not first.endswith("\n"):
        yield from (f"{line}\n" for line in first.split("\r"))
        return
    if first:
        yield first
    yield from lines


def delimited_rows(dialect: Dialect, path: Path, reading: Reading) -> Iterator[RawRow]:
    """The rows of a file by column, with their line numbers.

    Raises:
        InputError: A row can't be read and is not to be left out.
    """
    csv.field_size_limit(2**31 - 1)
    empty = encoding.EmptyLines()
    lines = _Lines(_lines(path, reading.report.note, reading.advance, empty), empty)
    for line in itertools.islice(lines, dialect.skipped):
        if not _SEPARATOR_LINE.match(line):
            reading.file.characters += characters(line)
            reading.file.leave_out("lines before the table", line)
    first, count = dialect.header, len(dialect.names)
    while True:
        taken, fields, what = _record(lines, dialect)
        start = lines.number - len(taken) + 1
        if not taken:
            return
        if first:
            first = fields is not None and not any(map(str.strip, fields))  # an empty line
            continue
        if fields is not None and len(fields) > count and not any(map(str.strip, fields[count:])):
            fields = fields[:count]
        if fields and len(fields) != count and any(map(str.strip, fields)):
            what = f"{len(fields)} fields where the header has {count}"
            if len(fields) > count:
                what += f" (a text with '{dialect.delimiter}' in it needs quotes around it)"
            fields = None
        if fields is None:
            lines.put_back(taken[1:])
            reading.bad_row(path, start, what)
            reading.file.characters += characters(taken[0])
            reading.file.leave_out("bad rows", taken[0])
        elif any(map(str.strip, fields)):
            yield start, dict(zip(dialect.names, fields, strict=True))


def find_dialect(path: Path, asked: Sequence[str] = ()) -> Dialect:
    """How a file is to be read, told from its beginning.

    Args:
        path: The file.
        asked: Columns that the user named: where the first row has one, it is a header.

    Raises:
        InputError: It has no names of columns, or is not text.
    """
    sample, whole = _sample(path)
    skipped = 0
    delimiters = "\t,;|" if ending_of(path) == ".tsv" else ",;\t|"
    if sample and (said := _SEPARATOR_LINE.match(sample[0])):
        delimiters, skipped = said[1], 1
        if sample[0].rstrip("\r\n").endswith("sep=\t"):
            delimiters = "\t"
    while skipped < len(sample) and not sample[skipped].strip():
        skipped += 1
    tried = [
        (dialect, _records(sample[skipped:], whole, dialect))
        for dialect in _candidates("".join(sample), delimiters, skipped)
    ]
    dialect, records = max(tried, key=lambda one: _score(*one))
    if _score(dialect, records) <= 0:
        dialect, records = _after_a_preamble(tried) or _one_column(sample[skipped:], whole, tried)
        skipped = dialect.skipped
    return _last_goes_on(_with_names(dialect, records, path, asked), records, sample[skipped:])


def _sample(path: Path) -> tuple[list[str], bool]:
    """The first lines, and whether they are all."""
    lines = _lines(path, lambda _: None)
    sample, size = [], 0
    for line in lines:
        sample.append(line)
        size += len(line)
        if size > _SAMPLE:
            break
    return sample, next(lines, None) is None


def _candidates(text: str, delimiters: str, skipped: int) -> Iterator[Dialect]:
    for delimiter in delimiters:
        if delimiter not in text and len(delimiters) > 1 and delimiter != delimiters[0]:
            continue
        yield Dialect(delimiter, "double", skipped)
        if '\\"' in text:
            yield Dialect(delimiter, "backslash", skipped)
        if f'{delimiter} "' in text:
            yield Dialect(delimiter, "spaced", skipped)
        if f"{delimiter}'" in text:
            yield Dialect(delimiter, "single", skipped)
        if delimiter in "\t|" and '"' in text:
            yield Dialect(delimiter, "none", skipped)


Record = tuple[list[str] | None, int]
"""The fields of a record, or None where it is broken, and how many lines it has."""


def _records(sample: Sequence[str], whole: bool, dialect: Dialect) -> list[Record]:
    lines = _Lines(sample)
    records: list[Record] = []
    while True:
        taken, fields, _ = _record(lines, dialect)
        if not taken:
            break
        if fields is None:
            lines.put_back(taken[1:])
        if fields is None or any(map(str.strip, fields)):
            records.append((fields, len(taken)))
    # The last one may go on after the sample.
    return records if whole or len(records) < 2 else records[:-1]


def _score(dialect: Dialect, records: Sequence[Record]) -> float:
    """How well records fit a table with several columns, from 0 up."""
    if not records or records[0][0] is None or len(first := records[0][0]) < 2:
        return 0.0
    fitting = sum(
        fields is not None
        and len(fields) >= len(first)
        and not any(map(str.strip, fields[len(first) :]))
        for fields, _ in records
    )
    share = fitting / len(records)
    named = any(is_known_name(name) for name in first) and all(
        len(name) <= _LONGEST_NAME for name in first
    )
    if not named and share <= 0.5:
        return 0.0
    rows = [fields for fields, _ in records[:_COMPARED] if fields and len(fields) == len(first)]
    numbers = any(all(map(_is_number, column[1:] or column)) for column in zip(*rows, strict=True))
    return share + named + 0.1 * numbers


def _after_a_preamble(
    tried: Sequence[tuple[Dialect, list[Record]]],
) -> tuple[Dialect, list[Record]] | None:
    """The dialect of a table that begins after a title or notes, where there is one."""
    for dialect, records in tried:
        widths = [len(fields) if fields else 0 for fields, _ in records]
        width = max(set(widths), key=widths.count, default=0)
        first = widths.index(width) if width > 1 else 0
        score = _score(dialect, records[first:])
        if 0 < first <= _LONGEST_PREAMBLE and score > 1.9:  # with a known name, and rows that fit
            lines = sum(size for _, size in records[:first])
            skipped = dialect.skipped + lines
            return replace(dialect, skipped=skipped, preamble=lines), records[first:]
    return None


def _one_column(
    sample: Sequence[str], whole: bool, tried: Sequence[tuple[Dialect, list[Record]]]
) -> tuple[Dialect, list[Record]]:
    """A file with one column: quoted as in any CSV, or else one text a line."""
    for dialect, records in tried:
        if dialect.quoting != "none" and all(f is not None and len(f) == 1 for f, _ in records):
            return dialect, records
    dialect, records = tried[0]
    if any(fields is not None and len(fields) == 1 and size > 1 for fields, size in records):
        return dialect, records  # quotes are used as in any CSV; the other rows are broken
    plain = Dialect("", "none", dialect.skipped)
    return plain, _records(sample, whole, plain)


def _with_names(
    dialect: Dialect, records: Sequence[Record], path: Path, asked: Sequence[str]
) -> Dialect:
    if not records:
        return dialect
    first = records[0][0]
    if first is None:
        raise InputError(
            f"{path}, line {dialect.skipped + 1}: no names of columns (broken quotes)",
            "give the columns names in the first line",
        )
    cells = [cell.strip() for cell in first]
    widest = max((len(fields) for fields, _ in records[1:] if fields), default=len(cells))
    while len(cells) > max(1, widest) and not cells[-1]:
        cells.pop()  # a separator too many at the end of the header
    if len(cells) > _MOST_COLUMNS:
        raise InputError(
            f"{path} has {len(cells):,} columns, which no table has", "give it as .txt, or mend it"
        )
    rest = [f for f, _ in itertools.islice(records, 1, _COMPARED) if f and len(f) == len(cells)]
    numbered = [f"column {place}" for place in range(1, len(cells) + 1)]
    if any(name in cells for name in asked):
        header = True
    elif any(name in numbered for name in asked):
        header = False
    else:
        header = _is_header(cells, rest)
    names = [
        cell or number if header else number for cell, number in zip(cells, numbered, strict=True)
    ]
    return replace(dialect, names=tuple(_apart(names)), header=header)


def _last_goes_on(dialect: Dialect, records: Sequence[Record], sample: Sequence[str]) -> Dialect:
    """The dialect in which the last column takes the rest of the line, where rows ask for it.

    That is so where texts hold bare commas: there is a header, most rows have more fields than it,
    and what stands before the text is short or a number in every row.
    """
    count = len(dialect.names)
    if count < 2 or not dialect.header or not dialect.delimiter:
        return dialect
    wide = sum(fields is not None and len(fields) > count for fields, _ in records[1:])
    if 2 * wide <= len(records) - 1 or any('"' in line for line in sample):
        return dialect
    split = [line.split(dialect.delimiter, count - 1) for line in sample[1:] if line.strip()]
    plain = all(len(row) == count and all(map(_is_plain, row[:-1])) for row in split)
    return replace(dialect, quoting="last") if plain else dialect


def _is_plain(cell: str) -> bool:
    return _is_number(cell) or len(cell) <= 20 and " " not in cell.strip()


def _apart(names: Sequence[str]) -> list[str]:
    """The names, those that repeat with their number behind them."""
    seen: dict[str, int] = {}
    made = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        made.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return made


_MOST_COLUMNS = 20_000


def _is_number(cell: str) -> bool:
    return bool(re.fullmatch(r"[+-]?[\d.,:/ -]*\d[\d.,:/ %-]*", cell.strip()))


def _is_sentence(cell: str) -> bool:
    words = len(cell.split())
    return len(cell) > 200 or (words >= 4 and cell.rstrip("\"'”’»)* ")[-1:] in tuple(".!…。！"))


def _is_header(first: Sequence[str], rest: Sequence[Sequence[str]]) -> bool:
    """Whether the first row names the columns, by its cells and those below."""
    if any(is_known_name(cell) for cell in first):
        return True
    if any(cell and _is_number(cell) for cell in first):
        return False
    columns = [[row[place].strip() for row in rest] for place in range(len(first))]
    for name, column in zip(first, columns, strict=True):
        if name and column and all(_is_number(cell) for cell in column if cell) and any(column):
            return True
    if any(_is_sentence(cell) or "\n" in cell for cell in first):
        return False
    if any(name and name in column for name, column in zip(first, columns, strict=True)):
        return False
    # The column of the longest texts: a name is much shorter than what stands below it.
    medians = [statistics.median([len(cell) for cell in column] or [0]) for column in columns]
    longest = max(range(len(first)), key=lambda place: medians[place])
    return not rest or len(first[longest]) < max(1, medians[longest]) / 3 or _short(first, columns)


def _short(first: Sequence[str], columns: Sequence[Sequence[str]]) -> bool:
    """Whether all cells are short, so that lengths tell nothing: then a header is usual."""
    return all(len(cell) <= 20 for cell in itertools.chain(first, *columns))


def table_of_lists(rows: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    """Rows that are lists, by column where all have the same length; else each is a text."""
    width = len(rows[0])
    if width < 2 or any(len(row) != width for row in rows):
        return [{"text": row[0] if len(row) == 1 else list(row)} for row in rows]
    shown = [["" if value is None else str(value) for value in row] for row in rows[:_COMPARED]]
    header = all(isinstance(name, str) for name in rows[0]) and _is_header(shown[0], shown[1:])
    names = _apart(shown[0]) if header else [f"column {place + 1}" for place in range(width)]
    return [dict(zip(names, row, strict=True)) for row in rows[header:]]
