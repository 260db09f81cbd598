"""``cwgpt train``: fine-tune a model on files or named sources."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .. import console
from ..config.run import Config, load_config
from ..errors import InputError
from .args import add_settings, given, short_usage

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel

PROMPTS: tuple[str, ...] = ("Once upon a time in a kingdom far away,", "The last lighthouse keeper")
"""What a model in training continues, where no other prompts are given."""

SAMPLE_TOKENS = 24


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    short_usage(parser, "[FILE ...] [flags]")
    parser.description = (
        "Fine-tune a model. FILE is text (.txt, .md), rows (.jsonl, .csv, .tsv, .parquet) or a\n"
        "folder of them; NAME=FILE names it. Without FILE the named --sources are read."
    )
    parser.epilog = (
        "examples:\n"
        "  cwgpt train novel.txt --config novel\n"
        "  cwgpt train stories.jsonl --model-name starter --max-steps 60\n"
        "  cwgpt train --resume"
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help="texts to train on")
    parser.add_argument(
        "--config", metavar="NAME", help="a recipe (see cwgpt recipes) or a YAML file of settings"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run in the output folder"
    )
    parser.add_argument(
        "--force", action="store_true",
        help="resume although data or settings have changed; what changed is recorded",
    )  # fmt: skip
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the run in the output folder"
    )
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    add_settings(parser, Config, aliases={"model_name": ("--model",)})


def _sampler(config: Config) -> Callable[[LoadedModel], list[dict[str, str]]] | None:
    """What continues the prompts of a run at each validation."""
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
    from ..generation.sampling.presets import settings_for

    # The model as it is: the faster backends would make a copy of its weights each time.
    values = {"max_new_tokens": SAMPLE_TOKENS, "seed": config.seed, "weights": "transformers"}
    settings = settings_for("literary", values)

    def sample(writer: LoadedModel) -> list[dict[str, str]]:
        writer.model.eval()
        return [{"prompt": p, "text": write(writer, p, settings)[0].text} for p in prompts]

    return sample


def run(arguments: argparse.Namespace) -> int:
    """Train and say what came of it."""
    overrides = given(arguments, Config)
    config = load_config(arguments.config, overrides)
    if arguments.force and not arguments.resume:
        raise InputError("--force goes with --resume", "to replace a run there is --overwrite")
    from ..training.run import train

    result = train(
        config,
        arguments.files,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
        force=arguments.force,
        # A recipe says everything; flags say what they name.
        said=None if arguments.config else set(overrides),
        sampler=_sampler,
    )
    if console.other_process():
        return 130 if result.outcome == "interrupted" else 0
    if arguments.json:
        sys.stdout.write(json.dumps(result.to_dict()) + "\n")
    place = (
        "" if config.output_dir == "outputs" else f" --output-dir {shlex.quote(config.output_dir)}"
    )
    if result.outcome == "interrupted":
        console.note(
            f"stopped after step {result.steps} of {result.total_steps}; everything is saved. "
            f"Go on with: cwgpt train --resume{place}"
        )
        return 130
    if result.outcome == "early":
        console.note(f"stopped early at step {result.steps}: the validation loss fell no further")
    best = result.to_dict()
    if result.best_val_loss is not None:
        console.note(
            f"Done in {console.duration(result.seconds)}: validation perplexity "
            f"{best['base_val_perplexity']:.2f} before, {best['best_val_perplexity']:.2f} at step "
            f"{result.best_step}; {result.useful_tokens_per_second:,.0f} tokens/s, "
            f"{console.size(result.peak_memory_bytes)} of memory."
        )
        if len(result.domains) > 1:
            console.table(
                "",
                ["held-out loss of", "base", "tuned"],
                [
                    (name, f"{losses['base_val_loss']:.3f}", f"{losses['best_val_loss']:.3f}")
                    for name, losses in result.domains.items()
                ],
            )
        if result.best_val_loss >= result.base_val_loss:
            console.warn(
                "the tuned model is not better than the base on the held-out text; try more data "
                "or a lower --learning-rate"
            )
    model = shlex.quote(f"{config.output_dir}/best_model")
    shown = "" if config.output_dir == "outputs" else f" --model {model}"
    console.note(f"The best model is in {model}. Write with it: cwgpt generate{shown}")
    return 0
