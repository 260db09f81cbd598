"""The doctor says what there is and what to do, and waits for nobody."""

from __future__ import annotations

import json
import socket
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer

from creativewritinggpt import devices
from creativewritinggpt.cli import doctor


@pytest.fixture
def point(monkeypatch: Any) -> Any:
    from huggingface_hub import constants

    def to(url: str | None) -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", url is None)
        if url is not None:
            monkeypatch.setattr(constants, "ENDPOINT", url)

    return to


def test_all_that_is_found_is_json_and_has_reasons(point: Any, tmp_path: Path) -> None:
    point(None)
    found = doctor.examine(cache_dir=str(tmp_path / "not" / "yet"))
    assert json.loads(json.dumps(found)) == found
    assert set(found["reasons"]) == {"device", "precision", "threads"}
    assert found["cache"]["free_bytes"] > 0
    assert not found["starter"]["cached"]
    assert found["versions"]["torch"]
    assert found["hub"]["reachable"] is None
    assert any("starter is not here yet" in line for line in found["advice"])
    assert not (tmp_path / "not").exists()


def test_a_hub_that_answers_is_reachable(point: Any) -> None:
    with HubServer() as hub:
        point(hub.url)
        assert doctor.examine()["hub"]["reachable"] is True
    assert len(hub.requests) == 1


def test_offline_asks_nobody(point: Any) -> None:
    with HubServer() as hub:
        point(hub.url)
        point(None)
        assert doctor.examine()["hub"]["reason"] == "HF_HUB_OFFLINE is set"
    assert hub.requests == []


def test_a_hub_that_is_not_there_is_said_with_a_way_out(point: Any) -> None:
    point("http://127.0.0.1:9")
    found = doctor.examine()
    assert found["hub"]["reachable"] is False
    assert any("--model-name starter" in line for line in found["advice"])


def test_a_hub_that_never_answers_is_given_up(point: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(doctor, "HUB_SECONDS", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        point(f"http://127.0.0.1:{silent.getsockname()[1]}")
        begun = time.monotonic()
        assert doctor.examine()["hub"]["reachable"] is False
        assert time.monotonic() - begun < 30


def test_little_memory_and_disk_are_told(point: Any, monkeypatch: Any) -> None:
    point(None)
    monkeypatch.setattr(devices, "memory", lambda _: (8_000_000_000, 1_000_000_000))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage(10, 9, 1))
    advice = "\n".join(doctor.examine()["advice"])
    assert "--batch-size 1" in advice
    assert "CWGPT_CACHE" in advice
