"""Plain text as blocks of lines, and blocks as paragraphs again.

Files from Project Gutenberg and old mail programs break the lines inside paragraphs near column 72.
A paragraph's lines were broken because the next word did not fit; a poem's lines were broken by
the poet, mostly long before that. :func:`unwrap` tells them apart by that test, joins the first and
keeps the second. No hyphen is removed: a line that ends in one is joined without a space.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

SCENE_BREAK = "* * *"
"""How every scene break is written."""

_BREAK = re.compile(r"\s*(?:[*#~=_\-–—•·◆⁂※§+]\s*){1,40}\s*", re.UNICODE)
_SHORTEST_WRAP, _LONGEST_WRAP = 40, 110
_SENTENCE_END = re.compile(r"[.!?…][\"”’'»)\]_*]*$")
_PAIR = re.compile(r"(?:and|or|to)\b")


@dataclass(frozen=True, slots=True)
class Block:
    """Lines without an empty line among them.

    Attributes:
        lines: The lines, without trailing spaces.
        gap: How many empty lines stand before it.
    """

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


def _paragraphs(lines: Sequence[str], width: int) -> list[list[str]]:
    """Cut where a line is indented among others that are not, or the one before it ends early."""
    indents = [len(line) - len(line.lstrip()) for line in lines]
    least = min(indents)
    flush = sum(indent == least for indent in indents)
    made: list[list[str]] = [[lines[0]]]
    for before, line, indent in zip(lines, lines[1:], indents[1:], strict=False):
        indented = indent >= least + 2 and flush > len(lines) / 2
        ended = len(before) < 0.7 * width and bool(_SENTENCE_END.search(before))
        if indented or (ended and not _natural(before, line, width, 8)):
            made.append([line])
        else:
            made[-1].append(line)
    return made


def unwrap(block: Block, width: int | None) -> str:
    """The block as one or more paragraphs, or as verse.

    Args:
        block: The lines.
        width: What :func:`wrap_width` says of the whole text.
    """
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
    return "\n\n".join(_join(paragraph) for paragraph in _paragraphs(lines, width))
