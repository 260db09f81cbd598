"""The studio's application: the page's files, the rooms' routes, and the policy of the page."""

from __future__ import annotations

import contextlib
import importlib
import secrets
import socket
import threading
import webbrowser
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ..errors import InputError
from ..server.process import listen
from ..server.security import App, Guard, Receive, Scope, Send
from .access import Login, guard
from .answers import NotFound, answered, error_answer
from .assets import WEB

ROOMS = ("desk", "insight", "run_routes", "library")
"""Modules with ``routes(studio)``, by their name in this package."""

_MEDIA = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-{nonce}'; "
    "connect-src 'self'; img-src 'self' data:; font-src 'self'; frame-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types lit-html"
)
_NONCE = b"{{nonce}}"


def build_app(studio: Any, login: Login, hosts: tuple[str, ...] = ()) -> Guard:
    """The application, behind its guard.

    Args:
        studio: What the rooms share.
        login: The secret and its cookie.
        hosts: Names by which it may be called, beside those of loopback.
    """
    routes: list[BaseRoute] = [Route("/api/login", answered(login.login), methods=["POST"])]
    for room in ROOMS:
        routes += importlib.import_module(f"{__package__}.{room}").routes(studio)
    routes.append(Route("/{path:path}", answered(Pages().answer), methods=["GET"]))
    app = Starlette(routes=routes, exception_handlers={404: _unknown, 405: _unknown})
    return guard(with_policy(login.around(app)), login, hosts)


class Pages:
    """The page's own files, by their paths.

    Only files that were found in the folder are answered, so that no path leads out of it.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path = WEB) -> None:
        self.folder = folder
        self._files: dict[str, Path] = {}

    def find(self, path: str) -> Path | None:
        """The file of a path; None where there is none."""
        if path not in self._files:
            self._files = {
                file.relative_to(self.folder).as_posix(): file
                for pattern in ("*", "vendor/*", "[!nv]*/**/*")
                for file in self.folder.glob(pattern)
                if file.suffix in _MEDIA and file.is_file() and not file.is_symlink()
            }
        return self._files.get(path)

    async def answer(self, http: Request) -> Response:
        """``GET`` of a file; the page itself gets the nonce of its style sheets.

        Raises:
            NotFound: There is none.
        """
        path = http.path_params["path"] or "index.html"
        file = self.find(path)
        if file is None:
            raise NotFound(f"the studio has no page /{path[:200]}")
        content = file.read_bytes()
        headers = {}
        if path == "index.html":
            nonce = secrets.token_urlsafe(16)
            content = content.replace(_NONCE, nonce.encode())
            headers["content-security-policy"] = _POLICY.format(nonce=nonce)
        return Response(content, media_type=_MEDIA[file.suffix], headers=headers)


def with_policy(app: App) -> App:
    """The application, each of whose answers has a content policy."""
    strict = _POLICY.format(nonce=secrets.token_urlsafe(16)).encode()
    always = [
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"x-frame-options", b"SAMEORIGIN"),
    ]

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                if not any(name == b"content-security-policy" for name, _ in headers):
                    headers.append((b"content-security-policy", strict))
                message["headers"] = [*headers, *always]
            await send(message)

        await app(scope, receive, with_headers if scope["type"] == "http" else send)

    return wrapped


async def _unknown(http: Request, error: Exception) -> Response:
    if getattr(error, "status_code", 404) == 405:
        answer = error_answer(NotFound(f"{http.url.path} does not take {http.method}"))
        answer.status_code = 405
        return answer
    return error_answer(NotFound(f"the studio has nothing at {http.url.path[:200]}"))


def take_port(host: str, port: int, last: int) -> list[socket.socket]:
    """Sockets on a port; on any free one for 0, that of the last start where it is free.

    An open page finds a studio that was started again, and the browser's settings of it are kept.

    Raises:
        InputError: The port is in use.
    """
    if port == 0 and last:
        with contextlib.suppress(InputError):
            return listen(host, last)
    return listen(host, port)


def open_browser(url: str) -> None:
    """Open an address in the browser of the desktop, in a thread: some browsers stay in it."""

    def opened() -> None:
        with contextlib.suppress(webbrowser.Error, OSError):
            webbrowser.open(url)

    threading.Thread(target=opened, daemon=True).start()
