"""Drafts best first, by what was taken before; cards that come back; the switch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from studios import story_of_picks

from creativewritinggpt.story.decisions import decisions
from creativewritinggpt.story.file import read_story
from creativewritinggpt.studio.studio import Studio
from creativewritinggpt.taste.ranker import learn
from tests.studio_page import Page


@pytest.fixture
def page(
    make_studio: Callable[..., Studio], tiny_writer: Callable[..., Any], tmp_path: Path
) -> Page:
    """A page of a story with twenty picks."""
    path = story_of_picks(tmp_path / "picks.json", 20)
    made = Page(make_studio(tiny_writer(), story=path))
    made.patch("/api/settings", values={"temperature": 1.5, "top_p": 1})
    return made


def test_drafts_are_ordered_by_what_was_taken(page: Page) -> None:
    job = page.run("drafts", n=4, seed=5)
    texts = [row["text"] for row in job["rows"]]
    assert job["learnt"].startswith("of 20 choices held out in turn")
    story = page.studio.desk.snapshot()
    story.choices = story.choices[:-1]
    assert job["order"] == learn(decisions(story).used).order(texts)
    shown = [job["rows"][row]["passage"] for row in job["order"]]
    assert list(page.studio.desk.story.choices[-1].offered) == shown

    page.post("/api/story/take", job=job["id"], row=job["order"][1])
    page.catch_up()
    last = page.studio.desk.story.choices[-1]
    assert list(last.offered) == shown and last.chosen == shown[1]
    assert page.text.endswith(texts[job["order"][1]])


def test_the_order_can_be_switched_off(page: Page) -> None:
    assert page.patch("/api/settings", best_first=False)["best_first"] is False
    job = page.run("drafts", n=2, seed=5)
    assert job["order"] == [] and job["learnt"] == ""
    assert page.get("/api/state")["settings"]["best_first"] is False
    assert page.studio.memory.get("best_first") is False


def test_few_choices_order_nothing_and_say_so(
    make_studio: Callable[..., Studio], tiny_writer: Callable[..., Any], tmp_path: Path
) -> None:
    page = Page(make_studio(tiny_writer(), story=story_of_picks(tmp_path / "few.json", 3)))
    job = page.run("drafts", n=2, seed=5)
    assert job["order"] == [] and "3 choices are too few" in job["learnt"]


def test_cards_that_wait_for_an_answer_come_back(
    page: Page, make_studio: Callable[..., Studio], tiny_writer: Callable[..., Any]
) -> None:
    job = page.run("drafts", n=3, seed=5)
    offer = page.get("/api/state")["story"]["offer"]
    assert offer == {"job": job["id"], "rows": job["rows"], "order": job["order"]}
    page.saved()
    path, text = page.studio.desk.file.path, page.text
    page.studio.close(5)
    page.studio.close(0)
    assert read_story(path).text == text

    again = Page(make_studio(tiny_writer(), story=path))
    found = again.get("/api/state")["story"]["offer"]
    shown = [job["rows"][row]["text"] for row in job["order"]]
    assert [row["text"] for row in found["rows"]] == shown
    again.edit((len(text), len(text), " And"))
    again.saved()
    again.catch_up()
    assert again.story["offer"] is None  # the story has gone on
    again.post("/api/story/undo")
    again.catch_up()
    found = again.get("/api/state")["story"]["offer"]
    again.post("/api/story/take", job=found["job"], row=1)
    again.catch_up()
    assert again.text == text + shown[1] and again.story["offer"] is None
    last = again.studio.desk.story.choices[-1]
    assert len(last.offered) == 3 and last.chosen == last.offered[1]
