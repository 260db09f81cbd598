"""Real clients against a real server process: shapes, errors, cancelling, the end."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from creativewritinggpt.cli.main import main

openai = pytest.importorskip("openai")

KEY = "the-key-of-this-test-server"
pytestmark = pytest.mark.cli


@pytest.fixture
def keyed(server: Callable[..., Any]) -> Any:
    return server("--weights", "fp32", CWGPT_API_KEY=KEY)


def client_of(url: str, **options: Any) -> Any:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, **options)


def test_the_openai_client_gets_every_shape_and_its_own_errors(keyed: Any) -> None:
    client = client_of(keyed.url)
    [model] = [one.id for one in client.models.list()]
    answer = client.completions.create(
        model=model, prompt=["One", "Two"], n=2, max_tokens=6, seed=3, logprobs=2, echo=True
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.choices[0].text.startswith("One")
    assert answer.choices[0].logprobs.token_logprobs[0] is None
    extra = {"min_p": 0.1, "repeat_penalty": 1.2, "preset": "mystery"}
    assert client.completions.create(model=model, prompt="x", extra_body=extra).choices
    chunks = list(
        client.completions.create(model=model, prompt="One", max_tokens=6, seed=3, stream=True,
                                  stream_options={"include_usage": True})
    )  # fmt: skip
    text = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
    assert "One" + text == answer.choices[0].text and chunks[-1].usage.completion_tokens == 6
    chat = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Hi"}], max_tokens=4, logprobs=True,
        top_logprobs=1,
    )  # fmt: skip
    assert chat.choices[0].message.content is not None and chat.choices[0].logprobs.content
    for error, body in (
        (openai.NotFoundError, {"model": "nope"}),
        (openai.BadRequestError, {"temperature": 7}),
        (openai.BadRequestError, {"prompt": [7] * 2000}),
    ):
        with pytest.raises(error):
            client.completions.create(**{"model": model, "prompt": "x", **body})
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    assert keyed.popen.poll() is None


@pytest.mark.slow
def test_200_clients_that_give_up_leave_the_server_free(keyed: Any) -> None:
    client = client_of(keyed.url, timeout=0.5)
    [model] = [one.id for one in client.with_options(timeout=20).models.list()]

    def give_up(_: int) -> bool:
        try:
            client.completions.create(
                model=model, prompt="x", max_tokens=8000, extra_body={"ignore_eos": True}
            )
        except (openai.APITimeoutError, openai.RateLimitError):
            return True
        return False

    with ThreadPoolExecutor(50) as pool:
        assert all(pool.map(give_up, range(200)))
    started = time.monotonic()
    assert client.with_options(timeout=20).completions.create(model=model, prompt="x").choices
    assert time.monotonic() - started < 5
    stats = httpx.get(f"{keyed.url}/stats", headers={"x-api-key": KEY}).json()
    cancelled = stats["cancelled_total"]['by="client"']
    assert stats["tokens_after_cancel_total"].get("", 0) <= cancelled
    assert stats["num_requests_running"] == stats["num_requests_waiting"] == 0


STREAM = b'{"prompt": "x", "max_tokens": 8000, "ignore_eos": true, "stream": true}'


def begin(url: str) -> socket.socket:
    """A connection that has asked for a long stream."""
    parts = urlsplit(url)
    assert parts.hostname and parts.port
    stream = socket.create_connection((parts.hostname, parts.port), timeout=30)
    stream.sendall(
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"X-Api-Key: " + KEY.encode() + b"\r\nContent-Length: %d\r\n\r\n" % len(STREAM) + STREAM
    )
    return stream


def stats_of(url: str) -> Any:
    return httpx.get(f"{url}/stats", headers={"x-api-key": KEY}, timeout=10).json()


def wait_until_free(url: str) -> None:
    for _ in range(200):
        if stats_of(url)["num_requests_running"] == 0:
            return
        time.sleep(0.05)
    raise AssertionError(stats_of(url))


def test_a_client_killed_in_mid_stream_costs_a_token_at_most(keyed: Any) -> None:
    code = (
        "import openai, sys\n"
        f"c = openai.OpenAI(base_url='{keyed.url}/v1', api_key='{KEY}')\n"
        "for chunk in c.completions.create(model='', prompt='x', max_tokens=8000, stream=True,\n"
        "                                  extra_body={'ignore_eos': True}):\n"
        "    print('.', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == ".\n"
        child.kill()
    wait_until_free(keyed.url)
    stats = stats_of(keyed.url)
    assert stats["cancelled_total"] == {'by="client"': 1}
    assert stats["tokens_after_cancel_total"].get("", 0) <= 1


def test_a_client_that_never_reads_is_no_burden_to_the_others(keyed: Any) -> None:
    silent = [begin(keyed.url) for _ in range(3)]
    client = client_of(keyed.url, timeout=30)
    assert client.completions.create(model="", prompt="x", max_tokens=5).choices
    for one in silent:
        one.close()
    wait_until_free(keyed.url)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_then_ends_streams_with_an_error(keyed: Any, number: int) -> None:
    stream = begin(keyed.url)
    assert b"data: " in stream.recv(4096) + stream.recv(4096)
    keyed.popen.send_signal(number)
    started, data = time.monotonic(), b""
    while part := stream.recv(1 << 20):
        data += part
    assert b'"code": "closing"' in data and b"data: [DONE]\n\n" in data
    assert keyed.popen.wait(20) == (130 if number == signal.SIGINT else 0)
    assert 4 < time.monotonic() - started < 15


def test_an_answer_in_work_is_finished_before_the_end(keyed: Any) -> None:
    with ThreadPoolExecutor(1) as pool:
        body = {"prompt": "x", "max_tokens": 60, "ignore_eos": True}
        answer = pool.submit(
            httpx.post, f"{keyed.url}/v1/completions", json=body, headers={"x-api-key": KEY},
            timeout=30,
        )  # fmt: skip
        while stats_of(keyed.url)["num_requests_running"] == 0 and not answer.done():
            time.sleep(0.005)
        keyed.popen.send_signal(signal.SIGTERM)
        assert answer.result().json()["usage"]["completion_tokens"] == 60
    assert keyed.popen.wait(20) == 0


def test_the_printed_curl_line_works(server: Callable[..., Any], tmp_path: Any) -> None:
    running = server()
    log = (tmp_path / "serve.log").read_text()
    for _ in range(100):
        if "try: curl" in log:
            break
        time.sleep(0.05)
        log = (tmp_path / "serve.log").read_text()
    line = next(line for line in log.splitlines() if line.startswith("try: "))
    out = subprocess.run(
        ["bash", "-c", line.removeprefix("try: ")], capture_output=True, timeout=60
    )
    assert json.loads(out.stdout)["choices"][0]["text"] and running.popen.poll() is None


@pytest.mark.slow
def test_a_mixed_load_fails_nowhere_and_leaves_no_files_open(
    server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The short form of ``bench/soak.py --minutes 30``."""
    import psutil
    import soak

    running = server("--weights", "fp32")
    process = psutil.Process(running.popen.pid)
    httpx.post(f"{running.url}/v1/scores", json={"text": "x"}, timeout=60)
    monkeypatch.setattr(sys, "argv", ["soak", "--minutes", "0.05", "--url", running.url])
    assert soak.main() == 0
    files, memory = process.num_fds(), process.memory_info().rss
    monkeypatch.setattr(sys, "argv", ["soak", "--minutes", "0.2", "--url", running.url])
    assert soak.main() == 0
    wait_until_free(running.url)
    assert process.num_fds() <= files + 8
    assert process.memory_info().rss < memory + (64 << 20)


def test_a_model_whose_folder_disappears_goes_on_writing(
    server: Callable[..., Any], tmp_path: Path
) -> None:
    running = server("--weights", "fp32")
    body = {"prompt": "x", "max_tokens": 4}
    assert httpx.post(f"{running.url}/v1/completions", json=body, timeout=60).status_code == 200
    shutil.rmtree(tmp_path / "tiny-llama")
    assert httpx.post(f"{running.url}/v1/completions", json=body, timeout=60).status_code == 200
    scored = httpx.post(f"{running.url}/v1/scores", json={"text": "x"}, timeout=60)
    assert scored.status_code == 200 or scored.json()["error"]["message"]
    assert httpx.get(f"{running.url}/health").status_code == 200


def test_without_its_packages_the_command_says_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["serve"]) == 2
    assert 'pip install "creativewritinggpt[serve]"' in capsys.readouterr().err
