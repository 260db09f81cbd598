"""Settings chosen by measurement: what each does to the loss, and to what it makes a model forget.

    python bench/sweep.py NAME=FILE… --stage rates [--steps 60] [--seeds 1 2 3] [--results FILE]

Every run trains on the same files with the same tokens a step and the same number of steps, and is
scored on the beginnings of the documents held out (`--words`), and on other domains (`--forget
NAME=FILE…`, else those of the sample corpus that are not trained on). The seed is also that of the
split, so that the spread over seeds has both in it. A finished run is one line of the results file:
a sweep goes on where it was stopped, and `--runs N` stops after so many. Stages, each around the
best of the one before (`--learning-rate`, `--targets`, `--rank`): `rates` (learning rate ×
attention or all projections, at equal parameters), `rank`, `dropout`, `variants` (rsLoRA, DoRA).
Without a stage: the table.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from creativewritinggpt import console
from creativewritinggpt.config.run import Config, load_config
from creativewritinggpt.data.document import Document

RATES = (2e-4, 5e-4, 1e-3, 2e-3)
RANKS = (4, 8, 16, 32)
DROPOUTS = (0.0, 0.05, 0.1)
VARIED = ("learning_rate", "target_modules", "lora_r", "lora_alpha", "lora_dropout", "use_rslora",
          "use_dora")  # fmt: skip
_FORGET_WORDS = 3000
_FORGET_DOCUMENTS = 8


def planned(arguments: argparse.Namespace, equal_rank: int) -> list[dict[str, Any]]:
    """The settings of each run of a stage, without seeds.

    Args:
        arguments: The stage, and the best so far.
        equal_rank: The rank at which all projections have the parameters that the attention's
            alone have at ``arguments.rank``.
    """

    def settings(targets: str, rank: int, **other: Any) -> dict[str, Any]:
        chosen = ["all-linear"] if targets == "all-linear" else None
        return {"learning_rate": arguments.learning_rate, "target_modules": chosen, "lora_r": rank,
                "lora_alpha": 2 * rank, **other}  # fmt: skip

    best = arguments.targets
    if arguments.stage == "rates":
        pairs = (("attention", arguments.rank), ("all-linear", equal_rank))
        return [settings(t, r, learning_rate=rate) for t, r in pairs for rate in RATES]
    if arguments.stage == "rank":
        return [settings(best, rank) for rank in arguments.ranks]
    if arguments.stage == "dropout":
        return [settings(best, arguments.rank, lora_dropout=dropout) for dropout in DROPOUTS]
    return [settings(best, arguments.rank, **other)
            for other in ({}, {"use_rslora": True}, {"use_dora": True})]  # fmt: skip


def equal_rank(model: str, rank: int) -> int:
    """The rank of all projections with the parameters of the attention's at ``rank``, rounded."""
    from creativewritinggpt.devices import choose
    from creativewritinggpt.models.adapter import attach, trainable
    from creativewritinggpt.models.loading import load_base

    counts = []
    for targets in (None, ["all-linear"]):
        writer = load_base(model, choose("cpu", "fp32"))
        attach(writer, Config(lora_r=1, target_modules=targets))
        counts.append(trainable(writer.model)[0])
    return max(1, round(rank * counts[0] / counts[1]))


def beginnings(documents: list[Document], words: int) -> list[Document]:
    """The first words of each document."""
    return [
        dataclasses.replace(document, text=" ".join(document.text.split(" ")[:words]))
        for document in documents
    ]


def other_domains(config: Config, files: list[str], given: list[str]) -> list[Document]:
    """Documents of domains that are not trained on, some of each."""
    from creativewritinggpt.data.corpus import load_corpus, read_documents

    if given:
        by_source: dict[str, list[Document]] = {}
        for document in read_documents(given, config):
            by_source.setdefault(document.source, []).append(document)
        return [d for documents in by_source.values() for d in documents[:_FORGET_DOCUMENTS]]
    trained = {document.source for document in load_corpus(config, files).validation}
    words: dict[str, int] = {}
    chosen = []
    for document in read_documents([], Config(sources=["sample"])):
        if document.source not in trained and words.get(document.source, 0) < _FORGET_WORDS:
            words[document.source] = words.get(document.source, 0) + document.words
            chosen.append(document)
    return chosen


def measure(config: Config, files: list[str], others: list[Document], words: int) -> dict[str, Any]:
    """Train one model; its gain on each held-out domain and what it forgot."""
    from creativewritinggpt.evaluation.material import Material
    from creativewritinggpt.evaluation.run import base_and_tuned, run
    from creativewritinggpt.evaluation.settings import EvaluationSettings
    from creativewritinggpt.models.loading import load_model
    from creativewritinggpt.training.run import train

    result = train(config, files, overwrite=True)
    output = Path(config.output_dir)
    lines = (output / "validation.jsonl").read_text("utf-8").splitlines()
    held_out = beginnings([Document(**json.loads(line)) for line in lines], words)
    # The last model and not the best: every run has the same steps.
    writer = load_model(str(output / "final_model"), config.device, config.precision)
    material = Material(held_out, beginnings(others, words))
    found = run(base_and_tuned(writer), material, EvaluationSettings(texts=0, window=512)).result
    domains = found["domains"]
    return {
        "loss": {name: entry["tuned"]["nll_sum"] / entry["tuned"]["tokens"]
                 for name, entry in domains.items()},
        "gain": {name: -entry["difference"]["nats_per_token"] for name, entry in domains.items()},
        "forgetting": found["forgetting"]["relative"]["tuned"]["mean"] if others else None,
        "seconds": result.seconds,
    }  # fmt: skip


def table(lines: list[dict[str, Any]]) -> None:
    """Mean and spread over seeds of each setting, the best gain first."""
    by_settings: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        by_settings.setdefault(json.dumps(line["settings"], sort_keys=True), []).append(line)
    rows = []
    for text, runs in by_settings.items():
        settings = json.loads(text)
        gains = [statistics.mean(run["gain"].values()) for run in runs]
        forgot = [100 * run["forgetting"] for run in runs if run["forgetting"] is not None]
        targets = "all-linear" if settings["target_modules"] else "attention"
        extra = [name for name in ("use_rslora", "use_dora") if settings[name]]
        rows.append((-statistics.mean(gains), [
            " ".join([targets, *extra]), f"{settings['learning_rate']:g}", str(settings["lora_r"]),
            f"{settings['lora_dropout']:g}", str(len(runs)), _spread(gains, "+.4f"),
            _spread(forgot, "+.2f"), f"{statistics.mean(run['seconds'] for run in runs):.0f}",
        ]))  # fmt: skip
    console.table(
        "",
        ["targets", "rate", "rank", "dropout", "seeds", "gain, nats/token", "forgetting, %", "s"],
        [row for _, row in sorted(rows, key=lambda pair: pair[0])],
    )


def _spread(values: list[float], form: str) -> str:
    if not values:
        return ""
    mean = format(statistics.mean(values), form)
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.4f}"


def main() -> None:
    """Do what of the stage is not done yet, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", metavar="NAME=FILE", help="what is trained on")
    parser.add_argument("--stage", choices=("rates", "rank", "dropout", "variants"))
    parser.add_argument("--forget", nargs="+", default=[], metavar="NAME=FILE")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--targets", choices=("attention", "all-linear"), default="all-linear")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--ranks", type=int, nargs="+", default=RANKS, help="of the stage rank")
    parser.add_argument("--val-size", type=int, default=48)
    parser.add_argument("--words", type=int, default=300, help="of each document that is scored")
    parser.add_argument("--max-documents", type=int)
    parser.add_argument("--runs", type=int, help="stop after so many")
    parser.add_argument("--results", type=Path, default=Path("sweep.jsonl"))
    arguments = parser.parse_args()
    done = []
    if arguments.results.is_file():
        done = [json.loads(line) for line in arguments.results.read_text("utf-8").splitlines()]
    if arguments.stage:
        if not arguments.files:
            parser.error("a stage needs files to train on")
        left = arguments.runs
        for seed, settings in ((s, p) for s in arguments.seeds
                               for p in planned(arguments, _rank_for(arguments))):  # fmt: skip
            overrides = {
                **settings, "model_name": arguments.model, "max_steps": arguments.steps,
                "eval_steps": arguments.steps, "patience": 0, "val_size": arguments.val_size,
                "max_documents": arguments.max_documents, "samples": 0,
                "val_tokens": 1000,
            }  # fmt: skip
            # The split has one seed for all runs; a run's own is that of its adapter and order.
            config = load_config("starter", {**overrides, "seed": seed})
            varied = {name: config.to_dict()[name] for name in VARIED}
            key = _key(varied, seed, arguments)
            if any(line["key"] == key for line in done):
                continue
            if left is not None and left <= 0:
                break
            with tempfile.TemporaryDirectory() as folder:
                config = load_config("starter", {**overrides, "seed": seed, "output_dir": folder})
                others = other_domains(config, arguments.files, arguments.forget)
                found = measure(config, arguments.files, others, arguments.words)
            line = {"key": key, "settings": varied, "seed": seed, "steps": arguments.steps, **found}
            with arguments.results.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
            done.append(line)
            left = None if left is None else left - 1
            table(done)
    table(done)


def _rank_for(arguments: argparse.Namespace) -> int:
    return equal_rank(arguments.model, arguments.rank) if arguments.stage == "rates" else 0


def _key(varied: dict[str, Any], seed: int, arguments: argparse.Namespace) -> str:
    """What a run is known by: everything that its result depends on."""
    content = [varied, seed, arguments.model, arguments.steps, arguments.val_size,
               arguments.max_documents, arguments.words, sorted(arguments.files),
               sorted(arguments.forget)]  # fmt: skip
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main())
