"""Undo what tokenisers of the Penn Treebank's kind did to prose.

They set punctuation, quotation marks and ``n't`` apart by spaces and write quotation marks as
```` `` ```` and ``''``. Copies of WritingPrompts have it done in full or in part. Only spaces and
those marks change; undoing twice is undoing once.
"""

from __future__ import annotations

import re

# Each pattern begins with what is rare in prose, and is tried only where that occurs at all.
_CLOSING_BACKTICKS = re.compile(r" ?``(?= ?(?:[,.!?;:)]|\n|$))")
_OPENING_BACKTICKS = re.compile(r"`` ?")
_OPENING_TICKS = re.compile(r"''(?<![^\n(*]'') ?(?=\w)")
_CLOSING_TICKS = re.compile(r" ?''")
_NEGATION = re.compile(r" n(?<=\w n)(['’])t\b")
_SET_APART = re.compile(r" (?<=\w )(['’]) ?(s|d|ll|re|ve|m|t)\b(?!['’])")
_TORN = re.compile(r"['’](?<=\w['’]) (?=(?:s|d|ll|re|ve|m|t)\b(?!['’]))")
_OPENING = re.compile(r"([“‘(\[{]) (?=\S)")
_CLOSING = re.compile(r" (?<=\S )([”’)\]}])(?!\w)")
_PUNCTUATION = re.compile(r" (?<=\S )([,.!?;:…%])(?![\w(])")
_CURRENCY = re.compile(r"([$£€]) (?=\d)")
_SCHEME = re.compile(r"(?<=http:) (?=//)|(?<=https:) (?=//)")


def _any(marks: str, text: str, before: str = "", after: str = "") -> bool:
    return any(f"{before}{mark}{after}" in text for mark in marks)


def _once(text: str) -> str:
    if "``" in text:
        text = _OPENING_BACKTICKS.sub('"', _CLOSING_BACKTICKS.sub('"', text))
    if "''" in text:
        text = _CLOSING_TICKS.sub('"', _OPENING_TICKS.sub('"', text))
    if _any("'’", text, before=" n", after="t"):
        text = _NEGATION.sub(r"n\1t", text)
    if _any("'’", text, before=" "):
        text = _SET_APART.sub(r"\1\2", text)
    if _any("'’", text, after=" "):
        text = _TORN.sub(lambda found: found[0][0], text)
    if _any(",.!?;:…%", text, before=" "):
        text = _PUNCTUATION.sub(r"\1", text)
    if _any("“‘([{", text, after=" "):
        text = _OPENING.sub(r"\1", text)
    if _any("”’)]}", text, before=" "):
        text = _CLOSING.sub(r"\1", text)
    if _any("$£€", text, after=" "):
        text = _CURRENCY.sub(r"\1", text)
    if ": //" in text:
        text = _SCHEME.sub("", text)
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
