"""Who may ask: host, origin, key, media type, size and time of a request, as ASGI middleware.

Order: time limits of sending and receiving, host, origin and CORS, key, media type, size. A page on
the web can reach a server on loopback, by its own origin or by a name that it has rebound to
127.0.0.1, so that hosts and origins are lists of exact names.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ..errors import Closing, one_line

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY = 1 << 20
"""Bytes of a request's body."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_OPEN_PATHS = ("/health",)


@dataclasses.dataclass(frozen=True)
class Access:
    """The rules of a server.

    Attributes:
        port: Its port, 0 where any is right.
        hosts: Names by which it may be called, beside those of loopback.
        origins: Origins of pages that may call it; ``null`` is that of a file.
        keys: Hashes of the keys that it takes; without any it takes every request.
        body_seconds, send_seconds: Time for a request's body, and for one part of an answer.
        origin_required: Whether a request that changes something, or opens a WebSocket, must say
            its origin.
        streamed: Paths whose bodies are octets of any number, read and bounded by their handlers.
    """

    port: int = 0
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    keys: tuple[bytes, ...] = ()
    body_seconds: float = 30.0
    send_seconds: float = 30.0
    origin_required: bool = False
    streamed: tuple[str, ...] = ()


def key_hash(key: str) -> bytes:
    """The hash by which a key is kept and compared."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Refused(Exception):
    """A request that is not answered."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        self.message = one_line(message)
        super().__init__(self.message)
        self.status = status
        self.code = code


class Guard:
    """Middleware that lets through what :class:`Access` allows, requests and WebSockets alike.

    Args:
        app: The application.
        access: The rules.
        refuse: Makes the body of a refusal, given the path and the refusal.
        rejected: Called with a short reason for each refusal.
    """

    def __init__(
        self,
        app: App,
        access: Access,
        refuse: Callable[[str, Refused], dict[str, Any]],
        rejected: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.app = app
        self.access = access
        self.refuse = refuse
        self.rejected = rejected
        self.closing = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection's request.

        While ``closing``, when threads and the event loop go, one that comes is refused with status
        503, and so is one that is cancelled before its answer has begun.
        """
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] not in ("http", "websocket"):
            return
        send = self._timed(send)
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        handle = self._websocket if scope["type"] == "websocket" else self._request
        try:
            if not self.closing:
                await handle(scope, receive, noted)
                return
        except asyncio.CancelledError:
            if not self.closing:
                raise
        if not begun:
            await self._refuse_closing(scope, receive, send)

    async def _refuse_closing(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = Refused(503, Closing().message, "closing")
        self.rejected("closing")
        if scope["type"] == "websocket":
            await refuse_websocket(scope, receive, send, refusal)
        else:
            body = json.dumps(self.refuse(scope["path"], refusal)).encode()
            await _answer(send, 503, body, [(b"connection", b"close")])

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _Headers(scope)
        cors: list[tuple[bytes, bytes]] = []
        try:
            self._check_host(headers)
            changes = scope["method"] not in ("GET", "HEAD", "OPTIONS")
            cors = self._check_origin(headers, required=changes and self.access.origin_required)
            if scope["method"] == "OPTIONS" and headers.get("origin"):
                await _answer(send, 204, b"", [*cors, *_PREFLIGHT])
                return
            if scope["path"] not in _OPEN_PATHS:
                scope["cwgpt.key"] = self._check_key(headers)
            if scope["path"] in self.access.streamed:
                _check_media(headers, "application/octet-stream")
            elif scope["method"] in ("POST", "PUT", "PATCH", "DELETE"):
                receive = await self._body(headers, receive)
        except Refused as refusal:
            self.rejected(refusal.code or str(refusal.status))
            body = json.dumps(self.refuse(scope["path"], refusal)).encode()
            more = [(b"connection", b"close")] if refusal.status in (408, 413) else []
            if refusal.status == 401:
                more.append((b"www-authenticate", b"Bearer"))
            await _answer(send, refusal.status, body, [*cors, *more])
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *cors, *_ALWAYS]
            await send(message)

        await self.app(scope, receive, with_headers)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a WebSocket be opened, or answer its request with the status of the refusal."""
        headers = _Headers(scope)
        try:
            self._check_host(headers)
            self._check_origin(headers, required=self.access.origin_required)
            scope["cwgpt.key"] = self._check_key(headers)
        except Refused as refusal:
            self.rejected(refusal.code or str(refusal.status))
            await refuse_websocket(scope, receive, send, refusal)
            return
        await self.app(scope, receive, send)

    def _timed(self, send: Send) -> Send:
        """A send that gives up on a client that does not read."""

        async def timed(message: Message) -> None:
            async with asyncio.timeout(self.access.send_seconds):
                await send(message)

        return timed

    def _check_host(self, headers: _Headers) -> None:
        hosts = headers.all("host")
        if len(hosts) != 1:
            raise Refused(400, "a request needs one Host header", "bad_host")
        name, port = split_host(hosts[0])
        known = name in _LOOPBACK or name in self.access.hosts
        if not known or (port is not None and self.access.port not in (0, port)):
            raise Refused(
                421, "this server does not answer to that name; see --allowed-host", "bad_host"
            )

    def _check_origin(self, headers: _Headers, required: bool = False) -> list[tuple[bytes, bytes]]:
        origins = headers.all("origin")
        if not origins:
            if required:
                raise Refused(403, "the request names no origin", "bad_origin")
            if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
                raise Refused(403, "requests of other sites are not taken", "bad_origin")
            return []
        origin = origins[0]
        if len(origins) > 1 or not (origin in self.access.origins or self._own(origin)):
            raise Refused(
                403, "pages of that origin may not call this server; see --cors-origin",
                "bad_origin",
            )  # fmt: skip
        if origin not in self.access.origins:
            return []
        return [(b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"Origin")]

    def _own(self, origin: str) -> bool:
        scheme, separator, host = origin.partition("://")
        if not separator or scheme not in ("http", "https"):
            return False
        name, port = split_host(host)
        return name in (*_LOOPBACK, *self.access.hosts) and self.access.port in (0, port)

    def _check_key(self, headers: _Headers) -> int | None:
        """The number of the key that a request came with."""
        if not self.access.keys:
            return None
        given = headers.get("authorization") or ""
        scheme, _, token = given.partition(" ")
        token = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key") or ""
        hashed = key_hash(token)
        # Every key is compared, so that time tells nothing of which one came near.
        equal = [hmac.compare_digest(hashed, key) for key in self.access.keys]
        if not any(equal):
            raise Refused(401, "no such API key", "invalid_api_key")
        return equal.index(True)

    async def _body(self, headers: _Headers, receive: Receive) -> Receive:
        """Read the body whole, bounded in size and time; a receive that gives it at once."""
        length = headers.get("content-length")
        if length is not None and (not length.isdecimal() or int(length[:12]) > MAX_BODY):
            raise Refused(413, f"the body is larger than {MAX_BODY} bytes", "too_large")
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self.access.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refused(400, "the client went away", "disconnected")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > MAX_BODY:
                        raise Refused(413, f"the body is larger than {MAX_BODY} bytes", "too_large")
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            raise Refused(408, "the body did not come in time", "timeout") from None
        if size:
            _check_media(headers, "application/json")
        body: bytes | None = b"".join(parts)

        async def given() -> Message:
            nonlocal body
            if body is None:
                return await receive()
            whole, body = body, None
            return {"type": "http.request", "body": whole, "more_body": False}

        return given


_ALWAYS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
]
_PREFLIGHT = [
    (b"access-control-allow-methods", b"GET, POST"),
    (b"access-control-allow-headers", b"Authorization, Content-Type, X-Api-Key"),
    (b"access-control-max-age", b"600"),
]


class _Headers:
    """The headers of a request, by name."""

    def __init__(self, scope: Scope) -> None:
        self._pairs = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in scope["headers"]]

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value.strip() for key, value in self._pairs if key == name]

    def get(self, name: str) -> str | None:
        """The first value of a header."""
        return next(iter(self.all(name)), None)


def split_host(host: str) -> tuple[str, int | None]:
    """Name and port of a Host header; ``("", None)`` where it is none."""
    if host.startswith("["):
        name, bracket, rest = host[1:].partition("]")
        if not bracket:
            return "", None
    else:
        name, colon, port = host.partition(":")
        rest = colon + port
    if not rest:
        return name.lower(), None
    digits = rest[1:]
    if rest[0] != ":" or not (digits.isascii() and digits.isdecimal() and len(digits) <= 5):
        return "", None
    return name.lower(), int(digits)


def _check_media(headers: _Headers, wanted: str) -> None:
    media = (headers.get("content-type") or "").partition(";")[0].strip().lower()
    if media != wanted:
        raise Refused(415, f"send the body as {wanted}", "media_type")


async def refuse_websocket(scope: Scope, receive: Receive, send: Send, refusal: Refused) -> None:
    """Answer the request for a WebSocket with a status, before it is open."""
    await receive()  # its event "websocket.connect"
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    body = refusal.message.encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    start = {"type": "websocket.http.response.start", "status": refusal.status}
    await send({**start, "headers": [*headers, *_ALWAYS]})
    await send({"type": "websocket.http.response.body", "body": body})


async def _answer(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    kind = [(b"content-type", b"application/json")] if body else []
    length = [(b"content-length", str(len(body)).encode())]
    start = {"type": "http.response.start", "status": status}
    await send({**start, "headers": [*kind, *length, *headers, *_ALWAYS]})
    await send({"type": "http.response.body", "body": body})
