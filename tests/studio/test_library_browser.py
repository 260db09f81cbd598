"""The Library in a real browser: import, search, open, export, set aside and bring back."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
from browser import findings, page_text, story_box, wait_saved

from creativewritinggpt.story.file import StoryFile, read_story

pytestmark = pytest.mark.browser

MIKUPAD = {
    "prompt": [
        {"type": "user", "content": "The lamp in the harbour office"},
        {"type": "text", "content": " went out at midnight."},
    ],
    "memoryTokens": {"text": "A tale of the sea.", "prefix": "", "suffix": ""},
    "authorNoteTokens": {"text": "", "prefix": "", "suffix": ""},
    "endpoint": "http://localhost", "temperature": 0.7, "title": "Harbour",
}  # fmt: skip
KOBOLD = {
    "gamestarted": True, "prompt": "The night ferry was late,", "memory": "Winter.",
    "authorsnote": "", "anotetemplate": "<|>", "worldinfo": [], "actions_metadata": {},
    "actions": [" as ever.", " Mara slept on a bench."], "biases": [["rain", 3]],
}  # fmt: skip


def _library(page: Any) -> Any:
    page.get_by_role("tab", name="Library").click()
    page.get_by_role("heading", name="Stories", exact=True).wait_for()
    return page


def _file(name: str, content: bytes | str) -> dict[str, Any]:
    body = content.encode() if isinstance(content, str) else content
    return {"name": name, "mimeType": "application/octet-stream", "buffer": body}


def _bring_in(page: Any, *files: dict[str, Any]) -> Any:
    page.get_by_label("Files to import").set_input_files(list(files))
    return page.get_by_role("list", name="Imported").get_by_role("listitem")


def _wait_for(page: Any, part: str) -> str:
    """Wait until a part is in the text of Write; the text."""
    for _ in range(300):
        text = page_text(page)
        if part in text:
            return text
        page.wait_for_timeout(50)
    raise AssertionError(f"{part!r} is not in {page_text(page)!r}")


def _row(page: Any, name: str) -> Any:
    rows = page.get_by_role("list", name="Stories").get_by_role("listitem")
    return rows.filter(has_text=name)


def _export(page: Any, name: str, form: str) -> tuple[str, bytes]:
    page.get_by_role("button", name=f"Export {name}").click()
    page.get_by_role("radio", name=re.compile(f"^{form} ")).check()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download").click()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def test_stories_of_other_programs_come_in_are_written_on_and_go_out(
    studio: Any, page_of: Any
) -> None:
    running = studio()
    page = _library(page_of(running, accept_downloads=True))
    rows = _bring_in(
        page, _file("harbour.json", json.dumps(MIKUPAD)), _file("ferry.json", json.dumps(KOBOLD))
    )
    rows.filter(has_text="mikupad").get_by_text(re.compile("Left out: .*settings")).wait_for()
    rows.filter(has_text="KoboldAI").get_by_text(re.compile("3 passages")).wait_for()
    page.get_by_role("button", name="Open ferry", exact=True).click()
    assert (
        _wait_for(page, "Mara slept") == "The night ferry was late, as ever. Mara slept on a bench."
    )
    story_box(page).click()
    page.keyboard.press("Control+End")
    page.keyboard.type(" Nobody woke her. “Later,” they said — 🕯️")
    running.story_file = running.folder / "stories" / "ferry.json"
    text = wait_saved(page, running)
    assert text.endswith("they said — 🕯️")
    _library(page)
    _row(page, "ferry.json").get_by_text("open in Write").wait_for()

    name, content = _export(page, "ferry", "Word")
    import docx

    document = docx.Document(io.BytesIO(content))
    assert name == "ferry.docx"
    assert any("they said — 🕯️" in paragraph.text for paragraph in document.paragraphs)
    name, content = _export(page, "ferry", "EPUB")
    path = running.folder / name
    path.write_bytes(content)
    from ebooklib import ITEM_DOCUMENT, epub

    book = epub.read_epub(str(path))
    pages = [one.get_content().decode() for one in book.get_items_of_type(ITEM_DOCUMENT)]
    assert any("they said — 🕯️" in one for one in pages)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    page.get_by_role("button", name="Export ferry").click()
    page.get_by_role("radio", name=re.compile("^Markdown ")).check()
    page.get_by_role("button", name="Into the folder").click()
    page.get_by_role("status").get_by_text("Written: ").wait_for()
    assert "Nobody woke her" in (running.folder / "exports" / "ferry.md").read_text("utf-8")


def test_new_rename_duplicate_search_set_aside_and_bring_back(studio: Any, page_of: Any) -> None:
    running = studio()
    page = _library(page_of(running))
    page.get_by_role("button", name="New story").click()
    page.get_by_role("textbox", name="Title").fill("The Lamp")
    page.keyboard.press("Enter")
    story_box(page).wait_for()
    story_box(page).click()
    page.keyboard.type("A candle burned in the window.")
    running.story_file = running.folder / "stories" / "The Lamp.json"
    wait_saved(page, running)

    _library(page)
    page.get_by_role("button", name="Rename The Lamp").click()
    page.get_by_role("textbox", name="Title").fill("قصة 🕯️ <b>Lamp</b>")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Duplicate قصة 🕯️ <b>Lamp</b>").click()
    copy = _row(page, "The Lamp copy.json")
    copy.wait_for()
    for _ in range(100):  # it is saved a moment later
        title = read_story(running.story_file).state.title
        if title != "The Lamp":
            break
        page.wait_for_timeout(50)
    assert title == "قصة 🕯️ <b>Lamp</b>"

    page.get_by_role("searchbox", name="Search stories").fill("candle burned")
    copy.locator("mark", has_text="candle").wait_for()
    page.get_by_role("searchbox", name="Search stories").fill("xyzzy")
    page.get_by_text("Nothing is found for “xyzzy”.").wait_for()
    page.get_by_role("searchbox", name="Search stories").fill("")

    copy.get_by_role("button", name=re.compile("aside$")).click()
    page.get_by_text("Set aside (1)").click()
    assert (running.folder / "stories" / "set aside" / "The Lamp copy.json").is_file()
    page.get_by_role("button", name=re.compile("^Bring .* back$")).click()
    copy.wait_for()
    assert (running.folder / "stories" / "The Lamp copy.json").is_file()
    # The story in Write can't be set aside.
    here = _row(page, "open in Write")
    assert here.get_by_role("button", name=re.compile("aside$")).is_disabled()


def test_what_can_not_be_imported_is_said_and_the_rest_comes_in(
    studio: Any, page_of: Any, watch: Any
) -> None:
    watch.allow("status of 400")
    page = _library(page_of(studio()))
    rows = _bring_in(
        page, _file("broken.json", "{"), _file("face.webp", b"RIFF1234WEBP"),
        _file("notes.txt", "It rained all night.\n\nMara counted the lamps."),
    )  # fmt: skip
    rows.filter(has_text="broken.json").get_by_text(re.compile("no valid JSON")).wait_for()
    rows.filter(has_text="face.webp").get_by_text(re.compile("a picture in WebP")).wait_for()
    rows.filter(has_text="notes.txt").get_by_text("Nothing was left out.").wait_for()
    _row(page, "notes.json").get_by_text(re.compile("8 words")).wait_for()


def test_a_dropped_file_is_imported(studio: Any, page_of: Any) -> None:
    page = _library(page_of(studio()))
    transfer = page.evaluate_handle(
        "() => { const data = new DataTransfer();"
        " data.items.add(new File(['# The Sea\\n\\n## One\\n\\nIt rained.\\n\\n## Two\\n\\nIt"
        " stopped.'], 'sea.md', {type: 'text/markdown'})); return data; }"
    )
    room = page.locator("#room-library")
    room.dispatch_event("dragenter", {"dataTransfer": transfer})
    page.locator(".library.dragging").wait_for()
    room.dispatch_event("drop", {"dataTransfer": transfer})
    _row(page, "The Sea").get_by_text(re.compile("2 chapters")).wait_for()
    assert page.locator(".library.dragging").count() == 0


def test_a_broken_story_and_one_that_is_open_elsewhere(studio: Any, page_of: Any) -> None:
    running = studio()
    folder = running.folder / "stories"
    folder.mkdir(exist_ok=True)
    (folder / "broken.json").write_text('{"format": "creativewritinggpt-story", ')
    other = StoryFile(folder / "terminal.json")
    story = other.open()
    story.write("Written in a terminal.")
    other.save(story)
    page = _library(page_of(running))
    broken = _row(page, "broken.json")
    broken.get_by_text(re.compile("not valid JSON")).wait_for()
    assert broken.get_by_role("button", name=re.compile("^Open")).count() == 0
    elsewhere = _row(page, "terminal.json")
    elsewhere.get_by_text("open in another session").wait_for()
    elsewhere.get_by_role("button", name=re.compile("^Open")).click()
    _wait_for(page, "Written in a terminal.")
    other.save(story)  # the terminal goes on
    other.close()


def test_the_library_is_accessible_and_fits_320_pixels(studio: Any, page_of: Any) -> None:
    page = _library(page_of(studio(), viewport={"width": 320, "height": 700}))
    _bring_in(page, _file("a" * 200 + ".txt", "word " * 50))
    page.get_by_text("Nothing was left out.").wait_for()
    assert page.evaluate("document.querySelector('#room-library').scrollWidth") <= 320
    found = findings(page, "Library")
    assert not found, "\n".join(found)
