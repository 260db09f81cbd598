"""JSON and parquet in the layouts of the programs that write them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from creativewritinggpt.config.run import Config
from creativewritinggpt.data.corpus import load_corpus
from creativewritinggpt.data.document import Document, FileReport, Reading, SourceReport
from creativewritinggpt.data.sources.files import open_files
from creativewritinggpt.errors import InputError

WORDS = [
    "mill",
    "lamp",
    "night",
    "river",
    "crate",
    "bell",
    "fog",
    "coat",
    "stair",
    "salt",
    "moth",
    "oar",
    "wick",
    "slate",
    "thorn",
]
TALES = [
    f"Tale {i} began. It had {' and '.join(random.Random(i).choices(WORDS, k=9))}, and it ended."
    for i in range(12)
]
ROWS = [{"text": tale} for tale in TALES]
NAMES = ["mill", "lamp", "night"]


def read(path: Path, **settings: Any) -> tuple[list[Document], FileReport]:
    """The documents of a file and what became of its characters."""
    config = Config(**settings)
    (source,) = open_files([str(path)], config)
    reading = Reading(SourceReport(source.name), config.skip_bad_rows)
    documents = list(source.read(reading))
    (file,) = reading.report.files.values()
    return documents, file


def written(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value), "utf-8")
    return path


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


NUMBERED = list(enumerate(TALES))
CHAPTERS = [{"title": f"C{i}", "text": t} for i, t in NUMBERED]
LAYOUTS: dict[str, Any] = {
    "rows": ROWS,
    "texts": TALES,
    "a list beside tags": {"tags": NAMES, "stories": ROWS},
    "texts beside tags": {"tags": NAMES, "stories": TALES},
    "deep": {"data": {"items": ROWS, "count": 12}, "version": "1"},
    "columns": {"text": TALES, "title": [f"T{i}" for i in range(12)]},
    "plural columns": {"stories": TALES, "n": list(range(12))},
    "columns inside": {"data": {"text": TALES, "id": list(range(12))}},
    "pandas columns": {
        "text": {str(i): t for i, t in NUMBERED}, "n": {str(i): i for i in range(12)}
    },
    "pandas index": {str(i): {"text": t, "n": i} for i, t in NUMBERED},
    "pandas split": {"columns": ["n", "text"], "index": [0], "data": [[*row] for row in NUMBERED]},
    "pandas table": {"schema": {"fields": [{"name": "text"}]}, "data": ROWS},
    "pandas values": [[i, t] for i, t in enumerate(TALES)],
    "lists with a header": [["n", "story"], *([i, t] for i, t in enumerate(TALES))],
    "titles to texts": {f"The Tale of {i}": t for i, t in enumerate(TALES)},
    "a book": {"title": "Mills", "author": "Me", "chapters": CHAPTERS},
    "several lists of texts": {"dark": TALES[:6], "bright": TALES[6:], "tags": NAMES},
    "several lists of rows": {"dark": ROWS[:6], "bright": ROWS[6:]},
    "strings of JSON": [json.dumps(row) for row in ROWS],
    "one after another": "".join(json.dumps(row, indent=1) for row in ROWS),
    "nested texts": [{"doc": {"inner": {"body": t}, "n": i}} for i, t in enumerate(TALES)],
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_json_gives_its_texts(tmp_path: Path, layout: str) -> None:
    documents, file = read(written(tmp_path / "a.json", LAYOUTS[layout]))
    assert [document.text for document in documents] == TALES
    assert file.characters == file.kept + file.left_out.total()


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.ndjson"])
def test_json_is_known_under_any_of_its_endings(tmp_path: Path, name: str) -> None:
    for text in (lines(*ROWS), json.dumps(ROWS), json.dumps(ROWS, indent=1), lines(*TALES)):
        assert [d.text for d in read(written(tmp_path / name, text))[0]] == TALES
    pretty = "\n".join(json.dumps(row, indent=2) for row in ROWS)
    assert [d.text for d in read(written(tmp_path / name, pretty))[0]] == TALES


def test_splits_are_taken_as_what_they_say(tmp_path: Path) -> None:
    for value in (
        {"train": ROWS[:9], "test": ROWS[9:]},
        {"train": {"text": TALES[:9]}, "validation": {"text": TALES[9:]}},
        {"splits": {"train": TALES[:9], "dev": TALES[9:]}},
        [{"text": t, "split": "train" if i < 9 else "valid"} for i, t in enumerate(TALES)],
    ):
        documents, _ = read(written(tmp_path / "a.json", value))
        assert [d.text for d in documents if d.split == "train"] == TALES[:9]
        assert [d.text for d in documents if d.split == "validation"] == TALES[9:]


def test_text_outside_of_the_rows_is_counted(tmp_path: Path) -> None:
    _, file = read(written(tmp_path / "a.json", LAYOUTS["a list beside tags"]))
    assert file.form == "JSON (the rows of 'stories'), text from 'text'"
    assert file.left_out == {"text outside of the rows": len("milllampnight")}


def test_lists_that_could_all_be_meant_are_asked_for(tmp_path: Path) -> None:
    people = [{"name": f"N{i}", "description": t} for i, t in enumerate(TALES)]
    path = written(tmp_path / "a.json", {"people": people, "chapters": ROWS})
    with pytest.raises(InputError, match=r"several lists .* 'people' \(51%\), 'chapters' \(49%\)"):
        read(path)
    documents, file = read(path, text_column="chapters")
    assert [d.text for d in documents] == TALES and file.left_out["text outside of the rows"]
    documents, _ = read(path, text_column="people.description")
    assert [(d.text, d.title) for d in documents[:1]] == [(TALES[0], "N0")]


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (3, "a number"),
        (True, "a number"),
        ({"a": "One text.", "b": "Another text."}, "an object"),
        (["harbour", "crate", "clock"], "a list of what is no text"),
        ([["a"], [1]], "a list of what is no text"),
    ],
)
def test_a_cell_that_is_no_text_is_left_out_and_counted(
    tmp_path: Path, value: Any, what: str
) -> None:
    path = written(tmp_path / "a.jsonl", lines(*ROWS, {"text": value}))
    corpus = load_corpus(Config(), [str(path)])
    report = corpus.reports["a"]
    assert report.documents == 12 and report.dropped == {f"rows whose 'text' is {what}": 1}
    (file,) = report.files.values()
    assert file.characters == file.kept + file.left_out.total()


def test_a_file_of_numbers_says_so(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", lines(*({"text": i} for i in range(30))))
    with pytest.raises(InputError, match=r"left out: 30 rows whose 'text' is a number"):
        load_corpus(Config(), [str(path)])


def test_columns_left_aside_are_named_with_their_share(tmp_path: Path) -> None:
    rows = [{"text": t, "summary": t[:40], "id": f"{i:03d}"} for i, t in enumerate(TALES)]
    corpus = load_corpus(Config(), [str(written(tmp_path / "a.jsonl", lines(*rows)))])
    assert any("characters: 'summary' (" in note for note in corpus.reports["a"].notes)
    (file,) = corpus.reports["a"].files.values()
    assert file.characters == file.kept + file.left_out["column 'summary'"]


def test_alpacas_input_belongs_to_the_prompt(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Go on.", "input": f"The mill, {i}." if i % 2 else "", "output": t}
        for i, t in enumerate(TALES)
    ]
    documents, file = read(written(tmp_path / "a.json", rows))
    assert documents[0].prompt == "Go on." and documents[1].prompt == "Go on.\n\nThe mill, 1."
    assert file.kept == file.characters
    assert file.form == "JSON, prompt from 'instruction' and 'input', text from 'output'"


def test_what_was_chosen_is_the_text_and_what_was_rejected_is_not(tmp_path: Path) -> None:
    rows = [{"prompt": f"P{i}", "chosen": t, "rejected": t[::-1]} for i, t in enumerate(TALES)]
    documents, file = read(written(tmp_path / "a.jsonl", lines(*rows)))
    assert [d.text for d in documents] == TALES and file.left_out["column 'rejected'"] > 0


@pytest.mark.parametrize("kind", ["large_string", "dictionary", "binary", "struct", "list"])
def test_every_kind_of_parquet_column_is_read(tmp_path: Path, kind: str) -> None:
    column = {
        "large_string": pyarrow.array(TALES, pyarrow.large_string()),
        "dictionary": pyarrow.array(TALES).dictionary_encode(),
        "binary": pyarrow.array([t.encode() for t in TALES], pyarrow.binary()),
        "struct": pyarrow.array([{"body": t, "lang": "en"} for t in TALES]),
        "list": pyarrow.array([[t] for t in TALES]),
    }[kind]
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), path)
    documents, file = read(path)
    assert [d.text for d in documents] == TALES
    assert file.characters == file.kept + file.left_out.total()


def test_bytes_that_are_no_text_are_counted(tmp_path: Path) -> None:
    cells = [*(t.encode("cp1252") for t in TALES), b"\x89PNG\r\n\x1a\n" + bytes(range(32)) * 3]
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array(cells)}), path)
    corpus = load_corpus(Config(), [str(path)])
    assert corpus.reports["a"].dropped == {"rows whose 'text' is bytes that are no text": 1}


def test_an_object_in_the_text_column_can_be_named(tmp_path: Path) -> None:
    rows = [{"text": {"draft": t[::-1], "final": t}} for t in TALES]
    path = written(tmp_path / "a.jsonl", lines(*rows))
    with pytest.raises(InputError, match=r"text.draft \(50%\), text.final \(50%\)"):
        read(path)
    with pytest.raises(InputError, match="'text' holds objects with") as raised:
        read(path, text_column="text")
    assert raised.value.advice == "name one of them: --text-column text.draft"
    assert [d.text for d in read(path, text_column="text.final")[0]] == TALES


def test_lists_that_another_program_wrote_into_cells_are_lists(tmp_path: Path) -> None:
    rows = [{"text": repr([t, "It went on."])} for t in TALES]
    documents, _ = read(written(tmp_path / "a.jsonl", lines(*rows)))
    assert documents[3].text == f"{TALES[3]}\n\nIt went on."
    bracketed = [{"text": f"[{t}]"} for t in TALES]
    documents, _ = read(written(tmp_path / "b.jsonl", lines(*bracketed)))
    assert documents[3].text == f"[{TALES[3]}]"


def test_a_name_that_repeats_is_no_title(tmp_path: Path) -> None:
    rows = [{"name": ("Ann", "Bob")[i % 2], "text": t} for i, t in enumerate(TALES)]
    documents, _ = read(written(tmp_path / "a.jsonl", lines(*rows)))
    assert {d.title for d in documents} == {None} and len({d.group for d in documents}) == 12


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"a": ' * 50_000 + "1" + "}" * 50_000, "nested too deeply"),
        ('[{"text": "one"}, {"text": ', "line 1: not valid JSON"),
        ("[]", "has no rows|no list of rows"),
        ("{}", "has no rows|no list of rows"),
        ("3", "no list of rows"),
        ("null", "no list of rows"),
    ],
)
def test_hostile_and_empty_json_is_refused_in_a_line(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(InputError, match=what):
        read(written(tmp_path / "a.json", text))


def test_hostile_rows_are_named_and_can_be_left_out(tmp_path: Path) -> None:
    hostile = '{"text": ' + "[" * 100_000 + "]" * 100_000 + "}\n" + '{"text": NaN}\n'
    surrogate = '{"text": "Half \\ud83d of a sign, and Infinity.", "x": Infinity}\n'
    path = written(tmp_path / "a.jsonl", lines(*ROWS) + hostile + surrogate)
    path.write_bytes(path.read_bytes() + b'{"text": "caf\xe9 in another encoding"}\n')
    with pytest.raises(InputError, match="line 13: .*nested too deeply"):
        read(path)
    documents, file = read(path, skip_bad_rows=True)
    assert [d.text for d in documents][12:] == [
        "Half of a sign, and Infinity.",
        "café in another encoding",
    ]
    assert file.left_out["bad rows"] > 200_000


def test_a_cell_of_ten_megabytes_is_read(tmp_path: Path) -> None:
    long = "word " * 2_000_000 + "end."
    documents, _ = read(written(tmp_path / "a.json", [{"text": long}, *ROWS]))
    assert len(documents[0].text) == len(long)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("ab .,é\n", max_size=30),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["text", "body", "role", "from", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.fixed_dictionaries({"text": values, "note": values}), min_size=1, max_size=5))
@example([{"text": [{"text": None, "role": "speaker of nothing"}], "note": None}])
def test_no_character_is_lost_unsaid_whatever_the_cells_are(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    path = written(tmp_path_factory.mktemp("json") / "a.json", [*rows, *ROWS])
    try:
        documents, file = read(path)
    except InputError as error:
        assert error.advice
        return
    assert not any(d.text.startswith(("{'", "['")) for d in documents)
    letters = sum(c.isalpha() for d in documents for c in f"{d.text}{d.prompt or ''}")
    there = sum(c.isalpha() for row in ROWS for c in row["text"])
    assert letters >= there
    assert file.kept + file.left_out.total() >= file.characters - 2 * len(rows)
