"""The frame of the page in a real browser: opening, tabs, keys, theme, restarts."""

from __future__ import annotations

import re
import signal
from typing import Any

import pytest
from browser import SERVER_GONE, idle, open_page, story_box, wait_length, wait_saved

pytestmark = pytest.mark.browser


def test_write_stream_stop_and_go_on(studio: Any, page_of: Any) -> None:
    running = studio(delay=0.02)
    page = page_of(running)
    assert page.url == f"{running.origin}/"  # the secret is gone from the address
    story_box(page).click()
    page.keyboard.type("It was late.")
    page.get_by_role("button", name="Continue", exact=True).click()
    wait_length(page, 30)
    page.get_by_role("button", name="Stop", exact=True).click()
    idle(page)
    first = wait_saved(page, running)
    assert first.startswith("It was late.") and "lamp" in first
    page.keyboard.press("Control+Enter")
    idle(page)
    second = wait_saved(page, running)
    assert second.startswith(first) and len(second) > len(first)


def test_a_second_start_on_the_port_lets_the_page_go_on(
    studio: Any, page_of: Any, watch: Any
) -> None:
    watch.allow(SERVER_GONE)
    running = studio()
    page = page_of(running)
    story_box(page).click()
    page.keyboard.type("What was written before.")
    wait_saved(page, running)
    running.kill()
    page.get_by_text(re.compile("No connection to the studio")).wait_for()
    running.restart()
    page.get_by_text(re.compile("No connection to the studio")).wait_for(state="detached")
    story_box(page).click()
    page.keyboard.press("Control+End")
    page.keyboard.type(" And after.")
    assert wait_saved(page, running) == "What was written before. And after."


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_ends_it_with_the_story_saved(
    studio: Any, page_of: Any, watch: Any, number: int, code: int
) -> None:
    watch.allow(SERVER_GONE)
    running = studio(delay=0.02)
    page = page_of(running)
    story_box(page).click()
    page.keyboard.type("It was late.")
    page.get_by_role("button", name="Continue", exact=True).click()
    shown = wait_length(page, 30)
    assert running.stop(number) == code
    kept = running.story_text()
    assert kept.startswith(shown[:30]) and len(kept) >= 30
    log = running.log.read_text()
    assert "Traceback" not in log and running.secret not in log


def test_tabs_keys_theme_and_the_list_of_keys(studio: Any, page_of: Any) -> None:
    page = page_of(studio())
    tabs = page.get_by_role("tablist", name="Rooms")
    assert tabs.get_by_role("tab").all_inner_texts() == [
        "Write", "Train", "Judge", "Explain", "Library",
    ]  # fmt: skip
    tabs.get_by_role("tab", name="Write").focus()
    for name in ("Train", "Judge", "Explain", "Library"):
        page.keyboard.press("ArrowRight")
        selected = tabs.get_by_role("tab", selected=True)
        assert selected.inner_text() == name
        assert page.get_by_role("tabpanel", name=name).is_visible()
    page.reload()
    page.get_by_role("tabpanel", name="Library").wait_for()
    page.get_by_role("tab", name="Library").focus()
    page.keyboard.press("?")
    listed = page.get_by_role("dialog", name="Keys")
    assert "Ctrl+Enter" in listed.inner_text() or "F6" in listed.inner_text()
    page.keyboard.press("Escape")
    assert not listed.is_visible()
    button = page.get_by_role("button", name=re.compile("^Theme"))
    for theme in ("light", "dark"):
        button.click()
        assert page.evaluate("document.documentElement.dataset.theme") == theme
    page.reload()
    page.get_by_role("tabpanel", name="Library").wait_for()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_without_the_secret_the_page_asks_for_it(studio: Any, new_context: Any, watch: Any) -> None:
    watch.allow("401")
    running = studio()
    page = new_context().new_page()
    page.goto(running.origin)
    page.get_by_text(re.compile("Open the address")).wait_for()
    page.get_by_role("textbox", name="Key").fill("wrong")
    page.get_by_role("button", name="Open").click()
    page.get_by_text(re.compile("Open the address")).wait_for()
    page.get_by_role("textbox", name="Key").fill(running.url)
    page.get_by_role("button", name="Open").click()
    story_box(page).wait_for()


def test_an_old_browser_is_told_so(studio: Any, new_context: Any, watch: Any) -> None:
    running = studio()
    context = new_context()
    context.add_init_script("delete String.prototype.replaceAll")
    page = open_page(context, running, ready=False)
    page.get_by_text(re.compile("too old for the studio")).wait_for()
    assert not story_box(page).is_visible()


def test_without_scripts_the_page_says_what_it_needs(studio: Any, new_context: Any) -> None:
    page = open_page(new_context(java_script_enabled=False), studio(), ready=False)
    assert page.get_by_text(re.compile("please allow JavaScript")).is_visible()
