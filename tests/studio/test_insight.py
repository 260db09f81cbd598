"""The routes of the figures over a real scheduler: answers, events, stale texts, stopping."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient
from writers import make_writer

from creativewritinggpt.analysis.why import why
from creativewritinggpt.generation import forced
from creativewritinggpt.generation.sampling.settings import GenerationSettings
from creativewritinggpt.server.scheduler import Scheduler, ServedModel, Task
from creativewritinggpt.story.context import passage_tokens, story_view
from creativewritinggpt.story.tree import Story
from creativewritinggpt.studio.insight import Places, routes

TEXT = "The lamp 🐉 went out, and the captain laughed at the sea. "


class Engine:
    """Tasks of a scheduler with ids, as the studio's engine has them."""

    signature = "tiny"

    def __init__(self, writer: Any, events: list[dict[str, Any]]) -> None:
        self.scheduler = Scheduler([ServedModel("tiny", writer)])
        self.scheduler.start()
        self.tasks: dict[str, Task] = {}
        self.events = events
        self.kinds: list[tuple[str, int]] = []

    def task(self, kind: str, work: Any, priority: int) -> str:
        job = str(len(self.tasks))
        self.kinds.append((kind, priority))

        def ended(result: Any, error: Exception | None) -> None:
            state = "done" if error is None else "stopped" if task.cancelled else "failed"
            self.events.append({"kind": "job", "id": job, "state": state, "error": error})

        task = Task("tiny", lambda model: work(model, job), ended, priority)
        self.tasks[job] = task
        self.scheduler.submit(task)
        return job

    def stop(self, job: str) -> None:
        self.tasks[job].cancel()


class Page:
    """A page that asks and waits for the end of the job."""

    def __init__(self, writer: Any) -> None:
        self.story, self.events = Story(), list[dict[str, Any]]()
        self.desk = SimpleNamespace(
            story=self.story, tokens={}, settings=GenerationSettings(top_k=10), revision=3,
            lock=threading.Lock(),
        )  # fmt: skip
        self.engine = Engine(writer, self.events)

        def publish(kind: str, **fields: Any) -> None:
            self.events.append({"kind": kind, **fields})

        self.studio = SimpleNamespace(
            desk=self.desk, engine=self.engine, events=SimpleNamespace(publish=publish)
        )
        self.client = TestClient(Starlette(routes=routes(self.studio)))

    def post(self, name: str, **body: Any) -> Any:
        return self.client.post(f"/api/{name}", json={"revision": 3, **body})

    def ended(self, job: str) -> dict[str, Any]:
        for _ in range(500):
            found = [e for e in self.events if e["kind"] == "job" and e["id"] == job]
            if found:
                return found[0]
            time.sleep(0.02)
        raise AssertionError("the job did not end")

    def ask(self, name: str, **body: Any) -> list[dict[str, Any]]:
        answer = self.post(name, **body)
        assert answer.status_code == 200, answer.text
        job = answer.json()["job"]
        end = self.ended(job)
        if end["error"] is not None:
            raise end["error"]
        return [e for e in self.events if e["kind"] == name and e["job"] == job]


@pytest.fixture
def page(tiny_model: Any, tiny_tokenizer: Any) -> Iterator[Page]:
    page = Page(make_writer(tiny_model("gpt2"), tiny_tokenizer))
    yield page
    page.engine.scheduler.close(1)


def _utf16(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def test_heat_counts_as_the_page_does_and_equals_the_terminal(page: Page) -> None:
    writer = page.engine.scheduler.models["tiny"].model
    passages = [page.story.write(TEXT + f"Night {n}. ") for n in range(3)]
    events = page.ask("heat", **{"from": 0, "to": 30}, measure="rank")
    assert all(e["revision"] == 3 and e["length"] == _utf16(page.story.text) for e in events)
    rows = [row for event in events for row in event["tokens"]]
    tokens = [t for p in passages for t in passage_tokens(writer, page.story, p, 1)]
    assert len(rows) == len(tokens)
    units = page.story.text.encode("utf-16-le")
    dragons = 0
    for (start, end, logprob, rank, entropy, base), token in zip(rows, tokens, strict=True):
        text = units[2 * start : 2 * end].decode("utf-16-le")
        dragons += "🐉" in text
        if "🐉" not in text:
            assert text == token.text
        assert rank == token.rank and base is None
        assert logprob == pytest.approx(token.logprob, abs=1e-3)
        assert entropy == pytest.approx(token.entropy, abs=1e-3)
    assert dragons >= 3


def test_a_difference_needs_an_adapter(page: Page) -> None:
    page.story.write(TEXT)
    job = page.post("heat", **{"from": 0, "to": 30}, measure="difference").json()["job"]
    assert "no adapter" in page.ended(job)["error"].message


def test_a_token_with_its_alternatives_and_what_the_samplers_took(page: Page) -> None:
    page.story.write(TEXT)
    at = _utf16(TEXT[: TEXT.index("captain")])
    [event] = page.ask("token", at=at + 1)
    assert event["from"] <= at + 1 < event["to"]
    assert event["probability"] == pytest.approx(math.exp(event["logprob"]))
    assert len(event["after"]) == 10 and event["removed"][0]["sampler"] == "top_k"
    assert page.engine.kinds == [("token", 1)]


def test_why_equals_the_terminals_why(page: Page) -> None:
    writer = page.engine.scheduler.models["tiny"].model
    page.story.write(TEXT)
    start = _utf16(TEXT[: TEXT.index("laughed")])
    [event] = page.ask("why", **{"from": start, "to": start + 7})
    assert event["sentence"] == why(writer, story_view(writer, page.story).view, "laughed")
    assert event["target"] == {"from": start, "to": start + 7, "text": "laughed"}
    units = TEXT.encode("utf-16-le")
    said = [units[2 * a : 2 * b].decode("utf-16-le") for a, b, _ in event["scores"]]
    assert said == TEXT[: TEXT.index("laughed")].split()
    assert event["trust"]["sentence"] and "each word" in event["method"]


def test_another_text_than_that_of_the_page_is_refused(page: Page) -> None:
    page.story.write(TEXT)
    answer = page.client.post("/api/token", json={"revision": 2, "at": 3})
    assert answer.status_code == 409 and answer.json()["revision"] == 3


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("heat", {"from": -1, "to": 3}),
        ("heat", {"from": 0, "to": "all"}),
        ("heat", {"from": 0, "to": 3, "measure": "warmth"}),
        ("token", {}),
        ("token", {"at": True}),
        ("token", {"at": 9999}),
        ("why", {"from": 0}),
    ],
)
def test_what_is_no_question_is_said(page: Page, name: str, body: Any) -> None:
    page.story.write(TEXT)
    answer = page.post(name, **body)
    assert answer.status_code == 400 and answer.json()["error"]["message"]


def test_a_new_question_stops_the_one_before(page: Page, monkeypatch: Any) -> None:
    read, hold = threading.Event(), threading.Event()
    step_tokens = forced.step_tokens

    def slow(*given: Any, **more: Any) -> Any:
        read.set()
        hold.wait(5)
        return step_tokens(*given, **more)

    monkeypatch.setattr(forced, "step_tokens", slow)
    for _ in range(20):
        page.story.write(TEXT)
    first = page.post("heat", **{"from": 0, "to": 9}).json()["job"]
    assert read.wait(5)
    second = page.post("heat", **{"from": 0, "to": 9}).json()["job"]
    hold.set()
    assert page.ended(first)["state"] == "stopped" and page.ended(second)["state"] == "done"


@pytest.mark.parametrize("text", ["", "plain", "🐉", "a🐉b🐉🐉c", "é\u0301𝒳"])
def test_places_are_those_of_utf_16(text: str) -> None:
    places = Places(text)
    assert places.length == _utf16(text)
    for index in range(len(text) + 1):
        place = _utf16(text[:index])
        assert places.utf16(index) == place and places.index(place) == index
        if index < len(text) and text[index] > "\uffff":
            assert places.index(place + 1) == index
