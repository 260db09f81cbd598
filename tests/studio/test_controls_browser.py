"""Style dial and blends, the goal of the day, and a story that a terminal session holds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from browser import TEXT, idle, page_text, story_box, wait_for, wait_length, wait_saved

from creativewritinggpt.config.fields import MachineSettings
from creativewritinggpt.generation import engine
from creativewritinggpt.generation.decoder import Request
from creativewritinggpt.generation.style import blend
from creativewritinggpt.models.loading import load_from_settings
from creativewritinggpt.story.context import story_view
from creativewritinggpt.story.file import StoryFile, read_story
from creativewritinggpt.story.tree import Story
from creativewritinggpt.studio.preferences import Memory, Settings

pytestmark = pytest.mark.browser

OWN = "It was late, and the ferry had gone."
MODEL = "studio.state.get().model"


def panel(page: Any, name: str) -> Any:
    """An opened panel."""
    page.get_by_role("navigation", name="Panels").get_by_role(
        "button", name=name, exact=True
    ).click()
    return page.get_by_role("region", name=name, exact=True)


def test_the_style_dial_and_a_blend_write_what_the_terminal_would(
    studio: Any, page_of: Any, adapters: tuple[Path, Path], tmp_path: Path, monkeypatch: Any
) -> None:
    folder = tmp_path / "books"
    for name, adapter in zip(("one", "two"), adapters, strict=True):
        shutil.copytree(adapter, folder / "outputs" / name)
    running = studio("outputs/one", folder=folder)
    page = page_of(running)
    values = {"max_new_tokens": 10, "seed": 11}
    assert running.client().patch("/api/settings", json={"values": values}).is_success
    story_box(page).click()
    page.keyboard.type(OWN)
    wait_saved(page, running)
    monkeypatch.chdir(folder)
    model = load_from_settings("outputs/one", MachineSettings(device="cpu", precision="fp32"))
    view = story_view(model, read_story(running.story_file))
    settings = Settings(Memory(folder / "stories" / ".studio.json")).values

    def written() -> str:
        """What the page's model writes; its record and the terminal's text are the same."""
        story_box(page).focus()
        page.keyboard.press("Control+End")
        page.keyboard.press("Control+Enter")
        wait_length(page, len(OWN))
        idle(page)
        text = wait_saved(page, running)
        weights = page.evaluate(f"{MODEL}.adapters")
        assert dict(read_story(running.story_file).path()[-1].setup.adapters) == weights
        blend(model, list(weights.items()))
        request = Request(view.prompt, 11, view.memory, view.note)
        [found] = engine.write_all(model, [request], settings)
        assert text == OWN + found.text.rstrip("\ufffd")
        page.keyboard.press("Control+z")
        wait_for(page, f"{TEXT} === {OWN!r}")
        return text

    texts = [written()]
    box = panel(page, "Settings")
    dial = box.get_by_role("spinbutton", name="Style", exact=True)
    dial.fill("0")
    dial.press("Enter")
    wait_for(page, f"Object.values({MODEL}.adapters).every((one) => one === 0)")
    texts.append(written())

    box.get_by_role("button", name="Choose …").click()
    dialog = page.get_by_role("dialog", name="Choose a model")
    dialog.get_by_label("Model", exact=True).select_option(label="outputs/two – adapter")
    dialog.get_by_role("button", name="Blend it in").click()
    wait_for(page, f"Object.keys({MODEL}.adapters).length === 2")
    second = box.get_by_role("spinbutton", name="Blend: outputs/two")
    second.fill("0.5")
    second.press("Enter")
    wait_for(page, f"JSON.stringify(Object.values({MODEL}.adapters)) === '[0,0.5]'")
    texts.append(written())
    assert len(set(texts)) == 3


def test_the_goal_of_the_day_is_set_counted_and_kept(studio: Any, page_of: Any) -> None:
    page = page_of(studio())
    count = page.locator("button.count")
    story_box(page).click()
    page.keyboard.type("Two words")
    count.click()
    dialog = page.get_by_role("dialog", name="Goal of the day")
    dialog.get_by_role("spinbutton", name="Words a day").fill("5")
    dialog.get_by_role("button", name="Set").click()
    count.get_by_text("2 of 5 today").wait_for()
    assert "reached" not in count.get_attribute("class")
    page.keyboard.type(" and three more.")
    count.get_by_text("5 of 5 today").wait_for()
    assert "reached" in count.get_attribute("class")
    page.reload()
    count.get_by_text("5 words · 5 of 5 today").wait_for()


def test_a_story_that_a_terminal_session_holds_is_read_until_it_is_free(
    studio: Any, page_of: Any, watch: Any, tmp_path: Path
) -> None:
    watch.allow("status of 409")
    folder = tmp_path / "held"
    folder.mkdir()
    held = StoryFile(folder / "lighthouse.json")
    held.open()
    story = Story()
    story.write(OWN)
    held.save(story)
    before = (folder / "lighthouse.json").read_bytes()
    running = studio(folder=folder)
    page = page_of(running)
    note = page.get_by_role("note")
    note.get_by_text("another session").wait_for()
    assert page_text(page) == OWN and story_box(page).get_attribute("aria-readonly") == "true"
    story_box(page).click()
    page.keyboard.type("Mine.")
    page.keyboard.press("Control+z")
    for name in ("Continue", "Undo"):
        button = page.get_by_role("button", name=name, exact=True)
        if button.is_enabled():
            button.click()
            page.get_by_role("status").get_by_text("another session").wait_for()
    idle(page)
    assert page_text(page) == OWN and (folder / "lighthouse.json").read_bytes() == before
    page.get_by_role("button", name="Open to write").click()
    page.get_by_role("status").get_by_text("another session").wait_for()
    held.save(story)  # the terminal's file is still its own
    held.close()

    page.get_by_role("button", name="Open to write").click()
    note.wait_for(state="hidden")
    story_box(page).click()
    page.keyboard.press("Control+End")
    page.keyboard.type(" Mine.")
    assert wait_saved(page, running) == f"{OWN} Mine."
