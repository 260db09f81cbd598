"""Training on a corpus that is read meanwhile, through the real command."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import write_stories
from safetensors.torch import load_file

from creativewritinggpt.cli.main import main

pytestmark = pytest.mark.cli


def _words(model, output, *more):
    # 160 rows of 48: several groups of each part of the stream.
    return [
        "train", f"--model-name={model}", f"--output-dir={output}", "--max-length=48",
        "--batch-size=2", "--gradient-accumulation-steps=2", "--lora-dropout=0", "--max-steps=40",
        "--eval-steps=20", "--patience=0", "--device=cpu", "--precision=fp32", "--val-size=20",
        "--learning-rate=5e-3", "--num-workers=1", "--streaming", "--save-total-limit=9", *more,
    ]  # fmt: skip


def _metrics(output):
    return json.loads((Path(output) / "metrics.json").read_text())


def _from_the_middle(output, copy):
    """The run as it would be had it been killed after step 20."""
    shutil.copytree(output, copy)
    shutil.rmtree(copy / "checkpoints" / "step-40")
    return copy


def _assert_same(one, other, tolerance):
    for key in ("batch_losses", "val_loss", "base_val_loss", "evaluation_steps"):
        np.testing.assert_allclose(
            _metrics(other)[key], _metrics(one)[key], rtol=0, atol=tolerance, err_msg=key
        )
    weights = [
        load_file(Path(output) / "final_model" / "adapter_model.safetensors")
        for output in (one, other)
    ]
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=0, atol=10 * tolerance)


@pytest.mark.slow
def test_a_streamed_run_that_was_killed_ends_as_if_it_had_not_been(tiny_folder, tmp_path, capsys):
    stories = write_stories(tmp_path / "stories.jsonl", count=600)
    straight = tmp_path / "straight"
    assert main([*_words(tiny_folder("gpt2"), straight), str(stories)]) == 0
    assert "The texts are read meanwhile: 40 steps" in capsys.readouterr().err
    metrics = _metrics(straight)
    assert metrics["val_loss"][-1] < metrics["base_val_loss"]
    record = json.loads((straight / "best_model" / "run.json").read_text())
    assert record["data"]["streamed"]["stories"]["tokens"] > 40 * 4 * 40
    held = [json.loads(line)["prompt"] for line in (straight / "validation.jsonl").open()]
    assert 2 <= len(held) <= 20
    # Nothing of the corpus is left on disk.
    cached = list((Path(os.environ["CWGPT_CACHE"]) / "documents").glob("*"))
    assert cached == []

    # Which documents were read is not known, and that is said where they are judged.
    judged = ["evaluate", str(stories), f"--model={straight / 'best_model'}", "--texts=0"]
    judged += [f"--output-dir={tmp_path / 'judged'}", "--max-documents=10", "--device=cpu"]
    capsys.readouterr()
    assert main(judged) == 0
    assert "was trained on a stream: it may have read some" in capsys.readouterr().err

    killed = _from_the_middle(straight, tmp_path / "killed")
    assert main(["train", "--resume", f"--output-dir={killed}"]) == 0
    assert _metrics(killed)["resumed_from"] == [20]
    _assert_same(straight, killed, 0)

    # A corpus that has changed is not what the place in it means.
    again = _from_the_middle(straight, tmp_path / "again")
    write_stories(stories, count=600, seed=1)
    assert main(["train", "--resume", f"--output-dir={again}"]) == 2
    assert "data" in capsys.readouterr().err


def test_a_stream_needs_an_end(tiny_folder, tmp_path, capsys):
    words = _words(tiny_folder("gpt2"), tmp_path / "out")
    words.remove("--max-steps=40")
    assert main([*words, "--sources=sample"]) == 2
    said = capsys.readouterr().err
    assert "streaming reads on without an end" in said and "max_steps" in said


@pytest.mark.slow
def test_what_two_processes_streamed_one_can_go_on_with(tiny_folder, tmp_path):
    stories = write_stories(tmp_path / "stories.jsonl", count=600)
    both = tmp_path / "both"
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2",
         f"--master-port={20000 + os.getpid() % 20000}",
         "-m", "creativewritinggpt", *_words(tiny_folder("gpt2"), both), str(stories)],
        capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    state = json.loads((both / "checkpoints" / "step-20" / "state.json").read_text())
    assert set(state["state"]["stream"]["lane"]) == {"0", "1"}
    alone = _from_the_middle(both, tmp_path / "alone")
    assert main(["train", "--resume", f"--output-dir={alone}"]) == 0
    _assert_same(both, alone, 1e-5)
