"""Passages that repeat others, stored once: form 2 of story files.

An edit in mid-story copies the passages behind it, so that a story that was edited often would
consist of copies. Form 2 names them instead of writing them again:

    {"parent": 40, "copies": [12, 30]}        30 passages, which repeat 12, 13 and so on
    {"parent": 40, "copy_of": 7, "text": [0, 25]}        characters 0 to 25 of passage 7

Everything else is as in form 1, which is written as long as little is repeated.
"""

from __future__ import annotations

from typing import Any

ENOUGH = 1 << 16
"""Characters that copies repeat from which on form 2 is written."""
_RECORD = 100  # characters of a record beside its text
_MOST_PASSAGES = 5_000_000
_SAME = ("text", "by", "setup", "seed", "start")

Record = dict[str, Any]


def packed(records: list[Record]) -> list[Record] | None:
    """The records of passages in form 2; None where form 1 is short enough.

    Args:
        records: The records of form 1, by id.
    """
    repeated = sum(len(one["text"]) + _RECORD for one in records if "copy_of" in one)
    if repeated < ENOUGH:
        return None
    found: list[Record] = []
    latest: dict[int, int] = {}  # the last passage that is, or repeats, each one
    ends: dict[int, int] = {}  # where the last part of each passage ended
    place = 0
    while place < len(records):
        source = latest.get(records[place].get("copy_of", -1), -1)
        count = 0
        while (
            place + count < len(records)
            and 0 <= source + count < place
            and _repeats(records[place + count], records[source + count], source + count)
            and (count == 0 or records[place + count]["parent"] == place + count - 1)
        ):
            count += 1
        if count:
            found.append({"parent": records[place]["parent"], "copies": [source, count]})
        else:
            found.append(_part(records[place], records, ends, place))
            count = 1
        for id in range(place, place + count):
            latest[records[id].get("copy_of", id)] = id
        place += count
    return found


def _repeats(one: Record, other: Record, id: int) -> bool:
    return one.get("copy_of") == other.get("copy_of", id) and all(
        one.get(name) == other.get(name) for name in _SAME
    )


def _part(record: Record, records: list[Record], ends: dict[int, int], id: int) -> Record:
    """A record whose text is named as a part of another one's, where it is one."""
    source, text = record.get("copy_of", -1), record["text"]
    if not 0 <= source < id or len(text) < 20:
        return record
    whole = records[source]["text"]
    begin = whole.find(text, ends.get(source, 0))
    if begin < 0:
        begin = whole.find(text)
    if begin < 0:
        return record
    ends[source] = begin + len(text)
    return {**record, "text": [begin, begin + len(text)]}


def unpacked(records: list[Any]) -> list[Record]:
    """The records of form 1 of those of form 2; texts that are repeated are one object.

    Raises:
        ValueError: They are none.
    """
    found: list[Record] = []
    for record in records:
        if "copies" in record:
            source, count = record["copies"]
            _check(source, len(found))
            if isinstance(count, bool) or not 0 < count <= len(found) - source:
                raise ValueError(f"{count!r} copies from passage {source}")
            if len(found) + count > _MOST_PASSAGES:
                raise ValueError("there are too many passages")
            parent = record["parent"]
            for id in range(source, source + count):
                origin = found[id].get("copy_of", id)
                found.append({**found[id], "parent": parent, "copy_of": origin})
                parent = len(found) - 1
            continue
        text = record["text"]
        if isinstance(text, list):
            source = record["copy_of"]
            _check(source, len(found))
            begin, end = text
            whole = found[source]["text"]
            if not 0 <= begin <= end <= len(whole):
                raise ValueError(f"characters {begin} to {end} of passage {source}")
            record = {**record, "text": whole[begin:end]}
        found.append(record)
    return found


def _check(source: Any, count: int) -> None:
    if isinstance(source, bool) or not isinstance(source, int) or not 0 <= source < count:
        raise ValueError(f"{source!r} is no passage before it")
