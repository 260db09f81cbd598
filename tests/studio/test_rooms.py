"""Train, Judge and Explain with a tiny model: real commands in processes of their own."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from corpora import TEXT, write_stories
from forked import ForkedProcesses
from studios import SmallStudio, wait_for

from creativewritinggpt.config.fields import MachineSettings
from creativewritinggpt.errors import InputError
from creativewritinggpt.models.loading import load_from_settings
from creativewritinggpt.story.tree import Story
from creativewritinggpt.studio.answers import Conflict
from creativewritinggpt.studio.explaining import Explaining
from creativewritinggpt.studio.judging import Judging, utf16
from creativewritinggpt.studio.runs import Runs
from creativewritinggpt.studio.training import Training

SETTINGS = {"max_length": 48, "batch_size": 4, "max_steps": 4, "eval_steps": 2, "lora_r": 4}


@pytest.fixture
def studio(tmp_path):
    return SmallStudio(tmp_path, TEXT * 2)


@pytest.fixture
def runs(studio):
    made = Runs(studio, watch=False)
    made.processes = ForkedProcesses()  # real ones are started in test_runs.py
    yield made
    for record in made.records():
        if record.ended is None:
            made.processes.end(record.identity)


@pytest.fixture
def training(studio, runs):
    return Training(studio, runs)


@pytest.fixture
def body(studio, tmp_path, tiny_folder):
    texts = write_stories(tmp_path / "my stories.jsonl")
    return {
        "files": [studio.ids.id(texts)],
        "model": studio.ids.id(tiny_folder("gpt2")),
        "settings": dict(SETTINGS),
    }


def test_options_come_with_help_and_defaults_starter_first(training):
    options = training.options()
    assert options["recipes"][0]["name"] == "starter" and options["recipes"][0]["why"]
    assert options["bases"][0]["id"] == "starter" and options["sources"][0]["name"] == "sample"
    fields = {field["name"]: field for field in options["fields"]}
    assert fields["lora_r"] == {
        "name": "lora_r", "label": "lora r", "help": "LoRA rank.", "kind": "int",
        "optional": False, "min": 1, "max": None, "choices": [], "default": 8,
        "group": "the adapter",
    }  # fmt: skip
    assert not {"output_dir", "track", "device"} & set(fields)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"files": ["none"]}, "no such file"),
        ({"files": "x"}, "list of texts"),
        ({"recipe": "none"}, "no recipe"),
        ({"settings": {"lora_r": 0}}, "lora_r"),
        ({"settings": {"lora_r": "x"}}, "whole number"),
        ({"settings": {"output_dir": "/"}}, "unknown setting"),
    ],
)
def test_what_cannot_be_used_is_said_and_leaves_nothing(training, runs, body, change, said):
    with pytest.raises(InputError, match=said):
        training.start({**body, **change})
    assert not list(runs.folder.iterdir()) and not runs.records()


def test_a_model_that_is_gone_is_said(training, studio, body, tmp_path):
    body["model"] = studio.ids.id(tmp_path / "gone")
    with pytest.raises(InputError, match="the model gone is gone"):
        training.start(body)


def test_a_voice_is_asked_for_by_an_authors_files_and_others(studio, runs, tmp_path):
    judging = Judging(studio, runs)
    files = [tmp_path / f"{name}.txt" for name in ("mine", "other", "third")]
    mine, *others = [studio.ids.id(path) for path in files]
    with pytest.raises(InputError, match="none to compare"):
        judging.start({"preset": "voice", "others": others})
    record = judging.start({"preset": "voice", "voice": [mine], "others": others})
    runs.end(record.id)
    at = record.words.index("--voice")
    assert record.words[at : at + 5] == [
        "--voice", str(files[0]), "--others", str(files[1]), str(files[2])
    ]  # fmt: skip
    assert not any(word.startswith("--sources") for word in record.words)
    assert record.about["files"] == ["mine.txt"]
    assert record.about["others"] == ["other.txt", "third.txt"]


def test_what_a_training_does_before_its_first_figures(studio, runs, tmp_path):
    id = runs.new_id("train")
    record = runs.start(id, "train", "x", ["-c", "import time; time.sleep(60)"], output=tmp_path)
    log = runs.place(id) / "log.txt"
    assert runs.show(record)["phase"] == "starting Python and its libraries"
    log.write_text("reading the texts …\n  a sample that ends …\nloading the model x …\na note\n")
    assert runs.show(record)["phase"] == "loading the model x"
    line = {"step": 1, "loss": 2.0, "learning_rate": 1e-3, "step_seconds": 1.0, "tokens": 9}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert runs.show(record)["phase"] is None
    runs.end(id)
    assert "phase" not in runs.show(record)


@pytest.mark.slow
def test_train_judge_and_explain(studio, runs, training, body):
    seen = wait_for(runs, training.ask("inspect", body))
    found = runs.result(seen.id)
    assert found["documents"] == 40 and found["examples"]
    kinds = {run["trained"] for piece in found["examples"][0]["pieces"] for run in piece["runs"]}
    assert True in kinds

    estimated = wait_for(runs, training.ask("estimate", body))
    low, likely, high = runs.result(estimated.id)["seconds"]
    assert 0 < low < likely < high and runs.result(estimated.id)["total_steps"] == 4

    record = training.start({**body, "prompts": ["The lamp"], "name": "First book"})
    with pytest.raises(Conflict, match="First book"):
        training.start(body)
    shown = runs.show(wait_for(runs, record))
    assert (shown["state"], shown["step"], shown["total_steps"]) == ("done", 4, 4), runs.log(
        record.id
    )
    curves = runs.curves(record.id).to_dict()
    assert curves["steps"] == [1, 2, 3, 4] and len(curves["validations"]) == 2
    assert curves["base"] > 0 and curves["domains"] == ["my stories"]
    assert {(sample["step"], sample["prompt"]) for sample in curves["samples"]} == {
        (0, "The lamp"), (2, "The lamp"), (4, "The lamp"),
    }  # fmt: skip
    model = studio.ids.path(shown["model"])
    assert model == studio.outputs / "first-book" / "best_model"
    [base] = [one for one in training.bases() if one["name"] == "First book"]
    assert base["id"] == shown["model"]

    judging = Judging(studio, runs)
    table = judging.compare()
    assert [row["name"] for row in table["rows"]] == ["First book"] and table["differ"] == []
    settings = {"texts": 1, "text_tokens": 8, "window": 32}
    judged = wait_for(runs, judging.start({"model": shown["model"], "settings": settings}))
    page = judging.page(judged.id)
    assert page["labels"] == ["base", "tuned"], runs.log(judged.id)
    assert page["bars"][0]["domain"] == "my stories" and page["tables"][0]["rows"]
    assert (Path(judged.output) / "evaluation.html").is_file()

    lines = Path(record.words[3]).read_text().splitlines()[:3]  # one may be held out
    begins = [" ".join(json.loads(line)["story"].split()[:12]) for line in lines]
    studio.desk.text = "A 🐙! " + " 🐙 ".join(begins)
    search = wait_for(runs, judging.originality({"model": shown["model"]}))
    found = judging.found(search.id)
    assert 2 <= len(found["runs"]) <= 3, runs.log(search.id)
    for copied in found["runs"]:
        at = studio.desk.text.index(copied["text"])
        assert copied["from"] == utf16(studio.desk.text, at) > at
        assert copied["words"] == 12
    assert "stand in the training text" in found["sentence"]

    explaining = Explaining(studio, runs)
    place = {"from": 7, "to": 30, "revision": 1}
    settings = {"methods": "gradients", "steps": 8}
    with pytest.raises(InputError, match="not loaded yet"):
        explaining.start(place)
    studio.engine.name = str(model.relative_to(studio.root))
    studio.engine.model = load_from_settings(str(model), MachineSettings(device="cpu"))
    studio.desk.story = Story()
    studio.desk.story.write(studio.desk.text)
    studio.desk.story.set("memory", memory="A tale of the sea.", note="Be brief.")
    explained = wait_for(runs, explaining.start({**place, "settings": settings}))
    assert runs.show(explained)["state"] == "done", runs.log(explained.id)
    assert (Path(explained.output) / "report.html").is_file()
    assert explained.about["parts"] == [["memory", "A tale of the sea."], ["note", "Be brief."]]
    found = json.loads((Path(explained.output) / "results.json").read_text())
    assert [part["name"] for part in found["parts"]] == ["memory", "note"]
    assert found["text"].startswith("A tale of the sea.\n\n")
    assert found["text"].endswith(explained.about["passage"])
    with pytest.raises(Conflict):
        explaining.start({**place, "revision": 0})
    with pytest.raises(InputError, match="no passage"):
        explaining.start({**place, "to": 0})


@pytest.mark.slow
def test_a_killed_training_is_resumed_to_the_same_curve(studio, runs, training, body):
    body["settings"] |= {"max_steps": 3000, "eval_steps": 1000, "save_steps": 5}
    record = training.start(body)
    until = time.monotonic() + 60
    while not list(Path(record.output).glob("checkpoints/step-*")) and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(record.pid, signal.SIGKILL)
    shown = runs.show(wait_for(runs, record))
    assert shown["state"] == "failed" and shown["resumable"]
    assert "Resume" in shown["advice"]
    training.resume(record.id)
    curves = runs.curves(record.id)
    until = time.monotonic() + 60
    while curves.plan()["resumed_from"] == [] and time.monotonic() < until:
        curves.follow()
        if runs.result(record.id) is None and "going on from step" in runs.log(record.id):
            break
        time.sleep(0.05)
    time.sleep(0.5)
    runs.stop(record.id)
    shown = runs.show(wait_for(runs, record))
    assert shown["state"] == "stopped" and shown["resumable"], runs.log(record.id)
    assert curves.steps == list(range(1, len(curves.steps) + 1))
    assert shown["step"] == runs.result(record.id)["steps"]
    assert shown["model"] is not None  # what it had learnt can be used


@pytest.mark.slow
def test_a_file_that_holds_nothing_is_said(runs, training, studio, body, tmp_path):
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "noise.bin").write_bytes(bytes(range(256)) * 50)
    for name in ("empty.txt", "noise.bin"):
        body["files"] = [studio.ids.id(tmp_path / name)]
        shown = runs.show(wait_for(runs, training.ask("inspect", body)))
        assert shown["state"] == "failed" and name[:5] in shown["message"], shown


@pytest.mark.slow
def test_reading_a_text_fetches_no_model(runs, training, body, monkeypatch, tmp_path):
    monkeypatch.setenv("CWGPT_CACHE", str(tmp_path / "cache"))
    assert training.options()["fetches"]
    words = {**body, "model": "starter", "settings": {"max_length": 32}}
    found = wait_for(runs, training.ask("inspect", words))
    assert runs.result(found.id)["tokens"] is None and runs.result(found.id)["documents"] == 40
    assert "fetching" not in runs.log(found.id)
