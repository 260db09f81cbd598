"""``cwgpt demo``: train, compare, evaluate and explain, on the starter and the sample corpus.

Trade-off: a short run by default. Twelve steps give most of the gain in validation loss; held-out
tokens, generated texts and explained tokens are few. ``--full`` does all of it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import console
from ..config.fields import MachineSettings
from ..config.run import Config, load_config
from ..errors import InputError, Stopped
from ..files import read_json
from .main import add_json, add_settings, given, machine_settings, model_flag

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel

PROMPTS = (
    "The night ferry was two hours late, and",
    "[WP] The old clockmaker has repaired everything in town but one thing.\n\n",
    "My aunt taught the parrot to",
)
_SETTINGS = ("output_dir", "results_dir", "seed", "max_steps")
_STOPPED = ("the demo was stopped", "run cwgpt demo again to start over")


@dataclasses.dataclass(frozen=True)
class Extent:
    """How much a demo does.

    Attributes:
        training: Settings that differ from the recipe ``starter``.
        sample_tokens: Length of each continuation of ``PROMPTS``.
        evaluated: Documents per domain that are evaluated; None for all that were held out.
        texts: Texts that each model generates for the evaluation.
        explained: Tokens that are written and explained.
        explained_base: Whether the base model's predictions of them are explained too.
        methods_left_out: Attribution methods that are not computed.
        cost: Expected minutes on two cores, for the user.
    """

    training: dict[str, Any]
    sample_tokens: int
    evaluated: int | None
    texts: int
    explained: int
    explained_base: bool
    methods_left_out: tuple[str, ...]
    cost: str


SHORT = Extent(
    # Up to 40 steps 2e-3 gains more than the recipe's 1e-3 (docs/results.md).
    training={
        "max_steps": 12,
        "eval_steps": 6,
        "learning_rate": 2e-3,
        "max_length": 384,
        "val_tokens": 2500,
        "samples": 0,
    },
    sample_tokens=50,
    evaluated=2,
    texts=0,
    explained=3,
    explained_base=False,
    methods_left_out=("faithfulness", "occlusion"),
    cost="three to five minutes on two processor cores (the first text of the tuned model after "
    "two to three)",
)
FULL = Extent(
    training={"max_steps": 24, "eval_steps": 12},
    sample_tokens=70,
    evaluated=None,
    texts=4,
    explained=8,
    explained_base=True,
    # It takes as long as all the others; cwgpt analyze has it.
    methods_left_out=("faithfulness",),
    cost="five to fifteen minutes on two processor cores",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.description = (
        "Fine-tune the embedded starter model on the sample corpus, continue the same prompts\n"
        "with base and tuned model, evaluate both on held-out text, and explain what the tuned\n"
        "model writes. No GPU, no model hub; three to five minutes on two cores."
    )
    parser.add_argument(
        "--full", action="store_true",
        help="more steps, held-out text, generated texts and explained tokens; "
        "five to fifteen minutes",
    )  # fmt: skip
    parser.add_argument(
        "--overwrite", action="store_true",
        help="replace a run in the output folder that is not the demo's",
    )  # fmt: skip
    add_json(parser)
    add_settings(parser, Config, only=_SETTINGS)
    add_settings(parser, MachineSettings)


def run(arguments: argparse.Namespace) -> int:
    """Train, compare, evaluate, explain, list the files."""
    machine_settings(arguments)  # checked: a Config allows a further precision
    extent = FULL if arguments.full else SHORT
    overrides = {**extent.training, **given(arguments, Config), "sources": ["sample"]}
    config = load_config("starter", overrides)
    output, results = Path(config.output_dir), Path(config.results_dir)
    seconds: dict[str, float] = {}
    began = time.monotonic()
    _announce(extent, config)

    with _part("training", "1. Training the starter on the sample corpus\n", seconds):
        from ..training.run import train

        trained = train(config, overwrite=arguments.overwrite or _is_demo(output))
        if trained.outcome == "interrupted":
            raise Stopped(*_STOPPED)
    with _part("texts", "\n2. The same prompts, continued by base and tuned model", seconds):
        from ..models.loading import load_from_settings

        model = load_from_settings(str(output / "best_model"), config)
        samples = [_sample(model, prompt, config.seed, extent) for prompt in PROMPTS]
    with _part("evaluation", "\n3. Both on documents that were held out\n", seconds):
        evaluation = _evaluate(model, config, extent)
    with _part("explanation", "\n4. Why the tuned model writes what it writes\n", seconds):
        explanation = _explain(model, results, config.seed, extent)

    files = [
        str(path)
        for folder in (output, results)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and "checkpoints" not in path.parts
        and not any(part.startswith(".") for part in path.parts)
    ]
    seconds["total"] = time.monotonic() - began
    _conclude(config, files, seconds)
    if arguments.json:
        console.print_json(
            {
                "training": trained.to_dict(), "samples": samples, "evaluation": evaluation,
                "explanation": explanation, "files": files, "seconds": seconds["total"],
                "seconds_of_parts": seconds,
            }
        )  # fmt: skip
    return 0


def _announce(extent: Extent, config: Config) -> None:
    """Say what the demo costs, before anything starts."""
    from ..models.starter import is_cached

    console.note(
        f"The demo takes {extent.cost}, 3 GB of memory and 0.7 GB of disk. Ctrl-C stops it."
    )
    if not is_cached(config.cache_dir):
        console.note("The starter is not cached yet: 93 MB are fetched first.")
    console.note("")


@contextlib.contextmanager
def _part(name: str, heading: str, seconds: dict[str, float]) -> Iterator[None]:
    """One part of the demo, with its heading and its time."""
    console.note(heading)
    began = time.monotonic()
    yield
    seconds[name] = time.monotonic() - began


def _is_demo(output: Path) -> bool:
    """Whether the run in a folder is one of the demo's, which another demo may replace."""
    record = output / "final_model" / "run.json"
    if not record.is_file():
        record = output / "best_model" / "run.json"
    try:
        run = read_json(record)
        return bool(run["config"]["sources"] == ["sample"] and not run["data"]["files"])
    except (InputError, KeyError, TypeError):
        return False


def _sample(model: LoadedModel, prompt: str, seed: int, extent: Extent) -> dict[str, str]:
    """A prompt continued by both models with the same seed, shown at once."""
    from rich.table import Table
    from rich.text import Text

    from ..generation.engine import write
    from ..generation.sampling.settings import settings_for

    settings = settings_for("literary", {"max_new_tokens": extent.sample_tokens, "seed": seed})
    tuned = write(model, prompt, settings)[0].text
    with model.base():
        base = write(model, prompt, settings)[0].text
    table = Table(title=Text(prompt.strip(), style="bold"), title_justify="left", expand=True)
    for name in ("base", "tuned"):
        table.add_column(name, ratio=1, overflow="fold")
    table.add_row(*(Text(console.printable(text).strip()) for text in (base, tuned)))
    console.stderr().print()
    console.stderr().print(table)
    return {"prompt": prompt.strip(), "base": base, "tuned": tuned}


def _evaluate(model: LoadedModel, config: Config, extent: Extent) -> dict[str, Any]:
    """Evaluate base and tuned model, write the report and show the tables."""
    from ..evaluation.material import Material, held_out, training_index
    from ..evaluation.report import write_report
    from ..evaluation.run import base_and_tuned
    from ..evaluation.run import run as run_evaluation
    from ..evaluation.settings import EvaluationSettings
    from ..evaluation.tables import tables

    name = f"{config.output_dir}/best_model"
    documents = held_out([name], dataclasses.replace(config, max_documents=extent.evaluated))
    without = {"forgetting": "the demo trains on every domain of the sample corpus"}
    index, why = None, "the demo generates no texts; --full does" if not extent.texts else None
    if extent.texts:
        index, why = training_index(name, config)
    if why:
        without["originality"] = why
    settings = EvaluationSettings(
        texts=extent.texts, text_tokens=60, decoding=["top_p=0.9"], seed=config.seed
    )
    with console.progress("evaluating") as progress:
        found = run_evaluation(
            base_and_tuned(model), Material(documents, index=index, without=without), settings,
            progress=progress,
        )  # fmt: skip
    write_report(found, Path(config.output_dir))
    for title, table, _ in tables(found.result):
        console.note(f"\n{title}" if title else "")
        console.table("", *table)
    return found.result


def _explain(model: LoadedModel, folder: Path, seed: int, extent: Extent) -> dict[str, Any]:
    """Let the tuned model write some tokens, and explain each of them."""
    from ..analysis.record import as_json, text_summary
    from ..analysis.registry import METHODS, AnalysisSettings
    from ..analysis.report import save
    from ..analysis.run import explain

    methods = [method for method in METHODS if method not in extent.methods_left_out]
    settings = AnalysisSettings(
        write=extent.explained,
        preset="literary",
        base=extent.explained_base,
        samples=10,
        seed=seed,
        methods=methods,
    )
    with console.progress("explaining") as progress:
        found = explain(model, PROMPTS[0], settings, progress=progress)
        found.record["command"] = "cwgpt demo"
        save(found, folder, settings, console.counting(progress, "drawing"))
    for line in text_summary(found.record):
        console.note(line)
    if found.unfinished:
        raise Stopped(*_STOPPED)
    return as_json(found.record)


def _conclude(config: Config, files: list[str], seconds: dict[str, float]) -> None:
    """List the files, the times and what to do next."""
    console.note("\n5. What was written\n")
    for name in files:
        console.note(f"   {name}")
    parts = ", ".join(
        f"{name} {console.duration(spent)}" for name, spent in seconds.items() if name != "total"
    )
    console.note(
        f"\nDone in {console.duration(seconds['total'])}: {parts}.\n"
        f"Look at {Path(config.output_dir) / 'training_curves.png'} and open "
        f"{Path(config.results_dir) / 'report.html'} in a browser, then write with the model: "
        f"cwgpt generate{model_flag(config.output_dir)}\n"
        "Train on your own text: cwgpt train FILE --model-name starter --output-dir FOLDER"
    )
