"""Training on choices: in memory, as a run with a folder, and what it refuses."""

import dataclasses
import json
import signal

import numpy as np
import pytest
import torch
from choosing import decisions, text, tuned
from safetensors.torch import load_file

from creativewritinggpt.cli.main import main
from creativewritinggpt.errors import InputError
from creativewritinggpt.story import choices
from creativewritinggpt.story.choice_files import write_pairs
from creativewritinggpt.story.decisions import Decision
from creativewritinggpt.story.file import dump
from creativewritinggpt.story.tree import Setup, Story
from creativewritinggpt.taste.comparisons import compare, log_probabilities
from creativewritinggpt.taste.drafts import Habits, broken
from creativewritinggpt.taste.learning import fit
from creativewritinggpt.taste.settings import ChoiceSettings, choices_config
from creativewritinggpt.taste.setup import method_for, split
from creativewritinggpt.training import metrics, trainer

QUICK = ChoiceSettings(context_tokens=32, draft_prompts=0, held_out=0.0)
CONFIG = choices_config(learning_rate=5e-3, num_epochs=3, batch_size=4)


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch):
    monkeypatch.setattr(metrics, "draw_curves", lambda metrics, path: None)


def _weights(writer):
    return {n: p.detach().clone() for n, p in writer.model.named_parameters() if p.requires_grad}


def _accuracy(writer, before, unseen):
    comparisons, _ = compare(writer, unseen, 32)
    after = log_probabilities(writer, comparisons)
    return np.mean([np.argmax(now - then) == 0 for now, then in zip(after, before, strict=True)])


@pytest.mark.parametrize("method", ["accepted", "preference", "kto", "orpo"])
def test_what_the_writer_likes_gains_on_choices_that_were_not_seen(
    method, tiny_model, tiny_tokenizer
):
    writer = tuned(tiny_model("llama"), tiny_tokenizer)
    unseen = decisions(6, seed=77)
    comparisons, _ = compare(writer, unseen, 32)
    before = log_probabilities(writer, comparisons)
    settings = dataclasses.replace(QUICK, choices_method=method)
    learnt = fit(writer, decisions(16), settings, CONFIG)
    assert learnt.outcome == "finished" and learnt.steps == 12 == len(learnt.losses)
    assert learnt.losses[-1] < learnt.losses[0]
    assert _accuracy(writer, before, unseen) == 1


def test_same_seed_gives_the_same_weights_and_other_passes_do_not(tiny_model, tiny_tokenizer):
    found = []
    for config in (CONFIG, CONFIG, dataclasses.replace(CONFIG, seed=7)):
        writer = tuned(tiny_model("llama"), tiny_tokenizer)
        fit(writer, decisions(6), dataclasses.replace(QUICK, choices_method="preference"), config)
        found.append(_weights(writer))
    same = [all(torch.equal(found[0][n], other[n]) for n in found[0]) for other in found[1:]]
    assert same == [True, False]


@pytest.mark.slow
def test_with_a_writer_who_picks_at_random_nothing_seems_to_be_learnt(tiny_model, tiny_tokenizer):
    settings = dataclasses.replace(QUICK, choices_method="preference", held_out=0.5)
    for seed in range(2):
        writer = tuned(tiny_model("llama"), tiny_tokenizer)
        start = _weights(writer)
        learnt = fit(writer, decisions(40, rule=False, seed=seed), settings, CONFIG)
        assert not learnt.report["beyond_chance"] and learnt.report["best"]["choices"] == 20
        same = all(torch.equal(start[n], now) for n, now in _weights(writer).items())
        assert same == (learnt.best_step == 0)
        said = " ".join(learnt.report["sentences"])
        assert "Nothing that it learnt held" in said or "which may be chance" in said
    writer = tuned(tiny_model("llama"), tiny_tokenizer)
    learnt = fit(writer, decisions(40), settings, CONFIG)
    assert learnt.best_step > 0 and learnt.report["beyond_chance"]
    assert learnt.report["best"]["accuracy"] > 0.9


def test_choices_held_out_are_the_last_of_each_story_and_share_no_context():
    made = [dataclasses.replace(one, where=f"{i % 2}.json") for i, one in enumerate(decisions(20))]
    rest, out = split(made, 0.2)
    assert out == [16, 17, 18, 19] and sorted(rest + out) == list(range(20))
    made[0] = dataclasses.replace(made[0], prompt=made[18].prompt)
    rest, out = split(made, 0.2)
    assert out == [0, 16, 17, 18, 19]
    assert split(made, 0.0) == (list(range(20)), [])
    small = [dataclasses.replace(one, where=f"{i}.json") for i, one in enumerate(decisions(20))]
    assert len(split(small, 0.2)[1]) == 4


def test_auto_compares_from_twenty_choices_on_and_refuses_too_few():
    auto = ChoiceSettings()
    assert method_for(auto, decisions(20)) == "preference"
    words = [dataclasses.replace(one, kind="token") for one in decisions(5)]
    assert method_for(auto, decisions(19) + words) == "accepted"
    with pytest.raises(InputError, match="4 choices can be learnt from, and 5 are the least"):
        method_for(auto, decisions(4))
    undone = [Decision("undo", "A", None, (" b",), 0.1)] * 30
    with pytest.raises(InputError, match="no text that the writer took"):
        method_for(auto, undone)


HABITS = Habits(words=40, repetition=2, loops=0, distinct=0.8, entropy=4.0, drift=0.0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"repetition": 30}, "repeat themselves: 30%"),
        ({"loops": 0.5}, "50% of the drafts end in a loop"),
        ({"entropy": 3.0}, "too sure of its words: an entropy of 3.00 nats, 4.00 at the start"),
        ({"drift": 0.9}, "moved too far from what it was: 0.90 nats a token"),
        ({"entropy": 3.7, "drift": 0.1, "repetition": 6}, None),
    ],
)
def test_guards_are_plain_sentences(change, sentence):
    found = broken(HABITS, dataclasses.replace(HABITS, **change), ChoiceSettings())
    assert (found is None) if sentence is None else (sentence in found)


def test_a_guard_ends_the_run_and_the_best_state_before_it_is_kept(tiny_model, tiny_tokenizer):
    writer = tuned(tiny_model("llama"), tiny_tokenizer)
    start = _weights(writer)
    settings = dataclasses.replace(
        QUICK, choices_method="preference", draft_prompts=2, draft_tokens=8, most_drift=1e-4
    )
    learnt = fit(writer, decisions(12), settings, CONFIG)
    assert learnt.outcome == "early" and learnt.report["outcome"] == "guard"
    assert learnt.best_step == 0 and learnt.steps == 3
    assert "moved too far" in learnt.report["sentences"][0]
    assert all(torch.equal(start[n], now) for n, now in _weights(writer).items())


@pytest.fixture
def picks(tmp_path):
    """A file of choices."""
    path = tmp_path / "choices.jsonl"
    write_pairs(decisions(40), path)
    return path


def _flags(tiny_folder, tmp_path, picks, *more, output="taste"):
    return [
        "train", "--choices", str(picks), "--model-name", str(tiny_folder("llama")),
        "--output-dir", str(tmp_path / output), "--device", "cpu", "--precision", "fp32",
        "--num-workers", "1", "--lora-r", "4", "--learning-rate", "5e-3", "--batch-size", "8",
        "--context-tokens", "32", "--draft-prompts", "3", "--draft-tokens", "12",
        "--held-out", "0.5", "--most-drift", "9", "--most-entropy-loss", "0.9", *more,
    ]  # fmt: skip


def test_a_run_leaves_an_ordinary_folder_and_a_report(tiny_folder, tmp_path, picks, capsys):
    assert main([*_flags(tiny_folder, tmp_path, picks), "--json"]) == 0
    shown = capsys.readouterr()
    said, output = json.loads(shown.out), tmp_path / "taste"
    assert "40 choices to learn from, of which 20 are held out" in shown.err
    assert "preference tuning, with the accepted text beside it (what at least 20" in shown.err
    assert "known to ±22 points; nothing is promised" in shown.err
    report = json.loads((output / "choices_report.json").read_text())
    assert {key: said[key] for key in report} == report
    assert report["method"] == "preference" and report["asked"] == "auto"
    assert report["measured_on"] == "held out" and report["best"]["choices"] == 20
    assert report["baselines"]["chance"] == pytest.approx(1 / 3)
    assert report["baselines"]["first_shown"] is None
    assert len(report["evaluations"]) == 4 and report["best_step"] in (3, 6, 9)
    assert report["best"]["choice_loss"] < report["start"]["choice_loss"]
    assert len(report["drafts"]) == 3
    for draft in report["drafts"]:
        assert draft["before"] != draft["after"] and draft["seed"] >= 0 and draft["prompt"]
    for name in ("best_model", "final_model"):
        run = json.loads((output / name / "run.json").read_text())
        assert run["choices"]["method"] == "preference" and run["config"]["learning_rate"] == 5e-3
        assert (output / name / "README.md").is_file()
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "accuracy" in line] == [3, 6, 9]
    assert (output / "metrics.json").is_file() and (output / "manifest.json").is_file()
    held_out = (output / "validation.jsonl").read_text().splitlines()
    assert len(held_out) == 20 and json.loads(held_out[0])["joint"] == ""


@pytest.mark.slow
def test_going_on_from_an_adapter_takes_its_base_and_its_state_as_the_start(
    tiny_folder, tmp_path, picks, capsys
):
    flags = _flags(tiny_folder, tmp_path, picks, "--draft-prompts", "0")
    assert main([*flags, "--choices-method", "accepted"]) == 0
    first = tmp_path / "taste" / "best_model"
    again = _flags(tiny_folder, tmp_path, picks, "--draft-prompts", "0", output="again")
    place = again.index("--model-name")
    again[place : place + 2] = ["--init-adapter", str(first)]
    assert main(again) == 0
    report = json.loads((tmp_path / "again" / "choices_report.json").read_text())
    before = json.loads((tmp_path / "taste" / "choices_report.json").read_text())
    assert report["start"]["accepted_loss"] == pytest.approx(
        before["best"]["accepted_loss"], abs=1e-4
    )
    capsys.readouterr()
    inside = [*again, "--output-dir", str(tmp_path / "taste"), "--overwrite"]
    assert main(inside) == 2 and "would remove the adapter" in capsys.readouterr().err


@pytest.mark.slow
def test_stopped_by_ctrl_c_and_resumed_equals_an_uninterrupted_run(
    tiny_folder, tmp_path, picks, capsys, monkeypatch
):
    assert main(_flags(tiny_folder, tmp_path, picks)) == 0
    flags = _flags(tiny_folder, tmp_path, picks, output="stopped")
    real = trainer.Trainer.save_checkpoint
    with monkeypatch.context() as patch:

        def save(self):
            real(self)
            if self.state.step == 3:
                signal.raise_signal(signal.SIGINT)

        patch.setattr(trainer.Trainer, "save_checkpoint", save)
        assert main(flags) == 130
    shown = capsys.readouterr().err
    assert "everything is saved. Go on with: cwgpt train --choices" in shown
    assert (tmp_path / "stopped" / "best_model").is_dir()
    assert main(["train", "--resume", "--output-dir", str(tmp_path / "stopped")]) == 2
    assert "is on choices" in capsys.readouterr().err
    other = tmp_path / "other.jsonl"
    write_pairs(decisions(30, seed=3), other)
    assert main([*_flags(tiny_folder, tmp_path, other, output="stopped"), "--resume"]) == 2
    assert "has changed" in capsys.readouterr().err
    assert main([*flags, "--resume"]) == 0
    reports = [
        json.loads((tmp_path / name / "choices_report.json").read_text())
        for name in ("taste", "stopped")
    ]
    assert reports[0]["evaluations"] == reports[1]["evaluations"]
    assert reports[0]["drafts"] == reports[1]["drafts"]
    weights = [
        load_file(tmp_path / name / "best_model" / "adapter_model.safetensors")
        for name in ("taste", "stopped")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def _story(path, damaged=True):
    """A story with picks, a retry, an edit, an undo, and a record that can't be read."""
    story, generator = Story(), np.random.default_rng(2)
    setup = Setup("starter")
    story.write("The night ferry was late.")

    def write(mark):
        return story.write(text(generator, mark, 6), by="model", setup=setup)

    for _ in range(6):
        shown = [story.offer(text(generator, m), by="model", setup=setup).id for m in "!.?"]
        choices.offer(story, shown)
        choices.pick(story, shown, shown[0])
    gone = write(".")
    choices.undo(story)
    write("!")
    before = story.text
    choices.edit(story, before + text(generator, "!"))
    choices.edit(story, before[:-8] + " storm and rain!")
    record = json.loads(dump(story))
    if damaged:
        record["choices"].insert(1, {"kind": "pick", "offered": "many"})
    path.write_text(json.dumps(record))
    return gone


def test_a_story_with_a_damaged_record_is_learnt_from_and_that_is_said(
    tiny_folder, tmp_path, capsys
):
    path = tmp_path / "ferry.json"
    _story(path)
    kept = path.read_bytes()
    assert main(_flags(tiny_folder, tmp_path, path, "--num-epochs", "1")) == 0
    shown = capsys.readouterr().err
    assert "1 choice in the file" in shown and "other models (starter)" in shown
    report = json.loads((tmp_path / "taste" / "choices_report.json").read_text())
    assert report["choices"]["kinds"] == {"pick": 6, "undo": 1, "edit": 1}
    assert report["method"] == "accepted"
    assert path.read_bytes() == kept


def test_a_story_without_choices_is_told_in_one_line(tmp_path, capsys):
    path = tmp_path / "ferry.json"
    story = Story()
    story.write("The night ferry was late.")
    path.write_text(dump(story))
    assert main(["train", "--choices", str(path), "--output-dir", str(tmp_path / "out")]) == 2
    assert "no text that the writer took" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no choices"),
        ('{"prompt": "A", "chosen": " b", "rejected": " b"}\n' * 3, "no text that the writer took"),
        ('{"prompt": "A", "offered": [" b"], "chosen": 0}\n', "no text that the writer took"),
        ("\0\1\2", "no JSON object"),
        ('{"prompt": "A", "chosen": 3, "rejected": " b"}\n', "`chosen` must be text"),
    ],
)
def test_files_without_choices_are_told_in_one_line(content, message, tmp_path, capsys):
    path = tmp_path / "choices.jsonl"
    path.write_text(content)
    assert main(["train", "--choices", str(path), "--output-dir", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr().err
    assert message in shown and "Traceback" not in shown
    assert not (tmp_path / "out" / "best_model").exists()


def test_contradicting_choices_and_those_of_other_models_are_counted_and_said(
    tiny_folder, tmp_path, capsys
):
    generator = np.random.default_rng(1)
    one, other = text(generator, "!"), text(generator, ".")
    rows = [{"prompt": "A", "chosen": one, "rejected": other}]
    rows += [{"prompt": "A", "chosen": other, "rejected": one}]
    rows += [
        {"prompt": d.prompt, "chosen": d.chosen, "rejected": list(d.rejected), "model": "other/one"}
        for d in decisions(6)
    ]
    path = tmp_path / "mixed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(_flags(tiny_folder, tmp_path, path, "--num-epochs", "1")) == 0
    shown = capsys.readouterr().err
    assert "left out: contradicted by another choice (2)" in shown
    assert "6 of 6 choices are among texts by other models (other/one)" in shown
    assert "training on the accepted text alone (what fewer than 20" in shown
    report = json.loads((tmp_path / "taste" / "choices_report.json").read_text())
    assert report["measured_on"] == "trained on" and report["choices"]["used"] == 6
    assert "which proves nothing" in shown and "can't tell whether it gets better" in shown


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--estimate"], "don't go together"),
        (["novel.txt"], None),
        (["--beta", "0"], "beta"),
        (["--resume", "--overwrite"], "leave one of the two out"),
        (["--streaming", "--max-steps", "3"], "not streamed"),
        (["--init-adapter", "nowhere"], "holds no adapter"),
    ],
)
def test_flags_that_do_not_go_with_choices(flags, message, picks, tmp_path, capsys):
    words = ["train", *flags] if message is None else ["train"]
    words += ["--choices", str(picks), "--output-dir", str(tmp_path / "out")]
    words += [] if message is None else flags
    assert main(words) == 2
    assert (message or "don't go together") in capsys.readouterr().err
    assert main(["train", "--beta", "0.3"]) == 2
    assert "--beta goes with --choices" in capsys.readouterr().err
