"""Files that the page sends: streamed to a folder of their own, bounded, under a safe name."""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import time
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ..console import size
from ..errors import InputError
from ..files import disk_errors
from .answers import TooLarge, answered

MOST_BYTES = 500_000_000
"""Size of the largest file that is taken."""
MOST_NAME = 120
"""Bytes of the longest name; longer ones are shortened, their ending kept."""

KEPT_SECONDS = 24 * 3600.0
"""Seconds after which what nothing refers to any more is removed."""

_PIECE = 1_000_000
# Marks that change the direction of what is shown after them; letters of any script may stay.
_DIRECTION = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)", re.IGNORECASE)
# What a file system, a shell or Windows would read as something else.
_FORBIDDEN = re.compile(r'[<>:"|?*]')


def safe_name(name: str) -> str:
    """A name as a file of this machine can have it: shortened, without marks that hide something.

    Args:
        name: Name of a file, without folders.

    Raises:
        InputError: It names a folder, or nothing.
    """
    shown = "".join(character if character.isprintable() else "�" for character in name)[:60]
    if "/" in name or "\\" in name or name.strip() in (".", ".."):
        raise InputError(
            f"the name '{shown}' leads to another folder", "give the file a name without slashes"
        )
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise InputError(
            f"the name '{shown}' holds characters that no file can have", "rename the file"
        )
    clean = _FORBIDDEN.sub("_", _DIRECTION.sub("", name)).strip().lstrip(".").rstrip(". ")
    if not clean:
        raise InputError("the file has no name", "rename the file")
    if _RESERVED.match(clean):
        clean = f"_{clean}"
    stem, dot, ending = clean.rpartition(".")
    if not dot or len(ending.encode()) > 20:
        stem, dot, ending = clean, "", ""
    room = MOST_NAME - len((dot + ending).encode())
    return stem.encode()[:room].decode("utf-8", "ignore").rstrip(". ") + dot + ending


def remove_old(folders: Iterable[Path]) -> None:
    """Remove folders that nothing was put into for :data:`KEPT_SECONDS`."""
    for folder in folders:
        with contextlib.suppress(OSError):
            if folder.stat().st_mtime < time.time() - KEPT_SECONDS:
                shutil.rmtree(folder)


class Uploads:
    """Files that were sent to a studio; those of earlier starts, which no page knows, go.

    Args:
        studio: Where they lie (``outputs``), and ``ids``.
    """

    def __init__(self, studio: Any) -> None:
        self.studio = studio
        self.folder: Path = studio.outputs / ".studio" / "uploads"
        remove_old(self.folder.glob("*"))

    async def take(self, http: Request) -> Response:
        """``PUT /api/uploads?name=…``: keep the body as a file.

        Raises:
            InputError: The name can't be a file's, or the page ceased to send.
            TooLarge: There are more than 500 MB.
            RunError: The disk is full.
        """
        name = safe_name(http.query_params.get("name", ""))
        length = http.headers.get("content-length", "")
        if length.isdecimal() and int(length[:12]) > MOST_BYTES:
            raise _too_large(name)
        place = self.folder / secrets.token_hex(8) / name
        try:
            with disk_errors(place):
                await run_in_threadpool(place.parent.mkdir, parents=True)
                count = await self._receive(http, place)
        except BaseException as error:
            shutil.rmtree(place.parent, ignore_errors=True)
            if isinstance(error, ClientDisconnect):
                raise InputError(f"{name} was not sent whole", "send it again") from error
            raise
        return JSONResponse({"id": self.studio.ids.id(place), "name": name, "bytes": count})

    async def _receive(self, http: Request, place: Path) -> int:
        """Write the body to ``place``; the number of its bytes."""
        count, waiting = 0, bytearray()
        with place.open("xb") as stream:
            async for piece in http.stream():
                count += len(piece)
                if count > MOST_BYTES:
                    raise _too_large(place.name)
                waiting += piece
                if len(waiting) >= _PIECE:
                    await run_in_threadpool(stream.write, bytes(waiting))
                    waiting.clear()
            await run_in_threadpool(stream.write, bytes(waiting))
        return count

    def find(self, id: str) -> Path:
        """The file of an id.

        Raises:
            InputError: It is no file that was sent, or it is gone.
        """
        place: Path = self.studio.ids.path(id)
        if not place.is_relative_to(self.folder) or not place.is_file():
            raise InputError("that file is not here any more", "send it again")
        return place

    def drop(self, place: Path) -> None:
        """Remove a file that was sent, with its folder."""
        if place.parent.parent == self.folder:
            shutil.rmtree(place.parent, ignore_errors=True)


def _too_large(name: str) -> TooLarge:
    return TooLarge(
        f"{name} is larger than {size(MOST_BYTES)}", "split it, or use cwgpt on the command line"
    )


def routes(uploads: Uploads) -> list[BaseRoute]:
    """The route of uploads."""
    return [Route("/api/uploads", answered(uploads.take), methods=["PUT"])]
