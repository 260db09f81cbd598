"""KoboldAI's protocol, so that KoboldAI Lite, SillyTavern and scripts connect unchanged.

A prompt that is too long is cut at its beginning, as these clients expect. A generation can be
looked at and aborted by its ``genkey``; without one an abort ends only what the same peer asked for
without one.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from ..._version import __version__
from ...generation.results import Generated, Token
from ...generation.text import vocabulary
from .. import fields
from ..fields import FieldError
from ..scheduler import ServedModel
from ..service import Gone, Run, Service, check_size, owner_of, present, window
from .messages import EventStream, read_body, token_name, token_texts
from .openai import vocabulary_size

MAX_LENGTH = 512
"""Tokens of a text where the client says nothing: KoboldAI's own default is 80."""
_MOST_STOPS = 256
_KEPT = 64


@dataclasses.dataclass
class _Session:
    """A generation as its client can ask for it later."""

    run: Run
    text: str = ""
    tokens: list[Token] = dataclasses.field(default_factory=list)
    done: bool = False


class Kobold:
    """The routes of KoboldAI.

    Args:
        service: The served models; KoboldAI knows one, the first.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self._sessions: OrderedDict[tuple[str, str], _Session] = OrderedDict()
        self.started = time.monotonic()

    @property
    def served(self) -> ServedModel:
        """The model that is spoken to."""
        return self.service.default

    async def generate(self, http: HttpRequest) -> Response:
        """``POST /api/v1/generate``."""
        body = await read_body(http)
        session, prompt_tokens, figures = await self._start(http, body)
        watch = asyncio.ensure_future(self._whole(session))
        try:
            text: Generated = await present(http, watch)
        except (Gone, asyncio.CancelledError):
            session.run.cancel()
            raise
        result: dict[str, Any] = {
            "text": text.text,
            "finish_reason": _reason(text),
            "prompt_tokens": prompt_tokens,
            "completion_tokens": len(text.tokens),
        }
        if figures:
            result["logprobs"] = _logprobs(text.tokens)
        return JSONResponse({"results": [result]})

    async def stream(self, http: HttpRequest) -> Response:
        """``POST /api/extra/generate/stream``."""
        body = await read_body(http)
        session, _, figures = await self._start(http, body)
        events = self._events(session, figures)
        return EventStream(events, session.run, http, event="message", done=None)

    async def check(self, http: HttpRequest) -> Response:
        """``/api/extra/generate/check``: the text so far."""
        session = await self._session(http)
        text = session.text if session is not None else ""
        return JSONResponse({"results": [{"text": text}]})

    async def abort(self, http: HttpRequest) -> Response:
        """``/api/extra/abort``."""
        session = await self._session(http)
        running = session is not None and not session.done
        if session is not None:
            session.run.cancel()
        return JSONResponse({"success": running, "done": running})

    async def last_logprobs(self, http: HttpRequest) -> Response:
        """``POST /api/extra/last_logprobs``."""
        session = await self._session(http)
        tokens = session.tokens if session is not None else []
        return JSONResponse({"logprobs": _logprobs(tokens) if tokens else None})

    async def token_count(self, http: HttpRequest) -> Response:
        """``POST /api/extra/tokencount``: the start of text comes first."""
        body = await read_body(http)
        ids = [self.served.model.bos_id]
        ids += await self.service.encode(self.served, fields.text(body, "prompt"))
        return JSONResponse({"value": len(ids), "ids": ids})

    async def detokenize(self, http: HttpRequest) -> Response:
        """``POST /api/extra/detokenize``."""
        ids = (await read_body(http)).get("ids")
        return JSONResponse({"result": text_of(self.served, ids, "ids"), "success": True})

    async def model(self, http: HttpRequest) -> Response:
        """``GET /api/v1/model``."""
        return JSONResponse({"result": f"koboldcpp/{self.served.name}"})

    async def info(self, http: HttpRequest) -> Response:
        """``GET /api/v1/info/version``."""
        return JSONResponse({"result": "1.2.5"})

    async def version(self, http: HttpRequest) -> Response:
        """``GET /api/extra/version``: what is offered."""
        lacking = ("txt2img", "vision", "audio", "transcribe", "multiplayer", "websearch", "tts",
                   "embeddings", "music", "savedata", "admin", "guidance", "jinja", "mcp",
                   "router")  # fmt: skip
        known = {"result": "KoboldCpp", "version": "1.93", "protected": False}
        return JSONResponse({**known, "cwgpt": __version__, **dict.fromkeys(lacking, False)})

    async def context_length(self, http: HttpRequest) -> Response:
        """``GET /api/v1/config/max_context_length`` and ``/api/extra/true_max_context_length``."""
        return JSONResponse({"value": self.served.model.context_length})

    async def max_length(self, http: HttpRequest) -> Response:
        """``GET /api/v1/config/max_length``."""
        return JSONResponse({"value": MAX_LENGTH})

    async def perf(self, http: HttpRequest) -> Response:
        """``GET /api/extra/perf``."""
        gauges = self.service.scheduler.metrics.gauges
        waiting = int(gauges["num_requests_waiting"]())
        running = int(gauges["num_requests_running"]())
        return JSONResponse(
            {
                "queue": waiting,
                "idle": int(not running),
                "uptime": int(time.monotonic() - self.started),
                "total_gens": int(self.service.scheduler.metrics.total("request_success_total")),
            }
        )

    async def empty(self, http: HttpRequest) -> Response:
        """Routes that Lite asks for at the start and that have nothing here."""
        return JSONResponse([] if http.url.path.startswith("/sdapi") else {})

    async def _start(
        self, http: HttpRequest, body: Mapping[str, Any]
    ) -> tuple[_Session, int, bool]:
        served = self.served
        wanted = fields.wanted(
            body, vocabulary_size(served), strict=self.service.strict, most_stops=_MOST_STOPS
        )
        count = 80 if wanted.max_tokens is None else wanted.max_tokens
        if not 1 <= count <= 100_000:
            raise FieldError("max_length must be from 1 to 100000", "max_length")
        check_size(served, 1, count)
        settings = wanted.settings.changed({"max_new_tokens": count, "min_new_tokens": min(
            wanted.settings.min_new_tokens, count)})  # fmt: skip
        if wanted.endless or fields.flag(body, "use_default_badwordsids"):
            settings = settings.changed({"min_new_tokens": count})
        memory = fields.text(body, "memory")
        text = fields.text(body, "prompt")
        prompt = await self.service.encode(served, text)
        pinned = await self.service.encode(served, memory) if memory else []
        length = fields.number(body, "max_context_length", whole=True) or window(served)
        room = min(int(length), window(served)) - count - len(pinned) - 1
        written: str | list[int] = text
        if len(prompt) > max(16, room):
            written = prompt = prompt[-max(16, room) :]
        figures = fields.flag(body, "logprobs") if body.get("logprobs") in (True, False) else (
            bool(fields.number(body, "logprobs")))  # fmt: skip
        run = self.service.start(
            served, [written], settings, 1, memory=memory, alternatives=5 if figures else 0,
            token_bias=wanted.token_bias, owner=owner_of(http),
        )  # fmt: skip
        session = _Session(run)
        key = fields.text(body, "genkey")
        self._sessions[self._key(http, key)] = session
        while len(self._sessions) > _KEPT:
            self._sessions.popitem(last=False)
        return session, len(prompt) + len(pinned), figures

    @staticmethod
    def _key(http: HttpRequest, genkey: str) -> tuple[str, str]:
        """A client's generation: by its key and who asks."""
        peer = http.client.host if http.client is not None else ""
        token = http.headers.get("authorization", "")
        return f"{peer} {token}", genkey

    async def _session(self, http: HttpRequest) -> _Session | None:
        body = await read_body(http) if await http.body() else {}
        key = fields.text(body, "genkey") or http.query_params.get("genkey", "")
        return self._sessions.get(self._key(http, key))

    async def _whole(self, session: _Session) -> Generated:
        async for piece in session.run.pieces():
            if piece is None:
                continue
            session.text += piece.text
            session.tokens += piece.tokens
            if piece.result is not None:
                session.done = True
                return piece.result
        raise FieldError("the generation has no end")

    async def _events(
        self, session: _Session, figures: bool
    ) -> AsyncIterator[dict[str, Any] | None]:
        async for piece in session.run.pieces():
            if piece is None:
                yield None
                continue
            session.text += piece.text
            session.tokens += piece.tokens
            for text, token in token_texts(piece):
                event: dict[str, Any] = {"token": text, "finish_reason": None}
                if figures and token is not None:
                    event["logprobs"] = _logprobs([token])
                yield event
            if piece.result is not None:
                session.done = True
                yield {"token": "", "finish_reason": _reason(piece.result)}


def _reason(text: Generated) -> str:
    return "length" if text.finish_reason == "interrupted" else text.finish_reason


def _logprobs(tokens: list[Token]) -> dict[str, Any]:
    """Figures in the form of OpenAI's chats, which is what Lite and mikupad read."""
    import math

    return {
        "content": [
            {
                "token": token_name(token),
                "logprob": token.logprob,
                "bytes": list(token.bytes),
                "top_logprobs": [
                    {
                        "token": one.text,
                        "logprob": math.log(one.probability),
                        "bytes": list(one.text.encode()),
                    }
                    for one in token.before or []
                ],
            }
            for token in tokens
        ]
    }


def text_of(served: ServedModel, ids: Any, param: str) -> str:
    """The text of token ids that a client sent.

    Raises:
        FieldError: They are no token ids.
    """
    size = vocabulary_size(served)
    if not isinstance(ids, list) or not all(
        isinstance(token, int) and not isinstance(token, bool) and 0 <= token < size
        for token in ids
    ):
        raise FieldError(f"{param} must be a list of token ids below {size}", param)
    words = vocabulary(served.model.tokenizer)
    return b"".join(words.bytes_of(token) for token in ids).decode("utf-8", "replace")
