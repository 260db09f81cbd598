"""The writing room's routes: edits, passages, versions, cards, undo, what reaches the disk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from creativewritinggpt.story.file import read_story
from creativewritinggpt.studio import desk
from creativewritinggpt.studio.studio import Studio
from tests.parrot import parrot
from tests.writers import make_writer

SAID = " the ferry was late and cold tonight."


class Page:
    """What a page does: it applies events to its text, and sends commands."""

    def __init__(self, studio: Studio, tab: str = "one") -> None:
        self.studio, self.tab = studio, tab
        self.client = TestClient(Starlette(routes=desk.routes(studio)))
        state = self.get("/api/state")
        self.n, self.revision = state["n"], state["story"]["revision"]
        self.text16 = state["story"]["text"].encode("utf-16-le")
        self.story = state["story"]

    @property
    def text(self) -> str:
        return self.text16.decode("utf-16-le")

    def get(self, path: str) -> Any:
        answer = self.client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, status: int = 200, **body: Any) -> Any:
        answer = self.client.post(path, json={"tab": self.tab, **body})
        assert answer.status_code == status, answer.text
        return answer.json()

    def patch(self, path: str, status: int = 200, **body: Any) -> Any:
        answer = self.client.patch(path, json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    def _put(self, begin: int, end: int, text: str) -> None:
        coded = self.text16
        self.text16 = coded[: 2 * begin] + text.encode("utf-16-le") + coded[2 * end :]

    def catch_up(self) -> list[Any]:
        """Apply the events that have come since."""
        found = self.studio.events.since(self.n, 100_000)
        assert found is not None
        events = [json.loads(event.text) for event in found]
        for event in events:
            assert event["n"] == self.n + 1
            self.n = event["n"]
            job = self.studio.jobs.find(event.get("job", ""))
            if event["kind"] == "piece" and job and job.type in ("continue", "version"):
                assert 2 * event["at"] == len(self.text16)
                self._put(event["at"], event["at"], event["text"])
            if event["kind"] == "story":
                if event["changes"] is None:
                    self.text16 = self.get("/api/state")["story"]["text"].encode("utf-16-le")
                for begin, end, text in reversed(event["changes"] or ()):
                    self._put(begin, end, text)
                self.revision = event["revision"]
                first = event["patch"].pop("passages_from", None)
                if first is not None:
                    kept = self.story["passages"][:first]
                    self.story["passages"] = kept + event["patch"].pop("passages")
                self.story.update(event["patch"])
        return events

    def edit(self, *changes: tuple[int, int, str], status: int = 200) -> Any:
        self.catch_up()
        answer = self.post(
            "/api/story/edit", status, revision=self.revision, n=self.n, changes=changes
        )
        self.catch_up()
        return answer

    def run(self, command: str, **body: Any) -> Any:
        """A command that starts a job, to its end; the job."""
        job = self.post(f"/api/story/{command}", **body)["job"]
        return self.wait(job)

    def wait(self, id: str) -> Any:
        job = self.studio.jobs.find(id)
        assert job is not None and job.ended.wait(60)
        self.catch_up()
        return job.record()

    def saved(self) -> str:
        """The text of the story's file, when all is saved."""
        end = time.monotonic() + 20
        while self.studio.desk.saved != self.studio.desk.revision and time.monotonic() < end:
            time.sleep(0.02)
        return read_story(self.studio.desk.file.path).text


@pytest.fixture
def studio(
    tmp_path: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Studio]]:
    """Makes studios whose model says the same sentence over and over."""
    made: list[Studio] = []
    monkeypatch.chdir(tmp_path)

    def make(model: Any = None, ready: bool = True, **options: Any) -> Studio:
        def load(name: str, machine: Any) -> Any:
            if callable(model):
                return model(name)
            writer = model or make_writer(parrot(tiny_tokenizer, SAID), tiny_tokenizer)
            writer.name = name
            writer.context_length = 256 if model is None else writer.context_length
            return writer

        found = Studio(tmp_path, model="tiny", load=load, **options)
        found.settings.change({"max_new_tokens": 12, "temperature": 0, "weights": "fp32"})
        found.engine.weights = "fp32"
        made.append(found)
        found.start()
        end = time.monotonic() + 30
        while ready and found.engine.state == "loading" and time.monotonic() < end:
            time.sleep(0.01)
        return found

    yield make
    for one in made:
        one.close(5)
        one.close(0)


@pytest.fixture
def page(studio: Callable[..., Studio]) -> Page:
    return Page(studio())


def test_typing_and_a_passage_are_in_the_file_as_on_the_page(page: Page) -> None:
    page.edit((0, 0, "It rained 🌧️ and"))
    assert page.text == "It rained 🌧️ and"
    job = page.run("continue")
    assert job["state"] == "done"
    assert page.text.startswith("It rained 🌧️ and") and len(page.text) > 30
    assert page.saved() == page.text == page.studio.desk.text
    by = [passage["by"] for passage in page.story["passages"]]
    assert by == ["writer", "model"]


def test_an_edit_while_the_model_writes_keeps_what_is_there(page: Page) -> None:
    page.patch("/api/settings", values={"max_new_tokens": 2000})
    page.edit((0, 0, "So"))
    page.post("/api/story/continue")
    end = time.monotonic() + 20
    while len(page.text) < 40 and time.monotonic() < end:
        time.sleep(0.01)
        page.catch_up()
    shown = page.text
    page.edit((0, 0, "And so. "), (len(shown), len(shown), "THE END"))
    assert page.text.startswith("And so. " + shown) and page.text.endswith("THE END")
    assert page.saved() == page.text == page.studio.desk.text
    assert page.studio.desk.writing is None
    page.post("/api/story/undo")
    page.catch_up()
    assert page.text.startswith(shown)
    page.post("/api/story/undo")
    page.catch_up()
    assert page.text == "So"
    assert page.saved() == "So"


def test_versions_drafts_take_branch_replace_undo(
    studio: Callable[..., Studio], tiny_writer: Callable[..., Any]
) -> None:
    page = Page(studio(tiny_writer()))
    page.patch("/api/settings", values={"temperature": 1.5, "top_p": 1})
    page.edit((0, 0, "It rained."))
    page.run("continue", seed=1)
    first = page.text
    assert page.run("version", seed=2)["state"] == "done"
    assert page.text != first and page.story["passages"][-1]["versions"] == 2
    job = page.run("drafts", n=3, seed=5)
    assert [row["state"] for row in job["rows"]] == ["done"] * 3
    assert page.text == page.saved()
    before = page.text
    page.post("/api/story/take", job=job["id"], row=2)
    page.catch_up()
    assert page.text == before + job["rows"][2]["text"]
    page.post("/api/story/take", job=job["id"], row=0)
    page.catch_up()
    assert page.text == before + job["rows"][0]["text"]
    whole, branch = page.text, page.story["branch"]
    page.post("/api/story/replace", **{"from": 3, "to": 9}, text="snowed")
    page.catch_up()
    assert page.text == "It snowed" and len(page.story["branches"]) == 2
    page.post("/api/story/goto", branch=branch)
    page.catch_up()
    assert page.text == whole
    kinds = [choice.kind for choice in page.studio.desk.story.choices]
    assert kinds.count("pick") == 3 and "retry" in kinds and "token" in kinds
    while page.story["undo"]:
        page.post("/api/story/undo")
        page.catch_up()
    assert page.text == "" == page.saved()


def test_a_passage_is_made_again_from_its_record(
    studio: Callable[..., Studio], tiny_writer: Callable[..., Any]
) -> None:
    page = Page(studio(tiny_writer()))
    page.patch("/api/settings", values={"temperature": 1.2})
    page.edit((0, 0, "It rained."))
    page.run("continue", seed=3)
    job = page.run("verify")
    assert job["rows"][0]["equal"] and "every character is the same" in job["message"]


def test_a_stale_edit_is_answered_with_both_versions(page: Page) -> None:
    page.edit((0, 0, "one two"))
    old = page.revision
    page.edit((0, 3, "1"))
    answer = page.post("/api/story/edit", 409, revision=old, n=page.n, changes=[[4, 7, "2"]])
    assert answer["text"] == "1 two" and answer["yours"] == "one 2"
    assert answer["error"]["kind"] == "stale"
    assert page.studio.desk.text == "1 two"
