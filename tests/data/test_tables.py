from __future__ import annotations

import csv
import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from creativewritinggpt.config.run import Config
from creativewritinggpt.data.corpus import read_documents
from creativewritinggpt.data.document import Reading, SourceReport
from creativewritinggpt.data.readers.columns import Columns, Row, find_columns
from creativewritinggpt.data.readers.tables import open_table
from creativewritinggpt.errors import InputError


def rows_of(path: Path, *, skip: bool = False) -> tuple[list[Row], SourceReport]:
    report = SourceReport("x")
    reading = Reading(report, skip_bad_rows=skip)
    return [row for _, row in open_table(path).rows(reading)], report


def json_lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def calls(act: Callable[[], Any]) -> int:
    """How many functions are called, or generators resumed: the steps of Python."""
    count = 0

    def seen(frame: Any, event: str, arg: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(seen)
    try:
        act()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("a.jsonl", '{"text": "one"}\n'), ("a.csv", 'text,by\n"one",me\n'), ("a.txt", "One.\n"),
        ("a.md", "# A\n\nOne.\n"), ("a.json", '{"text": "one"}\n'),
    ],
)  # fmt: skip
@pytest.mark.parametrize("packed", [False, True])
def test_empty_lines_cost_no_step_each(tmp_path: Path, name: str, first: str, packed: bool) -> None:
    def steps(count: int) -> int:
        path = tmp_path / f"{count}{name}{'.gz' if packed else ''}"
        data = (first + "\n" * count + first).encode()
        path.write_bytes(gzip.compress(data, 1) if packed else data)
        config = Config(cache_dir=str(tmp_path / "cache"), skip_bad_rows=True)
        return calls(lambda: list(read_documents([str(path)], config)))

    steps(1)  # what is imported and measured once
    # Beyond the megabyte that tells how a CSV file is read.
    few, many = steps(1_500_000), steps(4_500_000)
    assert many - few < 3_000_000 / 10


def test_lines_keep_their_numbers_and_quoted_ones_their_place_among_empty_ones(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.jsonl"
    empty = "\n" * 20_000  # more than is read ahead at once
    path.write_text('{"text": "one"}\n' + empty + "\r\n{bad\n" + empty + '{"text": "two"}\n')
    rows, report = rows_of(path, skip=True)
    assert [row["text"] for row in rows] == ["one", "two"]
    assert "line 20003" in report.notes[0]
    path = tmp_path / "a.csv"
    path.write_text(f'text,by\n{empty}"one{empty}more",me\n\r\n{empty}a,b,c\n{empty}two,you\n')
    rows, report = rows_of(path, skip=True)
    assert [row["text"] for row in rows] == [f"one{empty}more", "two"]
    assert f"line {2 + 3 * 20_000 + 2}" in report.notes[0]


def test_a_bad_line_is_named_and_can_be_left_out(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "a.jsonl", {"text": "one"}, {"text": "two"})
    path.write_text(path.read_text() + '{"text": "thr\n[1, 2]\n"a plain text"\n')
    with pytest.raises(
        InputError, match=r"a\.jsonl, line 3: not valid JSON \(.* at char"
    ) as raised:
        rows_of(path)
    assert "--skip-bad-rows" in (raised.value.advice or "")
    rows, report = rows_of(path, skip=True)
    assert [row["text"] for row in rows] == ["one", "two", "a plain text"]
    assert report.dropped == {"bad rows": 2} and "line 4" in report.notes[1]


def test_rows_of_five_megabytes_are_read(tmp_path: Path) -> None:
    long = "word " * 1_000_000
    path = json_lines(tmp_path / "a.jsonl", {"text": long})
    assert rows_of(path)[0][0]["text"] == long
    with (tmp_path / "a.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["text"], [long]])
    assert rows_of(tmp_path / "a.csv")[0] == [{"text": long}]


cells = st.text(st.sampled_from('ab",;\n\té '), max_size=12).filter(str.strip)


@settings(deadline=None, max_examples=80)
@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=8), st.sampled_from([".csv", ".tsv"]))
def test_what_a_csv_writer_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], ending: str
) -> None:
    path = tmp_path_factory.mktemp("csv") / f"a{ending}"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter="\t" if ending == ".tsv" else ",")
        writer.writerows([("prompt", "text"), *rows])
    assert [(row["prompt"], row["text"]) for row in rows_of(path)[0]] == rows


@pytest.mark.parametrize(
    ("broken", "what"),
    [
        ('"closed by a later quote,two', "broken quotes"),
        ('"closed" badly,two', "broken quotes"),
        ("one,two,three", "3 fields where the header has 2"),
        ("one", "1 fields where the header has 2"),
    ],
)
def test_a_broken_csv_row_costs_only_itself(tmp_path: Path, broken: str, what: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f'prompt,text\na,"first\nline"\n{broken}\nb,second\nc,"third, part"\n')
    with pytest.raises(InputError, match=rf"a\.csv, line 4: {what}"):
        rows_of(path)
    rows, report = rows_of(path, skip=True)
    assert [row["text"] for row in rows] == ["first\nline", "second", "third, part"]
    assert report.dropped == {"bad rows": 1}


def test_a_quote_that_is_never_closed_does_not_swallow_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('prompt,text\na,first\n"b,second\n' + "c,third\n" * 50)
    with pytest.raises(InputError, match=r"a\.csv, line 3: a quote is never closed"):
        rows_of(path)
    rows, _ = rows_of(path, skip=True)
    assert [row["text"] for row in rows] == ["first", *["third"] * 50]


def test_a_csv_with_semicolons_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt;text\nq;a, b\n")
    assert rows_of(tmp_path / "a.csv")[0] == [{"prompt": "q", "text": "a, b"}]


def test_a_truncated_parquet_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["one " * 50, "two"]}), path)
    assert [row["text"] for row in rows_of(path)[0]] == ["one " * 50, "two"]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"a\.parquet is not a whole parquet file"):
        rows_of(path)


def test_json_lists_and_json_lines_called_json_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"text": "one"}, {"text": "two"}]')
    (tmp_path / "b.json").write_text('{"text": "one"}\n{"text": "two"}\n')
    (tmp_path / "c.json").write_text('{"data": [{"text": "one"}, {"text": "two"}]}')
    for name in "abc":
        assert rows_of(tmp_path / f"{name}.json")[0] == [{"text": "one"}, {"text": "two"}]


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,text\n")
    with pytest.raises(InputError, match="has no rows"):
        open_table(tmp_path / "a.csv")
    (tmp_path / "a.jsonl").write_text("nonsense\n")
    with pytest.raises(InputError, match="no row that can be read"):
        open_table(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (["prompt", "story"], Columns("story", "prompt")),
        (["id", "Text"], Columns("Text")),
        (["Writing Prompt", "body", "title"], Columns("body", "Writing Prompt", "title")),
        (["anything"], Columns("anything")),
        (["prompt"], Columns("prompt")),
    ],
)
def test_columns_are_found_by_well_known_names(columns: list[str], found: Columns) -> None:
    assert find_columns(Path("a.csv"), columns) == found


@pytest.mark.parametrize(
    "columns", [["story", "text"], ["one", "two"], ["prompt", "instruction", "text"]]
)
def test_what_can_not_be_told_is_asked(columns: list[str]) -> None:
    with pytest.raises(InputError) as raised:
        find_columns(Path("a.csv"), columns)
    assert all(column in raised.value.message for column in columns)
    assert "-column" in (raised.value.advice or "")


def test_the_users_word_wins_and_must_exist() -> None:
    columns = ["story", "text", "premise"]
    assert find_columns(Path("a"), columns, text_column="text") == Columns("text", "premise")
    assert find_columns(Path("a"), columns, "story", "text") == Columns("text", "story")
    with pytest.raises(InputError, match="no column 'novel'"):
        find_columns(Path("a"), columns, text_column="novel")
