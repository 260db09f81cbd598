"""A training run from files to folders, on tiny models."""

import dataclasses
import hashlib
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import write_stories
from safetensors.torch import load_file

from creativewritinggpt import console
from creativewritinggpt.config.run import Config
from creativewritinggpt.errors import InputError
from creativewritinggpt.models.loading import load_model
from creativewritinggpt.training import setup as training_setup
from creativewritinggpt.training.fast.layers import can_compile
from creativewritinggpt.training.run import train

SMALL = {
    "max_length": 48,
    "batch_size": 4,
    "num_epochs": 2,
    "lora_r": 4,
    "device": "cpu",
    "precision": "fp32",
    "num_workers": 1,
    "learning_rate": 5e-3,
    "patience": 0,
}


@pytest.fixture
def stories(tmp_path):
    return str(write_stories(tmp_path / "stories.jsonl"))


def _config(tiny_folder, tmp_path, family="gpt2", output="out", **changes):
    return Config(
        model_name=str(tiny_folder(family)),
        output_dir=str(tmp_path / output),
        **{**SMALL, **changes},
    )


def _metrics(folder):
    return json.loads((Path(folder) / "metrics.json").read_text())


def _weights(folder):
    return load_file(Path(folder) / "adapter_model.safetensors")


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen"])
def test_training_lowers_the_loss_and_writes_what_it_promises(
    family, tiny_folder, tmp_path, stories, curves
):
    config = _config(tiny_folder, tmp_path, family)
    result = train(config, [stories])
    output = Path(config.output_dir)
    metrics = _metrics(output)
    assert result.outcome == "finished"
    assert min(metrics["val_loss"]) < metrics["base_val_loss"] - 0.1
    assert metrics["best_step"] == metrics["evaluation_steps"][np.argmin(metrics["val_loss"])]
    for key in ("train_loss", "val_perplexity", "learning_rate", "batch_losses", "config"):
        assert metrics[key], key
    assert len(metrics["batch_losses"]) == len(metrics["learning_rate"]) == result.total_steps
    assert metrics["useful_tokens_per_second"] > 0 and metrics["peak_memory_bytes"] > 0
    assert metrics["trainable_percent"] == pytest.approx(
        100 * metrics["trainable_parameters"] / metrics["total_parameters"]
    )
    for name in ("best_model", "final_model"):
        assert {"adapter_model.safetensors", "adapter_config.json", "run.json", "README.md",
                "tokenizer.json"} <= set(os.listdir(output / name))  # fmt: skip
    assert (output / "training_curves.png").read_bytes()[:4] == b"\x89PNG"
    run = json.loads((output / "best_model" / "run.json").read_text())
    assert (
        run["config"]["lora_r"] == 4 and run["versions"]["torch"] and run["data"]["manifest_hash"]
    )
    assert not [name for name in os.listdir(output) if name.endswith(".tmp")]


def test_best_model_has_the_loss_that_the_record_names(tiny_folder, tmp_path, stories):
    from creativewritinggpt.data.corpus import load_corpus
    from creativewritinggpt.data.rows.packing import pack, tokenize
    from creativewritinggpt.training.metrics import validate

    config = _config(tiny_folder, tmp_path)
    train(config, [stories])
    writer = load_model(f"{config.output_dir}/best_model", "cpu", "fp32")
    held_out = load_corpus(config, [stories]).validation
    rows = pack(tokenize(held_out, writer.tokenizer, None), max_length=48, bos_id=0, eos_id=0)
    domains = np.zeros(len(held_out), dtype=int)
    for batch_size in (1, 3, 64):
        result = validate(writer, rows, domains, ["stories"], batch_size)
        assert result.loss == pytest.approx(min(_metrics(config.output_dir)["val_loss"]), abs=1e-5)


def test_two_validations_are_bit_equal_and_without_dropout(tiny_folder, tmp_path, stories):
    config = _config(tiny_folder, tmp_path, eval_steps=1, max_steps=2, learning_rate=1e-12)
    train(config, [stories])
    metrics = _metrics(config.output_dir)
    assert metrics["val_loss"] == pytest.approx([metrics["base_val_loss"]] * 2, abs=1e-7)


def test_base_weights_are_bit_equal_after_training(tiny_folder, tmp_path, stories):
    folder = tiny_folder("gpt2")
    before = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    config = Config(model_name=str(folder), output_dir=str(tmp_path / "out"), **SMALL)
    train(config, [stories])
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() == before
    tuned = load_model(f"{config.output_dir}/final_model", "cpu", "fp32")
    base = load_file(folder / "model.safetensors")
    for name, value in tuned.bare.named_parameters():
        if "lora_" not in name:
            kept = base[name.replace(".base_layer", "")]
            assert torch.equal(value, kept), name


def test_full_training_saves_a_whole_model(tiny_folder, tmp_path, stories):
    config = _config(tiny_folder, tmp_path, method="full", learning_rate=1e-3)
    train(config, [stories])
    assert (Path(config.output_dir) / "best_model" / "model.safetensors").is_file()
    writer = load_model(f"{config.output_dir}/best_model", "cpu", "fp32")
    assert not writer.has_adapter
    metrics = _metrics(config.output_dir)
    assert min(metrics["val_loss"]) < metrics["base_val_loss"]
    assert metrics["trainable_percent"] == 100


def test_init_adapter_goes_on_from_an_adapter(tiny_folder, tmp_path, stories):
    first = _config(tiny_folder, tmp_path)
    train(first, [stories])
    adapter = f"{first.output_dir}/best_model"
    changes = {"init_adapter": adapter, "max_steps": 1, "learning_rate": 1e-12}
    second = Config(**{**first.to_dict(), "output_dir": str(tmp_path / "second"), **changes})
    train(second, [stories])
    metrics = _metrics(second.output_dir)
    assert metrics["val_loss"][0] == pytest.approx(
        min(_metrics(first.output_dir)["val_loss"]), abs=1e-5
    )
    assert metrics["base_val_loss"] == pytest.approx(_metrics(first.output_dir)["base_val_loss"])


def test_patience_counts_evaluations_without_an_improvement_after_the_warm_up(
    tiny_folder, tmp_path, stories
):
    config = _config(
        tiny_folder,
        tmp_path,
        patience=2,
        min_delta=100.0,
        eval_steps=1,
        max_steps=40,
        warmup_steps=3,
    )
    result = train(config, [stories])
    # The first evaluation sets the mark; those of the warm-up don't count; two more end the run.
    assert (result.outcome, result.steps) == ("early", 5)


@pytest.mark.invariant
@pytest.mark.parametrize(
    ("family", "stop", "precision", "compiled", "request_signal"),
    [
        ("gpt2", 3, "fp32", False, signal.SIGINT),
        ("llama", 5, "bf16", False, signal.SIGTERM),
        pytest.param(
            *("gpt2", 4, "bf16", True, signal.SIGINT),
            marks=pytest.mark.skipif(not can_compile(), reason="no C++ compiler"),
        ),
    ],
)
def test_stopped_and_resumed_run_equals_one_that_was_not(
    family, stop, precision, compiled, request_signal, tiny_folder, tmp_path, stories, monkeypatch
):
    straight = _config(
        tiny_folder, tmp_path, family, output="straight", eval_steps=2, max_steps=16,
        precision=precision, compile=compiled,
    )  # fmt: skip
    train(straight, [stories])
    broken = Config(**{**straight.to_dict(), "output_dir": str(tmp_path / "broken")})

    real = training_setup.accumulate_gradient
    steps = []

    def interrupted(writer, rows, indices, batch_size, tokens):
        if tokens > 1:  # not the probe
            steps.append(1)
        if len(steps) == stop:
            os.kill(os.getpid(), request_signal)
        return real(writer, rows, indices, batch_size, tokens)

    with monkeypatch.context() as patch:
        patch.setattr(training_setup, "accumulate_gradient", interrupted)
        assert train(broken, [stories]).outcome == "interrupted"
    assert (
        _metrics(broken.output_dir)["batch_losses"] != _metrics(straight.output_dir)["batch_losses"]
    )
    # Neither settings nor files need to be said again.
    train(Config(output_dir=broken.output_dir), resume=True)

    for name in ("final_model", "best_model"):
        one, other = (_weights(Path(c.output_dir) / name) for c in (straight, broken))
        assert all(torch.equal(one[key], other[key]) for key in one)
    left, right = _metrics(straight.output_dir), _metrics(broken.output_dir)
    for key in ("batch_losses", "train_loss", "val_loss", "learning_rate", "best_step"):
        assert left[key] == right[key], key
    assert right["resumed_from"] == [stop]
    run = json.loads((Path(broken.output_dir) / "final_model" / "run.json").read_text())
    assert run["training"]["probed"]["compiled"] is compiled


def test_resume_of_a_changed_run_is_refused_and_names_the_change(tiny_folder, tmp_path, stories):
    config = _config(tiny_folder, tmp_path, max_steps=2)
    train(config, [stories])
    changed = Config(**{**config.to_dict(), "learning_rate": 1e-4})
    with pytest.raises(InputError, match="learning_rate was 0.005, is 0.0001"):
        train(changed, [stories], resume=True)
    with open(stories, "a") as stream:
        stream.write(
            json.dumps({"prompt": "New.", "story": "A new story that was not there."}) + "\n"
        )
    with pytest.raises(InputError, match=r"has changed: stories\.\w+ holds other text"):
        train(config, [stories], resume=True)


def _two_runs_of_half(tiny_folder, tmp_path, files, monkeypatch, **changes):
    """A whole run, and one that is stopped in its middle."""
    whole = _config(tiny_folder, tmp_path, output="whole", max_steps=4, **changes)
    train(whole, files)
    half = Config(**{**whole.to_dict(), "output_dir": str(tmp_path / "half")})
    real, steps = training_setup.accumulate_gradient, []

    def interrupted(writer, rows, indices, batch_size, tokens):
        steps.extend([1] if tokens > 1 else [])
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(writer, rows, indices, batch_size, tokens)

    with monkeypatch.context() as patch:
        patch.setattr(training_setup, "accumulate_gradient", interrupted)
        assert train(half, files).outcome == "interrupted"
    return whole, half


def _assert_same(one, other):
    weights = [_weights(Path(config.output_dir) / "final_model") for config in (one, other)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert _metrics(one.output_dir)["batch_losses"] == _metrics(other.output_dir)["batch_losses"]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_run_is_resumed_from_elsewhere_with_its_texts_moved_and_renamed(
    streaming, tiny_folder, tmp_path, monkeypatch
):
    home, away = tmp_path / "home", tmp_path / "away"
    home.mkdir()
    away.mkdir()
    (home / "texts").mkdir()
    write_stories(home / "texts" / "tales.jsonl")
    (home / "diary.txt").write_text("\n\n".join(f"Day {i} was long. It rained." for i in range(60)))
    monkeypatch.chdir(home)
    files = ["texts", "mine=diary.txt"]
    whole, half = _two_runs_of_half(tiny_folder, tmp_path, files, monkeypatch, streaming=streaming)
    state = tmp_path / "state"
    shutil.copytree(half.output_dir, state)

    monkeypatch.chdir(away)
    train(Config(output_dir=half.output_dir), resume=True)
    _assert_same(whole, half)

    shutil.move(state, tmp_path / "again")
    again = Config(output_dir=str(tmp_path / "again"))
    (home / "texts" / "tales.jsonl").rename(home / "texts" / "renamed.jsonl")
    (home / "texts").rename(away / "moved")
    (home / "diary.txt").rename(away / "log.txt")
    with pytest.raises(InputError, match="texts is not there any more") as raised:
        train(again, resume=True)
    assert "--resume" in raised.value.advice
    train(again, ["log.txt", "moved"], resume=True)
    _assert_same(whole, again)
    data = json.loads((tmp_path / "again" / "final_model" / "run.json").read_text())["data"]
    assert data["files"] == [str(away / "moved" / "renamed.jsonl"), str(away / "log.txt")]


def test_a_changed_byte_of_a_moved_text_is_refused_by_name(
    tiny_folder, tmp_path, stories, monkeypatch
):
    _, half = _two_runs_of_half(tiny_folder, tmp_path, [stories], monkeypatch)
    moved = tmp_path / "moved" / "stories.jsonl"
    moved.parent.mkdir()
    text = Path(stories).read_text()
    moved.write_text(text[:60] + ("x" if text[60] != "x" else "y") + text[61:])
    os.remove(stories)
    with pytest.raises(InputError, match="stories.jsonl holds other text"):
        train(Config(output_dir=half.output_dir), [str(moved)], resume=True)


def test_resume_without_a_checkpoint_starts_over_and_says_so(
    tiny_folder, tmp_path, stories, capsys
):
    config = _config(tiny_folder, tmp_path, max_steps=1)
    train(config, [stories], resume=True)
    assert "no checkpoint" in capsys.readouterr().err
    # Over, but with the run's own model, files and settings.
    for name in ("checkpoints", "final_model"):
        shutil.rmtree(tmp_path / "out" / name)
    before = _metrics(config.output_dir)
    train(Config(output_dir=config.output_dir), resume=True)
    assert "no checkpoint" in capsys.readouterr().err
    after = _metrics(config.output_dir)
    assert after["batch_losses"] == before["batch_losses"] and after["resumed_from"] == []
    for name in ("checkpoints", "final_model"):
        shutil.rmtree(tmp_path / "out" / name)
    with pytest.raises(InputError, match="lora_r was 4, is 2"):
        train(dataclasses.replace(config, lora_r=2), [stories], resume=True)


def test_a_run_is_not_overwritten_unasked(tiny_folder, tmp_path, stories):
    config = _config(tiny_folder, tmp_path, max_steps=1)
    train(config, [stories])
    mine = Path(config.output_dir) / "my notes.txt"
    mine.write_text("keep")
    before = _weights(Path(config.output_dir) / "best_model")
    with pytest.raises(InputError, match="already holds a run"):
        train(config, [stories])
    after = _weights(Path(config.output_dir) / "best_model")
    assert all(torch.equal(before[key], after[key]) for key in before)
    train(config, [stories], overwrite=True)
    assert mine.read_text() == "keep"


def test_failed_overwrite_leaves_the_old_run(tiny_folder, tmp_path, stories):
    config = _config(tiny_folder, tmp_path, max_steps=1)
    train(config, [stories])
    with pytest.raises(InputError):
        train(config, [str(tmp_path / "missing.txt")], overwrite=True)
    assert (Path(config.output_dir) / "best_model" / "adapter_model.safetensors").is_file()


def test_compile_is_refused_without_a_fast_path_or_a_compiler(
    tiny_folder, tmp_path, stories, monkeypatch
):
    with pytest.raises(InputError, match="compile trains LoRA adapters"):
        train(_config(tiny_folder, tmp_path, compile=True, method="full"), [stories])
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="no C\\+\\+ compiler"):
        train(_config(tiny_folder, tmp_path, compile=True), [stories])


def test_compile_is_taken_from_the_record(tiny_folder, tmp_path, stories):
    config = _config(tiny_folder, tmp_path, max_steps=1)
    train(config, [stories])
    with pytest.raises(InputError, match="compiled was False, is True"):
        train(dataclasses.replace(config, compile=True), [stories], resume=True)


def test_only_the_newest_checkpoints_stay(tiny_folder, tmp_path, stories):
    config = _config(tiny_folder, tmp_path, save_steps=1, max_steps=5)
    train(config, [stories])
    assert sorted(os.listdir(Path(config.output_dir) / "checkpoints")) == ["step-4", "step-5"]


def test_mask_prompt_trains_on_fewer_tokens(tiny_folder, tmp_path, stories):
    counts = []
    for masked in (False, True):
        config = _config(
            tiny_folder, tmp_path, output=f"m{masked}", max_steps=2, mask_prompt=masked
        )
        train(config, [stories])
        run = json.loads((Path(config.output_dir) / "final_model" / "run.json").read_text())
        counts.append(run["training"]["useful_tokens"])
    assert counts[1] < counts[0]


def test_text_of_a_run_reaches_neither_model_folder(tiny_folder, tmp_path):
    secret = "Xylophone quorum zephyr"
    file = tmp_path / "secret.txt"
    file.write_text("\n\n".join(f"{secret} {i} and then the captain laughed at the sea. " * 8
                                for i in range(30)))  # fmt: skip
    config = _config(tiny_folder, tmp_path, max_steps=1)
    train(config, [str(file)])
    for name in ("best_model", "final_model"):
        for path in (Path(config.output_dir) / name).rglob("*"):
            assert secret.encode() not in path.read_bytes(), path


def test_notes_are_clean_lines(tiny_folder, tmp_path, stories, capsys):
    train(_config(tiny_folder, tmp_path, max_steps=1), [stories])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Before training: validation loss" in captured.err and "of memory" in captured.err
    assert console.printable(captured.err) == captured.err
