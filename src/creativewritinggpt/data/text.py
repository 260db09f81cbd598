"""Text: bytes to characters, the damage of encodings and tools mended, sentences.

Encoding: UTF-8 is tried first and strictly, since text in another encoding almost never passes for
it. What fails is judged by ``charset-normalizer`` on the lines that fail, so that a file that mixes
encodings is read right line by line and no character is replaced or lost.

Cleaning: letters, words and their order never change, and :func:`clean` is idempotent. The costly
mending of mojibake (``ftfy``) is called only for paragraphs that show its signs.
"""

from __future__ import annotations

import codecs
import io
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from ..errors import InputError
from .unpacking import open_bytes

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_HEAD = 1 << 16
_SAMPLE = 200_000
# Controls that text files do hold: tab, newlines, form feed, escape, the end mark of DOS.
_TEXT_CONTROLS = frozenset(b"\t\n\r\x0b\x0c\x1b\x1a\x85")


def _wide(head: bytes) -> str | None:
    """UTF-16 without its mark: every second byte of Western text is zero."""
    half = len(head) // 2
    if half < 4:
        return None
    even, odd = head[0 : 2 * half : 2].count(0), head[1 : 2 * half : 2].count(0)
    if odd > 0.6 * half and even < 0.05 * half:
        return "utf-16-le"
    if even > 0.6 * half and odd < 0.05 * half:
        return "utf-16-be"
    return None


def sniff(head: bytes, path: Path) -> str:
    """The encoding that the first bytes of a file announce; ``utf-8`` where they announce none.

    Raises:
        InputError: The bytes are not text.
    """
    for mark, name in _BOMS:
        if head.startswith(mark):
            return name
    wide = _wide(head)
    if wide:
        return wide
    controls = sum(byte < 32 and byte not in _TEXT_CONTROLS for byte in head)
    if controls > len(head) / 100:
        raise InputError(
            f"{path} is a binary file, not text", "save it as .txt, .md, .docx or .epub first"
        )
    return "utf-8"


def guess(sample: bytes) -> str:
    """The encoding of bytes that are not UTF-8; Windows-1252 where Western ones look alike."""
    from charset_normalizer import from_bytes

    sample = sample[:_SAMPLE]
    # Western sets differ in signs that prose rarely has, and what writers' tools wrote is nearly
    # always Windows-1252. Other scripts have far more bytes beyond ASCII than accents make.
    if sum(byte >= 128 for byte in sample) < len(sample) / 5:
        return "cp1252"
    best = from_bytes(sample).best()
    return "cp1252" if best is None else best.encoding


def _decode_line(line: bytes, encoding: str) -> str:
    try:
        return line.decode(encoding)
    except UnicodeDecodeError:
        # Every byte has a place in Latin-1, so nothing is lost whatever it was.
        return line.decode("latin-1")


def _encoding_name(encoding: str) -> str:
    return {"cp1252": "Windows-1252", "latin-1": "Latin-1"}.get(encoding, encoding)


_NO_ENCODINGS = {"unicode-escape", "raw-unicode-escape", "undefined", "idna", "punycode"}


def decode_as(data: bytes, name: str) -> str | None:
    """Bytes by an encoding that a file declares; None where it is none, or they don't fit it."""
    try:
        # Python knows some that are no encodings of files: they read escapes, or always fail.
        return None if codecs.lookup(name).name in _NO_ENCODINGS else data.decode(name)
    except (LookupError, ValueError):
        return None


def decode(data: bytes, path: Path, note: Callable[[str], None]) -> str:
    """The text of a whole file; anything unusual about its encoding is said.

    Raises:
        InputError: The file is not text.
    """
    encoding = sniff(data[:_HEAD], path)
    if encoding != "utf-8":
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path} is not valid {encoding}: byte {error.start} can't be read",
                "save it again as UTF-8",
            ) from error
        if encoding != "utf-8-sig":
            note(f"{path.name} was read as {encoding.upper()}")
        return text
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(_mixed(data.splitlines(keepends=True), path, note))


def _mixed(lines: list[bytes], path: Path, note: Callable[[str], None]) -> Iterator[str]:
    failing, fine = [], 0
    for line in lines:
        try:
            line.decode("utf-8")
            fine += not line.isascii()
        except UnicodeDecodeError:
            failing.append(line)
    encoding = guess(b"".join(failing))
    what = f"{len(failing)} lines of {path.name} were" if fine else f"{path.name} was"
    note(f"{what} read as {_encoding_name(encoding)}")
    for line in lines:
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError:
            yield _decode_line(line, encoding)


@dataclass
class EmptyLines:
    """Runs of empty lines, which cost no step each.

    Attributes:
        skip: Whether :func:`lines` passes over those that come next.
        count: How many it has passed over.
    """

    skip: bool = True
    count: int = 0

    def pass_over(self, stream: BinaryIO) -> int:
        """Pass over those at the beginning of what a stream has read ahead; their bytes."""
        ahead = cast(io.BufferedReader, stream).peek()
        size = len(ahead) - len(ahead.lstrip(b"\r\n"))
        size = ahead.rfind(b"\n", 0, size) + 1
        self.count += ahead.count(b"\n", 0, size)
        stream.read(size)
        return size


def lines(
    path: Path,
    note: Callable[[str], None],
    advance: Callable[[int], None] | None = None,
    empty: EmptyLines | None = None,
) -> Iterator[str]:
    """The lines of a file of any size, with their newlines; memory does not grow with the file.

    Args:
        path: The file.
        note: Told when lines are not in UTF-8.
        advance: Told the bytes of each line.
        empty: Where given, it says whether empty lines are passed over.

    Raises:
        InputError: The file is not text.
    """
    with open_bytes(path) as stream:
        encoding = sniff(stream.read(_HEAD), path)
    if encoding not in ("utf-8", "utf-8-sig"):
        note(f"{path.name} was read as {encoding.upper()}")
        with io.TextIOWrapper(open_bytes(path), encoding, newline="\n") as text:
            try:
                for line in text:
                    if advance is not None:
                        advance(2 * len(line))
                    yield line
            except UnicodeError as error:
                raise InputError(
                    f"{path} is not valid {encoding}: {error}", "save it again as UTF-8"
                ) from error
        return
    with open_bytes(path) as stream:
        if encoding == "utf-8-sig":
            stream.read(len(codecs.BOM_UTF8))
        other: str | None = None
        for raw in stream:
            if advance is not None:
                advance(len(raw))
            if empty is not None and empty.skip and raw in (b"\n", b"\r\n"):
                empty.count += 1
                size = empty.pass_over(stream)
                if advance is not None:
                    advance(size)
                continue
            try:
                yield raw.decode("utf-8")
            except UnicodeDecodeError:
                if other is None:
                    other = guess(raw)
                    used = _encoding_name(other)
                    note(f"lines of {path.name} that are not UTF-8 were read as {used}")
                yield _decode_line(raw, other)


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
# A run of spaces is looked at from its first one only, or a million of them would take hours.
_TRAILING = re.compile(r"(?<! ) +$", re.MULTILINE)
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


def without_spaces_at_ends(text: str) -> str:
    """The text without spaces before and after newlines."""
    return re.sub(r"\n +", "\n", _TRAILING.sub("", text))


def clean(text: str) -> str:
    """Mend a text's characters and tidy its layout; idempotent."""
    return tidy_layout(clean_characters(text)).lstrip(" ")


def clean_line(text: str) -> str:
    """The same for something that must be one line: a title, a group's name."""
    return " ".join(clean_characters(text).split())


# Letters of scripts that are written without spaces: kana and Han, Thai, Lao, Burmese, Khmer. Their
# marks (vowel signs, tones) belong to the letter before.
_UNSPACED = (
    "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46"
    "\u0e81-\u0eb0\u0eb2\u0eb3\u0ebd\u0ec0-\u0ec6\u1000-\u102a\u103f\u1780-\u17b3"
)
_UNSPACED_LETTER = re.compile(f"[{_UNSPACED}]")
WORD = re.compile(rf"[{_UNSPACED}][^\s\w{_UNSPACED}]*|[^\s{_UNSPACED}]+")
"""A word as :func:`count_words` counts it, with the signs that follow."""


def is_unspaced(character: str) -> bool:
    """Whether a character is a letter of a script that is written without spaces."""
    return bool(_UNSPACED_LETTER.match(character))


def separate_words(text: str) -> str:
    """The text with spaces around each letter of a script that is written without spaces."""
    return text if text.isascii() else _UNSPACED_LETTER.sub(r" \g<0> ", text)


def count_words(text: str) -> int:
    """Number of words: what stands between white space.

    In scripts that are written without spaces each letter counts as one, as in the default rules
    of Unicode UAX #29 and in word processors; signs alone are then none.
    """
    if text.isascii():
        return len(text.split())
    spaced, letters = _UNSPACED_LETTER.subn(" ", text)
    if not letters:
        return len(text.split())
    return letters + sum(any(map(str.isalnum, word)) for word in spaced.split())


# A short list misses much and is wrong now and then: it counts, and nothing is filtered by it.
_EXPLICIT = re.compile(
    r"\b(?:cocks?|cunts?|dicks?|cum(?:ming)?|orgasms?|blowjobs?|handjobs?|masturbat\w+|penis(?:es)?"
    r"|vaginas?|erections?|clit(?:oris)?|nipples?|porn\w*|rap(?:ed|ist|ing)|fucking (?:her|him|me)"
    r"|disembowel\w+|entrails|decapitat\w+|mutilat\w+)\b",
    re.IGNORECASE,
)


def is_explicit(text: str) -> bool:
    """Whether a text has at least two different words of sex or gore."""
    return len({found.lower() for found in _EXPLICIT.findall(text)}) >= 2


_PARAGRAPH_END = re.compile(r"\n\s*\n\s*")
_WIDE = r"[。！？｡．]+[」』”’）》〉】]*"
_CLOSING = rf"[.!?…।॥؟۔][\"”’'»)\]*_]*|{_WIDE}"
_SENTENCE_ENDS = re.compile(rf"(?:{_CLOSING})(?:\s+(?=\S)|\Z)|{_WIDE}\s*")
_ENDS_SENTENCE = re.compile(rf"(?:{_CLOSING})\Z")
# A run of marks is looked at from its first one only, or ten thousand of them would take minutes.
_SENTENCE = re.compile(
    r"(?<![.!?…])[.!?…]+[\"”’'»)\]*_]*\s+(?=[\"“‘'«(\[*_]*[^\W_a-z])|\n\s*\n"
    rf"|[।॥؟۔]+[\"”’'»)\]]*(?:\s+|\Z)|{_WIDE}\s*"
)
_ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|No|Jr|Sr|Prof|Capt|Col|Gen|Lt|[A-HJ-Z])\.$")
_LETTER = re.compile(r"[^\W_]")


def paragraph_ends(text: str) -> list[int]:
    """Offsets after empty lines and the white space that follows."""
    return [found.end() for found in _PARAGRAPH_END.finditer(text)]


def sentence_ends(text: str) -> list[int]:
    """Where a sentence may end: offsets after . ! ? …, what closes around it, and white space.

    Every candidate is given, those after abbreviations too, and the end of the text where it closes
    a sentence. :func:`sentences` is stricter.
    """
    return [found.end() for found in _SENTENCE_ENDS.finditer(text)]


def ends_sentence(text: str) -> bool:
    """Whether a text ends with . ! ? … and what closes around it."""
    return bool(_ENDS_SENTENCE.search(text))


def sentences(text: str) -> list[str]:
    """The sentences of a text: they end at . ! ? … before a capital, and at empty lines.

    Abbreviations such as ``Mr.`` end none; what holds no letter or digit is left out.
    """
    found_sentences, start = [], 0
    for found in _SENTENCE.finditer(text):
        if _ABBREVIATION.search(text[max(0, found.start() - 6) : found.start() + 1]):
            continue
        found_sentences.append(text[start : found.end()].strip())
        start = found.end()
    found_sentences.append(text[start:].strip())
    return [sentence for sentence in found_sentences if _LETTER.search(sentence)]
