"""Train, Judge and Explain in a real browser, with a tiny model and real commands."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from browser import (
    SERVER_GONE,
    findings,
    idle,
    open_page,
    story_box,
    wait_for,
    wait_length,
    wait_saved,
)
from corpora import write_stories

pytestmark = pytest.mark.browser
SETTINGS = {"max length": "64", "batch size": "4", "max steps": "12", "eval steps": "4"}


def room(page: Any, name: str) -> Any:
    """Go to a room."""
    page.get_by_role("tab", name=name, exact=True).click()
    return page.get_by_role("tabpanel", name=name, exact=True)


def give_texts(page: Any, train: Any, files: list[Path]) -> None:
    """Choose files, and wait until they are read."""
    train.locator("input[type=file]").set_input_files([str(file) for file in files])
    train.get_by_role("heading", name="What they become").wait_for()
    wait_for(page, "!document.querySelector('#room-train').textContent.includes('Reading …')", 40)


def choose_model(train: Any, folder: Path) -> None:
    """Train a model in a folder."""
    train.get_by_label("Model to train").select_option("other")
    train.get_by_label("Folder or name").fill(str(folder))
    train.get_by_label("Folder or name").press("Tab")


def set_up(train: Any, settings: dict[str, str]) -> None:
    """Open all settings and change some."""
    train.get_by_text("All settings").click()
    for name, value in settings.items():
        box = train.get_by_label(name, exact=True)
        box.fill(value)
        box.press("Tab")


@pytest.mark.long
def test_train_write_with_it_judge_and_explain(
    studio: Any, page_of: Any, watch: Any, random_folder: Path, tmp_path: Path
) -> None:
    texts = write_stories(tmp_path / "my stories.jsonl")
    running = studio("random")
    page = page_of(running)
    copied = " ".join(json.loads(texts.read_text().splitlines()[0])["story"].split()[:10])
    second = " ".join(json.loads(texts.read_text().splitlines()[1])["story"].split()[:10])
    story_box(page).click()
    page.keyboard.type(f"It was late. {copied} And {second} The end.")
    wait_saved(page, running)

    train = room(page, "Train")
    choose_model(train, random_folder)
    give_texts(page, train, [texts])
    train.get_by_text(re.compile("40 documents")).first.wait_for()
    set_up(train, SETTINGS)
    train.get_by_text(re.compile(r"for\s+12 steps and 3 validations")).wait_for(timeout=60_000)
    train.get_by_label("Name of the run").fill("First book")
    train.get_by_role("button", name="Start training").click()
    train.get_by_text(re.compile("^Done")).wait_for(timeout=60_000)
    train.get_by_text(re.compile(r"Step 12 of 12: training loss")).wait_for()
    assert train.locator("figure:visible canvas").count() == 2
    train.get_by_text("The numbers of the curves").click()
    assert train.get_by_role("rowheader").all_inner_texts()[-1].startswith("12")
    assert train.get_by_text("before the training").count() == 1
    train.get_by_label("Logarithmic steps").check()
    train.get_by_role("button", name="Write with it").click()
    wait_for(
        page,
        "fetch('/api/state').then((a) => a.json()).then((s) => s.model.state === 'ready' "
        "&& JSON.stringify(s.model).includes('first-book'))",
        60,
    )

    judge = room(page, "Judge")
    judge.get_by_role("button", name="Originality of the story").click()
    judge.get_by_role("button", name="Search the story").click()
    judge.get_by_text(re.compile("stands? in the training text")).wait_for(timeout=60_000)
    judge.get_by_role("button", name="show in the story").first.click()
    marks = page.locator(".copied-words")
    marks.first.wait_for()
    assert marks.first.inner_text() in (copied, second, copied.rstrip("."), second.rstrip("."))
    story_box(page).press("Control+Home")
    page.keyboard.type("Once. ")
    assert marks.first.inner_text() in (copied, second, copied.rstrip("."), second.rstrip("."))

    judge = room(page, "Judge")
    judge.get_by_role("button", name="Compare trainings").click()
    judge.get_by_role("rowheader", name="First book").wait_for()
    judge.get_by_role("button", name="New evaluation").click()
    judge.get_by_text("All settings").click()
    for name, value in {"window": "64", "texts": "1", "text tokens": "8"}.items():
        judge.get_by_label(name, exact=True).fill(value)
        judge.get_by_label(name, exact=True).press("Tab")
    judge.get_by_label("forgetting words", exact=True).fill("0")
    judge.get_by_label("forgetting words", exact=True).press("Tab")
    judge.get_by_role("button", name="Start evaluation").click()
    judge.get_by_role("heading", name="Perplexity by source").wait_for(timeout=90_000)
    judge.get_by_role("button", name="Full report").click()
    report = judge.frame_locator("iframe")
    report.get_by_role("heading", name="Evaluation").wait_for()
    frame = next(one for one in page.frames if one.url.endswith("/report"))
    # The report has no origin: it reads no cookie, and reaches no route of the studio.
    assert frame.evaluate("origin") == "null"
    watch.allow("(Connecting to|cannot load|connect-src) .*/api/state")
    assert frame.evaluate("fetch('/api/state').then(() => 'read', () => 'refused')") == "refused"

    room(page, "Write")
    story_box(page).press("Control+End")
    page.keyboard.press("Control+Shift+ArrowLeft")
    page.keyboard.press("Control+Shift+ArrowLeft")
    explain = room(page, "Explain")
    explain.get_by_role("button", name="Explain", exact=True).click()
    beside = explain.frame_locator("iframe")
    beside.get_by_role("heading", name="Why these words?").wait_for(timeout=90_000)
    assert explain.locator(".story-text mark").inner_text().strip() != ""


@pytest.mark.long
def test_a_training_outlives_the_page_and_the_studio_and_is_resumed(
    studio: Any, page_of: Any, new_context: Any, watch: Any, random_folder: Path, tmp_path: Path
) -> None:
    watch.allow(SERVER_GONE)
    texts = write_stories(tmp_path / "long.jsonl")
    running = studio("random")
    page = page_of(running)
    train = room(page, "Train")
    choose_model(train, random_folder)
    give_texts(page, train, [texts])
    set_up(train, {**SETTINGS, "max steps": "4000", "eval steps": "20", "patience": "0"})
    train.get_by_role("button", name="Start training").click()
    train.get_by_text(re.compile(r"step [1-9]\d* of 4000")).first.wait_for(timeout=60_000)
    page.reload()
    train.get_by_text(re.compile(r"step [1-9]\d* of 4000")).first.wait_for()

    # The curves and samples are there again and go on, while the story is written beside it.
    step = "fetch('/api/runs').then((a) => a.json()).then((f) => f.runs[0].step)"
    train.locator("figure:visible canvas").first.wait_for()
    train.get_by_role("heading", name="What it writes meanwhile").wait_for()
    seen = page.evaluate(step)
    room(page, "Write")
    story_box(page).click()
    page.keyboard.type("It was late.")
    page.keyboard.press("Control+Enter")
    wait_length(page, len("It was late.") + 4)
    page.keyboard.press("Escape")
    idle(page)
    assert wait_saved(page, running).startswith("It was late.")
    train = room(page, "Train")
    wait_for(page, f"{step}.then((now) => now > {seen})", 60)
    train.get_by_text("The numbers of the curves").click()
    rows = train.get_by_role("rowheader")
    validated = rows.count()
    wait_for(page, f"document.querySelectorAll('#room-train tbody th').length > {validated}", 60)
    assert len(set(rows.all_inner_texts())) == rows.count() > validated

    running.kill()
    running.restart()
    page = open_page(new_context(), running)
    train = room(page, "Train")
    train.get_by_text(re.compile(r"step [1-9]\d* of 4000")).first.wait_for()
    train.get_by_role("button", name="Stop", exact=True).click()
    train.get_by_text(re.compile("^Stopped")).wait_for(timeout=30_000)
    before = train.get_by_text(re.compile(r"^Step [\d,]+ of 4,000")).inner_text()
    train.get_by_role("button", name="Resume").click()
    train.get_by_text(re.compile("^Running")).wait_for()
    wait_for(
        page,
        "fetch('/api/runs').then((a) => a.json()).then((f) => f.runs[0].state === 'running' "
        f"&& f.runs[0].step > {re.sub('[^0-9]', '', before.split(' of ')[0])})",
        60,
    )
    train.get_by_role("button", name="Stop", exact=True).click()
    train.get_by_text(re.compile("^Stopped")).wait_for(timeout=30_000)
    assert running.stop(signal.SIGTERM) == 0


def test_what_cannot_be_read_is_said_with_a_way_out(
    studio: Any, page_of: Any, tmp_path: Path
) -> None:
    (tmp_path / "nothing.txt").write_text(" \n ")
    (tmp_path / "<img src=x onerror=alert(1)>.txt").write_text("A story of a lamp. " * 40)
    page = page_of(studio())
    train = room(page, "Train")
    assert train.get_by_role("button", name="Start training").is_disabled()
    train.get_by_role("radio", name=re.compile("^gpt2")).check()
    assert train.get_by_label("Folder or name").input_value() == "gpt2"
    train.get_by_role("radio", name=re.compile("^starter")).check()
    assert train.get_by_label("Folder or name").count() == 0
    give_texts(page, train, [tmp_path / "nothing.txt"])
    alert = train.get_by_role("alert")
    alert.get_by_text(re.compile("holds no text")).wait_for()
    alert.get_by_role("button", name="Show the log").click()
    page.get_by_role("dialog", name=re.compile("Log of")).get_by_text("error:").wait_for()
    page.get_by_role("button", name="Close").last.click()
    train.get_by_role("button", name="Remove nothing.txt").click()
    give_texts(page, train, [tmp_path / "<img src=x onerror=alert(1)>.txt"])
    train.get_by_text(re.compile("1 document")).first.wait_for()
    explain = room(page, "Explain")
    explain.get_by_text("Mark some words of the story first").wait_for()
    judge = room(page, "Judge")
    judge.get_by_role("button", name="Originality of the story").click()
    judge.get_by_text(re.compile("No model was trained here yet")).wait_for()


def test_no_serious_finding_and_no_sideways_scrolling(studio: Any, page_of: Any) -> None:
    page = page_of(studio(), viewport={"width": 320, "height": 700})
    found = []
    for name in ("Train", "Judge", "Explain"):
        shown = room(page, name)
        shown.get_by_role("heading").first.wait_for()
        idle(page)
        for summary in shown.locator("summary:visible").all():
            summary.click()
        found += findings(page, name)
        assert shown.evaluate("(e) => e.scrollWidth <= e.clientWidth"), name
    assert not found, "\n".join(found)
