"""Who may use the studio: hosts, origins, media types, the secret and its cookie, paths, floods."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient, WebSocketDenialResponse

from creativewritinggpt.cli.main import main
from creativewritinggpt.server.process import listen
from creativewritinggpt.studio.access import Kept, Login
from creativewritinggpt.studio.answers import REPORT_POLICY, report
from creativewritinggpt.studio.app import Pages, build_app, take_port
from creativewritinggpt.studio.studio import Studio

PORT = 8765
ORIGIN = f"http://127.0.0.1:{PORT}"
SOCKET = f"ws://127.0.0.1:{PORT}/api/events"
WEB = Path(__file__).resolve().parents[2] / "src" / "creativewritinggpt" / "studio" / "web"


@pytest.fixture
def login() -> Login:
    return Login(PORT)


@pytest.fixture
def client(tmp_path: Path, login: Login) -> Iterator[TestClient]:
    """A client that is not logged in, of an application without a model."""
    studio = Studio(tmp_path)
    headers = {"origin": ORIGIN}
    yield TestClient(build_app(studio, login), base_url=ORIGIN, headers=headers)
    studio.close(0)


def enter(client: TestClient, login: Login) -> TestClient:
    assert client.post("/api/login", json={"secret": login.secret}).status_code == 200
    return client


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (f"127.0.0.1:{PORT}", 200), (f"localhost:{PORT}", 200), (f"[::1]:{PORT}", 200),
        ("localhost:1", 421), (f"evil.test:{PORT}", 421), (f"127.0.0.1.evil.test:{PORT}", 421),
        (f"localhost.:{PORT}", 421), (f"0.0.0.0:{PORT}", 421), ("", 421), ("[::1", 421),
        (f"user@localhost:{PORT}", 421), (f"2130706433:{PORT}", 421),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["page", "api", "socket"])
def test_only_names_of_loopback_with_its_port_are_answered(
    client: TestClient, login: Login, host: str, status: int, kind: str
) -> None:
    enter(client, login)
    headers = {"host": host}
    if kind == "socket":
        if status == 200:
            with client.websocket_connect(SOCKET, headers=headers) as open_socket:
                assert open_socket.receive_json()["kind"] == "hello"
        else:
            assert refused_status(client, headers) == status
        return
    answer = client.get("/" if kind == "page" else "/api/state", headers=headers)
    assert answer.status_code == status


def refused_status(client: TestClient, headers: dict[str, str]) -> int:
    """The status by which a WebSocket is refused before it is open."""
    with (
        pytest.raises(WebSocketDenialResponse) as refused,
        client.websocket_connect(SOCKET, headers=headers),
    ):
        pass
    return int(refused.value.status_code)


@pytest.mark.parametrize("origin", [
    "http://evil.test", "null", "file://", f"http://evil.test:{PORT}", "http://127.0.0.1:1",
    f"http://127.0.0.1.evil.test:{PORT}", None,
])  # fmt: skip
@pytest.mark.parametrize("path", ["/api/login", "/api/story/edit", "/api/events"])
def test_other_origins_change_nothing_and_open_no_socket(
    client: TestClient, login: Login, origin: str | None, path: str
) -> None:
    enter(client, login)
    client.headers.pop("origin")
    headers = {"origin": origin} if origin else {}
    if path == "/api/events":
        assert refused_status(client, headers) == 403
        return
    answer = client.post(path, json={"secret": login.secret}, headers=headers)
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


def test_requests_of_other_sites_and_forms_are_refused(client: TestClient, login: Login) -> None:
    enter(client, login)
    client.headers.pop("origin")
    for site in ("cross-site", "same-site"):
        answer = client.get("/api/state", headers={"sec-fetch-site": site})
        assert answer.status_code == 403
    for media in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        headers = {"origin": ORIGIN, "content-type": media}
        answer = client.post("/api/story/edit", content=b"{}", headers=headers)
        assert answer.status_code == 415, media


def test_the_api_needs_the_cookie_and_the_cookie_the_secret(
    client: TestClient, login: Login
) -> None:
    for path in ("/api/state", "/api/models", "/api/jobs", "/api/nothing"):
        answer = client.get(path)
        assert answer.status_code == 401 and answer.json()["error"]["advice"]
    assert refused_status(client, {}) == 401
    for wrong in ("", "x", login.secret + "x", login.secret[:-1], None, 5, ["x"], "\ud800"):
        answer = client.post("/api/login", content=json.dumps({"secret": wrong}),
                             headers={"content-type": "application/json"})  # fmt: skip
        assert answer.status_code == 401, wrong
    answer = client.post("/api/login", json={"secret": login.secret})
    said = answer.headers["set-cookie"].lower()
    assert all(part in said for part in ("httponly", "samesite=strict", "path=/", f"-{PORT}="))
    assert login.secret not in str(answer.headers)
    assert client.get("/api/state").status_code == 200


def test_the_address_of_the_opened_browser_is_void_after_its_use(login: Login) -> None:
    once = login.url(once=True).partition("#t=")[2]
    assert once != login.secret
    app = build_app_without_rooms(login)
    first = TestClient(app, base_url=ORIGIN, headers={"origin": ORIGIN})
    assert first.post("/api/login", json={"secret": once}).status_code == 200
    assert first.post("/api/login", json={"secret": once}).status_code == 401
    assert first.post("/api/login", json={"secret": login.secret}).status_code == 200


def build_app_without_rooms(login: Login) -> Any:
    from starlette.applications import Starlette
    from starlette.routing import Route

    from creativewritinggpt.studio.access import guard
    from creativewritinggpt.studio.answers import answered

    routes = [Route("/api/login", answered(login.login), methods=["POST"])]
    return guard(Starlette(routes=routes), login)


def test_two_studios_do_not_share_a_cookie() -> None:
    key = b"k" * 32
    first, second = Login(8001, key), Login(8002, key)
    assert first.cookie != second.cookie
    client = TestClient(build_app_without_rooms(first), base_url="http://127.0.0.1:8001",
                        headers={"origin": "http://127.0.0.1:8001"})  # fmt: skip
    client.post("/api/login", json={"secret": first.secret})
    value = client.cookies[first.cookie]
    for login, name, admitted in ((first, first.cookie, True), (second, first.cookie, False),
                                  (second, second.cookie, False)):  # fmt: skip
        scope = {"headers": [(b"cookie", f"{name}={value}".encode())]}
        assert login.admits(scope) is admitted
    again = Login(8001, key)  # the same key after a restart
    assert again.admits({"headers": [(b"cookie", f"a=b; {first.cookie}={value}".encode())]})
    assert again.secret != first.secret
    assert not again.admits({"headers": [(b"cookie", b"\xff\xfe;;;=")]})


@pytest.mark.skipif(os.name == "nt", reason="modes of files are POSIX")
def test_the_kept_key_is_for_this_user_alone(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.save(4321)
    assert kept.path.stat().st_mode & 0o077 == 0
    again = Kept(tmp_path)
    assert (again.key, again.port) == (kept.key, 4321)
    for broken in ("", "{", '{"key": "zz", "port": 1}', '{"key": 5}', "[]"):
        kept.path.write_text(broken)
        assert len(Kept(tmp_path).key) == 32 and Kept(tmp_path).port == 0


TRAVERSALS = [
    "/../pyproject.toml", "/..%2f..%2fapp.py", "/%2e%2e/%2e%2e/app.py", "//etc/passwd",
    "/vendor/../../app.py", "/vendor/%2e%2e/%2e%2e/app.py", "/..\\..\\app.py", "/package.json",
    "/build.mjs", "/node_modules/esbuild/package.json", "/%00", "/index.html%00.js", "/.npmrc",
    "/write/../../access.py", "/C:/Windows/win.ini", "/file:///etc/passwd", "/\u202eindex.html",
]  # fmt: skip


@pytest.mark.parametrize("path", TRAVERSALS)
def test_no_path_leads_out_of_the_pages_folder(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404 and "import" not in answer.text
    assert answer.json()["error"]["kind"] == "NotFound"


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "", "x" * 5000, "\x00", 5, {}])
def test_ids_that_the_studio_did_not_make_name_nothing(
    client: TestClient, login: Login, path: Any
) -> None:
    enter(client, login)
    answer = client.patch("/api/model", json={"id": path, "tab": "t"})
    assert answer.status_code in (400, 404), answer.text
    assert answer.json()["error"]["message"]


def test_a_link_out_of_the_folder_is_no_page(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("x")
    web = tmp_path / "web"
    web.mkdir()
    (web / "a.js").write_text("1")
    (web / "b.txt").symlink_to(tmp_path / "secret.txt")
    pages = Pages(web)
    assert pages.find("a.js") and pages.find("b.txt") is None


def test_every_answer_has_the_policy_and_the_page_a_nonce_of_its_own(client: TestClient) -> None:
    nonces = set()
    for path in ("/", "/app.js", "/style.css", "/nothing", "/api/state"):
        policy = client.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self';" in policy
        assert "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert "require-trusted-types-for 'script'" in policy
    for _ in range(3):
        answer = client.get("/")
        found = re.search(r"'nonce-([^']+)'", answer.headers["content-security-policy"])
        assert found and f'content="{found[1]}"' in answer.text
        nonces.add(found[1])
    assert len(nonces) == 3
    assert client.get("/app.js").headers["x-content-type-options"] == "nosniff"


def test_pages_that_are_not_the_studios_own_are_sandboxed() -> None:
    answer = report("<script>parent.document</script>")
    policy = answer.headers["content-security-policy"]
    assert policy == REPORT_POLICY and policy.startswith("sandbox allow-scripts;")
    assert "allow-same-origin" not in policy and "connect-src" not in policy


def test_bodies_that_are_too_large_or_no_object_are_refused(
    client: TestClient, login: Login
) -> None:
    enter(client, login)
    headers = {"content-type": "application/json"}
    big = client.post("/api/story/edit", content=b"x" * (1 << 21), headers=headers)
    assert big.status_code == 413
    deep = b"[" * 100_000
    for body in (b"{", b"[]", b'"x"', b"\xff\xfe", deep, b'{"a":' + deep):
        answer = client.post("/api/story/edit", content=body, headers=headers)
        assert answer.status_code == 400, body[:10]
        assert "Traceback" not in answer.text


def test_a_message_of_two_megabytes_or_a_flood_ends_one_socket_alone(studio: Any) -> None:
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    running = studio()
    client = running.client()
    cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    url = f"ws://127.0.0.1:{running.port}/api/events?since=0&epoch=&tab=t"
    options: Any = {"origin": running.origin, "additional_headers": {"Cookie": cookies}}
    with connect(url, **options) as watching:
        watching.recv(10)
        with connect(url.replace("tab=t", "tab=u"), max_size=None, **options) as bomb:
            bomb.recv(10)
            with pytest.raises(ConnectionClosed):
                bomb.send("x" * (2 << 20))
                while True:
                    bomb.recv(10)
        assert client.get("/api/state").status_code == 200
        client.post("/api/story/set", json={"title": "still here", "tab": "t"})
        client.post("/api/story/set", json={"title": "and here", "tab": "u"})
        assert client.get("/api/state").status_code == 200
    with socket.create_connection(("127.0.0.1", running.port)) as bare:
        bare.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: " + b"y" * (1 << 17))
        bare.settimeout(15)
        assert b"200" not in bare.recv(100)
    assert client.get("/api/state").status_code == 200


def test_a_reader_that_does_not_read_is_cut_and_the_others_go_on(studio: Any) -> None:
    running = studio()
    client = running.client()
    cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    slow = socket.create_connection(("127.0.0.1", running.port))
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.sendall(
        f"GET /api/events?since=0&epoch=&tab=s HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\n"
        f"Origin: {running.origin}\r\nCookie: {cookies}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    for number in range(40):  # some megabytes of events that the slow one has to be told
        answer = client.post(
            "/api/story/set", json={"memory": f"{number}" + "m" * 100_000, "tab": "s"}
        )
        assert answer.status_code == 200
    assert client.get("/api/state").json()["story"]["memory"].startswith("39m")
    slow.close()


def test_the_secret_is_in_no_log(studio: Any) -> None:
    running = studio(flags=("--debug",))
    client = running.client()
    client.post("/api/login", json={"secret": "wrong"})
    client.get("/api/state")
    client.get("/nothing")
    assert running.stop() == 130
    assert running.secret not in running.log.read_text()


def test_an_address_that_others_reach_is_refused(capsys: Any, tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        assert main(["studio", "--host", host, "--no-browser"]) == 2
        said = capsys.readouterr().err
        assert "other machines reach" in said and "--allow-network" in said
        assert len(said.strip().splitlines()) <= 2


def test_a_port_in_use_is_said_and_the_last_port_only_preferred(capsys: Any) -> None:
    [taken, *more] = listen("127.0.0.1", 0)
    port = taken.getsockname()[1]
    assert main(["studio", "--port", str(port), "--no-browser"]) == 2
    assert f"port {port}" in capsys.readouterr().err
    other = take_port("127.0.0.1", 0, port)
    assert other[0].getsockname()[1] not in (0, port)
    for one in (taken, *more, *other):
        one.close()


def test_an_answer_does_not_wait_for_the_acknowledgement_of_its_head() -> None:
    async def nagle() -> int:
        [taken, *more] = listen("127.0.0.1", 0)
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def came(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            made = writer.get_extra_info("socket")
            found.set_result(made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        server = await asyncio.start_server(came, sock=taken)
        _, writer = await asyncio.open_connection("127.0.0.1", taken.getsockname()[1])
        no_delay = await asyncio.wait_for(found, 10)
        writer.close()
        server.close()
        for one in more:
            one.close()
        return no_delay

    assert asyncio.run(nagle()) != 0


def test_a_story_file_has_the_ending_that_the_terminal_takes(capsys: Any) -> None:
    assert main(["studio", "--story", "novel.txt", "--no-browser"]) == 2
    said = capsys.readouterr().err
    assert "ends in .json" in said and "Library" in said


def test_the_page_is_served_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from creativewritinggpt.cli import studio\n"
        "from creativewritinggpt.studio.access import Login\n"
        "from creativewritinggpt.studio.app import build_app\n"
        "from creativewritinggpt.studio.studio import Studio\n"
        f"build_app(Studio(Path({str(tmp_path)!r})), Login(1))\n"
        "heavy = {'torch', 'transformers', 'peft', 'numpy', 'pyarrow', 'matplotlib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)


def test_the_page_makes_no_html_of_text() -> None:
    unsafe = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|"
        r"unsafeHTML|srcdoc|https?://(?!127\.0\.0\.1|localhost|www\.w3\.org)"
    )
    for file in WEB.rglob("*.js"):
        if {"vendor", "node_modules"} & set(file.parts):
            continue
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
            assert not unsafe.search(line.partition("// ")[0]), f"{file.name}:{number}: {line}"


def test_a_socket_that_is_refused_says_why(client: TestClient) -> None:
    with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect(SOCKET):
        pass
    assert (refused.value.status_code, refused.value.text) == (401, "this page is not logged in")
