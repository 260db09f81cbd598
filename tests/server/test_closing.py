"""What comes, or is in work, while the server ends: status 503, never 500."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from creativewritinggpt.server.security import Access, Guard, Refused

# A server whose requests never end, and whose end waits between its signal and the closing of its
# sockets until a file is there: as long as that, connections are taken.
PROGRAM = """
import asyncio, sys
from pathlib import Path
import uvicorn
from creativewritinggpt.server.process import listen, run_server
from creativewritinggpt.server.security import Access, Guard

async def app(scope, receive, send):
    print("begun", flush=True)
    if scope["type"] == "websocket":
        await receive()
    await asyncio.Event().wait()

end = uvicorn.Server.shutdown

async def late(self, sockets=None):
    print("ending", flush=True)
    while not Path(sys.argv[1]).exists():
        await asyncio.sleep(0.01)
    await end(self, sockets)

uvicorn.Server.shutdown = late
sockets = listen("127.0.0.1", 0)
guard = Guard(app, Access(), lambda path, refused: {"error": refused.message})
print(sockets[0].getsockname()[1], flush=True)
sys.exit(run_server(guard, sockets, lambda seconds: None, websockets=True))
"""
HTTP = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
WEBSOCKET = (
    "GET /events HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def begin(port: int, request: str) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port), timeout=60)
    made.sendall(request.encode())
    return made


def answer(connection: socket.socket) -> str:
    """All that comes until the server closes the connection."""
    with connection, connection.makefile("rb") as stream:
        return stream.read().decode()


def test_requests_in_work_and_new_ones_get_503_while_the_server_ends(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "go")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        try:
            assert child.stdout is not None and child.stderr is not None
            port = int(child.stdout.readline())
            in_work = [begin(port, request) for request in (HTTP, WEBSOCKET)]
            assert [child.stdout.readline() for _ in in_work] == ["begun\n"] * 2
            child.send_signal(signal.SIGTERM)
            assert child.stdout.readline() == "ending\n"
            new = [begin(port, request) for request in (HTTP, WEBSOCKET)]
            answers = [answer(connection) for connection in new]
            (tmp_path / "go").touch()
            answers += [answer(connection) for connection in in_work]
            for text in answers:
                assert text.startswith("HTTP/1.1 503") and "the server is closing" in text, answers
            assert child.wait(60) == 0
            assert "Traceback" not in child.stderr.read()
        finally:
            child.kill()


def guarded(app: Any) -> tuple[Guard, Callable[[], Any], list[dict[str, Any]]]:
    """A guard, a request to it that is begun when it is called, and what was sent."""
    sent: list[dict[str, Any]] = []

    def refuse(path: str, refused: Refused) -> dict[str, Any]:
        return {"error": refused.message}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    guard = Guard(app, Access(), refuse)
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"localhost")]}
    return guard, lambda: guard(scope, receive, send), sent


def test_an_answer_that_has_begun_is_cut_and_no_second_one_sent() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.Event().wait()

    async def ended(closing: bool) -> bool:
        task = asyncio.ensure_future(request())
        while not sent:
            await asyncio.sleep(0)
        guard.closing = closing
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    guard, request, sent = guarded(app)
    assert not asyncio.run(ended(closing=True))
    assert [message["type"] for message in sent] == ["http.response.start"]
    guard, request, sent = guarded(app)
    assert asyncio.run(ended(closing=False)), "a client that goes away is another matter"


@pytest.fixture
def hammering() -> Iterator[Callable[[str, list[int]], None]]:
    """Starts a thread that sends request after request until the server is gone."""
    threads: list[threading.Thread] = []

    def start(url: str, found: list[int]) -> None:
        def run() -> None:
            body = {"prompt": "The lamp", "max_tokens": 2, "content": "The lamp went out"}
            with httpx.Client(timeout=60) as client:
                while True:
                    for path in ("/tokenize", "/v1/completions", "/v1/scores"):
                        try:
                            answer = client.post(url + path, json={**body, "text": "The lamp"})
                        except httpx.TransportError:
                            return
                        found.append(answer.status_code)

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join(60)


def test_a_server_under_load_ends_without_any_500(
    server: Callable[..., Any], hammering: Callable[[str, list[int]], None]
) -> None:
    running = server("--weights", "fp32")
    found: list[int] = []
    for _ in range(4):
        hammering(running.url, found)
    while len(found) < 40:
        assert running.popen.poll() is None
    running.popen.send_signal(signal.SIGTERM)
    assert running.popen.wait(60) == 0
    assert set(found) <= {200, 429, 503}
