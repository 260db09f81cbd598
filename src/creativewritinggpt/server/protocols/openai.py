"""OpenAI's completions and chat completions, their streams and errors.

Log-probabilities are of the model's own distribution, before the samplers; with
``post_sampling_probs`` those of the distribution that was drawn from. With ``echo`` the prompt's
tokens have their own figures, which is how lm-evaluation-harness scores texts.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import math
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from ...generation.results import Generated, Piece, Token
from ...generation.sampling.settings import GenerationSettings
from ...generation.text import Vocabulary, vocabulary
from .. import fields
from ..fields import FieldError, Wanted
from ..scheduler import ServedModel
from ..scores import Scores, score
from ..security import Refused
from ..service import (
    Gone,
    Run,
    Service,
    check_size,
    mean_logprob,
    owner_of,
    present,
    window,
    without_start,
)
from .messages import EventStream, name_of, read_body, token_name, token_texts

MOST_LOGPROBS = 20


@dataclasses.dataclass(frozen=True)
class Asked:
    """A request for completions, checked.

    Attributes:
        served: The model.
        prompts: Token ids of each prompt, without the start of text.
        texts: The prompts as text.
        starts: Whether each prompt came as token ids with the start of text.
        written: The prompts as they are continued: texts as such, so that their ends can heal.
        settings: The settings of the writing.
        wanted: What was asked of the sampling.
        n, best_of: Texts per prompt, and how many are written for them.
        logprobs: Number of alternatives per token; None for no figures.
        post: Whether probabilities are those after the samplers.
        echo: Whether the prompt comes back.
        stream, usage: Whether the answer streams, and ends with the usage.
        memory: Text pinned to the front of the model's view.
        chat: Whether the answer has the form of a chat.
    """

    served: ServedModel
    prompts: list[list[int]]
    texts: list[str]
    starts: list[bool]
    written: list[str | list[int]]
    settings: GenerationSettings
    wanted: Wanted
    n: int
    best_of: int
    logprobs: int | None
    post: bool
    echo: bool
    stream: bool
    usage: bool
    memory: str = ""
    chat: bool = False


async def completions(service: Service, http: HttpRequest) -> Response:
    """``POST /v1/completions``."""
    body = await read_body(http)
    asked = await _asked(service, body)
    scores: list[Scores | None] = [None] * len(asked.prompts)
    if asked.echo and asked.logprobs is not None:
        for place, ids in enumerate(asked.prompts):
            if ids:
                work = functools.partial(score, ids=ids, alternatives=asked.logprobs or 1)
                scores[place] = await service.work(asked.served, work, http)
    return await _answer(service, http, asked, scores)


async def chat(service: Service, http: HttpRequest) -> Response:
    """``POST /v1/chat/completions``."""
    body = await read_body(http)
    memory, prompt = chat_prompt(body)
    for name in ("tools", "functions"):
        if body.get(name):
            raise FieldError(f"{name} are not offered here", name, "unsupported")
    logprobs = None
    if fields.flag(body, "logprobs"):
        logprobs = fields.whole(body, "top_logprobs", 0, 0, MOST_LOGPROBS)
    plain = {
        key: value for key, value in body.items() if key not in ("logprobs", "echo", "best_of")
    }
    if body.get("max_completion_tokens") is not None:
        plain["max_tokens"] = body["max_completion_tokens"]
    elif body.get("max_tokens") is None:
        plain["max_tokens"] = -1
    asked = await _asked(service, {**plain, "prompt": prompt})
    asked = dataclasses.replace(asked, memory=memory, chat=True, logprobs=logprobs)
    return await _answer(service, http, asked, [None])


def chat_prompt(body: Mapping[str, Any]) -> tuple[str, str]:
    """Memory and prompt of a chat: a base model's layout, without marks of roles.

    System texts are the memory, turns are joined by empty lines, and an assistant's turn at the end
    is continued.

    Raises:
        FieldError: The messages have another form.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise FieldError("messages must be a list with at least one message", "messages")
    memory, turns, last = [], [], ""
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise FieldError("a message must have a role and content", "messages")
        content, last = _content(message.get("content")), message["role"]
        if last in ("system", "developer"):
            memory.append(content)
        elif last in ("user", "assistant"):
            turns.append(content)
        else:
            raise FieldError(f"messages of the role {last!r} are not offered", "messages",
                             "unsupported")  # fmt: skip
    prompt = "\n\n".join(turns)
    if last != "assistant" and prompt:
        prompt += "\n\n"
    return "".join(f"{text}\n\n" for text in memory), prompt


def _content(content: Any) -> str:
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if isinstance(content, list) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
        for part in content
    ):
        return "".join(part["text"] for part in content)
    raise FieldError("content must be a text or a list of text parts", "messages", "unsupported")


def served_model(service: Service, body: Mapping[str, Any]) -> ServedModel:
    """The model that a request names; the first one where it names none.

    Raises:
        Refused: There is no such model.
    """
    name = fields.text(body, "model")
    if not name:
        return service.default
    if name not in service.scheduler.models:
        known = ", ".join(service.scheduler.models)
        raise Refused(404, f"the model {name!r} does not exist; there are: {known}",
                      "model_not_found")  # fmt: skip
    return service.scheduler.models[name]


async def _asked(service: Service, body: Mapping[str, Any]) -> Asked:
    served = served_model(service, body)
    words = vocabulary(served.model.tokenizer)
    size = vocabulary_size(served)
    wanted = fields.wanted(body, size, strict=service.strict)
    n = fields.whole(body, "n", 1, 1, 32)
    best_of = fields.whole(body, "best_of", n, 1, 32)
    stream, echo = fields.flag(body, "stream"), fields.flag(body, "echo")
    if best_of < n:
        raise FieldError("best_of must not be less than n", "best_of")
    if best_of > n and stream:
        raise FieldError("best_of can't be streamed", "best_of")
    logprobs = _logprobs(body)
    prompts, texts, starts, written = await _prompts(service, served, body, words, size)
    limit = window(served) - 1
    cut = _cut(body)
    for place, ids in enumerate(prompts):
        if cut is not None and len(ids) > min(cut, limit):
            prompts[place] = written[place] = ids[-min(cut, limit) :]
            texts[place] = _shown(prompts[place], words)
        elif len(ids) > limit:
            raise FieldError(
                f"the prompt has {len(ids)} tokens and the model takes {limit}", "prompt",
                "context_length_exceeded",
            )  # fmt: skip
    longest = max(map(len, prompts))
    max_tokens = 16 if wanted.max_tokens is None else wanted.max_tokens
    if max_tokens == -1:
        max_tokens = max(1, limit + 1 - longest)
    if not 0 <= max_tokens <= 100_000:
        raise FieldError("max_tokens must be from 0 to 100000, or -1", "max_tokens")
    check_size(served, len(prompts) * best_of, max_tokens)
    least = min(wanted.settings.min_new_tokens, max_tokens)
    settings = wanted.settings.changed(
        {"max_new_tokens": max(1, max_tokens), "min_new_tokens": least}
    )
    if wanted.endless:
        settings = settings.changed({"min_new_tokens": settings.max_new_tokens})
    wanted = dataclasses.replace(wanted, max_tokens=max_tokens)
    return Asked(
        served, prompts, texts, starts, written, settings, wanted, n, best_of, logprobs,
        post=fields.flag(body, "post_sampling_probs"), echo=echo, stream=stream,
        usage=_usage_asked(body, stream),
    )  # fmt: skip


def vocabulary_size(served: ServedModel) -> int:
    """Number of token ids of a model's tokenizer."""
    return len(served.model.tokenizer)


def _logprobs(body: Mapping[str, Any]) -> int | None:
    value = body.get("logprobs")
    if value is True:  # KoboldAI Lite
        return 5
    if value is False:
        value = None
    # llama.cpp's name.
    if value is None and fields.number(body, "n_probs"):
        return fields.whole(body, "n_probs", 0, 0, MOST_LOGPROBS)
    return None if value is None else fields.whole(body, "logprobs", 0, 0, MOST_LOGPROBS)


def _cut(body: Mapping[str, Any]) -> int | None:
    for name in ("truncate_prompt_tokens", "truncation_length"):
        value = fields.number(body, name, whole=True)
        if value is not None:
            return None if value <= 0 else int(value)
    return None


def _usage_asked(body: Mapping[str, Any], stream: bool) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    if not stream or not isinstance(options, dict):
        raise FieldError("stream_options go with stream", "stream_options")
    return fields.flag(options, "include_usage")


async def _prompts(
    service: Service, served: ServedModel, body: Mapping[str, Any], words: Vocabulary, size: int
) -> tuple[list[list[int]], list[str], list[bool], list[str | list[int]]]:
    """What :class:`Asked` says of the four forms of a prompt."""
    given = body.get("prompt")
    given = "" if given is None else given
    if isinstance(given, str) or (given and _are_ids(given)):
        given = [given]
    if not isinstance(given, list) or not given:
        raise FieldError("prompt must be a text, token ids, or a list of either", "prompt")
    if len(given) > 32:
        raise FieldError("prompt has more than 32 entries", "prompt")
    prompts, texts, starts = [], [], []
    written: list[str | list[int]] = []
    for one in given:
        starts.append(False)
        if isinstance(one, str):
            ids = await service.encode(served, one)
            texts.append(one)
            written.append(one)
        elif _are_ids(one):
            if not all(0 <= token < size for token in one):
                raise FieldError(f"token ids must be below {size}", "prompt")
            ids = without_start(served, one)
            texts.append(_shown(ids, words))
            starts[-1] = len(ids) < len(one)
            written.append(ids)
        else:
            raise FieldError("prompt must be a text, token ids, or a list of either", "prompt")
        prompts.append(ids)
    return prompts, texts, starts, written


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(token, int) and not isinstance(token, bool) for token in value
    )


def _shown(ids: Sequence[int], words: Vocabulary) -> str:
    return b"".join(words.bytes_of(token) for token in ids).decode("utf-8", "replace")


async def _answer(
    service: Service, http: HttpRequest, asked: Asked, scores: Sequence[Scores | None]
) -> Response:
    head = {
        "id": f"{'chatcmpl' if asked.chat else 'cmpl'}-{uuid.uuid4().hex}",
        "object": ("chat.completion" if asked.chat else "text_completion"),
        "created": int(time.time()),
        "model": asked.served.name,
    }
    run: Run | None = None
    if asked.wanted.max_tokens:
        run = service.start(
            asked.served,
            asked.written,
            asked.settings,
            asked.best_of,
            memory=asked.memory,
            alternatives=asked.logprobs or 0,
            token_bias=asked.wanted.token_bias,
            owner=owner_of(http),
        )
    words = vocabulary(asked.served.model.tokenizer)
    if asked.stream:
        return EventStream(_chunks(asked, head, run, scores, words), run, http)
    results = [] if run is None else await _results(run, http)
    chosen = _chosen(asked, results)
    choices = []
    for index, text in enumerate(chosen):
        place = index // asked.n
        choices.append(_choice(asked, index, place, text, scores[place], words))
    completion = sum(len(text.tokens) for text in results)
    answer: dict[str, Any] = {**head, "choices": choices, "usage": _usage(asked, completion)}
    if asked.wanted.warnings:
        answer["warnings"] = asked.wanted.warnings
    if chosen and chosen[0] is not None:
        answer["seed"] = chosen[0].seed
    return JSONResponse(answer)


async def _results(run: Run, http: HttpRequest) -> list[Generated]:
    try:
        results: list[Generated] = await present(http, run.results())
        return results
    except Gone:
        run.cancel()
        raise
    except asyncio.CancelledError:
        run.cancel()
        raise


_EMPTY = Generated("", "", 0, "length", [], 0, 0, fields.DEFAULTS, 0.0, 0.0)


def _chosen(asked: Asked, results: Sequence[Generated]) -> list[Generated]:
    """The texts of the answer: the best ones of each prompt, empty ones where none are asked."""
    if not results:
        return [_EMPTY] * (len(asked.prompts) * asked.n)
    chosen: list[Generated] = []
    for place in range(len(asked.prompts)):
        texts = list(results[place * asked.best_of : (place + 1) * asked.best_of])
        if asked.best_of > asked.n:
            texts.sort(key=mean_logprob, reverse=True)
        chosen += texts[: asked.n]
    return chosen


def _usage(asked: Asked, completion: int) -> dict[str, int]:
    prompt = sum(map(len, asked.prompts)) + sum(asked.starts)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def _reason(text: Generated) -> str:
    return "length" if text.finish_reason == "interrupted" else text.finish_reason


def _choice(
    asked: Asked,
    index: int,
    place: int,
    text: Generated,
    scores: Scores | None,
    words: Vocabulary,
) -> dict[str, Any]:
    if asked.chat:
        figures = None if asked.logprobs is None else _chat_logprobs(asked, text.tokens)
        message = {"role": "assistant", "content": text.text, "refusal": None}
        return {
            "index": index, "message": message, "logprobs": figures,
            "finish_reason": _reason(text),
        }  # fmt: skip
    shown = asked.texts[place] + text.text if asked.echo else text.text
    figures = None
    if asked.logprobs is not None:
        figures = _prompt_figures(asked, place, scores)
        after = _figures(asked, text.tokens, len(asked.texts[place]))
        figures = {key: figures[key] + after[key] for key in figures}
    return {
        "index": index, "text": shown, "logprobs": figures, "finish_reason": _reason(text)
    }  # fmt: skip


def _alternatives(asked: Asked, token: Token) -> dict[str, float]:
    """The log-probabilities of a token's alternatives and its own, likeliest first."""
    listed = (token.after if asked.post else token.before) or []
    own = math.log(token.probability) if asked.post and token.probability > 0 else token.logprob
    found: dict[str, float] = {}
    words = vocabulary(asked.served.model.tokenizer)
    for one in listed[: asked.logprobs or 0]:
        key = name_of(words.bytes_of(one.id), one.text)
        if one.id == token.id:
            found[token_name(token)] = own
        elif key not in found and one.probability > 0:
            found[key] = math.log(one.probability)
    found.setdefault(token_name(token), own)
    return found


def _own(asked: Asked, token: Token) -> float:
    if asked.post and token.probability > 0:
        return math.log(token.probability)
    return token.logprob


def _figures(
    asked: Asked, tokens: Sequence[Token], offset: int = 0, *, first: bool = False
) -> dict[str, list[Any]]:
    """Figures of tokens in the form of completions; the first of a prompt has none."""
    figures: dict[str, list[Any]] = {
        "tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": [],
    }  # fmt: skip
    for place, token in enumerate(tokens):
        unknown = first and place == 0
        figures["tokens"].append(token_name(token))
        figures["token_logprobs"].append(None if unknown else _own(asked, token))
        figures["top_logprobs"].append(None if unknown else _alternatives(asked, token))
        figures["text_offset"].append(offset)
        offset += len(token.bytes.decode("utf-8", "ignore"))
    return figures


def _prompt_figures(asked: Asked, place: int, scores: Scores | None) -> dict[str, list[Any]]:
    """Figures of a prompt that is echoed; its first token has none, as it follows nothing."""
    figures = _figures(asked, [])
    if scores is None:
        return figures
    if asked.starts[place]:
        model = asked.served.model
        figures["tokens"].append(vocabulary(model.tokenizer).shown(model.bos_id))
        figures["token_logprobs"].append(None)
        figures["top_logprobs"].append(None)
        figures["text_offset"].append(0)
    of_text = _figures(asked, scores.tokens, first=not asked.starts[place])
    return {key: figures[key] + of_text[key] for key in figures}


def _chat_logprobs(asked: Asked, tokens: Sequence[Token]) -> dict[str, Any]:
    return {
        "content": [
            {
                "token": token_name(token),
                "logprob": _own(asked, token),
                "bytes": list(token.bytes),
                "top_logprobs": [
                    {"token": key, "logprob": value, "bytes": list(key.encode())}
                    for key, value in list(_alternatives(asked, token).items())[: asked.logprobs]
                ],
            }
            for token in tokens
        ],
        "refusal": None,
    }


async def _chunks(
    asked: Asked,
    head: dict[str, Any],
    run: Run | None,
    scores: Sequence[Scores | None],
    words: Vocabulary,
) -> AsyncIterator[dict[str, Any] | None]:
    """The chunks of a stream, one token each; None where only a sign of life is due."""
    if asked.chat:
        head = {**head, "object": "chat.completion.chunk"}
    rows = len(asked.prompts) * asked.n
    offsets = [0] * rows
    usage = {"usage": None} if asked.usage else {}
    for index in range(rows):
        place = index // asked.n
        if asked.chat:
            delta = {"role": "assistant", "content": ""}
            yield {**head, "choices": [_delta(index, delta, None)], **usage}
        offsets[index] = len(asked.texts[place])
        if asked.echo:
            figures = None
            known = scores[place]
            if known is not None:
                figures = _prompt_figures(asked, place, known)
            yield {**head, "choices": [_text_choice(index, asked.texts[place], figures, None)],
                   **usage}  # fmt: skip
    completion = 0
    if run is None:
        for index in range(rows):
            yield {**head, "choices": [_text_choice(index, "", None, "length")], **usage}
    else:
        async for piece in run.pieces():
            if piece is None:
                yield None
                continue
            if piece.result is not None:
                completion += len(piece.result.tokens)
            for chunk in _piece_choices(asked, piece, offsets):
                yield {**head, "choices": [chunk], **usage}
    if asked.usage:
        yield {**head, "choices": [], "usage": _usage(asked, completion)}


def _piece_choices(asked: Asked, piece: Piece, offsets: list[int]) -> list[dict[str, Any]]:
    """The choices of the chunks that a piece becomes: one a token, the last with the reason."""
    found = []
    for text, token in token_texts(piece):
        tokens = [] if token is None else [token]
        if asked.chat:
            figures = None if asked.logprobs is None else _chat_logprobs(asked, tokens)
            found.append(_delta(piece.index, {"content": text}, figures))
        else:
            figures = None
            if asked.logprobs is not None:
                figures = _figures(asked, tokens, offsets[piece.index])
            found.append(_text_choice(piece.index, text, figures, None))
        offsets[piece.index] += len(text)
    if piece.result is not None:
        reason = _reason(piece.result)
        if asked.chat:
            found.append({**_delta(piece.index, {}, None), "finish_reason": reason})
        elif found:
            found[-1]["finish_reason"] = reason
        else:
            found.append(_text_choice(piece.index, "", None, reason))
    return found


def _delta(index: int, delta: dict[str, Any], figures: dict[str, Any] | None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": figures, "finish_reason": None}


def _text_choice(
    index: int, text: str, figures: dict[str, Any] | None, reason: str | None
) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": figures, "finish_reason": reason}
