"""A story while it is imported: passages by author, lore, and what had to be left out.

The fields of other programs' files are written by many versions and edited by hand. Nothing is
expected of their types: a value that is no text is counted and never becomes text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ..console import counted
from .tree import MAIN, NOTHING, Lore, State, Story

# Control characters and surrogates, which terminals obey and XML refuses.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
# Inline pictures of KoboldAI Lite, whole or cut off, and any embedded data.
_PICTURE = re.compile(
    r"\[<\|([pdh])\|[^\[\]|]*(?:\|\1\|>)?\]?|!\[[^\[\]\n]*\]\(data:[^()\s]*\)"
    r"|data:[\w.+-]+/[\w.+-]+;base64,[A-Za-z0-9+/=]*"
)
_THOUGHT = re.compile(r"<think>(?:(?!</?think>).)*</think>\s*", re.DOTALL)
# A key word, or a regular expression between slashes, which may hold commas.
_KEY = re.compile(r"\s*(/(?:[^/\\\n]|\\.)+/[a-z]*(?=\s*(?:,|$))|[^,]+)(?:,|$)")
_MACRO = re.compile(r"\{\{[^\[\]{}\n]{1,60}\}\}")
_NAME = re.compile(r"\{\{\s*(user|char)\s*\}\}|<(user|bot)>", re.IGNORECASE)

_TAGS = {
    "writer": ("{{[INPUT]}}", "### Instruction:", "### Input:", "<|im_start|>user", "[INST]",
               "<start_of_turn>user", "<|user|>", "{inst}",
               "<|start_header_id|>user<|end_header_id|>"),
    "model": ("{{[OUTPUT]}}", "### Response:", "<|im_start|>assistant", "[/INST]",
              "<start_of_turn>model", "<|assistant|>", "<|model|>", "{/inst}",
              "<|start_header_id|>assistant<|end_header_id|>"),
    "system": ("{{[SYSTEM]}}", "<|im_start|>system", "<|system|>", "{sys}",
               "<|start_header_id|>system<|end_header_id|>"),
    "end": ("{{[INPUT_END]}}", "{{[OUTPUT_END]}}", "{{[SYSTEM_END]}}", "<|im_end|>",
            "<end_of_turn>", "<|eot_id|>", "{/sys}", "</s>"),
}  # fmt: skip
"""Marks of the turns of a conversation with an instructed model, by who speaks after them."""
_SETTINGS = {
    "writer": ("instruct_starttag",),
    "model": ("instruct_endtag",),
    "system": ("instruct_systag",),
    "end": ("instruct_starttag_end", "instruct_endtag_end", "instruct_systag_end"),
}


class Imported(NamedTuple):
    """What a file holds.

    Attributes:
        story: The story; empty if the file holds world info alone.
        form: Name of the program and the form.
        left_out: What could not be taken over, with counts.
        said: Further remarks.
        lore_only: Whether the file holds world info alone.
    """

    story: Story
    form: str
    left_out: tuple[str, ...] = ()
    said: tuple[str, ...] = ()
    lore_only: bool = False

    def notes(self) -> list[str]:
        """Lines for the user: what came, what did not, what was changed."""
        state, passages = self.story.state, self.story.path()
        parts = [] if self.lore_only else [counted(len(passages), "passage")]
        parts += [name for name in ("memory", "note") if getattr(state, name)]
        counts = {
            "lore": len(state.lore),
            "further branches": len(state.heads) - 1,
            "versions set aside": len(self.story.ends()),
        }
        parts += [f"{things} ({count:,})" for things, count in counts.items() if count]
        lines = [f"{self.form}: {', '.join(parts) or 'empty'}"]
        lines += [f"left out: {', '.join(self.left_out)}"] if self.left_out else []
        return [*lines, *self.said]


class Form(NamedTuple):
    """A form of another program: its name, how it is recognised, how it is read."""

    name: str
    matches: Callable[[Any], bool]
    read: Callable[[Any, Draft], None]


class Draft:
    """A story while it is imported.

    Attributes:
        form: Name of the program and the form.
        memory: Text at the front of the model's view.
        note: Text near its end.
        title: Title of the story.
        lore: Entries of lore.
        lore_only: Whether the file holds world info alone.
        lost: What could not be taken over, and how much of it.
        rest: What could not be taken over, where there is nothing to count.
        said: Further remarks.
        names: What stands for the placeholders ``user`` and ``char``.
        defaults: What stands for the placeholders of a scenario.
        macros: Further placeholders of the program, in their order, which stay as they are.
    """

    def __init__(self, form: str) -> None:
        self.form = form
        self.memory = self.note = self.title = ""
        self.lore: list[Lore] = []
        self.lore_only = False
        self.lost: Counter[str] = Counter()
        self.rest: list[str] = []
        self.said: list[str] = []
        self.names: dict[str, str] = {}
        self.defaults: dict[str, str] = {}
        self.macros: dict[str, None] = {}
        self.tags = turn_tags({})
        self._story = Story()
        self._heads: dict[str, int] = {}
        self._head = NOTHING
        self._gap = False  # whether a paragraph must begin
        self._end = ""  # the last characters

    @property
    def begun(self) -> bool:
        """Whether there is a passage."""
        return self._head != NOTHING

    def text(self, value: Any, what: str = "pieces") -> str:
        """``value`` as clean text, with names for placeholders; "" (counted) if it is no text."""
        if not isinstance(value, str):
            if value is not None:
                self.lost[f"{what} without text"] += 1
            return ""
        if self.names and ("{{" in value or "<" in value):
            value = _NAME.sub(self._named, value)
        if "{{" in value:
            self.macros.update(dict.fromkeys(map(clean, _MACRO.findall(value))))
        return clean(value)

    def _named(self, match: re.Match[str]) -> str:
        who = "user" if (match[1] or match[2]).lower() == "user" else "char"
        return self.names.get(who) or match[0]

    def prose(self, value: Any, what: str = "pieces") -> str:
        """:meth:`text` without pictures and a model's hidden reasoning, which are counted."""
        text, pictures = _PICTURE.subn("", self.text(value, what))
        text, thoughts = _THOUGHT.subn("", text)
        self.lost["pictures"] += pictures
        self.lost["thoughts of a model"] += thoughts
        return text

    def add(self, text: str, by: str = "model", others: Iterable[str] = ()) -> None:
        """Add a passage to the branch; ``others`` are its versions that were not chosen."""
        for other in others:
            if other.strip() and other != text:
                self._story.offer(self._joined(other), self._head, by=by)
        text = self._joined(text)
        if not text.strip("\n") and (self._gap or not text):
            return
        self._head = self._story.offer(text, self._head, by=by).id
        self._end, self._gap = (self._end + text)[-2:], False

    def _joined(self, text: str) -> str:
        if not self._gap:
            return text
        there = len(self._end) - len(self._end.rstrip("\n"))
        return ("" if self._head == NOTHING else "\n" * (2 - there)) + text.lstrip()

    def paragraph(self) -> None:
        """Begin the next passage with a paragraph."""
        self._gap = True

    def turns(self, value: Any, by: str = "model", others: Iterable[str] = ()) -> None:
        """Add text in which marks say who speaks: each turn becomes a paragraph of its author."""
        before = self.lost["pictures"]
        text, place = self.prose(value), 0
        if not text.strip() and self.lost["pictures"] > before:
            return
        for match in self.tags.finditer(text):
            self._turn(text[place : match.start()].rstrip(), by)
            by, place = str(match.lastgroup), match.end()
            self.paragraph()
            self.lost["instruct tags"] += 1
        self._turn(text[place:], by, others if not place else ())

    def _turn(self, text: str, by: str, others: Iterable[str] = ()) -> None:
        if by == "system":
            self.lost["system messages"] += bool(text.strip())
        else:
            self.add(text, "model" if by == "end" else by, others)

    def branch(self, texts: Iterable[Any]) -> None:
        """Add another branch, from its first passage; the current one stays the main one."""
        main = self._head, self._end, self._gap
        self._head, self._end, self._gap = NOTHING, "", False
        for text in texts:
            self.turns(text)
        if self._head != NOTHING:
            self._heads[f"branch {len(self._heads) + 2}"] = self._head
        self._head, self._end, self._gap = main

    def chapter(self, title: str) -> None:
        """Begin a chapter: a heading with an empty line around it."""
        self.paragraph()
        self.add(" ".join(title.split()) + "\n\n", "chapter")

    def entry(
        self,
        keys: Any,
        text: Any,
        *,
        always: bool = False,
        secondary: Any = (),
        excluding: Any = (),
        probability: Any = None,
        enabled: bool = True,
    ) -> None:
        """Add an entry of lore; one that is off or empty is counted.

        Args:
            keys: Key words, as a list or separated by commas; ``/…/`` is a regular expression.
            text: Its text.
            always: Whether it is always in view.
            secondary: Key words of which one must occur as well.
            excluding: Key words of which none may occur.
            probability: In percent; 100 if it is no number.
            enabled: Whether it is on.
        """
        words = self.prose(text, "entries of lore").strip()
        if not words:
            if isinstance(text, str):
                self.lost["empty entries of lore"] += 1
        elif not enabled:
            self.lost["entries of lore that are off"] += 1
        else:
            percent = number(probability, 100)
            names, second, without = map(self.keys, (keys, secondary, excluding))
            chance = min(100, max(0, round(percent)))
            entry = Lore(names, words, always, second, without, chance)
            if not names and not always:
                self.said.append(f"lore without a key word is never in view: {words[:40]}")
            self.lore.append(entry)

    def keys(self, keys: Any) -> tuple[str, ...]:
        """Key words of a list, or of a text in which commas separate them."""
        if isinstance(keys, str):
            keys = [match[1] for match in _KEY.finditer(self.text(keys))]
        if not isinstance(keys, (list, tuple)):
            return ()
        found = (self.text(key, "keys").replace("\n", " ").strip() for key in keys)
        return tuple(dict.fromkeys(key for key in found if key))

    def without_place(self, what: str, value: Any) -> None:
        """Note a part of the file that a story has no place for, if there is any."""
        if isinstance(value, (list, tuple, dict)) and what != "settings":
            self.lost[what] += len(value)
        elif value and what not in self.rest:
            self.rest.append(what)

    def finished(self, title: str) -> Imported:
        """The story, without a history: an import can't be undone."""
        state = State(
            "import",
            heads=((MAIN, self._head), *self._heads.items()),
            memory=self.memory.strip(),
            note=self.note.strip(),
            lore=tuple(self.lore),
            title=" ".join((self.title or clean(title)).split()),
        )
        lost = [f"{things} ({count:,})" for things, count in self.lost.items() if count]
        lost += self.rest
        if self.macros:
            several = ", ".join(list(self.macros)[:5]) + (" …" if len(self.macros) > 5 else "")
            self.said.append(f"stays as it is: {several}")
        story = Story(self._story.passages, [state])
        return Imported(story, self.form, tuple(lost), tuple(self.said), self.lore_only)


def clean(text: str) -> str:
    """``text`` with plain line ends and without control characters."""
    return _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def number(value: Any, usual: float) -> float:
    """A number that may be written as text; ``usual`` if it is none."""
    try:
        found = usual if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return usual
    return found if abs(found) < 1e9 else usual


def records(value: Any) -> list[dict[str, Any]]:
    """The objects of a list, or the values of an object that are objects."""
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [one for one in values if isinstance(one, dict)]


def turn_tags(settings: Any) -> re.Pattern[str]:
    """Pattern of the marks of turns: the usual ones and those of KoboldAI Lite's settings."""
    given = settings if isinstance(settings, dict) else {}
    groups = []
    for who, usual in _TAGS.items():
        own = [given.get(name) for name in _SETTINGS[who]] if given.get("opmode", 4) == 4 else []
        words = [one.replace("\\n", "\n").strip() for one in own if isinstance(one, str)]
        known = sorted({*usual, *(one for one in words if len(one) > 2)}, key=len, reverse=True)
        groups.append(f"(?P<{who}>{'|'.join(map(re.escape, known))})")
    return re.compile(rf"(?:{'|'.join(groups)})[ \t]*\n*")


def has_all(record: Any, *names: str) -> bool:
    """Whether ``record`` is an object with all these fields."""
    return isinstance(record, dict) and all(name in record for name in names)


def has_any(record: Any, *names: str) -> bool:
    """Whether ``record`` is an object with one of these fields."""
    return isinstance(record, dict) and any(name in record for name in names)
