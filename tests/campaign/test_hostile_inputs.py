"""What the campaign of hostile inputs has found, each by its smallest input; its short form."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from creativewritinggpt.config.run import load_config
from creativewritinggpt.data.readers import read_texts
from creativewritinggpt.errors import LONGEST, InputError, one_line
from creativewritinggpt.files import parse_yaml
from creativewritinggpt.models.adapter_files import read_adapter
from creativewritinggpt.models.gguf_model import GGUFModel
from creativewritinggpt.server.security import Refused
from creativewritinggpt.story.choice_files import read_any
from creativewritinggpt.story.exchange import import_story
from creativewritinggpt.studio.answers import answered, list_in, number_in, object_in

from . import hostile_models as models
from . import hostile_texts as texts
from .inputs import targets
from .mutations import LONG_RUN
from .sandbox import in_process, processor_time

linux = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory, /proc")


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
    assert len(Refused(404, f"no model {'x' * 90_000}").message) <= LONGEST


def test_an_empty_list_among_json_lines_is_a_bad_row(tmp_path: Path) -> None:
    rows = texts.ROWS[1]
    data = b"\n".join([texts.to_json(rows), b"[]"])
    assert "line 2" in refused(texts.read, "a.jsonl", data, tmp_path)
    texts.read("a.jsonl", data, tmp_path, True)


def test_text_of_parquet_that_is_no_utf_8_is_refused(tmp_path: Path) -> None:
    texts_of = pyarrow.array([b"\xff" + b"The lamp went out. " * 9] * 3)
    table = pyarrow.table({"text": texts_of.view(pyarrow.string())})
    pyarrow.parquet.write_table(table, tmp_path / "b.parquet")
    data = (tmp_path / "b.parquet").read_bytes()
    assert "not a whole parquet file" in refused(texts.read, "a.parquet", data, tmp_path)


def test_rtf_without_its_mark_is_refused(tmp_path: Path) -> None:
    data = b"{\xff\xfe\\rtf1 The lamp went out.}"
    assert "is no RTF text" in refused(texts.read, "a.rtf", data, tmp_path)


@linux
@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("a.txt", " "), ("a.txt", "\t"), ("a.txt", "\u00a0"), ("a.fountain", "["),
        ("a.fountain", "/*"), ("a.fountain", " "), ("a.md", " "), ("a.md", "<!--"),
    ],
)  # fmt: skip
def test_a_run_of_one_sign_does_not_take_time_in_its_square(
    tmp_path: Path, name: str, unit: str
) -> None:
    run = unit * (LONG_RUN // len(unit))
    with processor_time():
        texts.read(name, f"{texts.TEXT}\n{run}x {texts.TEXT}".encode(), tmp_path)


@linux
def test_signs_that_close_a_heading_do_not_take_time_in_their_square(tmp_path: Path) -> None:
    (tmp_path / "s.md").write_text(f"# One #\n\n{texts.TEXT}\n\n## {'#' * LONG_RUN}x\n\nEnd.")
    with processor_time():
        story = import_story(tmp_path / "s.md").story
    assert "End." in story.text


def test_a_number_of_thousands_of_digits_is_no_json_file(tmp_path: Path) -> None:
    for name in ("a.json", "a.jsonl"):
        said = refused(texts.read, name, b"[" + b"1" * 5000 + b"]", tmp_path)
        assert "a number that is too long" in said
    said = refused(texts.read, "a.json", b"{} " + b"1" * 5000, tmp_path)
    assert "line 1: not valid JSON" in said


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("data", [b"[]\n{}", b"{}\n{}"])
def test_rows_without_any_column_are_refused(tmp_path: Path, data: bytes, skip: bool) -> None:
    assert "without any column" in refused(texts.read, "a.jsonl", data, tmp_path, skip)


def test_a_table_of_very_many_columns_is_refused(tmp_path: Path) -> None:
    data = b"\t".join([b"x"] * 30_000) + b"\n" + PROSE_ROW
    assert "30,000 columns" in refused(texts.read, "a.tsv", data, tmp_path)


PROSE_ROW = b"\t".join([b"y"] * 30_000) + b"\n"


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


def test_xml_of_a_wrong_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b.fodt").write_bytes(texts.FODT[0].replace(b"lamp", b"l\xe9mp"))
    assert "is no XML" in refused(read_texts, tmp_path / "b.fodt")


def test_a_kind_of_choice_that_is_a_list_is_refused(tmp_path: Path) -> None:
    row = {"prompt": "The", "chosen": " mill", "rejected": " rat", "kind": []}
    (tmp_path / "c.jsonl").write_bytes(texts.to_json(row))
    assert "`kind` is []" in refused(read_any, tmp_path / "c.jsonl")
    (tmp_path / "c.jsonl").write_text('{"prompt": "a", "text": "b", "index": 0, "line": []}\n')
    assert "line must be a number" in refused(read_any, tmp_path / "c.jsonl")


@pytest.mark.parametrize(
    "text",
    [
        "a: 2001-99-99", "a: !!timestamp x", "a: !!int ''", "a: !!bool x", "a: !!python/name:os.x",
        "a: &a [*a]", "[" * 900, "[" * 900_000, "a: " + "9" * 5000, "? [a]\n: b\n? {}\n: c",
        "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b]\n"
        "d: &d [*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e]",
    ],
)  # fmt: skip
def test_yaml_that_is_more_than_plain_values_is_refused(text: str) -> None:
    said = refused(parse_yaml, text, "mine.yaml")
    assert "mine.yaml is not valid YAML" in said or "nested too deeply" in said


def test_aliases_of_a_usual_size_are_read() -> None:
    assert parse_yaml("a: &a {b: 1}\nc:\n  <<: *a\n  d: 2", "x")["c"] == {"b": 1, "d": 2}


@pytest.mark.parametrize(
    "name", ["undefined", "idna", "unicode_escape", "hex", "utf-9", "\\0", "x"]
)
def test_an_encoding_that_is_none_of_files_is_passed_over(tmp_path: Path, name: str) -> None:
    page = f"<meta charset='{name}'><p>{texts.TEXT} \\ud800 \\xff</p>".encode()
    (tmp_path / "a.html").write_bytes(page)
    assert "\\ud800" in read_texts(tmp_path / "a.html").texts[0][1]


def test_markup_of_millions_of_tags_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    page = texts.HTML[0].replace(b"<p>", b"<p>" + b"<b>x</b>" * 2_000_001)
    (tmp_path / "a.html").write_bytes(page)
    assert "4,000,0" in refused(read_texts, tmp_path / "a.html")


def test_what_the_file_system_has_against_a_name_is_no_fault_of_the_studio() -> None:
    async def read_it(http: Any) -> Any:
        return Path("x" * 5000).read_text()

    app = Starlette(routes=[Route("/", answered(read_it))])
    answer = TestClient(app).get("/")
    assert answer.status_code == 400
    assert "File name too long" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "change",
    [{"settings": 5}, {"files": 5}, {"files": {"a": 1}}, {"compare": "ab"},
     {"max_documents": "x"}, {"max_documents": 1e400}, {"max_documents": -1}, {"voice": 1.5}],
)  # fmt: skip
def test_bodies_of_another_kind_are_refused_by_name(change: dict[str, Any]) -> None:
    name = next(iter(change))
    act = {"settings": object_in, "max_documents": number_in}.get(name, list_in)
    assert refused(act, change, name).startswith(f"{name} must be")
    assert not act({}, name)


@pytest.mark.slow
def test_an_archive_of_very_many_members_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.epub").write_bytes(texts.many_members())
    assert "lamp" in read_texts(tmp_path / "a.epub").texts[0][1]


@linux
@pytest.mark.slow
def test_a_few_hostile_inputs_of_every_reader_end_well_or_in_one_line(tmp_path: Path) -> None:
    found = in_process(",".join(targets()), seed=1, cases=1, seconds=300, where=tmp_path)
    assert {one.target for one in found} == set(targets())
    assert not [fault for one in found for fault in one.faults]
    assert sum(one.cases for one in found) >= len(targets())


@linux
@pytest.mark.slow
def test_the_sandbox_sees_what_it_looks_for(tmp_path: Path) -> None:
    names = ["writer", "error", "exit", "connection", "memory", "hoard"]
    found = in_process(",".join(f"bad-{n}" for n in names), 1, 2, 20, where=tmp_path)
    kinds = [fault["kind"] for one in found for fault in one.faults]
    wanted = ["outside.txt", "not one line", "KeyError", "socket.connect", "MemoryError",
              "MemoryError"]  # fmt: skip
    assert len(kinds) == len(wanted)
    assert all(part in kind for part, kind in zip(wanted, kinds, strict=True)), kinds


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        # One of an array of so many numbers, and none of them.
        (struct.pack("<Q1sIIQ", 1, b"a", 9, 0, 1 << 20), "continues past the end"),
        (struct.pack("<Q1sIIQ", 1, b"a", 9, 0, 1 << 40), "more than"),
        (struct.pack("<Q1sIIQ", 1, b"a", 9, 8, 1 << 22), "more than"),
        (struct.pack("<Q1sIIQIQ", 1, b"a", 9, 9, 1, 0, 1 << 40), "unknown kind 9"),
        (struct.pack("<Q1sI", 1, b"a", 77), "unknown kind 77"),
        (struct.pack("<Q", 1 << 60), "continues past the end"),
        (b"", "continues past the end"),
    ],
)
def test_counts_of_gguf_beyond_its_file_or_all_bounds_are_refused(
    tmp_path: Path, keys: bytes, said: str
) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + keys)
    assert said in refused(GGUFModel, path)
    path.write_bytes(b"GGUF" + struct.pack(">IQQ", 3, 0, 1 << 50))
    assert "more than" in refused(GGUFModel, path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"r": 10**9}, "its rank is"), ({"rank_pattern": {"x": 10**9}}, "its rank is"),
        ({"layer_replication": [[0, 10**9]]}, "repeats layers"),
        ({"layer_replication": 5}, "repeats layers"),
        ({"target_modules": "(a+)+$"}, "take for ever"),
        ({"exclude_modules": "(.*)*x"}, "take for ever"),
        ({"modules_to_save": [".*" * 13 + "x"]}, "take for ever"),
        ({"rank_pattern": {"(x|xx){9}y": 2}}, "take for ever"),
    ],
)  # fmt: skip
def test_an_adapter_that_would_take_all_memory_or_time_is_refused(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    files = models.adapter({**models.CONFIG, **change})
    assert said in refused(read_adapter, models.put(files, tmp_path))


def test_patterns_that_tools_write_are_read(tmp_path: Path) -> None:
    pattern = (
        r"(?:.*?(?:vision|language).*?(?:self_attn|mlp).*?(?:k_proj|v_proj).*?)|"
        r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn)\.(?:(?:k_proj|v_proj)))"
    )
    files = models.adapter({**models.CONFIG, "target_modules": pattern})
    assert read_adapter(models.put(files, tmp_path)).shapes


@pytest.mark.parametrize("parameters", [{"scale": 2.0, "dropout": "x"}, {"scale": float("nan")}])
def test_numbers_of_mlx_that_are_none_are_refused(tmp_path: Path, parameters: Any) -> None:
    config = {"fine_tune_type": "lora", "model": "x", "lora_parameters": parameters}
    files = models.adapter(config)
    assert "no lora_parameters" in refused(read_adapter, models.put(files, tmp_path))


@pytest.mark.parametrize(
    "values", [{"learning_rate": 10**400}, {"mix": {"a": 10**400}}, {"lora_alpha": "9" * 5000}]
)
def test_numbers_too_large_for_a_float_are_refused(values: dict[str, Any]) -> None:
    assert next(iter(values)) in refused(load_config, None, values)
