"""Walks of commands: the text of the page is that of the story and of its file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from creativewritinggpt.story.file import read_story
from creativewritinggpt.studio.studio import Studio
from tests.studio_page import Page

TEXT = st.text("ab .\n🌧é\u0301\r", max_size=12)
SHARE = st.floats(0, 1)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("edit"), SHARE, st.integers(0, 30), TEXT),
        st.tuples(st.just("two edits"), SHARE, SHARE, TEXT),
        st.tuples(
            st.sampled_from(
                ["continue", "version", "drafts", "take", "undo", "redo", "branch", "goto", "set",
                 "chapter", "stop", "wait", "replace", "continue here", "set aside"]
            ), SHARE, SHARE, TEXT,
        ),
    ),
    min_size=1, max_size=14,
)  # fmt: skip


def _place(text: str, share: float) -> int:
    return len(text[: int(share * len(text))].encode("utf-16-le")) // 2


def _step(page: Page, step: tuple[Any, ...], jobs: list[str]) -> None:
    """One command, as a page sends it; one that has no sense here may be refused."""
    kind, one, other, text = step
    page.catch_up()
    shown = page.text
    path, body = f"/api/story/{kind}", dict[str, Any]()
    if kind in ("edit", "two edits"):
        first = _place(shown, one)
        if kind == "edit":
            stop = first + len(shown[int(one * len(shown)) :][:other].encode("utf-16-le")) // 2
            changes = [[first, stop, text]]
        else:
            changes = [[place, place, text] for place in sorted((first, _place(shown, other)))]
        path = "/api/story/edit"
        body = {"revision": page.revision, "n": page.n, "changes": changes}
    elif kind == "drafts":
        body = {"n": 2}
    elif kind == "take":
        body = {"job": jobs[-1] if jobs else "", "row": int(one > 0.5)}
    elif kind == "goto":
        branches = page.story["branches"]
        body = {"branch": branches[int(one * (len(branches) - 1))]["name"]}
    elif kind == "set aside":
        aside = page.get("/api/story/tree")["passages"]
        path = "/api/story/goto"
        body = {"passage": aside[int(one * (len(aside) - 1))]["id"] if aside else -1}
    elif kind == "set":
        body = {("memory", "note", "title")[int(one * 2)]: text}
    elif kind == "chapter":
        body = {"title": text, "at": _place(shown, one)}
    elif kind == "replace":
        place = int(one * len(shown))
        body = {"from": _place(shown, one), "text": "taken",
                "to": len(shown[: place + 1].encode("utf-16-le")) // 2}  # fmt: skip
    elif kind == "continue here":
        path, body = "/api/story/continue", {"at": _place(shown, one)}
    elif kind == "wait":
        time.sleep(0.02 * one)
        return
    elif kind == "stop":
        for job in page.get("/api/jobs")["jobs"]:
            page.client.delete(f"/api/jobs/{job['id']}")
        return
    answer = page.client.post(path, json={"tab": page.tab, **body})
    assert answer.status_code in (200, 400), answer.text
    if kind == "drafts" and answer.status_code == 200:
        jobs.append(answer.json()["job"])
        if other > 0.3:
            page.wait(jobs[-1])


def test_text_on_the_page_is_text_of_the_story_after_every_step(
    make_studio: Callable[..., Studio], tiny_writer: Callable[..., Any]
) -> None:
    made = make_studio(tiny_writer())
    made.settings.change({"temperature": 1.3, "max_new_tokens": 20})

    @given(STEPS)
    @settings(
        max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
    )
    def walk(steps: list[tuple[Any, ...]]) -> None:
        made.desk.new()
        page, jobs = Page(made), list[str]()
        for step in steps:
            _step(page, step, jobs)
            page.catch_up()
            with made.desk.lock:
                page.catch_up()
                assert page.text == made.desk.text
                if made.desk.writing is None:
                    assert page.text == made.desk.story.text
        made.desk.stop_writing()
        page.catch_up()
        assert page.text == made.desk.text == made.desk.story.text == page.saved()
        made.desk.outline_changed()
        fresh = page.get("/api/state")["story"]
        page.catch_up()
        assert fresh["revision"] == page.revision
        for name in ("passages", "words", "undo", "redo", "branches", "title"):
            assert fresh[name] == page.story.get(name, fresh[name]), name
        lengths = [one["to"] - one["from"] for one in fresh["passages"]]
        assert sum(lengths) == len(page.text.encode("utf-16-le")) // 2
        if made.desk.file.path.exists():
            assert read_story(made.desk.file.path).passages == made.desk.story.passages
        while page.post("/api/story/undo")["done"]:
            pass
        page.catch_up()
        assert page.text == "" == page.saved()

    walk()


def test_a_new_page_and_one_that_followed_show_the_same(make_studio: Callable[..., Studio]) -> None:
    made = make_studio()
    page, other = Page(made), Page(made, "two")
    made.settings.change({"max_new_tokens": 300})
    page.edit((0, 0, "So"))
    page.post("/api/story/continue")
    time.sleep(0.1)
    late = Page(made, "three")
    page.post("/api/story/edit", revision=page.revision, n=page.n, changes=[[0, 0, "x"]])
    for one in (page, other, late):
        one.catch_up()
    assert page.text == other.text == late.text == made.desk.text
    assert page.text.startswith("xSo")


def test_events_are_replayed_from_a_number_on(make_studio: Callable[..., Studio]) -> None:
    made = make_studio()
    page = Page(made)
    page.edit((0, 0, "It rained."))
    seen, epoch = page.n - 2, made.events.epoch
    page.run("continue")
    with page.client.websocket_connect(f"/api/events?since={seen}&epoch={epoch}&tab=one") as socket:
        hello = socket.receive_json()
        assert hello["reset"] is False and hello["epoch"] == epoch
        got: list[Any] = []
        while not got or got[-1]["n"] < hello["n"]:
            got += socket.receive_json()
        assert [event["n"] for event in got] == list(range(seen + 1, got[-1]["n"] + 1))
        made.note("still there?")
        assert any("still there?" in json.dumps(event) for event in socket.receive_json())
    for query in ("since=1&epoch=other", f"since=999999&epoch={epoch}", "since=x"):
        with page.client.websocket_connect(f"/api/events?{query}&tab=one") as socket:
            assert socket.receive_json()["reset"] is True


def test_one_tab_writes_and_the_others_follow(make_studio: Callable[..., Studio]) -> None:
    made = make_studio()
    page, other = Page(made), Page(made, "two")
    with page.client.websocket_connect("/api/events?tab=one") as socket:
        assert socket.receive_json()["writer"] == "one"
        page.edit((0, 0, "mine"))
        other.catch_up()
        refused = other.edit((0, 4, "yours"), status=409)
        assert refused["error"]["kind"] == "other_tab" and other.text == "mine"
        other.post("/api/tabs/write")
        other.edit((0, 4, "yours"))
        assert page.edit((0, 0, "no"), status=409)["error"]["kind"] == "other_tab"
        assert page.text == other.text == "yours"
