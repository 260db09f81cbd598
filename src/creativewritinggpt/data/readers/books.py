"""Plain text as books: chapters without licence, front and back matter.

Left out and counted are the licence and notices of Project Gutenberg in the forms of every decade,
title page, contents, page numbers, and what follows ``THE END``. Verse and scene breaks stay,
``_emphasis_`` and ``[Illustration]`` marks go. Prose is never dropped for its position: a long
passage before the first heading is a chapter without title. What is left out for its place and
shape alone is never more than a tenth of a text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ..document import characters
from ..text import clean_characters, count_words, tidy_layout
from .headings import Heading, find_headings, is_matter, is_prose, is_title, one_line, page_numbers
from .layout import SCENE_BREAK, Block, blocks, paragraphs, wrap_width

# A run of spaces is looked at from its first one only, or a million of them would take hours.
_ILLUSTRATION = re.compile(
    r"(?<![ \t])[ \t]*\[(?:Illustration|Frontispiece)\b[^\]]{0,2000}\]", re.I
)
_NOTICE_MARK = re.compile(r"<<\s*THIS ELECTRONIC VERSION[^<>]{0,2000}>>", re.I)
_PAGE_MARK = re.compile(r"\[(?:Pg|Page|p\.) ?\d+\]|\{\d{1,4}\}", re.I)
_THE_END = re.compile(
    r"[\s*_.~—-]*(?:the end|finis|fin|end|ende|fine|конец|τέλος|完|终|終)[\s*_.!~—-]*", re.I
)
_BY = re.compile(r"(?:by|written by|a novel by|von|par|de|di|por|door)\s+\S.{1,60}", re.I)
_SEPARATOR = re.compile(r"<\|(?:endoftext|startoftext|end_of_text)\|>|</?s>(?=\s*$)", re.M)
# Prose of so many words before the first heading is kept.
_LONG_OPENING = 60
_REAL_CHAPTER = 20
LICENCE = "licence and notices"
_MOST_UNSURE = 0.1
"""Share of a text that may be left out for its place and shape alone."""


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a text whose headings are marked: a heading (level 1 and up) or a paragraph."""

    level: int
    text: str

    def block(self) -> Block:
        """The part as lines."""
        return Block(tuple(line for line in self.text.split("\n") if line.strip()))


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

    def leave_out(self, reason: str, text: str) -> None:
        """Count the characters of a text that no chapter gets."""
        count = characters(text)
        if count:
            self.left_out[reason] += count

    def drop(self, reason: str, text: Iterable[Block]) -> None:
        """Count the characters of blocks that are left out."""
        for block in text:
            self.leave_out(reason, block.text)


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
    marks = {LICENCE: _NOTICE_MARK, "illustrations": _ILLUSTRATION, "page numbers": _PAGE_MARK}
    for reason, mark in marks.items():
        for found in mark.finditer(text):
            book.leave_out(reason, found[0])
        text = mark.sub("", text)
    # A mark without an empty line around it is none of the text's.
    kept = blocks(_MARK_LINES.sub(r"\n\g<0>\n", text))
    gone = licence(kept)
    book.drop(LICENCE, (kept[number] for number in gone))
    kept = [block for number, block in enumerate(kept) if number not in gone]
    numbers = page_numbers(kept)
    book.drop("page numbers", (kept[number] for number in numbers))
    cut_at_headings(_without_pages(kept, numbers), book)
    return book


def as_blocks(parts: Iterable[Part]) -> list[Block]:
    """Parts as the blocks of a plain text."""
    return blocks("\n\n".join(part.text for part in parts if part.text))


def cut_at_headings(text: list[Block], book: Book) -> None:
    """Add the chapters of a text whose headings are not marked."""
    width = wrap_width(text)
    book.wrapped = width is not None
    most = int(_MOST_UNSURE * sum(characters(block.text) for block in text))
    kept = _without_back_matter(text, book, most)
    headings = find_headings(kept)
    first = _first_chapter(headings, kept)
    if first is None:
        chapters = [_title_page(kept, book)]
    else:
        chapters = list(_sections(kept, headings, first, book, most))
    for title, body in chapters:
        joined = tidy_layout(paragraphs(body, width))
        if joined:
            book.chapters.append(Chapter(title, joined))


_START = re.compile(r"\*\*\* ?START OF (?:THE|THIS) PROJECT GUTENBERG", re.I)
_SMALL_PRINT, _END_SIGN = re.compile(r"THE SMALL PRINT!", re.I), re.compile(r"\*END\*", re.I)
_SMALL_PRINT_END = re.compile(r"\*END\*? ?THE SMALL PRINT!", re.I)
_END = re.compile(
    r"\*\*\* ?END OF (?:THE|THIS) PROJECT GUTENBERG"
    r"|^[^\w\n]*End of (?:the |this |Project )*(?:Project )?(?:Gutenberg|e-?text\b|e-?book\b)"
    r"|^[^\w\n]*(?:Ende dieses|Fin de ce|Fin du|Fine di questo|Fin de este|Fim deste) ?"
    r"(?:projet |progetto |proyecto |projekt |project )*(?:gutenberg|e-?text|e-?book)",
    re.I | re.M,
)
_MARK_LINES = re.compile(
    r"^.*\*\*\* ?(?:START|END) OF (?:THE|THIS) PROJECT GUTENBERG[^*]{0,300}\*\*\*.*$"
    r"|^.*\*END\*? ?THE SMALL PRINT!.*$",
    re.I | re.M,
)
_NOTICE = re.compile(
    r"^\W*THIS ELECTRONIC VERSION OF .* COPYRIGHT.*"
    r"|^\W*(?:The )?Project Gutenberg(?:[’']s)? (?:e-?text|e-?book)\b.*"
    r"|^\W*\[?Transcriber[’']?s[’']? notes?:.*\]|^\W*\[Note (?:du|de la) transcri.*\]",
    re.I | re.S,
)
_PRODUCED = re.compile(
    # Possessive: white space given back would be tried again by what follows.
    r"\W*+(?:(?:this )?(?:e-?text|e-?book|file|text)?\s*(?:was )?"
    r"(?:produced|prepared|scanned|transcribed|converted|proofread|typed) (?:by|from)\b"
    r"|HTML version by\b|Credits:|(?:transcriber|transcriptor|editor)[’']?s? notes?\b"
    r"|produit par\b|prodotto da\b|produ[cz]ido por\b|(?:erstellt|hergestellt) von\b"
    r"|tuottan(?:ut|eet)\b|note (?:du|sur la|de) transcri|notas? (?:del?|do) transcri"
    r"|nota del trascrittore|anmerkung(?:en)? (?:zur|des) transkri|bemerkungen zur textgestalt"
    r"|opmerking(?:en)? van de (?:transcri|bewerker))",
    re.I,
)
_LICENCE_WORDS = re.compile(
    r"gutenberg|e-?text|e-?book|small print|public domain|donat|copyright law|\*\*\s*welcome to"
    r"|posting these files|release date|character set|mailing list|plain vanilla|\bftp\b"
    r"|michael s?\.? ?hart|carnegie|benedictine|\[.{0,12}#\d+\]|electronic version|refund"
    r"|liabilit|warrant(?:y|ies)|indemnif|disclaim|archive foundation"
    r"|^(?:title|author|language|editor|translator|illustrator|posting date|edition|credits):"
    r"|trademark|newsletter",
    re.I | re.M,
)


def licence(text: Sequence[Block]) -> set[int]:
    """The blocks that are licence, notices and makers' lines of Project Gutenberg.

    The head ends at ``*** START OF …`` or where the small print of the 1990s ends, or, in a text
    with neither, at the first blocks without a word of the licence. What follows the end's mark is
    licence as far as it speaks like one.
    """
    gone: set[int] = set()
    starts: list[int] = []
    named = any("project gutenberg" in block.text.lower() for block in text[:12])
    begin = ended = 0
    for number, block in enumerate(text):
        mark = "\n".join(block.lines)
        small_print = _ends_small_print(mark) and _is_licence(text[max(begin, ended) : number])
        if _START.search(mark) or small_print:
            starts.append(number)
            # What lies between two marks of the head is licence as well.
            if begin == 0 or _is_licence(text[begin:number]):
                begin = number + 1
        elif _ends(block):
            ended = number
    if named and not starts:
        begin = next((n for n, block in enumerate(text) if not _speaks_of_licence(block)), 0)
    is_gutenberg = named or bool(starts) or any(map(_ends, text[-200:]))
    gone.update(range(begin))
    for number in range(begin, len(text)):
        block = text[number]
        if number in gone:
            continue
        early = number < begin + (8 if is_gutenberg else 1)
        if is_gutenberg and _ends(block):
            after = next((start + 1 for start in starts if start > number), len(text))
            sure = after < len(text) or _is_licence(text[number + 1 :])
            gone.update(range(number, after if sure else number + 1))
        elif (is_gutenberg and _NOTICE.match(block.text)) or (
            early and _PRODUCED.match(block.text) and block.words < 120
        ):
            gone.add(number)
    return gone


def without_licence(parts: Sequence[Part], book: Book) -> list[Part]:
    """Parts without those that :func:`licence` finds, which are counted."""
    gone = licence([part.block() for part in parts])
    for number in gone:
        book.leave_out(LICENCE, parts[number].text)
    return [part for number, part in enumerate(parts) if number not in gone]


def _ends_small_print(mark: str) -> bool:
    """Whether the end of the small print is marked, by a line or after its beginning."""
    begun = _SMALL_PRINT.search(mark)
    if begun and _END_SIGN.search(mark, begun.end()):
        return True
    return bool(_SMALL_PRINT_END.search(mark))


def _ends(block: Block) -> bool:
    return bool(_END.search("\n".join(block.lines)))


def _speaks_of_licence(block: Block) -> bool:
    return bool(_LICENCE_WORDS.search("\n".join(block.lines)))


def _is_licence(text: Sequence[Block]) -> bool:
    """Whether a fifth of some blocks speak of a licence, and no four of prose on end do not."""
    run = 0
    for block in text:
        run = 0 if _speaks_of_licence(block) else run + is_prose(block)
        if run == 4:
            return False
    return sum(map(_speaks_of_licence, text)) >= 0.2 * len(text)


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


def _size(text: Iterable[Block]) -> int:
    return sum(characters(block.text) for block in text)


def _is_matter(block: Block) -> bool:
    return len(block.lines) == 1 and is_matter(block.text)


def _without_back_matter(text: list[Block], book: Book, most: int) -> list[Block]:
    """Without ``THE END`` and what follows it near the end of the text."""
    after = 0
    for number in range(len(text) - 1, 0, -1):
        block, story = text[number], text[:number]
        after += characters(block.text)
        if after > most:
            break
        if _THE_END.fullmatch(block.text) or (_is_matter(block) and any(map(is_prose, story))):
            book.drop("back matter", text[number:])
            return _without_back_matter(story, book, most - after)
    return text


def _prose_words(text: Iterable[Block]) -> int:
    return sum(block.words for block in text if is_prose(block))


def _first_chapter(headings: Sequence[Heading], text: Sequence[Block]) -> int | None:
    """The number of the first heading that has prose under it, so contents lists are passed by."""
    for number, heading in enumerate(headings):
        end = headings[number + 1].first if number + 1 < len(headings) else len(text)
        body = text[heading.after : end]
        matter = next((i for i, block in enumerate(body) if _is_matter(block)), len(body))
        if _prose_words(body[:matter]) >= _REAL_CHAPTER:
            return number
    return None


def is_byline(line: str) -> bool:
    """Whether a line names the author."""
    return bool(_BY.fullmatch(line.strip()))


def _is_title_page(texts: Sequence[str]) -> bool:
    """Whether some paragraphs are titles and names only."""
    lines = [line for text in texts for line in text.split("\n")]
    short = sum(map(count_words, lines)) < _LONG_OPENING
    return short and all(is_byline(line) or is_title(line) or "©" in line for line in lines)


def _title_page(text: Sequence[Block], book: Book) -> tuple[str | None, Sequence[Block]]:
    """Tell the title and the author's line of a text without chapters apart from the text."""
    for number, block in enumerate(text[:4]):
        lines = block.lines
        if len(lines) > 3 or is_prose(block):
            break
        if any(map(is_byline, lines)) and number + 1 < len(text):
            title = text[0].lines[0].strip(" #*_")
            book.drop("front matter", [Block(text[0].lines[1:]), *text[1 : number + 1]])
            return title, text[number + 1 :]
    return None, text


def _sections(
    text: Sequence[Block], headings: Sequence[Heading], first: int, book: Book, most: int
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
    skipped = len(opening)
    if _prose_words(opening) >= _LONG_OPENING:
        skipped = next((i for i, block in enumerate(opening) if is_prose(block)), 0)
    if start == 0 and _size(block for block in opening[:skipped] if block.words >= 8) > most:
        skipped = 0
    book.drop("front matter", opening[:skipped])
    if skipped < len(opening):
        yield None, opening[skipped:]
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
        elif number + 1 == len(headings) or headings[number + 1].level <= heading.level:
            book.leave_out("headings without a text", heading.title)


def chapter_level(parts: Iterable[Part]) -> int | None:
    """The level whose headings are chapters: the highest that occurs more than once."""
    levels = Counter(part.level for part in parts)
    return next((level for level in sorted(levels) if level and levels[level] > 1), None)


def chapters(parts: Sequence[Part], book: Book) -> Iterator[Chapter]:
    """Cut parts at the headings of the level that has chapters.

    A heading of a higher level lends its title to what follows it, as does one of the same level
    without a text; lower ones stay as lines of the text. Contents, acknowledgements and the like
    are left out.
    """
    level = chapter_level(parts)
    above: list[Part] = []
    body: list[str] = []
    matter = fresh = False
    for part in [*parts, Part(1, "")]:
        if part.level and (level is None or part.level <= level):
            while body and body[-1] == SCENE_BREAK:
                body.pop()
            opening = level is not None and all(one.level < level for one in above)
            if body and opening and _is_title_page(body):
                book.leave_out("front matter", "".join(body))
            elif body:
                yield Chapter(
                    ", ".join(one.text for one in above if one.text) or None, "\n\n".join(body)
                )
            body.clear()
            title = " ".join(part.text.split())
            if matter:
                book.leave_out("front and back matter", above[-1].text)
            elif fresh and title and above[-1].level == part.level:
                title = one_line([above.pop().text, title])
            elif fresh and part.level <= above[-1].level:
                book.leave_out("headings without a text", above[-1].text)
            while above and above[-1].level >= part.level:
                above.pop()
            above.append(Part(part.level, title))
            matter, fresh = is_matter(title), True
            continue
        fresh &= part.text == SCENE_BREAK
        if matter:
            book.leave_out("front and back matter", part.text)
        elif part.text != SCENE_BREAK or (body and body[-1] != SCENE_BREAK):
            body.append(part.text)
