"""The description of the interface in OpenAPI 3.1."""

from __future__ import annotations

from typing import Any

from .._version import __version__
from .fields import NUMBERS, TEXTS

_ANY: dict[str, Any] = {}
_NUMBER = {"type": ["number", "null"]}
_TEXT = {"type": ["string", "null"]}
_FLAG = {"type": ["boolean", "null"]}
_TEXTS = {"anyOf": [{"type": ["string", "null"]}, {"type": "array", "items": {"type": "string"}}]}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": _TEXT,
                "code": _TEXT,
            },
        }
    },
}
_KOBOLD_ERROR = {
    "type": "object",
    "required": ["detail"],
    "properties": {"detail": {"type": "object", "required": ["msg", "type"]}},
}


_KOBOLD_PATHS = (
    "v1/model",
    "v1/info/version",
    "extra/version",
    "v1/config/max_context_length",
    "extra/true_max_context_length",
    "v1/config/max_length",
    "extra/perf",
)


def _sampling() -> dict[str, Any]:
    """The fields of the sampling, under every name."""
    numbers = {name: _NUMBER for names in NUMBERS.values() for name in names}
    texts = {name: _TEXTS for names in TEXTS.values() for name in names}
    more = {"logit_bias": {"type": ["object", "array", "null"]}, "preset": _TEXT,
            "ignore_eos": _FLAG, "ban_eos_token": _FLAG,
            "heal": _FLAG}  # fmt: skip
    return {**numbers, **texts, **more}


def _object(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required or []}


def _whole(low: int, high: int) -> dict[str, Any]:
    return {"type": ["integer", "null"], "minimum": low, "maximum": high}


_USAGE = _object(
    {name: {"type": "integer"} for name in ("prompt_tokens", "completion_tokens", "total_tokens")},
    ["prompt_tokens", "completion_tokens", "total_tokens"],
)


def _completion(kind: str, choice: dict[str, Any]) -> dict[str, Any]:
    head = {"id": {"type": "string"}, "object": {"const": kind}, "created": {"type": "integer"},
            "model": {"type": "string"}}  # fmt: skip
    body = {**head, "choices": {"type": "array", "items": choice}, "usage": _USAGE}
    return _object(body, [*head, "choices", "usage"])


def _route(
    summary: str,
    answer: dict[str, Any],
    body: dict[str, Any] | None = None,
    *,
    error: dict[str, Any] = _ERROR,
    media: str = "application/json",
    parameters: list[dict[str, Any]] | None = None,
    stream: bool = False,
) -> dict[str, Any]:
    content: dict[str, Any] = {media: {"schema": answer}}
    if stream:
        content["text/event-stream"] = {"schema": {}}
    failed = {"description": "refused", "content": {"application/json": {"schema": error}}}
    described: dict[str, Any] = {
        "summary": summary,
        "responses": {"200": {"description": "answered", "content": content}, "4XX": failed,
                      "503": failed},
    }  # fmt: skip
    if body is not None:
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": body}},
        }
    if parameters:
        described["parameters"] = parameters
    return described


def document() -> dict[str, Any]:
    """The whole description."""
    sampling = _sampling()
    model = {"model": _TEXT}
    prompt = {
        "anyOf": [
            {"type": ["string", "null"]},
            {"type": "array", "items": {"type": "string"}},
            {"type": "array", "items": {"type": "integer"}},
            {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
        ]
    }
    options = {"type": ["object", "null"], "properties": {"include_usage": _FLAG}}
    common = {**model, **sampling, "n": _whole(1, 32), "stream": _FLAG, "stream_options": options}
    completion = {**common, "prompt": prompt, "best_of": _whole(1, 32), "echo": _FLAG,
                  "logprobs": {"type": ["integer", "boolean", "null"]},
                  "post_sampling_probs": _FLAG}  # fmt: skip
    message = _object({"role": {"type": "string"}, "content": _ANY}, ["role", "content"])
    chat = {**common, "messages": {"type": "array", "items": message, "minItems": 1},
            "logprobs": _FLAG, "top_logprobs": _whole(0, 20)}  # fmt: skip
    text_choice = _object(
        {"index": {"type": "integer"}, "text": {"type": "string"},
         "logprobs": {"type": ["object", "null"]}, "finish_reason": {"type": "string"}},
        ["index", "text", "logprobs", "finish_reason"],
    )  # fmt: skip
    chat_choice = _object(
        {"index": {"type": "integer"}, "message": {"type": "object"},
         "logprobs": {"type": ["object", "null"]}, "finish_reason": {"type": "string"}},
        ["index", "message", "finish_reason"],
    )  # fmt: skip
    models = _object({"object": {"const": "list"}, "data": {"type": "array"}}, ["object", "data"])
    name = [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]
    tokens = {"type": "array", "items": {"type": "integer"}}
    kobold = {**sampling, "prompt": _TEXT, "memory": _TEXT, "genkey": _TEXT,
              "max_context_length": _NUMBER, "logprobs": _FLAG}  # fmt: skip
    genkey = _object({"genkey": _TEXT})
    anything = {"type": "object"}
    get, post = "get", "post"
    paths: dict[str, Any] = {
        "/v1/completions": {post: _route(
            "Continue texts", _completion("text_completion", text_choice), _object(completion),
            stream=True)},
        "/v1/chat/completions": {post: _route(
            "Continue a chat", _completion("chat.completion", chat_choice),
            _object(chat, ["messages"]), stream=True)},
        "/v1/models": {get: _route("The served models", models)},
        "/v1/models/{name}": {get: _route("A served model", anything, parameters=name)},
        "/v1/scores": {post: _route(
            "Figures of every token of a text", anything,
            _object({**model, "text": {"type": "string"}, "base": _FLAG,
                     "alternatives": _whole(0, 20)}, ["text"]))},
        "/v1/explanations": {post: _route(
            "What a token or a span came from", anything,
            _object({**model, "text": {"type": "string"}, "target": _TEXT, "full": _FLAG},
                    ["text"]))},
        "/tokenize": {post: _route(
            "Token ids of a text", _object({"tokens": tokens, "count": {"type": "integer"}}),
            _object({**model, "content": _TEXT, "prompt": _TEXT, "add_special_tokens": _FLAG}))},
        "/detokenize": {post: _route(
            "The text of token ids", _object({"content": {"type": "string"}}),
            _object({**model, "tokens": tokens}, ["tokens"]))},
        "/tokenizer_info": {get: _route("Special tokens", anything)},
        "/health": {get: _route("Whether the server works", anything)},
        "/metrics": {get: _route("Metrics for Prometheus", {"type": "string"},
                                 media="text/plain")},
        "/stats": {get: _route("Metrics as JSON", anything)},
        "/version": {get: _route("The version", anything)},
        "/api/v1/generate": {post: _route(
            "Continue a text (KoboldAI)", anything, _object(kobold), error=_KOBOLD_ERROR)},
        "/api/extra/generate/stream": {post: _route(
            "The same as a stream", {}, _object(kobold), error=_KOBOLD_ERROR,
            media="text/event-stream")},
        "/api/extra/generate/check": {post: _route(
            "The text so far", anything, genkey, error=_KOBOLD_ERROR)},
        "/api/extra/abort": {post: _route(
            "End a generation", anything, genkey, error=_KOBOLD_ERROR)},
        "/api/extra/last_logprobs": {post: _route(
            "Figures of the last text", anything, genkey, error=_KOBOLD_ERROR)},
        "/api/extra/tokencount": {post: _route(
            "Number of tokens", anything, _object({"prompt": _TEXT}), error=_KOBOLD_ERROR)},
        "/api/extra/detokenize": {post: _route(
            "The text of token ids", anything, _object({"ids": tokens}, ["ids"]),
            error=_KOBOLD_ERROR)},
    }  # fmt: skip
    for path in _KOBOLD_PATHS:
        paths[f"/api/{path}"] = {get: _route("Of the server", anything, error=_KOBOLD_ERROR)}
    info = {"title": "CreativeWritingGPT", "version": __version__}
    return {"openapi": "3.1.0", "info": info, "paths": paths}
