"""Text to packed rows: megabytes a second and memory, against the usual ``datasets.map``.

    python bench/data.py [--quick] [--json] [--model NAME]

The corpus is generated: words of the sample corpus in random order with a share of new ones, as
JSON lines of about 5 kB. Every contender runs in a process of its own with empty caches:

    ours            load_corpus (cleaning, duplicates, split) + tokenize + all packed rows
    ours-streamed   the same rows read while they are asked for (``streaming``), by one process
    usual           datasets.map row by row: ftfy.fix_text, then the tokenizer with padding
    usual-batched   the same with batched=True, the texts put end to end and cut into blocks

Ours uses a process for each core (``worker_memory_bytes`` is what the others take at the end); the
peers use what their libraries use by themselves.

Ours run on corpora of two sizes, the larger ten times the smaller: their memory is to stay flat.
Pages of memory-mapped token ids count in ``peak_memory_bytes``; the system takes them back when
memory is short, so what is bound stands apart as ``anonymous_memory_bytes``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import resources
from pathlib import Path
from typing import Any

from creativewritinggpt import console
from creativewritinggpt.devices import processor

MAX_LENGTH = 512
WORDS = 850


def write_corpus(path: Path, megabytes: float) -> None:
    """Generate JSON lines of about so many megabytes."""
    folder = Path(str(resources.files("creativewritinggpt.data") / "sample"))
    text = "".join(file.read_text("utf-8") for file in sorted(folder.glob("*.jsonl")))
    words = re.findall(r"[A-Za-z’']+[.,!?]?", text)
    generator = random.Random(0)
    written = 0
    with path.open("w", encoding="utf-8") as stream:
        while written < megabytes * 1e6:
            chosen = generator.choices(words, k=WORDS)
            for place in range(0, WORDS, 50):
                letters = generator.choices("abcdefghilmnoprstuvw", k=generator.randint(4, 10))
                chosen[place] = "".join(letters)
            lines = [" ".join(chosen[i : i + 90]) for i in range(0, WORDS, 90)]
            line = json.dumps({"text": "\n\n".join(lines)}, ensure_ascii=False) + "\n"
            written += len(line.encode())
            stream.write(line)


def tokenizer_folder(name: str) -> Path:
    """The folder of the model whose tokenizer is used."""
    from creativewritinggpt.models.loading import resolve_base

    return resolve_base(name).path


def ours(corpus: Path, tokenizer: Any, work: Path) -> dict[str, float]:
    """Our way, timed in its three parts."""
    from creativewritinggpt.config.run import Config
    from creativewritinggpt.data.corpus import load_corpus
    from creativewritinggpt.data.rows.packing import plan_rows, tokenize

    began = time.perf_counter()
    loaded = load_corpus(Config(train_size=10**7, cache_dir=str(work)), [str(corpus)])
    read = time.perf_counter()
    tokens = tokenize(loaded.train, tokenizer, work)
    tokenized = time.perf_counter()
    plan = plan_rows(tokens, max_length=MAX_LENGTH, bos_id=0, eos_id=0)
    for start in range(0, len(plan), 8):
        plan.take(slice(start, start + 8))
    ended = time.perf_counter()
    return {
        "seconds": ended - began,
        "cleaning_seconds": read - began,
        "tokenizing_seconds": tokenized - read,
        "packing_seconds": ended - tokenized,
        "tokens": int(tokens.offsets[-1]),
    }


def streamed(corpus: Path, tokenizer: Any) -> dict[str, float]:
    """Our way for what is larger than memory or disk: one pass of the stream."""
    from creativewritinggpt.config.run import Config
    from creativewritinggpt.data.rows.stream import StreamedRows, open_corpus

    began = time.perf_counter()
    config = Config(streaming=True, max_steps=1)
    opened = open_corpus(config, [str(corpus)])
    validation = time.perf_counter()
    shape = {"max_length": MAX_LENGTH, "bos_id": 0, "eos_id": 0, "mask_prompt": False}
    rows = StreamedRows(opened, config, tokenizer, shape)
    targets = 0
    while not any(place["passes"] for place in rows.stats().values()):
        targets += int(rows.take(8).target_counts().sum())
    ended = time.perf_counter()
    return {
        "seconds": ended - began,
        "validation_seconds": validation - began,
        "tokens": targets,
    }


def usual(corpus: Path, tokenizer: Any, work: Path, *, batched: bool) -> dict[str, float]:
    """The way of most scripts."""
    import datasets
    import ftfy

    datasets.disable_progress_bars()
    began = time.perf_counter()
    data = datasets.load_dataset(
        "json", data_files=str(corpus), split="train", cache_dir=str(work), keep_in_memory=False
    )
    data = data.map(lambda row: {"text": ftfy.fix_text(row["text"])})
    if not batched:
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token or "<|endoftext|>"
        done = data.map(
            lambda row: tokenizer(
                row["text"], truncation=True, padding="max_length", max_length=MAX_LENGTH
            ),
            remove_columns=["text"],
        )
    else:

        def blocks(batch: dict[str, list[Any]]) -> dict[str, list[list[int]]]:
            ids = [token for row in batch["input_ids"] for token in row]
            whole = len(ids) // MAX_LENGTH * MAX_LENGTH
            return {"input_ids": [ids[i : i + MAX_LENGTH] for i in range(0, whole, MAX_LENGTH)]}

        done = data.map(lambda b: tokenizer(b["text"]), batched=True, remove_columns=["text"])
        done = done.map(blocks, batched=True, remove_columns=done.column_names)
    for start in range(0, len(done), 8):
        done[start : start + 8]
    return {"seconds": time.perf_counter() - began}


def worker_memory() -> int:
    """What the worker processes beside this one take now, in bytes."""
    import psutil

    return sum(child.memory_info().rss for child in psutil.Process().children())


def run_one(contender: str, corpus: Path, model: Path) -> dict[str, Any]:
    """One contender in this process."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    with tempfile.TemporaryDirectory() as work:
        if contender == "ours":
            found: dict[str, Any] = ours(corpus, tokenizer, Path(work))
            found["worker_memory_bytes"] = worker_memory()
        elif contender == "ours-streamed":
            found = streamed(corpus, tokenizer)
        else:
            batched = contender == "usual-batched"
            found = usual(corpus, tokenizer, Path(work), batched=batched)
    unit = 1 if sys.platform == "darwin" else 1024
    found["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    status = Path("/proc/self/status")
    if status.is_file():
        anonymous = re.search(r"RssAnon:\s+(\d+)", status.read_text())
        found["anonymous_memory_bytes"] = int(anonymous[1]) * 1024 if anonymous else None
    found["megabytes_per_second"] = corpus.stat().st_size / 1e6 / found["seconds"]
    return found


def measure(contender: str, corpus: Path, model: Path, repeats: int) -> dict[str, Any]:
    """The medians of some runs, each in a process of its own."""
    runs = []
    for _ in range(repeats):
        command = [sys.executable, __file__, "--one", contender, str(corpus), str(model)]
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["it failed"])[-1]
            return {"skipped": reason}
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def main() -> None:
    """Run the contenders and show the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small corpus, each once")
    parser.add_argument("--json", action="store_true", help="print one object on stdout")
    parser.add_argument("--model", default="starter", help="whose tokenizer is used")
    parser.add_argument("--one", nargs=3, metavar=("CONTENDER", "CORPUS", "MODEL"))
    arguments = parser.parse_args()
    if arguments.one:
        contender, corpus, model = arguments.one
        print(json.dumps(run_one(contender, Path(corpus), Path(model))))
        return
    small, repeats = (2.0, 1) if arguments.quick else (8.0, 3)
    folder = tokenizer_folder(arguments.model)
    plan = [(name, size) for name in ("ours", "ours-streamed") for size in (small, 10 * small)]
    plan += [("usual", small), ("usual-batched", small)]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        for size in (small, 10 * small):
            write_corpus(Path(work) / f"{size:g}.jsonl", size)
        for contender, size in plan:
            corpus = Path(work) / f"{size:g}.jsonl"
            console.note(f"{contender}: {size:g} MB")
            found = measure(contender, corpus, folder, repeats)
            rows.append(
                {"contender": contender, "model": arguments.model, "case": f"{size:g}MB", **found}
            )
    base = next((r["megabytes_per_second"] for r in rows if r["contender"] == "usual"), None)
    for row in rows:
        if base and "megabytes_per_second" in row:
            row["ratio_to_usual"] = row["megabytes_per_second"] / base
    console.table(
        "text to packed rows",
        ["contender", "case", "MB/s", "seconds", "ratio", "peak memory", "of it bound"],
        [
            [r["contender"], r["case"], f"skipped: {r['skipped']}", "", "", "", ""]
            if "skipped" in r
            else [
                r["contender"],
                r["case"],
                f"{r['megabytes_per_second']:.2f}",
                f"{r['seconds']:.1f}",
                f"{r['ratio_to_usual']:.1f}" if "ratio_to_usual" in r else "",
                console.size(r["peak_memory_bytes"]),
                console.size(r["anonymous_memory_bytes"])
                if r.get("anonymous_memory_bytes")
                else "",
            ]
            for r in rows
        ],
    )
    if arguments.json:
        machine = {
            "processor": processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "system": platform.platform(),
        }
        print(json.dumps({"machine": machine, "rows": rows}))


if __name__ == "__main__":
    main()
