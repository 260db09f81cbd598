"""The ASGI application: routes, and errors in each protocol's form."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from .. import console
from .._version import __version__
from ..errors import InputError, UserError
from ..generation.results import Token
from ..generation.text import vocabulary
from . import fields
from .protocols import openai
from .protocols.kobold import Kobold, text_of
from .protocols.messages import error_body, kind_of, read_body, token_name
from .protocols.openai import served_model
from .scheduler import QueueFull, Work
from .scores import score
from .security import Access, Guard, Refused
from .service import Gone, Service, window, without_start

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel

Handler = Callable[[HttpRequest], Awaitable[Response]]


def build_app(service: Service, access: Access) -> Guard:
    """The application, behind its guard."""
    routes = Routes(service)
    app = Starlette(
        routes=[Route(path, _answered(handler), methods=list(methods))
                for path, methods, handler in routes.table()],
        exception_handlers={404: _not_found, 405: _not_found},
    )  # fmt: skip
    metrics = service.scheduler.metrics

    async def counted(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return

        async def seen(message: Any) -> None:
            if message["type"] == "http.response.start":
                metrics.count("requests_total", 1, f'status="{message["status"]}"')
            await send(message)

        await app(scope, receive, seen)

    def rejected(reason: str) -> None:
        metrics.count("rejected_total", 1, f'reason="{reason}"')

    return Guard(counted, access, _refusal, rejected)


def _is_kobold(path: str) -> bool:
    return path.startswith(("/api/v1/", "/api/extra/"))


def _refusal(path: str, refused: Refused) -> dict[str, Any]:
    return _error(path, refused)[1]


def _error(path: str, error: Exception) -> tuple[int, dict[str, Any]]:
    """Status and body of an error, in the form of the path's protocol."""
    status, kind, code, param = kind_of(error)
    message = f"internal error ({type(error).__name__})"
    if isinstance(error, Refused):
        message = error.message
    elif isinstance(error, UserError):
        message = error.message + (f"; {error.advice}" if error.advice else "")
    if _is_kobold(path):
        # Its clients try again at 503, and know no 429.
        status = 503 if status == 429 else status
        return status, {"detail": {"msg": message, "type": kind}}
    return status, error_body(message, kind, code, param)


def _answered(handler: Handler) -> Handler:
    """A handler whose errors become answers."""

    async def answer(http: HttpRequest) -> Response:
        try:
            return await handler(http)
        except Gone:
            return Response(status_code=499)
        except Exception as error:
            status, body = _error(http.url.path, error)
            headers = {}
            if isinstance(error, QueueFull):
                headers["retry-after"] = str(error.retry_after)
            if status == 500 and not isinstance(error, UserError):
                console.note(f"{http.url.path}: {type(error).__name__}")
                logging.getLogger(__name__).debug("internal error", exc_info=error)
            return JSONResponse(body, status, headers)

    return answer


async def _not_found(http: HttpRequest, error: Exception) -> Response:
    path = http.url.path
    hint = ""
    if path.startswith("/v1/v1/"):
        hint = f"; give the base URL without /v1, for {path[3:]}"
    elif path in ("/completions", "/chat/completions", "/models"):
        hint = f"; give the base URL with /v1, for /v1{path}"
    status = getattr(error, "status_code", 404)
    what = "is not offered" if status == 404 else f"does not take {http.method}"
    refused = Refused(status, f"{path} {what} here{hint}", "not_found")
    return JSONResponse(_error(path, refused)[1], status)


class Routes:
    """The routes that belong to no protocol, and the table of all.

    Args:
        service: The served models.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.kobold = Kobold(service)

    def table(self) -> list[tuple[str, tuple[str, ...], Handler]]:
        """Path, methods and handler of every route."""
        kobold = self.kobold
        get, post, both = ("GET",), ("POST",), ("GET", "POST")
        return [
            ("/v1/completions", post, self.completions),
            ("/v1/chat/completions", post, self.chat),
            ("/v1/models", get, self.models),
            ("/v1/models/{name:path}", get, self.model),
            ("/v1/scores", post, self.scores),
            ("/v1/explanations", post, self.explanations),
            ("/tokenize", post, self.tokenize),
            ("/detokenize", post, self.detokenize),
            ("/tokenizer_info", get, self.tokenizer_info),
            ("/health", get, self.health),
            ("/metrics", get, self.metrics),
            ("/stats", get, self.stats),
            ("/version", get, self.version),
            ("/openapi.json", get, self.openapi),
            ("/api/v1/generate", post, kobold.generate),
            ("/api/extra/generate/stream", post, kobold.stream),
            ("/api/extra/generate/check", both, kobold.check),
            ("/api/extra/abort", both, kobold.abort),
            ("/api/extra/last_logprobs", post, kobold.last_logprobs),
            ("/api/extra/tokencount", post, kobold.token_count),
            ("/api/extra/detokenize", post, kobold.detokenize),
            ("/api/v1/model", get, kobold.model),
            ("/api/v1/info/version", get, kobold.info),
            ("/api/extra/version", get, kobold.version),
            ("/api/v1/config/max_context_length", get, kobold.context_length),
            ("/api/extra/true_max_context_length", get, kobold.context_length),
            ("/api/v1/config/max_length", get, kobold.max_length),
            ("/api/extra/perf", get, kobold.perf),
            ("/api/extra/preloadstory", get, kobold.empty),
            ("/sdapi/v1/sd-models", get, kobold.empty),
        ]

    async def completions(self, http: HttpRequest) -> Response:
        """``POST /v1/completions``."""
        return await openai.completions(self.service, http)

    async def chat(self, http: HttpRequest) -> Response:
        """``POST /v1/chat/completions``."""
        return await openai.chat(self.service, http)

    async def models(self, http: HttpRequest) -> Response:
        """``GET /v1/models``."""
        listed = [self._described(name) for name in self.service.scheduler.models]
        return JSONResponse({"object": "list", "data": listed})

    async def model(self, http: HttpRequest) -> Response:
        """``GET /v1/models/{name}``."""
        served = served_model(self.service, {"model": http.path_params["name"]})
        return JSONResponse(self._described(served.name))

    def _described(self, name: str) -> dict[str, Any]:
        served = self.service.scheduler.models[name]
        return {
            "id": name,
            "object": "model",
            "created": served.created,
            "owned_by": "creativewritinggpt",
            "max_model_len": served.model.context_length,
        }

    async def scores(self, http: HttpRequest) -> Response:
        """``POST /v1/scores``: figures of every token of a text, tuned and base."""
        body = await read_body(http)
        served = served_model(self.service, body)
        ids = without_start(served, await self.service.encode(served, fields.text(body, "text")))
        if not ids:
            raise fields.FieldError("text must hold something", "text")
        if len(ids) > window(served):
            raise fields.FieldError(
                f"the text has {len(ids)} tokens and the model takes {window(served)}", "text",
                "context_length_exceeded",
            )  # fmt: skip
        alternatives = fields.whole(body, "alternatives", 0, 0, openai.MOST_LOGPROBS)
        base = fields.flag(body, "base") and served.model.has_adapter
        found = await self.service.work(
            served, lambda model: score(model, ids, alternatives=alternatives, base=base), http
        )
        tokens = []
        for place, token in enumerate(found.tokens):
            record = _scored(token)
            if found.base is not None:
                other = found.base[place]
                record["base"] = _scored(other)
                record["difference"] = token.logprob - other.logprob
            tokens.append(record)
        total = sum(token.logprob for token in found.tokens)
        answer = {"model": served.name, "tokens": tokens, "logprob": total,
                  "nats_per_token": -total / len(ids)}  # fmt: skip
        return JSONResponse(answer)

    async def explanations(self, http: HttpRequest) -> Response:
        """``POST /v1/explanations``: what a token or a span came from."""
        body = await read_body(http)
        served = served_model(self.service, body)
        text, target = fields.text(body, "text"), fields.text(body, "target")
        if not text.strip():
            raise fields.FieldError("text must hold something", "text")
        if len(await self.service.encode(served, text)) > window(served):
            raise fields.FieldError("the text is longer than the model's window", "text",
                                    "context_length_exceeded")  # fmt: skip

        full = fields.flag(body, "full")
        if not full and not target:
            raise fields.FieldError("target must be a word of the text, or full true", "target")

        def work(model: LoadedModel) -> Work:
            from ..analysis.record import as_json
            from ..analysis.registry import AnalysisSettings
            from ..analysis.run import explaining
            from ..analysis.why import why

            if full:
                chosen = AnalysisSettings(target=target or None)
                return as_json((yield from explaining(model, text, chosen)).record)
            yield
            return why(model, text, target)

        answer = await self.service.work(served, work, http, priority=2)
        return JSONResponse({"model": served.name, "text": text, "explanation": answer})

    async def tokenize(self, http: HttpRequest) -> Response:
        """``POST /tokenize``: llama.cpp's ``content``, vLLM's ``prompt``."""
        body = await read_body(http)
        served = served_model(self.service, body)
        name = "content" if body.get("content") is not None else "prompt"
        ids = await self.service.encode(served, fields.text(body, name), marks=True)
        if fields.flag(body, "add_special_tokens") or fields.flag(body, "add_special"):
            ids = [served.model.bos_id, *ids]
        return JSONResponse(
            {"tokens": ids, "count": len(ids), "max_model_len": served.model.context_length}
        )

    async def detokenize(self, http: HttpRequest) -> Response:
        """``POST /detokenize``."""
        body = await read_body(http)
        served = served_model(self.service, body)
        text = text_of(served, body.get("tokens"), "tokens")
        return JSONResponse({"content": text, "prompt": text})

    async def tokenizer_info(self, http: HttpRequest) -> Response:
        """``GET /tokenizer_info``, which lm-evaluation-harness asks for."""
        model = self.service.default.model
        words = vocabulary(model.tokenizer)
        return JSONResponse(
            {
                "tokenizer_class": type(model.tokenizer).__name__,
                "bos_token": words.shown(model.bos_id),
                "eos_token": words.shown(model.eos_id),
                "model_max_length": model.context_length,
            }
        )

    async def health(self, http: HttpRequest) -> Response:
        """``GET /health``: 200 while the scheduler's thread runs."""
        alive = self.service.scheduler.alive
        status = {"status": "ok" if alive else "error"}
        return JSONResponse(status, 200 if alive else 503)

    async def metrics(self, http: HttpRequest) -> Response:
        """``GET /metrics``, for Prometheus."""
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return PlainTextResponse(self.service.scheduler.metrics.text(), media_type=kind)

    async def stats(self, http: HttpRequest) -> Response:
        """``GET /stats``: the same as JSON."""
        return JSONResponse(self.service.scheduler.metrics.snapshot())

    async def version(self, http: HttpRequest) -> Response:
        """``GET /version``."""
        return JSONResponse({"version": __version__})

    async def openapi(self, http: HttpRequest) -> Response:
        """``GET /openapi.json``: the description of this interface."""
        from .openapi import document

        return JSONResponse(await run_in_threadpool(document))


def _scored(token: Token) -> dict[str, Any]:
    record: dict[str, Any] = {
        "id": token.id,
        "text": token_name(token),
        "logprob": token.logprob,
        "rank": token.rank,
        "entropy": token.entropy,
    }
    if token.before is not None:
        record["alternatives"] = [
            {"id": one.id, "text": one.text, "probability": one.probability} for one in token.before
        ]
    return record


def read_keys(path: str | Path) -> list[str]:
    """The API keys of a file, one a line.

    Raises:
        InputError: The file can't be read, or a key is shorter than 16 characters.
    """
    from ..files import from_home, read_text

    lines = read_text(from_home(path)).splitlines()
    keys = [line.strip() for line in lines if line.strip()]
    if not keys or min(map(len, keys)) < 16:
        raise InputError(
            f"{path} must hold keys of at least 16 characters, one a line",
            "make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
        )
    return keys
