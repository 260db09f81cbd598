"""One journey with the real starter: written, looked into, branched, proved."""

from __future__ import annotations

import re
from typing import Any

import pytest
from browser import TEXT, idle, story_box, wait_for, wait_saved

from creativewritinggpt.models.starter import ensure_starter
from creativewritinggpt.story.file import read_story

pytestmark = [pytest.mark.browser, pytest.mark.network, pytest.mark.slow]

WRITE = "studio.rooms.write.write"
OWN = "The lamp at Corrin Head had not failed in forty years. Ada took the lantern and"


def button(page: Any, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


def test_a_writers_journey_with_the_starter(studio: Any, page_of: Any, watch: Any) -> None:
    ensure_starter()
    running = studio("starter")
    page, client = page_of(running), running.client()
    values = {"max_new_tokens": 12, "seed": 7, "weights": "fp32", "temperature": 0.7}
    assert client.patch("/api/settings", json={"values": values}).is_success
    story_box(page).click()
    page.keyboard.type(OWN)
    page.keyboard.press("Control+Enter")
    wait_for(page, f"{TEXT}.length > {len(OWN) + 20}", 60)
    idle(page, 60)
    first = wait_saved(page, running)
    assert len(first.removeprefix(OWN).split()) >= 5

    # Why this word: its rank among all, and what else could have stood there.
    button(page, "Heat").click()
    wait_for(page, f"{WRITE}.insight.heat.store.covers(0, {TEXT}.length)", 60)
    tokens = page.evaluate(f"{WRITE}.insight.heat.store.tokens")
    assert len(tokens) > 25 and all(one["rank"] >= 1 and one["logprob"] <= 0 for one in tokens)
    at = first.index("lantern")
    page.evaluate(f"{WRITE}.view.focus(); {WRITE}.view.dispatch({{selection: {{anchor: {at}}}}})")
    button(page, "Why").click()
    why = page.get_by_role("region", name="Why")
    why.locator(".why-said").wait_for(timeout=60_000)
    assert re.search(r"rank [\d,]+", why.locator(".why-said").inner_text())
    named = [one.split("\n")[0].strip() for one in why.locator(".why-list li").all_inner_texts()]
    assert len(named) >= 3 and all(one in OWN for one in named)

    # An alternative in mid-story is a branch; the old one stays whole.
    page.evaluate(f"{WRITE}.view.focus()")
    page.keyboard.press("ControlOrMeta+.")
    box = page.get_by_role("dialog", name=re.compile("Alternatives of"))
    box.locator("[role=option]:not([aria-disabled=true])").first.click(timeout=60_000)
    wait_for(page, f"{TEXT}.length < {len(OWN)}", 60)
    branched = wait_saved(page, running)
    page.keyboard.press("Control+Enter")
    wait_for(page, f"{TEXT}.length > {len(branched) + 10}", 60)
    idle(page, 60)
    story = read_story(running.story_file)
    assert story.text.startswith(branched) and len(story.state.heads) == 2
    assert first in {story.text_at(head) for head in dict(story.state.heads).values()}

    # What the model wrote can be made again.
    passage = story.path()[-1]
    assert passage.by == "model" and passage.seed == 7
    button(page, "Branches").click()
    button(page, "Verify").click()
    page.get_by_role("status").get_by_text(re.compile("same", re.IGNORECASE)).wait_for(
        timeout=60_000
    )
