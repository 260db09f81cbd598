"""Where a text speaks: the stretches within quotation marks.

Curly and straight, double and single marks are read, since all are found in stories. The hard part
is the apostrophe, which looks like a closing single mark: one opens speech only before a letter
that no letter stands before, and closes it only after punctuation. What is never closed ends with
its paragraph, as in speeches of several paragraphs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_BLANK = re.compile(r"\n[^\S\n]*\n\s*")
_LINE = re.compile(r"\n+")
_DOUBLE = re.compile('["“”„«»]')
# Words that begin with an apostrophe and no quotation.
_ELISIONS = r"(?:tis|twas|twere|twill|em|til|cause|bout|round|neath|nother|ere|n|[0-9]{2}s?)\b"
_SINGLE_OPEN = re.compile(rf"(?<![\w.!?,’'])(?:‘(?=\S)|['’](?!{_ELISIONS})(?=\w))", re.IGNORECASE)
_SINGLE_CLOSE = re.compile(r"(?<=[,.!?…—–-])['’](?!\w)")


def quoted(text: str) -> list[tuple[int, int]]:
    """Stretches within quotation marks, the marks included, in order and apart from each other."""
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
