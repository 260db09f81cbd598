"""What the studio claims that other tools for writers do not have: each claim has its tests.

Below are the tests of each claim; those in other files are named with their file.

1. Why a word: attribution with a figure of how far to trust it, in the writing page.
   - test_insight_browser.py::test_why_and_compare_are_those_of_the_terminal
2. Base against tuned: one seed side by side, and a heat of the difference per token.
   - test_insight_browser.py::test_why_and_compare_are_those_of_the_terminal
   - test_figures.py::test_a_base_models_figures_are_read_without_the_adapter_between_other_work
3. Heat, ranks and alternatives of the writer's own words, and again after an edit.
   - test_insight_browser.py::test_heat_and_an_alternative_in_mid_story
   - test_figures.py::test_only_what_an_edit_made_is_read_again
4. An alternative that is taken never destroys: a branch, with own text behind it too.
   - test_insight_browser.py::test_heat_and_an_alternative_in_mid_story
5. What each sampler took away at a token, by name.
   - test_claims_browser.py::test_the_samplers_that_took_words_away_are_named
   - test_insight.py::test_a_token_with_its_alternatives_and_what_the_samplers_took
6. Every passage can be made again from its record, with a button that proves it.
   - test_write_browser.py::test_a_passage_is_proved_to_be_made_again_equal
   - test_desk.py::test_a_passage_is_made_again_from_its_record
7. One undo line over text, generations, memory, note, lore, title, branches.
   - test_claims_browser.py::test_one_undo_line_goes_over_all_that_a_story_has
8. A generation owned by the server: reload, crash, second tab or sleep lose nothing.
   - test_claims_browser.py::test_a_passage_outlives_sleep_and_its_tab_and_is_replayed
   - test_write_browser.py::test_a_reload_in_mid_stream_shows_all_text_and_goes_on
   - test_write_browser.py::test_what_was_typed_before_the_tab_crashed_is_put_back
   - test_write_browser.py::test_a_second_tab_follows_and_writes_only_when_told
   - test_desk_walk.py::test_events_are_replayed_from_a_number_on
9. Training with live curves and samples that survive a reload, beside the writing.
   - test_rooms_browser.py::test_a_training_outlives_the_page_and_the_studio_and_is_resumed
10. A heat map with one tab stop, spoken probabilities, no meaning by colour alone.
   - test_insight_browser.py::test_heat_and_alternatives_by_keyboard_alone
   - test_insight_browser.py::test_every_panel_is_accessible
11. Strict policy, a list of allowed hosts, no request to the outside.
   - test_studio_security.py::test_every_answer_has_the_policy_and_the_page_a_nonce_of_its_own
   - test_studio_security.py::test_only_names_of_loopback_with_its_port_are_answered
   - test_security_browser.py::test_a_foreign_page_and_a_rebound_name_get_nothing
   - test_watch_browser.py::test_each_deed_that_a_page_must_not_do_fails_its_test

Journeys and properties of the page, and where each is shown:

12. Write, stream, stop, go on; Esc within one token.
   - test_shell_browser.py::test_write_stream_stop_and_go_on
   - test_write_browser.py::test_escape_stops_within_one_token
13. Two tabs, one of which makes the other's edit stale: nothing is lost.
   - test_write_browser.py::test_a_text_changed_elsewhere_shows_both_versions_and_both_can_stay
14. A kill at any moment and a restart: the page goes on, the story is whole.
   - test_shell_browser.py::test_a_second_start_on_the_port_lets_the_page_go_on
   - test_write_browser.py::test_what_a_dead_studio_did_not_get_is_there_after_its_restart
   - test_desk_files.py::test_the_file_is_whole_after_a_kill_at_any_moment
15. The text of the page is the studio's and the file's after every step, emoji included.
   - test_walk_browser.py::test_page_studio_and_file_have_one_text_after_every_step
   - test_desk_walk.py::test_text_on_the_page_is_text_of_the_story_after_every_step
16. What was streamed is the passage.
   - test_write_browser.py::test_escape_stops_within_one_token
   - test_desk_walk.py::test_a_new_page_and_one_that_followed_show_the_same
17. After an edit heat is read again, and old figures are grey until then.
   - test_insight_browser.py::test_heat_and_an_alternative_in_mid_story
18. Stories of mikupad and KoboldAI come in; Word and EPUB go out and open.
   - test_library_browser.py::test_stories_of_other_programs_come_in_are_written_on_and_go_out
19. Style dial and blends write what the terminal would; the goal of the day.
   - test_controls_browser.py::test_the_style_dial_and_a_blend_write_what_the_terminal_would
   - test_controls_browser.py::test_the_goal_of_the_day_is_set_counted_and_kept
20. A story that a terminal session holds is read, and left as it is.
   - test_controls_browser.py::test_a_story_that_a_terminal_session_holds_is_read_until_it_is_free
21. No serious finding of axe in light, dark and forced colours, in any room and panel.
   - test_write_browser.py::test_no_serious_finding_of_axe_in_any_panel
   - test_insight_browser.py::test_every_panel_is_accessible
   - test_rooms_browser.py::test_no_serious_finding_and_no_sideways_scrolling
   - test_library_browser.py::test_the_library_is_accessible_and_fits_320_pixels
22. By keyboard alone; at 320 pixels and 200 % zoom; without motion.
   - test_access_browser.py::test_a_journey_by_keyboard_alone
   - test_insight_browser.py::test_heat_and_alternatives_by_keyboard_alone
   - test_access_browser.py::test_narrow_and_enlarged_pages_need_no_sideways_scroll
   - test_access_browser.py::test_without_motion_the_text_does_not_run_after_the_writing
23. Whatever a page must not do fails its test: policy, errors, dialogs, requests outside.
   - test_watch_browser.py::test_each_deed_that_a_page_must_not_do_fails_its_test
24. Foreign pages, a rebound name, hostile texts and two studios side by side.
   - test_security_browser.py::test_a_foreign_page_and_a_rebound_name_get_nothing
   - test_security_browser.py::test_hostile_text_is_shown_as_text_everywhere
   - test_security_browser.py::test_two_studios_side_by_side
25. The secret in no log, an address of the network, paths and links, floods and slow readers.
   - test_studio_security.py::test_the_secret_is_in_no_log
   - test_studio_security.py::test_an_address_that_others_reach_is_refused
   - test_studio_security.py::test_ids_that_the_studio_did_not_make_name_nothing
   - test_library.py::test_links_that_lead_out_are_listed_and_never_followed
   - test_studio_security.py::test_a_message_of_two_megabytes_or_a_flood_ends_one_socket_alone
   - test_studio_security.py::test_a_reader_that_does_not_read_is_cut_and_the_others_go_on
26. Bad input: stories and training files, a model that is gone, no space, a port, an old browser.
   - test_desk_files.py::test_a_story_that_can_t_be_opened_is_said_and_left
   - test_rooms_browser.py::test_what_cannot_be_read_is_said_with_a_way_out
   - test_rooms.py::test_a_model_that_is_gone_is_said
   - test_library.py::test_a_file_of_more_bytes_than_are_taken_is_refused
   - test_desk_files.py::test_a_full_disk_is_said_once_and_nothing_is_lost
   - test_studio_security.py::test_a_port_in_use_is_said_and_the_last_port_only_preferred
   - test_shell_browser.py::test_an_old_browser_is_told_so
27. The real starter, from the first word to a proof of what it wrote.
   - test_starter_browser.py::test_a_writers_journey_with_the_starter
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
from browser import (
    TEXT,
    idle,
    open_page,
    page_text,
    story_box,
    wait_for,
    wait_length,
    wait_saved,
)

WRITE = "studio.rooms.write.write"
OWN = "It was late, and the ferry had gone."


def type_own(page: Any, running: Any) -> None:
    """A beginning in the writer's own words."""
    story_box(page).click()
    page.keyboard.type(OWN)
    wait_saved(page, running)


def panel(page: Any, name: str) -> Any:
    """An opened panel."""
    panels = page.get_by_role("navigation", name="Panels")
    panels.get_by_role("button", name=name, exact=True).click()
    return page.get_by_role("region", name=name, exact=True)


def test_every_claim_and_journey_has_tests() -> None:
    here = Path(__file__).parent
    claims: dict[int, list[tuple[str, str]]] = {}
    for line in (__doc__ or "").splitlines():
        if number := re.match(r"(\d+)\. ", line):
            claims[int(number[1])] = []
        elif named := re.fullmatch(r"   - (\w+\.py)::(\w+)", line):
            claims[max(claims)].append((named[1], named[2]))
    assert list(claims) == list(range(1, 28)) and all(claims.values())
    for file, name in {one for tests in claims.values() for one in tests}:
        tree = ast.parse((here / file).read_text("utf-8"))
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in names, f"{file} has no {name}"


@pytest.mark.browser
def test_the_samplers_that_took_words_away_are_named(
    studio: Any, page_of: Any, random_folder: Path
) -> None:
    running = studio("random")
    page = page_of(running)
    values = {"top_k": 5, "top_p": 0.5, "min_p": 0, "temperature": 1}
    assert running.client().patch("/api/settings", json={"values": values}).is_success
    type_own(page, running)
    page.keyboard.press("ControlOrMeta+.")
    box = page.get_by_role("dialog", name=re.compile("Alternatives of"))
    box.get_by_role("option").first.wait_for()
    taken = {}
    for line in box.locator(".token-removed li").all_inner_texts():
        name, count = re.match(
            r"(.+?): ([\d,]+)\s+tokens?, together", " ".join(line.split())
        ).groups()
        taken[name] = int(count.replace(",", ""))
    words = json.loads((random_folder / "config.json").read_text())["vocab_size"]
    # Of five that are almost equally likely, half of the probability needs about three.
    assert taken["Top-k"] == words - 5 and 1 <= taken["Top-p"] <= 3
    assert set(taken) == {"Top-k", "Top-p"}


STATE = f"""(() => {{ const s = {WRITE}.story();
    const lore = s.lore.map((one) => one.text);
    return JSON.stringify([{TEXT}, s.memory, s.note, lore, s.title, s.branch, s.branches.length]);
}})()"""
"""All that undo goes over, as it is on the page."""


@pytest.mark.browser
def test_one_undo_line_goes_over_all_that_a_story_has(studio: Any, page_of: Any) -> None:
    running = studio()
    page = page_of(running)
    page.evaluate("studio.api('PATCH', '/api/settings', {values: {max_new_tokens: 8}})")
    states = [page.evaluate(STATE)]

    def reached() -> None:
        wait_for(page, f"{STATE} !== {states[-1]!r} && !{WRITE}.dirty()")
        idle(page)
        states.append(page.evaluate(STATE))

    type_own(page, running)
    reached()
    page.keyboard.press("Control+Enter")
    wait_length(page, len(OWN) + 5)
    reached()
    memory = panel(page, "Memory")
    for name, text in (("Memory", "Mara keeps the lamp."), ("Author's note", "Short sentences.")):
        box = memory.get_by_role("textbox", name=name, exact=True)
        box.fill(text)
        box.blur()
        reached()
    assert (
        running.client()
        .post("/api/story/set", json={"lore": [{"keys": ["ferry"], "text": "It leaves at ten."}]})
        .is_success
    )
    reached()
    title = page.get_by_role("textbox", name="Title")
    title.fill("The Lamp")
    title.press("Enter")
    reached()
    page.get_by_role("button", name="Branch", exact=True).click()
    page.get_by_role("textbox", name="Name of the branch").fill("north")
    page.get_by_role("button", name="Begin it here").click()
    reached()

    assert len(set(states)) == len(states) == 8
    story_box(page).focus()
    for state in reversed(states[:-1]):
        page.keyboard.press("Control+z")
        wait_for(page, f"{STATE} === {state!r}")
    for state in states[1:]:
        page.keyboard.press("Control+Shift+z")
        wait_for(page, f"{STATE} === {state!r}")
    assert wait_saved(page, running) == json.loads(states[-1])[0]


@pytest.mark.browser
def test_a_passage_outlives_sleep_and_its_tab_and_is_replayed(
    studio: Any, new_context: Any
) -> None:
    running = studio(delay=0.03)
    context = new_context()
    first = open_page(context, running)
    first.evaluate("studio.api('PATCH', '/api/settings', {values: {max_new_tokens: 150}})")
    type_own(first, running)
    first.keyboard.press("Control+Enter")
    shown = wait_length(first, len(OWN) + 10)

    # Sleep: nothing arrives meanwhile; then what was missed comes, and the page is not made anew.
    first.evaluate("studio.events.stop()")
    wait_for(first, "!studio.events.connected")
    asleep = page_text(first)
    states: list[str] = []
    first.on("request", lambda one: states.append(one.url) if "/api/state" in one.url else None)
    second = context.new_page()
    second.goto(running.origin)
    story_box(second).wait_for()
    wait_for(second, "Boolean(globalThis.studio?.rooms.write)")
    wait_length(second, len(asleep) + 10)  # a tab that opens in mid-stream has all, and follows
    assert page_text(first) == asleep and page_text(second).startswith(shown)
    first.evaluate("studio.events.start()")
    wait_length(first, len(asleep) + 10)
    assert states == []
    following = page_text(second)
    assert page_text(first).startswith(following[: len(asleep) + 10])

    first.close()  # the tab is gone; the passage is not
    wait_length(second, len(following) + 10)
    idle(second)
    written = wait_saved(second, running)
    assert written.startswith(following) and written.startswith(OWN)
    passage = running.client().get("/api/state").json()["story"]["passages"][-1]
    assert passage["by"] == "model" and passage["to"] == len(written)
