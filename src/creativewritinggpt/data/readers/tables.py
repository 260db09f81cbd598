"""Tables: JSON lines, JSON, CSV, TSV and parquet read row by row, and which columns hold what.

A row that can't be read stops the work with its line number, unless bad rows are to be left out;
then each is counted. A broken quote in a CSV would swallow all lines up to the next quote: such a
row is taken back, only its first line counts as bad, and reading goes on with the next.

Columns of prompt and text are told by well-known names. Where several could be meant, or none, the
user is asked; what was chosen is said.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from .. import text as encoding
from ..document import CHUNK_ROWS, RawRow, Reading, SourceReport

Row = dict[str, Any]

_PEEK = 50
# A quoted field longer than this is a quote that was never closed.
_LONGEST_ROW = 64_000_000


@dataclass(frozen=True)
class TableFormat:
    """A file format with rows.

    Attributes:
        kind: Name for the user.
        raw_rows: Numbered rows of a file as they stand there.
        parse: Raw row to values by column, or None where it can't be read (counted); None where
            raw rows are that already.
        divisible: Whether the rows of a shard are known before they are parsed.
    """

    kind: str
    raw_rows: Callable[[Path, Reading], Iterator[RawRow]]
    parse: Callable[[Path, RawRow, Reading], Row | None] | None = None
    divisible: bool = False


@dataclass(frozen=True)
class Table:
    """A file with rows: its path, format, names of columns and first rows."""

    path: Path
    format: TableFormat
    columns: list[str]
    head: list[Row]

    def rows(self, reading: Reading) -> Iterator[tuple[int, Row]]:
        """Every row with its line number (its own number in a parquet file, from 1)."""
        return _rows(self.path, self.format, reading)


def _rows(path: Path, form: TableFormat, reading: Reading) -> Iterator[tuple[int, Row]]:
    raw_rows = form.raw_rows(path, reading) if reading.raw is None else iter(reading.raw)
    for number, raw in raw_rows:
        row = raw if form.parse is None else form.parse(path, (number, raw), reading)
        if row is not None:
            yield number, row


def open_table(path: Path) -> Table:
    """Look at the columns and the first rows of a file.

    Raises:
        InputError: It has no rows that can be read.
    """
    form = FORMATS[path.suffix.lower()]
    # Bad rows among the first are met again, and reported, when the file is read.
    peek = Reading(SourceReport(path.stem), skip_bad_rows=True)
    head = [row for _, row in itertools.islice(_rows(path, form, peek), _PEEK)]
    if not head:
        bad = peek.report.dropped.total()
        raise InputError(
            f"{path} has no row that can be read" if bad else f"{path} is empty: it has no rows",
            peek.report.notes[0] if bad else "give a file with rows",
        )
    return Table(path, form, list(dict.fromkeys(itertools.chain.from_iterable(head))), head)


def _json_lines(path: Path, reading: Reading) -> Iterator[RawRow]:
    for number, line in enumerate(encoding.lines(path, reading.report.note, reading.advance), 1):
        if reading.is_mine(number) and line.strip():
            yield number, line


def _parse_json(path: Path, raw: RawRow, reading: Reading) -> Row | None:
    number, line = raw
    try:
        value = json.loads(line)
    except ValueError as error:
        what = str(error)
        if isinstance(error, json.JSONDecodeError):
            what = f"{error.msg.removesuffix(' at')} at character {error.colno}"
        reading.bad_row(path, number, f"not valid JSON ({what})")
        return None
    if isinstance(value, str):
        return {"text": value}
    if not isinstance(value, dict):
        reading.bad_row(path, number, "not a JSON object")
        return None
    return value


def _json(path: Path, reading: Reading) -> Iterator[RawRow]:
    text = encoding.decode(path.read_bytes(), path, reading.report.note)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        # Many files of JSON lines are called .json.
        if error.msg == "Extra data":
            yield from _rows(path, FORMATS[".jsonl"], reading)
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


def _delimited(path: Path, reading: Reading) -> Iterator[RawRow]:
    csv.field_size_limit(2**31 - 1)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    lines = _Lines(encoding.lines(path, reading.report.note, reading.advance))
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


def _parquet(path: Path, reading: Reading) -> Iterator[RawRow]:
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
            for batch in file.iter_batches(
                batch_size=CHUNK_ROWS, row_groups=range(first, len(groups))
            ):
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


_JSON_LINES = TableFormat("JSON lines", _json_lines, _parse_json, divisible=True)
FORMATS = {
    ".jsonl": _JSON_LINES,
    ".ndjson": _JSON_LINES,
    ".json": TableFormat("JSON", _json),
    ".csv": TableFormat("CSV", _delimited),
    ".tsv": TableFormat("TSV", _delimited),
    ".parquet": TableFormat("parquet", _parquet, divisible=True),
}
"""The formats by the ending of a file's name."""

TEXT = (
    "text", "story", "content", "body", "completion", "response", "output", "continuation",
    "chapter", "article", "document", "passage", "essay", "poem", "target",
)  # fmt: skip
PROMPT = ("prompt", "instruction", "premise", "writing_prompt", "question", "source_text")
TITLE = ("title", "storytitle", "name", "headline", "heading")


@dataclass(frozen=True)
class Columns:
    """The columns that hold what a document is made of."""

    text: str
    prompt: str | None = None
    title: str | None = None

    def describe(self) -> str:
        """For the user: ``prompt from 'prompt', text from 'story'``."""
        prompt = f"prompt from '{self.prompt}', " if self.prompt else ""
        return f"{prompt}text from '{self.text}'"


def _named(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    def plain(name: str) -> str:
        return name.strip().casefold().replace(" ", "_").replace("-", "_")

    return [column for column in columns if plain(column) in names]


def find_columns(
    path: Path,
    columns: Sequence[str],
    prompt_column: str | None = None,
    text_column: str | None = None,
) -> Columns:
    """The columns of prompt, text and title, of all ``columns`` that could hold text.

    Raises:
        InputError: It can't be told; the message lists the columns and names the flags.
    """
    listed = f"its columns: {', '.join(columns)}"
    for asked, flag in ((prompt_column, "--prompt-column"), (text_column, "--text-column")):
        if asked and asked not in columns:
            raise InputError(f"{path} has no column '{asked}' ({flag})", listed)
    prompt, text = prompt_column or None, text_column or None
    if text is None:
        found = [column for column in _named(columns, TEXT) if column != prompt]
        if not found and len(columns) == 1:
            found = [column for column in columns if column != prompt]
        if len(found) != 1:
            which = " or ".join(found) or "none of its columns, as far as their names tell"
            raise InputError(
                f"{path} could hold the text in {which}; {listed}",
                "name the column with --text-column (and --prompt-column, if there are prompts)",
            )
        text = found[0]
    if prompt is None:
        prompts = [column for column in _named(columns, PROMPT) if column != text]
        if len(prompts) > 1:
            raise InputError(
                f"{path} could hold the prompt in {' or '.join(prompts)}; {listed}",
                "name the column with --prompt-column",
            )
        prompt = prompts[0] if prompts else None
    titles = [column for column in _named(columns, TITLE) if column not in (text, prompt)]
    return Columns(text, prompt, titles[0] if titles else None)
