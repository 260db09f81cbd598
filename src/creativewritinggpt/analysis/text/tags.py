"""Kinds of words in a story: names, places, dialogue, action, and words of the prompt.

Rules and short word lists, for English, without a download and in a few milliseconds. A trained
tagger would know more; what this one knows can be read, and how good it is stands in its tests,
which hold it against sentences tagged by hand. A word may be of several kinds at once, as a name
within dialogue.

- ``name``: someone who acts or is spoken of, told by capital letters: in mid-sentence, or at the
  start of a sentence where the word is capitalised elsewhere or is no common word at all.
- ``place``: capitalised and in the company of a place's words (*in Harrow*, *Birch Street*), or
  one of a list of plain ones (*castle*, *kitchen*).
- ``dialogue``: within quotation marks; what is not closed ends with its paragraph.
- ``action``: a form of some 400 verbs that a body can be seen or heard doing. To say, to think and
  to be are none.
- ``prompt``: content words of the prompt, where they stand in it and where the story takes them up.
- ``function``: what holds a sentence together (*the*, *of*, *she*), so that it can be left out.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import re
from collections.abc import Iterator, Sequence

from .lexicon import (
    BEFORE_VERBS,
    DETERMINERS,
    FUNCTION_WORDS,
    NOT_NAMES,
    PLACE_NOUNS,
    PLACE_PREPOSITIONS,
    SPEECH_VERBS,
    TITLES,
    WEAK_PLACE_PREPOSITIONS,
    action_forms,
)
from .quotes import quoted
from .words import Word

KINDS = ("name", "place", "dialogue", "action", "prompt", "function")

_PART = re.compile(r"[^\W_](?:[^\W_]|['’.-](?=[^\W_]))*")
_ENDS = re.compile(r"(?:[.!?…:]|\n)[\"”’')\]*_]*\Z")
_OPENS = re.compile(r"[\"“‘'(\[*_—–-]*[\"“‘]")
_POSSESSIVE = re.compile(r"['’]s?$")
# Endings of common words that are rarely endings of names.
_COMMON = re.compile(r"(?:ing|ly|ed|tion|ness|ment|less|ful|ous|est)$")


@dataclasses.dataclass(frozen=True)
class _Part:
    """A run of letters: most words have one, ``door—and`` has two.

    ``key`` is its small letters without a possessive ending; ``starts`` says whether a capital at
    it says nothing; ``joined`` whether nothing but a space stands between it and the one before.
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
        words: Words of the text, as ``words.words_of`` gives them.
        text: The whole text, into which the words' spans point.
        prompt: The part of it that is the prompt. Where that is all of it, no word is of that kind,
            since every word would be.

    Returns:
        For each word a set of ``KINDS``; empty for the start token and for line breaks.
    """
    parts = list(_parts(words))
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


def _parts(words: Sequence[Word]) -> Iterator[_Part]:
    """The runs of letters of all words, in order."""
    before = "\n"  # what stands between the last run of letters and this one
    for index, word in enumerate(words):
        at = 0
        for match in _PART.finditer(word.text):
            before += word.text[at : match.start()]
            opened = _OPENS.search(before.rpartition(" ")[2])
            starts = bool(_ENDS.search(before.rstrip("\"“‘'([*_—–- "))) or bool(opened)
            yield _Part(index, match.group(), _key(match.group()), starts, before == " ")
            at, before = match.end(), ""
            if word.text[at : at + 1] == "." and _key(match.group()) in TITLES:
                at += 1  # the full stop of "Mr."
        before += word.text[at:] + ("\n" if word.text == "\n" else " ")


@functools.cache
def _common_words() -> frozenset[str]:
    """Words that the sample corpus writes with a small letter somewhere."""
    from importlib import resources

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
