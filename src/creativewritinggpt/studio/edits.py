"""Edits as a page sends them: offsets in UTF-16 code units, the revision that they rest on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..errors import InputError
from ..story.tree import Lore
from .answers import Conflict

Change = tuple[int, int, str]

SOURCE = "studio"
"""Where the choices that are recorded here come from."""


class OtherTab(Conflict):
    """A change from a tab that follows another (409)."""

    kind = "other_tab"


class ReadOnly(Conflict):
    """A change of a story that can't be changed here (409)."""

    kind = "readonly"


class Stale(Conflict):
    """An edit of an older text (409)."""

    kind = "stale"


class Written(NamedTuple):
    """What a page may have seen of a passage that has just been written.

    Attributes:
        revision: The revision with the whole passage.
        before: Length of the text before it.
        text: The passage.
        seen: Number of an event and length of the passage with it, oldest first.
    """

    revision: int
    before: int
    text: str
    seen: list[tuple[int, int]]

    def length_at(self, n: int | None) -> int:
        """Length of the passage for a page that has applied event ``n``."""
        if n is None:
            return len(self.text)
        known = [length for number, length in self.seen if number <= n]
        return min(known[-1] if known else 0, len(self.text))


def changed(text: str, changes: Sequence[Change]) -> str:
    """A text after changes of its parts, which are given in order."""
    parts, place = [], 0
    for begin, end, insert in changes:
        parts += [text[place:begin], insert]
        place = end
    return "".join([*parts, text[place:]])


def index16(text: str, place: int) -> int:
    """The character at a place in UTF-16 code units.

    Raises:
        InputError: The text is shorter, or the place is within a character.
    """
    if text.isascii() or not place >= 0:
        index = place
    else:
        coded = text.encode("utf-16-le")
        try:
            index = len(coded[: 2 * place].decode("utf-16-le")) if 2 * place <= len(coded) else -1
        except UnicodeDecodeError as error:
            raise InputError("a change begins or ends within a character") from error
    if not 0 <= index <= len(text):
        raise InputError("the text does not have this place", "load the page again")
    return index


def parsed(text: str, changes: Any) -> list[Change]:
    """Changes in characters of ``text``.

    Raises:
        InputError: They are none, or not in order.
    """
    if not isinstance(changes, (list, tuple)):
        raise InputError("changes must be a list")
    found: list[Change] = []
    last = 0
    for one in changes:
        if not isinstance(one, (list, tuple)) or len(one) != 3:
            raise InputError("a change is begin, end and text")
        begin, end, insert = one
        if type(begin) is not int or type(end) is not int or not isinstance(insert, str):
            raise InputError("a change is begin, end and text")
        checked(insert)
        start = index16(text, begin)
        stop = start if end == begin else index16(text, end)
        if not last <= start <= stop:
            raise InputError("changes must be in order")
        last = stop
        if stop > start or insert:
            found.append((start, stop, insert))
    return found


def checked(text: str) -> str:
    """``text``, unless it holds half a character.

    Raises:
        InputError: It does.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError("the text holds half a character, which no file can keep") from error
    return text


def parsed_lore(value: Any) -> tuple[Lore, ...]:
    """Entries of lore as the page gives them.

    Raises:
        InputError: They are none.
    """
    if not isinstance(value, list):
        raise InputError("lore must be a list of entries")
    found = []
    for one in value:
        if not isinstance(one, dict) or not isinstance(one.get("text"), str):
            raise InputError("an entry of lore has keys and a text")
        names = {}
        for name in ("keys", "secondary", "excluding"):
            keys = one.get(name) or []
            if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
                raise InputError(f"{name} of lore must be a list of words")
            names[name] = tuple(checked(key).strip() for key in keys if key.strip())
        percent = one.get("probability", 100)
        if type(percent) not in (int, float) or not 0 <= percent <= 100:
            raise InputError("the probability of lore must be from 0 to 100")
        found.append(
            Lore(
                names["keys"], checked(one["text"]), bool(one.get("always")), names["secondary"],
                names["excluding"], round(percent),
            )
        )  # fmt: skip
    return tuple(found)
