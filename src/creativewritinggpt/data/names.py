"""Names, places, speech and action in English prose, by rules and the lists of ``lexicon.toml``.

A word may be of several kinds at once, as a name within dialogue. Precision and recall are measured
in the tests, on sentences tagged by hand.

Trade-off: a trained tagger would know more; this one needs no download and a few milliseconds.

- ``name``: a capitalised word within a sentence, or at its start where the word is capitalised
  elsewhere or is no common word; not a place.
- ``place``: capitalised and beside a word that goes with places (*in Harrow*, *Birch Street*), or
  a common noun for a place (*castle*, *kitchen*).
- ``dialogue``: within quotation marks; what is not closed ends with its paragraph.
- ``action``: a form of some 400 verbs of visible or audible action, without *say*, *think*, *be*.
- ``prompt``: content words of the prompt, in it and where the story repeats them.
- ``function``: function words (*the*, *of*, *she*).
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Protocol

from .text import WORD

_LEXICON = tomllib.loads((resources.files(__package__) / "lexicon.toml").read_text("utf-8"))


def _listed(name: str) -> frozenset[str]:
    """The words of a list of ``lexicon.toml``."""
    return frozenset(_LEXICON[name].split())


FUNCTION_WORDS, DETERMINERS = _listed("function_words"), _listed("determiners")
BEFORE_VERBS, SPEECH_VERBS = _listed("before_verbs"), _listed("speech_verbs")
TITLES, NOT_NAMES, PLACE_NOUNS = _listed("titles"), _listed("not_names"), _listed("place_nouns")
PLACE_PREPOSITIONS = _listed("place_prepositions")
WEAK_PLACE_PREPOSITIONS = _listed("weak_place_prepositions")
PIECE = re.compile(rf"(?<!\s)\s*\n\s*|{WORD.pattern}")
"""A word as ``text.count_words`` counts it, or white space with a line break."""

KINDS = ("name", "place", "dialogue", "action", "prompt", "function")

_PART = re.compile(r"[^\W_](?:[^\W_]|['’.-](?=[^\W_]))*")
_ENDS = re.compile(r"(?:[.!?…:]|\n)[\"”’')\]*_]*\Z")
_OPENS = re.compile(r"[\"“‘'(\[*_—–-]*[\"“‘]")
_POSSESSIVE = re.compile(r"['’]s?$")
# Endings of common words that are rarely endings of names.
_COMMON = re.compile(r"(?:ing|ly|ed|tion|ness|ment|less|ful|ous|est)$")
# Verbs of one syllable that double their last letter.
_DOUBLING = re.compile(r"[^aeiou][aeiou][bdgklmnprt]$")

_BLANK = re.compile(r"\n[^\S\n]*\n\s*")
_LINE = re.compile(r"\n+")
_DOUBLE = re.compile('["“”„«»]')
# Words that begin with an apostrophe and no quotation.
_ELISIONS = r"(?:tis|twas|twere|twill|em|til|cause|bout|round|neath|nother|ere|n|[0-9]{2}s?)\b"
_SINGLE_OPEN = re.compile(rf"(?<![\w.!?,’'])(?:‘(?=\S)|['’](?!{_ELISIONS})(?=\w))", re.IGNORECASE)
_SINGLE_CLOSE = re.compile(r"(?<=[,.!?…—–-])['’](?!\w)")


class Word(Protocol):
    r"""A word of a text: without the spaces around it, ``\n`` for a line break."""

    @property
    def text(self) -> str:
        """The word."""

    @property
    def span(self) -> tuple[int, int]:
        """Its characters in the text."""


@dataclasses.dataclass(frozen=True)
class _Part:
    """A run of letters: most words have one, ``door—and`` has two.

    Attributes:
        word: Index of its word.
        text: As written.
        key: In lower case, without a possessive ending.
        starts: Whether it begins a sentence or speech, so that a capital says nothing.
        joined: Whether only a space stands between it and the run before.
    """

    word: int
    text: str
    key: str
    starts: bool
    joined: bool

    @property
    def capital(self) -> bool:
        return self.text[:1].isupper() and (len(self.text) == 1 or not self.text.isupper())


def tag(words: Sequence[Word], text: str, prompt: str = "") -> list[set[str]]:
    """The kinds of each word.

    Args:
        words: Words of the text.
        text: The whole text, into which the words' spans point.
        prompt: The part of it that is the prompt. Where that is all of it, no word is of that kind,
            since every word would be.

    Returns:
        For each word a set of ``KINDS``; empty for the start token and for line breaks.
    """
    parts = list(_parts([word.text for word in words]))
    kinds: list[set[str]] = [set() for _ in words]
    for part, kind in zip(parts, _proper(parts), strict=True):
        if kind:
            kinds[part.word].add(kind)
    prompted = "" if prompt == text else prompt
    echoed = {_light(key) for key in map(_key, _PART.findall(prompted)) if _has_content(key)}
    for index, part in enumerate(parts):
        if part.key in FUNCTION_WORDS:
            kinds[part.word].add("function")
        elif _light(part.key) in echoed:
            kinds[part.word].add("prompt")
        if "name" not in kinds[part.word]:
            if _is_place(parts, index):
                kinds[part.word].add("place")
            if _is_action(parts, index):
                kinds[part.word].add("action")
    spans = quoted(text)
    for index, word in enumerate(words):
        if word.text.strip() and any(a < word.span[1] and word.span[0] < b for a, b in spans):
            kinds[index].add("dialogue")
    return kinds


def proper_names(text: str) -> set[str]:
    """The names of persons and places in a text, in lower case, without possessive endings."""
    parts = list(_parts([match.group().strip() or "\n" for match in PIECE.finditer(text)]))
    return {part.key for part, kind in zip(parts, _proper(parts), strict=True) if kind}


def name_key(text: str) -> str | None:
    """What tells a name from another: ``Mira’s,`` and ``Mira`` are ``mira``; None for a title."""
    keys = [_key(part) for part in _PART.findall(text)]
    keys = [key for key in keys if key and key not in TITLES and key not in FUNCTION_WORDS]
    return keys[0] if keys else None


def is_title(text: str) -> bool:
    """Whether a word is a title, whose full stop ends no sentence: ``Mr.``."""
    return text.endswith(".") and _key(text.strip("“‘\"'(.")) in TITLES


def _key(text: str) -> str:
    return _POSSESSIVE.sub("", text.lower().replace("’", "'"))


def _light(key: str) -> str:
    """A word without its plural ending."""
    return key[:-1] if len(key) > 3 and key.endswith("s") and not key.endswith("ss") else key


def _has_content(key: str) -> bool:
    return len(key) > 1 and key not in FUNCTION_WORDS


def _parts(words: Sequence[str]) -> Iterator[_Part]:
    """The runs of letters of all words, in order."""
    before = "\n"  # what stands between the last run of letters and this one
    for index, word in enumerate(words):
        at = 0
        for match in _PART.finditer(word):
            before += word[at : match.start()]
            opened = _OPENS.search(before.rpartition(" ")[2])
            starts = bool(_ENDS.search(before.rstrip("\"“‘'([*_—–- "))) or bool(opened)
            yield _Part(index, match.group(), _key(match.group()), starts, before == " ")
            at, before = match.end(), ""
            if word[at : at + 1] == "." and _key(match.group()) in TITLES:
                at += 1  # the full stop of "Mr."
        before += word[at:] + ("\n" if word == "\n" else " ")


@functools.cache
def _common_words() -> frozenset[str]:
    """Words that the sample corpus writes with a small letter somewhere."""
    found: set[str] = set()
    folder = resources.files("creativewritinggpt.data") / "sample"
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".jsonl"):
            for line in file.read_text(encoding="utf-8").splitlines():
                for value in json.loads(line).values():
                    found.update(word for word in _PART.findall(value) if word.islower())
    return frozenset(map(_key, found))


def _near(parts: Sequence[_Part], index: int, step: int) -> _Part | None:
    """The neighbour before (-1) or after (1), if nothing but a space stands between."""
    other = index + step
    if not 0 <= other < len(parts):
        return None
    later = parts[max(index, other)]
    return parts[other] if later.joined else None


def _proper(parts: Sequence[_Part]) -> list[str | None]:
    """For each run of letters whether it is a name, a place's name or neither."""
    sure = {p.key for p in parts if p.capital and not p.starts and _may_name(p.key)}
    small = {p.key for p in parts if p.text.islower()}
    found = [
        p.capital and _may_name(p.key) and (p.key in sure or _alone_a_name(parts, i, small))
        for i, p in enumerate(parts)
    ]
    votes: collections.Counter[str] = collections.Counter()
    groups = list(_groups(parts, found))
    for first, last in groups:
        vote = _place_vote(parts, first, last)
        votes.update({parts[index].key: vote for index in range(first, last + 1)})
    result: list[str | None] = [None] * len(parts)
    for first, last in groups:
        # Of "Inspector Lestrade" or "Birch Street" all is of one kind.
        titled = parts[first].key in TITLES
        kind = "name" if titled or votes[parts[last].key] <= 0 else "place"
        result[first : last + 1] = [kind] * (last + 1 - first)
    return result


def _groups(parts: Sequence[_Part], found: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """First and last of the runs of capitalised words with nothing but spaces between them."""
    index = 0
    while index < len(parts):
        last = index
        while found[index] and last + 1 < len(parts) and found[last + 1] and parts[last + 1].joined:
            last += 1
        if found[index]:
            yield index, last
        index = last + 1


def _may_name(key: str) -> bool:
    return key not in NOT_NAMES and key not in FUNCTION_WORDS and len(key) > 1


def _alone_a_name(parts: Sequence[_Part], index: int, small: set[str]) -> bool:
    """Whether a capitalised word at the start of a sentence is a name all the same."""
    part, after = parts[index], _near(parts, index, 1)
    if part.key in TITLES:
        return after is not None and after.capital and _may_name(after.key)
    if part.key in small or part.key in action_forms() or part.key in PLACE_NOUNS:
        return False
    if after is not None and after.capital and _may_name(after.key):
        return part.key not in _common_words()
    known = _common_words()
    return not (part.key in known or _light(part.key) in known or _COMMON.search(part.key))


def _place_vote(parts: Sequence[_Part], first: int, last: int) -> int:
    """How much the company of a capitalised name says for a place (positive) or a person."""
    before, after = _near(parts, first, -1), _near(parts, last, 1)
    vote = 3 if parts[last].key in PLACE_NOUNS else 0
    if before is not None and before.key in PLACE_PREPOSITIONS:
        return vote + 2
    if before is not None and before.key in WEAK_PLACE_PREPOSITIONS:
        vote += 1
    if re.search(r"['’]s$", parts[last].text) or (before and before.key in SPEECH_VERBS):
        vote -= 1
    if after is not None and (after.key in SPEECH_VERBS or after.key in action_forms()):
        vote -= 2
    return vote or -1


def _is_place(parts: Sequence[_Part], index: int) -> bool:
    """Whether a run of letters is a plain word for a place, and not a verb (*to land*)."""
    before = _near(parts, index, -1)
    return _light(parts[index].key) in PLACE_NOUNS and not (before and before.key == "to")


def _is_action(parts: Sequence[_Part], index: int) -> bool:
    """Whether a run of letters is an action verb; after *the* or *her* it is a thing instead."""
    part, before = parts[index], _near(parts, index, -1)
    form = action_forms().get(part.key)
    if form is None or (not part.text.islower() and not part.starts) or "'" in part.key:
        return False
    if before is None:
        return form != "third"
    if before.key in DETERMINERS:
        return False
    if form == "past":
        return True
    if form == "third" and before.capital and before.key not in FUNCTION_WORDS:
        return True
    return before.key in BEFORE_VERBS


def quoted(text: str) -> list[tuple[int, int]]:
    """Spans of quoted speech, the marks included, in order and without overlap.

    Curly and straight, double and single marks are read. An apostrophe opens speech only before a
    letter and after none, and closes it only after punctuation. What is never closed ends with its
    paragraph, as in speeches of several paragraphs.

    Args:
        text: Any text; the spans are characters of it.
    """
    spans: list[tuple[int, int]] = []
    for start, end in _paragraphs(text):
        spans += _doubles(text, start, end)
        spans += _singles(text, start, end)
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _paragraphs(text: str) -> Iterator[tuple[int, int]]:
    """Paragraphs: apart by blank lines where the text has any, else by line breaks."""
    breaks = _BLANK if _BLANK.search(text) else _LINE
    start = 0
    for match in breaks.finditer(text):
        yield start, match.start()
        start = match.end()
    yield start, len(text)


def _doubles(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    opened: int | None = None
    for match in _DOUBLE.finditer(text, start, end):
        at = match.start()
        before = text[at - 1] if at > start else " "
        after = text[at + 1] if at + 1 < end else " "
        mark = match.group()
        if opened is None:
            # 6'2" and a stray closing mark open nothing.
            if mark not in "”»" and not before.isalnum() and (at + 1 < end):
                opened = at
        elif mark in "“„«" or (mark == '"' and before.isspace() and not after.isspace()):
            yield opened, at
            opened = at
        else:
            yield opened, at + 1
            opened = None
    if opened is not None:
        yield opened, end


def _singles(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    at = start
    while match := _SINGLE_OPEN.search(text, at, end):
        close = _SINGLE_CLOSE.search(text, match.end(), end)
        if close is not None:
            yield match.start(), close.end()
            at = close.end()
        elif match.group() == "‘" and "’" not in text[match.end() : end]:
            yield match.start(), end
            at = end
        else:
            at = match.end()


@functools.cache
def action_forms() -> dict[str, str]:
    """Forms of action verbs: ``base`` (*walk*) and ``third`` (*walks*) could be nouns, no other."""
    forms: dict[str, str] = {}
    irregular = {}
    for line in _LEXICON["irregular_verbs"].split(";"):
        base, *irregular[base] = line.split()
        forms.update(dict.fromkeys(irregular[base], "past"))
    for base in sorted(_listed("action_verbs") | set(irregular)):
        forms.setdefault(base, "base")
        sibilant = base.endswith(("s", "sh", "ch", "x", "z"))
        if base.endswith("y") and base[-2] not in "aeiou":
            third, past, stem = f"{base[:-1]}ies", f"{base[:-1]}ied", base
        elif base.endswith("e") and not base.endswith(("ee", "oe", "ye")):
            third, past, stem = f"{base}s", f"{base}d", base[:-1]
        else:
            stem = base + base[-1] if _DOUBLING.search(base) and _short(base) else base
            third, past = base + ("es" if sibilant else "s"), f"{stem}ed"
        forms.setdefault(third, "third")
        forms.setdefault({"tie": "tying"}.get(base, f"{stem}ing"), "past")
        if base not in irregular:
            forms.setdefault(past, "past")
    return forms


def _short(base: str) -> bool:
    """Whether a verb has one syllable, so that its last letter is doubled."""
    return len(re.findall(r"[aeiouy]+", base)) == 1
