"""What can go wrong during a run: killed processes, full disks, damaged files, no memory."""

import dataclasses
import gc
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import write_stories
from safetensors.torch import load_file
from writers import make_writer

from creativewritinggpt import devices
from creativewritinggpt.cli.main import main
from creativewritinggpt.config.run import Config
from creativewritinggpt.errors import InputError, RunError
from creativewritinggpt.models.adapter import attach
from creativewritinggpt.training import loss
from creativewritinggpt.training import run as training_run
from creativewritinggpt.training import setup as training_setup
from creativewritinggpt.training.checkpoint import TrainState
from creativewritinggpt.training.loss import MicroBatch, bytes_per_row, fitting_rows
from creativewritinggpt.training.run import train

SMALL = {
    "max_length": 48, "batch_size": 4, "max_steps": 6, "lora_r": 4, "device": "cpu",
    "precision": "fp32", "num_workers": 1, "learning_rate": 5e-3, "patience": 0,
    "eval_steps": 2, "save_steps": 1,
}  # fmt: skip


@pytest.fixture
def stories(tmp_path):
    return str(write_stories(tmp_path / "stories.jsonl"))


def _config(tiny_folder, output, **changes):
    return Config(
        model_name=str(tiny_folder("gpt2")), output_dir=str(output), **{**SMALL, **changes}
    )


def _words(config, *more):
    values = {name: getattr(config, name) for name in (*SMALL, "model_name", "output_dir")}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]
    return ["train", *flags, *more]


def _metrics(config):
    return json.loads((Path(config.output_dir) / "metrics.json").read_text())


def _same_result(one, other, tolerance=0.0):
    for name in ("best_model", "final_model"):
        left, right = (
            load_file(Path(c.output_dir) / name / "adapter_model.safetensors") for c in (one, other)
        )
        for key, value in left.items():
            torch.testing.assert_close(right[key], value, rtol=tolerance, atol=tolerance)
    left, right = _metrics(one), _metrics(other)
    for key in ("batch_losses", "val_loss", "train_loss", "learning_rate", "evaluation_steps"):
        np.testing.assert_allclose(right[key], left[key], rtol=tolerance, atol=tolerance)


def _saving(checkpoints):
    return any(name.startswith(".step-") for name in os.listdir(checkpoints))


def _newest(checkpoints):
    names = os.listdir(checkpoints) if checkpoints.is_dir() else []
    return max((int(name[5:]) for name in names if name.startswith("step-")), default=0)


@pytest.mark.slow
@pytest.mark.cli
@pytest.mark.invariant
def test_run_killed_twenty_times_equals_one_that_was_not(
    tiny_folder, tmp_path, stories, monkeypatch
):
    steps = {"max_steps": 150, "eval_steps": 10}
    straight = _config(tiny_folder, tmp_path / "straight", **steps)
    train(straight, [stories])
    killed = Config(**{**straight.to_dict(), "output_dir": str(tmp_path / "killed")})
    checkpoints = Path(killed.output_dir) / "checkpoints"

    # Processes are forked from one that has imported everything, so that a start takes no time.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[1]))
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["preloaded"])
    generator = random.Random(0)
    for number in range(20):
        process = server.Process(target=main, args=(_words(killed, stories, "--resume"),))
        process.start()
        if number % 4 == 0:  # any moment, the start included
            time.sleep(generator.uniform(0, 1))
        else:
            before = _newest(checkpoints)
            while process.is_alive() and _newest(checkpoints) == before:
                time.sleep(0.002)
            if number % 2:  # during a save
                while process.is_alive() and not _saving(checkpoints):
                    pass
            else:
                time.sleep(generator.uniform(0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode == -9, "the run must not end before it was killed often enough"
    assert main(_words(killed, "--resume")) == 0
    _same_result(straight, killed)
    rest = [name for folder in (checkpoints, checkpoints.parent) for name in os.listdir(folder)
            if name.startswith(".") and name != ".lock"]  # fmt: skip
    assert not rest


def _mounted(folder, size):
    """A small file system in memory, or a reason why there is none."""
    folder.mkdir()
    if shutil.which("mount") is None:
        return "there is no mount command"
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True)
    return None if done.returncode == 0 else f"mounting is not allowed: {done.stderr.strip()}"


def test_full_disk_during_a_save_is_one_line_and_costs_nothing(
    tiny_folder, tmp_path, stories, monkeypatch, capsys
):
    disk = tmp_path / "disk"
    if (reason := _mounted(disk, "4m")) is not None:
        pytest.skip(reason)
    try:
        straight = _config(tiny_folder, tmp_path / "straight")
        train(straight, [stories])
        config = Config(**{**straight.to_dict(), "output_dir": str(disk / "out")})
        real, calls = training_setup.accumulate_gradient, []

        def filling(*arguments):
            calls.append(1)
            if len(calls) == 4:  # one of them is the probe
                with pytest.raises(OSError), (disk / "filler").open("wb", buffering=0) as stream:
                    while True:
                        stream.write(b"x" * 4096)
                # Room for the journal's line and for a part of the checkpoint.
                os.truncate(disk / "filler", (disk / "filler").stat().st_size - 16384)
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(training_setup, "accumulate_gradient", filling)
            assert main(_words(config, stories)) == 1
        said = capsys.readouterr().err
        assert "error: the disk is full" in said and "step-3 could not be written" in said
        found = TrainState.load(Path(config.output_dir) / "checkpoints")
        assert found is not None and found[1].step == 2
        (disk / "filler").unlink()
        assert main(_words(config, stories, "--resume")) == 0
        _same_result(straight, config)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_any_damage_to_a_checkpoint_is_named_and_the_one_before_it_used(
    tiny_folder, tmp_path, stories, capsys
):
    config = _config(tiny_folder, tmp_path / "out", save_total_limit=3, max_steps=4)
    train(config, [stories])
    folder = Path(config.output_dir) / "checkpoints"
    assert sorted(os.listdir(folder)) == ["step-2", "step-3", "step-4"]
    newest = folder / "step-4"

    def flipped(content):
        middle = len(content) // 2
        return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]

    damages = {"truncated": lambda content: content[:-5], "flipped": flipped,
               "empty": lambda content: b"", "gone": None}  # fmt: skip
    for name in sorted(os.listdir(newest)):
        whole = (newest / name).read_bytes()
        for damage in damages.values():
            if damage is None:
                (newest / name).unlink()
            else:
                (newest / name).write_bytes(damage(whole))
            path, state = TrainState.load(folder)
            assert (path.name, state.step) == ("step-3", 3), (name, damage)
            assert "step-4 is damaged" in capsys.readouterr().err
        (newest / name).write_bytes(whole)
    assert TrainState.load(folder)[0] == newest


def test_resume_without_a_checkpoint_does_not_cost_the_model(
    tiny_folder, tmp_path, stories, capsys
):
    config = _config(tiny_folder, tmp_path / "out", max_steps=2)
    train(config, [stories])
    output = Path(config.output_dir)
    more = ["train", "--resume", f"--output-dir={output}"]
    for path in (output / "checkpoints").iterdir():
        (path / "state.json").write_text("{")
    for gone in (None, "final_model"):  # a run that ended, and one that was killed
        if gone is not None:
            shutil.rmtree(output / gone)
        assert main(more) == 2
        said = capsys.readouterr().err
        assert "no checkpoint to go on from, but a model" in said
        assert f"--init-adapter {output / 'best_model'}" in said
        assert (output / "best_model" / "adapter_model.safetensors").exists()
    # Killed before the first checkpoint: nothing is lost by starting over.
    shutil.rmtree(output / "checkpoints")
    assert main(more) == 0
    assert "starting from the first step" in capsys.readouterr().err
    shutil.rmtree(output / "checkpoints")
    assert main(more) == 2


def test_force_goes_on_with_other_settings_and_data_and_records_both(
    tiny_folder, tmp_path, stories, capsys
):
    config = _config(tiny_folder, tmp_path / "out")
    train(config, [stories])
    place = f"--output-dir={config.output_dir}"
    # A flag says what it names; all else is the run's own.
    assert main(["train", "--resume", place, "--learning-rate=1e-4"]) == 2
    said = capsys.readouterr().err
    assert "learning_rate was 0.005, is 0.0001" in said and "model_name" not in said
    write_stories(Path(stories), count=60, seed=1)
    assert main(["train", "--resume", place]) == 2
    assert "has changed: stories.jsonl holds other text" in capsys.readouterr().err
    changed = ["--learning-rate=1e-4", "--max-steps=8"]
    assert main(["train", "--resume", place, "--force", *changed]) == 0
    metrics = _metrics(config)
    assert metrics["learning_rate"][-1] <= 1e-4 and len(metrics["batch_losses"]) == 8
    assert metrics["config"]["max_length"] == 48
    assert [text.partition(" ")[0] for text in metrics["forced"][0]["changes"]] == [
        "stories.jsonl", "max_steps", "learning_rate", "data"
    ]  # fmt: skip
    # Losses on other held-out documents are no match for the old ones.
    assert metrics["best_step"] > 6
    assert main(["train", "--resume", place, "--force"]) == 0
    assert main(["train", "--force", place]) == 2


def test_resume_uses_what_was_found_out_when_the_run_began(
    tiny_folder, tmp_path, stories, monkeypatch, capsys
):
    config = _config(tiny_folder, tmp_path / "out", precision="bf16", max_steps=2)
    train(config, [stories])
    # A machine that would now choose otherwise.
    choose = devices.choose
    monkeypatch.setattr(
        devices, "choose",
        lambda device, precision, threads: choose(
            device, "fp32" if precision == "auto" else precision, threads
        ),
    )  # fmt: skip
    metrics = _metrics(config)
    more = ["train", "--resume", f"--output-dir={config.output_dir}"]
    assert main(more) == 0
    run = json.loads((Path(config.output_dir) / "final_model" / "run.json").read_text())
    assert run["hardware"]["precision"] == "bf16" and run["hardware"]["threads"] == 1
    assert run["training"]["probed"]["micro_batch"] == 4
    assert _metrics(config)["batch_losses"] == metrics["batch_losses"]
    assert main([*more, "--precision=fp32"]) == 2
    assert "precision was 'bf16', is 'fp32'" in capsys.readouterr().err


def test_rows_of_a_micro_batch_are_those_of_the_record(tiny_folder, tmp_path, stories, monkeypatch):
    """Two passes of two rows round differently from one of four: the record decides."""
    whole = _config(tiny_folder, tmp_path / "whole")
    train(whole, [stories])
    straight = _config(tiny_folder, tmp_path / "straight", save_total_limit=6)
    broken = _config(tiny_folder, tmp_path / "broken", save_total_limit=6)
    with monkeypatch.context() as little_memory:
        little_memory.setattr(training_run, "fitting_rows", lambda *arguments: 2)
        train(straight, [stories])
    shutil.copytree(straight.output_dir, broken.output_dir)
    for step in (5, 6):
        shutil.rmtree(Path(broken.output_dir) / "checkpoints" / f"step-{step}")
    train(broken, [stories], resume=True)
    _same_result(straight, broken)
    run = json.loads((Path(broken.output_dir) / "final_model" / "run.json").read_text())
    assert run["training"]["probed"]["micro_batch"] == 2
    assert _metrics(broken)["batch_losses"] != _metrics(whole)["batch_losses"]


def test_full_gpu_halves_the_micro_batch_and_the_result_stays(
    tiny_folder, tmp_path, stories, monkeypatch, capsys
):
    straight = _config(tiny_folder, tmp_path / "straight", lora_dropout=0.0)
    train(straight, [stories])
    real = training_setup.accumulate_gradient
    errors = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
              RuntimeError("MPS backend out of memory (MPS allocated: 5.00 GB)")]  # fmt: skip
    used = []

    def small_gpu(writer, rows, indices, batch_size, tokens=None):
        result = real(writer, rows, indices, batch_size, tokens)
        if len(used) > 3 and batch_size > 1:  # after some of the gradient has been added
            raise errors[len(used) % 2]
        used.append(batch_size)
        return result

    config = Config(**{**straight.to_dict(), "output_dir": str(tmp_path / "small")})
    monkeypatch.setattr(training_setup, "accumulate_gradient", small_gpu)
    train(config, [stories])
    assert used == [4, 4, 4, 4, 1, 1, 1]
    assert "out of memory: going on with micro-batches of 1 row" in capsys.readouterr().err
    _same_result(straight, config, tolerance=1e-5)
    run = json.loads((Path(config.output_dir) / "final_model" / "run.json").read_text())
    assert run["training"]["probed"]["micro_batch"] == 1


def test_memory_too_small_for_one_row_is_one_line():
    def full(rows):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB\nmore")

    with pytest.raises(RunError, match="not enough memory for one row of 512 tokens"):
        MicroBatch(8, 512).run(full)

    def other(rows):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        MicroBatch(8, 512).run(other)


def test_micro_batch_on_a_processor_is_what_free_memory_holds(
    tiny_model, tiny_folder, tmp_path, stories, monkeypatch, capsys
):
    writer = make_writer(tiny_model("gpt2"))
    attach(writer, Config())
    row = bytes_per_row(writer, 128)
    # Twice the tokens take at least twice the memory, and far less than four times as much.
    assert 2 * bytes_per_row(writer, 64) <= row < 3.5 * bytes_per_row(writer, 64)
    free = (3.5 * row + loss.fixed_bytes(writer)) / loss.SPARE
    monkeypatch.setattr(devices, "memory", lambda device="cpu": (2 * free, free))
    assert fitting_rows(writer, 128, 8) == 3
    assert fitting_rows(writer, 128, 2) == 2
    # A GPU says when it is full; an Apple one, which shares its memory, gets few to begin with.
    for device, rows in (("cuda", 8), ("mps", 4)):
        writer.device = dataclasses.replace(writer.device, device=device)
        assert fitting_rows(writer, 128, 8) == rows
    monkeypatch.setattr(devices, "memory", lambda device="cpu": (10**6, 10**6))
    config = _config(tiny_folder, tmp_path / "out")
    assert main(_words(config, stories)) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-2].startswith("error: one row of 48 tokens takes about")
    assert lines[-1] == "try a smaller --max-length, or end other programs"


def test_loss_that_is_no_number_keeps_the_last_good_state_and_says_where(
    tiny_folder, tmp_path, stories, monkeypatch
):
    config = _config(tiny_folder, tmp_path / "out", save_steps=100)
    real, calls = training_setup.accumulate_gradient, []

    def breaking(*arguments):
        calls.append(1)
        loss, tokens = real(*arguments)
        return (float("nan") if len(calls) == 5 else loss), tokens

    said = "the loss is nan at step 4, .* state after step 3 is saved"
    with monkeypatch.context() as patch, pytest.raises(RunError, match=said):
        patch.setattr(training_setup, "accumulate_gradient", breaking)
        train(config, [stories])
    straight = _config(tiny_folder, tmp_path / "straight", save_steps=100)
    train(straight, [stories])
    train(config, resume=True)
    _same_result(straight, config)


def test_broken_weights_are_not_saved(tiny_folder, tmp_path, stories, monkeypatch):
    config = _config(tiny_folder, tmp_path / "out")
    real, calls = training_setup.accumulate_gradient, []

    def breaking(writer, *arguments):
        calls.append(1)
        if len(calls) == 4:
            next(p for p in writer.model.parameters() if p.requires_grad).data[0, 0] = float("nan")
        return real(writer, *arguments)

    monkeypatch.setattr(training_setup, "accumulate_gradient", breaking)
    with pytest.raises(RunError, match="at step 3, .* earlier checkpoints stay"):
        train(config, [stories])
    assert TrainState.load(Path(config.output_dir) / "checkpoints")[1].step == 2


def test_two_runs_in_one_folder_the_second_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    script = (
        "import sys, time\nfrom pathlib import Path\n"
        "from creativewritinggpt.training.run_dir import claimed\n"
        "with claimed(Path(sys.argv[1]), resume=False, overwrite=False):\n"
        "    print('held', flush=True)\n    time.sleep(60)\n"
    )
    from creativewritinggpt.training.run_dir import claimed

    other = subprocess.Popen(
        [os.sys.executable, "-c", script, str(tmp_path / "out")], stdout=subprocess.PIPE
    )
    try:
        assert other.stdout.readline() == b"held\n"
        with (
            pytest.raises(InputError, match="another run is writing"),
            claimed(tmp_path / "out", resume=False, overwrite=False),
        ):
            pass
    finally:
        other.kill()
        other.wait()
    with claimed(tmp_path / "out", resume=False, overwrite=False):
        pass


def test_estimating_memory_lets_go_of_the_model(tiny_model, tiny_tokenizer):
    writer = make_writer(tiny_model("llama"), tiny_tokenizer)
    attach(writer, Config())
    assert bytes_per_row(writer, 64) > 0
    model = weakref.ref(writer.model)
    del writer
    gc.collect()
    assert model() is None
