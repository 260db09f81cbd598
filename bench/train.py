"""How fast an adapter is trained, and in how much memory, against the peers, on this machine.

    python bench/train.py [--quick] [--json] [--models starter …] [--contenders ours …]

Contenders are told in ``train_contenders.py``, the documents in ``train_data.py``: `full` are rows
of 512 tokens without padding, `mixed` the four sources' documents as they come. All take the same
documents in optimizer steps of the same number of positions; a run is too long to be timed whole,
so a few steps are (`steps`; the first one, with its warm-up, apart), and the rows are marked
`extrapolated`. `--rounds 2` lets all contenders run again, by turns; their steps are put together.

    useful_tokens_per_second   targets that are not padding in a step, over the median time of a
                               step (`slowest`, `fastest`: over the longest and the shortest)
    seconds                    the whole process: loading, data, all steps
    peak_memory_bytes          the most resident memory of the process before the held-out loss
    share_of_ceiling           FLOPs that the task can't avoid / time / the best measured rate of
                               matrix products on this machine, in fp32 or bf16
                               (formula: docs/performance.md)
    held_out_loss              nats per token of held-out text in fp32 after all steps (`full` only)

Peers come with `make bench-env`; one that is not there is skipped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from measuring import in_own_process, machine, show
from train_contenders import CONTENDERS, MODELS, load, run
from train_data import ROW, as_tokens, full_rows, read_documents, text_files

CASES = ("full", "mixed")
METRICS = (
    "useful_tokens_per_second",
    "slowest",
    "fastest",
    "seconds",
    "peak_memory_bytes",
    "share_of_ceiling",
    "held_out_loss",
)
LIMIT = 25 * 60
STEPS = 5
_PRODUCT = (4096, 768, 3072)


def product_rates() -> dict[str, float]:
    """FLOP/s of one product of a training step into memory in hand, in fp32 and in bf16."""
    import torch

    from creativewritinggpt.devices import fastest

    rows, inside, out = _PRODUCT
    rates = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        x, weight = torch.randn(rows, inside).to(dtype), torch.randn(out, inside).to(dtype)

        y = torch.empty(rows, out, dtype=dtype)

        def multiply(x: Any = x, weight: Any = weight.T, y: Any = y) -> Any:
            return torch.mm(x, weight, out=y)

        rates[name] = 2.0 * rows * inside * out / fastest(multiply, 20, limit=10)
    return rates


def unavoidable_flops(model: Any, adapter: int, lengths: Sequence[int]) -> float:
    """Matrix-product FLOPs that training an adapter on documents of these lengths can't avoid.

    Args:
        model: The base model.
        adapter: Parameters of the adapter.
        lengths: Targets of each document; one longer than a row is cut.
    """
    pieces = [min(ROW, length - start) for length in lengths for start in range(0, length, ROW)]
    tokens = sum(pieces)
    pairs = sum(n * (n + 1) // 2 for n in pieces)
    config = model.config
    head = model.get_output_embeddings().weight.numel()
    looked_up = {id(model.get_input_embeddings().weight)}
    body = sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if parameter.ndim == 2 and id(parameter) not in looked_up and "wpe" not in name
    )
    if not config.tie_word_embeddings:
        body -= head
    attention = 4 * config.hidden_size * config.num_hidden_layers * pairs
    # Frozen: forward and the gradient of the input. Attention: backward is twice forward.
    return 4.0 * (body + head) * tokens + 6.0 * adapter * tokens + 3.0 * attention


def work(name: str, model: str, case: str, texts: str, steps: int, quick: bool) -> dict[str, Any]:
    """Measure one contender in this process on the documents in a file."""
    from creativewritinggpt.data.rows.packing import pack
    from creativewritinggpt.devices import choose, peak_memory_bytes
    from creativewritinggpt.models.scoring import token_nll

    began = time.perf_counter()
    documents = json.loads(Path(texts).read_text("utf-8"))
    train = full_rows(documents["train"]) if case == "full" else documents["train"]
    course = run(name, model, train, steps)
    seconds = time.perf_counter() - began
    found: dict[str, Any] = {
        "seconds": seconds,
        "peak_memory_bytes": peak_memory_bytes(),
        "steps": len(course.seconds),
        "targets": sum(course.targets),
        "train_loss": course.losses[-1],
        "extrapolated": True,
        **course.notes,
    }
    # Steps are alike but for their documents: targets of all, time of those after the first.
    found["targets_per_step"] = sum(course.targets) / len(course.targets)
    found["step_seconds"] = course.seconds[1:] or course.seconds
    if not name.endswith("-full"):
        base = load(model, ours=True)
        adapter = sum(p.numel() for n, p in course.model.named_parameters() if "lora_" in n)
        lengths = [len(ids) + 1 for ids in train]
        flops = unavoidable_flops(base.model, adapter, lengths)
        found["flops_per_target"] = flops / sum(lengths)
    if case == "full" and not quick:
        writer = load(model, ours=True)
        writer.model, writer.device = course.model.eval(), choose("cpu", "fp32")
        rows = pack(
            as_tokens(documents["held_out"]),
            max_length=ROW, bos_id=writer.bos_id, eos_id=writer.eos_id,
        )  # fmt: skip
        nll = token_nll(writer, rows.take(slice(0, 8)), 4)
        found["held_out_loss"] = float(nll.sum() / (rows.targets[:8] >= 0).sum())
    return found


def _tokenizer() -> Any:
    """The starter's, for both models."""
    from transformers import AutoTokenizer

    from creativewritinggpt.models.loading import resolve_base

    return AutoTokenizer.from_pretrained(resolve_base("starter").path)


def row_of(
    name: str, model: str, case: str, rounds: Sequence[dict[str, Any]], rate: float
) -> dict[str, Any]:
    """One row of the result from a contender's rounds."""
    done = [found for found in rounds if "skipped" not in found]
    row: dict[str, Any] = {"contender": name, "model": model, "case": case}
    if not done:
        return row | rounds[0]
    seconds = [each for found in done for each in found["step_seconds"]]
    row |= done[0] | {
        "step_seconds": seconds,
        "peak_memory_bytes": max(found["peak_memory_bytes"] for found in done),
        "useful_tokens_per_second": done[0]["targets_per_step"] / statistics.median(seconds),
        "slowest": done[0]["targets_per_step"] / max(seconds),
        "fastest": done[0]["targets_per_step"] / min(seconds),
    }
    if "flops_per_target" in row:
        row["share_of_ceiling"] = row["flops_per_target"] * row["useful_tokens_per_second"] / rate
    return row


def ratios(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """How many times faster ours is than each peer, and what part of its memory it takes."""
    found = []
    for mine in rows:
        if not mine["contender"].startswith("ours") or "skipped" in mine:
            continue
        for other in rows:
            same = (mine["model"], mine["case"]) == (other["model"], other["case"])
            if same and other["contender"] != mine["contender"] and "skipped" not in other:
                found.append(
                    {
                        "contender": f"{mine['contender']} : {other['contender']}",
                        "model": mine["model"],
                        "case": mine["case"],
                        **{
                            metric: mine[metric] / other[metric]
                            for metric in ("useful_tokens_per_second", "peak_memory_bytes")
                        },
                    }
                )
    return found


def main() -> None:
    """Run every contender in its own process and print the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two steps, no held-out loss")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--limit", type=int, default=LIMIT, metavar="SECONDS")
    parser.add_argument("--steps", type=int, default=STEPS, metavar="N")
    parser.add_argument("--rounds", type=int, default=1, metavar="N")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    steps = 2 if arguments.quick else arguments.steps
    if arguments.worker:
        result = work(*arguments.worker, steps=steps, quick=arguments.quick)
        sys.stdout.write("\n" + json.dumps(result) + "\n")
        return
    began = time.monotonic()
    described = {**machine(), "product_flops_per_second": product_rates(), "text": text_files()[0]}
    products = described["product_flops_per_second"]
    rows: list[dict[str, Any]] = []
    options = ["--steps", str(steps), *(["--quick"] if arguments.quick else [])]
    with tempfile.TemporaryDirectory(prefix="bench-train-") as folder:
        texts = Path(folder) / "documents.json"
        count = (steps + 1) * max(rows for rows, *_ in MODELS.values()) * ROW
        texts.write_text(json.dumps(read_documents(_tokenizer(), count)), encoding="utf-8")
        for case, model in product(arguments.cases, arguments.models):
            names = [n for n in arguments.contenders if n != "ours-full" or case == "full"]
            found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
            for _, name in product(range(arguments.rounds), names):
                left = arguments.limit - (time.monotonic() - began)
                given = [name, model, case, str(texts), *options]
                found[name].append(
                    in_own_process(__file__, given, seconds=min(left, 400))
                    if left > 30
                    else {"skipped": "no time left in this run"}
                )
                row = row_of(name, model, case, found[name], max(products.values()))
                show(f"{name} on {model}, {case}", [row], METRICS)
            rows += [row_of(n, model, case, found[n], max(products.values())) for n in names]
    show("training", rows, METRICS)
    compared = ratios(rows)
    show("ours to the others", compared, ("useful_tokens_per_second", "peak_memory_bytes"))
    if arguments.json:
        result = {"machine": described, "rows": rows, "ratios": compared}
        sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
