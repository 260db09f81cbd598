"""Bytes to text: which encoding a file is in, said when it is not the usual one.

UTF-8 is tried first and strictly, since text in another encoding almost never passes for it. What
fails is judged by ``charset-normalizer`` on the lines that fail, so a file that mixes encodings is
read right line by line and nothing is replaced or lost.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import InputError

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
    if b"\0" in head or controls > len(head) / 100:
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


def _said(encoding: str) -> str:
    return {"cp1252": "Windows-1252", "latin-1": "Latin-1"}.get(encoding, encoding)


def decode(data: bytes, path: Path, say: Callable[[str], None]) -> str:
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
            say(f"{path.name} was read as {encoding.upper()}")
        return text
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(_mixed(data.splitlines(keepends=True), path, say))


def _mixed(lines: list[bytes], path: Path, say: Callable[[str], None]) -> Iterator[str]:
    failing, fine = [], 0
    for line in lines:
        try:
            line.decode("utf-8")
            fine += not line.isascii()
        except UnicodeDecodeError:
            failing.append(line)
    encoding = guess(b"".join(failing))
    what = f"{len(failing)} lines of {path.name} were" if fine else f"{path.name} was"
    say(f"{what} read as {_said(encoding)}")
    for line in lines:
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError:
            yield _decode_line(line, encoding)


def lines(
    path: Path, say: Callable[[str], None], advance: Callable[[int], None] | None = None
) -> Iterator[str]:
    """The lines of a file of any size, with their newlines; memory does not grow with the file.

    Args:
        path: The file.
        say: Told when lines are not in UTF-8.
        advance: Told the bytes of each line.

    Raises:
        InputError: The file is not text.
    """
    with path.open("rb") as stream:
        encoding = sniff(stream.read(_HEAD), path)
        stream.seek(0)
        if encoding not in ("utf-8", "utf-8-sig"):
            say(f"{path.name} was read as {encoding.upper()}")
            with path.open("r", encoding=encoding, newline="\n") as text:
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
        if encoding == "utf-8-sig":
            stream.seek(len(codecs.BOM_UTF8))
        other: str | None = None
        for raw in stream:
            if advance is not None:
                advance(len(raw))
            try:
                yield raw.decode("utf-8")
            except UnicodeDecodeError:
                if other is None:
                    other = guess(raw)
                    say(f"lines of {path.name} that are not UTF-8 were read as {_said(other)}")
                yield _decode_line(raw, other)
