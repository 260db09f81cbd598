"""The story's file: whole or not at all, one owner, never written over what it does not know."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from creativewritinggpt.errors import InputError, RunError, UserError
from creativewritinggpt.files import write_text
from creativewritinggpt.locking import one_writer
from creativewritinggpt.story.file import FORMAT, StoryFile, dump, load, read_story
from creativewritinggpt.story.tree import Setup, Story
from creativewritinggpt.studio.preferences import Memory


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ferry.json"


def _story() -> Story:
    story = Story()
    story.write("The night ferry was late,")
    story.write(" as ever.", by="model", setup=Setup("tiny", {}, None, {"top_k": 3}), seed=7)
    return story


def test_a_story_comes_back_as_it_was_saved(path: Path) -> None:
    story, file = _story(), StoryFile(path)
    file.open()
    file.save(story)
    file.close()
    again = StoryFile(path).open()
    assert (again.passages, again.history) == (story.passages, story.history)
    assert list(path.parent.iterdir()) != [] and json.loads(path.read_text())["version"] == 1


def test_a_file_of_an_earlier_release_opens_and_is_saved_the_same() -> None:
    """version_1.json was written by the session of version 0.1."""
    path = Path(__file__).with_name("version_1.json")
    story = read_story(path)
    assert dump(story) == path.read_text("utf-8")
    assert (len(story.passages), len(story.history), len(story.ends())) == (14, 20, 4)
    assert [title for title, _ in story.chapters()] == ["One"]
    assert {name for name, _ in story.state.heads} == {"main", "dark", "branch 3"}
    last = [passage for passage in story.passages if passage.setup is not None][-1]
    assert (last.setup.model, last.setup.preset, last.seed) == ("starter", "steady", 9)


def test_a_second_session_on_one_story_is_told(path: Path) -> None:
    first = StoryFile(path)
    first.open()
    with pytest.raises(InputError, match="open in another session"):
        StoryFile(path).open()
    first.close()
    StoryFile(path).open()


def test_closing_leaves_nothing_but_the_story(path: Path) -> None:
    file = StoryFile(path)
    file.open()
    file.save(_story())
    file.close()
    assert list(path.parent.iterdir()) == [path]


def test_a_newer_file_is_left_as_it_is(path: Path) -> None:
    record = {**json.loads(dump(_story())), "version": 3}
    path.write_text(json.dumps(record))
    before = path.read_bytes()
    with pytest.raises(InputError, match="newer version"):
        StoryFile(path).open()
    assert path.read_bytes() == before


def test_a_damaged_file_is_refused_and_left_as_it_is(path: Path) -> None:
    path.write_text(dump(_story())[:-40])
    before = path.read_bytes()
    with pytest.raises(InputError, match="not valid JSON"):
        StoryFile(path).open()
    assert path.read_bytes() == before


@pytest.mark.parametrize("wrong", [{"text": "A \ud800"}, {"seed": "x"}, {"seed": True}])
def test_a_passage_that_could_not_be_saved_or_made_again_is_refused(wrong: Any) -> None:
    record = json.loads(dump(_story()))
    record["passages"][0].update(wrong)
    with pytest.raises(InputError, match="damaged"):
        load(record, "story.json")


def test_a_file_that_something_else_changed_is_not_written_over(path: Path) -> None:
    file = StoryFile(path)
    story = file.open()
    story.write("One.")
    file.save(story)
    path.write_text("somebody else's")
    story.write(" Two.")
    with pytest.raises(RunError, match="changed by something else"):
        file.save(story)
    assert path.read_text() == "somebody else's"


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_link_stays_one_and_its_story_has_one_owner(path: Path) -> None:
    link = path.with_name("link.json")
    link.symlink_to(path)
    file = StoryFile(link)
    file.open()
    file.save(_story())
    assert link.is_symlink() and read_story(path).text == _story().text
    with pytest.raises(InputError, match="open in another session"):
        StoryFile(path).open()


def test_a_full_disk_is_said_and_the_old_file_is_whole(path: Path, monkeypatch: Any) -> None:
    file = StoryFile(path)
    story = file.open()
    story.write("One.")
    file.save(story)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    story.write(" Two.")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(RunError, match="disk is full"):
            file.save(story)
    assert read_story(path).text == "One."
    file.save(story)
    assert read_story(path).text == "One. Two."


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_damage_to_a_story_gets_past_as_anything_but_an_input_error(data: Any) -> None:
    record = json.loads(dump(_story()))
    places = ["setups", "passages", "frames", "history", "cursor", "version", "format"]
    key = data.draw(st.sampled_from(places))
    junk = st.sampled_from([None, -2, 10**9, "x", [], {}, [1], [{}], True, [[]], 1.5])
    target = record
    if isinstance(record[key], list) and record[key] and data.draw(st.booleans()):
        target = data.draw(st.sampled_from(record[key]))
        key = data.draw(st.sampled_from(sorted(target)))
    target[key] = data.draw(junk)
    try:
        story = load(record, "story")
        assert isinstance(story.text, str)
        story.undo(9)
        story.chapters()
        dump(story)
    except InputError:
        pass


def test_a_story_nested_too_deeply_is_refused(path: Path) -> None:
    path.write_text("[" * 200_000)
    with pytest.raises(InputError):
        read_story(path)


WRITER = r"""
import os, sys
from creativewritinggpt.story.file import StoryFile
file = StoryFile(sys.argv[1])
story = file.open()
number = len(story.path())
while True:
    story.write(f"passage {number}. " * 40)
    os.write(1, b"writing %d\n" % number)  # whole lines, wherever the kill falls
    file.save(story)
    os.write(1, b"saved %d\n" % number)
    number += 1
"""


@pytest.mark.slow
def test_killed_fifty_times_at_most_the_passage_being_written_is_lost(path: Path) -> None:
    dice = random.Random(0)
    saved = -1
    for _ in range(50):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(dice.randint(1, 4))]
        time.sleep(dice.random() * 0.004)
        os.kill(child.pid, signal.SIGKILL)
        said += child.communicate()[0].splitlines()
        saved = max([saved, *(int(s.split()[1]) for s in said if s.startswith("saved"))])
        if path.exists():
            story = read_story(path)
            # More may be there: the kill can fall between the save and the word of it.
            assert saved < len(story.path())
            saved = len(story.path()) - 1
            assert story.text == "".join(f"passage {n}. " * 40 for n in range(len(story.path())))
    assert saved > 20
    assert FORMAT in path.read_text()


def test_errors_are_for_people() -> None:
    for wrong in ([], {}, {"format": "other"}, {"format": FORMAT, "version": "1"}):
        with pytest.raises(UserError, match="ferry"):
            load(wrong, "ferry.json")


def test_what_a_killed_save_has_left_goes_when_the_story_is_opened(tmp_path):
    for name in ("s.json", ".studio.json", "other.json"):
        (tmp_path / f".{name}.abcdefgh.tmp.json").write_text("half")
    file = StoryFile(tmp_path / "s.json")
    file.open()
    file.close()
    Memory(tmp_path / ".studio.json")
    assert os.listdir(tmp_path) == [".other.json.abcdefgh.tmp.json"]


def test_a_name_that_the_disk_does_not_take_is_told(tmp_path, monkeypatch):
    real = os.open

    def picky(path, flags, *more, **words):
        if "?" in os.path.basename(os.fsdecode(path)):
            raise OSError(errno.ENOENT, "No such file or directory", path)
        return real(path, flags, *more, **words)

    monkeypatch.setattr(os, "open", picky)
    with pytest.raises(InputError, match="takes no file of that name"):
        StoryFile(tmp_path / "what now?.json").open()
    with pytest.raises(InputError, match="takes no file of that name"):
        write_text(tmp_path / "what now?.txt", "text")
    busy = RunError("another process is writing it")
    place = tmp_path / "what now?.jsonl"
    with pytest.raises(InputError, match="takes no file of that name"), one_writer(place, busy):
        pass
    assert os.listdir(tmp_path) == []
