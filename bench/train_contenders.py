"""The contenders of ``bench/train.py``: ours, and the ways that others train the same adapter.

All train LoRA on every projection with AdamW at a constant rate, on the same documents, with the
same number of positions in an optimizer step:

    ours              the project's engine, as ``cwgpt train`` runs it
    ours-compiled     the same with ``compile: true``
    ours-int8         the same with ``precision: int8``
    ours-projections  the same without ``training/fast``: transformers' modules, fused projections
    ours-plain        the same with neither: transformers' modules and PEFT's layers
    ours-full         the same as ours with ``method: full``, all weights
    usual             model + PEFT in a plain loop: fp32, the base's dropouts on, rows padded to
                      512, all logits at once, as most tutorials and the original project do
    trainer           transformers' Trainer + PEFT in bf16, rows padded to the longest of their
                      batch
    trl               TRL's SFTTrainer with packing, in bf16, without gradient checkpointing
    trainer-tuned     the Trainer as an expert sets it on this machine: documents packed into rows
                      with position ids, the base's dropouts off, SDPA, fused AdamW, a row at a time
    trl-tuned         the same of TRL's SFTTrainer, whose loss needs no full logits

The tuned ones hold the frozen base in bf16 where a product in bf16 is measured to be faster, else
all in fp32; the adapter stays in fp32.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from train_data import ROW, as_tokens

CONTENDERS = (
    "ours", "ours-compiled", "ours-int8", "ours-projections", "ours-plain", "ours-full", "usual",
    "trainer", "trl", "trainer-tuned", "trl-tuned",
)  # fmt: skip
MODELS = {
    # Rows of 512 in an optimizer step, rank, scale.
    "gpt2-124m": (8, 8, 16),
    "starter": (4, 16, 32),
}
LEARNING_RATE = 5e-4
DROPOUT = 0.05


@dataclasses.dataclass
class Course:
    """What a contender did, step by step."""

    seconds: list[float] = dataclasses.field(default_factory=list)
    targets: list[int] = dataclasses.field(default_factory=list)
    losses: list[float] = dataclasses.field(default_factory=list)
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)
    model: Any = None


def load(model: str, ours: bool, dropouts: bool | None = None) -> Any:
    """A writer: for us as training loads it, for the others with the base's dropouts on."""
    from creativewritinggpt.models.loading import load_base, switch_dropouts_off

    device = _device("auto" if ours else "fp32")
    writer = load_base("starter", device)
    if model == "gpt2-124m":
        from transformers import GPT2Config, GPT2LMHeadModel

        torch.manual_seed(0)
        config = GPT2Config()
        if not (dropouts if dropouts is not None else not ours):
            switch_dropouts_off(config)
        writer.model = GPT2LMHeadModel(config)
        writer.context_length = 1024
    return writer


def _device(precision: str) -> Any:
    from creativewritinggpt.devices import choose

    device = choose("cpu", precision)
    device.apply()
    return device


def ours(model: str, documents: Sequence[Sequence[int]], steps: int, kind: str) -> Course:
    """Our engine, in the steps of the training loop."""
    from creativewritinggpt.config.run import Config
    from creativewritinggpt.data.rows.packing import plan_rows
    from creativewritinggpt.devices import keep_freed_memory
    from creativewritinggpt.models.adapter import attach
    from creativewritinggpt.training.checkpoint import trained_parameters
    from creativewritinggpt.training.fast.block import MOST_TOKENS, rows_per_pass
    from creativewritinggpt.training.loss import accumulate_gradient

    rows_per_step, rank, alpha = MODELS[model]
    keep_freed_memory()
    writer = load(model, ours=True)
    config = Config(
        method="full" if kind == "full" else "lora",
        target_modules=["all-linear"],
        lora_r=rank,
        lora_alpha=alpha,
        lora_dropout=DROPOUT,
    )
    torch.manual_seed(0)
    attach(writer, config)
    rows = plan_rows(
        as_tokens(documents), max_length=ROW, bos_id=writer.bos_id, eos_id=writer.eos_id
    )
    parameters = list(trained_parameters(writer.model).values())
    rate = LEARNING_RATE if kind != "full" else LEARNING_RATE / 10
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
    course = Course(model=writer.model, notes={"precision": writer.device.precision})
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).numpy()
    with _path(writer, kind):
        # ours-plain and ours-projections with as many tokens at once as the fast path has.
        most = rows_per_step if kind == "full" else min(rows_per_step, MOST_TOKENS // ROW)
        at_once = rows_per_pass(writer, ROW, most)
        course.notes["rows_at_once"] = at_once
        for step in range(min(steps, len(rows) // rows_per_step)):
            began = time.perf_counter()
            writer.model.train()
            chosen = order[step * rows_per_step : (step + 1) * rows_per_step]
            loss, targets = accumulate_gradient(writer, rows, chosen, at_once)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            course.seconds.append(time.perf_counter() - began)
            course.targets.append(targets)
            course.losses.append(loss)
    return course


def _path(writer: Any, kind: str) -> contextlib.AbstractContextManager[Any]:
    """The way that the model's passes take, by the kind of contender."""
    from creativewritinggpt.training.fast.block import fast_path
    from creativewritinggpt.training.fast.layers import fused_projections

    if kind == "plain":
        return contextlib.nullcontext()
    if kind == "projections":
        return fused_projections(writer)
    return fast_path(writer, int8=kind == "int8", compiled=kind == "compiled")


def _lora(model: str) -> Any:
    """The adapter's settings as PEFT takes them."""
    from peft import LoraConfig, TaskType

    _, rank, alpha = MODELS[model]
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=rank,
        lora_alpha=alpha,
        lora_dropout=DROPOUT,
        target_modules="all-linear",
        fan_in_fan_out=model == "gpt2-124m",
    )


def _sequences(writer: Any, documents: Sequence[Sequence[int]]) -> list[list[int]]:
    """Documents as the others take them: begin, ids, end, cut at 512 tokens."""
    return [[writer.bos_id, *ids, writer.eos_id][:ROW] for ids in documents]


def _padded(batch: Sequence[Sequence[int]], pad: int, width: int) -> dict[str, torch.Tensor]:
    """Rows of one width, with mask and labels."""
    ids = torch.full((len(batch), width), pad)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(batch):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def usual(model: str, documents: Sequence[Sequence[int]], steps: int) -> Course:
    """The recipe of the original project and of most tutorials."""
    from peft import get_peft_model

    rows_per_step = MODELS[model][0]
    writer = load(model, ours=False)
    torch.manual_seed(0)
    tuned = get_peft_model(writer.model, _lora(model)).train()
    optimizer = torch.optim.AdamW(
        [p for p in tuned.parameters() if p.requires_grad], lr=LEARNING_RATE, weight_decay=0.01
    )
    course = Course(model=tuned, notes={"precision": "fp32"})
    sequences = _sequences(writer, documents)
    for step in range(steps):
        began = time.perf_counter()
        batch = sequences[step * rows_per_step : (step + 1) * rows_per_step]
        inputs = _padded(batch, writer.eos_id, ROW)
        loss = tuned(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tuned.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        course.seconds.append(time.perf_counter() - began)
        course.targets.append(sum(len(sequence) - 1 for sequence in batch))
        course.losses.append(loss.item())
    return course


class _Counting:
    """A collator that also counts the targets of each batch."""

    def __init__(self, collate: Callable[[Any], Any], targets: list[int]) -> None:
        self.collate, self.targets = collate, targets

    def __call__(self, features: Any) -> Any:
        batch = self.collate(features)
        self.targets.append(int((batch["labels"][:, 1:] != -100).sum()))
        return batch


def _tuned(model: str) -> tuple[Any, str]:
    """A writer as an expert loads it, and the precision that is faster here."""
    writer = load(model, ours=False, dropouts=False)
    precision = _device("auto").precision
    if precision == "bf16":
        writer.model = writer.model.to(torch.bfloat16)
    return writer, precision


def _common(
    model: str, steps: int, folder: str, micro_steps: int = 1, bf16: bool = True
) -> dict[str, Any]:
    """Settings of transformers' Trainer and of those made from it."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": MODELS[model][0] // micro_steps,
        "gradient_accumulation_steps": micro_steps,
        "max_steps": steps,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "bf16": bf16,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "logging_strategy": "steps",
        "logging_steps": 1,
        "report_to": [],
        "disable_tqdm": True,
        "seed": 0,
        "train_sampling_strategy": "sequential",
    }


@contextlib.contextmanager
def _timed_steps(trainer: Any, course: Course) -> Iterator[None]:
    """Note the time and the targets of each optimizer step."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        began = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            course.seconds.append(time.perf_counter() - self.began)

    targets: list[int] = []
    trainer.data_collator = _Counting(trainer.data_collator, targets)
    trainer.add_callback(Clock())
    yield
    cuts = trainer.args.gradient_accumulation_steps
    course.targets = [
        sum(targets[step * cuts : (step + 1) * cuts]) for step in range(len(course.seconds))
    ]
    course.losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    course.model = trainer.model


def trainer(model: str, documents: Sequence[Sequence[int]], steps: int) -> Course:
    """The Trainer of transformers with PEFT and bf16."""
    from peft import get_peft_model
    from transformers import Trainer, TrainingArguments

    writer = load(model, ours=False)
    torch.manual_seed(0)
    tuned = get_peft_model(writer.model, _lora(model))
    course = Course(notes={"precision": "bf16"})
    rows = [{"input_ids": sequence} for sequence in _sequences(writer, documents)]

    def collate(features: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        batch = [feature["input_ids"] for feature in features]
        return _padded(batch, writer.eos_id, max(map(len, batch)))

    with tempfile.TemporaryDirectory(prefix="bench-train-") as folder:
        arguments = TrainingArguments(**_common(model, steps, folder), remove_unused_columns=False)
        runner = Trainer(tuned, arguments, data_collator=collate, train_dataset=rows)
        with _timed_steps(runner, course):
            runner.train()
    return course


def trl(model: str, documents: Sequence[Sequence[int]], steps: int) -> Course:
    """TRL's SFTTrainer with packing and bf16."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    writer = load(model, ours=False)
    sequences = [[writer.bos_id, *ids, writer.eos_id] for ids in documents]
    if all(len(sequence) == ROW + 1 for sequence in sequences):
        sequences = [sequence[:ROW] for sequence in sequences]
    # It puts a batch's rows end to end under one dense mask: 8 rows of GPT-2's shape need more than
    # the 24 GB that most machines with two cores have.
    micro_steps = 2 if model == "gpt2-124m" else 1
    course = Course(notes={"precision": "bf16", "micro_steps": micro_steps})
    with tempfile.TemporaryDirectory(prefix="bench-train-") as folder:
        arguments = SFTConfig(
            **_common(model, steps, folder, micro_steps), packing=True, max_length=ROW
        )
        runner = SFTTrainer(
            writer.model,
            arguments,
            train_dataset=Dataset.from_dict({"input_ids": sequences}),
            processing_class=writer.tokenizer,
            peft_config=_lora(model),
        )
        with _timed_steps(runner, course):
            runner.train()
    return course


def _packed(sequences: Sequence[Sequence[int]]) -> list[dict[str, list[int]]]:
    """Rows of at most 512 tokens of whole documents, each document's positions from 0."""
    rows: list[dict[str, list[int]]] = []
    for sequence in sorted(sequences, key=len, reverse=True):
        row = next((r for r in rows if len(r["input_ids"]) + len(sequence) <= ROW), None)
        if row is None:
            row = {"input_ids": [], "position_ids": [], "labels": []}
            rows.append(row)
        row["input_ids"] += sequence
        row["position_ids"] += range(len(sequence))
        row["labels"] += [-100, *sequence[1:]]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    return [rows[i] for i in order]


def trainer_tuned(model: str, documents: Sequence[Sequence[int]], steps: int) -> Course:
    """The Trainer of transformers with PEFT, set for this machine."""
    from peft import get_peft_model
    from transformers import Trainer, TrainingArguments

    rows_per_step = MODELS[model][0]
    writer, precision = _tuned(model)
    torch.manual_seed(0)
    tuned = get_peft_model(writer.model, _lora(model))
    settings = {
        "precision": precision, "optimizer": "fused AdamW", "micro_steps": rows_per_step,
        "attention": "SDPA, documents apart by position ids", "base_dropout": 0.0,
    }  # fmt: skip
    course = Course(notes=settings)

    def collate(features: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        return {name: torch.tensor([feature[name] for feature in features]) for name in features[0]}

    with tempfile.TemporaryDirectory(prefix="bench-train-") as folder:
        arguments = TrainingArguments(
            **_common(model, steps, folder, rows_per_step, precision == "bf16"),
            remove_unused_columns=False,
            optim="adamw_torch_fused",
        )
        rows = _packed(_sequences(writer, documents))
        runner = Trainer(tuned, arguments, data_collator=collate, train_dataset=rows)
        with _timed_steps(runner, course):
            runner.train()
    return course


def trl_tuned(model: str, documents: Sequence[Sequence[int]], steps: int) -> Course:
    """TRL's SFTTrainer, set for this machine."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows_per_step = MODELS[model][0]
    writer, precision = _tuned(model)
    settings = {
        "precision": precision, "optimizer": "fused AdamW", "micro_steps": rows_per_step,
        "attention": "SDPA, documents apart by position ids", "base_dropout": 0.0,
        "loss": "chunked",
    }  # fmt: skip
    course = Course(notes=settings)
    with tempfile.TemporaryDirectory(prefix="bench-train-") as folder:
        arguments = SFTConfig(
            **_common(model, steps, folder, rows_per_step, precision == "bf16"),
            packing=True,
            packing_strategy="bfd",
            max_length=ROW,
            optim="adamw_torch_fused",
        )
        runner = SFTTrainer(
            writer.model,
            arguments,
            train_dataset=Dataset.from_dict({"input_ids": _sequences(writer, documents)}),
            processing_class=writer.tokenizer,
            peft_config=_lora(model),
        )
        with _timed_steps(runner, course):
            runner.train()
    return course


def run(name: str, model: str, documents: Sequence[Sequence[int]], steps: int) -> Course:
    """Let a contender train."""
    if name.startswith("ours"):
        return ours(model, documents, steps, name.removeprefix("ours").lstrip("-"))
    peers = {
        "usual": usual, "trainer": trainer, "trl": trl,
        "trainer-tuned": trainer_tuned, "trl-tuned": trl_tuned,
    }  # fmt: skip
    return peers[name](model, documents, steps)
