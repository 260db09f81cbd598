"""Who may use the studio: a secret in the opened address, traded for a cookie.

The address that the studio opens carries the secret in its fragment, which browsers send to no
server and put into no log. The page trades it for a cookie that scripts can't read. Cookies ignore
ports, so that the name of each studio's cookie has its port. The key that cookies are made from is
kept between starts, for this user alone: a page that is open goes on after a restart on its port.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import secrets
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..errors import InputError, UserError
from ..files import atomic_file, cache_folder
from ..server.security import (
    Access,
    App,
    Guard,
    Receive,
    Refused,
    Scope,
    Send,
    is_loopback,
    refuse_websocket,
)
from .answers import read_object

UPLOADS = "/api/uploads"
"""The one path whose bodies are files."""


class WrongSecret(InputError):
    """A login with a wrong secret (401)."""

    status = 401


class Login:
    """The secret of a studio, and the cookie that it is traded for.

    Args:
        port: The port that the studio listens on.
        key: What the cookie is made from; new without one.
        secret: What the page logs in with; new without one.
    """

    def __init__(self, port: int, key: bytes | None = None, secret: str | None = None) -> None:
        self.port = port
        self.secret = secret or secrets.token_urlsafe(32)
        self._once: list[str] = []
        self.cookie = f"cwgpt-studio-{port}"
        made = hmac.new(key or secrets.token_bytes(32), self.cookie.encode(), hashlib.sha256)
        self._value = made.hexdigest()

    def url(self, host: str = "127.0.0.1", once: bool = False) -> str:
        """The address that a browser opens.

        Args:
            host: The address that the studio listens on.
            once: Whether it is void as soon as it was used: the command line of a browser can be
                read by every user of the machine.
        """
        secret = self.secret
        if once:
            secret = secrets.token_urlsafe(32)
            self._once.append(secret)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/#t={secret}"

    async def login(self, http: Request) -> Response:
        """``POST /api/login {"secret"}``: sets the cookie.

        Raises:
            WrongSecret: It is another.
        """
        given = _bytes(str((await read_object(http)).get("secret")))
        known = [self.secret, *self._once]
        equal = [hmac.compare_digest(given, one.encode()) for one in known]
        if any(equal[1:]):
            self._once.remove(known[equal.index(True)])
        if not any(equal):
            raise WrongSecret(
                "this address belongs to another start of the studio",
                "open the address that cwgpt studio printed last",
            )
        answer = JSONResponse({"ok": True})
        answer.set_cookie(self.cookie, self._value, path="/", httponly=True, samesite="strict")
        return answer

    def admits(self, scope: Scope) -> bool:
        """Whether a request came with the cookie."""
        for name, value in scope["headers"]:
            if name != b"cookie":
                continue
            with contextlib.suppress(CookieError):
                found = SimpleCookie(value.decode("latin-1")).get(self.cookie)
                if found is not None and hmac.compare_digest(
                    _bytes(found.value), self._value.encode()
                ):
                    return True
        return False

    def around(self, app: App) -> App:
        """The application, whose ``/api/`` asks for the cookie."""

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            path = scope.get("path", "")
            if path.startswith("/api/") and path != "/api/login" and not self.admits(scope):
                refusal = Refused(401, "this page is not logged in", "login")
                if scope["type"] == "websocket":
                    await refuse_websocket(scope, receive, send, refusal)
                else:
                    await JSONResponse(refusal_record(path, refusal), 401)(scope, receive, send)
                return
            await app(scope, receive, send)

        return guarded


def guard(app: App, login: Login, hosts: tuple[str, ...] = ()) -> Guard:
    """The application behind the rules of hosts, origins, media types and sizes."""
    access = Access(port=login.port, hosts=hosts, origin_required=True, streamed=(UPLOADS,))
    return Guard(app, access, refusal_record)


def refusal_record(path: str, refused: Refused) -> dict[str, Any]:
    """The body of a refusal."""
    advice = {
        "login": "open the address that cwgpt studio printed last",
        "bad_host": "open the address that cwgpt studio printed",
        "too_large": "send less at once",
        "closing": "start it again: cwgpt studio",
    }.get(refused.code or "")
    return {"error": {"message": refused.message, "advice": advice, "kind": refused.code}}


def check_address(host: str, allowed: bool) -> None:
    """Refuse an address that other machines reach, unless it was allowed.

    Raises:
        InputError: It was not.
    """
    if not is_loopback(host) and not allowed:
        raise InputError(
            f"other machines reach {host}, and a studio reads and writes files",
            "leave --host out, or add --allow-network in a network that you trust",
        )


class Kept:
    """The key of the cookies and the port that was used last, in a file for this user alone."""

    def __init__(self, folder: Path | None = None) -> None:
        self.path = (folder or cache_folder()) / "studio.json"
        self.key = secrets.token_bytes(32)
        self.port = 0
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            record = json.loads(self.path.read_text("utf-8"))
            key, port = bytes.fromhex(record["key"]), record["port"]
            if len(key) == 32 and isinstance(port, int) and 0 <= port <= 65535:
                self.key, self.port = key, port

    def save(self, port: int) -> None:
        """Keep them; without a folder that can be written to they last as long as the studio."""
        text = json.dumps({"key": self.key.hex(), "port": port})
        with (
            contextlib.suppress(OSError, UserError),
            atomic_file(self.path, private=True) as partial,
        ):
            partial.write_text(text, "utf-8")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
