"""What time of training is worth: held-out loss after equal time, and time to a quality.

    python bench/quality.py NAME=FILE… [--seconds 600] [--seeds 1 2 3] [--results FILE] [--json]

Every contender trains a LoRA adapter of one model on the same documents, in a process of its own,
for the same time: from the start of the process, with imports, loading and reading, to the moment
when the adapter is saved. A short process is timed before the first seed, and the number of steps
(and with it the schedule) is set to what fits. On the way eight adapters are kept, each with its
time. All are scored by the same code on the first words of the same held-out documents (not counted
as time).

    ours        `cwgpt train` with the starter recipe, its validations counted as time
    usual       model + PEFT in a plain loop in fp32: r 8 on the attention, 4 documents a step
                padded to 512, AdamW 5e-4 with a linear schedule, as the original project and most
                tutorials do
    trl-tuned   TRL's SFTTrainer with the starter recipe's settings, set for this machine as in
                `bench/train.py` (precision measured, packing, SDPA, fused AdamW, chunked loss)

The quality to reach is the mean loss of the sources that a peer has at its end, seed by seed; the
time to it is that of the first kept adapter which reaches it. The seed is also that of the split. A
finished run is one line of the results file; a call goes on where the last was stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from measuring import in_own_process, machine

from creativewritinggpt import console
from creativewritinggpt.config.run import Config, load_config
from creativewritinggpt.data.document import Document

CONTENDERS = ("usual", "trl-tuned", "ours")
MARKS = 8
_TIMED = 4

Keep = Callable[[int, Any], None]
"""Keeps the adapter of a model after a number of steps, with its time."""


def began() -> float:
    """When this process began, seconds since the epoch."""
    import psutil

    return float(psutil.Process().create_time())


def ours(config: Config, files: list[str], steps: int, keep: Keep) -> list[float]:
    """``cwgpt train``; its checkpoints are the adapters on the way."""
    from safetensors.torch import load_file, save_file

    from creativewritinggpt.training.run import train

    every = math.ceil(steps / MARKS)
    settings = {
        **config.to_dict(), "max_steps": steps, "num_epochs": 1000, "save_steps": every,
        "patience": 0, "save_total_limit": MARKS,
    }  # fmt: skip
    train(Config(**settings), files, overwrite=True)
    output = Path(config.output_dir)
    for folder in output.glob("checkpoints/*"):
        # An adapter made of the checkpoint's weights, dated as the checkpoint.
        place = output / f"adapter-{folder.name}"
        shutil.copytree(output / "final_model", place)
        weights = load_file(folder / "weights.safetensors")
        save_file(
            {name.replace(".default", ""): weight for name, weight in weights.items()},
            place / "adapter_model.safetensors",
        )
        os.utime(place, (0, folder.stat().st_mtime))
        keep(int(folder.name.rpartition("-")[2]), place)
    lines = (output / "metrics.jsonl").read_text("utf-8").splitlines()
    return [entry["step_seconds"] for entry in map(json.loads, lines) if "step_seconds" in entry]


def usual(config: Config, train: Sequence[Document], steps: int, keep: Keep) -> list[float]:
    """The loop of most tutorials."""
    import torch
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import get_linear_schedule_with_warmup

    model, tokenizer = _base(config.model_name)
    lora = LoraConfig(
        task_type=TaskType.CAUSAL_LM, r=8, lora_alpha=16, lora_dropout=0.1,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
    )  # fmt: skip
    torch.manual_seed(config.seed)
    tuned = get_peft_model(model, lora).train()
    optimizer = torch.optim.AdamW(tuned.parameters(), lr=5e-4)
    schedule = get_linear_schedule_with_warmup(optimizer, min(500, steps // 10), steps)
    order, seconds = torch.randperm(len(train)).tolist(), []
    for step in range(steps):
        started = time.perf_counter()
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
        seconds.append(time.perf_counter() - started)
        keep(step + 1, tuned)
    return seconds


def trl_tuned(config: Config, train: Sequence[Document], steps: int, keep: Keep) -> list[float]:
    """TRL's SFTTrainer, set for this machine."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from creativewritinggpt.devices import choose

    model, tokenizer = _base(config.model_name)
    low = choose("cpu", "auto").precision == "bf16"
    seconds: list[float] = []

    class Clock(TrainerCallback):
        started = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, _: Any, state: Any, __: Any, **given: Any) -> None:
            seconds.append(time.perf_counter() - self.started)
            keep(state.global_step, given["model"])

    trainer = SFTTrainer(
        model=model.to(torch.bfloat16) if low else model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"text": [document.full_text() for document in train]}),
        peft_config=LoraConfig(
            task_type="CAUSAL_LM", r=config.lora_r, lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout, target_modules="all-linear",
        ),
        args=SFTConfig(
            output_dir=f"{config.output_dir}/trl", max_steps=steps, report_to=[], use_cpu=True,
            save_strategy="no", bf16=low, seed=config.seed, disable_tqdm=True, packing=True,
            packing_strategy="bfd", max_length=config.max_length, optim="adamw_torch_fused",
            per_device_train_batch_size=1, gradient_accumulation_steps=config.batch_size,
            gradient_checkpointing=False,
            learning_rate=config.learning_rate, lr_scheduler_type="cosine",
            warmup_steps=min(500, steps // 10), weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
        ),
        callbacks=[Clock()],
    )  # fmt: skip
    trainer.train()
    return seconds


def _base(name: str) -> tuple[Any, Any]:
    """The model as transformers loads it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from creativewritinggpt.models.loading import resolve_base

    path = resolve_base(name).path
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32), tokenizer


def work(name: str, steps: int, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train one contender in this process; times and folders of the adapters on the way."""
    config, every, times = configured(folder, arguments), math.ceil(steps / MARKS), {}
    start = began()

    def keep(step: int, given: Any) -> None:
        if isinstance(given, Path):
            times[step] = (given.stat().st_mtime - start, str(given))
        elif step % every == 0 or step == steps:
            place = folder / f"{name}-{step}"
            given.save_pretrained(place)
            times[step] = (time.time() - start, str(place))

    if name == "ours":
        seconds = ours(config, arguments.files, steps, keep)
    else:
        from creativewritinggpt.data.corpus import load_corpus
        from creativewritinggpt.devices import choose

        train = load_corpus(config, arguments.files).train
        choose("cpu", "fp32").apply()
        seconds = (usual if name == "usual" else trl_tuned)(config, train, steps, keep)
    whole = max(taken for taken, _ in times.values())
    return {
        "marks": sorted([step, *found] for step, found in times.items()),
        # The first step warms up.
        "step_seconds": statistics.mean(seconds[1:]),
        "other_seconds": whole - statistics.mean(seconds[1:]) * steps,
    }


def configured(folder: Path, arguments: argparse.Namespace) -> Config:
    """The starter recipe with what was asked for."""
    settings = {
        "model_name": arguments.model, "output_dir": str(folder / "run"), "samples": 0,
        "val_size": arguments.val_size, "max_documents": arguments.max_documents,
        "seed": arguments.seed, "device": "cpu",
    }  # fmt: skip
    return load_config("starter", settings)


def scored(config: Config, files: list[str], words: int) -> Callable[[str | None], dict[str, Any]]:
    """What scores an adapter (or the base) by source on the held-out documents."""
    from sweep import beginnings

    from creativewritinggpt.data.corpus import load_corpus
    from creativewritinggpt.devices import choose
    from creativewritinggpt.evaluation.perplexity import by_domain
    from creativewritinggpt.evaluation.scoring import score_documents
    from creativewritinggpt.models.adapter import load_adapter
    from creativewritinggpt.models.loading import load_base

    held_out = beginnings(list(load_corpus(config, files).validation), words)
    device = choose("cpu", "auto")
    device.apply()

    def score(adapter: str | None) -> dict[str, Any]:
        writer = load_base(config.model_name, device)
        if adapter:
            load_adapter(writer, Path(adapter))
        found = by_domain(score_documents(writer, held_out, window=512))
        losses = {
            source: sum(s.nll for s in scores) / sum(s.tokens for s in scores)
            for source, scores in found.items()
        }
        return {"mean": statistics.mean(losses.values()), **losses}

    return score


def first_times(
    marks: Sequence[Any], targets: dict[str, float], score: Callable[[str], dict[str, Any]]
) -> tuple[dict[str, float | None], list[Any]]:
    """The times of the first marks whose losses are at most the targets, by bisection.

    Returns:
        Seconds to each target, None where the last mark is above it; and the marks scored: step,
        seconds, loss.
    """
    seen: dict[int, float] = {}

    def loss(index: int) -> float:
        if index not in seen:
            seen[index] = score(marks[index][2])["mean"]
        return seen[index]

    times: dict[str, float | None] = {}
    for name, target in targets.items():
        low, high = 0, len(marks) - 1
        reached = loss(high) <= target
        while reached and low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if loss(middle) <= target else (middle + 1, high)
        times[name] = marks[high][1] if reached else None
    return times, [[marks[i][0], marks[i][1], seen[i]] for i in sorted(seen)]


def run_one(
    name: str, arguments: argparse.Namespace, earlier: dict[str, Any], targets: dict[str, float]
) -> dict[str, Any]:
    """Train a contender and score it; without an earlier run's times it is timed first."""
    shared = [*arguments.files, "--seed", str(arguments.seed), "--model", arguments.model,
              "--val-size", str(arguments.val_size)]  # fmt: skip
    if arguments.max_documents:
        shared += ["--max-documents", str(arguments.max_documents)]
    with tempfile.TemporaryDirectory(prefix="bench-quality-") as place:
        folder, limit = Path(place), 3 * arguments.seconds + 600
        timed = earlier or in_own_process(
            __file__, [name, str(_TIMED), str(folder), *shared], limit
        )
        if "skipped" in timed:
            return timed
        fit = (arguments.seconds - timed["other_seconds"]) / timed["step_seconds"]
        steps = max(MARKS, int(fit))
        for left in folder.iterdir():
            shutil.rmtree(left)
        found = in_own_process(__file__, [name, str(steps), str(folder), *shared], limit)
        if "skipped" in found:
            return found
        score = scored(configured(folder, arguments), arguments.files, arguments.words)
        result = {"contender": name, "seed": arguments.seed, "steps": steps,
                  "seconds": found["marks"][-1][1], "step_seconds": found["step_seconds"],
                  "other_seconds": found["other_seconds"],
                  "base": score(None), "loss": score(found["marks"][-1][2])}  # fmt: skip
        result["targets"] = targets
        result["seconds_to"], result["marks"] = first_times(found["marks"], targets, score)
        return result


def table(lines: Sequence[dict[str, Any]]) -> None:
    """What came of each run."""
    sources = [name for name in lines[0]["loss"] if name != "mean"]

    def row(line: dict[str, Any]) -> list[str]:
        reached = line["seconds_to"]
        return [
            line["contender"], str(line["seed"]), str(line["steps"]), f"{line['seconds']:.0f}",
            *(f"{line['loss'][name]:.3f}" for name in (*sources, "mean")),
            f"{line['loss']['mean'] - line['base']['mean']:+.3f}",
            *(f"{reached[peer]:.0f}" if reached.get(peer) else "" for peer in CONTENDERS[:-1]),
        ]  # fmt: skip

    console.table(
        "training for equal time",
        [
            "contender",
            "seed",
            "steps",
            "seconds",
            *sources,
            "mean",
            "from base",
            *(f"to {peer}'s" for peer in CONTENDERS[:-1]),
        ],
        [row(line) for line in lines],
    )


def main() -> None:
    """Run every contender in its own process and print the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", metavar="NAME=FILE")
    parser.add_argument("--model", default="starter", help="a Llama-like model")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--val-size", type=int, default=48)
    parser.add_argument("--words", type=int, default=200, help="scored of each document")
    parser.add_argument("--max-documents", type=int)
    parser.add_argument("--results", type=Path, default=Path("quality.jsonl"))
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--seed", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        name, steps, folder = arguments.worker
        found = work(name, int(steps), Path(folder), arguments)
        sys.stdout.write("\n" + json.dumps(found) + "\n")
        return
    lines: list[dict[str, Any]] = []
    if arguments.results.exists():
        lines = [json.loads(line) for line in arguments.results.read_text("utf-8").splitlines()]
    for seed in arguments.seeds:
        arguments.seed = seed
        for name in (c for c in CONTENDERS if c in arguments.contenders):
            done = {(line["contender"], line["seed"]): line for line in lines}
            if (name, seed) in done:
                continue
            targets = {
                peer: done[peer, seed]["loss"]["mean"]
                for peer in CONTENDERS[: CONTENDERS.index(name)]
                if (peer, seed) in done
            }
            earlier = next((line for line in lines if line["contender"] == name), {})
            line = run_one(name, arguments, earlier, targets)
            if "skipped" in line:
                console.warn(f"{name}: skipped: {line['skipped']}")
                continue
            lines.append(line)
            with arguments.results.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
            table(lines)
    if arguments.json:
        sys.stdout.write(json.dumps({"machine": machine(), "rows": lines}) + "\n")


if __name__ == "__main__":
    main()
