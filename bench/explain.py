"""How long an explanation takes, against the peers, on this machine.

    python bench/explain.py [--quick] [--json] [--models starter …] [--contenders ours …]

Cases, each with the number of tokens read (start token included):

    integrated_gradients              of the next token; peers at 50 steps, ours as many as it needs
    integrated_gradients_20_targets   of each of the last 20 tokens
    perturbation                      50 replacements of each token
    attention_pictures                capture, a picture a layer with every head, the overview

On a trained model captum's 50 steps are not enough for the delta that ours reaches: `captum_enough`
doubles them until they are (at most 400), and the time of its last run is what counts.

`captum` and `inseq` take one run for each target and are timed on 4 of the 20; `original`, one pass
for each token and replacement, on a part of them, and ours at 128 tokens with 20 replacements of
each instead of 50: `extrapolated`. Equal results are part of the claim: `relative_delta` is what
the scores miss of the change they explain (the worst target), `rank_correlation` compares with a
reference of 500 steps (100 at 128 tokens), `within_two_errors` is the share of tokens whose scores
lie within two standard errors of the original's, `error_ratio` our standard errors by those of as
many of its samples (the median token). Every row is a process of its own; the reference is not
timed against anything. `share_of_ceiling`, of random replacements: the matrix products that 50 of
each token can't avoid (a pass over the rest of the text, the head at its last place) / time / the
faster of this machine's fp32 and bf16 product rates. Peers come with `pip install --group
bench-explain`; one that is not there is skipped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from typing import Any

import explain_contenders as contenders
import numpy as np
from generate_contenders import MODELS
from measuring import in_own_process, machine, median, show

from train import product_rates

CASES = {
    "integrated_gradients/32": ("ours", "captum", "captum_enough", "inseq", "reference"),
    "integrated_gradients_20_targets/32": ("ours", "captum", "inseq"),
    "perturbation/32": ("ours", "original"),
    "attention_pictures/32": ("ours",),
    "integrated_gradients/128": ("ours", "captum", "inseq", "reference"),
    "perturbation/128": ("ours", "original"),
}
METRICS = (
    "seconds",
    "ratio",
    "steps",
    "relative_delta",
    "rank_correlation",
    "within_two_errors",
    "error_ratio",
    "share_of_ceiling",
    "peak_memory_bytes",
)
# Runs longer than this are not repeated.
LONG = 10.0


def work(name: str, model: str, case: str, quick: bool) -> dict[str, Any]:
    """Measure one contender on one case in this process."""
    from creativewritinggpt.devices import peak_memory_bytes

    warnings.simplefilter("ignore")
    kind, _, tokens = case.partition("/")
    writer = contenders.load(model)
    task = contenders.make_task(writer, int(tokens), contenders.MANY if "_20_" in kind else 1)
    run = contenders.CONTENDERS[name](writer, kind, quick)
    if name != "reference":
        with contenders.few_steps():
            run(contenders.make_task(writer, 8, 1))  # warm-up
    found, times = None, []
    while not times or (name != "reference" and not quick and len(times) < 3 and times[0] < LONG):
        began = time.perf_counter()
        found = run(task)
        took = time.perf_counter() - began
        times.append(took if found.seconds is None else found.seconds)
        if found.seconds is not None:
            break
    result: dict[str, Any] = {
        "seconds": median(times) * found.whole,
        "repeats": len(times),
        "extrapolated": found.whole != 1,
        "peak_memory_bytes": peak_memory_bytes(),
        "scores": _plain(found.scores),
    }
    if kind == "perturbation":
        result["unavoidable_flops"] = contenders.replacing_flops(writer.model, int(tokens))
    for name in ("relative_delta", "steps"):
        if getattr(found, name) is not None:
            result[name] = getattr(found, name)
    if found.errors is not None:
        result["errors"] = _plain(found.errors)
        result["drawn"] = found.drawn
    return result


def _plain(values: np.ndarray) -> list[float | None]:
    """Ready for JSON, which has no NaN."""
    return [None if np.isnan(value) else float(value) for value in values]


def compare(rows: list[dict[str, Any]]) -> None:
    """Add to the rows of one case how they stand to each other; their scores go."""
    from creativewritinggpt.analysis.methods.gradients import rank_correlation

    by_name = {row["contender"]: row for row in rows if "skipped" not in row}
    scores = {name: _array(row.pop("scores")) for name, row in by_name.items()}
    errors = {name: _array(row.pop("errors")) for name, row in by_name.items() if "errors" in row}
    for name, row in by_name.items():
        if "reference" in scores and name not in ("reference", "inseq"):
            # The start token gets nothing from anyone. inseq has another baseline.
            row["rank_correlation"] = rank_correlation(scores[name][1:], scores["reference"][1:])
    if {"ours", "original"} <= set(errors):
        gap = np.abs(scores["ours"] - scores["original"])
        limit = 2 * np.hypot(errors["ours"], errors["original"])
        looked_at = ~np.isnan(gap)
        by_name["ours"]["within_two_errors"] = float((gap <= limit)[looked_at].mean())
        by_name["ours"]["compared_tokens"] = int(looked_at.sum())
        as_many = by_name["original"]["drawn"] / by_name["ours"]["drawn"]
        ratios = errors["ours"] / (errors["original"] * as_many**0.5)
        by_name["ours"]["error_ratio"] = float(np.median(ratios[looked_at]))
    for name in by_name:
        if name not in ("ours", "reference") and "ours" in by_name:
            by_name[name]["ratio"] = by_name[name]["seconds"] / by_name["ours"]["seconds"]


def _array(values: list[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values])


def main() -> None:
    """Run every contender in its own process and print the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="32 tokens, once, rough references")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument(
        "--models",
        nargs="+",
        choices=(*MODELS, "tiny"),
        default=list(MODELS),
        help="tiny: only to see that the script works",
    )
    names = list(contenders.CONTENDERS)
    parser.add_argument("--contenders", nargs="+", choices=names, default=names)
    parser.add_argument("--cases", nargs="+", choices=CASES)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        found = work(*arguments.worker, quick=arguments.quick)
        sys.stdout.write("\n" + json.dumps(found) + "\n")
        return
    cases = arguments.cases or [case for case in CASES if case.endswith("/32")]
    if not arguments.cases and not arguments.quick:
        cases = list(CASES)
    described = {**machine(), "product_flops_per_second": product_rates()}
    ceiling = max(described["product_flops_per_second"].values())
    rows: list[dict[str, Any]] = []
    for model in arguments.models:
        references: dict[str, dict[str, Any]] = {}
        for case in cases:
            mine: list[dict[str, Any]] = []
            for name in (name for name in CASES[case] if name in arguments.contenders):
                given = [name, model, case, *["--quick"][: arguments.quick]]
                found = in_own_process(__file__, given, seconds=900)
                mine.append({"contender": name, "model": model, "case": case, **found})
                if name == "reference" and "skipped" not in found:
                    references[case] = dict(mine[-1])
            one = case.replace("_20_targets", "")
            shared = [dict(references[one])] if one != case and one in references else []
            compare([*mine, *shared])
            for row in mine:
                if "unavoidable_flops" in row:
                    row["share_of_ceiling"] = row["unavoidable_flops"] / row["seconds"] / ceiling
            told = [name for name in METRICS if any(name in row for row in mine)]
            show("explaining", mine, told or ["seconds"])
            rows += mine
    if arguments.json:
        sys.stdout.write(json.dumps({"machine": described, "rows": rows}) + "\n")


if __name__ == "__main__":
    main()
