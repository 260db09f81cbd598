"""Text as its author meant it: the damage of encodings and tools mended, nothing else touched.

Letters, words and their order never change. The costly mending of mojibake (``ftfy``) is called
only for paragraphs that show its signs, since most text shows none; cheap tests for the rest come
first for the same reason. :func:`clean` applied twice gives what it gives once.
"""

from __future__ import annotations

import re
import unicodedata

# What UTF-8 looks like when it was read as Latin-1 or Windows-1252: a lead byte's letter followed
# by a continuation byte's sign.
_MOJIBAKE = re.compile(
    "\u00e2\u20ac|[\u00c2-\u00f4][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc"
    "\u2013-\u203a\u20ac\u2122]"
)
# A closing quotation mark whose last byte has no sign in Windows-1252, so that converters lost it.
_LOST_BYTE = re.compile(
    "\u00e2\u20ac(?![\u0080-\u009f\u00a1-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6"
    "\u02dc\u2013-\u203a\u20ac\u2122])"
)
# Controls, soft hyphens, zero-width spaces, marks of direction, noncharacters, lone surrogates.
# Joiners (U+200C, U+200D) stay: scripts and emoji need them.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069"
    "\ufdd0-\ufdef\ufeff\ufff9-\ufffc\ufffe\uffff\ud800-\udfff]"
)
_NEWLINES = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_SPACES = re.compile("[\t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_INNER_SPACES = re.compile(r"(?<=\S) {2,}")
_TRAILING = re.compile(r" +$", re.MULTILINE)
_EMPTY_LINES = re.compile(r"\n{3,}")
# A lost apostrophe is certain only inside English contractions.
_LOST_APOSTROPHE = re.compile("(?<=[A-Za-z])\ufffd(?=(?:s|t|re|ve|ll|d|m)\\b)")


def _mend_paragraph(paragraph: str) -> str:
    if not _MOJIBAKE.search(paragraph):
        return paragraph
    import ftfy

    fixed: str = ftfy.fix_encoding(_LOST_BYTE.sub("\u00e2\u20ac\u009d", paragraph))
    return fixed


def mend_mojibake(text: str) -> str:
    """Undo text that was decoded with the wrong encoding, paragraph by paragraph."""
    if text.isascii() or not _MOJIBAKE.search(text):
        return text
    return "\n".join(_mend_paragraph(line) for line in text.split("\n"))


def _normalise_characters(text: str) -> str:
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    if text.replace("\n", "").isprintable():
        return text  # no controls, no invisible characters, no spaces but the usual one
    text = _NEWLINES.sub("\n", text)
    text = _SPACES.sub(" ", text)
    return _INVISIBLE.sub("", text)


def _once(text: str) -> str:
    # First, since the controls between 0x80 and 0x9f are part of what mojibake is mended from.
    text = mend_mojibake(text)
    if "\ufffd" in text:
        text = _LOST_APOSTROPHE.sub("'", text).replace("\ufffd", "")
    return _normalise_characters(text)


def clean_characters(text: str) -> str:
    """Mend mojibake and normalise newlines, spaces and invisible characters; keep the layout."""
    while True:
        cleaned = _once(text)
        # ASCII comes out right at once; what was mended may show new signs.
        if cleaned == text or cleaned.isascii():
            return cleaned
        text = cleaned


def tidy_layout(text: str) -> str:
    """Single spaces inside lines, none at their ends, at most one empty line, none around.

    Spaces at the beginning of a line stay: verse needs them.
    """
    if "  " in text:
        text = _INNER_SPACES.sub(" ", text)
    if " \n" in text or text.endswith(" "):
        text = _TRAILING.sub("", text)
    if "\n\n\n" in text:
        text = _EMPTY_LINES.sub("\n\n", text)
    return text.strip("\n").rstrip(" ")


def clean(text: str) -> str:
    """A text as its author meant it; see the module's docstring."""
    return tidy_layout(clean_characters(text)).lstrip(" ")


def clean_line(text: str) -> str:
    """The same for something that must be one line: a title, a group's name."""
    return " ".join(clean_characters(text).split())
