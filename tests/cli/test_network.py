"""Nothing opens a connection but the fetches of the starter and the hub."""

import json
import os
import subprocess
import sys

import pytest
from corpora import write_stories

pytestmark = pytest.mark.cli

# Every attempt to connect or to look a name up is noted, whatever library makes it: Python tells
# its audit hooks.
WATCH = """
import sys
attempts = []
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        if event == "socket.connect" and isinstance(arguments[1], (str, bytes)):
            return  # a socket file of this machine
        attempts.append((event, arguments))
sys.addaudithook(hook)
import json
from creativewritinggpt.cli.main import main
codes = [main(words) for words in json.loads(sys.argv[1])]
sys.stderr.write(f"\\nattempts: {len(attempts)} {attempts[:3]}\\n")
raise SystemExit(max(codes))
"""


def _watched(*commands, online=True):
    """Some commands, one after the other, in a process that counts attempts to connect."""
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    if not online:
        environment["HF_HUB_OFFLINE"] = "1"
    return subprocess.run(
        [sys.executable, "-c", WATCH, json.dumps([list(map(str, words)) for words in commands])],
        capture_output=True, text=True, input="", env=environment, timeout=240,
    )  # fmt: skip


@pytest.mark.slow
def test_training_writing_and_judging_open_no_connection(tiny_folder, tmp_path):
    model, out = tiny_folder("gpt2"), tmp_path / "out"
    stories = write_stories(tmp_path / "stories.jsonl")
    fast = ["--device", "cpu", "--precision", "fp32", "--num-workers", "1"]
    done = _watched(
        ["train", stories, "--model-name", model, "--output-dir", out, "--max-steps", "2", *fast],
        ["generate", "A king", "--model", out / "best_model", "--max-new-tokens", "3", *fast],
        ["evaluate", "--model", out / "best_model", "--output-dir", out, *fast],
        ["data", "inspect", stories, "--model-name", model],
        ["recipes"],
    )
    assert done.returncode == 0, done.stderr
    assert "attempts: 0 " in done.stderr, done.stderr
    assert done.stdout.startswith("A king")


@pytest.mark.slow
def test_the_watch_sees_a_connection():
    done = _watched(["doctor"])
    assert done.returncode == 0, done.stderr
    assert "attempts: 0 " not in done.stderr
    done = _watched(["doctor"], online=False)
    assert done.returncode == 0, done.stderr
    assert "attempts: 0 " in done.stderr
