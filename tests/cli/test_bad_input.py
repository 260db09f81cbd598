"""What can't work ends in one clear line, the right exit code, and nothing damaged."""

import os
import subprocess
import sys

import pytest
from corpora import write_stories

from creativewritinggpt.cli.main import main

pytestmark = pytest.mark.cli
FAST = ["--device", "cpu", "--precision", "fp32", "--num-workers", "1", "--max-length", "48"]
TEXT = "The captain laughed at the sea, and the lamp went out. " * 12


@pytest.fixture
def train(tiny_folder, tmp_path, capsys):
    """``train(words…)``: the exit code and what was said, on a tiny model."""
    model = tiny_folder("gpt2")

    def call(*words, model_name=model):
        capsys.readouterr()
        code = main(
            ["train", "--model-name", str(model_name), "--output-dir", str(tmp_path / "out"),
             "--max-steps", "1", *FAST, *map(str, words)]
        )  # fmt: skip
        captured = capsys.readouterr()
        assert captured.out == ""
        return code, captured.err

    return call


def _is_one_clear_line(code, said, *parts, exit_code=2):
    assert code == exit_code, said
    lines = said.rstrip("\n").splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("error: "))
    assert len(lines) - at <= 2, said
    assert "Traceback" not in said
    for part in parts:
        assert part in said, said


def test_missing_file(train, tmp_path):
    _is_one_clear_line(*train(tmp_path / "no.txt"), "no.txt")


def test_empty_file(train, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    _is_one_clear_line(*train(tmp_path / "empty.txt"), "empty.txt")


def test_file_of_blanks(train, tmp_path):
    (tmp_path / "blank.txt").write_text(" \n\n\t\n" * 50)
    _is_one_clear_line(*train(tmp_path / "blank.txt"), "blank")


def test_binary_file(train, tmp_path):
    (tmp_path / "picture.txt").write_bytes(bytes(range(256)) * 40)
    _is_one_clear_line(*train(tmp_path / "picture.txt"), "picture.txt")


def test_unknown_kind_of_file(train, tmp_path):
    (tmp_path / "song.mp3").write_bytes(b"ID3\x00\x01\x02" * 100)
    _is_one_clear_line(*train(tmp_path / "song.mp3"), "song.mp3")


def test_one_document_is_trained_on_with_its_tail_held_out(train, tmp_path):
    (tmp_path / "one.txt").write_text("\n\n".join(f"{n}. {TEXT}" for n in range(12)))
    code, said = train(tmp_path / "one.txt")
    assert code == 0, said


def test_one_sentence_only(train, tmp_path):
    (tmp_path / "short.txt").write_text("The lamp went out.")
    _is_one_clear_line(*train(tmp_path / "short.txt"))


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-8-sig"])
def test_other_encodings_are_read(train, tmp_path, encoding):
    text = "\n\n".join(f"Café {n}. Ein Mädchen saß am Fluß, très tôt. {TEXT}" for n in range(12))
    (tmp_path / "other.txt").write_bytes(text.encode(encoding))
    code, said = train(tmp_path / "other.txt")
    assert code == 0, said
    kept = (tmp_path / "out" / "validation.jsonl").read_text("utf-8")
    assert "Café" in kept or "saß" in kept
    assert "Ã" not in kept and "\\u0000" not in kept


def test_columns_that_could_be_either_are_asked_for(train, tmp_path):
    (tmp_path / "table.csv").write_text("alpha,beta\n" + f'"{TEXT}","{TEXT}"\n' * 5)
    _is_one_clear_line(*train(tmp_path / "table.csv"), "alpha", "--text-column")


def test_bad_line_of_json(train, tmp_path):
    file = write_stories(tmp_path / "s.jsonl", count=20)
    lines = file.read_text().splitlines()
    lines[4] = lines[4][:-9]
    file.write_text("\n".join(lines))
    _is_one_clear_line(*train(file), "s.jsonl", "5")
    code, said = train(file, "--skip-bad-rows")
    assert code == 0, said


def test_unknown_setting_and_flag(train, tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text("lora_rank: 3\n")
    _is_one_clear_line(*train("--config", config), "lora_rank", "lora_r")
    _is_one_clear_line(*train("--lora-rank", "3"), "--lora-rank", "--lora-r")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--lora-r", "0"], "lora_r is 0"),
        (["--lora-r", "many"], "lora_r must be a whole number, not 'many'"),
        (["--learning-rate", "nan"], "learning_rate is nan"),
        (["--schedule", "steps"], "schedule is 'steps'"),
        (["--target-modules", "nowhere"], "nowhere"),
        (["--device", "quantum"], "quantum"),
    ],
)
def test_value_out_of_range(train, tmp_path, words, part):
    file = write_stories(tmp_path / "s.jsonl", count=20)
    _is_one_clear_line(*train(file, *words), part)


def test_model_folder_without_weights(train, tmp_path, tiny_folder):
    folder = tiny_folder("qwen")
    (folder / "model.safetensors").unlink()
    file = write_stories(tmp_path / "s.jsonl", count=20)
    _is_one_clear_line(*train(file, model_name=folder), str(folder), "safetensors")


def test_corrupt_safetensors(train, tmp_path, tiny_folder):
    folder = tiny_folder("qwen")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    file = write_stories(tmp_path / "s.jsonl", count=20)
    _is_one_clear_line(*train(file, model_name=folder), "model.safetensors")


def test_no_network_and_no_cached_model_names_the_ways_out(train, tmp_path):
    file = write_stories(tmp_path / "s.jsonl", count=20)
    code, said = train(file, model_name="gpt2")
    assert code in (1, 2)
    _is_one_clear_line(code, said, "gpt2", "--model-name starter", exit_code=code)


def test_full_disk(train, tmp_path, monkeypatch):
    import errno

    file = write_stories(tmp_path / "s.jsonl", count=20)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    _is_one_clear_line(*train(file), "the disk is full", exit_code=1)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or sys.platform != "linux",
    reason="mounts a small disk",
)
def test_full_small_disk_keeps_what_was_saved(train, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(small)])
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount a disk")
    try:
        file = write_stories(tmp_path / "s.jsonl", count=20)
        code, said = train(
            file, "--output-dir", small / "out", "--lora-r", "64", "--target-modules", "all-linear",
            "--eval-steps", "1", "--max-steps", "3",
        )  # fmt: skip
        _is_one_clear_line(code, said, "the disk is full", exit_code=1)
        leftovers = [p for p in (small / "out").rglob("*") if ".new." in p.name or ".tmp" in p.name]
        assert leftovers == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_output_folder_that_holds_a_run(train, tmp_path):
    file = write_stories(tmp_path / "s.jsonl", count=20)
    assert train(file)[0] == 0
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    _is_one_clear_line(*train(file), "already holds a run", "--resume", "--overwrite")
    _is_one_clear_line(*train(file, "--resume", "--overwrite"), "leave one of the two out")
    assert {p: p.read_bytes() for p in before} == before


def test_output_folder_that_is_a_file(train, tmp_path):
    (tmp_path / "out").write_text("mine")
    file = write_stories(tmp_path / "s.jsonl", count=20)
    _is_one_clear_line(*train(file), "is a file")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["generate", "x", "--model", "missing/folder/here"], "missing/folder/here"),
        (["generate", "x", "--n", "0"], "--n"),
        (["generate", "x", "--n", "²"], "give a whole number from 1 to 64"),
        (["generate", "x", "--prompts", "p.txt", "--out", "o.jsonl"], "not both"),
        (["generate", "x", "--temperature", "-1"], "temperature"),
        (["generate", "--prompts", "missing.txt"], "missing.txt"),
        # Before the model, which is missing too.
        (["generate", "--prompts", "none.txt", "--out", "o", "--model", "m"], "none.txt"),
        (["generate", "--prompts", "here.txt", "--out", "here.txt", "--model", "m"], "exists"),
        (["generate", "--prompts", "here.txt", "--out", "here.txt/o", "--model", "m"], "here.txt"),
        (["generate", "x", "--out", "here.txt", "--model", "m"], "exists"),
        (["generate", "x", "--resume"], "--resume goes with --out"),
        (["generate", "--story", "s.json", "--out", "o.jsonl"], "--story begins a session"),
        (["choices", "none.json"], "none.json does not exist"),
        (["choices", "."], "is a folder"),
        (["choices", "here.txt"], "no JSON object"),
        (["choices", "here.txt", "--out", "here.txt"], "is there already"),
        (["choices"], "the following arguments are required: FILE"),
        (["generate", "x", "--adapter", "a:0.7", "--adapter", "b", "--style", "1"], "--style"),
        (["generate", "x", "--adapter", "a:0.7", "--style", "0.5"], "--style"),
        (["evaluate", "--output-dir", "nowhere"], "no held-out documents"),
        (["evaluate", "--compare", "evaluation.jsonl"], "names no model"),
        (["evaluate", "--compare", "a", "evaluation.jsonl"], "there is no evaluation.jsonl"),
        (["evaluate", "--compare", "a", "--model", "b"], "exclude each other"),
        (["evaluate", "--window", "1"], "window is 1"),
        (["demo", "--precision", "int8"], "choose one of: auto, fp32, bf16"),
        (["generate", "x", "--precision", "int8"], "choose one of: auto, fp32, bf16"),
        (["evaluate", "--precision", "int8"], "choose one of: auto, fp32, bf16"),
        (["analyze", "x", "--precision", "int8"], "choose one of: auto, fp32, bf16"),
        (["trian"], "did you mean cwgpt train?"),
        (["recipes", "cake"], "no recipe 'cake'"),
        (["train", "--config", "nothing.yaml"], "nothing.yaml"),
    ],
)
def test_other_verbs(words, part, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.txt").write_text("A lamp\n")
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115
    _is_one_clear_line(main(words), capsys.readouterr().err, part)


def test_a_device_that_is_not_there_is_refused(tiny_folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115
    code = main(["generate", "x", "--model", str(tiny_folder("gpt2")), "--device", "tpu"])
    _is_one_clear_line(code, capsys.readouterr().err, "device is 'tpu'")


def test_closed_standard_streams_are_no_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", None)
    _is_one_clear_line(
        main(["generate", "x", "--model", "missing/folder/here"]),
        capsys.readouterr().err, "missing/folder/here",
    )  # fmt: skip
    monkeypatch.setattr("sys.stdout", None)
    monkeypatch.setattr("sys.stderr", None)
    assert main(["generate", "--presets"]) == 0


def test_a_full_disk_under_the_output_is_said():
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "creativewritinggpt", "recipes"],
            stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        "error: the disk is full", "free some space and run the command again"
    ]  # fmt: skip


def test_debug_shows_where_an_error_comes_from(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "--output-dir", "nowhere", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err
