"""One evaluation by several processes: the figures of one, said by the first; one line an error."""

import json
from pathlib import Path

import pytest
import torch
from corpora import write_stories
from launches import launch

from creativewritinggpt.cli.main import main
from creativewritinggpt.config.run import Config
from creativewritinggpt.devices import choose
from creativewritinggpt.models.adapter import attach, save_model
from creativewritinggpt.models.loading import load_base

pytestmark = [pytest.mark.cli, pytest.mark.slow]
FAST = ["--device=cpu", "--precision=fp32", "--num-workers=1"]


def _adapter(base, folder):
    """An adapter that changes what the model says."""
    writer = load_base(str(base), choose("cpu", "fp32", 1))
    attach(writer, Config(model_name=str(base)))
    torch.manual_seed(1)
    for name, parameter in writer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    save_model(writer, folder, {}, "")
    return folder


def _files(folder):
    """All that an evaluation wrote but the account of how it was made."""
    found = json.loads((Path(folder) / "evaluation.json").read_text())
    del found["made_by"]
    names = [path.name for path in Path(folder).glob("evaluation*.jsonl")]
    return found, {name: (Path(folder) / name).read_text() for name in names}


def test_two_processes_give_the_figures_of_one_to_the_last_digit(tiny_folder, tmp_path):
    stories = write_stories(tmp_path / "stories.jsonl", 40, sentences=9)
    others = write_stories(tmp_path / "others.jsonl", 12, seed=1)
    model = _adapter(tiny_folder("gpt2"), tmp_path / "tuned")
    words = ["evaluate", stories, "--model", model, "--stride=32", "--legacy-ppl", "--rank=5",
             "--order=5", "--forgetting", others, "--texts=2", "--text-tokens=8",
             "--decoding=greedy", *FAST]  # fmt: skip
    assert main([*map(str, words), f"--output-dir={tmp_path / 'one'}"]) == 0
    shared = [*words, f"--output-dir={tmp_path / 'two'}", "--json"]
    first, second = launch(tmp_path / "said", shared, shared)
    assert first[0] == 0 and second == (0, "", ""), first[2] + second[2]
    one, two = _files(tmp_path / "one"), _files(tmp_path / "two")
    assert one == two and len(one[1]) == 2
    assert set(one[0]["legacy_ppl"]) == {"base", "tuned"} and one[0]["forgetting"]
    assert one[0]["domains"]["stories"]["difference"]["nats_per_token"] != 0
    assert set(one[0]["tests"]) == {"prompt_ranking", "sentence_order"}
    # The first process alone prints.
    printed = json.loads(first[1])
    del printed["made_by"]
    assert printed == two[0] and first[2].count(f"Written: {tmp_path}") == 1


def test_compared_models_are_shared_out_and_only_the_first_process_speaks(tiny_folder, tmp_path):
    stories = write_stories(tmp_path / "stories.jsonl")
    models = [tiny_folder("gpt2"), tiny_folder("llama")]
    words = ["evaluate", stories, "--compare", *models, "--legacy-ppl", "--texts=0", *FAST]
    assert main([*map(str, words), f"--output-dir={tmp_path / 'one'}"]) == 0
    shared = [*words, f"--output-dir={tmp_path / 'three'}"]
    first, *others = launch(tmp_path / "said", shared, shared, shared)
    assert first[0] == 0 and f"Written: {tmp_path}" in first[2], first[2]
    assert others == [(0, "", "")] * 2
    assert _files(tmp_path / "one") == _files(tmp_path / "three")


def test_error_of_one_process_or_of_all_ends_all_with_one_line(tiny_folder, tmp_path):
    model = tiny_folder("gpt2")
    stories = write_stories(tmp_path / "stories.jsonl", 4)
    words = ["--model", model, "--texts=0", f"--output-dir={tmp_path}", *FAST]
    good = ["evaluate", stories, *words]
    bad = ["evaluate", tmp_path / "missing.jsonl", *words]
    stride = [*good, "--stride=999"]
    cases = [
        ((bad, bad), "error: ", "missing.jsonl"),
        ((good, bad), "process 1 of 2: error: ", "missing.jsonl"),
        ((stride, stride), "error: ", "stride is 999"),
    ]
    for number, (pair, begins, part) in enumerate(cases):
        runs = launch(tmp_path / str(number), *pair)
        assert [code for code, _, _ in runs] == [2, 2]
        lines = "".join(err for _, _, err in runs).splitlines()
        assert 1 <= len(lines) <= 2 and lines[0].startswith(begins) and part in lines[0], lines


def test_processes_with_other_documents_than_the_first_are_refused(tiny_folder, tmp_path):
    model = tiny_folder("gpt2")
    words = ["--model", model, "--texts=0", f"--output-dir={tmp_path}", *FAST]
    files = [write_stories(tmp_path / f"{seed}.jsonl", 4, seed) for seed in (0, 1)]
    first, second = launch(tmp_path / "said", *(["evaluate", file, *words] for file in files))
    assert first[0] == second[0] == 2
    assert "error: this process has other documents or models than the first one" in second[2]
    assert "error" not in first[2]


def test_launch_of_an_evaluation_that_does_not_add_up_is_refused(tmp_path, monkeypatch, capsys):
    words = ["evaluate", "--sources=sample", f"--output-dir={tmp_path / 'out'}"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "WORLD_SIZE is 2, but no launcher has started this process" in said
    assert "-m creativewritinggpt evaluate" in said
    assert not (tmp_path / "out").exists()
