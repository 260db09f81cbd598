"""A page of the studio without a browser, and studios whose model says one sentence."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
        path = self.studio.desk.file.path  # a new story has a file as soon as it has a word
        return read_story(path).text if path.exists() else ""


@contextmanager
def studios(folder: Path, tokenizer: Any) -> Iterator[Callable[..., Studio]]:
    """Makes studios in a folder, which end with the block."""
    made: list[Studio] = []

    def make(model: Any = None, ready: bool = True, **options: Any) -> Studio:
        def load(name: str, machine: Any) -> Any:
            if callable(model):
                return model(name)
            writer = model or make_writer(parrot(tokenizer, SAID), tokenizer)
            writer.name = name
            writer.context_length = 256 if model is None else writer.context_length
            return writer

        found = Studio(folder, model="tiny", load=load, **options)
        found.settings.change({"max_new_tokens": 12, "temperature": 0, "weights": "fp32"})
        found.engine.weights = "fp32"
        made.append(found)
        found.start()
        end = time.monotonic() + 30
        while ready and found.engine.state == "loading" and time.monotonic() < end:
            time.sleep(0.01)
        return found

    try:
        yield make
    finally:
        _close(made)


def _close(made: list[Studio]) -> None:
    for one in made:
        one.close(5)
        one.close(0)
