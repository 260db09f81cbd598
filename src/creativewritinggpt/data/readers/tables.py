"""Files with rows: JSON lines, CSV, TSV and parquet, read row by row.

A row that can't be read stops the work with its line number, unless bad rows are to be left out;
then each is counted. A broken quote in a CSV would swallow all lines up to the next quote: such a
row is taken back, only its first line counts as bad, and reading goes on with the next.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...console import ProgressCallback
from ...errors import InputError
from .. import text as encoding
from ..report import SourceReport

Row = dict[str, Any]

_PEEK = 50
# A quoted field longer than this is a quote that was never closed.
_LONGEST_ROW = 64_000_000
_PROGRESS_BYTES = 1_000_000
# Rows of a divisible table that one process reads before the next one's turn.
STRIPE = 128


@dataclass
class Reading:
    """How files are read, and where that is accounted for.

    Attributes:
        report: The account.
        skip_bad_rows: Whether rows that can't be read are left out.
        progress: Called as the work goes on.
        total: Bytes to be read, where known.
        done: Bytes read.
        stripe: Which stripes of a divisible table are read here ...
        stripes: ... of how many, counted round and round.
        at: Where the row read last belongs in the order of the source.
        start: Where reading begins in that order; what stands before has been read at another time.
        by_file: Whether whole files are dealt out, so that every row of the current one is read.
    """

    report: SourceReport
    skip_bad_rows: bool = False
    progress: ProgressCallback | None = None
    total: int | None = None
    done: int = 0
    stripe: int = 0
    stripes: int = 1
    at: int = 0
    start: int = 0
    by_file: bool = False
    _file: int = -1
    _told: int = 0

    def next_file(self) -> bool:
        """Note that another file begins, and say whether it is to be read from the start on."""
        self._file += 1
        self.at = self._file << 40
        return self.start < (self._file + 1) << 40

    @property
    def rows_before(self) -> int:
        """How many rows of the current file stand before the start."""
        if self.start >> 40 != max(self._file, 0):
            return 0
        return max(0, (self.start & ((1 << 40) - 1)) * STRIPE - 1)

    def is_mine(self, number: int) -> bool:
        """Note that row ``number`` is next, and say whether it is read here."""
        stripe = number // STRIPE
        self.at = (max(self._file, 0) << 40) + stripe
        mine = self.by_file or stripe % self.stripes == self.stripe
        return mine and self.at >= self.start

    def advance(self, count: int) -> None:
        """Note that so many more bytes have been read."""
        self.done += count
        if self.progress is not None and self.done - self._told >= _PROGRESS_BYTES:
            self._told = self.done
            self.progress(f"reading {self.report.name}", self.done, self.total)

    def bad_row(self, path: Path, line: int, what: str, unit: str = "line") -> None:
        """Count a row that can't be read, or stop.

        Raises:
            InputError: Bad rows are not to be left out.
        """
        if not self.skip_bad_rows:
            raise InputError(
                f"{path}, {unit} {line}: {what}",
                "mend it, or leave out such rows with --skip-bad-rows",
            )
        self.report.drop("bad rows")
        self.report.say(f"{path.name}, {unit} {line} was left out: {what}")


@dataclass(frozen=True)
class Table:
    """A file with rows.

    Attributes:
        path: The file.
        kind: What it is, for the user.
        columns: The names of its columns.
        head: Its first rows.
    """

    path: Path
    kind: str
    columns: list[str]
    head: list[Row]

    def rows(self, reading: Reading) -> Iterator[tuple[int, Row]]:
        """Every row with its line number (its own number in a parquet file, from 1)."""
        return _ROWS[self.path.suffix.lower()](self.path, reading)


def open_table(path: Path) -> Table:
    """Look at the columns and the first rows of a file.

    Raises:
        InputError: It has no rows that can be read.
    """
    suffix = path.suffix.lower()
    # Bad rows among the first are met again, and reported, when the file is read.
    peek = Reading(SourceReport(path.stem), skip_bad_rows=True)
    head = [row for _, row in itertools.islice(_ROWS[suffix](path, peek), _PEEK)]
    if not head:
        bad = peek.report.dropped.total()
        raise InputError(
            f"{path} has no row that can be read" if bad else f"{path} is empty: it has no rows",
            peek.report.notes[0] if bad else "give a file with rows",
        )
    columns = list(dict.fromkeys(itertools.chain.from_iterable(head)))
    return Table(path, KINDS[suffix], columns, head)


def _json_lines(path: Path, reading: Reading) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(encoding.lines(path, reading.report.say, reading.advance), 1):
        if not reading.is_mine(number) or not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            what = str(error)
            if isinstance(error, json.JSONDecodeError):
                what = f"{error.msg.removesuffix(' at')} at character {error.colno}"
            reading.bad_row(path, number, f"not valid JSON ({what})")
            continue
        if isinstance(value, str):
            value = {"text": value}
        if not isinstance(value, dict):
            reading.bad_row(path, number, "not a JSON object")
            continue
        yield number, value


def _json(path: Path, reading: Reading) -> Iterator[tuple[int, Row]]:
    text = encoding.decode(path.read_bytes(), path, reading.report.say)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        # Many files of JSON lines are called .json.
        if error.msg == "Extra data":
            yield from _json_lines(path, reading)
            return
        raise InputError(f"{path}, line {error.lineno}: not valid JSON ({error.msg})") from error
    if isinstance(value, dict):
        value = next((part for part in value.values() if isinstance(part, list)), [value])
    if not isinstance(value, list):
        raise InputError(f"{path} holds no list of rows", "give a list of objects, or JSON lines")
    for number, row in enumerate(value, 1):
        if isinstance(row, str):
            row = {"text": row}
        if isinstance(row, dict):
            yield number, row
        else:
            reading.bad_row(path, number, "not a JSON object", unit="row")


class _Lines(Iterator[str]):
    """Lines that can be put back."""

    def __init__(self, source: Iterator[str]) -> None:
        self._source = source
        self._back: list[str] = []
        self.number = 0

    def __next__(self) -> str:
        line = self._back.pop() if self._back else next(self._source)
        self.number += 1
        return line

    def put_back(self, lines: list[str]) -> None:
        self._back.extend(reversed(lines))
        self.number -= len(lines)


def _record(lines: _Lines, delimiter: str) -> tuple[list[str], list[str] | None, str]:
    """The lines of the next record, its fields or None, and what is wrong with it."""
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
        return taken, next(csv.reader(feed(), delimiter=delimiter, strict=True), None), ""
    except csv.Error as error:
        unclosed = "unexpected end" in str(error)
        return taken, None, "a quote is never closed" if unclosed else f"broken quotes ({error})"


def _delimited(path: Path, reading: Reading) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(2**31 - 1)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    lines = _Lines(encoding.lines(path, reading.report.say, reading.advance))
    taken, header, what = _record(lines, delimiter)
    if not taken:
        return
    if header is None or not any(name.strip() for name in header):
        raise InputError(f"{path}, line 1: no names of columns ({what or 'the line is empty'})")
    if len(header) == 1 and ";" in header[0] and delimiter == ",":
        # What spreadsheets in many countries write.
        lines.put_back(taken)
        delimiter = ";"
        _, header, what = _record(lines, delimiter)
    names = [name.strip() for name in header or []]
    while True:
        start = lines.number + 1
        taken, fields, what = _record(lines, delimiter)
        if not taken:
            return
        if fields is not None and len(fields) != len(names) and fields:
            what = f"{len(fields)} fields where the header has {len(names)}"
            fields = None
        if fields is None:
            lines.put_back(taken[1:])
            reading.bad_row(path, start, what)
        elif fields:
            yield start, dict(zip(names, fields, strict=True))


def _parquet(path: Path, reading: Reading) -> Iterator[tuple[int, Row]]:
    import pyarrow
    import pyarrow.parquet

    number = first = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            rows = max(1, file.metadata.num_rows)
            share = path.stat().st_size / rows
            groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            while first < len(groups) and number + groups[first] <= reading.rows_before:
                number, first = number + groups[first], first + 1
            for batch in file.iter_batches(batch_size=STRIPE, row_groups=range(first, len(groups))):
                mine = [i for i in range(len(batch)) if reading.is_mine(number + 1 + i)]
                rows_of_mine = batch.take(pyarrow.array(mine, pyarrow.int64())).to_pylist()
                for i, row in zip(mine, rows_of_mine, strict=True):
                    reading.is_mine(number + 1 + i)
                    yield number + 1 + i, row
                number += len(batch)
                reading.advance(int(share * len(batch)))
    except (pyarrow.ArrowException, OSError) as error:
        where = f" after row {number}" if number else ""
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path} is not a whole parquet file{where}: {reason}", "fetch or write it again"
        ) from error


_ROWS = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _delimited,
    ".tsv": _delimited,
    ".parquet": _parquet,
}

DIVISIBLE = (".jsonl", ".ndjson", ".parquet")
"""The endings of files whose rows can be read in stripes."""

KINDS = {
    ".jsonl": "JSON lines",
    ".ndjson": "JSON lines",
    ".json": "JSON",
    ".csv": "CSV",
    ".tsv": "TSV",
    ".parquet": "parquet",
}
"""The endings of files with rows."""
