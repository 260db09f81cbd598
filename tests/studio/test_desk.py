"""The writing room's routes: edits, passages, versions, cards, undo, what reaches the disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from creativewritinggpt.studio.studio import Studio
from tests.studio_page import Page


@pytest.fixture
def page(make_studio: Callable[..., Studio]) -> Page:
    """The page of a new studio."""
    return Page(make_studio())


def test_typing_and_a_passage_are_in_the_file_as_on_the_page(page: Page) -> None:
    page.edit((0, 0, "It rained 🌧️ and"))
    assert page.text == "It rained 🌧️ and"
    job = page.run("continue")
    assert job["state"] == "done"
    assert page.text.startswith("It rained 🌧️ and") and len(page.text) > 30
    assert page.saved() == page.text == page.studio.desk.text
    by = [passage["by"] for passage in page.story["passages"]]
    assert by == ["writer", "model"]


@pytest.mark.parametrize("loaded", [True, False])
def test_while_the_studio_ends_typing_is_kept_and_the_model_answers_503(
    loaded: bool, make_studio: Callable[..., Studio], tiny_writer: Callable[..., Any]
) -> None:
    come = threading.Event()

    def load(name: str) -> Any:
        come.wait(60)
        return tiny_writer()

    page = Page(make_studio() if loaded else make_studio(load, ready=False))
    waiting = None if loaded else page.post("/api/story/continue")["job"]
    page.studio.engine.close(0)
    come.set()
    if waiting is not None:
        assert page.wait(waiting)["message"] == "the studio is closing"
    page.edit((0, 0, "It rained."))
    for command in ("continue", "drafts"):
        error = page.post(f"/api/story/{command}", 503, n=2)["error"]
        assert error["message"] == "the studio is closing"
    assert not page.studio.engine.busy
    assert page.saved() == "It rained."


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
    make_studio: Callable[..., Studio], tiny_writer: Callable[..., Any]
) -> None:
    page = Page(make_studio(tiny_writer()))
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
    make_studio: Callable[..., Studio], tiny_writer: Callable[..., Any]
) -> None:
    page = Page(make_studio(tiny_writer()))
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
