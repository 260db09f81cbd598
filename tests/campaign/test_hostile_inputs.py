"""What the campaign of hostile inputs has found, each by its smallest input; its short form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from creativewritinggpt.data.readers import read_texts
from creativewritinggpt.errors import LONGEST, InputError, one_line

from . import hostile_texts as texts


def refused(act: Any, *given: Any) -> str:
    with pytest.raises(InputError) as caught:
        act(*given)
    return str(caught.value.message)


def test_a_message_is_one_line_of_bounded_length_whatever_it_quotes() -> None:
    assert one_line("a\nb\x1b[2J\u2028c\ud800") == "a b [2J c?"
    long = one_line("x" * 90_000 + "end")
    assert len(long) <= LONGEST and long.endswith("end")
    error = InputError("a\nb", "c\r\nd")
    assert (str(error), error.message, error.advice) == ("a b", "a b", "c d")


def test_an_empty_list_among_json_lines_is_a_bad_row(tmp_path: Path) -> None:
    rows = texts.ROWS[1]
    data = b"\n".join([texts.to_json(rows), b"[]"])
    assert "line 2" in refused(texts.read, "a.jsonl", data, tmp_path)
    texts.read("a.jsonl", data, tmp_path, True)


def test_a_column_with_a_name_of_thousands_of_characters_is_one_line(tmp_path: Path) -> None:
    data = texts.to_json({"story": texts.TEXT, "text": texts.TEXT, "9" * 5000: "x"})
    assert len(refused(texts.read, "a.jsonl", data, tmp_path)) <= LONGEST


@pytest.mark.parametrize("number", ["²", "9" * 5000, "-1", "1.5", "x", ""])
def test_numbers_in_markup_that_are_none_are_passed_over(tmp_path: Path, number: str) -> None:
    (tmp_path / "b.fodt").write_bytes(
        texts.FODT[0].replace(b'level="1"', f'level="{number}"'.encode())
        .replace(b'c="3"', f'c="{number}"'.encode())
    )  # fmt: skip
    assert "lamp" in read_texts(tmp_path / "b.fodt").texts[0][1]
