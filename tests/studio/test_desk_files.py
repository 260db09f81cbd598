"""The story's file under the studio: locks, other programs, full disks, damage, crashes."""

from __future__ import annotations

import contextlib
import errno
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from creativewritinggpt.errors import RunError
from creativewritinggpt.story.file import StoryFile, read_story
from creativewritinggpt.story.tree import Story
from creativewritinggpt.studio.answers import without_folders
from creativewritinggpt.studio.assets import missing
from creativewritinggpt.studio.studio import Studio
from tests.studio_page import Page


def _file(path: Path, text: str) -> Path:
    story, file = Story(), StoryFile(path)
    story.write(text)
    file.open()
    file.save(story)
    file.close()
    return path


def _texts(made: Studio) -> str:
    return json.dumps(list(made.notes))


def test_a_story_that_the_terminal_has_is_read_and_not_changed(
    make_studio: Callable[..., Studio], tmp_path: Path
) -> None:
    path = _file(tmp_path / "night.json", "It rained.")
    terminal = StoryFile(path)
    terminal.open()
    made = make_studio(story=path)
    page = Page(made)
    assert page.text == "It rained." and "another session" in page.story["readonly"]
    assert page.edit((0, 2, "x"), status=409)["error"]["kind"] == "readonly"
    assert page.post("/api/story/undo", 409)["error"]["kind"] == "readonly"
    terminal.close()
    made.desk.open(path)
    page = Page(made)
    page.edit((0, 2, "He"))
    assert page.saved() == "He rained."
    with pytest.raises(Exception, match="another session"):
        StoryFile(path).open()


def test_a_file_that_another_program_changed_stays_and_the_story_goes_on_beside_it(
    make_studio: Callable[..., Studio], tmp_path: Path
) -> None:
    path = _file(tmp_path / "night.json", "It rained.")
    made = make_studio(story=path)
    page = Page(made)
    path.write_text("{}")
    page.edit((0, 2, "He"))
    assert page.saved() == "He rained." == page.text
    assert path.read_text() == "{}" and made.desk.file.path == tmp_path / "night-2.json"
    assert "changed by another program" in _texts(made)


def test_messages_name_files_that_were_sent_without_their_folders() -> None:
    kept = "/home/a b/outputs/.studio/uploads/0123456789abcdef/tale.bin is a binary file"
    assert without_folders(kept) == "tale.bin is a binary file"
    run = "can't read C:\\me\\outputs\\.studio\\runs\\train-1-ab\\texts\\tale.txt: no text"
    assert without_folders(run) == "can't read tale.txt: no text"
    assert without_folders("/home/me/tale.txt is gone") == "/home/me/tale.txt is gone"


def test_a_full_disk_is_said_once_and_nothing_is_lost(
    make_studio: Callable[..., Studio], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_studio()
    page = Page(made)
    page.edit((0, 0, "Safe. "))
    assert page.saved() == "Safe. "

    def full(self: StoryFile, story: Story) -> None:
        raise RunError("the disk is full") from OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(StoryFile, "save", full)
        patch.setattr("creativewritinggpt.studio.keeper.RETRY_SECONDS", 0.1)
        page.edit((6, 6, "More."))
        time.sleep(1.2)
        page.edit((0, 0, "And "))
        assert _texts(made).count("the disk is full") == 1
        assert read_story(made.desk.file.path).text == "Safe. "
        page.catch_up()
        assert page.story["unsaved"] == "the disk is full"
        time.sleep(0.3)
    assert page.saved() == "And Safe. More." == page.text
    page.catch_up()
    assert page.story["unsaved"] is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"format": "creativewritinggpt-story", "version": 99}', "newer version"),
        ('{"format": "creativewritinggpt-story", "version": 1, "passages": 3}', "damaged"),
        ("no json at all", "not valid JSON"),
    ],
)
def test_a_story_that_can_t_be_opened_is_said_and_left(
    make_studio: Callable[..., Studio], tmp_path: Path, content: str, said: str
) -> None:
    path = tmp_path / "night.json"
    path.write_text(content)
    made = make_studio(story=path)
    page = Page(made)
    assert said in _texts(made) and page.text == ""
    assert [note["lasting"] for note in page.get("/api/state")["notes"]] == [True]
    page.edit((0, 0, "Another."))
    assert page.saved() == "Another." and path.read_text() == content


def test_what_is_being_written_is_on_disk_before_it_is_done(
    make_studio: Callable[..., Studio], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("creativewritinggpt.studio.writing.GROW_SECONDS", 0.05)
    made = make_studio()
    made.settings.change({"max_new_tokens": 5000})
    page = Page(made)
    page.edit((0, 0, "So"))
    page.saved()
    page.post("/api/story/continue")
    path, end = made.desk.file.path, time.monotonic() + 20
    while len(read_story(path).text) < 20 and time.monotonic() < end:
        time.sleep(0.05)
    on_disk = read_story(path)
    assert made.desk.writing is not None and len(on_disk.text) >= 20
    assert on_disk.passages[-1].by == "model" and on_disk.passages[-1].setup is not None
    page.post("/api/story/undo")
    page.catch_up()
    assert page.text == "So" == page.saved()


def test_settings_are_kept_field_by_field(
    make_studio: Callable[..., Studio], tmp_path: Path
) -> None:
    one, other = make_studio(), make_studio()
    page = Page(one)
    page.patch("/api/settings", values={"top_k": 33})
    other.memory.set("goal x", {"words": 500})
    page.patch("/api/settings", values={"temperature": 1.1})
    kept: Any = json.loads((tmp_path / "stories" / ".studio.json").read_text())
    assert kept["values"]["top_k"] == 33 and kept["values"]["temperature"] == 1.1
    assert kept["goal x"] == {"words": 500}
    assert page.patch("/api/settings", reset="top_k")["values"]["top_k"] == 0
    refused = page.patch("/api/settings", 400, values={"top_p": 7})
    assert "top_p" in refused["error"]["message"]


@pytest.mark.slow
def test_the_file_is_whole_after_a_kill_at_any_moment(studio: Callable[..., Any]) -> None:
    if missing():
        pytest.skip("the libraries of the page are not bundled: make studio-assets")
    running = studio(delay=0.01)
    chance = random.Random(5)
    known = ""
    for _ in range(6):
        with contextlib.closing(running.client()) as client:
            state = client.get("/api/state").json()
            text = state["story"]["text"]
            assert text.startswith(known)
            revision = state["story"]["revision"]
            word = f"Night {chance.randrange(1000)}. "
            body = {"tab": "one", "revision": revision, "changes": [[len(text), len(text), word]]}
            answer = client.post("/api/story/edit", json=body)
            assert answer.status_code == 200, answer.text
            known = text + word
            until = time.monotonic() + 20
            while not running.story_file.exists() or running.story_text() != known:
                assert time.monotonic() < until, "what was typed is not saved"
                time.sleep(0.02)
            client.patch("/api/settings", json={"values": {"max_new_tokens": 300}})
            client.post("/api/story/continue", json={"tab": "one"})
            time.sleep(chance.random())  # of the 3 s that the passage takes
        running.kill()
        assert running.story_text().startswith(known)
        running.restart()
    left = [path for path in running.folder.rglob("*.lock") if "studio" not in path.name]
    assert len(left) <= 1
