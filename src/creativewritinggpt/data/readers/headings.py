"""Which lines of a plain text are headings of chapters.

Writers mark chapters in many ways: ``CHAPTER I``, ``Chapter 1. Title``, ``I.`` with the title on
the next line, ``3``, ``BOOK ONE``, ``Prologue``, a Markdown ``##``, or a title in capitals alone.
Each way is a style; a style counts only where the whole text speaks for it (numbers that go up,
text between the headings), so that a lone numeral or a shouted line is not taken for a chapter.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from .layout import Block

_ONES = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
_MORE = "sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty"
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth last"
_SPELLED = "|".join(f"{_ONES} {_MORE}".split())
_NUMBER = (
    rf"(?:\d{{1,3}}|[ivxlcdm]+|(?:{_SPELLED})(?:[- ](?:{_SPELLED}))?"
    rf"|(?:the\s+)?(?:{'|'.join(_ORDINALS.split())}))"
)
_PART = r"book|part|volume|act|canto"
_KEYWORD = re.compile(
    rf"(?P<word>{_PART}|chapter|letter|stave|section|episode|scene)\s+(?:the\s+)?"
    rf"{_NUMBER}(?=$|[\s.:;,—–-])(?P<rest>.*)",
    re.IGNORECASE,
)
_ROMAN = re.compile(r"(?P<number>[IVXLC]+)(?:[.:)]|\s*[—–-]+)?\s*(?P<rest>.*)")
_ARABIC = re.compile(r"(?P<number>\d{1,3})(?:[.:)]|\s*[—–-]+)?\s*(?P<rest>.*)")
_NAMED = re.compile(
    r"(?:prologue|epilogue|interlude|prelude|preface|foreword|introduction|afterword|postscript"
    r"|conclusion|intermezzo|coda)(?:\s*[.:—–-]+\s*(?P<rest>\S.*))?[.]?",
    re.IGNORECASE,
)
_MARKDOWN = re.compile(r"(?P<marks>#{1,6})\s+(?P<rest>\S.*?)\s*#*")
_MATTER = re.compile(
    r"(?:table of )?contents|(?:list of )?illustrations|dedication|copyright|(?:©|copyright).{0,60}"
    r"|acknowledge?ments?|about the authors?|(?:also|books|other (?:books|works)) by .{2,60}"
    r"|by the same author|transcriber[’']?s[’']? notes?|footnotes|index|bibliography|glossary"
    r"|advertisements?|colophon|errata",
    re.IGNORECASE,
)
_TITLE_LENGTH = 80
_ROMAN_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading and where it stands.

    Attributes:
        first: The number of its block.
        after: The number of the block after it (and after its title's block).
        level: 0 for books and parts, larger for what is inside them.
        title: The heading in one line.
    """

    first: int
    after: int
    level: int
    title: str


def is_matter(block: Block) -> bool:
    """Whether the block is the heading of something that is not the story."""
    return len(block.lines) == 1 and bool(_MATTER.fullmatch(block.text.strip(" .:*#_")))


def is_prose(block: Block) -> bool:
    """Whether the block reads as sentences: mostly words in lower case."""
    words = [word for word in block.text.split() if word[:1].isalpha()]
    lower = sum(word[0].islower() for word in words)
    return len(words) >= 8 and lower > 0.5 * len(words)


def _roman(numeral: str) -> int:
    values = [_ROMAN_VALUES[letter] for letter in numeral]
    pairs = zip(values, [*values[1:], 0], strict=True)
    return sum(value if value >= following else -value for value, following in pairs)


def _is_title(text: str) -> bool:
    """Whether a short line can be a title: capitals, or capitalised words without a full stop."""
    words = [word.strip("“”‘’\"'(),.:;!?—-_*") for word in text.split()]
    words = [word for word in words if word[:1].isalpha()]
    if not words or len(text) > _TITLE_LENGTH or len(words) > 14:
        return False
    if text.upper() == text:
        return True
    if text.rstrip()[-1] in '.,;:”"’' or text.lstrip()[0] in "“\"‘'—-":
        return False
    return all(word[0].isupper() for word in words if len(word) > 3) and words[0][0].isupper()


def _rest_is_title(rest: str) -> bool:
    rest = rest.strip(" .:;,—–-")
    return not rest or (len(rest) <= _TITLE_LENGTH and not rest[0].islower())


@dataclass(frozen=True, slots=True)
class _Candidate:
    block: int
    style: str
    level: int
    number: int | None
    titled: bool


def _candidate(number: int, block: Block) -> _Candidate | None:
    if len(block.lines) > 3 or len(block.text) > 2 * _TITLE_LENGTH:
        return None
    line = block.lines[0].strip().strip("*_").strip()
    several = len(block.lines) > 1
    if any(_KEYWORD.fullmatch(further.strip()) for further in block.lines[1:]):
        return None  # a list of contents
    if (found := _MARKDOWN.fullmatch(line)) and not several:
        return _Candidate(number, "markdown", len(found["marks"]), None, True)
    if (found := _KEYWORD.fullmatch(line)) and line[0].isupper() and _rest_is_title(found["rest"]):
        word = found["word"].lower()
        level = 0 if word in _PART.split("|") else 3 if word == "scene" else 1
        return _Candidate(number, word, level, None, several or bool(found["rest"].strip(" .:—")))
    if (found := _NAMED.fullmatch(line)) and line[0].isupper():
        return _Candidate(number, "named", 1, None, several or bool(found["rest"]))
    for style, pattern in (("roman", _ROMAN), ("arabic", _ARABIC)):
        found = pattern.fullmatch(line)
        if found is None:
            continue
        rest = found["rest"].strip()
        marked = not rest or line[len(found["number"])] in ".:)—–- "
        if marked and (not rest or (_is_title(rest) and found["number"] != line.split()[0])):
            value = _roman(found["number"]) if style == "roman" else int(found["number"])
            return _Candidate(number, style, 2, value, several or bool(rest))
    capitals = sum(letter.isalpha() for letter in line) >= 3 and line.upper() == line
    if capitals and (block.gap >= 2 or number == 0) and not several and len(line) <= 60:
        return _Candidate(number, "capitals", 2, None, True)
    return None


def _goes_up(numbers: Sequence[int]) -> bool:
    """Whether numbers count from 1, beginning again here and there, with few mistakes."""
    steps = list(zip(numbers, numbers[1:], strict=False))
    good = sum(after == before + 1 or after == 1 for before, after in steps)
    return len(numbers) >= 2 and numbers[0] == 1 and good >= 0.7 * len(steps)


def _between(candidates: Sequence[_Candidate], text: Sequence[Block]) -> float:
    """The median number of words between one candidate and the next."""
    ends = [candidate.block for candidate in candidates[1:]] + [len(text)]
    return median(
        sum(block.words for block in text[candidate.block + 1 : end])
        for candidate, end in zip(candidates, ends, strict=True)
    )


def page_numbers(text: Sequence[Block]) -> set[int]:
    """The blocks that are page numbers: alone on a line, rising, and often amid a sentence."""
    found = [
        (number, int(match[0]))
        for number, block in enumerate(text)
        if len(block.lines) == 1
        and (match := re.search(r"\d{1,4}", block.text))
        and re.fullmatch(r"[-–—\[ ]*(?:p(?:age|g)?\.? *)?\d{1,4}[-–—\] ]*", block.text, re.I)
    ]
    if len(found) < 5:
        return set()
    rising = sum(b == a + 1 for (_, a), (_, b) in zip(found, found[1:], strict=False))
    amid = sum(
        number > 0 and text[number - 1].text[-1:] not in ".!?…”\"’'»)*" for number, _ in found
    )
    if rising < 0.8 * (len(found) - 1) or amid < 0.15 * len(found):
        return set()
    return {number for number, _ in found}


def find_headings(text: Sequence[Block]) -> list[Heading]:
    """The headings of chapters, in order; contents lists are still among them."""
    styles: dict[str, list[_Candidate]] = {}
    for number, block in enumerate(text):
        candidate = _candidate(number, block)
        if candidate is not None:
            styles.setdefault(candidate.style, []).append(candidate)
    capitals = styles.pop("capitals", [])
    for style in ("roman", "arabic"):
        if style in styles and not _goes_up([c.number or 0 for c in styles[style]]):
            del styles[style]
    if set(styles) <= {"named"} and len(capitals) >= 3 and _between(capitals, text) >= 150:
        styles["capitals"] = capitals
    chosen = sorted((c for found in styles.values() for c in found), key=lambda c: c.block)
    starts = {candidate.block for candidate in chosen}
    headings = []
    for candidate in chosen:
        after = candidate.block + 1
        parts = [_plain(line) for line in text[candidate.block].lines]
        following = text[after] if after + 1 < len(text) and after not in starts else None
        if (
            not candidate.titled
            and following is not None
            and len(following.lines) <= 2
            and not is_matter(following)
            and _is_title(following.text)
        ):
            parts += [_plain(line) for line in following.lines]
            after += 1
        headings.append(Heading(candidate.block, after, candidate.level, _one_line(parts)))
    return headings


def _plain(line: str) -> str:
    """A line of a heading without the marks of emphasis."""
    return line.replace("_", "").strip(" #*")


def _one_line(parts: Sequence[str]) -> str:
    """``I.`` and ``THE EVE OF THE WAR.`` as ``I. THE EVE OF THE WAR``."""
    title = parts[0]
    for part in parts[1:]:
        title += f" {part}" if title[-1:] in ".:—" else f". {part}"
    return title.rstrip(" .:") or title
