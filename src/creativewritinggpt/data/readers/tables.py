"""Tables: JSON lines, JSON, CSV, TSV and parquet read row by row into documents.

A row that can't be read stops the work with its line number, unless bad rows are to be left out;
then each is counted. What a file was taken for, and the columns that hold what, is said.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import InputError
from .. import text as encoding
from ..document import CHUNK_ROWS, Document, RawRow, Reading, SourceReport, characters
from ..text import clean, clean_line
from ..unpacking import read_bytes
from .chats import (
    REPLY,
    SYSTEM,
    USER,
    Message,
    Talk,
    compose,
    count_messages,
    message_of,
    messages_of,
    template_messages,
)
from .columns import SPLITS, Columns, Row, cell, cell_text, count_text, kind_of, leaves
from .delimited import delimited_rows, find_dialect
from .json_layouts import find_rows, parse, row_of
from .layout import FILLED_LINE, strip_emphasis
from .markup import plain_text
from .recognise import ending_of

_PEEK = 50


@dataclass(frozen=True)
class TableFormat:
    """How the rows of a file are read.

    Attributes:
        kind: Name for the user.
        raw_rows: Numbered rows of a file as they stand there.
        parse: Raw row to values by column, or None where it can't be read (counted); None where
            raw rows are that already.
        divisible: Whether the rows of a shard are known before they are parsed.
        root: The keys that the rows of a JSON file lie under, joined by dots.
    """

    kind: str
    raw_rows: Callable[[Path, Reading], Iterator[RawRow]]
    parse: Callable[[Path, RawRow, Reading], Row | None] | None = None
    divisible: bool = False
    root: str = ""


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

    def column(self, asked: str | None) -> str | None:
        """The column that the user named, perhaps with the list of a JSON file before it."""
        root = self.format.root
        if not asked or not root or asked in self.columns:
            return asked
        return None if asked == root else asked.removeprefix(f"{root}.")


def _rows(path: Path, form: TableFormat, reading: Reading) -> Iterator[tuple[int, Row]]:
    raw_rows = form.raw_rows(path, reading) if reading.raw is None else iter(reading.raw)
    for number, raw in raw_rows:
        row = raw if form.parse is None else form.parse(path, (number, raw), reading)
        if row is not None:
            yield number, row


def open_table(path: Path, asked: Sequence[str] = ()) -> Table:
    """Look at the layout, the columns and the first rows of a file.

    Args:
        path: The file.
        asked: Columns that the user named, which tell a header and one list from others.

    Raises:
        InputError: It has no rows that can be read.
    """
    form = FORMATS[ending_of(path)](path, asked)
    # Bad rows among the first are met again, and reported, when the file is read.
    peek = Reading(SourceReport(path.stem), skip_bad_rows=True)
    head = [row for _, row in itertools.islice(_rows(path, form, peek), _PEEK)]
    if not head:
        if not peek.report.dropped:
            raise InputError(f"{path} is empty: it has no rows", "give a file with rows")
        first = peek.report.notes[0].removeprefix(f"{path.name}, ").replace(" was left out", "")
        raise InputError(
            f"{path} has no row that can be read; {first}",
            "write it again, as JSON lines or with quotes around texts, or as one text a line "
            "under a single name",
        )
    columns = dict.fromkeys(name for row in head for name, _ in leaves(row))
    if not columns:
        raise InputError(f"{path} has rows without any column", "give rows with texts in them")
    return Table(path, form, list(columns), head)


def _delimited(path: Path, asked: Sequence[str]) -> TableFormat:
    dialect = find_dialect(path, asked)
    kind = "TSV" if ending_of(path) == ".tsv" else "CSV"
    return TableFormat(dialect.describe(kind), functools.partial(delimited_rows, dialect))


def _json_lines(path: Path, asked: Sequence[str]) -> TableFormat:
    """JSON lines, or JSON as a whole under their name."""
    found = encoding.lines(path, lambda _: None, empty=encoding.EmptyLines())
    lines = (line for line in found if line.strip())
    first, second = next(lines, ""), next(lines, "")
    try:
        value = json.loads(first)
        whole = not second and isinstance(value, (list, dict)) and _is_container(value)
    except (ValueError, RecursionError):
        whole = _parses(path)
    return _json(path, asked) if whole else _LINES


def _is_container(value: Any) -> bool:
    """Whether a single line is a file of rows rather than a row."""
    if isinstance(value, list):
        return messages_of(value) is None
    return messages_of(value) is None and all(isinstance(v, (list, dict)) for v in value.values())


def _parses(path: Path) -> bool:
    """Whether a file is JSON as a whole, of several values perhaps."""
    try:
        value = parse(encoding.decode(read_bytes(path), path, lambda _: None), path)
    except InputError:
        return False
    return isinstance(value, (list, dict))


def _raw_lines(path: Path, reading: Reading) -> Iterator[RawRow]:
    empty = encoding.EmptyLines()
    lines = encoding.lines(path, reading.report.note, reading.advance, empty)
    for place, line in enumerate(lines, 1):
        number = place + empty.count
        if reading.is_mine(number) and line.strip():
            yield number, line


def _parse_line(path: Path, raw: RawRow, reading: Reading) -> Row | None:
    number, line = raw
    what = "not a JSON object"
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        what = f"not valid JSON ({error.msg.removesuffix(' at')} at character {error.colno})"
    except (ValueError, RecursionError):
        what = "not valid JSON (nested too deeply, or a number that is too long)"
    else:
        row = row_of(value) if isinstance(value, (str, dict, list)) else {"text": value}
        if not isinstance(value, list) or "messages" in row or isinstance((value or [0])[0], dict):
            return row
    reading.bad_row(path, number, what)
    reading.file.characters += characters(line)
    reading.file.leave_out("bad rows", line)
    return None


_LINES = TableFormat("JSON lines", _raw_lines, _parse_line, divisible=True)


def _json(path: Path, asked: Sequence[str]) -> TableFormat:
    text = encoding.decode(read_bytes(path), path, lambda _: None)
    column = asked[0] if asked else None
    try:
        value = parse(text, path)
    except InputError:
        lines = FILLED_LINE.findall(text)
        if sum(line[:1] == "{" and line.rstrip()[-1:] == "}" for line in lines) * 2 <= len(lines):
            raise
        return _LINES  # called .json, with rows that are broken
    if _are_lines(text, value):
        return _LINES
    _, roots, _ = find_rows(value, path, column)
    names = " and ".join(f"'{root}'" for root in roots)
    kind = f"JSON (the rows of {names})" if names else "JSON"
    rows = functools.partial(_json_rows, column)
    return TableFormat(kind, rows, root=roots[0] if len(roots) == 1 else "")


def _are_lines(text: str, value: Any) -> bool:
    """Whether a text of several values has one on each line, as JSON lines have."""
    if text[:1] != "{" or not isinstance(value, list):
        return False
    return len(value) == sum(1 for _ in FILLED_LINE.finditer(text))


def _json_rows(asked: str | None, path: Path, reading: Reading) -> Iterator[RawRow]:
    value = parse(encoding.decode(read_bytes(path), path, reading.report.note), path)
    rows, _, outside = find_rows(value, path, asked)
    _leave_out(reading, "text outside of the rows", outside)
    reading.file.characters += outside
    yield from enumerate(rows, 1)
    reading.advance(path.stat().st_size)


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
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # a text may be no UTF-8
        where = f" after row {number}" if number else ""
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(
            f"{path} is not a whole parquet file{where}: {reason}", "fetch or write it again"
        ) from error


FORMATS: dict[str, Callable[[Path, Sequence[str]], TableFormat]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _delimited,
    ".tsv": _delimited,
    ".parquet": lambda path, asked: TableFormat("parquet", _parquet, divisible=True),
}
"""What tells the format of a file, by the ending of its name."""


def row_documents(
    table: Table, columns: Columns, domain: str, label: str, reading: Reading
) -> Iterator[Document]:
    """The rows of a table whose columns are known by name.

    Rows of the same prompt are one group, or else of the same title, or else each row. The messages
    of a talk are one document.
    """
    reading.file.form = f"{table.format.kind}, {columns.describe()}"
    reading.report.add_form(reading.file.form)
    if columns.aside:
        said = ", ".join(f"'{name}' ({share:.0%})" for name, share in columns.aside)
        reading.report.note(f"columns left aside, and their share of the characters: {said}")
    made = _talks if columns.talk is not None else _texts
    yield from made(table, columns, domain, label, reading)


def _leave_out(reading: Reading, reason: str, count: int) -> None:
    if count:
        reading.file.left_out[reason] += count


def _count(row: Row, columns: Columns, reading: Reading) -> None:
    """Count the characters of a row but for its text; those of unused columns are left out."""
    silent = (columns.split, columns.talk, columns.speaker)
    used = (columns.prompt, columns.context, columns.title)
    for name, value in leaves(row):
        text = name == columns.text or name.startswith(f"{columns.text}.")
        if text or name in silent or columns.is_swipes(name):
            continue
        count = count_text(value)
        reading.file.characters += count
        if name not in used:
            _leave_out(reading, f"column '{name}'", count)


def _texts(
    table: Table, columns: Columns, domain: str, label: str, reading: Reading
) -> Iterator[Document]:
    for number, row in table.rows(reading):
        _count(row, columns, reading)
        value = cell(row, columns.text)
        if columns.wanted and cell(row, columns.wanted) is False:
            reason = f"rows whose '{columns.wanted}' is false"
            prompts = [cell(row, name) for name in (columns.prompt, columns.context)]
            reading.report.drop(reason)
            reading.file.characters += count_text(value)
            reading.file.left_out[reason] += count_text((value, prompts))
            continue
        prompts = [_prompt(cell(row, name), reading) for name in (columns.prompt, columns.context)]
        prompt = "\n\n".join(part for text in prompts if text and (part := clean(text)))
        messages = messages_of(value)
        if messages is not None:
            prompt, messages = _with_prompt(prompt, row, columns, messages, reading)
        text = cell_text(value) if messages is None else ""
        if text and columns.escaped:
            text = text.replace("\\r\\n", "\n").replace("\\n", "\n").replace("\\t", "\t")
        if text and (messages := template_messages(text)):
            reading.report.note("templates of chat models were read as talks")
        if messages is not None:
            talk = _talk(messages, reading)
            reading.file.left_out += talk.left_out
            prompt = "\n\n".join(filter(None, (prompt, talk.prompt)))
            text, reason = talk.text, "talks without a reply"
        elif text is None:
            reason = _no_text(value, columns, reading)
        else:
            text = _plain(text, reading)
            reading.file.characters += characters(text)
            text, reason = strip_emphasis(clean(text)), "rows without text"
        if not text:
            reading.report.drop(reason)
            reading.file.leave_out(reason, prompt)
            continue
        title = clean_line(cell_text(cell(row, columns.title)) or "") or None
        group = row_group(label, number, prompt or title)
        yield Document(domain, group, text, prompt or None, title, _split(row, columns))


def _plain(text: str, reading: Reading) -> str:
    """A text without markup, which is said; what is left out of it is counted as met."""
    plain = plain_text(text)
    if plain.what:
        reading.report.note(f"{plain.what} in rows was turned into text")
        reading.file.characters += plain.left_out.total()
        reading.file.left_out += plain.left_out
    return plain.text


def _prompt(value: Any, reading: Reading) -> str:
    """The text of a prompt, whose characters have been counted with its row."""
    text = cell_text(value) or ""
    plain = _plain(text, reading)
    reading.file.characters += characters(plain) - characters(text)
    return plain


def _talk(messages: Sequence[Message], reading: Reading) -> Talk:
    """A talk as a document, its messages without markup."""
    plain = [replace(message, text=_plain(message.text, reading)) for message in messages]
    reading.file.characters += count_messages(plain)
    return compose(plain)


def _with_prompt(
    prompt: str, row: Row, columns: Columns, messages: list[Message], reading: Reading
) -> tuple[str, list[Message]]:
    """What stands before a talk: messages of the prompt, or the prompt unless the talk has it."""
    before = messages_of(cell(row, columns.prompt))
    if before is not None:
        reading.file.characters -= count_text(cell(row, columns.prompt))
        return "", messages if messages[: len(before)] == before else [*before, *messages]
    if any(message.role == USER and clean(message.text) == prompt for message in messages):
        reading.file.characters -= count_text(cell(row, columns.prompt))
        return "", messages
    return prompt, messages


def _no_text(value: Any, columns: Columns, reading: Reading) -> str:
    """Count a cell that is no text, and say why it is left out."""
    reason = f"rows whose '{columns.text}' is {kind_of(value)}"
    count = count_text(value)
    reading.file.characters += count
    _leave_out(reading, reason, count)
    return reason


def _split(row: Row, columns: Columns) -> str | None:
    value = cell(row, columns.split)
    return SPLITS.get(value.strip().lower()) if isinstance(value, str) else None


def _talks(
    table: Table, columns: Columns, domain: str, label: str, reading: Reading
) -> Iterator[Document]:
    """Rows that are messages, or what was said and replied, as one document for each talk."""
    talks: dict[str, list[Message]] = {}
    splits: dict[str, str | None] = {}
    count = 0
    for _, row in table.rows(reading):
        _count(row, columns, reading)
        messages = list(_messages(row, columns, reading))
        if columns.talk:
            name = str(cell(row, columns.talk))
        else:  # a system message begins another talk
            begins = bool(talks) and any(m.role == SYSTEM and m.text for m in messages)
            count += begins and columns.speaker != "name"
            name = str(count)
        talks.setdefault(name, []).extend(messages)
        splits.setdefault(name, _split(row, columns))
    for name, messages in talks.items():
        talk = _talk(messages, reading)
        reading.file.left_out += talk.left_out
        if talk.text:
            group = f"{label}:{name}"
            yield Document(domain, group, talk.text, talk.prompt or None, split=splits[name])
        else:
            reading.report.drop("talks without a reply")


def _messages(row: Row, columns: Columns, reading: Reading) -> Iterator[Message]:
    """The messages of a row."""
    if "chat_metadata" in row:  # the first line of a chat of SillyTavern
        return
    value = cell(row, columns.text)
    text = cell_text(value)
    if columns.prompt and (prompt := cell_text(cell(row, columns.prompt))):
        reading.file.characters -= count_text(prompt)  # counted with the messages
        yield Message(USER, prompt)
    if text is None:
        reading.report.drop(_no_text(value, columns, reading))
    elif not text.strip():
        reading.report.drop("rows without text")
    elif columns.speaker:
        keys = ("is_user", "is_system", "swipes")
        said: Row = {key: row[key] for key in keys if key in row}
        said = {**said, columns.speaker: cell(row, columns.speaker), "content": text}
        yield message_of(said, columns.speaker)
    else:
        yield Message(REPLY, text)


def row_group(label: str, number: int, common: str | None) -> str:
    """The group of a row: what it has in common with others (the same in every file), or itself."""
    if common is None:
        return f"{label}:{number}"
    return f"prompt:{' '.join(common.casefold().split())}"
