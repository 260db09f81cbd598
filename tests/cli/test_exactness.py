"""What makes training's numbers right, through the real command: rules 3 and 10."""

import json
import random

import numpy as np
import pytest
from corpora import write_stories

from creativewritinggpt.cli.main import main

pytestmark = [pytest.mark.cli, pytest.mark.slow, pytest.mark.invariant]
FAST = ["--device", "cpu", "--precision", "fp32", "--num-workers", "1"]


def _train(folder, *words):
    """Run ``cwgpt train`` into a folder and read its metrics."""
    assert main(["train", *map(str, words), "--output-dir", str(folder), *FAST]) == 0
    return json.loads((folder / "metrics.json").read_text())


def test_rows_of_a_step_give_the_same_course_however_they_are_cut(tiny_folder, tmp_path):
    model = tiny_folder("llama")
    stories = write_stories(tmp_path / "stories.jsonl", count=30)
    courses = []
    for rows, times in ((8, 1), (2, 4), (1, 8)):
        metrics = _train(
            tmp_path / f"cut-{rows}", stories, "--model-name", model, "--max-steps", 12,
            "--max-length", 40, "--batch-size", rows, "--gradient-accumulation-steps", times,
            "--lora-dropout", 0, "--learning-rate", 2e-3, "--patience", 0,
        )  # fmt: skip
        courses.append(metrics["batch_losses"])
    # An epoch has fewer than 12 steps and ends in a smaller one; the schedule counts all.
    for other in courses[1:]:
        np.testing.assert_allclose(other, courses[0], rtol=0, atol=2e-6)
    assert courses[0][0] != courses[0][-1]


def _markov_model(folder, states):
    """A tiny GPT-2 whose tokenizer has one token for each state, and its folder."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    # Beside the states, what a tokenizer is tried with before it is used.
    words = ["<|endoftext|>", *states, "Once", "upon", "a", "time"]
    tokenizer = Tokenizer(
        models.WordLevel(
            {word: place for place, word in enumerate(words)}, unk_token="<|endoftext|>"
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=end, eos_token=end, pad_token=end, unk_token=end
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(words), n_layer=1, n_embd=32, n_head=4, n_positions=64,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_training_on_a_source_of_known_entropy_ends_there_and_not_below(tmp_path):
    states = ["lamp", "ship", "king", "door", "rain", "wolf", "song", "snow", "gold", "moon"]
    draw, generator = random.Random(0), np.random.default_rng(0)
    transitions = generator.dirichlet(np.full(len(states), 0.6), size=len(states))
    stationary = np.linalg.matrix_power(transitions, 300)[0]
    entropy = -(stationary[:, None] * transitions * np.log(transitions)).sum()
    with (tmp_path / "walks.jsonl").open("w", encoding="utf-8") as stream:
        for _ in range(150):
            state, walk = draw.randrange(len(states)), []
            for _ in range(900):
                state = draw.choices(range(len(states)), transitions[state])[0]
                walk.append(states[state])
            stream.write(json.dumps({"text": " ".join(walk)}) + "\n")
    metrics = _train(
        tmp_path / "out", tmp_path / "walks.jsonl",
        "--model-name", _markov_model(tmp_path / "model", states), "--method", "full",
        "--max-length", 64, "--batch-size", 32, "--max-steps", 220, "--learning-rate", 4e-3,
        "--eval-steps", 55, "--val-size", 15, "--patience", 0,
    )  # fmt: skip
    assert metrics["base_val_loss"] > entropy + 0.4
    assert metrics["val_loss"][-1] == pytest.approx(entropy, abs=0.025)
    # Four standard errors of the mean over the held-out tokens.
    assert min(metrics["val_loss"]) > entropy - 0.03
