"""Plain text as books: blocks of lines, headings of chapters, unwrapped paragraphs.

Blocks. Old files break the lines of paragraphs near column 72, where the next word did not fit; a
poem's lines were broken by the poet, mostly long before that. :func:`unwrap` tells them apart by
that test. No hyphen is removed: a line that ends in one is joined without a space.

Headings. ``CHAPTER I``, ``Chapter 1. Title``, ``I.`` with the title on the next line, ``3``, ``BOOK
ONE``, ``Prologue``, a Markdown ``##``, or capitals alone are styles. A style counts only where the
whole text speaks for it (numbers that go up, text between the headings), so that a lone numeral or
a shouted line is not taken for a chapter.

Books. Left out and counted are the licence and notices of Project Gutenberg, title page, contents,
page numbers, and what follows ``THE END``. Verse and scene breaks stay, ``_emphasis_`` and
``[Illustration]`` marks go. Prose is never dropped for its position: a long passage before the
first heading is a chapter without title.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from ..document import characters
from ..text import clean_characters, ends_sentence, tidy_layout

SCENE_BREAK = "* * *"
"""How every scene break is written."""

_BREAK = re.compile(r"\s*(?:[*#~=_\-–—•·◆⁂※§+]\s*){1,40}\s*", re.UNICODE)
_SHORTEST_WRAP, _LONGEST_WRAP = 40, 110
_PAIR = re.compile(r"(?:and|or|to)\b")


@dataclass(frozen=True, slots=True)
class Block:
    """Lines without trailing spaces or empty lines among them; ``gap`` empty lines come before."""

    lines: tuple[str, ...]
    gap: int

    @property
    def text(self) -> str:
        """The lines joined by spaces."""
        return " ".join(line.strip() for line in self.lines)

    @property
    def words(self) -> int:
        """Words in all lines."""
        return sum(len(line.split()) for line in self.lines)

    @property
    def is_break(self) -> bool:
        """Whether it is a scene break: a line of stars, dashes or the like."""
        return len(self.lines) == 1 and bool(_BREAK.fullmatch(self.lines[0]))


def blocks(text: str) -> list[Block]:
    """Cut a text at its empty lines."""
    made: list[Block] = []
    lines: list[str] = []
    gap = gap_before = 0
    for line in [*text.split("\n"), ""]:
        stripped = line.rstrip()
        if stripped:
            if not lines:
                gap_before = gap
            lines.append(stripped)
            gap = 0
        else:
            if lines:
                made.append(Block(tuple(lines), gap_before))
                lines = []
            gap += 1
    return made


def _first_word(line: str) -> int:
    return len(line.split(None, 1)[0])


def _natural(line: str, following: str, width: int, slack: int) -> bool:
    """Whether the next word would not have fitted on the line."""
    return len(line) + 1 + _first_word(following) > width - slack


def wrap_width(text: Sequence[Block]) -> int | None:
    """The column at which paragraphs were wrapped, or None where lines were not wrapped."""
    pairs = [pair for block in text for pair in zip(block.lines, block.lines[1:], strict=False)]
    if len(pairs) < 4:
        return None
    lengths = sorted(len(line) for line, _ in pairs)
    width = lengths[min(len(lengths) - 1, int(0.98 * len(lengths)))]
    if not _SHORTEST_WRAP <= width <= _LONGEST_WRAP:
        return None
    natural = sum(_natural(line, following, width, 4) for line, following in pairs)
    return width if natural > 0.6 * len(pairs) else None


def _join(lines: Sequence[str]) -> str:
    made = [lines[0].strip()]
    for line in lines[1:]:
        before, line = made[-1], line.strip()
        hyphen = before.endswith("-") and before[-2:-1].isalnum() and not _PAIR.match(line)
        made.append(line if hyphen or before.endswith(("--", "—", "–")) else f" {line}")
    return "".join(made)


def _verse(lines: Sequence[str]) -> str:
    """The lines as they are, without the indentation that all of them share."""
    shared = min(len(line) - len(line.lstrip()) for line in lines)
    return "\n".join(line[shared:] for line in lines)


def _split_paragraphs(lines: Sequence[str], width: int) -> list[list[str]]:
    """Cut where a line is indented among others that are not, or the one before it ends early."""
    indents = [len(line) - len(line.lstrip()) for line in lines]
    least = min(indents)
    flush = sum(indent == least for indent in indents)
    made: list[list[str]] = [[lines[0]]]
    for before, line, indent in zip(lines, lines[1:], indents[1:], strict=False):
        indented = indent >= least + 2 and flush > len(lines) / 2
        ended = len(before) < 0.7 * width and ends_sentence(before)
        if indented or (ended and not _natural(before, line, width, 8)):
            made.append([line])
        else:
            made[-1].append(line)
    return made


def unwrap(block: Block, width: int | None) -> str:
    """The block as paragraphs, or as verse, where the text was wrapped at column ``width``."""
    lines = block.lines
    if len(lines) == 1:
        return lines[0].strip()
    if width is None:
        # Unbroken lines are paragraphs; short ones are the author's own.
        average = sum(map(len, lines)) / len(lines)
        return "\n\n".join(line.strip() for line in lines) if average > 110 else _verse(lines)
    longest = max(map(len, lines))
    if len(lines) >= 4 and 0.75 * width <= longest < width:
        width = longest  # a letter or quotation set narrower than the rest
    breaks = list(zip(lines, lines[1:], strict=False))
    natural = sum(_natural(line, following, width, 8) for line, following in breaks)
    indented = sum(len(line) - len(line.lstrip()) >= 2 for line in lines) == len(lines)
    if natural < (0.8 if indented else 0.5) * len(breaks):
        return _verse(lines)
    return "\n\n".join(_join(paragraph) for paragraph in _split_paragraphs(lines, width))


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
    """Heading in one line, of blocks ``first`` to ``after``; level 0 for books and parts."""

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


_START = re.compile(r"^.*\*\*\* ?START OF (?:THE|THIS) PROJECT GUTENBERG.*?\*\*\*.*$", re.M | re.I)
_END = re.compile(
    r"^.*(?:\*\*\* ?END OF (?:THE|THIS) PROJECT GUTENBERG"
    r"|End of (?:the |this )?Project Gutenberg).*$",
    re.M | re.I,
)
_PRODUCED = re.compile(r"\s*(?:Produced by|E-?text prepared by|Transcribed (?:from|by))\b", re.I)
_ILLUSTRATION = re.compile(r"[ \t]*\[(?:Illustration|Frontispiece)\b[^\]]{0,2000}\]", re.I)
_PAGE_MARK = re.compile(r"\[(?:Pg|Page|p\.) ?\d+\]|\{\d{1,4}\}", re.I)
_ITALICS = re.compile(r"(?<![\w_])_+(?=[^\s_])([^_]{1,600}?)(?<=[^\s_])_+(?![\w_])")
_THE_END = re.compile(r"[\s*_.~—-]*(?:the end|finis|fin|end)[\s*_.!~—-]*", re.I)
_BY = re.compile(r"(?:by|written by|a novel by)\s+\S.{1,60}", re.I)
_SEPARATOR = re.compile(r"<\|(?:endoftext|startoftext|end_of_text)\|>|</?s>(?=\s*$)", re.M)
# Prose of so many words before the first heading is kept.
_LONG_OPENING = 60
_REAL_CHAPTER = 20


@dataclass
class Chapter:
    """One chapter: its heading in one line, where it has one, and its paragraphs."""

    title: str | None
    text: str


@dataclass
class Book:
    """Chapters of a text, and what was left out of it.

    Attributes:
        chapters: In order.
        wrapped: Whether its lines were wrapped inside paragraphs.
        characters: Characters of text that were met, without white space.
        left_out: Characters that are in no chapter, by reason.
        dropped: Things that are in no chapter, by what they are.
    """

    chapters: list[Chapter] = field(default_factory=list)
    wrapped: bool = False
    characters: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)

    def drop(self, reason: str, text: Sequence[Block]) -> None:
        """Count the characters of blocks that are left out."""
        count = sum(characters(line) for block in text for line in block.lines)
        if count:
            self.left_out[reason] += count


def separate(text: str) -> list[str]:
    """The texts of a file that sets them apart with ``<|endoftext|>``, or the one text it is."""
    if "<|" not in text:
        return [text]
    return [part for part in _SEPARATOR.split(text) if part.strip()]


def read_book(text: str) -> Book:
    """Cut a plain text, the whole decoded file, into chapters."""
    book = Book()
    text = clean_characters(text)
    book.characters = characters(text)
    text = _PAGE_MARK.sub("", _ILLUSTRATION.sub("", _without_licence(text, book)))
    all_blocks = blocks(text)
    numbers = page_numbers(all_blocks)
    book.drop("page numbers", [all_blocks[number] for number in sorted(numbers)])
    kept = _without_pages(all_blocks, numbers)
    if kept and _PRODUCED.match(kept[0].text):
        book.drop("front matter", kept[:1])
        kept = kept[1:]
    width = wrap_width(kept)
    book.wrapped = width is not None
    kept = _without_back_matter(kept, book)
    headings = find_headings(kept)
    first = _first_chapter(headings, kept)
    if first is None:
        chapters = [_title_page(kept, book)]
    else:
        chapters = list(_sections(kept, headings, first, book))
    for title, body in chapters:
        joined = _paragraphs(body, width)
        if joined:
            book.chapters.append(Chapter(title, joined))
    return book


def strip_emphasis(text: str) -> str:
    """``_so_`` without its marks; names with underscores stay."""
    return _ITALICS.sub(r"\1", text) if "_" in text else text


def _without_licence(text: str, book: Book) -> str:
    """What stands between the marks of Project Gutenberg, where there are any."""
    if "gutenberg" not in text.lower():
        return text
    start = _START.search(text)
    if start:
        book.drop("licence", blocks(text[: start.end()]))
        text = text[start.end() :]
    end = _END.search(text)
    if end:
        book.drop("licence", blocks(text[end.start() :]))
        text = text[: end.start()]
    return text


def _without_pages(text: Sequence[Block], numbers: set[int]) -> list[Block]:
    """Without the blocks of page numbers; a sentence that one interrupted is joined again."""
    kept: list[Block] = []
    interrupted = False
    for number, block in enumerate(text):
        if number in numbers:
            interrupted = True
            continue
        if interrupted and kept and kept[-1].text[-1:].isalpha() and block.text[0].islower():
            kept[-1] = Block(kept[-1].lines + block.lines, kept[-1].gap)
        else:
            kept.append(block)
        interrupted = False
    return kept


def _without_back_matter(text: list[Block], book: Book) -> list[Block]:
    """Without ``THE END`` and what follows it near the end of the text."""
    total = sum(block.words for block in text)
    after = 0
    for number in range(len(text) - 1, 0, -1):
        block = text[number]
        story = text[:number]
        if _THE_END.fullmatch(block.text) or (is_matter(block) and any(map(is_prose, story))):
            book.drop("back matter", text[number:])
            return _without_back_matter(story, book)
        after += block.words
        if after > 0.15 * total:
            break
    return text


def _prose_words(text: Sequence[Block]) -> int:
    return sum(block.words for block in text if is_prose(block))


def _first_chapter(headings: Sequence[Heading], text: Sequence[Block]) -> int | None:
    """The number of the first heading that has prose under it, so contents lists are passed by."""
    for number, heading in enumerate(headings):
        end = headings[number + 1].first if number + 1 < len(headings) else len(text)
        body = text[heading.after : end]
        matter = next((i for i, block in enumerate(body) if is_matter(block)), len(body))
        if _prose_words(body[:matter]) >= _REAL_CHAPTER:
            return number
    return None


def _title_page(text: Sequence[Block], book: Book) -> tuple[str | None, Sequence[Block]]:
    """Tell the title and the author's line of a text without chapters apart from the text."""
    for number, block in enumerate(text[:4]):
        lines = block.lines
        if len(lines) > 3 or is_prose(block):
            break
        if any(_BY.fullmatch(line.strip()) for line in lines) and number + 1 < len(text):
            book.drop("front matter", text[: number + 1])
            return text[0].lines[0].strip(" #*_"), text[number + 1 :]
    return None, text


def _sections(
    text: Sequence[Block], headings: Sequence[Heading], first: int, book: Book
) -> Iterator[tuple[str | None, Sequence[Block]]]:
    """Title and body of each chapter; a heading without a body lends its title to the next."""
    start = first
    # Books and parts that begin with this chapter; entries of a contents list are no higher.
    while (
        start > 0
        and headings[start - 1].after >= headings[start].first
        and headings[start - 1].level < headings[start].level
    ):
        start -= 1
    opening = text[: headings[start].first]
    if _prose_words(opening) >= _LONG_OPENING:
        skipped = next((i for i, block in enumerate(opening) if is_prose(block)), 0)
        book.drop("front matter", opening[:skipped])
        yield None, opening[skipped:]
    else:
        book.drop("front matter", opening)
    above: list[Heading] = []
    for number in range(start, len(headings)):
        heading = headings[number]
        end = headings[number + 1].first if number + 1 < len(headings) else len(text)
        while above and above[-1].level >= heading.level:
            above.pop()
        above.append(heading)
        body = text[heading.after : end]
        if any(not block.is_break for block in body):
            yield ", ".join(part.title for part in above), body


def _paragraphs(body: Sequence[Block], width: int | None) -> str:
    """The chapter's text: paragraphs, verse and scene breaks, with an empty line between."""
    made: list[str] = []
    for block in body:
        if not block.is_break:
            made.append(strip_emphasis(unwrap(block, width)))
        elif made and made[-1] != SCENE_BREAK:
            made.append(SCENE_BREAK)
    while made and made[-1] == SCENE_BREAK:
        made.pop()
    return tidy_layout("\n\n".join(made))
