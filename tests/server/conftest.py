"""A served tiny model: in this process, and as a process of its own."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from creativewritinggpt.server.app import build_app
from creativewritinggpt.server.scheduler import Scheduler, ServedModel
from creativewritinggpt.server.security import Access, key_hash
from creativewritinggpt.server.service import Service


@pytest.fixture
def serving(tiny_writer: Any) -> Iterator[Callable[..., TestClient]]:
    """A factory of clients of an application on a tiny model: ``serving(keys=["…"])``."""
    with contextlib.ExitStack() as stack:

        def make(model: Any = None, **options: Any) -> TestClient:
            if model is None:
                model = tiny_writer("gpt2", n_positions=1024)
                model.context_length = 1024
            strict = options.pop("strict", False)
            seconds = options.pop("seconds", None)
            access = Access(
                keys=tuple(key_hash(key) for key in options.pop("keys", ())),
                origins=tuple(options.pop("origins", ())),
                hosts=("testserver",),
            )
            weights = options.pop("weights", "fp32")
            scheduler = Scheduler([ServedModel("tiny", model, weights=weights)], **options)
            service = Service(scheduler, strict=strict, seconds=seconds)
            scheduler.start()
            stack.callback(scheduler.close, 0)
            client = TestClient(build_app(service, access), raise_server_exceptions=True)
            client.scheduler = scheduler  # type: ignore[attr-defined]
            return client

        yield make


class Process:
    """A running ``cwgpt serve``."""

    def __init__(self, popen: subprocess.Popen[str], url: str) -> None:
        self.popen = popen
        self.url = url


@pytest.fixture
def server(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> Iterator[Callable[..., Process]]:
    """A factory of server processes on a tiny Llama: ``server("--strict")``."""
    running: list[subprocess.Popen[str]] = []

    def start(*flags: str, **env: str) -> Process:
        command = [sys.executable, "-m", "creativewritinggpt", "serve", "--port", "0",
                   "--model", str(tiny_folder("llama")), "--device", "cpu", *flags]  # fmt: skip
        popen = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=(tmp_path / "serve.log").open("w"), text=True,
            env={**os.environ, **env},
        )  # fmt: skip
        running.append(popen)
        assert popen.stdout is not None
        line = popen.stdout.readline()
        found = re.search(r"at (http://\S+)", line)
        assert found, (line, (tmp_path / "serve.log").read_text())
        return Process(popen, found[1])

    yield start
    for popen in running:
        popen.kill()
        popen.wait()
