"""`cwgpt analyze` and `python analysis.py`, through the real command, on a tiny model."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from creativewritinggpt.cli.main import main

pytestmark = pytest.mark.cli
ROOT = Path(__file__).resolve().parents[2]
FAST = ["--device", "cpu", "--precision", "fp32", "--num-workers", "1", "--samples", "2",
        "--steps", "4"]  # fmt: skip


@pytest.fixture
def folder(tiny_folder: Any, tmp_path: Path, monkeypatch: Any) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", open("/dev/null"))  # noqa: SIM115
    found: Path = tiny_folder("llama")
    return found


def test_without_a_text_the_original_sentences_are_explained(folder: Path, capsys: Any) -> None:
    words = ["analyze", "--methods", "attention,gradients", "--model", str(folder), "--json"]
    assert main([*words, *FAST]) == 0
    said = capsys.readouterr()
    assert "--samples has no effect: perturbation is not computed" in said.err
    assert "--steps has no effect" not in said.err
    document = json.loads(said.out)
    assert len(document["results"]) == 3 and document["aggregate"]["log_probability"]["texts"] == 3
    assert document["results"][0]["text"] == "The enchanted castle held secrets that"
    places = sorted(path.name for path in Path("results").iterdir() if path.is_dir())
    assert places[0] == "01-the-enchanted-castle-held-secrets-that" and len(places) == 3
    assert (Path("results") / places[2] / "report.html").is_file()
    assert (Path("results") / "summary.json").is_file()


def test_the_original_command_explains_what_the_model_writes(
    folder: Path, capsys: Any, monkeypatch: Any
) -> None:
    words = ["The lamp went out, and", "--write", "3", "--model", str(folder), "--svg",
             "--layers", "1", *FAST]  # fmt: skip
    monkeypatch.setattr("sys.argv", ["analysis.py", *words])
    monkeypatch.setattr("sys.path", [str(ROOT), *sys.path])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "analysis.py"), run_name="__main__")
    said = capsys.readouterr()
    assert ended.value.code == 0, said.err
    assert said.out == "" and "integrated gradients" in said.err
    names = {path.name for path in Path("results").iterdir()}
    assert {"attention_layer01.png", "attention_layer01.svg", "gradients.svg"} <= names
    assert "attention_layer00.png" not in names
    record = json.loads(Path("results/results.json").read_text("utf-8"))
    assert len(record["targets"]) == 3 and record["text"].startswith("The lamp went out, and")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([""], "no text to explain"),
        (["The lamp", "--target", "window"], "is not in the text"),
        (["The lamp", "--layers", "9"], "there is no layer 9"),
        (["The lamp", "--methods", "magic"], "magic"),
        (["The lamp", "--write", "3", "--target", "lamp"], "exclude each other"),
        (["The lamp", "--texts", "missing.txt"], "not both"),
        (["--texts", "missing.txt"], "missing.txt"),
    ],
)
def test_bad_input_is_one_line(words: list[str], message: str, folder: Path, capsys: Any) -> None:
    assert main(["analyze", *words, "--model", str(folder), *FAST]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert any(line.startswith("error: ") for line in lines[-2:])
    assert message in "\n".join(lines[-2:]) and "Traceback" not in "\n".join(lines)


def test_a_file_of_texts_with_odd_characters(folder: Path) -> None:
    Path("texts.txt").write_text("A $5 🐉 & <|endoftext|>\n\n“Who?” she asked_\n", "utf-8")
    words = ["analyze", "--texts", "texts.txt", "--methods", "gradients,perturbation"]
    assert main([*words, "--model", str(folder), *FAST]) == 0
    places = sorted(place for place in Path("results").iterdir() if place.is_dir())
    texts = [json.loads((place / "results.json").read_text("utf-8"))["text"] for place in places]
    assert texts == ["A $5 🐉 & <|endoftext|>", "“Who?” she asked_"]
    page = (places[0] / "report.html").read_text("utf-8")
    assert "🐉" in page and "http://" not in page.replace("http://www.w3.org", "")


def test_an_argument_that_is_no_utf8_is_explained_with_marks(folder: Path) -> None:
    words = ["analyze", "The caf\udce9 was", "--contrast", "\udce9", "--methods", "gradients"]
    assert main([*words, "--model", str(folder), *FAST]) == 0
    record = json.loads(Path("results/results.json").read_text("utf-8"))
    assert record["text"] == "The caf\ufffd was"


def test_after_ctrl_c_what_is_finished_is_written(
    folder: Path, monkeypatch: Any, capsys: Any
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("creativewritinggpt.analysis.methods.perturbation.perturb", stop)
    assert main(["analyze", "The lamp went out", "--model", str(folder), *FAST]) == 130
    said = capsys.readouterr().err
    assert "a first answer" in said.partition("stopped;")[0]
    assert "not finished: perturbation, difference" in said
    record = json.loads(Path("results/results.json").read_text("utf-8"))
    assert record["unfinished"][0] == "perturbation" and record["gradient_scores"]
    assert record["perturbation_scores"] is None
    names = {path.name for path in Path("results").iterdir()}
    assert {"attention_layer00.png", "gradients.png", "report.html"} <= names
    assert "perturbation.png" not in names
