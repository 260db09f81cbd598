"""Hostile requests of the server, of the studio, and messages of its WebSocket."""

from __future__ import annotations

import functools
import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from .hostile_models import tiny
from .mutations import JUNK, JUNK_DEEP, JUNK_TEXT, mutated, mutated_json, to_json
from .sandbox import Hostile, Target

_MEDIA = {"content-type": "application/json"}
_HEADERS = st.dictionaries(
    st.sampled_from(["content-type", "accept", "x-request-id", "genkey", "range", "connection",
                     "transfer-encoding", "content-encoding", "if-none-match", "cookie", "x-y",
                     "authorization", "sec-fetch-site", "forwarded", "x-forwarded-for"]),
    st.sampled_from(["application/json", "text/plain", "", "gzip", "chunked", "a" * 3000, "\xe9",
                     "application/json; charset=utf-7", "bytes=9-1", "*/*", "1", "Bearer x", "0"]),
    max_size=2,
)  # fmt: skip


def _one_line(value: Any) -> None:
    """See that an error's message is one line."""
    said = value.get("error", value.get("detail")) if isinstance(value, dict) else None
    message = said.get("message") if isinstance(said, dict) else said
    if isinstance(message, str) and ("\n" in message or len(message) > 2000 or not message):
        raise Hostile(f"not one line: {message[:300]!r}")
    if "Traceback" in str(message):
        raise Hostile(f"a traceback: {message!r}")


def _look_at(answer: Any, statuses: tuple[int, ...] = ()) -> None:
    if answer.status_code >= 500 and answer.status_code not in statuses:
        raise Hostile(f"status {answer.status_code}: {answer.text[:400]}")
    if "json" in answer.headers.get("content-type", "") and answer.content:
        _one_line(answer.json())


# --- the server

_COMMON = {"max_tokens": 2, "temperature": 0.9, "seed": 1, "stop": ["###"], "n": 1}
_BODIES: dict[str, Any] = {
    "/v1/completions": {"model": "tiny", "prompt": "The lamp", **_COMMON, "logprobs": 2,
                        "echo": False, "logit_bias": {"5": 1}, "stream": False, "best_of": 1},
    "/v1/chat/completions": {"model": "tiny", **_COMMON, "logprobs": True, "top_logprobs": 2,
                             "messages": [{"role": "system", "content": "x"},
                                          {"role": "user", "content": [{"type": "text",
                                                                        "text": "y"}]}]},
    "/v1/scores": {"model": "tiny", "input": ["The lamp", "went"], "prompt": "x",
                   "completion": "y"},
    "/v1/explanations": {"model": "tiny", "prompt": "The lamp", "method": "occlusion"},
    "/tokenize": {"prompt": "The lamp", "content": "x", "add_special_tokens": True},
    "/detokenize": {"tokens": [1, 2, 3]},
    "/api/v1/generate": {"prompt": "The lamp", "max_length": 2, "max_context_length": 60,
                         "temperature": 0.7, "rep_pen": 1.1, "sampler_order": [6, 0, 1, 3, 4, 2, 5],
                         "stop_sequence": ["x"], "genkey": "k", "memory": "m", "n": 1},
    "/api/extra/generate/stream": {"prompt": "The lamp", "max_length": 2},
    "/api/extra/generate/check": {"genkey": "k"},
    "/api/extra/abort": {"genkey": "k"},
    "/api/extra/last_logprobs": {"genkey": "k"},
    "/api/extra/tokencount": {"prompt": "The lamp"},
    "/api/extra/detokenize": {"ids": [1, 2]},
}  # fmt: skip
_GETS = ["/v1/models", "/v1/models/tiny", "/v1/models/..%2f..%2fetc%2fpasswd", "/metrics", "/stats",
         "/openapi.json", "/health", "/api/v1/model", "/%00", "/v1/models/" + "x" * 3000, "/%ff",
         "/v1/v1/models", "/tokenizer_info", "/api/extra/perf", "/sdapi/v1/sd-models"]  # fmt: skip


@st.composite
def _server_cases(draw: st.DrawFn) -> tuple[str, str, bytes, dict[str, str]]:
    if draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from(["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"])), draw(
            st.sampled_from([*_GETS, *_BODIES])), b"", draw(_HEADERS)  # fmt: skip
    path = draw(st.sampled_from(sorted(_BODIES)))
    base = _BODIES[path]
    kind = draw(st.integers(0, 9))
    if kind == 0:
        body = draw(mutated([to_json(base)]))
    elif kind == 1:
        body = to_json({**base, draw(st.sampled_from(sorted(base))): draw(JUNK_DEEP)})
    elif kind == 2:
        body = to_json(draw(JUNK_DEEP))
    else:
        body = to_json(draw(mutated_json([base, {**base, "stream": True}], st.one_of(
            JUNK, st.lists(st.integers(0, 400), max_size=90),
            st.just("word " * 900)))))  # fmt: skip
    headers = dict(_MEDIA)
    if draw(st.integers(0, 9)) == 0:
        headers |= draw(_HEADERS)
    return "POST", path, body, headers


@functools.cache
def _server() -> Any:
    from starlette.testclient import TestClient

    from creativewritinggpt.server.app import build_app
    from creativewritinggpt.server.scheduler import Scheduler, ServedModel
    from creativewritinggpt.server.security import Access
    from creativewritinggpt.server.service import Service

    model, _ = tiny()
    scheduler = Scheduler([ServedModel("tiny", model, weights="fp32")])
    scheduler.start()
    app = build_app(Service(scheduler, strict=False, seconds=2), Access(hosts=("testserver",)))
    client = TestClient(app, raise_server_exceptions=True)
    client.__enter__()
    return client


def _act_server(case: tuple[str, str, bytes, dict[str, str]], folder: Path) -> None:
    method, path, body, headers = case
    coded = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = _server().request(method, path, content=body, headers=coded)
    _look_at(answer)


def _prepare_server() -> None:
    for path, body in _BODIES.items():
        answer = _server().post(path, json=body)
        assert answer.status_code < 500, (path, answer.text)
    assert _server().post("/v1/completions", json=_BODIES["/v1/completions"]).status_code == 200


# --- the studio

_POSTS: dict[str, Any] = {
    **{f"POST /api/story/{name}": {"tab": "one", **body} for name, body in {
        "edit": {"revision": 1, "n": 0, "id": "a", "changes": [[0, 0, "The lamp went out."]]},
        "continue": {"revision": 1, "at": 3, "tokens": 1, "seed": 1}, "version": {"passage": 0},
        "drafts": {"n": 2, "count": 2, "seed": 1}, "take": {"job": "1", "row": 0},
        "compare": {"a": {"model": "tiny"}, "b": {"preset": "fantasy"}, "seed": 1},
        "undo": {"steps": 1}, "redo": {"steps": 1}, "branch": {"name": "x", "at": 0},
        "goto": {"branch": "main", "passage": 0}, "chapter": {"title": "One", "at": 0},
        "set": {"memory": "Old.", "note": "slow", "title": "T",
                "lore": [{"keys": ["mill"], "text": "It grinds.", "always": False}]},
        "goal": {"words": 50}, "replace": {"revision": 1, "from": 0, "to": 3, "text": "A"},
        "verify": {"passage": 0},
    }.items()},
    "POST /api/tabs/write": {"tab": "one"},
    "PATCH /api/settings": {"values": {"temperature": 0.7, "stop": ["x"]}, "preset": "fantasy",
                            "reset": "seed"},
    "PATCH /api/model": {"name": "tiny", "id": "x", "style": 1.0, "adapters": {"x": 1}},
    "POST /api/heat": {"revision": 1, "from": 0, "to": 9, "measure": "entropy"},
    "POST /api/token": {"revision": 1, "at": 3},
    "POST /api/why": {"revision": 1, "from": 0, "to": 3, "full": False},
    "PATCH /api/runs/x": {"name": "y"},
    "POST /api/runs/x/stop": {}, "POST /api/runs/x/resume": {"beside": True},
    "POST /api/train": {"files": ["x"], "sources": [], "recipe": "novel", "model": "tiny",
                        "settings": {"max_steps": 1}, "prompts": ["a"], "name": "n", "beside": 1},
    "POST /api/train/inspect": {"files": ["x"], "sources": ["sample"], "recipe": "novel"},
    "POST /api/train/estimate": {"files": ["x"], "recipe": "novel", "settings": {}},
    "POST /api/train/notes": {"memory": "x"},
    "POST /api/explain": {"from": 0, "to": 3, "revision": 1, "model": "tiny", "settings": {}},
    "POST /api/judge": {"model": "tiny", "files": ["x"], "settings": {}},
    "POST /api/judge/originality": {"model": "tiny"},
    **{f"POST /api/library/{name}": body for name, body in {
        "new": {"title": "A"}, "open": {"id": "x"}, "duplicate": {"id": "x"},
        "rename": {"id": "x", "title": "../../y"}, "aside": {"id": "x"}, "back": {"id": "x"},
        "import": {"upload": "x", "open": True}, "export": {"id": "x", "form": "md"},
        "models/export": {"id": "x", "to": "gguf", "quantize": "Q8_0"},
    }.items()},
    "POST /api/login": {"secret": "x"},
}  # fmt: skip
_STUDIO_GETS = [
    "/api/state", "/api/story/tree", "/api/story/context", "/api/models", "/api/jobs", "/api/runs",
    "/api/runs/x", "/api/runs/..%2f..%2fx/log", "/api/runs/x/result", "/api/runs/x/curves",
    "/api/runs/x/report", "/api/train", "/api/explain", "/api/judge", "/api/judge/x",
    "/api/judge/compare?id=x&id=y", "/api/judge/originality/x", "/api/library",
    "/api/library/search?q=%ff%00(((", "/api/library/download/x.md", "/api/library/exports",
    "/..%2f..%2f..%2fetc%2fpasswd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/index.html",
    "/vendor/..%5c..%5cx", "/%00", "/a%0d%0ab", "/api/runs/x/log?start=-9", "/api/nothing",
    "/api/runs/x/log?start=" + "9" * 5000, "/api/runs/%F0%9F%A6%8A",
    "/api/library/search?q=" + "a" * 9000,
]  # fmt: skip
_UPLOADS = ["a.txt", "../../a.txt", "/etc/passwd", "a" * 300 + ".txt", "", ".", "..", "a/b.txt",
            "con.txt",
            "%00", "🦊.json", "a%0a.txt", "x.jsonl", "NUL", "a..", "%ff", "C:%5Cx.txt",
            ".hidden"]  # fmt: skip
_KNOWN = ("story", "text", "run", "model", "tiny")
"""Ids that stand for those of things that are there."""


@st.composite
def _studio_cases(draw: st.DrawFn) -> list[tuple[str, str, bytes, dict[str, str]]]:
    """A few requests of one studio, the later ones on what the earlier have made."""
    found: list[tuple[str, str, bytes, dict[str, str]]] = []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.integers(0, 9))
        if kind == 0:
            method = draw(st.sampled_from(["GET", "GET", "GET", "HEAD", "DELETE", "PUT", "POST"]))
            path = draw(st.sampled_from([*_STUDIO_GETS, "/api/jobs/1", "/api/runs/x"]))
            found.append((method, path, b"", {}))
            continue
        if kind == 1:
            name = draw(st.sampled_from(_UPLOADS))
            body = draw(st.binary(max_size=60))
            headers = {"content-type": "application/octet-stream"}
            found.append(("PUT", f"/api/uploads?name={name}", body, headers))
            continue
        where = draw(st.sampled_from(sorted(_POSTS)))
        method, _, path = where.partition(" ")
        base = _POSTS[where]
        ids = st.sampled_from([*_KNOWN, "", "../x", "x" * 500])
        if kind == 2:
            body = draw(mutated([to_json(base)]))
        elif kind == 3:
            body = to_json(draw(JUNK_DEEP))
        else:
            values = st.one_of(JUNK, ids, st.sampled_from([0, 1, 2, 5, 10**9, -1, 2**63, 1.5]))
            body = to_json(draw(mutated_json([base], values)) if base else {})
        found.append((method, path, body, dict(_MEDIA)))
    return found


class _Seen(logging.Handler):
    """The exceptions behind answers of status 500."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.errors: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1]:
            self.errors.append(record.exc_info[1])


@functools.cache
def _seen() -> _Seen:
    handler = _Seen()
    logger = logging.getLogger("creativewritinggpt")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    return handler


class _Studio:
    """A studio on a tiny model, in this process, that starts no other."""

    def __init__(self, folder: Path) -> None:
        from starlette.testclient import TestClient

        from creativewritinggpt.errors import RunError
        from creativewritinggpt.studio.access import Login
        from creativewritinggpt.studio.app import build_app
        from creativewritinggpt.studio.studio import Studio

        model, _ = tiny()
        self.studio = Studio(folder, model="tiny", load=lambda name, machine: model)
        self.studio.settings.change({"max_new_tokens": 2, "weights": "fp32"})
        self.studio.engine.weights = "fp32"
        login = Login(8765)
        origin = "http://127.0.0.1:8765"
        self.client = TestClient(build_app(self.studio, login), base_url=origin,
                                 headers={"origin": origin},
                                 raise_server_exceptions=True)  # fmt: skip
        self.client.__enter__()
        assert self.client.post("/api/login", json={"secret": login.secret}).status_code == 200

        def refuse(*_: Any, **__: Any) -> Any:
            raise RunError("no process is started here")

        self.studio.runs.processes.start = refuse
        self.studio.start()

    def close(self) -> None:
        self.client.__exit__(None, None, None)
        self.studio.close(0)


@functools.cache
def _studio() -> _Studio:
    return _Studio(Path(tempfile.mkdtemp(prefix="studio-", dir=Path.cwd().parent)))


def _act_studio(case: list[tuple[str, str, bytes, dict[str, str]]], folder: Path) -> None:
    """Ask a studio; it is a new one for each case, so that the case repeats."""
    seen = _seen()
    seen.errors.clear()
    place = folder / "studio"
    place.mkdir()
    made = _Studio(place)
    try:
        story = made.studio.ids.id(made.studio.desk.file.path or place / "story.json")
        for method, path, body, headers in case:
            body = body.replace(b'"id": "story"', b'"id": ' + json.dumps(story).encode())
            answer = made.client.request(method, path, content=body, headers=headers)
            if seen.errors:  # behind an answer of status 500
                raise seen.errors[0]
            _look_at(answer, statuses=(501, 503))
            assert "root:x:0" not in answer.text
        state = made.client.get("/api/state")
        _look_at(state)
        assert state.status_code == 200, state.text[:300]
    finally:
        made.close()
    if (found := made.studio.desk.file.path) is not None and found.exists():
        from creativewritinggpt.story.file import read_story

        read_story(found)


def _prepare_studio() -> None:
    tiny()
    _seen()
    with tempfile.TemporaryDirectory() as folder:
        made = _Studio(Path(folder))
        made.client.get("/api/state")
        made.close()
    shutil.rmtree(folder, ignore_errors=True)


# --- its WebSocket

_MESSAGES: list[Any] = [
    {"since": 0, "epoch": "x"},
    {"kind": "hello", "tab": "one"},
    {"n": 5},
    "x",
    [],
]


@st.composite
def _messages(draw: st.DrawFn) -> tuple[str, list[Any]]:
    query = draw(st.sampled_from(["", "?since=-1", "?since=x", "?since=" + "9" * 5000, "?tab=one",
                                  "?since=0&epoch=%ff", "?tab=" + "x" * 3000]))  # fmt: skip
    texts = st.one_of(st.sampled_from(_MESSAGES).map(json.dumps), JUNK.map(json.dumps),
                      JUNK_TEXT.filter(
        lambda text: text.isprintable()), st.just("[" * 5000), st.binary(max_size=30))  # fmt: skip
    return query, draw(st.lists(texts, max_size=5))


def _act_socket(case: tuple[str, list[Any]], folder: Path) -> None:
    from starlette.testclient import WebSocketDenialResponse
    from starlette.websockets import WebSocketDisconnect

    seen = _seen()
    seen.errors.clear()
    query, messages = case
    made = _studio()
    try:
        with made.client.websocket_connect(f"ws://127.0.0.1:8765/api/events{query}") as opened:
            for one in messages:
                if isinstance(one, bytes):
                    opened.send_bytes(one)
                else:
                    opened.send_text(one.encode("utf-8", "replace").decode())
    except (WebSocketDisconnect, WebSocketDenialResponse):
        pass
    if seen.errors:
        raise seen.errors[0]
    assert made.client.get("/api/state").status_code == 200


def _prepare_socket() -> None:
    tiny()
    _studio()


TARGETS = (
    Target("server", _server_cases(), _act_server, _prepare_server, pace=250),
    Target("studio", _studio_cases(), _act_studio, _prepare_studio, pace=60),
    Target("studio-socket", _messages(), _act_socket, _prepare_socket, pace=60),
)
