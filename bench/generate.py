"""How fast stories are written, against the peers, on this machine.

    python bench/generate.py [--quick] [--repeats 5] [--json] [--models …] [--contenders …]

Cases: `single` writes one text, `n8` eight alternatives of one prompt, all sampled (temperature
0.9, top-p 0.95, repetition penalty 1.1), after a prompt of 64 tokens that is another one each time;
`tokens_per_second` is end to end, all rows together. `first_token_seconds` is for a prompt of 500
tokens; `first_token_ratio` is a peer's by ours, both by turns in one process, see
`bench/first_token.py`. `share_of_ceiling` is the weights' bytes that one token cannot avoid
reading, times tokens a second, over the machine's read bandwidth (`single` only). Peers come with
`pip install --group bench-generate`; one that is not there is skipped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from generate_contenders import CONTENDERS, MODELS, make_contender, sample_prompts
from measuring import in_own_process, machine, median, show, timed

CASES = {"single": 1, "n8": 8}
METRICS = (
    "tokens_per_second",
    "seconds",
    "first_token_seconds",
    "first_token_ratio",
    "share_of_ceiling",
)


def work(name: str, model: str, quick: bool, repeats: int) -> dict[str, Any]:
    """Measure one contender in this process."""
    started = time.perf_counter()
    contender = make_contender(name, model)
    loading = time.perf_counter() - started
    prompts = iter(sample_prompts(64))
    long_prompts = iter(sample_prompts(500))
    contender.write(next(prompts), 8, 1)  # warm-up
    results: dict[str, Any] = {"load_seconds": loading, "weight_bytes": contender.weight_bytes}
    for case, rows in CASES.items():
        tokens = 32 if quick else (128 if rows == 1 else 64)
        contender.write(next(prompts), 4, rows)
        times = []
        for _ in range(repeats):
            prompt = next(prompts)
            times.append(timed(contender.write, prompt, tokens, rows))
        results[case] = {
            "tokens_per_second": rows * tokens / median(times),
            "seconds": median(times),
            "fastest_seconds": min(times),
            "slowest_seconds": max(times),
        }
    first = [timed(contender.write, next(long_prompts), 1, 1) for _ in range(repeats)]
    results["single"]["first_token_seconds"] = median(first)
    return results


def rows_of(name: str, model: str, found: dict[str, Any], bandwidth: float) -> list[dict[str, Any]]:
    """The rows of one contender on one model."""
    rows: list[dict[str, Any]] = []
    for case in CASES:
        row: dict[str, Any] = {"contender": name, "model": model, "case": case}
        if "skipped" in found:
            row["skipped"] = found["skipped"]
        else:
            row.update(found[case], load_seconds=found["load_seconds"])
            row["weight_bytes"] = found["weight_bytes"]
            if case == "single":
                rate = row["tokens_per_second"]
                row["share_of_ceiling"] = found["weight_bytes"] * rate / bandwidth
        rows.append(row)
    return rows


def compare_first_tokens(rows: list[dict[str, Any]], repeats: int) -> None:
    """Add to the rows of one model's peers how much longer their first token takes than ours."""
    singles = [row for row in rows if row["case"] == "single" and "skipped" not in row]
    if not any(row["contender"] == "ours" for row in singles):
        return
    script = str(Path(__file__).with_name("first_token.py"))
    for row in singles:
        if row["contender"].startswith("ours"):
            continue
        given = [row["contender"], row["model"], "--repeats", str(repeats)]
        found = in_own_process(script, given, seconds=300)
        if "skipped" in found:
            row["first_token_skipped"] = found["skipped"]
        else:
            row["first_token_ratio"] = found["ratio"]


def main() -> None:
    """Run every contender in its own process and print the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few tokens, two repeats")
    parser.add_argument("--repeats", type=int, help="medians of so many; 5, or 2 with --quick")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--worker", nargs=2, metavar=("CONTENDER", "MODEL"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    repeats = arguments.repeats or (2 if arguments.quick else 5)
    if arguments.worker:
        result = work(*arguments.worker, quick=arguments.quick, repeats=repeats)
        sys.stdout.write("\n" + json.dumps(result) + "\n")
        return
    described = machine()
    rows: list[dict[str, Any]] = []
    for model in arguments.models:
        for name in arguments.contenders:
            given = [name, model, "--repeats", str(repeats)]
            given += ["--quick"] if arguments.quick else []
            found = in_own_process(__file__, given, seconds=180)
            rows += rows_of(name, model, found, described["read_bytes_per_second"])
            show(f"{name} on {model}", rows[-len(CASES) :], METRICS)
        here = rows[-len(CASES) * len(arguments.contenders) :]
        compare_first_tokens(here, 2 if arguments.quick else 15)
    show("writing", rows, METRICS)
    if arguments.json:
        sys.stdout.write(json.dumps({"machine": described, "rows": rows}) + "\n")


if __name__ == "__main__":
    main()
