"""What a training run says and records of its data."""

import json

import pytest
from corpora import write_stories

from creativewritinggpt import train
from creativewritinggpt.cli.main import main

pytestmark = pytest.mark.cli
FAST = ["--device=cpu", "--precision=fp32", "--num-workers=1", "--max-length=48", "--max-steps=1"]


def _record(output):
    return json.loads((output / "final_model" / "run.json").read_text())["data"]


def test_a_run_says_and_records_what_it_mixed_and_what_it_left_out(tiny_folder, tmp_path, capsys):
    many = write_stories(tmp_path / "many.jsonl", count=80)
    few = write_stories(tmp_path / "stories_of_the_sea.jsonl", count=20, seed=1)
    with few.open("a") as stream:
        stream.write('{"prompt": "half\n')
    words = ["train", f"--model-name={tiny_folder('gpt2')}", f"--output-dir={tmp_path / 'out'}"]
    words += [*FAST, "--samples=0", "--mix=temperature=2", "--val-tokens=100"]
    assert main([*words, str(many), str(few)]) == 2
    assert "line 21: not valid JSON" in capsys.readouterr().err
    files = [str(many), str(few), str(tmp_path / "no.txt")]
    assert main([*words, "--skip-missing", "--skip-bad-rows", *files]) == 0
    said = capsys.readouterr().err
    assert "going on without" in said and "no.txt does not exist" in said
    assert "left out: 1 bad rows" in said
    start = next(i for i, line in enumerate(said.splitlines()) if line.startswith("source"))
    table = said.splitlines()[start - 1 : start + 3]
    assert max(map(len, table)) <= 80 and sum("%" in line for line in table) == 2

    data = _record(tmp_path / "out")
    assert list(data["missing"]) == [files[2]]
    assert data["sources"][few.stem]["dropped"] == {"bad rows": 1}
    shares = {name: entry["share"] for name, entry in data["mixture"].items()}
    assert shares[few.stem] == pytest.approx(1 / 3, abs=0.04)  # 1 : sqrt(80 / 20)
    assert data["held_out"]["scored"] <= 100 + 2 * 48 < data["held_out"]["tokens"]
    assert "Each validation scores the same" in said


def test_a_source_of_an_installed_package_is_trained_on_by_its_name(
    tiny_folder, tmp_path, monkeypatch
):
    (tmp_path / "haiku_plugin.py").write_text(
        "from creativewritinggpt.data.document import Document\n"
        "def haiku(config):\n"
        "    for i in range(40):\n"
        "        yield Document('haiku', str(i), f'Old pond {i}, a frog jumps in, {i * i}')\n"
    )
    info = tmp_path / "haiku-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: haiku\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[creativewritinggpt.sources]\nhaiku = haiku_plugin:haiku\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = ["train", f"--model-name={tiny_folder('gpt2')}", *FAST, "--sources=haiku"]
    assert main([*words, f"--output-dir={tmp_path / 'out'}"]) == 0
    data = _record(tmp_path / "out")
    assert data["sources"]["haiku"]["train"] == 36
    assert data["sources"]["haiku"]["origin"] == {"function": "haiku_plugin.haiku"}


def test_keep_of_the_python_api_leaves_documents_out_and_is_recorded(tiny_folder, tmp_path):
    stories = write_stories(tmp_path / "stories.jsonl", count=60)

    def ends_in_five(document):
        return document.prompt.split()[1].endswith("5")

    settings = {"device": "cpu", "precision": "fp32", "num_workers": 1, "max_length": 48}
    train(
        stories, model_name=str(tiny_folder("gpt2")), output_dir=str(tmp_path / "out"), max_steps=1,
        keep={"stories": ends_in_five}, **settings,
    )  # fmt: skip
    entry = _record(tmp_path / "out")["sources"]["stories"]
    assert entry["documents"] == 6 and list(entry["dropped"].values()) == [54]
    assert "ends_in_five" in entry["notes"][0]
