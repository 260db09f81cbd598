"""Which method finds what an answer is due to, on models whose answer is known.

    python bench/localise.py [--quick] [--json] [--contenders ours …]

The models are those of ``bench/planted.py``. For each text, the tokens that matter are known, and
each method is asked for one score a token:

    found   of the k highest scores (by size), how many are among the k tokens that matter
    auc     the chance that a token that matters has a larger score than one that does not
    mass    the share of all scores' size that lies on tokens that matter
    sign    how many of them got the right sign; empty for a method without signs

The start token, and the question that a text ends with, are left out of the count. Peers run with
their own defaults; they come with ``pip install --group bench-explain``, and one that is not there
is skipped.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import planted
from localise_contenders import CONTENDERS, methods_of
from measuring import in_own_process, machine, show

MODELS = ("pointer", "bag", "pair", "key")
METRICS = ("found", "auc", "mass", "sign", "seconds_per_text")


def judge(scores: np.ndarray, example: planted.Example, signed: bool) -> dict[str, float | None]:
    """How well scores agree with the truth of one example.

    Scores that are equal share their places: a method that can't tell tokens apart gets what
    guessing gets.
    """
    counted = np.setdiff1d(np.arange(len(example.ids)), example.left_out)
    worth = np.array(example.worth)[counted]
    scores = np.nan_to_num(np.asarray(scores, dtype=np.float64)[counted])
    size, matters = np.abs(scores), worth != 0
    return {
        "found": _found(size, matters),
        "auc": auc(size, matters),
        "mass": float(size[matters].sum() / max(size.sum(), 1e-30)),
        "sign": float((np.sign(scores) == np.sign(worth))[matters].mean()) if signed else None,
    }


def _found(size: np.ndarray, matters: np.ndarray) -> float:
    """The expected share of the top k that matters, ties broken at random."""
    places = int(matters.sum())
    limit = np.sort(size)[-places]
    above, level = size > limit, size == limit
    expected = (matters & above).sum()
    expected = expected + (places - above.sum()) * (matters & level).sum() / level.sum()
    return float(expected / places)


def auc(size: np.ndarray, matters: np.ndarray) -> float:
    """The chance that one of ``matters`` is larger than one of the rest; ties count half."""
    ours, theirs = size[matters][:, None], size[~matters][None, :]
    return float((ours > theirs).mean() + (ours == theirs).mean() / 2)


def make(name: str, weights: Path, count: int) -> planted.Planted:
    """A planted model with so many texts."""
    if name == "key":
        return planted.key(planted.load_key_model(weights), count)
    return {"pointer": planted.pointer, "bag": planted.bag, "pair": planted.pair}[name](count)


def work(contender: str, name: str, weights: Path, quick: bool) -> dict[str, Any]:
    """Judge every method of one contender on one model, in this process."""
    signal = make(name, weights, 8 if quick else 64 if name == "key" else 16)
    results: dict[str, Any] = {}
    for case, method in methods_of(contender, signal.model).items():
        method.score(signal.examples[0])  # warm-up
        began = time.perf_counter()
        scores = [method.score(example) for example in signal.examples]
        seconds = (time.perf_counter() - began) / len(scores)
        judged = [
            judge(found, example, method.signed)
            for found, example in zip(scores, signal.examples, strict=True)
        ]
        results[case] = {"seconds_per_text": seconds, "texts": len(scores)}
        for metric in ("found", "auc", "mass", "sign"):
            values = [one[metric] for one in judged]
            results[case][metric] = None if None in values else float(np.mean(values))
    return results


def main() -> None:
    """Run every contender in its own process and print the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="8 texts a model")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument(
        "--worker", nargs=3, metavar=("CONTENDER", "MODEL", "WEIGHTS"), help=argparse.SUPPRESS
    )
    arguments = parser.parse_args()
    if arguments.worker:
        contender, model, weights = arguments.worker
        found = work(contender, model, Path(weights), arguments.quick)
        sys.stdout.write("\n" + json.dumps(found) + "\n")
        return
    described = machine()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bench-localise-") as folder:
        weights = Path(folder) / "key.safetensors"
        if "key" in arguments.models:
            planted.save_key_model(planted.train_key_model(), weights)
        for model in arguments.models:
            mine: list[dict[str, Any]] = []
            for contender in arguments.contenders:
                given = [contender, model, str(weights), *["--quick"][: arguments.quick]]
                found = in_own_process(__file__, given, seconds=900)
                cases = {"all": found} if "skipped" in found else found
                mine += [
                    {"contender": contender, "model": model, "case": case, **values}
                    for case, values in cases.items()
                ]
            show("finding what the answer is due to", mine, METRICS)
            rows += mine
    if arguments.json:
        sys.stdout.write(json.dumps({"machine": described, "rows": rows}) + "\n")


if __name__ == "__main__":
    main()
