"""Files that are packed by gzip or Zstandard, unpacked while they are read."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

from ..errors import InputError

PACKED = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd"}
"""Endings of packed files that are unpacked while they are read, and how these begin."""

_HIGHEST_RATIO, _RATIO_FROM = 200, 20_000_000


class _Unpacked(io.RawIOBase):
    """The unpacked bytes of a file, which are not more than any text would have."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self._path, self._stream = path, stream
        self._most = max(_RATIO_FROM, _HIGHEST_RATIO * path.stat().st_size)
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._stream.read(len(buffer))
        except (OSError, EOFError, zlib.error) as error:
            raise self._damaged(error) from error
        except Exception as error:
            if type(error).__name__ != "ZstdError":
                raise
            raise self._damaged(error) from error
        self._count += len(data)
        if self._count > self._most:
            raise InputError(
                f"{self._path} unpacks to over {_HIGHEST_RATIO} times its size, as no text does",
                "unpack it yourself, if it is one",
            )
        buffer[: len(data)] = data
        return len(data)

    def _damaged(self, error: Exception) -> InputError:
        return InputError(f"{self._path} can't be unpacked: {error}", "fetch or pack it again")

    def close(self) -> None:
        self._stream.close()
        super().close()


def open_bytes(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file to read bytes; one packed by gzip or Zstandard is unpacked as it is read.

    Raises:
        InputError: The library for Zstandard is not installed; while reading: the file is damaged,
            or unpacks to more than any text does.
    """
    path = Path(path)
    with path.open("rb") as stream:
        head = stream.read(4)
    if head.startswith(PACKED[".gz"]):
        return _buffered(path, gzip.open(path))
    if head != PACKED[".zst"]:
        return path.open("rb")
    try:
        import zstandard
    except ImportError as error:
        raise InputError(
            f"{path}: reading .zst files needs the extra 'documents'",
            "pip install 'creativewritinggpt[documents]'",
        ) from error
    packed = path.open("rb")
    unpacker = zstandard.ZstdDecompressor()
    return _buffered(path, unpacker.stream_reader(packed, read_across_frames=True))


def _buffered(path: Path, stream: Any) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Unpacked(path, stream)))


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of a file, unpacked; see :func:`open_bytes`."""
    with open_bytes(path) as stream:
        return stream.read()
