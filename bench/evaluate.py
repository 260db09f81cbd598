"""How fast documents are scored, and that the figures are those of the usual loop.

    python bench/evaluate.py [--quick] [--json] [--models starter …] [--contenders ours …]
    python bench/evaluate.py --models starter --contenders usual ours-bf16 --cases mixed \
        --tokens 100000

The usual loop is transformers in fp32, one document at a time, with the logits of all positions and
a log-softmax over them. Cases: `short` (20 to 120 tokens, as five-sentence stories), `mixed` (20 to
1,000), `long` (1,000); `--tokens N` takes as many documents of such lengths as hold about N tokens,
and scores them once. `tokens_per_second` is of scored tokens, end to end, the fastest of the
repeats; `relative_difference` is that of the sum of all negative log-probabilities from the usual
loop's; `growth_bytes` is how much the process's peak memory grew over that with the model loaded.
`gpt2-124m` has random weights of GPT-2's shape.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import numpy as np
from measuring import in_own_process, machine, show

MODELS = ("gpt2-124m", "starter")
CONTENDERS = ("usual", "ours", "ours-bf16")
CASES = {"short": (20, 120, 48), "mixed": (20, 1000, 10), "long": (1000, 1000, 5)}
METRICS = ("tokens_per_second", "ratio", "relative_difference", "growth_bytes")


def documents(case: str, quick: bool, tokens: int = 0) -> list[np.ndarray]:
    """Token ids of made-up documents of the case's lengths, of about ``tokens`` in all or more."""
    low, high, count = CASES[case]
    count = max(count, 1 + 2 * tokens // (low + high))
    generator = np.random.default_rng(0)
    lengths = generator.integers(low, high + 1, size=max(2, count // (3 if quick else 1)))
    return [generator.integers(20, 40_000, size=length) for length in lengths]


def load(model: str, precision: str) -> Any:
    """A loaded model."""
    from creativewritinggpt.models.loading import load_model

    writer = load_model("starter", "cpu", precision)
    if model == "gpt2-124m":
        import torch
        from transformers import GPT2Config, GPT2LMHeadModel

        torch.manual_seed(0)
        writer.model = GPT2LMHeadModel(GPT2Config()).eval()
        writer.context_length = 1024
    return writer


def usual(writer: Any, texts: list[np.ndarray]) -> float:
    """Σ nats by the loop that everybody writes."""
    import torch

    total = 0.0
    with torch.no_grad():
        for ids in texts:
            tokens = torch.tensor([[writer.bos_id, *ids.tolist()]])
            logits = writer.model(input_ids=tokens).logits[0, :-1]
            logs = torch.log_softmax(logits.float(), dim=-1)
            total -= logs.gather(1, tokens[0, 1:, None]).double().sum().item()
    return total


def ours(writer: Any, texts: list[np.ndarray]) -> float:
    """Σ nats by what ``cwgpt evaluate`` runs."""
    from creativewritinggpt.evaluation.scoring import sliding_windows, windows_nll

    windows = [
        window
        for number, ids in enumerate(texts)
        for window in sliding_windows(number, ids, 1024, 1024, writer.bos_id)
    ]
    return float(sum(found.sum() for found in windows_nll(writer, windows)))


def work(contender: str, model: str, cases: list[str], quick: bool, tokens: int) -> dict[str, Any]:
    """Measure one contender in this process."""
    from creativewritinggpt.devices import peak_memory_bytes

    writer = load(model, "bf16" if contender.endswith("bf16") else "fp32")
    score = usual if contender == "usual" else ours
    score(writer, documents("short", True)[:2])  # warm-up
    loaded = peak_memory_bytes()
    result: dict[str, Any] = {}
    for case in cases:
        texts = documents(case, quick, tokens)
        seconds, found = [], 0.0
        for _ in range(1 if quick or tokens else 3):
            began = time.perf_counter()
            found = score(writer, texts)
            seconds.append(time.perf_counter() - began)
        result[case] = {
            "tokens": sum(map(len, texts)),
            "tokens_per_second": sum(map(len, texts)) / min(seconds),
            "seconds": min(seconds),
            "nll": found,
            "growth_bytes": peak_memory_bytes() - loaded,
        }
    return result


def main() -> None:
    """Run every contender in its own process and print the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a third of the documents, once")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--tokens", type=int, default=0, metavar="N")
    parser.add_argument("--worker", nargs=2, metavar=("CONTENDER", "MODEL"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        contender, model = arguments.worker
        result = work(contender, model, arguments.cases, arguments.quick, arguments.tokens)
        sys.stdout.write("\n" + json.dumps(result) + "\n")
        return
    described, rows = machine(), []
    for model in arguments.models:
        reference: dict[str, Any] = {}
        for name in arguments.contenders:
            given = [name, model, "--cases", *arguments.cases, *["--quick"][: arguments.quick]]
            given += ["--tokens", str(arguments.tokens)]
            found = in_own_process(__file__, given, seconds=400 if not arguments.tokens else 1500)
            reference = reference or ({} if "skipped" in found else found)
            for case in arguments.cases:
                row: dict[str, Any] = {"contender": name, "model": model, "case": case}
                if "skipped" in found:
                    row["skipped"] = found["skipped"]
                else:
                    row.update(found[case])
                    speed, nll = (reference[case][key] for key in ("tokens_per_second", "nll"))
                    row["ratio"] = row["tokens_per_second"] / speed
                    row["relative_difference"] = abs(row["nll"] - nll) / nll
                rows.append(row)
            show(f"{name} on {model}", rows[-len(arguments.cases) :], METRICS)
    show("scoring", rows, METRICS)
    if arguments.json:
        sys.stdout.write(json.dumps({"machine": described, "rows": rows}) + "\n")


if __name__ == "__main__":
    main()
