"""JSON as a whole: where the rows are in an object or list, whatever tool wrote it.

Known are lists of objects, of texts and of lists; objects with lists of rows, however deep; splits
(``{"train": […], "test": […]}``); columns (``{"text": […], "title": […]}``) and the layouts of
pandas; objects from title to text; one object that is a row. Where several lists could be meant the
user is asked. Text outside of the rows is counted.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from .chats import decoded, is_message, messages_of
from .columns import SPLITS, TEXT, Row, count_text, is_known_name, shares, strings
from .delimited import table_of_lists

_BETWEEN_VALUES = re.compile(r"[ \t\r\n,\x1e]*")
_DEEPEST = 50
_NEARLY_ALL = 0.9
# A list of strings with fewer words each is one of names or tags.
_WORDS_OF_TEXT = 5


@dataclass(frozen=True)
class Part:
    """Some rows of a file.

    Attributes:
        path: The keys of the objects that they lie in, joined by dots.
        rows: Objects, or texts.
        split: What the key says of them.
    """

    path: str
    rows: Sequence[Any]
    split: str | None = None


def parse(text: str, path: Path) -> Any:
    """The value of a JSON file; several values one after another become a list.

    Raises:
        InputError: It is no JSON; the message has the line.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise InputError(f"{path} is nested too deeply to be read", "give a flat list") from error
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise InputError(
                f"{path}, line {error.lineno}: not valid JSON ({error.msg})", "write it again"
            ) from error
    except ValueError as error:
        raise InputError(
            f"{path}: not valid JSON (a number that is too long)", "write it again"
        ) from error
    decoder, values, at = json.JSONDecoder(), [], 0
    while at < len(text):
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            line = text.count("\n", 0, at) + 1
            raise InputError(f"{path}, line {line}: not valid JSON", "write it again") from error
        values.append(value)
        gap = _BETWEEN_VALUES.match(text, end)
        at = end if gap is None else gap.end()
    return values


def find_rows(value: Any, path: Path, asked: str | None = None) -> tuple[list[Row], list[str], int]:
    """The rows of a JSON value, the paths of their lists, and characters that are in no row.

    Args:
        value: What the file holds.
        path: The file, for messages.
        asked: The column that the user named, perhaps with the list before it.

    Raises:
        InputError: There are no rows, or it can't be told which are meant.
    """
    parts = _parts(value)
    if not parts:
        raise InputError(f"{path} holds no list of rows", "give a list of objects, or JSON lines")
    chosen = _chosen(parts, path, asked)
    rows: list[Row] = []
    for part in chosen:
        found = _as_rows(part.rows)
        rows += [{**row, "split": part.split} for row in found] if part.split else found
    outside = count_text(value) - sum(count_text(part.rows) for part in chosen)
    if isinstance(value, dict) and len(chosen) == 1 and not chosen[0].path:
        outside = 0  # the object as a whole
    return rows, [part.path for part in chosen if part.path], max(0, outside)


def _parts(value: Any, path: str = "", depth: int = 0) -> list[Part]:
    """Everything in a value that could be the rows."""
    if isinstance(value, str):
        return [Part(path, [value])] if not path else []
    if isinstance(value, list):
        split = SPLITS.get(path.rpartition(".")[2].lower())
        return [Part(path, value, split)] if value else []
    if not isinstance(value, dict) or depth > _DEEPEST:
        return []
    rows = _one_row(value) or _table(value)
    if rows is not None:
        return [Part(path, rows, SPLITS.get(path.rpartition(".")[2].lower()))]
    found: list[Part] = []
    for key, part in value.items():
        found += _parts(part, f"{path}.{key}" if path else str(key), depth + 1)
    if found or path:
        return found
    texts = [part for part in value.values() if isinstance(part, str)]
    if len(texts) == len(value) > 1 and not any(map(is_known_name, value)):
        # From titles to texts.
        return [Part("", [_titled(key, text) for key, text in value.items()])]
    return [Part("", [value])] if value else []


def _titled(title: str, text: str) -> Row:
    return {"text": text} if title.strip().isdigit() else {"title": title, "text": text}


def _is_text_name(name: str) -> bool:
    return name.strip().lower() in TEXT


def _one_row(value: dict[str, Any]) -> list[Any] | None:
    """An object as a row of its own: a talk, or most of its characters in one text."""
    if any(messages_of(part) is not None for part in value.values()):
        return [value]
    total = count_text(value)
    for key, part in value.items():
        texts = isinstance(part, str) and _is_text_name(key)
        if texts and 2 * count_text(part) >= total > 0:
            return [value]
    return None


def _table(value: dict[str, Any]) -> list[Any] | None:
    """The rows of an object that holds columns, or rows by their index, as pandas writes them."""
    if {"columns", "data"} <= set(value) and isinstance(value["data"], list):
        columns = value["columns"]
        if isinstance(columns, list) and all(isinstance(row, list) for row in value["data"]):
            return [dict(zip(map(str, columns), row, strict=False)) for row in value["data"]]
    parts = list(value.values())
    if all(isinstance(part, list) for part in parts):
        lengths = {len(part) for part in parts}
        flat = all(_is_flat(part) for part in parts)
        known = any(is_known_name(str(key)) for key in value)
        if flat and known and len(lengths) == 1 and 0 not in lengths and not _splits(value):
            return [dict(zip(value, row, strict=True)) for row in zip(*parts, strict=True)]
        return None
    if not all(isinstance(part, dict) and part for part in parts) or _splits(value):
        return None
    by_column = [set(part) for part in parts]
    same = all(keys == by_column[0] for keys in by_column)
    if all(_has_text(part) for part in parts):
        return parts
    flat = all(_is_flat(part.values()) for part in parts)
    numbered = all(str(key).isdigit() for key in by_column[0])
    if same and flat and any(map(is_known_name, value)) and (numbered or len(parts) > 1):
        return [{name: value[name][key] for name in value} for key in parts[0]]
    if flat and numbered and same:
        return [{name: value[name][key] for name in value} for key in parts[0]]
    return None


def _has_text(row: dict[str, Any]) -> bool:
    return any(isinstance(cell, str) and _is_text_name(name) for name, cell in row.items())


def _is_flat(values: Any) -> bool:
    return not any(isinstance(value, (list, dict)) for value in values)


def _splits(value: dict[str, Any]) -> bool:
    return all(str(key).lower() in SPLITS for key in value)


def _is_prose(rows: Sequence[Any]) -> bool:
    """Whether rows could hold texts: objects or lists with some words, or strings of several."""
    texts = list(strings(list(rows)))
    words = sum(len(text.split()) for text in texts)
    wide = sum(map(len, texts)) > 40 * len(texts)  # scripts without spaces
    return bool(texts) and (wide or words >= _WORDS_OF_TEXT * len(texts))


def _signature(part: Part) -> frozenset[str]:
    """What rows have in common with those of other lists."""
    first = next((row for row in part.rows if isinstance(row, dict)), None)
    return frozenset(map(str, first)) if first else frozenset([type(part.rows[0]).__name__])


def _chosen(parts: list[Part], path: Path, asked: str | None) -> list[Part]:
    """The parts that are meant.

    Raises:
        InputError: Several could be.
    """
    if len(parts) == 1:
        return parts
    if asked:
        named = [part for part in parts if asked == part.path or asked.startswith(f"{part.path}.")]
        if named:
            return named[:1]
    splits = [part for part in parts if part.split]
    candidates = splits or [part for part in parts if _holds_texts(part)]
    if not candidates:
        candidates = parts
    counts = {part.path: count_text(part.rows) for part in candidates}
    common = frozenset.intersection(*map(_signature, candidates))
    if splits or any(map(is_known_name, common)) or common == {"str"}:
        return candidates
    total = max(1, sum(counts.values()))
    best = max(candidates, key=lambda part: counts[part.path])
    if len(candidates) == 1 or counts[best.path] >= _NEARLY_ALL * total:
        return [best]
    listed = ", ".join(f"'{name}' ({count / total:.0%})" for name, count in counts.items())
    raise InputError(
        f"{path} holds several lists that could be the texts: {listed}",
        f"name one, with its column if need be: --text-column {_example(best)}",
    )


def _example(part: Part) -> str:
    counts = shares([row for row in part.rows if isinstance(row, dict)][:50])
    column = max(counts, key=counts.__getitem__, default="")
    return shlex.quote(".".join(filter(None, (part.path, column))))


def _holds_texts(part: Part) -> bool:
    if all(isinstance(row, dict) for row in part.rows):
        return any(map(_is_text_name, _signature(part))) or _is_prose(part.rows)
    return _is_prose(part.rows)


def _as_rows(rows: Sequence[Any]) -> list[Row]:
    """Rows as objects; what is neither object, text nor list is kept for its turn."""
    if rows and all(isinstance(row, list) for row in rows):
        if all(_is_flat(row) for row in rows):
            return table_of_lists(rows)
        return [{"messages": row} for row in rows]
    return [row_of(row) for row in rows]


def row_of(value: Any) -> Row:
    """A row from a value: a text is its only column, and so is a list (of messages)."""
    if isinstance(value, str):
        inner = decoded(value) if value[:1] == "{" else None
        return inner if isinstance(inner, dict) else {"text": value}
    if isinstance(value, dict):
        return value
    if isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
        return {"messages": value} if all(map(is_message, value)) else {"text": value}
    return {"text": value}
