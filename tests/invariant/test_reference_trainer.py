"""fp32 training follows transformers' Trainer with PEFT, same data and settings (rule 9)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import write_stories
from safetensors.torch import load_file

from creativewritinggpt.config.run import Config
from creativewritinggpt.data.corpus import load_corpus
from creativewritinggpt.data.rows.packing import IGNORE, plan_rows, tokenize
from creativewritinggpt.devices import choose
from creativewritinggpt.models.adapter import attach
from creativewritinggpt.models.loading import load_base
from creativewritinggpt.training.run import train
from creativewritinggpt.training.schedule import plan_run

pytestmark = [pytest.mark.invariant, pytest.mark.slow]
STEPS = 50


def _pieces(batch):
    """The documents of packed rows, each as the ids that a model would be given alone."""
    for row in range(len(batch)):
        for segment in range(1, int(batch.segment_ids[row].max(initial=0)) + 1):
            chosen = batch.segment_ids[row] == segment
            yield [*batch.input_ids[row][chosen], batch.targets[row][chosen][-1]]


def _micro_batch(batch):
    """Documents of packed rows in padded rows of their own, as tutorials make them."""
    pieces = list(_pieces(batch)) or [[0, 0]]
    ids = torch.zeros(len(pieces), max(map(len, pieces)), dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORE)
    for row, piece in enumerate(pieces):
        ids[row, : len(piece)] = torch.tensor(piece)
        mask[row, : len(piece)] = 1
        labels[row, 1 : len(piece)] = torch.tensor(piece[1:])
    if not len(batch):
        labels[:] = IGNORE
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _reference(config, stories, folder):
    """Losses of each step by transformers' Trainer, and the adapter that it ends with."""
    from transformers import Trainer, TrainingArguments

    writer = load_base(config.model_name, choose("cpu", "fp32", 1))
    tokens = tokenize(load_corpus(config, [stories]).train, writer.tokenizer, None)
    rows = plan_rows(
        tokens, max_length=config.max_length, bos_id=writer.bos_id, eos_id=writer.eos_id,
        seed=config.seed,
    )  # fmt: skip
    plan = plan_run(config, len(rows))
    size, micro_batches = config.batch_size, []
    for step in range(plan.total_steps):
        chosen = plan.rows_of_step(step)
        for part in range(config.gradient_accumulation_steps):
            micro_batches.append(_micro_batch(rows.take(chosen[part * size : (part + 1) * size])))
    assert len({len(plan.rows_of_step(step)) for step in range(plan.total_steps)}) == 2
    assert len({batch["input_ids"].shape for batch in micro_batches}) > 3
    attach(writer, config)
    losses: list[float] = []

    class Recorded(Trainer):
        def training_step(self, *arguments, **keywords):
            loss = super().training_step(*arguments, **keywords)
            losses.append(loss.item())
            return loss

    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=1, max_steps=plan.total_steps,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        learning_rate=config.learning_rate, lr_scheduler_type=config.schedule,
        warmup_steps=plan.warmup_steps, weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm, train_sampling_strategy="sequential", use_cpu=True,
        save_strategy="no", report_to=[], disable_tqdm=True, remove_unused_columns=False,
        gradient_checkpointing=False, logging_strategy="no",
    )  # fmt: skip
    trainer = Recorded(
        writer.model, arguments, train_dataset=micro_batches, data_collator=lambda items: items[0]
    )
    trainer.train()
    per_step = np.array(losses).reshape(plan.total_steps, -1).sum(1)
    weights = {
        name.replace(".default", ""): value.detach()
        for name, value in writer.model.named_parameters()
        if "lora_" in name
    }
    return per_step, weights


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_training_follows_transformers_trainer(family, tiny_folder, tmp_path):
    stories = str(write_stories(tmp_path / "stories.jsonl", count=30, sentences=5))
    config = Config(
        model_name=str(tiny_folder(family)), output_dir=str(tmp_path / "out"), max_length=48,
        batch_size=2, gradient_accumulation_steps=2, max_steps=STEPS, learning_rate=2e-3,
        lora_dropout=0.0, lora_r=4, target_modules=["all-linear"], patience=0, eval_steps=STEPS,
        device="cpu", precision="fp32", num_workers=1,
    )  # fmt: skip
    train(config, [stories])
    expected, weights = _reference(config, stories, tmp_path / "reference")
    found = json.loads((Path(config.output_dir) / "metrics.json").read_text())["batch_losses"]
    assert found[0] - found[-1] > 0.3  # it learns
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    saved = load_file(Path(config.output_dir) / "final_model" / "adapter_model.safetensors")
    assert saved.keys() == weights.keys()
    for name, value in weights.items():
        torch.testing.assert_close(saved[name], value, rtol=1e-3, atol=1e-5)
