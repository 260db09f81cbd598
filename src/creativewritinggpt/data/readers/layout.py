"""Layout of plain text: blocks of lines, wrapped paragraphs and verse.

Old files break the lines of paragraphs near column 72, where the next word did not fit; a poem's
lines were broken by the poet. What tells them apart is how often the next word would not have
fitted, how often a line ends with a sign of punctuation (a tenth of wrapped lines, most lines of
verse), and how often one begins with a capital. No hyphen is removed: a line that ends in one is
joined without a space, as are lines of scripts that are written without spaces.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from ..text import count_words, ends_sentence, is_unspaced

SCENE_BREAK = "* * *"
"""How every scene break is written."""
FILLED_LINE = re.compile(r"\S[^\n]*")
"""A line from its first sign on: a run of a million empty lines is one step."""

_BREAK = re.compile(r"\s*(?:[*#~=_\-–—―─•·◆◇★☆●○□■▲△◎⁂⁎⁕※§+†❦❧☙❖✦✧]\s*){1,40}", re.UNICODE)
_LONGEST_BETWEEN = 200_000
_SHORTEST_WRAP, _LONGEST_WRAP = 40, 110
_PARAGRAPH_LINE = 150
_FEW_LINES = 60
_PAIR = re.compile(r"(?:and|or|to|und|oder|et|ou|y|e|en)\b")


@dataclass(frozen=True, slots=True)
class Block:
    """Lines without trailing spaces or empty lines among them; ``gap`` empty lines come before."""

    lines: tuple[str, ...]
    gap: int = 0

    @property
    def text(self) -> str:
        """The lines joined by spaces."""
        return " ".join(line.strip() for line in self.lines)

    @property
    def words(self) -> int:
        """Words in all lines."""
        return sum(map(count_words, self.lines))

    @property
    def is_break(self) -> bool:
        """Whether it is a scene break: a line of stars, dashes or the like."""
        return len(self.lines) == 1 and is_break(self.lines[0])


def is_break(line: str) -> bool:
    """Whether a line is a scene break."""
    return bool(_BREAK.fullmatch(line))


def blocks(text: str) -> list[Block]:
    """Cut a text at its empty lines."""
    made: list[Block] = []
    lines: list[str] = []
    end = gap_before = 0
    for found in FILLED_LINE.finditer(text):
        gap = text.count("\n", end, found.start()) - bool(made or lines)
        if gap and lines:
            made.append(Block(tuple(lines), gap_before))
            lines = []
        if not lines:
            gap_before = gap
        lines.append(text[text.rfind("\n", end, found.start()) + 1 : found.end()].rstrip())
        end = found.end()
    return [*made, Block(tuple(lines), gap_before)] if lines else made


def without_between(text: str, begin: str, end: str) -> tuple[str, list[str]]:
    """The text without what stands between two marks, and that; looked through once."""
    kept: list[str] = []
    gone: list[str] = []
    at = stop = 0
    while (start := text.find(begin, at)) >= 0:
        inner = start + len(begin)
        if stop < inner:
            stop = text.find(end, inner)
        if stop < 0:
            break
        if stop - inner > _LONGEST_BETWEEN:  # a mark that nobody closed
            kept.append(text[at:inner])
            at = inner
            continue
        kept.append(text[at:start])
        at = stop + len(end)
        gone.append(text[start:at])
    return "".join(kept) + text[at:], gone


def _columns(line: str) -> int:
    """Width of a line on a terminal: letters of East Asia take two columns."""
    return len(line) if line.isascii() else len(line) + sum(map(is_unspaced, line))


def _natural(line: str, following: str, width: int, slack: int) -> bool:
    """Whether the next word would not have fitted on the line."""
    following = following.lstrip()
    word = 1 if is_unspaced(following[0]) else 1 + _columns(following.split(None, 1)[0])
    return _columns(line) + word > width - slack


@dataclass(frozen=True, slots=True)
class _LineEnds:
    """How the lines of some text end that others follow, as shares.

    Attributes:
        loose, exact: The next word would not have fitted, or not by 4 columns.
        signs: Lines that end with punctuation.
        capitals: Lines after them that begin with a capital.
    """

    loose: float
    exact: float
    signs: float
    capitals: float

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, str]], width: int, slack: int = 4) -> _LineEnds:
        """The line ends of pairs of a line and the one after it."""
        count = len(pairs)
        return cls(
            sum(_natural(*pair, width, slack) for pair in pairs) / count,
            sum(_natural(*pair, width, 0) for pair in pairs) / count,
            sum(not line[-1].isalnum() and line[-1] not in "-–—" for line, _ in pairs) / count,
            sum(following.lstrip("\"'“‘«(_* ")[:1].isupper() for _, following in pairs) / count,
        )


def _pairs(block: Block) -> list[tuple[str, str]]:
    return list(zip(block.lines, block.lines[1:], strict=False))


def wrap_width(text: Sequence[Block]) -> int | None:
    """The column at which paragraphs were wrapped, or None where lines were not wrapped."""
    pairs = [pair for block in text for pair in _pairs(block)]
    if len(pairs) < 4:
        return None
    lengths = sorted(_columns(line) for line, _ in pairs)
    width = lengths[min(len(lengths) - 1, int(0.98 * len(lengths)))]
    if not _SHORTEST_WRAP <= width <= _LONGEST_WRAP:
        return None
    # Poems among the prose say nothing of how it was wrapped.
    prose = [
        pair
        for block in text
        if (of_block := _pairs(block))
        and (len(of_block) < 2 or _LineEnds.of(of_block, width, 8).loose >= 0.5)
        for pair in of_block
    ]
    if len(prose) < max(4, 0.3 * len(pairs)):
        return None
    ends = _LineEnds.of(prose, width)
    verse = ends.exact < 0.95 and (ends.signs >= 0.6 or ends.capitals >= 0.75)
    verse |= ends.exact < 0.5 and len(prose) < _FEW_LINES  # no program wraps like that
    verse |= ends.signs == 1 and len(prose) < _FEW_LINES // 5
    return width if ends.loose > 0.6 and not verse else None


def _join(lines: Sequence[str]) -> str:
    made = [lines[0].strip()]
    for line in lines[1:]:
        before, line = made[-1], line.strip()
        hyphen = before.endswith("-") and before[-2:-1].isalnum() and not _PAIR.match(line)
        unspaced = _is_east_asian(before[-1]) and _is_east_asian(line[0])
        joined = hyphen or unspaced or before.endswith(("--", "—", "–"))
        made.append(line if joined else f" {line}")
    return "".join(made)


def _is_east_asian(character: str) -> bool:
    return is_unspaced(character) or "\u3001" <= character <= "\u303f" or character >= "\uff01"


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
        ended = _columns(before) < 0.7 * width and ends_sentence(before)
        if indented or (ended and not _natural(before, line, width, 8)):
            made.append([line])
        else:
            made[-1].append(line)
    return made


def _is_indented(block: Block) -> bool:
    return all(len(line) - len(line.lstrip()) >= 2 for line in block.lines)


def _verse_among(body: Sequence[Block], width: int | None) -> set[int]:
    """The blocks of runs of indented ones whose lines end and begin as those of stanzas do."""
    found: set[int] = set()
    for indented, run in groupby(range(len(body)), lambda number: _is_indented(body[number])):
        numbers = list(run)
        pairs = [pair for number in numbers for pair in _pairs(body[number])]
        if indented and width is not None and len(pairs) >= 3:
            ends = _LineEnds.of(pairs, width)
            if ends.signs >= 0.7 and ends.capitals >= 0.9:
                found.update(numbers)
    return found


def unwrap(block: Block, width: int | None) -> str:
    """The block as paragraphs, or as verse, where the text was wrapped at column ``width``."""
    lines = block.lines
    if len(lines) == 1:
        return lines[0].strip()
    longest = max(map(_columns, lines))
    if width is None:
        # Unbroken lines are paragraphs; short ones are the author's own.
        average = sum(map(_columns, lines)) / len(lines)
        paragraphs = average > _LONGEST_WRAP or longest > _PARAGRAPH_LINE
        return "\n\n".join(line.strip() for line in lines) if paragraphs else _verse(lines)
    if len(lines) >= 4 and 0.75 * width <= longest < width:
        width = longest  # a letter or quotation set narrower than the rest
    ends = _LineEnds.of(_pairs(block), width, 8)
    indented = _is_indented(block)
    marked = len(lines) >= 4 and ends.exact < 0.75 and (ends.signs >= 0.75 or ends.capitals > 0.99)
    if ends.loose < (0.8 if indented else 0.5) or marked:
        return _verse(lines)
    return "\n\n".join(_join(paragraph) for paragraph in _split_paragraphs(lines, width))


_ITALICS = re.compile(r"(?<![\w_])_+(?=[^\s_])([^_]{1,600}?)(?<=[^\s_])_+(?![\w_])")


def strip_emphasis(text: str) -> str:
    """``_so_`` without its marks; names with underscores stay."""
    return _ITALICS.sub(r"\1", text) if "_" in text else text


def paragraphs(body: Sequence[Block], width: int | None) -> str:
    """Paragraphs, verse and scene breaks of some blocks, with an empty line between."""
    made: list[str] = []
    verse = _verse_among(body, width)
    for number, block in enumerate(body):
        if not block.is_break:
            text = _verse(block.lines) if number in verse else unwrap(block, width)
            made.append(strip_emphasis(text))
        elif made and made[-1] != SCENE_BREAK:
            made.append(SCENE_BREAK)
    while made and made[-1] == SCENE_BREAK:
        made.pop()
    return "\n\n".join(made)
