"""Seeing why, in a browser: heat, alternatives, why and compare, against the terminal."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path
from typing import Any

import browser as browsers
import pytest

from creativewritinggpt.analysis.why import why
from creativewritinggpt.config.fields import MachineSettings
from creativewritinggpt.generation import engine
from creativewritinggpt.generation.decoder import Request
from creativewritinggpt.models.loading import load_from_settings
from creativewritinggpt.story.context import passage_tokens, story_view
from creativewritinggpt.story.file import read_story
from creativewritinggpt.studio.preferences import Memory, Settings

pytestmark = pytest.mark.browser

TEXT = (
    "The lamp went out, and the captain laughed at the sea. Nobody spoke. "
    "Then the mate lit a lantern and the crew came back to the ropes."
)
VIEW = "studio.rooms.write.write.view"


def _loaded(folder: Path) -> Any:
    return load_from_settings(str(folder), MachineSettings(device="cpu", precision="fp32"))


def _type(page: Any, studio: Any, text: str = TEXT) -> None:
    browsers.story_box(page).click()
    page.keyboard.insert_text(text)
    assert browsers.wait_saved(page, studio) == text


def _until(page: Any, condition: str, seconds: float = 20.0) -> None:
    """Wait for a condition; the page's policy lets no string be evaluated in it."""
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(50)


def _place(page: Any, word: str) -> int:
    return int(page.evaluate(f"{VIEW}.state.sliceDoc().indexOf({word!r})"))


def _put_caret(page: Any, word: str) -> None:
    at = _place(page, word)
    page.evaluate(f"{VIEW}.focus(); {VIEW}.dispatch({{selection: {{anchor: {at}}}}})")


def _click_word(page: Any, word: str) -> None:
    at = _place(page, word) + len(word) // 2
    x, y = page.evaluate(
        f"(() => {{const c = {VIEW}.coordsAtPos({at}); return [c.left, (c.top + c.bottom) / 2]}})()"
    )
    page.mouse.click(x, y)


def _turn_heat_on(page: Any) -> None:
    page.get_by_role("button", name="Heat", exact=True).click()
    _wait_fresh(page)


def _wait_fresh(page: Any) -> None:
    """Wait until all words have figures and none is old."""
    _until(
        page,
        f"studio.rooms.write.write.insight.heat.store.covers(0, {VIEW}.state.doc.length) && "
        "document.querySelector('.cm-content .heat')",
    )


def _box(page: Any) -> Any:
    box = page.get_by_role("dialog", name=re.compile("Alternatives of"))
    box.get_by_role("option").first.wait_for()
    return box


def _focus(page: Any) -> str:
    return str(page.evaluate("document.activeElement.getAttribute('role')"))


def test_heat_and_an_alternative_in_mid_story(
    studio: Any, page_of: Any, random_folder: Path
) -> None:
    one = studio("random")
    page = page_of(one)
    _type(page, one)
    _turn_heat_on(page)

    # The figures are those of the terminal's /probs and /heat.
    model, story = _loaded(random_folder), read_story(one.story_file)
    tokens = [t for passage in story.path() for t in passage_tokens(model, story, passage, 1)]
    shown = page.evaluate("studio.rooms.write.write.insight.heat.store.tokens")
    assert [figure["rank"] for figure in shown] == [token.rank for token in tokens]
    for figure, token in zip(shown, tokens, strict=True):
        assert figure["logprob"] == pytest.approx(token.logprob, abs=1e-3)

    # After an edit, nothing behind it is shown as fresh; then it is read again.
    _put_caret(page, "captain")
    page.keyboard.type("old ")
    at = _place(page, "old captain")
    fresh, old = page.evaluate(
        "(() => {const marks = [...document.querySelectorAll('.cm-content .heat')];"
        "const is = (one) => one.classList.contains('heat-old');"
        f"return [marks.filter((one) => !is(one)).map((one) => {VIEW}.posAtDOM(one)),"
        "marks.filter(is).length]})()"
    )
    assert old > 5 and all(place < at for place in fresh)
    _wait_fresh(page)
    _until(page, "!document.querySelectorAll('.cm-content .heat-old').length")
    text = TEXT.replace("captain", "old captain")
    assert browsers.wait_saved(page, one) == text

    # Memory stands before every word: a change of it greys them all, and they are read again.
    assert one.client().post("/api/story/set", json={"memory": "A tale of the sea."}).is_success
    _until(page, "document.querySelectorAll('.cm-content .heat-old').length > 5")
    _wait_fresh(page)

    # A click on a word leaves the focus in the text; an alternative is a branch.
    _click_word(page, "laughed")
    box = _box(page)
    assert _focus(page) == "textbox"
    page.keyboard.press("Escape")
    box.wait_for(state="hidden")
    # The pop-up stands beside its word and hides no other part of the page, however low it is.
    for height in (900, 520):
        page.set_viewport_size({"width": 1000, "height": height})
        _click_word(page, "laughed")
        area = _box(page).bounding_box()
        word = page.evaluate(f"{VIEW}.coordsAtPos({_place(page, 'laughed')})")
        top = page.evaluate("document.querySelector('.cm-scroller').getBoundingClientRect().top")
        assert top <= area["y"] and area["y"] + area["height"] <= height
        assert area["y"] >= word["bottom"] or area["y"] + area["height"] <= word["top"]
    box = _box(page)
    before = read_story(one.story_file)
    option = box.locator("[role=option]:not([aria-disabled=true])").first
    taken = page.evaluate("studio.rooms.write.write.insight.token.shown()")
    option.click()
    box.wait_for(state="hidden")
    assert _focus(page) == "textbox"
    _until(page, f"{VIEW}.state.sliceDoc() !== {text!r}")
    new = browsers.wait_saved(page, one)
    start, takes = taken["from"], taken["takes"]
    assert new == text[:start] + takes
    story = read_story(one.story_file)
    assert story.state.branch != before.state.branch
    assert story.text_at(dict(story.state.heads)[before.state.branch]) == text
    page.get_by_role("button", name="Undo", exact=True).click()
    _until(page, f"{VIEW}.state.sliceDoc() === {text!r}")


def test_heat_and_alternatives_by_keyboard_alone(studio: Any, page_of: Any) -> None:
    one = studio("random")
    page = page_of(one)
    _type(page, one)
    page.get_by_role("button", name="Heat", exact=True).focus()
    page.keyboard.press("Enter")
    _wait_fresh(page)
    # One tab stop, whose arrows go from word to word.
    slider = page.get_by_role("slider", name="Figures")
    for _ in range(60):
        page.keyboard.press("Tab")
        if slider.evaluate("(it) => it === document.activeElement"):
            break
    assert slider.evaluate("(it) => it === document.activeElement")
    page.keyboard.press("Home")
    for word in TEXT.split()[:6]:
        said = slider.get_attribute("aria-valuetext")
        pattern = rf"{re.escape(word)}, (less than )?[\d.]+ percent, rank [\d,]+"
        assert re.fullmatch(pattern, said), said
        assert re.search(pattern, slider.aria_snapshot())
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    box = _box(page)
    assert _focus(page) == "listbox"
    pattern = r'option "[^"]+, (less than )?[\d.]+ percent[^"]*" \[selected\]'
    assert re.search(pattern, box.aria_snapshot())
    page.keyboard.press("Escape")
    box.wait_for(state="hidden")
    assert slider.evaluate("(it) => it === document.activeElement"), "the focus returns"

    # At the caret: beside it, down, taken.
    _put_caret(page, "lit")
    page.keyboard.press("ControlOrMeta+.")
    box = _box(page)
    first = box.get_attribute("aria-label")
    page.keyboard.press("ArrowRight")
    _until(
        page,
        f"document.querySelector('.token-box').getAttribute('aria-label') !== {first!r} && "
        "document.querySelector('.token-box [role=option]')",
    )
    page.keyboard.press("Home")
    for _ in range(12):
        if box.locator("[aria-selected=true]").get_attribute("aria-disabled") == "false":
            break
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    box.wait_for(state="hidden")
    assert _focus(page) == "textbox"
    _until(page, f"{VIEW}.state.sliceDoc() !== {TEXT!r}")
    assert "branch of its own" in page.locator("#status").inner_text()
    assert browsers.wait_saved(page, one).startswith(TEXT[: TEXT.index("lit")])


def test_why_and_compare_are_those_of_the_terminal(
    studio: Any, page_of: Any, tuned_folder: Path
) -> None:
    one = studio(tuned_folder)
    page = page_of(one)
    client = one.client()
    assert client.patch("/api/settings", json={"values": {"max_new_tokens": 12}}).is_success
    _type(page, one)
    model, story = _loaded(tuned_folder), read_story(one.story_file)
    view = story_view(model, story)

    _put_caret(page, "lantern")
    page.get_by_role("button", name="Why", exact=True).click()
    panel = page.get_by_role("region", name="Why")
    panel.locator(".why-said").wait_for(timeout=40_000)
    lines = why(model, view.view, "lantern").splitlines()
    expected = [
        pair
        for line in lines
        if line.startswith(("for it", "against it"))
        for pair in re.findall(r"(\S+) ([+-][\d.]+)", line.partition(": ")[2])
    ]
    rows = [item.inner_text().split("\n") for item in panel.locator(".why-list li").all()]
    shown = [(row[0].strip(), row[-1].strip().replace("−", "-")) for row in rows]
    assert expected and shown == expected
    percent = float(re.search(r"probability of ([\d.]+)%", lines[0])[1])
    rank = re.search(r"rank (\d+)", lines[0])[1]
    said = panel.locator(".why-said").inner_text()
    assert f"rank {rank}" in said and (f"{percent:g} %" in said or f"{percent:.0f} %" in said)
    assert page.locator(".cm-content .why").count() and "How far to trust it" in panel.inner_text()

    # Heat of what training changed: of the same tokens, by the model with and without its adapter.
    page.get_by_role("button", name="Heat", exact=True).click()
    heat = page.get_by_role("region", name="Heat")
    heat.get_by_label("Show").select_option("difference")
    _until(
        page,
        "(() => {const all = studio.rooms.write.write.insight.heat.store.tokens;"
        "return all.length && all.every((one) => one.base !== null)})()",
    )
    figures = page.evaluate("studio.rooms.write.write.insight.heat.store.tokens")
    [passage] = story.path()
    tuned = passage_tokens(model, story, passage, 1)
    with model.base():
        base = passage_tokens(model, story, passage, 1)
    for figure, token, other in zip(figures, tuned, base, strict=True):
        assert figure["logprob"] == pytest.approx(token.logprob, abs=1e-3)
        assert figure["base"] == pytest.approx(other.logprob, abs=1e-3)
    assert any(math.fabs(f["logprob"] - f["base"]) > 0.1 for f in figures)
    page.get_by_role("button", name="Heat", exact=True).click()

    # Both sides with one seed, as /compare writes them.
    page.get_by_role("button", name="Compare", exact=True).click()
    panel = page.get_by_role("region", name="Compare")
    panel.get_by_label("Seed").fill("11")
    panel.get_by_role("button", name="Write both").click()
    _until(
        page,
        "(() => {const all = [...document.querySelectorAll('.compare-sides button')];"
        "return all.length === 2 && all.every((one) => !one.disabled)})()",
    )
    settings = Settings(Memory(one.folder / "stories" / ".studio.json")).values
    requests = [Request(view.prompt, 11, view.memory, view.note)]
    with model.base():
        [base_text] = engine.write_all(model, requests, settings)
    [tuned_text] = engine.write_all(model, requests, settings)
    wanted = [found.text.rstrip("\ufffd") for found in (base_text, tuned_text)]
    assert wanted[0] != wanted[1]
    cards = page.locator("section.sheet")
    sides = [side.inner_text() for side in cards.locator(".compare-text").all()]
    assert [side.split() for side in sides] == [text.split() for text in wanted]
    assert "Both with seed 11" in cards.inner_text()
    taking = cards.get_by_role("article", name="tuned").get_by_role("button")
    taking.click()
    _until(page, f"{VIEW}.state.doc.length > {len(TEXT)}")
    assert browsers.wait_saved(page, one) == TEXT + wanted[1]
    texts = [passage.text for passage in read_story(one.story_file).passages]
    assert wanted[0] in texts, "the other one stays in the tree"


def test_every_panel_is_accessible(studio: Any, page_of: Any) -> None:
    one = studio("random")
    page = page_of(one, viewport={"width": 1100, "height": 700})
    _type(page, one)
    _turn_heat_on(page)
    found = browsers.findings(page, "heat")
    _put_caret(page, "crew")
    page.keyboard.press("ControlOrMeta+.")
    _box(page)
    found += browsers.findings(page, "alternatives")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Why", exact=True).click()
    page.locator(".why-said").wait_for(timeout=40_000)
    found += browsers.findings(page, "why")
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_role("region", name="Compare").wait_for()
    found += browsers.findings(page, "compare")
    assert not found, "\n".join(found)
