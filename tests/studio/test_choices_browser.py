"""Drafts that come back, learning from choices, the first words of a run, voice: in a browser."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from browser import SERVER_GONE, idle, page_text, story_box, wait_for, wait_saved
from studios import story_of_picks

pytestmark = pytest.mark.browser


def test_cards_come_back_until_one_is_taken(studio: Any, page_of: Any, watch: Any) -> None:
    watch.allow(SERVER_GONE)
    running = studio("random")
    page = page_of(running)
    page.evaluate("studio.api('PATCH', '/api/settings', {values: {max_new_tokens: 8}})")
    story_box(page).click()
    page.keyboard.type("It was late.")
    page.get_by_role("button", name="Drafts", exact=True).click()
    idle(page)
    cards = page.get_by_role("listbox", name="Drafts").get_by_role("option")
    words = cards.all_inner_texts()
    assert len(words) == 3
    page.get_by_label("Best first").uncheck()
    page.reload()
    cards.first.wait_for()
    assert cards.all_inner_texts() == words and not page.get_by_label("Best first").is_checked()
    wait_saved(page, running)
    page.close()
    running.restart()
    page = page_of(running)
    cards = page.get_by_role("listbox", name="Drafts").get_by_role("option")
    cards.nth(1).wait_for()
    assert cards.all_inner_texts() == words
    cards.nth(1).dblclick()
    cards.first.wait_for(state="hidden")
    text = wait_saved(page, running)
    assert len(text) > len("It was late.")
    page.reload()
    story_box(page).wait_for()
    page.wait_for_timeout(300)
    assert cards.count() == 0 and page_text(page) == text


def _run(folder: Path, id: str, **fields: Any) -> Path:
    """The record of a training in a studio's folder; its own folder."""
    place = folder / "outputs" / ".studio" / "runs" / id
    place.mkdir(parents=True)
    output = folder / "outputs" / id
    output.mkdir(parents=True)
    record = {
        "format": 1, "id": id, "kind": "train", "name": id, "created": time.time(), "words": [],
        "output": str(output), "about": {"files": ["many.json"], "model": "tiny", "changed": {}},
        "began": time.time(), **fields,
    }  # fmt: skip
    (place / "run.json").write_text(json.dumps(record))
    return place


def test_learning_from_choices_its_first_words_and_what_came_of_it(
    studio: Any, page_of: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "work"
    (folder / "stories").mkdir(parents=True)
    story_of_picks(folder / "stories" / "many.json", 20)
    about = {"files": ["many.json"], "model": "tiny", "changed": {}, "choices": True}
    ended = {"state": "done", "message": "", "advice": None, "seconds": 3.0}
    _run(folder, "learnt", ended=ended, about=about)
    draft = {
        "prompt": "It was late.",
        "seed": 1,
        "before": " It rained on.",
        "after": " It rained.",
    }
    report = {"sentences": ["it is shorter"], "guard": None, "best_step": 2, "drafts": [draft]}
    (folder / "outputs" / "learnt" / "choices_report.json").write_text(json.dumps(report))
    # This process stands for a training that has just begun.
    own = psutil.Process()
    going = _run(folder, "going", pid=os.getpid(), started=own.create_time())
    (going / "log.txt").write_text("reading the texts …\nloading the model tiny …\n")

    ferry = _run(folder, "ferry", kind="export", pid=os.getpid(), started=own.create_time())
    progress = {"event": "progress", "what": "reading back", "done": 3, "total": None}
    (ferry / "output.json").write_text(json.dumps(progress) + "\n")

    page = page_of(studio("random", folder=folder, story="stories/many.json"))
    page.get_by_role("tab", name="Train").click()
    train = page.get_by_role("tabpanel", name="Train")
    train.get_by_text("Loading the model tiny …", exact=True).wait_for()
    train.get_by_text(re.compile(r"\d+ s so far")).wait_for()

    train.get_by_role("button", name="Learn from my choices").click()
    train.get_by_text("20 choices, of which 20 can be used").wait_for()
    train.get_by_text(re.compile("Of 20 choices held out in turn")).wait_for()
    assert train.get_by_role("button", name="Learn from them").is_enabled()
    train.get_by_role("checkbox", name=re.compile("It was late")).uncheck()
    assert train.get_by_role("button", name="Learn from them").is_disabled()

    train.get_by_role("button", name=re.compile("^learnt")).click()
    train.get_by_text("It is shorter.").wait_for()
    assert train.locator(".drafts-pair .sample").all_inner_texts() == [
        "It rained on.",
        "It rained.",
    ]

    page.get_by_role("tab", name="Library").click()
    page.get_by_role("progressbar", name="Progress of ferry").wait_for()  # how much is not known

    page.get_by_role("tab", name="Judge").click()
    judge = page.get_by_role("tabpanel", name="Judge")
    judge.get_by_role("radio", name=re.compile("^voice")).check()
    start = judge.get_by_role("button", name="Start evaluation")
    assert start.is_disabled()  # no author's texts yet
    files = judge.get_by_role("region", name="Voice").locator("input[type=file]")
    files.first.set_input_files({"name": "me.txt", "mimeType": "text/plain", "buffer": b"A tale."})
    judge.get_by_text("me.txt").wait_for()
    wait_for(page, "!document.querySelector('#room-judge button.primary').disabled")


def test_a_story_that_could_not_be_opened_is_said_until_it_is_read(
    studio: Any, page_of: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "tale.json").write_text('{"format": ')
    page = page_of(studio(folder=folder, story="tale.json"))
    notice = page.get_by_role("note").filter(has_text="tale.json is not valid JSON")
    notice.wait_for()
    assert "it stays as it is, and this is a new story" in notice.inner_text()
    notice.get_by_role("button", name="OK").click()
    notice.wait_for(state="hidden")
    page.reload()
    story_box(page).wait_for()
    wait_for(page, "Boolean(globalThis.studio?.rooms.write)")
    assert notice.count() == 0 and (folder / "tale.json").read_text() == '{"format": '
