"""``cwgpt train``: fine-tuning on files, named sources or the writer's choices."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import console, wait_without_spinning
from ..config.run import CHOICES_RECIPE, Config, load_config
from ..errors import InputError
from ..taste.settings import ChoiceSettings, choice_settings
from .main import add_config, add_json, add_settings, given, model_flag, short_usage

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel
    from ..taste.learning import Learnt
    from ..training.run import TrainingResult

PROMPTS: tuple[str, ...] = ("Once upon a time in a kingdom far away,", "The last lighthouse keeper")
"""Default prompts of the samples that a model writes during training."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    short_usage(parser, "[FILE ...] [flags]")
    parser.description = (
        "Fine-tune a model. FILE is text (.txt, .md), rows (.jsonl, .csv, .tsv, .parquet) or a\n"
        "folder of them; NAME=FILE names it. Without FILE the named --sources are read. With\n"
        "--choices it learns from what the writer picked, retried, undid and edited."
    )
    parser.epilog = (
        "examples:\n"
        "  cwgpt train novel.txt --config novel\n"
        "  cwgpt train stories.jsonl --model-name starter --max-steps 60\n"
        "  cwgpt train --choices stories/*.json --init-adapter outputs/best_model "
        "--output-dir taste\n"
        "  cwgpt train --resume"
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help="files or folders of text")
    parser.add_argument(
        "--choices", nargs="+", metavar="FILE",
        help="stories (.json) and files of choices (.jsonl) to learn the writer's taste from",
    )  # fmt: skip
    add_config(parser)
    parser.add_argument(
        "--resume", action="store_true", help="continue the run in the output folder"
    )
    parser.add_argument(
        "--force", action="store_true",
        help="with --resume: continue although data or settings changed; the changes are recorded",
    )  # fmt: skip
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the run in the output folder"
    )
    parser.add_argument(
        "--estimate", action="store_true",
        help="measure how long the run would take and how much memory, and end",
    )  # fmt: skip
    add_json(parser)
    add_settings(parser, Config, aliases={"model_name": ("--model",)})
    add_settings(parser, ChoiceSettings)


def sampler(config: Config) -> Callable[[LoadedModel], list[dict[str, str]]] | None:
    """Function that lets the model continue the sample prompts of a run; None without prompts."""
    prompts = PROMPTS
    if config.sample_prompts is not None:
        try:
            lines = Path(config.sample_prompts).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"sample_prompts: {config.sample_prompts} can't be read") from error
        prompts = tuple(line.strip() for line in lines if line.strip())
    prompts = prompts[: config.samples]
    if not prompts:
        return None
    from ..generation.engine import write
    from ..generation.sampling.settings import settings_for

    # The faster backends would copy the weights each time.
    values = {"max_new_tokens": 24, "seed": config.seed, "weights": "transformers"}
    settings = settings_for("literary", values)

    def sample(model: LoadedModel) -> list[dict[str, str]]:
        model.model.eval()
        return [{"prompt": p, "text": write(model, p, settings)[0].text} for p in prompts]

    return sample


def run(arguments: argparse.Namespace) -> int:
    """Train and report the result."""
    overrides = given(arguments, Config)
    if arguments.force and not arguments.resume:
        raise InputError("--force goes with --resume", "to replace a run there is --overwrite")
    if arguments.choices:
        return _learn(arguments, overrides)
    if unused := sorted(given(arguments, ChoiceSettings)):
        flag = unused[0].replace("_", "-")
        raise InputError(f"--{flag} goes with --choices", "name stories: --choices FILE …")
    config = load_config(arguments.config, overrides)
    if arguments.estimate:
        return _estimate(arguments, config)
    wait_without_spinning()
    from ..training.run import train

    result = train(
        config,
        arguments.files,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
        force=arguments.force,
        # A recipe sets every field, flags those that were given.
        said=None if arguments.config else set(overrides),
        sampler=sampler,
    )
    code = 130 if result.outcome == "interrupted" else 0
    if console.other_process():
        return code
    if arguments.json:
        console.print_json(result.to_dict())
    report(result)
    return code


def _learn(arguments: argparse.Namespace, overrides: dict[str, Any]) -> int:
    """Train on choices and report the result."""
    for given_too, what, advice in (
        (bool(arguments.files), "--choices and FILE", "choices are learnt from alone"),
        (arguments.estimate, "--choices and --estimate", "the run itself says how long it takes"),
    ):
        if given_too:
            raise InputError(f"{what} don't go together", advice)
    from ..taste.learning import learn_from_choices, recorded_settings, with_base

    config = load_config(arguments.config or CHOICES_RECIPE, overrides)
    if "model_name" not in overrides:
        config = with_base(config)
    before = recorded_settings(config.output_dir) if arguments.resume else {}
    settings = choice_settings(**{**before, **given(arguments, ChoiceSettings)})
    learnt = learn_from_choices(
        config,
        arguments.choices,
        settings,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
        force=arguments.force,
        said=None if arguments.config else set(overrides),
    )
    if arguments.json:
        console.print_json(learnt.to_dict())
    report_choices(learnt, config.output_dir, arguments.choices)
    return 130 if learnt.outcome == "interrupted" else 0


def report_choices(learnt: Learnt, folder: str, files: Sequence[str]) -> None:
    """Show what came of a run on choices."""
    if learnt.outcome == "interrupted":
        named = shlex.join(files)
        console.note(
            f"stopped after step {learnt.steps}; everything is saved. Go on with: cwgpt train "
            f"--choices {named} --resume --output-dir {shlex.quote(folder)}"
        )
        return
    for sentence in learnt.report["sentences"]:
        console.note(sentence)
    for draft in learnt.report["drafts"][:1]:
        prompt = " ".join(draft["prompt"].split()[-8:])
        for name in ("before", "after"):
            console.note(f"{name}: … {prompt} | {' '.join(draft[name].split())}")
    model = shlex.quote(f"{folder}/best_model")
    console.note(f"The model is in {model}. Write with it: cwgpt generate{model_flag(folder)}")


def _estimate(arguments: argparse.Namespace, config: Config) -> int:
    """Measure and show what the run would take."""
    if arguments.resume or arguments.overwrite:
        raise InputError("--estimate starts no run", "leave --resume and --overwrite out")
    from ..training.estimate import estimate

    found = estimate(config, arguments.files)
    if arguments.json:
        console.print_json(found.to_dict())
    low, likely, high = map(console.duration, found.seconds)
    console.note(
        f"{found.total_steps:,} steps of {found.step_seconds[1]:.2g} s: about {likely} "
        f"({low} to {high}) and {console.size(found.memory_bytes)} of memory, of which "
        f"{console.size(found.free_bytes)} are free."
    )
    return 0


def report(result: TrainingResult) -> None:
    """Show how a run ended and what to do next."""
    folder = result.output_dir
    if result.outcome == "interrupted":
        place = "" if folder == "outputs" else f" --output-dir {shlex.quote(folder)}"
        console.note(
            f"stopped after step {result.steps} of {result.total_steps}; everything is saved. "
            f"Go on with: cwgpt train --resume{place}"
        )
        return
    if result.outcome == "early":
        console.note(f"stopped early at step {result.steps}: the validation loss fell no further")
    if result.best_val_loss is not None:
        perplexities = result.to_dict()
        console.note(
            f"Done in {console.duration(result.seconds)}: validation perplexity "
            f"{perplexities['base_val_perplexity']:.2f} before, "
            f"{perplexities['best_val_perplexity']:.2f} at step {result.best_step}; "
            f"{result.useful_tokens_per_second:,.0f} tokens/s, "
            f"{console.size(result.peak_memory_bytes)} of memory."
        )
        if len(result.domains) > 1:
            losses = [
                (name, f"{each['base_val_loss']:.3f}", f"{each['best_val_loss']:.3f}")
                for name, each in result.domains.items()
            ]
            console.table("", ["held-out loss of", "base", "tuned"], losses)
        if result.best_val_loss >= result.base_val_loss:
            console.warn(
                "the tuned model is not better than the base on the held-out text; try more data "
                "or a lower --learning-rate"
            )
    model = shlex.quote(f"{folder}/best_model")
    console.note(f"The best model is in {model}. Write with it: cwgpt generate{model_flag(folder)}")
