"""Many prompts from a file: order, fields, resuming, and what can't be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from creativewritinggpt.errors import InputError
from creativewritinggpt.generation import batch
from creativewritinggpt.generation.batch import read_prompts, write_file
from creativewritinggpt.generation.engine import Interrupted, write
from creativewritinggpt.generation.sampling.settings import GenerationSettings

SETTINGS = GenerationSettings(max_new_tokens=6, seed=3)
LINES = [
    '"The lamp went out"',
    '{"prompt": "Nobody answered;", "id": "b", "seed": 11}',
    "",
    '{"prompt": "", "memory": "A king.\\n"}',
    *(f'{{"prompt": "Once upon {i}"}}' for i in range(9)),
]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(LINES) + "\n", "utf-8")
    return path


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def core(row: dict[str, Any]) -> list[Any]:
    return [row[name] for name in ("line", "index", "prompt", "text", "seed", "finish_reason")]


def test_every_prompt_gets_what_it_gets_alone(tiny_writer: Any, prompts: Path) -> None:
    writer, out = tiny_writer("gpt2"), prompts.with_name("out.jsonl")
    told: list[tuple[int, int]] = []
    assert write_file(writer, prompts, out, SETTINGS, 2, progress=lambda *p: told.append(p)) == 12
    found = rows(out)
    assert told[-1] == (12, 12) and told == sorted(told)
    assert [row["line"] for row in found] == [n for n in [1, 2, *range(4, 14)] for _ in range(2)]
    assert [row["index"] for row in found] == [0, 1] * 12
    assert [row["seed"] for row in found[:4]] == [3, 4, 11, 12] and found[2]["id"] == "b"
    [alone] = write(writer, "", SETTINGS, memory="A king.\n")
    assert found[4]["text"] == alone.text and found[4]["model"] == writer.name
    assert found[4]["settings"]["max_new_tokens"] == 6 and len(found[4]["tokens"]) <= 6


def test_resume_goes_on_after_the_last_whole_line(tiny_writer: Any, prompts: Path) -> None:
    writer, out = tiny_writer("gpt2"), prompts.with_name("out.jsonl")
    write_file(writer, prompts, out, SETTINGS, 2)
    whole = out.read_bytes()
    lines = whole.splitlines(keepends=True)
    for kept in (b"", b"".join(lines[:7]), b"".join(lines[:4]) + lines[4][:30], whole):
        out.write_bytes(kept)
        write_file(writer, prompts, out, SETTINGS, 2, resume=True)
        assert out.read_bytes().count(b"\n") == 24
        assert list(map(core, rows(out))) == [core(json.loads(line)) for line in lines]


def test_an_output_that_is_there_or_of_other_prompts_is_left(
    tiny_writer: Any, prompts: Path
) -> None:
    writer, out = tiny_writer("gpt2"), prompts.with_name("out.jsonl")
    write_file(writer, prompts, out, SETTINGS)
    before = out.read_bytes()
    with pytest.raises(InputError, match="exists") as caught:
        write_file(writer, prompts, out, SETTINGS)
    assert "--resume" in str(caught.value.advice)
    other = prompts.with_name("other.txt")
    other.write_text("A line\nAnother\n", "utf-8")
    with pytest.raises(InputError, match="other prompts"):
        write_file(writer, other, out, SETTINGS, resume=True)
    with pytest.raises(InputError, match="another --n"):
        write_file(writer, prompts, out, SETTINGS, 3, resume=True)
    writer.name = "another"
    with pytest.raises(InputError, match="another model"):
        write_file(writer, prompts, out, SETTINGS, resume=True)
    assert out.read_bytes() == before


def test_resume_refuses_prompts_that_are_called_something_else(
    tiny_writer: Any, tmp_path: Path
) -> None:
    file, out = tmp_path / "p.jsonl", tmp_path / "out.jsonl"
    file.write_text('{"prompt": "A lamp", "id": "a"}\n', "utf-8")
    write_file(tiny_writer("gpt2"), file, out, SETTINGS)
    file.write_text('{"prompt": "A lamp", "id": "b"}\n', "utf-8")
    with pytest.raises(InputError, match="other prompts"):
        write_file(tiny_writer("gpt2"), file, out, SETTINGS, resume=True)
    assert rows(out)[0]["id"] == "a"


@pytest.mark.parametrize(
    ("line", "changes", "said"),
    [
        ({}, {"temperature": 0.3, "stop": ("x",)}, "another stop, temperature"),
        ({}, {"seed": 4}, "another seed"),
        ({"seed": 9}, {}, "another seed"),
        ({"memory": "A queen.\n"}, {}, "another memory"),
        ({"note": ""}, {}, "another note"),
    ],
)
def test_resume_refuses_to_go_on_with_other_settings(
    tiny_writer: Any, tmp_path: Path, line: dict[str, Any], changes: dict[str, Any], said: str
) -> None:
    file, out = tmp_path / "p.jsonl", tmp_path / "out.jsonl"
    row = {"prompt": "A lamp", "memory": "A king.\n", "note": "Dark."}
    file.write_text(json.dumps(row) + "\n", "utf-8")
    writer = tiny_writer("gpt2")
    write_file(writer, file, out, SETTINGS)
    before = out.read_bytes()
    assert (rows(out)[0]["memory"], rows(out)[0]["note"]) == ("A king.\n", "Dark.")
    write_file(writer, file, out, SETTINGS, resume=True)
    file.write_text(json.dumps({**row, **line}) + "\n", "utf-8")
    with pytest.raises(InputError, match=said):
        write_file(writer, file, out, SETTINGS.changed(changes), resume=True)
    assert out.read_bytes() == before


def test_resume_goes_on_with_a_seed_that_nobody_chose(tiny_writer: Any, prompts: Path) -> None:
    writer, out = tiny_writer("gpt2"), prompts.with_name("out.jsonl")
    settings = SETTINGS.changed({"seed": None, "best_of": 3, "rank_by": "likelihood"})
    write_file(writer, prompts, out, settings, 2)
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:9]))
    write_file(writer, prompts, out, settings, 2, resume=True)
    assert out.read_bytes().startswith(b"".join(lines[:8])) and len(rows(out)) == 24


@pytest.mark.parametrize("mine", ["My only chapter.", '{"title": "Mine"}', "A\nB"])
def test_resume_cuts_nothing_off_that_is_not_its_own(
    tiny_writer: Any, prompts: Path, mine: str
) -> None:
    out = prompts.with_name("chapter.txt")
    out.write_text(mine, "utf-8")
    with pytest.raises(InputError, match="is not the output"):
        write_file(tiny_writer("gpt2"), prompts, out, SETTINGS, resume=True)
    assert out.read_text("utf-8") == mine


def test_what_was_whole_at_ctrl_c_is_in_the_file(
    tiny_writer: Any, prompts: Path, monkeypatch: Any
) -> None:
    writer, out = tiny_writer("gpt2"), prompts.with_name("out.jsonl")
    real, calls = batch.write_all, []

    def stopped(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise Interrupted([])
        return real(*args, **kwargs)

    monkeypatch.setattr(batch, "write_all", stopped)
    with pytest.raises(Interrupted) as caught:
        write_file(writer, prompts, out, SETTINGS)
    assert caught.value.advice == "go on with --resume" and len(rows(out)) == 8


def test_best_of_keeps_the_best_of_each_prompt(tiny_writer: Any, prompts: Path) -> None:
    out = prompts.with_name("out.jsonl")
    settings = SETTINGS.changed({"best_of": 3, "rank_by": "likelihood"})
    write_file(tiny_writer("gpt2"), prompts, out, settings)
    assert len(rows(out)) == 12 and all("score" in row for row in rows(out))


def test_plain_text_is_a_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("One\u2028half\r\n\n{two}\n", "utf-8")
    assert [(p.line, p.text) for p in read_prompts(path)] == [(1, "One\u2028half"), (3, "{two}")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no prompts"),
        ("{", "line 1: not JSON"),
        ("[" * 100_000, "line 1: not JSON"),
        ('"a"\n5', "line 2: neither"),
        ('{"text": "a"}', "line 1: neither"),
        ('{"prompt": "a", "seed": -1}', "seed is -1"),
        ('{"prompt": "a", "seed": true}', "seed is True"),
        ('{"prompt": "a", "note": 4}', "memory and note"),
        ('{"prompt": "a", "id": []}', "id must be"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(text, "utf-8")
    with pytest.raises(InputError, match=said):
        read_prompts(path)


def test_a_byte_order_mark_is_no_part_of_a_prompt(tmp_path: Path) -> None:
    for name, text in (("p.jsonl", '"a"'), ("p.txt", "a")):
        (tmp_path / name).write_text(text, "utf-8-sig")
        assert [prompt.text for prompt in read_prompts(tmp_path / name)] == ["a"]


def test_an_output_that_is_a_folder_is_named(tiny_writer: Any, prompts: Path) -> None:
    with pytest.raises(InputError, match="can't be written"):
        write_file(tiny_writer("gpt2"), prompts, prompts.parent, SETTINGS, resume=True)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_prompts(tmp_path / "none.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        read_prompts(tmp_path / "binary.txt")
