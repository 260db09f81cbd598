"""What a fixed time of training is worth: held-out loss of each way to train, on each source.

    python bench/quality.py NAME=FILE… [--seconds 300] [--json] [--contenders ours usual trl]

Every contender trains a LoRA adapter of one model on the same documents for the same wall time: a
few steps are timed first, and the number of steps (and with it the schedule) is set to what fits.
Loading and scoring are not counted. All are scored by the same code on the same held-out documents.

    ours    `cwgpt train` with the starter recipe
    usual   model + PEFT in a plain loop: r 8 on the attention, 4 documents a step padded to 512,
            AdamW 5e-4 with a linear schedule, as the original project and most tutorials do
    trl     TRL's SFTTrainer with its defaults and PEFT's default LoRA
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring import in_own_process, machine

from creativewritinggpt import console
from creativewritinggpt.config.run import Config, load_config
from creativewritinggpt.data.document import Document

CONTENDERS = ("usual", "trl", "ours")
_TIMED = 4


def ours(config: Config, files: list[str], seconds: float) -> tuple[str, int]:
    """``cwgpt train``; returns the adapter's folder and the steps."""
    from creativewritinggpt.files import read_json
    from creativewritinggpt.training.run import train

    def run(steps: int, name: str) -> Any:
        settings = {
            **config.to_dict(), "output_dir": f"{config.output_dir}/{name}", "max_steps": steps,
            "num_epochs": 1000, "eval_steps": steps, "save_steps": steps, "patience": 0,
        }  # fmt: skip
        return train(Config(**settings), files, overwrite=True)

    first = run(_TIMED, "timed")
    trained = read_json(f"{config.output_dir}/timed/final_model/run.json")["training"]
    step_seconds = trained["useful_tokens"] / first.useful_tokens_per_second / first.steps
    steps = max(1, int(seconds / step_seconds))
    run(steps, "ours")
    return f"{config.output_dir}/ours/final_model", steps


def usual(config: Config, train: Sequence[Document], seconds: float) -> tuple[str, int]:
    """The loop of most tutorials."""
    import torch
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import get_linear_schedule_with_warmup

    model, tokenizer = _base(config.model_name)
    lora = LoraConfig(
        task_type=TaskType.CAUSAL_LM, r=8, lora_alpha=16, lora_dropout=0.1,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
    )  # fmt: skip

    def run(steps: int) -> tuple[Any, float]:
        torch.manual_seed(0)
        tuned = get_peft_model(model, lora).train()
        optimizer = torch.optim.AdamW(tuned.parameters(), lr=5e-4)
        schedule = get_linear_schedule_with_warmup(optimizer, min(500, steps // 10), steps)
        order = torch.randperm(len(train)).tolist()
        started = time.perf_counter()
        for step in range(steps):
            chosen = [train[order[(4 * step + i) % len(order)]].full_text() for i in range(4)]
            batch = tokenizer(
                chosen, truncation=True, max_length=512, padding="max_length", return_tensors="pt"
            )
            labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
            tuned(**batch, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(tuned.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        return tuned, time.perf_counter() - started

    tuned, took = run(_TIMED)
    model = tuned.unload()
    steps = max(1, int(seconds / (took / _TIMED)))
    tuned, _ = run(steps)
    tuned.save_pretrained(f"{config.output_dir}/usual")
    return f"{config.output_dir}/usual", steps


def trl(config: Config, train: Sequence[Document], seconds: float) -> tuple[str, int]:
    """TRL's trainer as it comes."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    data = Dataset.from_dict({"text": [document.full_text() for document in train]})

    def run(steps: int) -> tuple[Any, float]:
        model, tokenizer = _base(config.model_name)
        trainer = SFTTrainer(
            model=model,
            processing_class=tokenizer,
            train_dataset=data,
            peft_config=LoraConfig(task_type="CAUSAL_LM"),
            args=SFTConfig(
                output_dir=f"{config.output_dir}/trl-run", max_steps=steps, report_to=[],
                save_strategy="no", use_cpu=True, bf16=False, seed=0, disable_tqdm=True,
            ),
        )  # fmt: skip
        started = time.perf_counter()
        trainer.train()
        return trainer, time.perf_counter() - started

    _, took = run(_TIMED)
    steps = max(1, int(seconds / (took / _TIMED)))
    trainer, _ = run(steps)
    trainer.model.save_pretrained(f"{config.output_dir}/trl")
    return f"{config.output_dir}/trl", steps


def _base(name: str) -> tuple[Any, Any]:
    """The model as transformers loads it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from creativewritinggpt.models.loading import resolve_base

    path = resolve_base(name).path
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32), tokenizer


def work(contender: str, files: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Train one contender in this process and score it."""
    from creativewritinggpt.data.corpus import load_corpus
    from creativewritinggpt.devices import choose
    from creativewritinggpt.evaluation.perplexity import by_domain
    from creativewritinggpt.evaluation.scoring import score_documents
    from creativewritinggpt.models.adapter import load_adapter
    from creativewritinggpt.models.loading import load_base

    with tempfile.TemporaryDirectory() as folder:
        settings = {"model_name": arguments.model, "output_dir": folder,
                    "val_size": arguments.val_size,
                    "max_documents": arguments.max_documents, "samples": 0}  # fmt: skip
        config = load_config("starter", settings)
        corpus = load_corpus(config, files)
        device = choose("cpu", "auto")
        device.apply()
        if contender == "ours":
            adapter, steps = ours(config, files, arguments.seconds)
        else:
            way = usual if contender == "usual" else trl
            adapter, steps = way(config, corpus.train, arguments.seconds)
        writer = load_base(arguments.model, choose("cpu", "fp32"))
        held_out = list(corpus.validation)
        before = by_domain(score_documents(writer, held_out, window=512))
        load_adapter(writer, Path(adapter))
        after = by_domain(score_documents(writer, held_out, window=512))
    return {
        "steps": steps,
        "sources": {
            name: {
                "documents": len(scores),
                "base_loss": sum(s.nll for s in before[name]) / sum(s.tokens for s in scores),
                "loss": sum(s.nll for s in scores) / sum(s.tokens for s in scores),
            }
            for name, scores in after.items()
        },
    }


def main() -> None:
    """Run every contender in its own process and print the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", metavar="NAME=FILE")
    parser.add_argument("--model", default="starter", help="a Llama-like model")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--val-size", type=int, default=48)
    parser.add_argument("--max-documents", type=int)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        found = work(arguments.worker, arguments.files, arguments)
        sys.stdout.write("\n" + json.dumps(found) + "\n")
        return
    described, rows = machine(), []
    for name in arguments.contenders:
        given = [name, *arguments.files, "--seconds", str(arguments.seconds)]
        given += ["--val-size", str(arguments.val_size), "--model", arguments.model]
        if arguments.max_documents:
            given += ["--max-documents", str(arguments.max_documents)]
        found = in_own_process(__file__, given, seconds=3 * arguments.seconds + 600)
        if "skipped" in found:
            rows.append({"contender": name, "model": arguments.model, "case": "", **found})
            continue
        rows += [
            {"contender": name, "model": arguments.model, "case": case, "steps": found["steps"],
             "seconds": arguments.seconds, **figures}
            for case, figures in found["sources"].items()
        ]  # fmt: skip
    console.table(
        f"{arguments.seconds:.0f} s of training each",
        ["contender", "source", "documents", "steps", "base", "loss"],
        [
            [row["contender"], row["case"], "", "", "", f"skipped: {row['skipped']}"]
            if "skipped" in row
            else [row["contender"], row["case"], str(row["documents"]), str(row["steps"]),
                  f"{row['base_loss']:.4f}", f"{row['loss']:.4f}"]
            for row in rows
        ],
    )  # fmt: skip
    if arguments.json:
        sys.stdout.write(json.dumps({"machine": described, "rows": rows}) + "\n")


if __name__ == "__main__":
    main()
