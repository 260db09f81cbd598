"""``cwgpt evaluate``: base and tuned model, or any models, on the same held-out documents.

Processes started by a launcher read the same material and share the scoring; the main process does
the rest while the others wait.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import console
from ..config.fields import MachineSettings
from ..config.run import Config, load_config
from ..errors import InputError
from ..evaluation.settings import EvaluationSettings
from .main import (
    add_json,
    add_model,
    add_settings,
    given,
    machine_settings,
    short_usage,
    warn_unused,
)

if TYPE_CHECKING:
    from ..distributed import ProcessGroup
    from ..evaluation.material import Material
    from ..evaluation.run import Evaluation, ModelUnderTest
    from ..evaluation.scoring import DocumentScore

_SETTINGS = (
    "sources", "max_documents", "prompt_column", "text_column", "skip_missing", "skip_bad_rows",
    "output_dir",
)  # fmt: skip

_PATIENCE = datetime.timedelta(days=7)
"""Timeout of the other processes while the main process generates texts."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    short_usage(parser, "[FILE ...] [flags]")
    parser.description = (
        "Compare a tuned model with its base on held-out documents: perplexity per domain with\n"
        "confidence intervals, repetition and style of generated texts, copying of the training\n"
        "text, forgetting, and how near the voice is to the author's. Without FILE: the documents\n"
        "held out in training, or --sources."
    )
    parser.epilog = (
        "examples:\n"
        "  cwgpt evaluate\n"
        "  cwgpt evaluate chapter.txt --model outputs/best_model --texts 32\n"
        "  cwgpt evaluate stories.jsonl --model starter --max-documents 50 --rank 50\n"
        "  cwgpt evaluate --voice held_out/*.txt --others other_author.txt another.txt third.txt\n"
        "  cwgpt evaluate stories.jsonl --compare starter one/best_model two/best_model"
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help="files or folders of text")
    add_model(parser, default=None)  # that of --output-dir
    parser.add_argument(
        "--compare", metavar="NAME", nargs="+", default=[],
        help="evaluate these models, each compared with the first; an evaluation.jsonl stands "
        "for the models of an earlier evaluation",
    )  # fmt: skip
    parser.add_argument(
        "--tasks", metavar="NAME,…", default="",
        help="also run these tasks of lm-evaluation-harness, if it is installed; a YAML file "
        "defines a task of your own",
    )  # fmt: skip
    add_json(parser)
    add_settings(parser, EvaluationSettings, several=("voice", "others"))
    add_settings(parser, Config, only=_SETTINGS)
    add_settings(parser, MachineSettings)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, show the tables and write the report."""
    from ..distributed import RemoteError, init_process_group

    group = init_process_group(given(arguments, Config).get("device"), "evaluate", _PATIENCE)
    try:
        with group.running():
            _evaluate(arguments, group)
    except RemoteError as error:
        time.sleep(1)  # a launcher ends all as soon as one ends: let the other say it first
        return error.exit_code
    except KeyboardInterrupt:
        if group.is_main:
            raise
        return 130
    return 0


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What the user asked for, read and loaded."""

    config: Config
    settings: EvaluationSettings
    models: list[ModelUnderTest]
    material: Material
    earlier: dict[str, list[DocumentScore]]
    tasks: list[str]


def _evaluate(arguments: argparse.Namespace, group: ProcessGroup) -> None:
    """Do this process's part of the evaluation."""
    with group.share_errors():
        machine_settings(arguments)  # checked: a Config allows a further precision
        config = load_config(None, given(arguments, Config))
    config = _on_this_device(config, group)
    settings = EvaluationSettings.from_mapping(given(arguments, EvaluationSettings))
    model = Path(config.output_dir) / "best_model"
    if settings.voice and not (arguments.model or arguments.compare or model.exists()):
        if group.is_main:
            _tell_authors_apart(settings, config, as_json=arguments.json)
        return
    asked = group.run_main_first(lambda: _asked(arguments, config, group))

    from ..evaluation.run import run as run_evaluation

    with console.progress("evaluating") as progress:
        found = run_evaluation(
            asked.models, asked.material, asked.settings, earlier=asked.earlier, group=group,
            progress=progress,
        )  # fmt: skip
    with group.share_errors():
        if group.is_main:
            _report(found, asked, as_json=arguments.json)


def _on_this_device(config: Config, group: ProcessGroup) -> Config:
    """The settings with this process's device, and in the others the first one's number format."""
    if group.size == 1:
        return config
    from ..devices import choose

    config = dataclasses.replace(config, device=group.device(config.device))
    with group.share_errors():
        chosen = (
            choose(config.device, config.precision, config.num_workers) if group.is_main else None
        )
    precision = group.broadcast_text("" if chosen is None else chosen.precision)
    # The first one keeps the user's word for it, which also says how it may write.
    return config if group.is_main else dataclasses.replace(config, precision=precision)


def _asked(arguments: argparse.Namespace, config: Config, group: ProcessGroup) -> _Asked:
    """Check what was asked for, and read and load it."""
    from ..data.corpus import load_corpus, read_documents
    from ..evaluation.material import gather_material, held_out, trained_on
    from ..evaluation.report import read_earlier
    from ..evaluation.tasks import require_lm_eval
    from ..files import check_writable

    if group.is_main:
        check_writable(Path(config.output_dir))
    settings = EvaluationSettings.from_mapping(given(arguments, EvaluationSettings))
    if arguments.model and arguments.compare:
        raise InputError("--model and --compare exclude each other", "name all in --compare")
    earlier = [name for name in arguments.compare if name.endswith(".jsonl")]
    names = [name for name in arguments.compare if name not in earlier]
    if arguments.compare and not names:
        raise InputError("--compare names no model", "give at least one beside the .jsonl files")
    names = names or [arguments.model or str(Path(config.output_dir) / "best_model")]
    _warn_unused(arguments, settings)
    tasks = [name.strip() for name in arguments.tasks.split(",") if name.strip()]
    if tasks:
        require_lm_eval()
    scores = read_earlier([Path(file) for file in earlier])
    if arguments.files:
        documents = list(read_documents(arguments.files, config))
    elif settings.voice:
        known = trained_on(names[-1])
        read = read_documents(settings.voice, config)
        documents = [document for document in read if document.digest not in known]
    elif "sources" in given(arguments, Config):
        documents = list(load_corpus(config, []).validation)
    else:
        documents = held_out(names, config)
    models = _models(names, config, compared=bool(arguments.compare))
    # Only the first process computes the figures of generated texts.
    material = gather_material(documents, names, settings, config, with_index=group.is_main)
    return _Asked(config, settings, models, material, scores, tasks)


def _warn_unused(arguments: argparse.Namespace, settings: EvaluationSettings) -> None:
    """Say which options that were given change nothing."""
    chosen = {**given(arguments, EvaluationSettings), **given(arguments, Config)}
    unused: dict[str, str] = {}
    if not settings.texts:
        texts = {"text_tokens", "decoding", "originality"}
        texts |= set() if settings.rank or settings.order else {"seed"}
        unused |= dict.fromkeys(texts, "no text is generated; --texts N generates some")
    if arguments.files:
        unused["sources"] = "the named files are evaluated"
    elif "sources" not in chosen:
        columns = ("prompt_column", "text_column", "skip_bad_rows")
        unused |= dict.fromkeys(columns, "it is for files with rows, and no file is named")
    warn_unused({name: why for name, why in sorted(unused.items()) if name in chosen})


def _models(names: list[str], config: Config, *, compared: bool) -> list[ModelUnderTest]:
    """The models of ``--compare``, or the one model and its base."""
    from ..evaluation.run import base_and_tuned, named
    from ..models.loading import load_base, load_from_settings

    if compared:
        return named(names, lambda name: load_from_settings(name, config))
    model, base = load_from_settings(names[0], config), None
    if not model.has_adapter and model.run is not None:
        base = load_base(
            model.run["base"]["name"], model.device, cache_dir=config.cache_dir,
            starter_file=config.starter_file,
        )  # fmt: skip
    return base_and_tuned(model, base)


def _report(found: Evaluation, asked: _Asked, *, as_json: bool) -> None:
    """Run what is left to the first process, write the report and show the tables."""
    from ..devices import choose
    from ..evaluation.report import write_report
    from ..evaluation.tables import tables
    from ..evaluation.tasks import run_tasks
    from ..training.run_dir import base_record

    folder = Path(asked.config.output_dir)
    device = choose(asked.config.device, asked.config.precision, asked.config.num_workers)
    found.result["made_by"] = base_record(device)
    # Before the tasks, whose data may not be had: what is measured is kept.
    written = write_report(found, folder)
    if asked.tasks:
        found.result["tasks"] = {}
        for under_test in asked.models:
            with under_test.open() as model:
                metrics = run_tasks(model, asked.tasks, limit=asked.config.max_documents)
            found.result["tasks"][under_test.label] = metrics
        written = write_report(found, folder)
    if found.result["voice"]:
        for under_test in asked.models[-1:]:
            _note_on_card(Path(under_test.about["name"]), found.result["voice"])
    if as_json:
        console.print_json(found.result)
    for title, table, _ in tables(found.result):
        console.note(f"\n{title}" if title else "")
        console.table("", *table)
    if found.result["voice"]:
        _say_voice(found.result["voice"])
    for what, why in found.result["without"].items():
        console.note(f"{what} was not measured: {why}")
    console.note(f"Written: {', '.join(map(str, written))}")


def _note_on_card(folder: Path, voice: dict[str, Any]) -> None:
    """Write the voice onto the model card, where the model is one that we trained."""
    from ..evaluation.voice_page import summary
    from ..training.run_dir import write_card_section

    if (folder / "run.json").is_file():
        write_card_section(folder, "Voice", summary(voice))


def _say_voice(voice: dict[str, Any]) -> None:
    """The sentence, and what must be known beside it."""
    from ..evaluation.voice_page import habit_sentences

    console.note(f"\n{voice['sentence']}.")
    for said in habit_sentences(voice):
        console.note(f"  {said}")
    for warning in voice["warnings"]:
        console.warn(warning)


def _tell_authors_apart(settings: EvaluationSettings, config: Config, *, as_json: bool) -> None:
    """Without a model: whether the author can be told from the others, and by what."""
    from ..data.corpus import read_documents
    from ..evaluation.voice_page import voice_tables
    from ..evaluation.voice_texts import human_figures, other_authors, voice_texts

    own = read_documents(settings.voice or (), config)
    sources = {document.source for document in own}
    others = other_authors(settings.others, (), sources, set(), config)
    found = human_figures(voice_texts(own, (), set(), set(), None, *others), settings.voice_words)
    if as_json:
        console.print_json({"voice": found})
    for title, table in voice_tables(found):
        if table[1]:
            console.note(f"\n{title}")
            console.table("", *table)
    _say_voice(found)
    console.note("No model was evaluated: --model NAME says which one")
