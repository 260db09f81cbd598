"""The short form of the campaign, and the frame that it stands on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .frame import Child, Fault, Stop
from .watch import Watch

HERE = Path(__file__).resolve().parent
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked, /proc read")

WRITER = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from campaign.layer import Plan, install
folder = Path(sys.argv[2])
log = os.open(folder.parent / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
install(Plan((folder,), int(sys.argv[3]), sys.argv[4]), log)
(folder / "loose").write_text("never flushed")
os.replace(folder / "loose", folder / "named")
from creativewritinggpt.files import write_json
write_json(folder / "whole.json", {"text": "x" * 1000})
"""


def layered(folder: Path, at: int = 0, act: str = "die") -> tuple[int, list[list[str]], str]:
    """Exit code, calls and stderr of a process that writes two files under the layer."""
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", WRITER, str(HERE.parent), str(folder), str(at), act],
        capture_output=True, text=True,
    )  # fmt: skip
    log = (folder.parent / "log").read_text().splitlines()
    return done.returncode, [line.split("\t") for line in log], done.stderr


def test_the_layer_sees_every_writing_call_and_what_is_not_flushed(tmp_path):
    code, log, _ = layered(tmp_path / "a")
    assert code == 0
    kinds = [kind for number, kind, _ in log if number.isdigit()]
    assert " ".join(kinds) == (
        "open write replace mkdir open open write open fsync chmod replace fsync unlink"
    )
    unflushed = [Path(line[2]).name for line in log if line[0] == "unflushed"]
    assert unflushed == ["named"], "the file that was flushed is not among them"


def test_the_layer_kills_tears_and_fails_at_the_call_that_is_asked_for(tmp_path):
    code, log, _ = layered(tmp_path / "a", 7, "torn")
    assert code == -9 and len([line for line in log if line[0].isdigit()]) == 7
    assert not (tmp_path / "a" / "whole.json").exists()
    [half] = (tmp_path / "a").glob(".whole.json.*")
    assert 100 < half.stat().st_size < 1000
    code, _, said = layered(tmp_path / "b", 7, "full")
    assert code == 1 and "the disk is full" in said
    assert os.listdir(tmp_path / "b") == ["named"]


def test_a_child_that_has_run_for_long_gets_its_time_to_end(tmp_path):
    child = Child(lambda: signal.pause() or 0, tmp_path)
    child.began -= 1000
    ended = child.wait(30, [Stop(0, signal.SIGTERM)])
    assert ended.signal == signal.SIGTERM and ended.seconds > 1000


def _watch(memory):
    watch = Watch(None, None)
    watch.rows = [
        {"done": number / 100, "ready": number > 30, "memory_mb": size, "handles": 9, "files": 5}
        for number, size in enumerate(memory)
    ]
    return watch


def test_what_grows_is_told_from_what_is_loaded_once_and_from_peaks():
    loaded = [100 + 3 * min(number, 30) for number in range(100)]
    peaks = [size + 200 * (number % 20 == 0) for number, size in enumerate(loaded)]
    for memory in (loaded, peaks):
        assert _watch(memory).judge(9.0)["looks"][-1]["memory_mb"] == 190
    with pytest.raises(Fault, match="memory_mb grows"):
        _watch([100 + number for number in range(100)]).judge(9.0)
    with pytest.raises(Fault, match="too few looks"):
        _watch(loaded[:35]).judge(9.0)


@pytest.mark.slow
def test_the_short_form_of_the_campaign_finds_nothing(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(HERE), "--short", "--only=kills,damage,places", "--minutes=0.3"],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert " 0 failed" in done.stdout
