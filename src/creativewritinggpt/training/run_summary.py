"""What is said before the first step: the data, the plan, how long it takes and how much memory."""

from __future__ import annotations

import dataclasses

from .. import console, devices
from ..config.run import Config
from ..data.corpus import Corpus
from ..data.mixing import Mixture
from ..data.rows.packing import RowPlan
from ..data.splits import ValidationRows
from ..models.loaded_model import LoadedModel
from .schedule import Plan
from .validation import Validation


@dataclasses.dataclass(frozen=True)
class Announcement:
    """What there is to be said of a run.

    Attributes:
        config: The settings.
        writer: The model with its adapter attached.
        corpus: What was read.
        mixture: What an epoch holds of each source.
        rows: The packed rows.
        held_out: What validations score.
        plan: The course of the run.
        before: Losses of the base model.
        sizes: Trained and total parameters.
    """

    config: Config
    writer: LoadedModel
    corpus: Corpus
    mixture: Mixture | None
    rows: RowPlan | None
    held_out: ValidationRows
    plan: Plan
    before: Validation
    sizes: tuple[int, int]


def announce(run: Announcement, scoring_seconds: float, step_seconds: float) -> None:
    """Say what the run will do, about how long it will take and how much memory.

    Args:
        run: What there is to be said.
        scoring_seconds: How long one validation took.
        step_seconds: How long one optimizer step takes.
    """
    config, plan, rows, before = run.config, run.plan, run.rows, run.before
    _show_data(run)
    evaluations = sum(plan.evaluates_after(step) for step in range(1, plan.total_steps + 1))
    expected = plan.total_steps * step_seconds
    expected += evaluations * (scoring_seconds + 1.0)
    trained, total = run.sizes
    what = "all weights" if config.method == "full" else f"a LoRA adapter of rank {config.lora_r}"
    device, say = run.writer.device, console.note
    say(
        f"Training {what} of {run.writer.name}: {trained:,} of {total:,} parameters "
        f"({100 * trained / total:.2f} %)."
    )
    steps = f"{plan.total_steps:,} steps of up to {plan.rows_per_step} rows"
    if rows is None:
        say(f"The texts are read meanwhile: {steps}; validation every {plan.eval_steps} steps.")
    else:
        say(
            f"{int(rows.target_counts().sum()):,} tokens in {len(rows):,} rows of "
            f"{rows.max_length}; {steps}, {plan.epochs:.2g} passes over the data; validation every "
            f"{plan.eval_steps} steps."
        )
    held_out = run.held_out
    if held_out.scored < held_out.tokens:
        say(
            f"Each validation scores the same {held_out.scored:,} of {held_out.tokens:,} held-out "
            "tokens (--val-tokens); cwgpt evaluate scores all."
        )
    reasons = device.reasons
    say(
        f"Device {device.device} ({reasons['device']}), {device.precision} "
        f"({reasons['precision']}), threads: {device.threads} ({reasons['threads']})."
    )
    say(
        f"Before training: validation loss {before.loss:.4f}, perplexity {before.perplexity:.2f}. "
        f"This will take about {console.duration(expected)} and "
        f"{console.size(devices.peak_memory_bytes(device.device))} of memory."
    )


def _show_data(run: Announcement) -> None:
    """What was read of each source, how it was understood, and what is made of it."""
    for name, reason in run.corpus.missing.items():
        console.warn(f"going on without {name}: {reason}")
    reports = run.corpus.reports
    for report in reports.values():
        for said in report.summary():
            console.note(said)
    if run.mixture is None:
        held_out = console.counted(len(run.corpus.validation), "document")
        console.note(f"  {held_out} to validate on")
        return
    shares = {share.name: share for share in run.mixture.shares}
    rows = []
    for name, report in reports.items():
        share = shares.get(name)
        rows.append(
            (
                name,
                f"{report.train:,}",
                f"{report.validation:,}",
                f"{share.tokens:,}" if share else "0",
                f"{share.share:.1%}" if share else "",
                f"{share.epochs:.2f}" if share else "",
                f"{share.cut:,}" if share else "",
                f"{run.before.domains[name]:.3f}" if name in run.before.domains else "",
            )
        )
    # Headings are broken by hand, so that the table fits into 80 columns.
    heads = ["source", "train", "held\nout", "tokens", "share", "passes", "over\na row"]
    console.table("", [*heads, "base\nloss"], rows)
