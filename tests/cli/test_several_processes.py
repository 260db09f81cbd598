"""One run by several processes: the losses of one process, and what the death of one costs."""

import datetime
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from corpora import write_stories
from launches import free_port
from safetensors.torch import load_file

from creativewritinggpt import distributed
from creativewritinggpt.cli.main import main

pytestmark = [pytest.mark.cli, pytest.mark.slow]


def _words(model, output):
    # 109 rows: the 28th step has one row, which only one of the processes takes.
    return [
        "train", f"--model-name={model}", f"--output-dir={output}", "--max-length=48",
        "--batch-size=2", "--gradient-accumulation-steps=2", "--lora-dropout=0",
        "--eval-steps=10", "--save-steps=5", "--patience=0", "--device=cpu", "--precision=fp32",
        "--num-epochs=1", "--learning-rate=5e-3", "--num-workers=1",
    ]  # fmt: skip


def _launch(words):
    """Two processes, as torchrun starts them."""
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2",
         f"--master-port={20000 + os.getpid() % 20000}",
         "-m", "creativewritinggpt", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def _metrics(output):
    return json.loads((Path(output) / "metrics.json").read_text())


def _assert_same(one, other):
    left, right = _metrics(one), _metrics(other)
    assert left["evaluation_steps"] == right["evaluation_steps"]
    for key in ("batch_losses", "val_loss", "train_loss", "learning_rate", "base_val_loss"):
        np.testing.assert_allclose(right[key], left[key], rtol=0, atol=1e-5, err_msg=key)
    for name in ("best_model", "final_model"):
        weights = [
            load_file(Path(output) / name / "adapter_model.safetensors") for output in (one, other)
        ]
        for key, value in weights[0].items():
            torch.testing.assert_close(weights[1][key], value, rtol=0, atol=1e-4)


def _after(run, checkpoints, step):
    """Wait until a run has saved that step."""
    while run.poll() is None and not (checkpoints / f"step-{step}").is_dir():
        time.sleep(0.01)
    assert run.poll() is None, run.communicate()


def test_several_processes_have_the_losses_of_one_through_an_interruption_and_a_death(
    tiny_folder, tmp_path
):
    model, stories = tiny_folder("gpt2"), write_stories(tmp_path / "stories.jsonl")
    straight = tmp_path / "straight"
    assert main([*_words(model, straight), str(stories)]) == 0
    steps = len(_metrics(straight)["batch_losses"])

    # Stopped by Ctrl-C, which the launcher hands on to both processes.
    stopped = tmp_path / "stopped"
    run = _launch([*_words(model, stopped), stories])
    _after(run, stopped / "checkpoints", 10)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=120)
    for sentence in ("Before training: validation loss", "everything is saved. Go on with"):
        assert said.count(sentence) == 1, said
    losses = _metrics(stopped)["batch_losses"]
    assert 10 <= len(losses) < steps
    # One process goes on where two have stopped.
    assert main(["train", "--resume", f"--output-dir={stopped}"]) == 0
    assert _metrics(stopped)["resumed_from"] == [len(losses)]
    _assert_same(straight, stopped)

    # One of two processes dies; two others go on.
    replicas = tmp_path / "replicas"
    run = _launch([*_words(model, replicas), stories])
    checkpoints = replicas / "checkpoints"
    _after(run, checkpoints, 10)
    second = next(
        process
        for process in psutil.Process(run.pid).children()
        if process.environ().get("RANK") == "1"
    )
    second.kill()
    _, said = run.communicate(timeout=120)
    assert run.returncode != 0
    assert "error: another process of the run has ended" in said and "is saved" in said
    kept = max(int(path.name[5:]) for path in checkpoints.glob("step-*"))
    assert 10 <= kept < steps
    run = _launch(["train", "--resume", f"--output-dir={replicas}", "--json"])
    out, said = run.communicate(timeout=300)
    assert run.returncode == 0, said
    assert json.loads(out)["steps"] == steps, "one object, from the first process alone"
    assert _metrics(replicas)["resumed_from"] == [kept]
    _assert_same(straight, replicas)


@pytest.mark.parametrize(
    ("place", "code", "said"),
    [
        ({"RANK": "5"}, 2, "RANK is 5, but WORLD_SIZE is 2"),
        ({"RANK": "one"}, 2, "RANK is one, but WORLD_SIZE is 2"),
        ({"RANK": "-1"}, 2, "RANK is -1, but WORLD_SIZE is 2"),
        ({"RANK": "0", "LOCAL_RANK": "2"}, 2, "LOCAL_RANK is 2, but WORLD_SIZE is 2"),
        ({"RANK": "0", "MASTER_PORT": "port"}, 2, "MASTER_PORT is port"),
        ({"RANK": "0"}, 1, "error: the 2 processes of this launch could not meet"),
        ({"RANK": "1"}, 1, "error: the 2 processes of this launch could not meet"),
    ],
)
def test_process_whose_launch_is_not_there_ends_with_a_line(
    tiny_folder, tmp_path, monkeypatch, capsys, place, code, said
):
    monkeypatch.setattr(distributed, "START_TIMEOUT", datetime.timedelta(seconds=1))
    monkeypatch.setattr(distributed, "NOTE_AFTER", 0.1)
    launch = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    for name, value in {**launch, **place}.items():
        monkeypatch.setenv(name, value)
    assert main([*_words(tiny_folder("gpt2"), tmp_path / "out"), "--sources=sample"]) == code
    lines = capsys.readouterr().err
    assert said in lines
    assert code == 2 or "for the other processes: WORLD_SIZE is 2" in lines


def test_launch_that_does_not_add_up_is_refused(tiny_folder, tmp_path, monkeypatch, capsys):
    words = [*_words(tiny_folder("gpt2"), tmp_path / "out"), "--sources=sample"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(words) == 2
    assert "WORLD_SIZE is 2, but no launcher has started this process" in capsys.readouterr().err
    monkeypatch.delenv("WORLD_SIZE")
    # What accelerate launch --cpu --num_processes 2 does to its one process.
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert main(words) == 2
    assert "use torchrun" in capsys.readouterr().err
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert main(words) == 2
    assert "the launcher asks for FSDP" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_launch_configs_are_what_accelerate_takes(tmp_path, capsys):
    from accelerate.commands.config.config_args import ClusterConfig

    for name in ("launch-gpus", "launch-machines"):
        file = tmp_path / f"{name}.yaml"
        assert main(["recipes", name, str(file)]) == 0
        assert f"accelerate launch --config_file {file}" in capsys.readouterr().err
        # An unknown key is an error here.
        config = ClusterConfig.from_yaml_file(str(file))
        assert config.distributed_type == "MULTI_GPU" and config.num_processes > 1
