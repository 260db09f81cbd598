"""What a person sees of a run: journal, samples, display, warning, curves, trackers."""

import dataclasses
import io
import json
import math
import re
import warnings
from pathlib import Path

import pytest
import torch
from corpora import write_stories
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from creativewritinggpt import console
from creativewritinggpt.cli.main import main
from creativewritinggpt.config.run import Config
from creativewritinggpt.training import metrics as training_metrics
from creativewritinggpt.training import run_dir
from creativewritinggpt.training.metrics import Display, draw_curves, overfitting, spread_apart
from creativewritinggpt.training.run import train

SMALL = {
    "max_length": 48, "batch_size": 4, "max_steps": 6, "lora_r": 4, "device": "cpu",
    "precision": "fp32", "num_workers": 1, "patience": 0, "eval_steps": 3, "save_steps": 2,
}  # fmt: skip


@pytest.fixture
def config(tiny_folder, tmp_path):
    return Config(model_name=str(tiny_folder("gpt2")), output_dir=str(tmp_path / "out"), **SMALL)


@pytest.fixture
def stories(tmp_path):
    return str(write_stories(tmp_path / "stories.jsonl"))


def _metrics(config):
    return json.loads((Path(config.output_dir) / "metrics.json").read_text())


def _journal(config):
    lines = (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_journal_has_each_step_and_validation_once_whatever_a_killed_process_left(config, stories):
    train(config, [stories])
    path = Path(config.output_dir) / "metrics.jsonl"
    once = path.read_text().splitlines()
    # A process that was killed after its last checkpoint has written on, and half a line more.
    path.write_text("\n".join([*once, '{"step": 7, "loss": 1.0}', '{"step": 8, "lo']))
    (Path(config.output_dir) / "checkpoints" / "step-6" / "state.json").unlink()
    train(config, resume=True)
    entries, metrics = _journal(config), _metrics(config)
    assert metrics["resumed_from"] == [4]
    steps = [entry for entry in entries if "loss" in entry]
    assert [entry["step"] for entry in steps] == [1, 2, 3, 4, 5, 6]
    assert [entry["loss"] for entry in steps] == metrics["batch_losses"]
    assert [entry["learning_rate"] for entry in steps] == metrics["learning_rate"]
    found = {entry["step"]: entry["val_loss"] for entry in entries if "val_loss" in entry}
    assert found == dict(zip([3, 6], metrics["val_loss"], strict=True))


def test_samples_are_recorded_and_change_nothing(config, stories, tmp_path):
    train(config, [stories])
    silent = _metrics(config)
    assert silent["samples"] == []

    def sample(writer):
        torch.rand(7), torch.manual_seed(1)
        assert not torch.is_grad_enabled() or writer.model is not None
        return [{"prompt": "Once", "text": "upon"}]

    spoken = Config(**{**config.to_dict(), "output_dir": str(tmp_path / "spoken")})
    train(spoken, [stories], sampler=lambda config: sample)
    metrics = _metrics(spoken)
    assert [entry["step"] for entry in metrics["samples"]] == [0, 3, 6]
    for key in ("batch_losses", "val_loss", "learning_rate"):
        assert metrics[key] == silent[key]


def test_command_lets_the_model_continue_the_prompts_of_a_file(config, stories, tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("The lamp went out\n\nOnce upon a time\nNobody answered\n")
    words = [
        f"--{name.replace('_', '-')}={getattr(config, name)}"
        for name in (*SMALL, "model_name", "output_dir")
    ]
    assert main(["train", stories, *words, f"--sample-prompts={prompts}"]) == 0
    assert "  Once upon a time …" in capsys.readouterr().err
    samples = _metrics(config)["samples"]
    assert [(entry["step"], entry["prompt"]) for entry in samples] == [
        (step, prompt) for step in (0, 3, 6) for prompt in ("The lamp went out", "Once upon a time")
    ]
    run = json.loads((Path(config.output_dir) / "final_model" / "run.json").read_text())
    assert run["training"]["samples"] == samples
    # A continuation takes over what is shown, too.
    assert main(["train", "--resume", f"--output-dir={config.output_dir}"]) == 0
    assert main(["train", "--resume", "--force", "--max-steps=9", words[-1]]) == 0
    assert {entry["prompt"] for entry in _metrics(config)["samples"]} == {
        "The lamp went out", "Once upon a time"
    }  # fmt: skip
    assert _metrics(config)["samples"][-1]["step"] == 9
    assert main(["train", stories, *words, "--overwrite", "--samples=0"]) == 0
    assert _metrics(config)["samples"] == []
    assert main(["train", stories, *words, "--overwrite", "--sample-prompts=gone"]) == 2


def _curve(validation, training):
    return {
        "val_loss": validation, "train_loss": training, "overfits_after": None,
        "evaluation_steps": [10 * (number + 1) for number in range(len(validation))],
    }  # fmt: skip


def test_overfitting_is_said_once_and_only_when_it_is_one():
    falling = [3.5, 3.2, 3.0, 2.8, 2.6]
    metrics = _curve([3.6, 3.4, 3.45], falling[:3])
    assert overfitting(metrics) is None, "one rise may be noise"
    metrics = _curve([3.6, 3.4, 3.45, 3.5], falling[:4])
    said = overfitting(metrics)
    assert "since step 20 the validation loss rose from 3.400 to 3.500" in said
    assert "the training loss fell from 3.200 to 2.800" in said
    assert metrics["overfits_after"] == 20
    assert overfitting(metrics) is None, "it is said once"
    for key, values in _curve([3.6, 3.4, 3.45, 3.5, 3.39], falling).items():
        metrics[key] = metrics[key] if key == "overfits_after" else values
    assert overfitting(metrics) is None and metrics["overfits_after"] is None, "better after all"
    longer = _curve([3.6, 3.4, 3.45, 3.5, 3.39, 3.44, 3.46], [*falling, 2.4, 2.2])
    metrics |= {key: longer[key] for key in longer if key != "overfits_after"}
    assert "since step 50" in overfitting(metrics) and metrics["overfits_after"] == 50
    assert overfitting(_curve([3.6, 3.4, 3.45, 3.5], [3.5, 3.2, 3.3, 3.4])) is None
    assert overfitting(_curve([3.6, 3.4, 3.402, 3.401], falling[:4])) is None
    assert overfitting(_curve([3.6, 3.5, 3.4, 3.3], falling[:4])) is None


def test_display_shows_losses_speed_memory_and_time_left(monkeypatch, capsys):
    display = Display(total=60, start=10, every=0)
    with display:
        display.validation, display.best = 3.501, (3.498, 20)
        display.step(11, 3.4, 1000, 0.5)
        display.say("step 11: a line that stays")
    said = capsys.readouterr().err
    assert "step 11/60: loss 3.400, validation 3.501, best 3.498 at step 20, 2,000 tokens/s" in said
    assert re.search(r" [MG]B,", said) and "left" in said and "a line that stays" in said

    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=100, color_system=None)
    monkeypatch.setattr(console, "stderr", lambda: terminal)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    live = Display(total=60, start=10)
    with live:
        live.validation, live.best = 3.501, (3.498, 20)
        live.step(24, 3.4, 1000, 0.5)
        live.say("a line that stays")
    shown = screen.getvalue()
    for part in (
        "24/60",
        "loss 3.400",
        "validation 3.501",
        "best 3.498 at step 20",
        "2,000 tokens/s",
    ):
        assert part in shown, part
    assert "a line that stays" in shown and "━" in shown


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8), st.floats(0.01, 0.5))
def test_labels_of_lines_that_meet_do_not_cover_each_other(heights, least):
    placed = sorted(spread_apart(heights, least))
    assert all(b - a >= least * 0.9 for a, b in zip(placed, placed[1:], strict=False))
    assert math.isclose(sum(placed), sum(heights), abs_tol=1e-6)


def test_curves_are_drawn_of_any_run(tmp_path):
    metrics = {
        "batch_losses": [3.0], "learning_rate": [1e-3], "base_val_loss": 3.2,
        "base_val_perplexity": math.exp(3.2), "evaluation_steps": [], "val_loss": [],
        "val_perplexity": [], "best_step": None, "overfits_after": None, "resumed_from": [],
        "config": {"model_name": "a$b"}, "domains": {"x": {"base_val_loss": 3.2, "val_loss": []}},
    }  # fmt: skip
    draw_curves(metrics, tmp_path / "one.png")
    losses = [3.1, 3.0, 3.2]
    metrics |= {
        "batch_losses": [3.0] * 30, "learning_rate": [1e-3] * 30, "evaluation_steps": [10, 20, 30],
        "val_loss": losses, "val_perplexity": [math.exp(loss) for loss in losses],
        "best_step": 20, "overfits_after": 20, "resumed_from": [12],
        "domains": {
            "old": {"base_val_loss": 3.2, "val_loss": losses},
            "came later": {"base_val_loss": 3.2, "val_loss": [None, None, 3.0]},
        },
    }  # fmt: skip
    draw_curves(metrics, tmp_path / "many.png")
    for name in ("one.png", "many.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"


def test_names_leave_room_for_the_curves_and_a_single_step_is_seen(tmp_path, monkeypatch):
    figures = []

    def keep(figure, path, dpi):
        figure.canvas.draw()
        figures.append(figure)

    monkeypatch.setattr(training_metrics, "save_figure", keep)
    name = "a collection of stories whose name goes on and on and on $x^2$"
    losses = {"base_val_loss": 3.2, "val_loss": [2.0, 3.1]}
    metrics = {
        "batch_losses": [3.0], "learning_rate": [1e-3], "base_val_loss": 3.2,
        "base_val_perplexity": 24.5, "evaluation_steps": [0, 1], "val_loss": [2.0, 3.1],
        "val_perplexity": [7.4, 22.2], "best_step": 1, "overfits_after": None, "resumed_from": [],
        "config": {"model_name": "me/" + "my-model-" * 20},
        "domains": {name: losses, "物語": losses},
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a glyph that the font lacks
        draw_curves(metrics, tmp_path / "curves.png")
    (figure,) = figures
    loss, perplexity, rate = figure.axes
    assert perplexity.get_position().width > 0.6
    assert "my-model-my-…: validation perplexity 24.5 before, 22.2 after" in figure.get_suptitle()
    for axes in (loss, rate):
        (alone,) = [line for line in axes.lines if list(line.get_xdata()) == [1]][-1:]
        assert alone.get_marker() == "o"


def test_tensorboard_gets_the_numbers_of_the_journal_and_no_text(config, stories):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracked = Config(**{**config.to_dict(), "track": ["tensorboard"]})
    spoken = [{"prompt": "a secret", "text": "another"}]
    train(tracked, [stories], sampler=lambda config: lambda writer: spoken)
    folder = Path(config.output_dir) / "tracking"
    events = EventAccumulator(str(folder / "creativewritinggpt"))
    events.Reload()
    metrics = _metrics(config)
    found = {name: [event.value for event in events.Scalars(name)] for name in ("loss", "val_loss")}
    assert found["loss"] == pytest.approx(metrics["batch_losses"], abs=1e-5)
    assert found["val_loss"] == pytest.approx(metrics["val_loss"], abs=1e-5)
    written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"secret" not in written and str(Path(config.output_dir)).encode() not in written


def test_tracker_that_is_not_there_is_refused_before_anything_is_written(
    config, stories, monkeypatch, capsys
):
    words = ["train", stories, f"--output-dir={config.output_dir}", "--model-name=starter"]
    assert main([*words, "--track=tensorbored"]) == 2
    assert "no tracker 'tensorbored'" in capsys.readouterr().err
    monkeypatch.setattr(run_dir.importlib.util, "find_spec", lambda name: None)
    assert main([*words, "--track=tensorboard"]) == 2
    assert "the tracker tensorboard is not installed" in capsys.readouterr().err
    assert not Path(config.output_dir).exists()


def test_file_that_lost_more_than_a_tenth_is_warned_of(config, tmp_path, capsys):
    path = write_stories(tmp_path / "mixed.jsonl")
    lost = {"text": {"who": "a narrator", "what": "words of an object, which are no story. " * 9}}
    with path.open("a", encoding="utf-8") as stream:
        stream.write("".join(json.dumps(lost) + "\n" for _ in range(12)))
    train(config, [str(path)])
    said = capsys.readouterr().err
    assert re.search(
        r"warning: mixed.jsonl: .*; \d\d\.\d% of [\d,]+ characters kept; left out: ", said
    )
    whole = write_stories(tmp_path / "whole.jsonl")
    train(dataclasses.replace(config, output_dir=str(tmp_path / "other")), [str(whole)])
    assert "characters kept" not in capsys.readouterr().err


def test_an_estimate_measures_a_run_and_writes_nothing(config, stories, capsys):
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    words = ["train", stories, f"--model-name={config.model_name}", *flags]
    assert main([*words, f"--output-dir={config.output_dir}", "--estimate", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["total_steps"], found["evaluations"]) == (6, 2)
    low, likely, high = found["seconds"]
    assert 0 < low < likely < high and found["memory_bytes"] > 0
    assert not Path(config.output_dir).exists()


def test_the_plan_and_the_base_model_are_known_before_the_first_validation(config, stories):
    train(config, [stories])
    plan = json.loads((Path(config.output_dir) / "manifest.json").read_text())["plan"]
    metrics = _metrics(config)
    assert (plan["total_steps"], plan["eval_steps"]) == (6, 3)
    assert plan["base_val_loss"] == metrics["base_val_loss"]
    assert plan["base_domains"] == {
        name: one["base_val_loss"] for name, one in metrics["domains"].items()
    }
