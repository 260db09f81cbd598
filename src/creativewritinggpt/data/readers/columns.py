"""Columns: which of a table's hold what, and what their cells hold as text.

Roles are told by well-known names. Where the names tell nothing, the only column with letters is
taken; where several could be meant, the user is asked. A cell that is no text (a
number, an object, a list of words) is never turned into one: its row is left out and counted.

Columns inside of objects have dotted names: ``text.body``, ``chapters.text``.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...errors import InputError
from .. import text as encoding
from ..document import characters
from .chats import KNOWN_ROLES, REPLY, USER, decoded, messages_of

Row = dict[str, Any]

TEXT = (
    "text", "story", "content", "body", "completion", "response", "output", "continuation",
    "chapter", "article", "document", "passage", "essay", "poem", "target", "answer", "chosen",
    "selftext", "full_text",
)  # fmt: skip
PROMPT = ("prompt", "instruction", "premise", "writing_prompt", "question", "source_text")
CONTEXT = ("input", "context")
"""Columns that go on where the prompt ends, as in Alpaca's and Dolly's sets."""
_ANSWERS = ("output", "response", "completion", "answer", "target", "chosen")
TITLE = ("title", "storytitle", "name", "headline", "heading")
TALK = (
    "conversation_id", "conversationid", "chat_id", "chatid", "dialogue_id", "dialog_id",
    "thread_id", "session_id", "conv_id", "talk_id",
)  # fmt: skip
SPEAKER = ("role", "from", "speaker", "sender", "author", "name", "character", "user")
MESSAGE = ("content", "value", "text", "message", "mes", "body", "line", "utterance")
SPLIT = ("split", "set", "partition", "fold")
_OTHER = (
    "id", "index", "author", "date", "url", "link", "genre", "category", "tags", "label", "score",
    "rejected", "source", "language", "words", "timestamp",
)  # fmt: skip
_KNOWN = frozenset(
    (*TEXT, *PROMPT, *CONTEXT, *TITLE, *TALK, *SPEAKER, *MESSAGE, *SPLIT, *_OTHER)
)  # fmt: skip

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "eval", "test", "testing"), "validation"),
}
"""What the names of splits mean here."""

_DEEPEST = 6
_LISTED = 20
_WORTH_SAYING = 0.05
# How a list or an object begins that another program wrote into a cell.
_CODE = ("[{", "['", '["', "{'", '{"')
_LETTER = re.compile(r"[^\W\d_]")


@dataclass(frozen=True)
class Columns:
    """The columns that hold what a document is made of.

    Attributes:
        text: The text, a list of messages, or a message.
        prompt, title: Of the text.
        context: What goes on where the prompt ends.
        split: Says of each row on which side of the split it stands.
        talk: What the rows of one talk have in common; empty where all rows are one talk.
        speaker: Who says the message of a row; with ``talk``.
        messages: Whether the text is a list of messages.
        wanted: Says of each row whether its text is one to be learnt (``label`` of KTO's sets).
        escaped: Whether line ends are written as a backslash and an n.
        aside: Columns with text that is not used, and their share of the characters.
    """

    text: str
    prompt: str | None = None
    title: str | None = None
    context: str | None = None
    split: str | None = None
    talk: str | None = None
    speaker: str | None = None
    messages: bool = False
    wanted: str | None = None
    escaped: bool = False
    aside: tuple[tuple[str, float], ...] = field(default=(), compare=False)

    def describe(self) -> str:
        """For the user: ``prompt from 'prompt', text from 'story'``."""
        prompts = " and ".join(f"'{name}'" for name in (self.prompt, self.context) if name)
        said = f"prompt from {prompts}, " if prompts else ""
        said += f"{'talks' if self.messages else 'text'} from '{self.text}'"
        if self.speaker:
            said += f", speakers from '{self.speaker}'"
        if self.talk is not None:
            said += f", a talk for each '{self.talk}'" if self.talk else ", one talk"
        said += f", where '{self.wanted}' is true" if self.wanted else ""
        said += ", line ends from \\n" if self.escaped else ""
        return said + (f", split from '{self.split}'" if self.split else "")

    def is_swipes(self, column: str) -> bool:
        """Whether a column holds other versions of a message."""
        return self.speaker is not None and column == "swipes"

    def used(self) -> frozenset[str]:
        """The columns that a document is made of."""
        return frozenset(
            filter(None, (self.text, self.prompt, self.title, self.context, self.split))
        ) | frozenset(filter(None, (self.talk, self.speaker, self.wanted)))


def _plain(name: str) -> str:
    """A name in lower case and singular, without the number of one that repeats."""
    name = re.sub(r" \(\d+\)$", "", name.strip()).casefold().replace(" ", "_").replace("-", "_")
    if name in _KNOWN or len(name) < 4:
        return name
    return name[:-3] + "y" if name.endswith("ies") else name.removesuffix("s")


def is_known_name(name: str) -> bool:
    """Whether a column of this name has a known role."""
    return _plain(name) in _KNOWN


def leaves(row: Row, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """The cells of a row with the names of their columns, dotted where they lie in objects."""
    for key, value in row.items():
        name = f"{prefix}{key}"
        if depth < _DEEPEST and isinstance(value, dict) and value and messages_of(value) is None:
            yield from leaves(value, f"{name}.", depth + 1)
        elif depth < _DEEPEST and _is_list_of_objects(value) and messages_of(value) is None:
            inner: dict[str, list[Any]] = {}
            for part in value:
                for column, cell in leaves(part, f"{name}.", depth + 1):
                    inner.setdefault(column, []).append(cell)
            yield from inner.items()
        else:
            yield name, value


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def cell(row: Row, column: str | None) -> Any:
    """What a row has in a column; a list where the column lies in objects of a list."""
    if not column:
        return None
    if column in row:
        return row[column]
    key, dot, rest = column.partition(".")
    while dot and key not in row:
        more, dot, rest = rest.partition(".")
        key = f"{key}.{more}"
    value = row.get(key)
    if isinstance(value, list):
        found = (cell(part, rest) for part in value if isinstance(part, dict))
        return [part for part in found if part is not None]
    return cell(value, rest) if dot and isinstance(value, dict) else None


def strings(value: Any) -> Iterator[str]:
    """Every string in a value, however deep."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict):
            waiting += reversed(part.values())
        elif isinstance(part, (list, tuple)):
            waiting += reversed(part)
        elif isinstance(part, (bytes, bytearray)):
            yield bytes(part).decode("utf-8", "replace")


def count_text(value: Any) -> int:
    """Characters of all strings in a value that hold letters."""
    return sum(characters(text) for text in strings(value) if _LETTER.search(text))


def cell_text(value: Any) -> str | None:
    """The text of a cell, empty where there is none; None where the cell is no text."""
    if value is None or isinstance(value, float) and value != value:
        return ""
    if isinstance(value, str):
        inner = decoded(value) if value[:2] in _CODE else None
        return value if inner is None else cell_text(inner)
    if isinstance(value, (bytes, bytearray)):
        try:
            return encoding.decode(bytes(value), Path("a cell"), lambda _: None)
        except InputError:
            return None
    if isinstance(value, dict):
        inner = [value[key] for key in MESSAGE if key in value]
        return cell_text(inner[0]) if len(inner) == 1 and isinstance(inner[0], str) else None
    if isinstance(value, (list, tuple)):
        parts = [cell_text(part) for part in value]
        texts = [part for part in parts if part and part.strip()]
        # Words, labels and tags are no paragraphs.
        prose = sum(len(part.split()) > 1 for part in texts) * 2 >= len(texts)
        return "\n\n".join(texts) if prose and None not in parts else None
    return None


def kind_of(value: Any) -> str:
    """What a cell is that is no text, for the user."""
    if isinstance(value, (bool, int, float)):
        return "a number"
    if isinstance(value, str):
        value = decoded(value)
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, (list, tuple)):
        return "a list of what is no text"
    if isinstance(value, (bytes, bytearray)):
        return "bytes that are no text"
    return f"of type {type(value).__name__}"


def _named(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """The columns of these names; those inside of objects only where there are no others."""
    top = [column for column in columns if _plain(column) in names]
    return top or [c for c in columns if "." in c and _plain(c.rpartition(".")[2]) in names]


def shares(head: Sequence[Row]) -> dict[str, float]:
    """By column, its share of the characters in the first rows."""
    counts: Counter[str] = Counter()
    for row in head:
        for column, value in leaves(row):
            counts[column] += count_text(value)
    total = max(1, counts.total())
    return {column: count / total for column, count in counts.items()}


def _listed(columns: Sequence[str], found: dict[str, float]) -> str:
    """Columns for a message, those with most text first, and their shares where known."""
    ordered = sorted(columns, key=lambda column: -found.get(column, 0.0))
    shown = [
        f"{column} ({found[column]:.0%})" if found.get(column, 0.0) >= 0.005 else column
        for column in ordered[:_LISTED]
    ]
    more = len(ordered) - _LISTED
    return ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")


def find_columns(
    path: Path,
    columns: Sequence[str],
    prompt_column: str | None = None,
    text_column: str | None = None,
    head: Sequence[Row] = (),
) -> Columns:
    """The columns of text, prompt, title and the rest, of all that could hold text.

    Args:
        path: The file, for messages.
        columns: Their names, as :func:`leaves` gives them.
        prompt_column: What the user named for the prompt ...
        text_column: ... and for the text.
        head: The first rows, which tell what names don't.

    Raises:
        InputError: It can't be told; the message lists the columns and names the flags.
    """
    found = shares(head)
    if prompt_column:
        prompt_column = _asked(path, columns, prompt_column, "--prompt-column", found)
    if text_column:
        text_column = _asked(path, columns, text_column, "--text-column", found)
    speaker = None if text_column else _speaker(columns, head)
    if speaker and "parent_id" in columns:
        raise InputError(
            f"{path} is a tree of messages, each with its 'parent_id'",
            "write its branches as lists of messages, or read each message by itself: "
            "--text-column NAME",
        )
    text = text_column or _text(path, columns, prompt_column, speaker, head, found)
    prompt, context = prompt_column, None
    messages = _holds_messages(text, head)
    if prompt is None and speaker is None:
        prompt, context = _prompt(path, columns, text, found)
    talk = _talk(columns, head, speaker)
    if talk and speaker is None:
        speaker = next(iter(c for c in _named(columns, SPEAKER) if c not in (text, prompt)), None)
    taken = (text, prompt, context, talk, speaker)
    titles = [column for column in _named(columns, TITLE) if column not in taken]
    titles = [c for c in titles if _plain(c) != "name" or not _repeats(c, head)]
    split = [c for c in _named(columns, SPLIT) if c not in taken and _says_splits(c, head)]
    made = Columns(
        text,
        prompt,
        titles[0] if titles else None,
        context,
        split[0] if split else None,
        talk,
        speaker,
        messages,
        _wanted(columns, text, head),
        _is_escaped(text, head),
    )
    aside = tuple(
        (column, share)
        for column, share in sorted(found.items(), key=lambda item: -item[1])
        if share >= _WORTH_SAYING and column not in made.used() and not made.is_swipes(column)
    )
    return replace(made, aside=aside)


def _asked(
    path: Path, columns: Sequence[str], asked: str, flag: str, found: dict[str, float]
) -> str:
    """The column that the user named, or the one with the text in the object of that name."""
    if asked in columns:
        return asked
    inside = [column for column in columns if column.startswith(f"{asked}.")]
    if inside:
        named = _named(inside, (*MESSAGE, *TEXT)) or inside
        if len(named) == 1:
            return named[0]
        raise InputError(
            f"{path}: '{asked}' holds objects with {_listed(inside, found)}",
            f"name one of them: {flag} {shlex.quote(named[0])}",
        )
    raise InputError(
        f"{path} has no column '{asked}' ({flag})", f"its columns: {_listed(columns, found)}"
    )


def _values(column: str, head: Sequence[Row]) -> list[Any]:
    return [value for row in head if (value := cell(row, column)) not in (None, "")]


def _holds_messages(column: str, head: Sequence[Row]) -> bool:
    values = _values(column, head)
    return bool(values) and sum(messages_of(v) is not None for v in values) * 2 > len(values)


def _repeats(column: str, head: Sequence[Row]) -> bool:
    values = [str(value) for value in _values(column, head)]
    return len(set(values)) < len(values)


def _says_splits(column: str, head: Sequence[Row]) -> bool:
    values = _values(column, head)
    return bool(values) and all(isinstance(v, str) and v.strip().lower() in SPLITS for v in values)


def _speaker(columns: Sequence[str], head: Sequence[Row]) -> str | None:
    """The column of who speaks, where rows are messages of talks."""
    if not _named(columns, MESSAGE):
        return None
    if {"is_user", "mes", "name"} <= set(columns):
        return "name"
    for column in _named(columns, SPEAKER):
        values = _values(column, head)
        roles = {KNOWN_ROLES.get(v.strip().lower()) if isinstance(v, str) else "" for v in values}
        if {USER, REPLY} <= roles <= set(KNOWN_ROLES.values()):
            return column
    return None


def _wanted(columns: Sequence[str], text: str, head: Sequence[Row]) -> str | None:
    """The column ``label`` where it says of completions whether they are good ones."""
    values = _values("label", head) if "label" in columns and _plain(text) in _ANSWERS else []
    return "label" if values and all(isinstance(value, bool) for value in values) else None


def _is_escaped(column: str, head: Sequence[Row]) -> bool:
    """Whether texts have line ends as two characters, and none as one."""
    texts = [value for value in _values(column, head) if isinstance(value, str)]
    escaped = sum("\\n" in text for text in texts)
    return escaped * 5 > len(texts) and not any("\n" in text.strip() for text in texts)


def _talk(columns: Sequence[str], head: Sequence[Row], speaker: str | None) -> str | None:
    talks = [column for column in _named(columns, TALK) if speaker or _repeats(column, head)]
    return talks[0] if talks else "" if speaker else None


def _text(
    path: Path,
    columns: Sequence[str],
    prompt: str | None,
    speaker: str | None,
    head: Sequence[Row],
    found: dict[str, float],
) -> str:
    """The column of the texts.

    Raises:
        InputError: It can't be told.
    """
    others = [column for column in columns if column not in (prompt, speaker)]
    if speaker:
        messages = ["mes"] if "mes" in others else _named(others, MESSAGE)
        if len(messages) == 1:
            return messages[0]
    talks = [column for column in others if _holds_messages(column, head)]
    prompts = _named(talks, PROMPT)
    talks = [column for column in talks if column not in prompts] or talks
    named = _named(others, TEXT)
    if any(_plain(column) == "chosen" for column in named):
        return next(column for column in named if _plain(column) == "chosen")
    if named and any(found.get(column) for column in named):
        named = [column for column in named if found.get(column)]
    meant = list(dict.fromkeys([*talks, *named]))
    if not meant and any(_side(column) == USER for column in columns):
        meant = [column for column in others if _side(column) == REPLY]
    if not meant:  # the only column, or the only one with letters
        meant = others if len(others) == 1 else [c for c in others if found.get(c)]
        meant = meant if len(meant) == 1 else []
    if len(meant) == 1:
        return meant[0]
    best = sorted(meant or others, key=lambda column: -found.get(column, 0.0))
    flag = f"--text-column {shlex.quote(best[0])}"
    which = " or ".join(meant) or "none of its columns, as far as their names tell"
    raise InputError(
        f"{path} could hold the text in {which}; its columns: {_listed(columns, found)}",
        "name the column with --text-column (and --prompt-column, if there are prompts): "
        f"cwgpt data inspect {shlex.quote(str(path))} {flag}",
    )


def _prompt(
    path: Path, columns: Sequence[str], text: str, found: dict[str, float]
) -> tuple[str | None, str | None]:
    """The columns of the prompt and of what goes on where it ends."""
    prompts = [column for column in _named(columns, PROMPT) if column != text]
    if len(prompts) > 1:
        example = f"--prompt-column {shlex.quote(prompts[0])}"
        raise InputError(
            f"{path} could hold the prompt in {' or '.join(prompts)}; "
            f"its columns: {_listed(columns, found)}",
            f"name the column with --prompt-column: {example}",
        )
    contexts = [column for column in _named(columns, CONTEXT) if column != text]
    if prompts:
        goes_on = contexts if _plain(prompts[0]) in ("instruction", "question") else []
        return prompts[0], goes_on[0] if goes_on else None
    if _side(text) == REPLY:
        contexts = [column for column in columns if _side(column) == USER]
    elif _plain(text) not in _ANSWERS:
        contexts = []
    return (contexts[0] if contexts else None), None


def _side(column: str) -> str | None:
    """The side of a talk that a column is named after."""
    return KNOWN_ROLES.get(_plain(column))
