"""Files of choices: JSON lines of this program and of the field, and what ``generate --out`` wrote.

A line is one of

    {"prompt": "…", "chosen": "…", "rejected": "…"}            also a list of rejected texts
    {"prompt": "…", "offered": ["…", "…", "…"], "chosen": 1}   in the order shown; null: none taken
    {"line": 3, "prompt": "…", "text": "…", "index": 0, …, "picked": true}

The last is a line of ``cwgpt generate --out``, where ``"picked": true`` was added by hand or by
another tool to the text that was preferred among those of one prompt. ``prompt``, ``chosen`` and
``rejected`` may be lists of messages with ``content``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import from_home, read_text, write_text
from .decisions import ALIKE, WEIGHTS, Decision, Decisions, alike, decisions
from .file import FORMAT, read_story

MOST_BYTES = 256_000_000
"""Size of the largest file of choices."""


def read_any(path: str | os.PathLike[str]) -> Decisions:
    """The decisions of a story or of a file of choices, told by its content.

    Raises:
        InputError: It can't be read or is neither.
    """
    place = from_home(path)
    try:
        if place.is_dir():
            raise InputError(f"{path} is a folder", f"give its files, as in {path}/*.json")
        with place.open("rb") as stream:
            head = stream.read(200)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from error
    if FORMAT.encode() in head:
        return decisions(read_story(place), str(path))
    return read_choices(place)


def read_choices(path: str | os.PathLike[str]) -> Decisions:
    """The decisions of a file of JSON lines; see the head of this module.

    Consecutive lines with the same prompt and the same chosen text are one decision.

    Raises:
        InputError: The file can't be read, or a line has another form.
    """
    place = from_home(path)
    try:
        if place.stat().st_size > MOST_BYTES:
            raise InputError(f"{path} is larger than {MOST_BYTES // 1_000_000} MB")
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from error
    found = Decisions()
    written: dict[tuple[Any, str], list[dict[str, Any]]] = {}
    for number, line in enumerate(read_text(place).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        row = _parsed(line, where)
        if "text" in row and "index" in row:
            prompt = _text(row.get("prompt"), "prompt", where)
            _text(row["text"], "text", where)
            if not isinstance(row.get("line"), (int, str, type(None))):
                raise InputError(f"{where}: line must be a number")
            written.setdefault((row.get("line"), prompt), []).append(row)
        else:
            found.recorded += 1
            _add(found, _decision(row, where, place.name, found))
    for (_, prompt), rows in written.items():
        _written(prompt, rows, place.name, found)
    if not found.recorded:
        raise InputError(
            f"{path} holds no choices",
            "a line is an object with prompt, chosen and rejected; docs/choices.md has the forms",
        )
    return found


def write_pairs(used: Iterable[Decision], path: str | os.PathLike[str]) -> int:
    """Write decisions as pairs, one a line, with ``prompt``, ``chosen`` and ``rejected`` as text.

    A decision over several texts becomes several lines that share its weight. One without a
    preferred text has ``chosen`` null.

    Returns:
        The number of lines.
    """
    rows = []
    for one in used:
        for text in one.rejected:
            row: dict[str, Any] = {"prompt": one.prompt, "chosen": one.chosen, "rejected": text}
            row |= {"kind": one.kind, "weight": round(one.weight / len(one.rejected), 4)}
            beside = {"memory": one.memory, "note": one.note, "model": one.model, "time": one.time}
            rows.append({**row, **{name: value for name, value in beside.items() if value}})
    write_text(from_home(path), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return len(rows)


def _parsed(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
        json.dumps(row, ensure_ascii=False).encode()  # a lone surrogate can't be written again
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{where}: no JSON object", "a file of choices has one object a line"
        ) from error
    if not isinstance(row, dict):
        raise InputError(f"{where}: no JSON object", "a file of choices has one object a line")
    return row


def _text(value: Any, name: str, where: str) -> str:
    """A text, or the contents of a list of messages."""
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        contents = [one.get("content") for one in value]
        if all(isinstance(one, str) for one in contents):
            return "\n\n".join(map(str, contents))
    if not isinstance(value, str):
        raise InputError(f"{where}: `{name}` must be text", "docs/choices.md has the forms")
    return value


def _decision(row: dict[str, Any], where: str, name: str, found: Decisions) -> Decision | None:
    """The decision of one line; None, counted, where it is none."""
    prompt = _text(row.get("prompt"), "prompt", where)
    place, shown = None, 0
    if "offered" in row:
        offered = row["offered"]
        if not isinstance(offered, list):
            raise InputError(f"{where}: `offered` must be a list of texts")
        texts = [_text(one, "offered", where) for one in offered]
        place, shown = row.get("chosen"), len(texts)
        if place is None:
            found.left_out["shown, and none taken"] += 1
            return None
        if isinstance(place, str) and place in texts:
            place = texts.index(place)
        if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < shown:
            raise InputError(f"{where}: `chosen` is none of the texts offered")
        chosen: str | None = texts.pop(place)
    else:
        if "rejected" not in row:
            raise InputError(
                f"{where}: neither `rejected` nor `offered`", "docs/choices.md has the forms"
            )
        chosen = None if row.get("chosen") is None else _text(row["chosen"], "chosen", where)
        rejected = row["rejected"]
        several = isinstance(rejected, list) and all(isinstance(one, str) for one in rejected)
        texts = list(rejected) if several else [_text(rejected, "rejected", where)]
    details = {key: row.get(key) or "" for key in ("memory", "note", "model", "time")}
    for key, value in details.items():
        _text(value, key, where)
    kind = row.get("kind", "pick")
    if not isinstance(kind, str) or kind not in WEIGHTS:
        raise InputError(f"{where}: `kind` is {kind!r}", f"give one of {', '.join(WEIGHTS)}")
    weight = row.get("weight", WEIGHTS["rejected" if chosen is None else kind])
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight <= 100:
        raise InputError(f"{where}: `weight` is no number from 0 to 100")
    return _fit(
        Decision(
            kind, prompt, chosen, tuple(texts), float(weight), **details,
            place=place, shown=shown, where=name,
        ),
        found,
    )  # fmt: skip


def _fit(one: Decision, found: Decisions) -> Decision | None:
    """``one`` without rejected texts that are like the chosen one; None where none is left."""
    kept: list[str] = []
    reasons = []
    for text in one.rejected:
        same = one.chosen is not None and text.strip() == one.chosen.strip()
        near = one.chosen is not None and one.kind not in ("edit", "token")
        if same or text in kept:
            reasons.append("the same text")
        elif near and alike(one.chosen or "", text) > ALIKE:
            reasons.append(f"over {ALIKE:.0%} the same words")
        else:
            kept.append(text)
    if not kept:
        found.left_out[reasons[0] if reasons else "one alternative only"] += 1
        return None
    found.alternatives_left_out.update(reasons)
    fields = {**vars(one), "rejected": tuple(kept)}
    return Decision(**fields)


def _add(found: Decisions, one: Decision | None) -> None:
    """Add a decision, or its rejected texts to the one before where that is the same."""
    if one is None:
        return
    if found.used and one.chosen is not None:
        last = found.used[-1]
        same = (last.kind, last.prompt, last.chosen) == (one.kind, one.prompt, one.chosen)
        if same and last.place is None and one.place is None:
            new = tuple(text for text in one.rejected if text not in last.rejected)
            weight = last.weight + one.weight if new else last.weight
            fields = {**vars(last), "rejected": last.rejected + new, "weight": min(1.0, weight)}
            found.used[-1] = Decision(**fields)
            found.recorded -= 1
            return
    found.used.append(one)


def _written(prompt: str, rows: list[dict[str, Any]], name: str, found: Decisions) -> None:
    """The decision among the texts that ``cwgpt generate --out`` wrote for one prompt."""
    found.recorded += 1
    picked = [number for number, row in enumerate(rows) if row.get("picked") is True]
    if len(rows) == 1:
        found.left_out["one alternative only"] += 1
    elif not picked:
        found.left_out["shown, and none taken"] += 1
    elif len(picked) > 1:
        found.left_out["several picked of one prompt"] += 1
    else:
        texts = [str(row["text"]) for row in rows]
        [place] = picked
        chosen = texts.pop(place)
        head = rows[place]
        details = {key: str(head.get(key) or "") for key in ("memory", "note", "model")}
        one = _fit(
            Decision(
                "pick", prompt, chosen, tuple(texts), WEIGHTS["pick"], **details,
                place=place, shown=len(rows), where=Path(name).name,
            ),
            found,
        )  # fmt: skip
        _add(found, one)
