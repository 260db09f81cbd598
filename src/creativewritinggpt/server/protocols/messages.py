"""What all protocols share: bodies, streams of events, errors, the texts of tokens."""

from __future__ import annotations

import asyncio
import codecs
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from ...errors import Closing, InputError, UserError
from ...generation.results import Piece, Token
from ..fields import FieldError
from ..scheduler import QueueFull
from ..security import Receive, Refused, Scope, Send
from ..service import Run, disconnected


async def read_body(http: HttpRequest) -> dict[str, Any]:
    """The body of a request, a JSON object.

    Raises:
        FieldError: It is none.
    """
    try:
        body = json.loads(await http.body(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise FieldError("the body is not valid JSON") from error
    if not isinstance(body, dict):
        raise FieldError("the body must be a JSON object")
    return body


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def token_name(token: Token) -> str:
    """The text of a token as a key: bytes that are no text by their numbers."""
    return name_of(token.bytes, token.text)


def name_of(data: bytes, shown: str) -> str:
    """The same of a token's bytes and of its text for display."""
    try:
        return data.decode() or shown
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def token_texts(piece: Piece) -> list[tuple[str, Token | None]]:
    """The text of a piece by token: joined it is the piece's text."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    texts = [decoder.decode(token.bytes) for token in piece.tokens]
    if "".join(texts) == piece.text:
        return list(zip(texts, piece.tokens, strict=True))
    if not piece.tokens:
        return [(piece.text, None)] if piece.text else []
    # A stop string cut the last token, or the tokenizer joins texts in its own way.
    found: list[tuple[str, Token | None]] = [("", token) for token in piece.tokens]
    found[-1] = (piece.text, piece.tokens[-1])
    return found


class EventStream(Response):
    """A stream of server-sent events that ends with the client.

    Args:
        chunks: The documents to send; None sends a comment.
        run: What is cancelled when the client goes away.
        http: The request.
        event: The name of the events.
        done: The data of the last event; None for none.
    """

    def __init__(
        self,
        chunks: AsyncIterator[dict[str, Any] | None],
        run: Run | None,
        http: HttpRequest,
        *,
        event: str | None = None,
        done: str | None = "[DONE]",
    ) -> None:
        super().__init__(media_type="text/event-stream")
        self.chunks = chunks
        self.run = run
        self.http = http
        self.event = f"event: {event}\n" if event else ""
        self.done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        headers = [(k, v) for k, v in self.raw_headers if k != b"content-length"]
        sending = asyncio.ensure_future(self._send(send, headers))
        watching = asyncio.ensure_future(disconnected(self.http))
        try:
            await asyncio.wait({sending, watching}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            if self.run is not None and not (sending.done() and not sending.cancelled()
                                             and sending.exception() is None):  # fmt: skip
                self.run.cancel()
            for task in (sending, watching):
                task.cancel()
            await asyncio.gather(sending, watching, return_exceptions=True)

    async def _send(self, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})

        async def part(text: str, more: bool = True) -> None:
            data = text.encode()
            await send({"type": "http.response.body", "body": data, "more_body": more})

        try:
            async for chunk in self.chunks:
                data = ": ping\n\n" if chunk is None else self._event(json.dumps(chunk))
                await part(data)
        except UserError as error:
            await part(self._event(json.dumps(error_body(error.message, *kind_of(error)[1:]))))
        except Exception as error:  # the stream has begun: the client is told in it
            internal = error_body(f"internal error ({type(error).__name__})", "server_error")
            await part(self._event(json.dumps(internal)))
        await part(self._event(self.done) if self.done else "", more=False)

    def _event(self, data: str) -> str:
        return f"{self.event}data: {data}\n\n"


def error_body(
    message: str, kind: str, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """An error in OpenAI's form."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def kind_of(error: Exception) -> tuple[int, str, str | None, str | None]:
    """HTTP status, type, code and parameter of an error."""
    if isinstance(error, Refused):
        kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error",
                 503: "server_error"}  # fmt: skip
        kind = kinds.get(error.status, "invalid_request_error")
        return error.status, kind, error.code, "model" if error.code == "model_not_found" else None
    if isinstance(error, QueueFull):
        return 429, "rate_limit_error", "rate_limit_exceeded", None
    if isinstance(error, Closing):
        return 503, "server_error", "closing", None
    if isinstance(error, FieldError):
        return 400, "invalid_request_error", error.code, error.param
    if isinstance(error, InputError):
        return 400, "invalid_request_error", None, None
    return 500, "server_error", None, None
