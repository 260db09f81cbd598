"""The session through the real command and a pseudo-terminal, as a writer would meet it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from parrot import save_parrot

from creativewritinggpt.cli.main import main
from creativewritinggpt.session.commands import COMMANDS
from creativewritinggpt.story.file import StoryFile, read_story

pexpect = pytest.importorskip("pexpect")
pyte = pytest.importorskip("pyte")
pytestmark = pytest.mark.cli

WORDS = " The lamp🎉e\u0301\x1b]0;vX\x07, went out"
SHOWN = "The lamp🎉e\u0301]0;vX, went out"
FLAGS = ["--device", "cpu", "--precision", "fp32", "--num-workers", "1", "--seed", "3"]
LONG = 100_000  # tokens: it never comes to its end


class Terminal:
    """A terminal of 24 lines with the command in it."""

    def __init__(self, words: list[str], folder: Path, **environment: str) -> None:
        env = {**os.environ, "TERM": "xterm-256color", 
               "OMP_NUM_THREADS": "1", **environment}  # fmt: skip
        env = {name: value for name, value in env.items() if value}
        self.child = pexpect.spawn(
            sys.executable, ["-m", "creativewritinggpt", "generate", *words], cwd=str(folder),
            env=env, dimensions=(24, 80), encoding="utf-8", timeout=120,
        )  # fmt: skip
        self.screen = pyte.HistoryScreen(80, 24, history=3000)
        # The prompt asks where the cursor is, to know how much room there is below.
        self.screen.write_process_input = self.child.send
        self.stream = pyte.Stream(self.screen)
        self.raw = ""

    def read(self, seconds: float = 0.1) -> None:
        """Take what comes, until nothing comes for so long."""
        with contextlib.suppress(pexpect.TIMEOUT, pexpect.EOF):
            while True:
                new = self.child.read_nonblocking(65536, timeout=seconds)
                self.raw += new
                self.stream.feed(new)

    def wait(self, what: str | Callable[[], bool], seconds: float = 120) -> None:
        """Wait for a text on the screen, or for something to hold."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.read(0.05)
            if what() if callable(what) else what in self.shown:
                return
        raise AssertionError(f"{what!r} did not come:\n{self.shown}")

    @property
    def shown(self) -> str:
        """The lines on the screen."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    def send(self, keys: str) -> None:
        self.child.send(keys)

    def line(self, text: str) -> None:
        """Type a line, and wait until the prompt is there again."""
        self.ready()
        self.send(text + "\r")
        self.read(0.3)
        self.ready()

    def ready(self) -> None:
        """Wait for an empty prompt with its status line."""
        self.wait(lambda: re.search(r"\n>\s*\n(.*\n)*.*window \d+%", self.shown) is not None)

    def end(self) -> int:
        """Wait for the command to end; its exit code."""
        self.child.expect(pexpect.EOF)
        self.child.close()
        code: int = self.child.exitstatus
        return code


@pytest.fixture(scope="module")
def model(tmp_path_factory: Any, tiny_tokenizer: Any) -> Path:
    return save_parrot(tmp_path_factory.mktemp("parrot"), tiny_tokenizer, WORDS)


@pytest.fixture
def terminal(model: Path, tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*words: str, **environment: str) -> Terminal:
        opened.append(Terminal(["--model", str(model), *FLAGS, *words], tmp_path, **environment))
        return opened[-1]

    yield start
    for one in opened:
        one.child.close(force=True)


def _plain(model: Path, folder: Path, lines: list[str], *words: str) -> SimpleNamespace:
    """The session on a pipe, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err),
        pytest.MonkeyPatch.context() as patch,
    ):  # fmt: skip
        patch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
        code = main(["generate", "--model", str(model), *FLAGS, *words])
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def _colours(raw: str) -> list[str]:
    """The parameters of terminal sequences that set a colour."""
    found = [code for codes in re.findall("\x1b\\[([0-9;]*)m", raw) for code in codes.split(";")]
    return [code for code in found if code and int(code) // 10 in (3, 4, 9, 10) and code != "39"]


def test_ctrl_c_stops_in_mid_word_and_keeps_what_is_there(
    terminal: Any, model: Path, tmp_path: Path
) -> None:
    one = terminal("--story", "s.json", "--max-new-tokens", str(LONG))
    one.wait("Write a beginning")
    one.send("Hello\r")
    one.wait("went out")
    # The story overflows the window of 256 tokens while this is written.
    one.wait(lambda: one.raw.count("lamp") > 80)
    one.send("\x03")
    one.ready()
    assert all(part in one.shown for part in ("seed 3", "window", "tokens/s"))
    text = read_story(tmp_path / "s.json").text
    assert text.startswith("Hello The lamp🎉e\u0301") and len(text) > 1000
    assert text[5:].startswith(WORDS * 20)
    # Seen by the terminal: the text without what would set its title.
    assert "\x1b]0;vX" not in one.raw and "🎉" in one.raw
    one.line("/context")
    assert "fallen out of view" in one.shown

    one.screen.resize(30, 60)
    one.child.setwinsize(30, 60)
    one.ready()
    one.line("/undo")
    assert read_story(tmp_path / "s.json").text == "Hello"
    # NO_COLOR is set: heat is told by figures.
    one.line("/heat")
    assert "%]" in one.shown and not _colours(one.raw)

    # A paste of 50 lines is one text, and is sent by Enter alone.
    pasted = "".join(f"Line {number} of it.\n" for number in range(50)) + "The end"
    one.send(f"\x1b[200~{pasted}\x1b[201~")
    one.wait("The end")
    assert read_story(tmp_path / "s.json").text == "Hello"
    one.send("\r")
    one.wait("went out")
    one.send("\x03")
    one.ready()
    assert f"Hello {pasted}" in read_story(tmp_path / "s.json").text

    # Another session on the same story is told, and harms nothing.
    before = (tmp_path / "s.json").read_bytes()
    other = _plain(model, tmp_path, ["More."], "--story", "s.json")
    assert other.returncode == 2 and "open in another session" in other.stderr
    assert (tmp_path / "s.json").read_bytes() == before

    # Ctrl-C at the prompt leaves nothing, Ctrl-D the session.
    one.send("not sent\x03")
    one.wait("Ctrl-D or /quit leaves")
    one.ready()
    one.send("\x04")
    assert one.end() == 0
    assert not list(tmp_path.glob(".s*"))


@pytest.mark.slow
def test_a_request_to_end_while_writing_saves_and_ends_with_143(
    terminal: Any, tmp_path: Path
) -> None:
    one = terminal("--story", "s.json", "--max-new-tokens", str(LONG))
    one.wait("Write a beginning")
    one.send("Hello\r")
    one.wait(lambda: one.raw.count("lamp") > 20)
    one.child.kill(signal.SIGTERM)
    assert one.end() == 143
    assert read_story(tmp_path / "s.json").text.startswith("Hello" + WORDS * 10)


@pytest.mark.slow
def test_a_request_to_end_at_the_prompt_ends_with_143(terminal: Any, tmp_path: Path) -> None:
    one = terminal("--story", "s.json", "--max-new-tokens", "8")
    one.ready()
    one.line("Hello")
    one.child.kill(signal.SIGTERM)
    assert one.end() == 143
    assert read_story(tmp_path / "s.json").text.startswith("Hello The lamp")


@pytest.mark.slow
def test_a_window_that_is_closed_at_the_prompt_or_while_the_model_writes_costs_nothing(
    terminal: Any, tmp_path: Path
) -> None:
    for tokens in ("8", str(LONG)):
        one = terminal("--story", "s.json", "--max-new-tokens", tokens)
        one.ready()
        one.send("Hello\r")
        one.wait(lambda one=one: "lamp" in one.raw)
        if tokens == "8":
            one.ready()
        before = read_story(tmp_path / "s.json").text
        one.child.ptyproc.fileobj.close()
        _, status = os.waitpid(one.child.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 129
        one.child.ptyproc.terminated = one.child.closed = one.child.ptyproc.closed = True
        assert read_story(tmp_path / "s.json").text.startswith(before + " "[: tokens != "8"])
    assert not list(tmp_path.glob(".s*"))


def test_a_line_of_100_000_characters_is_taken(terminal: Any, tmp_path: Path) -> None:
    one = terminal("--story", "s.json", "--max-new-tokens", "8")
    one.ready()
    line = "abcdefghi " * 10_000
    one.send(f"\x1b[200~{line}\x1b[201~")
    one.send("\r")
    one.wait(lambda: "The lamp" in one.raw)
    assert read_story(tmp_path / "s.json").text.startswith(line.rstrip())


@pytest.mark.slow
def test_completion_history_and_colour(terminal: Any, tmp_path: Path) -> None:
    one = terminal("--story", "s.json", "--max-new-tokens", "8", NO_COLOR="")
    one.ready()
    one.line("Hello")
    one.send("/bran")
    one.wait("/branches")  # in the menu
    one.send("\x15")
    one.send("\x1b[A")
    one.wait(lambda: one.shown.count("> Hello") == 2)
    one.send("\x15")
    one.line("/edit The captain.")
    assert "Hello The captain." in one.shown
    one.send("\x12Hel")  # Ctrl-R searches the lines of earlier
    one.wait(lambda: "I-search backward: Hel" in one.shown and one.shown.count("> Hello") > 1)
    one.send("\r\x05\x15")
    one.line("/heat")
    assert "48;5;" in one.raw and "probability" in one.shown and _colours(one.raw)
    one.line("/rety")
    assert "did you mean /retry?" in one.shown
    one.send("two\x1b\rlines\r")
    one.read(0.5)
    one.ready()
    assert "two\nlines" in read_story(tmp_path / "s.json").text


@pytest.mark.slow
def test_every_command_works_on_a_dumb_terminal_without_a_sequence_or_colour(
    terminal: Any, model: Path, tmp_path: Path
) -> None:
    one = terminal("--max-new-tokens", "8", "--preset", "steady", TERM="dumb",
                   EDITOR=f"{sys.executable} {tmp_path / 'editor.py'}")  # fmt: skip
    (tmp_path / "editor.py").write_text(
        "import sys, pathlib\np = pathlib.Path(sys.argv[-1])\n"
        "p.write_text(p.read_text('utf-8').replace('Hello', 'Goodbye') + '\\n', 'utf-8')\n"
    )
    (tmp_path / "old.txt").write_text("An old text.")
    lines = [
        "Hello", "", "/continue 4", "/retry", "/alt 2", "/pick 2", "/undo 2", "/redo", "/edit",
        "/branch dark", "/branches", "/goto main", "/memory A tale.", "/note Be brief.",
        "/lore lamp = It is old.", "/chapter The Sea", "/title Ferry", "/preset literary",
        "/set temperature=0.7", "/seed 4", "/probs", "/heat", "/context", "/stats", "/save",
        "/export out.epub", "/load old.txt", "/model", "/help", "/style", "/compare", "/why",
    ]  # fmt: skip
    assert {line[1:].split()[0] for line in lines if line.startswith("/")} | {"quit"} == set(
        COMMANDS
    )
    one.wait("\n>")
    for line in lines:
        one.send(line + "\n")
    one.send("/quit\n")
    assert one.end() == 0
    said = one.raw + (one.child.before or "")
    assert "\x1b" not in said and "Traceback" not in said
    errors = re.findall(r"error: (.*?)\r?\n", said)
    none = f"{model} has no adapter, so there is nothing to compare it with"
    assert [error for error in errors if "explain" not in error] == [none]
    [first] = [path for path in (tmp_path / "stories").iterdir() if path.stem != "old"]
    assert f"kept in stories/{first.name}" in said
    story = read_story(first)
    assert story.text.startswith("Goodbye The lamp") and story.state.title == "Ferry"
    assert read_story(tmp_path / "stories" / "old.json").text.startswith("An old text.")


def test_lines_from_a_pipe_write_a_story(model: Path, tmp_path: Path) -> None:
    done = _plain(model, tmp_path, ["Hello", "/chapter Two", ""], "--story", "s.json",
                  "--max-new-tokens", "8")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert read_story(tmp_path / "s.json").text.startswith("Hello The lamp")
    assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounts a small disk")
@pytest.mark.slow
def test_a_full_disk_is_said_and_the_old_story_is_whole(
    model: Path, tmp_path: Path, request: Any
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no mounts here")
    request.addfinalizer(lambda: subprocess.run(["umount", str(disk)], check=True))
    lines = ["Hello", "/undo", "x" * 200_000, "/stats", f"/save {tmp_path / 'else.json'}"]
    done = _plain(model, tmp_path, lines, "--story", str(disk / "s.json"), "--max-new-tokens", "8")
    assert "the disk is full" in done.stdout
    assert read_story(disk / "s.json").text == "Hello"
    assert done.returncode == 0
    assert "xxx" in read_story(tmp_path / "else.json").text


@pytest.mark.slow
def test_a_killed_session_loses_nothing_that_was_finished(terminal: Any, tmp_path: Path) -> None:
    one = terminal("--story", "s.json", "--max-new-tokens", "8")
    one.ready()
    one.line("Hello")
    before = read_story(tmp_path / "s.json").text
    assert before.startswith("Hello The lamp")
    one.line("/set max_new_tokens=100000")
    one.send("\r")
    one.wait(lambda: one.raw.count("lamp") > 10)
    one.child.kill(signal.SIGKILL)
    one.child.expect(pexpect.EOF)
    again = StoryFile(tmp_path / "s.json")
    assert again.open().text == before  # nothing of the killed session stands in the way
    again.close()


def test_stories_of_other_programs_open_on_a_terminal(terminal: Any, tmp_path: Path) -> None:
    fragments = [{"data": "The mill", "origin": "prompt"}, {"data": " fell.", "origin": "ai"}]
    content = {"story": {"fragments": fragments}, "ephemeralContext": [{"text": "x"}]}
    record = {"storyContainerVersion": 1, "metadata": {"title": "Mill"}, "content": content}
    (tmp_path / "tale.story").write_text(json.dumps(record))
    picture = "[<|d|data:image/png;base64," + "A" * 900 + "|d|>]"
    actions = [f"\n{picture}\n", "\n{{[INPUT]}}\nGo on.\n{{[OUTPUT]}}\n", "It rose."]
    save = {"prompt": "The tower fell.", "actions": actions, "savedsettings": {"opmode": 4}}
    (tmp_path / "lite.json").write_text(json.dumps(save))
    one = terminal("--story", "tale.story")
    one.wait("NovelAI story: 2 passages")
    one.wait("left out: further contexts (1)")
    one.ready()
    assert "The mill fell." in one.shown
    one.line("/load lite.json")
    one.wait("left out: pictures (1), instruct tags (2), settings")
    assert "AAAA" not in one.raw and "{{[" not in one.raw
    one.send("/quit\r")
    assert one.end() == 0
    assert read_story(tmp_path / "stories" / "lite.json").text == (
        "The tower fell.\n\nGo on.\n\nIt rose."
    )
    assert read_story(tmp_path / "stories" / "tale.json").text == "The mill fell."
