"""Undo what tokenisers of the Penn Treebank's kind did to prose.

They set punctuation, quotation marks and ``n't`` apart by spaces and write quotation marks as
```` `` ```` and ``''``. Copies of WritingPrompts have it done in full or in part. Only spaces and
those marks change; undoing twice is undoing once.
"""

from __future__ import annotations

import re

_CLOSING_BACKTICKS = re.compile(r" ?``(?= ?(?:[,.!?;:)]|\n|$))")
_OPENING_BACKTICKS = re.compile(r"`` ?")
_OPENING_TICKS = re.compile(r"(?:^|(?<=[\n(*]))'' ?(?=\w)")
_CLOSING_TICKS = re.compile(r" ?''")
_NEGATION = re.compile(r"(?<=\w) n(['’])t\b")
_CONTRACTION = re.compile(r"(?<=\w) ?(['’]) ?(s|d|ll|re|ve|m|t)\b(?!['’])")
_OPENING = re.compile(r"([“‘(\[{]) (?=\S)")
_CLOSING = re.compile(r"(?<=\S) ([”’)\]}])(?!\w)")
_PUNCTUATION = re.compile(r"(?<=[^\s]) ([,.!?;:…%])(?![\w(])")
_CURRENCY = re.compile(r"([$£€]) (?=\d)")
_SCHEME = re.compile(r"\b(https?:) (?=//)")


def _once(text: str) -> str:
    if "``" in text:
        text = _OPENING_BACKTICKS.sub('"', _CLOSING_BACKTICKS.sub('"', text))
    if "''" in text:
        text = _CLOSING_TICKS.sub('"', _OPENING_TICKS.sub('"', text))
    if "'" in text or "’" in text:
        text = _NEGATION.sub(r"n\1t", text)
        text = _CONTRACTION.sub(r"\1\2", text)
    if " " in text:
        text = _PUNCTUATION.sub(r"\1", text)
        text = _CLOSING.sub(r"\1", _OPENING.sub(r"\1", text))
        text = _SCHEME.sub(r"\1", _CURRENCY.sub(r"\1", text))
    return text


def undo_treebank(text: str) -> str:
    """Prose with its punctuation where writers put it."""
    # What one step removes can bring two others together; every step makes the text shorter.
    while (changed := _once(text)) != text:
        text = changed
    return text


def spaced_share(texts: list[str]) -> float:
    """The share of texts that show the marks of such a tokeniser."""
    marks = re.compile(r"\w [,.!?](?: |$)|``|\bn't\b(?<= n't)| <newline> |\( \w|“ \w")
    return sum(bool(marks.search(text)) for text in texts) / max(1, len(texts))
