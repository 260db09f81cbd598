"""The page for everyone: the keyboard alone, narrow and enlarged, without motion.

What axe finds in three looks is asked where the rooms and panels are tested:
test_write_browser.py, test_insight_browser.py, test_rooms_browser.py, test_library_browser.py.
"""

from __future__ import annotations

from typing import Any

import pytest
from browser import TEXT, idle, story_box, wait_for, wait_length, wait_saved

pytestmark = pytest.mark.browser
ROOMS = ("Write", "Train", "Judge", "Explain", "Library")

BEYOND = """[...document.querySelectorAll('#rooms > section:not([hidden]) *')]
    .filter((one) => one.getBoundingClientRect().right > innerWidth + 1)
    .map((one) => `${one.tagName} ${one.id} ${one.className}`).slice(0, 8)"""
"""The elements that reach beyond the right edge."""


def show(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name).click()
    page.get_by_role("tabpanel", name=name).wait_for()
    idle(page)


def written(page: Any, running: Any) -> None:
    """A story of own words and the model's."""
    story_box(page).click()
    page.keyboard.type("It was late, and the ferry had gone.")
    page.keyboard.press("Control+Enter")
    wait_length(page, 60)
    idle(page)
    wait_saved(page, running)


@pytest.mark.parametrize(
    ("width", "height"), [(320, 640), (640, 400)], ids=["320-px", "200-percent-of-1280"]
)
def test_narrow_and_enlarged_pages_need_no_sideways_scroll(
    studio: Any, page_of: Any, width: int, height: int
) -> None:
    running = studio()
    page = page_of(running, viewport={"width": width, "height": height})
    written(page, running)
    for room in ROOMS:
        show(page, room)
        wide = page.evaluate(
            "[...document.querySelectorAll('html, #studio, #rooms > section:not([hidden])')]"
            ".map((one) => [one.id || one.tagName, one.scrollWidth - one.clientWidth])"
            ".filter(([name, more]) => more > 1)"
        )
        assert not wide, (room, wide, page.evaluate(BEYOND))
    show(page, "Write")
    assert story_box(page).bounding_box()["width"] > 200
    for name in ("Continue", "Undo"):
        button = page.get_by_role("button", name=name, exact=True)
        button.scroll_into_view_if_needed()  # a row of tools may scroll in itself
        box = button.bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= width


def test_cards_of_long_drafts_are_whole_above_the_tools(studio: Any, page_of: Any) -> None:
    page = page_of(studio(), viewport={"width": 1280, "height": 820})
    page.evaluate("studio.api('PATCH', '/api/settings', {values: {max_new_tokens: 800}})")
    story_box(page).click()
    page.keyboard.type("It was late.")
    page.get_by_role("button", name="Drafts", exact=True).click()
    wait_for(  # until every draft is longer than its card shows
        page,
        "(() => { const all = [...document.querySelectorAll('.card-text')]; "
        "return all.length === 3 && all.every((one) => one.scrollHeight > one.clientHeight) })()",
        40,
    )
    page.get_by_role("button", name="Stop", exact=True).click()
    idle(page)
    sheet = page.locator(".sheet").bounding_box()
    for card in page.get_by_role("listbox", name="Drafts").get_by_role("option").all():
        box, text = card.bounding_box(), card.locator(".card-text").bounding_box()
        assert sheet and box and box["y"] + box["height"] <= sheet["y"] + sheet["height"]
        assert text and text["height"] > 100


def test_a_journey_by_keyboard_alone(studio: Any, page_of: Any) -> None:
    running = studio(delay=0.01)
    page = page_of(running)
    keys = page.keyboard
    for _ in range(12):
        if page.evaluate("document.activeElement?.getAttribute('role') === 'textbox'"):
            break
        keys.press("F6")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Story"
    keys.type("It was late.")
    keys.press("Control+Enter")
    wait_length(page, 30)
    keys.press("Escape")
    idle(page)
    first = wait_saved(page, running)
    keys.press("Control+Shift+Enter")
    idle(page)
    wait_saved(page, running)
    keys.press("Control+z")
    keys.press("Control+z")
    wait_for(page, f"{TEXT}.length <= {len(first)}")
    keys.press("Control+Shift+z")
    idle(page)
    wait_saved(page, running)
    for _ in range(12):  # to the tabs, and to another room and back
        keys.press("F6")
        if page.evaluate("document.activeElement.getAttribute('role') === 'tab'"):
            break
    keys.press("End")
    assert page.get_by_role("tabpanel", name="Library").is_visible()
    keys.press("Home")
    assert page.get_by_role("tabpanel", name="Write").is_visible()
    keys.press("?")
    assert page.get_by_role("dialog", name="Keys").is_visible()
    keys.press("Escape")
    assert page.evaluate("document.activeElement.getAttribute('role') === 'tab'")


def test_a_stream_is_no_live_region_and_the_status_says_what_goes_on(
    studio: Any, page_of: Any
) -> None:
    running = studio(delay=0.02)
    page = page_of(running)
    written_by = story_box(page)
    assert written_by.get_attribute("aria-multiline") == "true"
    written_by.click()
    page.keyboard.type("It was late.")
    page.keyboard.press("Control+Enter")
    wait_length(page, 25)
    assert page.evaluate(
        "!document.querySelector('.cm-content').closest('[aria-live]:not([aria-live=off])')"
    )
    status = page.get_by_role("status").first
    assert status.count() == 1
    page.keyboard.press("Escape")
    idle(page)
    wait_for(page, "[...document.querySelectorAll('[role=status]')].some((o) => o.textContent)")


def test_without_motion_the_text_does_not_run_after_the_writing(studio: Any, page_of: Any) -> None:
    running = studio(delay=0.005)
    page = page_of(running, viewport={"width": 900, "height": 500})
    top = "document.querySelector('.cm-scroller').scrollTop"
    story_box(page).click()
    page.keyboard.insert_text("The lamp.\n" * 60)
    idle(page)
    for motion in ("reduce", "no-preference"):
        page.emulate_media(reduced_motion=motion)
        page.evaluate(f"{top} = 0")
        before = len(wait_saved(page, running))
        page.get_by_role("button", name="Continue", exact=True).click()
        wait_length(page, before + 60)
        if motion == "reduce":
            assert page.evaluate(top) == 0
        else:
            wait_for(page, f"{top} > 200")
        page.get_by_role("button", name="Stop", exact=True).click()
        idle(page)
