"""CSV and TSV in the dialects of the programs that write them."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from creativewritinggpt.config.run import Config
from creativewritinggpt.data.document import Document, FileReport, Reading, SourceReport
from creativewritinggpt.data.sources.files import open_files
from creativewritinggpt.errors import InputError

TALES = [
    f"Tale {i} began at the mill, as all of them do. Nobody knew who had lit the lamp of room {i}."
    for i in range(12)
]


def read(path: Path, **settings: Any) -> tuple[list[Document], FileReport]:
    """The documents of a file and what became of its characters."""
    config = Config(**settings)
    (source,) = open_files([str(path)], config)
    reading = Reading(SourceReport(source.name), config.skip_bad_rows)
    documents = list(source.read(reading))
    (file,) = reading.report.files.values()
    return documents, file


def texts(path: Path, **settings: Any) -> list[str]:
    return [document.text for document in read(path, **settings)[0]]


def written(path: Path, rows: list[list[Any]], encoding: str = "utf-8", **dialect: Any) -> Path:
    stream = io.StringIO(newline="")
    csv.writer(stream, **dialect).writerows(rows)
    path.write_bytes(stream.getvalue().encode(encoding))
    return path


def plain(path: Path, head: str, line: str, tales: list[str] = TALES) -> Path:
    """A file without any writer's quotes: a head, and a line for each tale."""
    body = "".join(line.format(i, tale) for i, tale in enumerate(tales))
    path.write_bytes((head + body).encode())
    return path


def letters(text: str) -> str:
    return "".join(filter(str.isalnum, text))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_every_separator_encoding_and_line_end_is_read(
    tmp_path: Path, delimiter: str, encoding: str, ending: str
) -> None:
    rows = [["id", "text"], *([i, tale] for i, tale in enumerate(TALES))]
    path = written(tmp_path / "a.csv", rows, encoding, delimiter=delimiter, lineterminator=ending)
    assert texts(path) == TALES


@pytest.mark.parametrize("line", ["sep=;", "sep=,", "SEP=|", '"sep=;"'])
def test_a_line_that_names_the_separator_is_obeyed(tmp_path: Path, line: str) -> None:
    delimiter = line.strip('"')[-1]
    rows = [["n", "text"], *([i, tale] for i, tale in enumerate(TALES))]
    path = written(tmp_path / "a.csv", rows, delimiter=delimiter)
    path.write_bytes(f"{line}\r\n".encode() + path.read_bytes())
    assert texts(path) == TALES


def test_a_first_row_of_text_is_no_header(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", [[tale] for tale in TALES], quoting=csv.QUOTE_ALL)
    documents, file = read(path)
    assert [document.text for document in documents] == TALES
    assert file.form.startswith("CSV, without a header (the first row is text)")
    numbered = written(tmp_path / "b.csv", [[i, tale] for i, tale in enumerate(TALES)])
    assert texts(numbered) == TALES


def test_columns_without_names_can_be_named_by_their_place(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", [["mill", tale, tale[::-1]] for tale in TALES])
    with pytest.raises(InputError) as raised:
        read(path)
    assert "column 2 (48%)" in raised.value.message or "column 2 (49%)" in raised.value.message
    assert "--text-column 'column " in (raised.value.advice or "")
    assert texts(path, text_column="column 2") == TALES


def test_a_name_that_the_user_gives_makes_the_first_row_a_header(tmp_path: Path) -> None:
    question = "What did you see at the mill last night, and who was there?"
    path = written(tmp_path / "a.csv", [["When", question], *(["May", t] for t in TALES)])
    assert texts(path, text_column=question) == TALES


def test_a_question_of_a_survey_is_a_header(tmp_path: Path) -> None:
    question = "Write a short story about a mill. It may be sad."
    rows = [["Timestamp", question], *([f"2024/03/{i + 1:02d}", t] for i, t in enumerate(TALES))]
    assert texts(written(tmp_path / "a.csv", rows)) == TALES


def test_one_text_a_line_keeps_its_commas_and_quotes(tmp_path: Path) -> None:
    said = [f'"Stay," said {tale}' if i % 3 else tale for i, tale in enumerate(TALES)]
    documents, file = read(plain(tmp_path / "a.csv", "text\n", "{1}\n", said))
    assert [document.text for document in documents] == said
    assert "one text a line" in file.form and file.kept == file.characters
    assert texts(plain(tmp_path / "b.csv", "", "{1}\n", said)) == said


def test_bare_commas_in_the_last_column_belong_to_it(tmp_path: Path) -> None:
    documents, file = read(plain(tmp_path / "a.csv", "id,text\n", "{0},{1}\n"))
    assert [document.text for document in documents] == TALES
    assert "the last column with its commas" in file.form


def test_bare_commas_elsewhere_are_refused_with_a_way_out(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.csv", "prompt,text\n", "He left, they said,{1}\n")
    with pytest.raises(InputError, match="line 2: 4 fields .* needs quotes around it") as raised:
        read(path)
    assert "with quotes around texts" in (raised.value.advice or "")


def test_quotes_of_an_unquoted_tsv_are_part_of_the_text(tmp_path: Path) -> None:
    tales = [f'"Who is it?" she asked. {tale}' for tale in TALES]
    documents, file = read(plain(tmp_path / "a.tsv", "id\ttext\n", "{0}\t{1}\n", tales))
    assert [document.text for document in documents] == tales
    assert "quotes being part of the text" in file.form
    open_ended = [f'"{tale}' for tale in TALES]
    assert texts(plain(tmp_path / "b.tsv", "", "{0}\t{1}\n", open_ended)) == open_ended


def test_escaped_quotes_are_read(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.csv", "id,text\n", '{0},"\\"Stay,\\" he said. {1}"\n')
    assert texts(path) == [f'"Stay," he said. {t}' for t in TALES]


def test_columns_of_one_name_are_told_apart(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", [["text", "text"], *([t, t[::-1]] for t in TALES)])
    with pytest.raises(InputError, match=r"text or text \(2\)"):
        read(path)
    documents, file = read(path, text_column="text (2)")
    assert documents[0].text == TALES[0][::-1]
    assert file.left_out["column 'text'"] == file.characters - file.kept > 0


def test_empty_cells_at_the_end_of_a_row_are_no_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,text\n1,"one, two",,\n2,"three",\n,,,\n')
    assert texts(tmp_path / "a.csv") == ["one, two", "three"]


def test_old_line_ends_and_bytes_of_zero_are_read(tmp_path: Path) -> None:
    assert texts(plain(tmp_path / "a.csv", "id,text\r", '{0},"{1}"\r')) == TALES
    path = plain(tmp_path / "b.csv", "id,text\n", '{0},"{1}"\n')
    path.write_bytes(path.read_bytes().replace(b"room 3", b"ro\0om 3"))
    assert texts(path) == TALES


def test_a_binary_file_called_csv_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"PK\x03\x04" + bytes(range(256)) * 40)
    with pytest.raises(InputError, match="is a damaged archive"):
        read(tmp_path / "a.csv")


def test_bad_rows_are_counted_with_their_characters(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.csv", "id,text\n", '{0},"{1}"\n')
    path.write_text(path.read_text() + "9,two,three\n")
    documents, file = read(path, skip_bad_rows=True)
    assert len(documents) == 12 and file.left_out == {"bad rows": 11}
    assert file.characters == file.kept + 11


@pytest.mark.parametrize(
    ("columns", "said"), [(20_000, "and 19,980 more"), (100_000, "has 100,000 columns")]
)
def test_very_many_columns_make_a_short_message(tmp_path: Path, columns: int, said: str) -> None:
    names = ",".join(f"c{i}" for i in range(columns))
    (tmp_path / "a.csv").write_text(f"{names}\n" + f"{','.join(['x'] * columns)}\n")
    with pytest.raises(InputError, match=said) as raised:
        read(tmp_path / "a.csv")
    assert len(raised.value.message) < 1000


def test_notes_of_many_bad_rows_are_there_once_and_not_compared_with_all_others() -> None:
    compared = 0

    class Note(str):
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

    report = SourceReport("a")
    for line in [*range(200), *range(200)]:
        report.note(Note(f"line {line} was left out"))
    assert len(report.notes) == 200 and compared < 1000


PIECES = [*"ab;,|\t\"'\\\n ", "said", "She left.", "“Oh”", "\r\n", '""', ' "no" ', "é"]
stories = st.lists(st.sampled_from(PIECES), min_size=3, max_size=14).map(
    lambda parts: f"Once {''.join(parts)} ended."
)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(stories, min_size=3, max_size=8),
    st.fixed_dictionaries(
        {
            "delimiter": st.sampled_from([",", ";", "\t", "|"]),
            "quoting": st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
            "lineterminator": st.sampled_from(["\n", "\r\n"]),
        }
    ),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.booleans(),
)
def test_no_letter_of_a_written_table_is_lost(
    tmp_path_factory: pytest.TempPathFactory,
    stories: list[str],
    dialect: dict[str, Any],
    encoding: str,
    header: bool,
) -> None:
    rows: list[list[Any]] = [[i, story] for i, story in enumerate(stories)]
    head: list[list[Any]] = [["id", "text"]] if header else []
    path = written(tmp_path_factory.mktemp("a") / "a.csv", [*head, *rows], encoding, **dialect)
    assert [letters(text) for text in texts(path)] == [letters(story) for story in stories]


@pytest.mark.parametrize("form", ['{0}, "{1}"\n', "{0},'{1}'\n"])
def test_spaces_before_quotes_and_single_quotes_are_known(tmp_path: Path, form: str) -> None:
    path = plain(tmp_path / "a.csv", "id,text\n", form)
    assert texts(path) == TALES


def test_a_title_before_the_table_is_left_out_and_counted(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.csv", "My stories\n# saved in May\n\nid,text\n", '{0},"{1}"\n')
    documents, file = read(path)
    assert [document.text for document in documents] == TALES
    assert "after 2 other lines" in file.form
    assert file.left_out == {"lines before the table": len("Mystories#savedinMay")}


def test_a_separator_too_many_in_the_header_is_no_column(tmp_path: Path) -> None:
    assert texts(plain(tmp_path / "a.csv", "id,text,\n", '{0},"{1}"\n')) == TALES


def test_line_ends_that_are_written_out_are_line_ends(tmp_path: Path) -> None:
    documents, file = read(plain(tmp_path / "a.tsv", "id\ttext\n", "{0}\t{1}\\n\\nIt went on.\n"))
    assert documents[0].text == f"{TALES[0]}\n\nIt went on."
    assert "line ends from \\n" in file.form
