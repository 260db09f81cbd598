"""Who may ask, and how much: hosts, origins, keys, sizes, slow clients."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from creativewritinggpt.cli.main import main
from creativewritinggpt.server.security import is_loopback, split_host

BODY = {"prompt": "x", "max_tokens": 1}
KEY = "a-key-of-sixteen-or-more"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("127.0.0.1", 200), ("127.0.0.1:8000", 200), ("[::1]:8000", 200),
        ("LOCALHOST:1", 200), ("evil.com", 421), ("127.0.0.1.evil.com", 421), ("localhost.", 421),
        ("localhost:x", 421), ("localhost:123456", 421), ("user@localhost", 421), ("", 421),
        ("[::1", 421), ("0.0.0.0", 421), ("127.0.0.1:80:80", 421), ("2130706433", 421),
    ],
)  # fmt: skip
def test_only_known_hosts_are_answered(serving: Any, host: str, status: int) -> None:
    answer = serving().post("/v1/completions", json=BODY, headers={"host": host})
    assert answer.status_code == status


def test_a_host_has_a_name_and_perhaps_a_port() -> None:
    assert split_host("[::1]:80") == ("::1", 80) and split_host("A.b") == ("a.b", None)
    assert [is_loopback(a) for a in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "10.0.0.1")] == [
        True, True, True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://evil.com"}, 403), ({"origin": "null"}, 403),
        ({"origin": "https://good.com"}, 200), ({"origin": "https://good.com.evil.com"}, 403),
        ({"origin": "http://localhost:99"}, 200), ({"origin": "file://"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403), ({"sec-fetch-site": "same-origin"}, 200),
        ({"content-type": "text/plain"}, 415), ({"content-type": "multipart/form-data"}, 415),
        ({"content-type": "application/json; charset=utf-8"}, 200), ({"content-type": ""}, 415),
    ],
)  # fmt: skip
def test_other_pages_and_forms_are_refused(serving: Any, headers: Any, status: int) -> None:
    client = serving(origins=["https://good.com"])
    headers = {"content-type": "application/json", **headers}
    answer = client.post("/v1/completions", content=b'{"prompt": "x"}', headers=headers)
    assert answer.status_code == status
    allowed = answer.headers.get("access-control-allow-origin")
    assert allowed == ("https://good.com" if headers.get("origin") == "https://good.com" else None)


def test_a_preflight_needs_no_key_and_names_the_origin(serving: Any) -> None:
    client = serving(keys=[KEY], origins=["null"])
    answer = client.options("/v1/completions", headers={"origin": "null"})
    assert answer.status_code == 204 and answer.headers["access-control-allow-origin"] == "null"
    assert "Authorization" in answer.headers["access-control-allow-headers"]
    assert client.options("/v1/completions", headers={"origin": "http://x.y"}).status_code == 403


def test_every_route_but_health_asks_for_a_key(serving: Any) -> None:
    client = serving(keys=[KEY, "another-key-of-this-server"])
    assert client.get("/health").status_code == 200
    paths = ["/v1/models", "/metrics", "/stats", "/version", "/openapi.json", "/nothing",
             "/api/v1/model", "/tokenizer_info", "/api/extra/perf"]  # fmt: skip
    for path in paths:
        wrong = ("Bearer no", f"Basic {KEY}", b"Bearer \xe9", f"Bearer {KEY}x", KEY)
        for value in wrong:
            assert client.get(path, headers={"authorization": value}).status_code == 401, path
        assert client.get(path).status_code == 401
        assert client.get(path, headers={"x-api-key": KEY[:-1]}).status_code == 401
    for headers in ({"authorization": f"Bearer {KEY}"}, {"x-api-key": KEY},
                    {"authorization": "bearer another-key-of-this-server"}):  # fmt: skip
        assert client.get("/v1/models", headers=headers).status_code == 200


def test_a_body_is_bounded_with_and_without_its_length(serving: Any) -> None:
    client = serving()
    json_type = {"content-type": "application/json"}
    big = b'{"prompt": "' + b"x" * (2 << 20) + b'"}'

    def parts() -> Any:
        for start in range(0, len(big), 65536):
            yield big[start : start + 65536]

    for content in (big, parts()):
        answer = client.post("/v1/completions", content=content, headers=json_type)
        assert answer.status_code == 413
    long = b'{"prompt": "' + b"a" * 900_000 + b'"}'
    answer = client.post("/v1/completions", content=long, headers=json_type)
    assert answer.status_code == 400
    assert client.post("/v1/completions", json=BODY).status_code == 200


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (["--host", "0.0.0.0"], "--allow-network"),
        (["--host", "0.0.0.0", "--allow-network"], "needs a key"),
        (["--api-key-file", "no-such-file"], "no-such-file"),
        (["--adapter", "x"], "NAME=FOLDER"),
        (["--port", "70000"], "65535"),
        (["--model", "tests"], "tests"),
    ],
)  # fmt: skip
def test_bad_flags_are_one_line(capsys: Any, flags: list[str], what: str) -> None:
    assert main(["serve", "--port", "0", *flags]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) <= 2 and what in " ".join(lines)


def test_a_key_must_be_long_enough(tmp_path: Any, capsys: Any) -> None:
    (tmp_path / "key").write_text("short\n")
    assert main(["serve", "--port", "0", "--api-key-file", str(tmp_path / "key")]) == 2
    assert "16 characters" in capsys.readouterr().err


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    assert parts.hostname and parts.port
    return socket.create_connection((parts.hostname, parts.port), timeout=30)


def answer_of(stream: socket.socket) -> bytes:
    data = b""
    while part := stream.recv(65536):
        data += part
    return data


@pytest.mark.slow
def test_slow_and_huge_heads_are_cut_and_others_are_served(server: Callable[..., Any]) -> None:
    import httpx

    url = server().url
    started = time.monotonic()
    slow = [connect(url) for _ in range(50)]
    for one in slow:
        one.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n")
    huge = connect(url)
    huge.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000)
    assert b" 400 " in answer_of(huge).splitlines()[0]
    assert httpx.post(f"{url}/v1/completions", json=BODY, timeout=30).status_code == 200
    while time.monotonic() - started < 8:
        for one in slow[::10]:
            one.sendall(b"X: 1\r\n")
        assert httpx.get(f"{url}/health", timeout=5).status_code == 200
        time.sleep(1)
    for one in slow:
        assert answer_of(one) == b""
    assert 9 < time.monotonic() - started < 20


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.com\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00", b"GET /health\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n",
    ],
)  # fmt: skip
def test_broken_requests_are_refused(server: Callable[..., Any], head: bytes) -> None:
    url = server().url
    stream = connect(url)
    stream.sendall(head + b"Connection: close\r\n\r\n")
    first = answer_of(stream).splitlines()
    assert not first or b" 4" in first[0]


def test_a_body_that_dribbles_and_a_client_that_does_not_read_are_cut() -> None:
    """The time limits of the guard, with short ones."""
    import asyncio

    from creativewritinggpt.server.security import Access, Guard

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    access = Access(body_seconds=0.1, send_seconds=0.1)
    guard = Guard(app, access, lambda path, refused: {"message": refused.message})
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": headers}
    sent: list[Any] = []

    async def dribble() -> Any:
        await asyncio.sleep(0.03)
        return {"type": "http.request", "body": b" ", "more_body": True}

    async def keep(message: Any) -> None:
        sent.append(message)

    asyncio.run(guard(dict(scope), dribble, keep))
    assert sent[0]["status"] == 408

    async def whole() -> Any:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def stuck(message: Any) -> None:
        await asyncio.sleep(10)

    with pytest.raises(TimeoutError):
        asyncio.run(guard(dict(scope), whole, stuck))
