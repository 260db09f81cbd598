"""Shared work gives what one process gives, and goes on where a worker fails."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from pool_jobs import broken, killed, parent_killer, wrong

from creativewritinggpt import devices
from creativewritinggpt.config.run import Config
from creativewritinggpt.data import store
from creativewritinggpt.data.corpus import load_corpus
from creativewritinggpt.data.rows import pool
from creativewritinggpt.data.rows.packing import tokenize
from creativewritinggpt.data.sources import files
from creativewritinggpt.errors import InputError

WORDS = ["the", "lamp", "went", "out", "nobody", "answered", "only", "captain", "laughed", "sea"]


def text(number: int, words: int = 60) -> str:
    generator = np.random.default_rng(number % 600)  # some texts come twice
    return " ".join(generator.choice(WORDS, words)) + f". {number % 600}"


def write_rows(path: Path, count: int = 700, bad: dict[int, str] | None = None) -> None:
    lines = [json.dumps({"prompt": f"{n % 300} words", "story": text(n)}) for n in range(count)]
    for number, line in (bad or {}).items():
        lines[number - 1] = line
    path.write_text("\n".join(lines) + "\n", "utf-8")


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers for any amount of text, in small parts."""
    monkeypatch.setattr(pool, "WORTH_IT", 0)
    monkeypatch.setattr(store, "PART_CHARACTERS", 5_000)
    monkeypatch.setattr(files, "CHUNK_BYTES", 5_000)


def corpus(path: Path, cache: Path, processes: int, **settings: Any) -> Any:
    config = Config(cache_dir=str(cache), num_workers=processes, **settings)
    return load_corpus(config, [str(path)])


@pytest.mark.parametrize("ending", [".jsonl", pytest.param(".parquet", marks=pytest.mark.slow)])
def test_three_processes_read_split_and_encode_as_one(
    ending: str, tmp_path: Path, tiny_tokenizer: Any, shared: None
) -> None:
    path = tmp_path / f"rows{ending}"
    write_rows(tmp_path / "rows.jsonl")
    if ending == ".parquet":
        import pyarrow
        import pyarrow.parquet

        rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=100)
    one = corpus(path, tmp_path / "one", 1)
    three = corpus(path, tmp_path / "three", 3)
    assert three.manifest() == one.manifest()
    assert list(three.train) == list(one.train)
    assert three.reports["rows"].duplicates == one.reports["rows"].duplicates > 0
    alone = tokenize(list(one.train), tiny_tokenizer, None)
    together = tokenize(three.train, tiny_tokenizer, None)
    assert np.array_equal(alone.ids, together.ids)
    assert np.array_equal(alone.offsets, together.offsets)
    assert np.array_equal(alone.prompt_lengths, together.prompt_lengths)
    assert together.prompt_lengths.any()


@pytest.mark.slow
def test_near_duplicates_are_found_by_workers_too(tmp_path: Path, shared: None) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps({"text": text(n, 200)}) for n in range(300)]
    lines += [json.dumps({"text": text(n, 200) + " and more"}) for n in range(300)]
    path.write_text("\n".join(lines), "utf-8")
    one, three = (corpus(path, tmp_path / str(n), n) for n in (1, 3))
    found = one.reports["rows"].near_duplicates
    assert found > 0 and three.reports["rows"].near_duplicates == found


def test_the_first_bad_line_of_the_file_is_named_whoever_reads_it(
    tmp_path: Path, shared: None
) -> None:
    path = tmp_path / "rows.jsonl"
    for first, second in ((300, 650), (10, 200)):
        write_rows(path, bad={first: "{", second: "["})
        with pytest.raises(InputError, match=f"line {first}:"):
            corpus(path, tmp_path / "cache", 3)


def test_bad_lines_that_are_skipped_are_counted_once(tmp_path: Path, shared: None) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, bad={10: "{", 200: "[1]", 300: "x", 650: ""})
    reports = [
        corpus(path, tmp_path / str(n), n, skip_bad_rows=True).reports["rows"] for n in (1, 3)
    ]
    assert reports[0].dropped == reports[1].dropped
    assert reports[1].dropped["bad rows"] == 3
    assert sorted(reports[0].notes) == sorted(reports[1].notes)


def run(make: Callable[..., Any], argument: Any, tasks: Iterable[str] = "abcdefgh") -> list[str]:
    return list(pool.in_order(tasks, make, (argument,), size=10, processes=3))


def test_what_a_dead_worker_should_have_done_is_done_here(shared: None) -> None:
    assert run(killed, ["b", "f"]) == list("ABCDEFGH")
    assert run(broken, "") == list("ABCDEFGH")


def test_the_first_error_in_order_is_raised_with_its_advice(shared: None) -> None:
    with pytest.raises(InputError, match="task 4 is wrong") as raised:
        run(wrong, "4", "0123456789")
    assert raised.value.advice == "mend it"


def test_an_error_of_the_tasks_comes_after_the_results_before_it(shared: None) -> None:
    def tasks() -> Iterable[str]:
        yield from "ab"
        raise InputError("no more tasks")

    results = pool.in_order(tasks(), killed, ([],), size=10, processes=3)
    assert [next(results), next(results)] == ["A", "B"]
    with pytest.raises(InputError, match="no more tasks"):
        next(results)


def test_little_text_starts_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "ProcessPoolExecutor", None)
    assert list(pool.in_order("ab", killed, (["a"],), size=1000, processes=8)) == ["A", "B"]


def test_one_process_or_a_quota_of_one_core_starts_no_worker(
    shared: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "ProcessPoolExecutor", None)
    monkeypatch.setattr(devices, "usable_cores", lambda: 1)
    for processes in (1, None):
        assert list(pool.in_order("ab", killed, (["a"],), size=9, processes=processes)) == [
            "A",
            "B",
        ]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_workers_end_where_their_parent_is_killed(tmp_path: Path, shared: None) -> None:
    def start() -> None:
        tasks = [str(tmp_path / "pid")] * 2
        list(pool.in_order(tasks, parent_killer, (os.getpid(),), size=1, processes=2))

    process = multiprocessing.get_context("fork").Process(target=start)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    worker = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 20
    while psutil.pid_exists(worker) and psutil.Process(worker).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


SCRIPT = """
from pathlib import Path
from creativewritinggpt import devices
from creativewritinggpt.config.run import Config
from creativewritinggpt.data.corpus import load_corpus
from creativewritinggpt.data.rows import pool

with open("runs", "a") as stream:
    stream.write("again ")
pool.WORTH_IT = 0
corpus = load_corpus(Config(num_workers=3, cache_dir="cache"), ["rows.jsonl"])
print(len(corpus.train), flush=True)
"""


@pytest.mark.cli
@pytest.mark.slow
def test_a_plain_script_without_a_guard_is_run_once(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and done.stderr == "" and int(done.stdout) > 400
    assert (tmp_path / "runs").read_text() == "again "


INTERRUPTED = """
from creativewritinggpt.data.rows import pool
from pool_jobs import slow

pool.WORTH_IT = 0
try:
    for result in pool.in_order(range(10_000), slow, (), size=1, processes=3):
        print(result, flush=True)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.cli
@pytest.mark.skipif(sys.platform == "win32", reason="process groups")
def test_ctrl_c_stops_the_work_and_no_worker_says_a_word(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(INTERRUPTED)
    process = subprocess.Popen(
        [sys.executable, "script.py"], cwd=tmp_path, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None
    for number in range(5):
        assert process.stdout.readline() == f"{number}\n"
    os.killpg(process.pid, signal.SIGINT)
    said, errors = process.communicate(timeout=60)
    assert said.endswith("interrupted\n") and errors == "" and process.returncode == 0
