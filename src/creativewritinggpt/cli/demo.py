"""``cwgpt demo``: the whole story in a few minutes, on the starter and the sample corpus."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from .. import console
from ..config.run import Config, load_config
from ..errors import InputError, Stopped
from ..files import read_json
from .args import add_settings, given

STEPS = 24
EXPLAINED = 8
PROMPTS = (
    "[WP] The old clockmaker has repaired everything in town but one thing.",
    "The night ferry was two hours late, and",
    "My aunt taught the parrot to",
)
_SETTINGS = (
    "starter_file", "output_dir", "results_dir", "cache_dir", "device", "precision",
    "num_workers", "seed", "max_steps",
)  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.description = (
        "Fine-tune the embedded starter model on the sample corpus, let base and tuned model\n"
        "continue the same prompts, evaluate both on text held out, and explain a sentence that\n"
        "the tuned one writes. No GPU, no model hub; five to ten minutes on two cores."
    )
    parser.add_argument(
        "--overwrite", action="store_true",
        help="replace a run in the output folder that is not the demo's",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    add_settings(parser, Config, only=_SETTINGS)


def run(arguments: argparse.Namespace) -> int:
    """Train, compare, evaluate, explain, list."""
    began = time.monotonic()
    overrides = {"max_steps": STEPS, "eval_steps": 12, **given(arguments, Config)}
    config = load_config("starter", {**overrides, "sources": ["sample"]})
    output = Path(config.output_dir)
    replace = arguments.overwrite or _is_demo(output)

    from ..training.run import train

    console.note("1. Training the starter on the sample corpus\n")
    trained = train(config, overwrite=replace)
    if trained.outcome == "interrupted":
        raise Stopped("the demo was stopped", "run cwgpt demo again to start over")

    from ..models.loading import load_model

    writer = load_model(
        str(output / "best_model"), config.device, config.precision, threads=config.num_workers,
        cache_dir=config.cache_dir, starter_file=config.starter_file,
    )  # fmt: skip
    console.note("\n2. The same prompts, continued by the base and by the tuned model")
    samples = _samples(writer, config.seed)
    _show(samples)

    from ..data.document import Document
    from ..evaluation.material import Material, training_index
    from ..evaluation.report import write_report
    from ..evaluation.run import base_and_tuned
    from ..evaluation.run import run as run_evaluation
    from ..evaluation.settings import EvaluationSettings
    from ..evaluation.tables import tables

    console.note("\n3. Both on the documents that were held out\n")
    held_out = (output / "validation.jsonl").read_text("utf-8").splitlines()
    documents = [Document(**json.loads(line)) for line in held_out]
    index, why = training_index(str(output / "best_model"), config)
    without = {"forgetting": "the demo trains on every domain of the sample corpus"}
    if why:
        without["originality"] = why
    material = Material(documents, index=index, without=without)
    short = EvaluationSettings(texts=4, text_tokens=60, decoding=["top_p=0.9"], seed=config.seed)
    found = run_evaluation(base_and_tuned(writer), material, short)
    result = found.result
    write_report(found, output)
    for title, table, _ in tables(result):
        console.note(f"\n{title}" if title else "")
        console.table("", *table)

    console.note("\n4. Why the tuned model writes what it writes\n")
    results = Path(config.results_dir)
    explanation = _explain(writer, results, config.seed)

    files = sorted(
        str(path)
        for folder in (output, results)
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.parts)
        and "checkpoints" not in path.parts
    )  # fmt: skip
    console.note("\n5. What was written\n")
    for name in files:
        console.note(f"   {name}")
    seconds = time.monotonic() - began
    model = (
        "" if config.output_dir == "outputs" else f" --model {shlex.quote(str(output))}/best_model"
    )
    console.note(
        f"\nDone in {console.duration(seconds)}. Look at {output / 'training_curves.png'} and open "
        f"{results / 'report.html'} in a browser, then "
        f"write with the model: cwgpt generate{model}\nTrain on your own text: cwgpt train FILE "
        "--model-name starter --output-dir FOLDER"
    )
    if arguments.json:
        report = {
            "training": trained.to_dict(), "samples": samples, "evaluation": result,
            "explanation": explanation, "files": files, "seconds": seconds,
        }  # fmt: skip
        sys.stdout.write(json.dumps(report) + "\n")
    return 0


def _explain(writer: Any, folder: Path, seed: int) -> dict[str, Any]:
    """Let the tuned model write a sentence, and explain every token of it."""
    from ..analysis.report.record import as_json
    from ..analysis.report.save import save
    from ..analysis.report.summary import told
    from ..analysis.run import explain
    from ..analysis.settings import METHODS, AnalysisSettings

    # Judging the explanations would take as long as all of them; cwgpt analyze does it.
    methods = [method for method in METHODS if method != "faithfulness"]
    settings = AnalysisSettings(
        write=EXPLAINED, preset="literary", samples=10, seed=seed, methods=methods
    )
    with console.progress("explaining") as tell:
        found = explain(writer, PROMPTS[1], settings, progress=tell)
        found.record["command"] = "cwgpt demo"
        save(found, folder, settings)
    for line in told(found):
        console.note(line)
    if found.unfinished:
        raise Stopped("the demo was stopped", "run cwgpt demo again to start over")
    return as_json(found.record)


def _is_demo(output: Path) -> bool:
    """Whether the run in a folder is one of the demo's, which another may replace."""
    record = output / "final_model" / "run.json"
    if not record.is_file():
        record = output / "best_model" / "run.json"
    try:
        run = read_json(record)
        return bool(run["config"]["sources"] == ["sample"] and not run["data"]["files"])
    except (InputError, KeyError, TypeError):
        return False


def _samples(writer: Any, seed: int) -> list[dict[str, str]]:
    """Each prompt continued twice with the same seed."""
    from ..generation.engine import write
    from ..generation.sampling.presets import settings_for

    settings = settings_for("literary", {"max_new_tokens": 70, "seed": seed})
    samples = []
    for prompt in PROMPTS:
        start = prompt + "\n\n" if prompt.startswith("[") else prompt
        with writer.base():
            base = write(writer, start, settings)[0].text
        samples.append(
            {"prompt": prompt, "base": base, "tuned": write(writer, start, settings)[0].text}
        )
    return samples


def _show(samples: list[dict[str, str]]) -> None:
    """Prompts with both continuations beside each other."""
    from rich.table import Table
    from rich.text import Text

    for sample in samples:
        shown = Table(title=Text(sample["prompt"], style="bold"), title_justify="left", expand=True)
        for name in ("base", "tuned"):
            shown.add_column(name, ratio=1, overflow="fold")
        shown.add_row(
            *(Text(console.printable(sample[name]).strip()) for name in ("base", "tuned"))
        )
        console.stderr().print()
        console.stderr().print(shown)
