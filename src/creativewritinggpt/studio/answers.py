"""Answers of the studio's routes: JSON, and errors as one sentence with a way out."""

from __future__ import annotations

import errno
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .. import console
from ..errors import InputError, Stopped, UserError
from ..files import path_problem

Handler = Callable[[Request], Awaitable[Response]]

REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data:; font-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'"
)
"""Policy of pages that are not the studio's own: a sandbox has no origin, cookie or connection."""

_KEPT_IN = re.compile(
    r"(?:[A-Za-z]:)?[/\\][^\n'\"“]*?[/\\]\.studio[/\\]"
    r"(?:uploads[/\\][0-9a-f]{16}|runs[/\\][\w-]+[/\\]texts)[/\\]"
)
"""Where the studio keeps files that were sent to it."""


class NotFound(InputError):
    """Something that the page asked for is not there (404)."""

    status = 404


class Conflict(InputError):
    """A request that rests on an older state (409).

    Args:
        message: One line that says what is wrong.
        advice: What to do.
        more: Further fields of the answer: both versions.
    """

    status = 409

    def __init__(self, message: str, advice: str | None = None, **more: Any) -> None:
        super().__init__(message, advice)
        self.more = more


class TooLarge(InputError):
    """More bytes than the studio takes (413)."""

    status = 413


def status_of(error: BaseException) -> int:
    """The HTTP status of an error."""
    known = getattr(error, "status", None)
    if isinstance(known, int):
        return known
    if _no_space(error):
        return 507
    return 400 if isinstance(error, UserError) else 500


def without_folders(text: str) -> str:
    """A message with the names of files that were sent, and not where the studio keeps them."""
    return _KEPT_IN.sub("", text)


def error_record(error: BaseException) -> dict[str, Any]:
    """An error as the page gets it: ``message``, ``advice`` and ``kind``; never a traceback."""
    kind = getattr(error, "kind", type(error).__name__)
    if isinstance(error, UserError):
        advice = error.advice
        if advice is not None:
            advice = advice.replace("run the command again", "try again")
        if advice is None and _no_space(error):
            advice = "free some space; nothing that was written is lost"
        return {"message": without_folders(error.message), "advice": advice, "kind": kind}
    if _no_space(error):
        advice = "free some space and try again; nothing that was written is lost"
        return {"message": "the disk is full", "advice": advice, "kind": "DiskFull"}
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        advice = "stop other work on this machine, or take a smaller model"
        return {"message": "there is not enough memory", "advice": advice, "kind": "NoMemory"}
    return {
        "message": f"something went wrong in the studio ({kind})",
        "advice": "the story is saved; cwgpt studio --debug shows where it comes from",
        "kind": kind,
    }


def error_answer(error: BaseException) -> JSONResponse:
    """The answer that says an error."""
    status = status_of(error)
    more = error.more if isinstance(error, Conflict) else {}
    return JSONResponse({**more, "error": error_record(error)}, status)


def answered(handler: Handler) -> Handler:
    """A handler whose errors become answers."""

    async def answer(http: Request) -> Response:
        try:
            return await handler(http)
        except Stopped as error:
            return error_answer(error)
        except Exception as error:
            known = isinstance(error, UserError) or status_of(error) != 500
            told = error if known else path_problem(error) or error
            if status_of(told) == 500:
                console.note(f"{http.url.path}: {type(error).__name__}")
                logging.getLogger(__name__).debug("internal error", exc_info=error)
            return error_answer(told)

    return answer


async def read_object(http: Request) -> dict[str, Any]:
    """The JSON object that a request's body is; an empty body is an empty object.

    Raises:
        InputError: It is none.
    """
    body = await http.body()
    if not body:
        return {}
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InputError("the request is no JSON") from error
    if not isinstance(value, dict):
        raise InputError("the request must be a JSON object")
    return value


def object_in(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The object under a name of a request's body; an empty one where there is none.

    Raises:
        InputError: It is something else.
    """
    value = body.get(name) or {}
    if not isinstance(value, dict):
        raise InputError(f"{name} must be an object")
    return dict(value)


def list_in(body: Mapping[str, Any], name: str) -> list[Any]:
    """The list under a name of a request's body; an empty one where there is none.

    Raises:
        InputError: It is something else.
    """
    value = body.get(name) or []
    if not isinstance(value, list):
        raise InputError(f"{name} must be a list")
    return list(value)


def number_in(body: Mapping[str, Any], name: str) -> int | None:
    """The whole number under a name of a request's body; None where there is none.

    Raises:
        InputError: It is something else, negative, or larger than any count.
    """
    value = body.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 <= value < 2**60 or value != int(value):
        raise InputError(f"{name} must be a whole number from 0 on")
    return int(value)


def report(content: bytes | str) -> Response:
    """A page that is not the studio's own (a report of a run), for a sandboxed frame."""
    headers = {"content-security-policy": REPORT_POLICY}
    return Response(content, media_type="text/html; charset=utf-8", headers=headers)


def _no_space(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, is a full disk."""
    for _ in range(8):
        if error is None:
            return False
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False
