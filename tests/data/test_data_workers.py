"""Shared work gives what one process gives, and goes on where a worker fails."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from creativewritinggpt.config.run import Config
from creativewritinggpt.data.corpus import load_corpus
from creativewritinggpt.data.rows import sharing, wire, workers
from creativewritinggpt.data.rows.tokens import tokenize
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
    monkeypatch.setattr(workers, "WORTH_IT", 0)
    monkeypatch.setattr(sharing, "_PART", 5_000)


def corpus(path: Path, cache: Path, processes: int, **settings: Any) -> Any:
    config = Config(cache_dir=str(cache), num_workers=processes, **settings)
    return load_corpus(config, [str(path)])


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
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
    alone = tokenize(one.train, tiny_tokenizer, None, processes=1)
    together = tokenize(three.train, tiny_tokenizer, None, processes=3)
    assert np.array_equal(alone.ids, together.ids)
    assert np.array_equal(alone.offsets, together.offsets)
    assert np.array_equal(alone.prompt_lengths, together.prompt_lengths)
    assert together.prompt_lengths.any()


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


def test_what_a_dead_worker_should_have_done_is_done_here(
    tmp_path: Path, tiny_tokenizer: Any, shared: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path)
    documents = corpus(path, tmp_path / "cache", 1).train
    alone = tokenize(documents, tiny_tokenizer, None, processes=1)
    monkeypatch.setattr(workers, "_START", "raise SystemExit(1)")
    assert np.array_equal(tokenize(documents, tiny_tokenizer, None, processes=3).ids, alone.ids)


def test_little_text_starts_no_worker() -> None:
    with workers.workers(1000, 8) as started:
        assert started == []


def test_messages_arrive_as_they_were_sent() -> None:
    stream = io.BytesIO()
    arrays = (np.arange(5, dtype=np.uint64), np.zeros(0, dtype=np.bool_))
    wire.send(stream, {"task": "é"}, *arrays)
    wire.send(stream, {})
    stream.seek(0)
    message = wire.receive(stream)
    assert message is not None and message[0] == {"task": "é"}
    assert all(
        np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(message[1], arrays, strict=True)
    )
    assert wire.receive(stream) == ({}, []) and wire.receive(stream) is None
