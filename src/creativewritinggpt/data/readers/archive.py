"""Word files and e-books as archives: only what is asked for is unpacked, with limits."""

from __future__ import annotations

import posixpath
import zipfile
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import unquote

from ...errors import InputError

_LARGEST_MEMBER = 100_000_000
_LARGEST_SUM = 400_000_000
# Text shrinks to a fifth, in a repetitive file to a fiftieth.
_HIGHEST_RATIO, _RATIO_FROM = 200, 5_000_000


class Archive:
    """The members of a zip file, by their names without regard to case and ``..``.

    Args:
        path: The file.

    Raises:
        InputError: It is no zip file, with what it seems to be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise _not_an_archive(path) from error
        infos = self._file.infolist()
        self._members = {_plain(info.filename): info for info in reversed(infos)}
        self._unpacked = 0

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def __contains__(self, name: str) -> bool:
        return _plain(name) in self._members

    def names(self) -> list[str]:
        """The names of all members, as they stand in the file."""
        return [info.filename for info in self._members.values()]

    def read(self, name: str) -> bytes:
        """The content of a member.

        Raises:
            InputError: It is missing, damaged, protected by a password, or larger than any book.
        """
        info = self._members.get(_plain(name))
        if info is None:
            raise damaged(self.path, f"{name} is missing in it")
        if info.flag_bits & 1:
            raise InputError(f"{self.path} is protected by a password", "save it without one first")
        self._unpacked += info.file_size
        ratio = info.file_size / max(1, info.compress_size)
        bomb = ratio > _HIGHEST_RATIO and info.file_size > _RATIO_FROM
        if bomb or info.file_size > _LARGEST_MEMBER or self._unpacked > _LARGEST_SUM:
            size = f"{info.file_size / 1e6:,.0f} MB"
            raise damaged(self.path, f"{name} in it unpacks to {size}, which no book does")
        try:
            return self._file.read(info)
        except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
            raise damaged(self.path, f"{name} in it: {error}") from error
        except Exception as error:  # zlib.error, lzma.LZMAError
            raise damaged(self.path, f"{name} in it can't be unpacked: {error}") from error

    def xml(self, name: str) -> Any:
        """The root element of a member that is XML; entities are not expanded.

        Raises:
            InputError: As :meth:`read`, or it is not XML.
        """
        from lxml import etree

        try:
            return etree.fromstring(check_markup(self.read(name)), xml_parser())
        except (etree.XMLSyntaxError, ValueError) as error:
            raise damaged(self.path, f"{name} in it is no XML: {error}") from error


MOST_TAGS = 4_000_000
"""Tags of a part that is read. Each takes some hundred bytes of memory; a long novel has fewer."""

Markup = TypeVar("Markup", bytes, str)


def check_markup(source: Markup) -> Markup:
    """Markup, if its elements fit into memory.

    Raises:
        ValueError: It has more tags than any book.
    """
    count = source.count(b"<" if isinstance(source, bytes) else "<")
    if count > MOST_TAGS:
        raise ValueError(f"it has {count:,} tags, which no book has")
    return source


def xml_parser() -> Any:
    """A parser that expands no entities and fetches nothing."""
    from lxml import etree

    return etree.XMLParser(resolve_entities=False, no_network=True, remove_pis=True)


def whole_number(text: str | None, usual: int) -> int:
    """The number that an attribute holds; ``usual`` where it holds none of up to nine digits."""
    plain = (text or "").strip()
    return int(plain) if plain.isascii() and plain.isdecimal() and len(plain) < 10 else usual


def _plain(name: str) -> str:
    """A member's name for comparison; what climbs out of the archive begins at its top."""
    return posixpath.normpath("/" + unquote(name).replace("\\", "/")).lstrip("/").casefold()


def damaged(path: Path, why: str) -> InputError:
    """The error of a file that is not whole."""
    return InputError(
        f"{path} is not a whole {path.suffix} file ({why})", "save it again, or as .txt"
    )


_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_OTHERS = (
    (b"{\\rtf", ".rtf"),
    (b"%pdf", ".pdf"),
    (b"<!doctype html", ".html"),
    (b"<html", ".html"),
)


def _not_an_archive(path: Path) -> InputError:
    """What a file seems to be that should be a zip file."""
    content = path.read_bytes()
    beginning = content[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if content.startswith(_OLE):
        if "EncryptedPackage".encode("utf-16-le") in content:
            return InputError(
                f"{path} is protected by a password",
                "open it in Word or LibreOffice and save it without one",
            )
        return InputError(
            f"{path} is a Word file of before 2007 (.doc)",
            "open it in Word or LibreOffice and save it as .docx",
        )
    for mark, ending in _OTHERS:
        if beginning.startswith(mark):
            return InputError(
                f"{path} is a {ending} file by its content", f"give its name the ending {ending}"
            )
    return damaged(path, "it can't be opened as an archive")
