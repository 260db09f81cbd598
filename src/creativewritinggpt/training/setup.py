"""Setup of a run: rows to train on, rows to validate on, and records of the data.

All of it is a function of the settings, the seed, the documents and the model's
tokenizer, so every process and every resume of a run builds the same setup, and a checkpoint needs
no state of a data iterator.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import console, devices
from ..config.run import Config
from ..data.corpus import Corpus
from ..data.document import joint_name
from ..data.mixing import Mixture, mix
from ..data.rows.packing import RowPlan, Rows, plan_rows, tokenize
from ..data.rows.stream import (
    Batches,
    PreparedBatches,
    StreamedBatches,
    StreamedCorpus,
    StreamedRows,
)
from ..data.sources.files import absolute_argument, file_records, plain_argument
from ..data.splits import ValidationRows, validation_rows
from ..data.store import sources_of
from ..distributed import ProcessGroup
from ..errors import InputError
from ..files import cache_folder, from_home
from ..models.adapter import save_model
from ..models.loaded_model import LoadedModel
from .checkpoint import FREE_TO_CHANGE, SHOWN, TrainState
from .loss import MicroBatch, accumulate_gradient
from .metrics import Validation, validate
from .run_dir import model_card, run_record
from .run_files import BEST
from .schedule import Plan, plan_run


@dataclasses.dataclass(frozen=True)
class TrainingSetup:
    """Model, data and schedule of a run.

    Attributes:
        config: The settings.
        files: The files that were given.
        corpus: The documents.
        model: The model.
        mixture: Share of each source in an epoch; None of a stream.
        batches: The rows of each step.
        rows: All rows of a prepared corpus; None of a stream.
        held_out: The validation rows.
        domains: Names of the sources that validate.
        domain_ids: Index into ``domains`` for each validation document, [documents].
        manifest: Hashes of all documents.
        plan: The schedule.
        group: The processes that train.
        scored: Rows per forward pass of a validation.
    """

    config: Config
    files: list[str]
    corpus: Corpus
    model: LoadedModel
    mixture: Mixture | None
    rows: RowPlan | None
    batches: Batches
    held_out: ValidationRows
    domains: list[str]
    domain_ids: np.ndarray
    manifest: dict[str, Any]
    plan: Plan
    group: ProcessGroup
    scored: MicroBatch

    @property
    def output(self) -> Path:
        """The run's folder."""
        return Path(self.config.output_dir)

    def validate(self) -> Validation:
        """Score the held-out rows with the model as it is."""
        rows, ids = self.held_out.rows, self.domain_ids
        return self.scored.run(
            lambda size: validate(self.model, rows, ids, self.domains, size, self.group)
        )

    def gradient(self, rows: Rows, indices: np.ndarray, batch_size: int, tokens: int) -> float:
        """Add the gradient of a step to the parameters; its loss in nats per token."""
        self.model.model.train()
        return accumulate_gradient(self.model, rows, indices, batch_size, tokens)[0]

    def keep_best(self, state: TrainState) -> None:
        """Save the model as it is now as the best."""
        self.save(self.output / BEST, state)

    def begin(self, state: TrainState) -> None:
        """Nothing to measure before the first step but the base model's loss."""

    def finish(self, state: TrainState) -> None:
        """Nothing to add to what was saved."""

    def fingerprint(self) -> dict[str, Any]:
        """What a resume is compared with, and the settings that it takes over (``shown``)."""
        config = self.config.to_dict()
        return {
            "config": {key: config[key] for key in config if key not in FREE_TO_CHANGE},
            **self.places(),
            "data": self.manifest["manifest_hash"],
            "base": self.base(),
            "joints": {
                f"the joint of {name}": " or ".join(sorted(map(joint_name, report.joints)))
                for name, report in self.corpus.reports.items()
                if report.joints
            },
            "shown": {name: config[name] for name in SHOWN},
        }

    def places(self) -> dict[str, Any]:
        """The files as given and where they are, with what they hold, and where the model is."""
        sources = self.manifest["sources"].items()
        model = from_home(self.config.model_name)
        return {
            "files": [plain_argument(file) for file in self.files],
            "places": [absolute_argument(file) for file in self.files],
            "content": [r for name, made in sources for r in file_records(name, made["origin"])],
            "model_place": str(model.resolve()) if model.exists() else None,
        }

    def full_manifest(self, base: Validation) -> dict[str, Any]:
        """Content of ``manifest.json``: the documents, the plan, and what a restart needs.

        Args:
            base: Losses of the base model, for those who follow the run before its first
                validation.
        """
        now = self.fingerprint()
        run = {
            **{key: now[key] for key in ("config", "shown", *self.places())},
            "precision": self.config.precision,
            "compile": self.config.compile,
        }
        plan = {
            "total_steps": self.plan.total_steps,
            "eval_steps": self.plan.eval_steps,
            "base_val_loss": base.loss,
            "base_domains": base.domains,
        }
        return {**self.manifest, "run": run, "plan": plan}

    def base(self) -> dict[str, Any]:
        """The base model, as the records name it."""
        model = self.model
        return {
            "name": model.name,
            "kind": model.kind,
            "base_name": model.base_name,
            "revision": model.revision,
        }

    def save(self, folder: Path, state: TrainState) -> None:
        """Write the model as it is now, with its record and card."""
        metrics = state.metrics
        at = metrics["evaluation_steps"]
        known = bool(at) and at[-1] == state.step
        training = {
            "step": state.step,
            "total_steps": self.plan.total_steps,
            "base_val_loss": metrics["base_val_loss"],
            "val_loss": metrics["val_loss"][-1] if known else None,
            "best_step": state.best_step,
            "best_val_loss": state.best_loss,
            "domains": {
                name: {
                    "base_val_loss": losses["base_val_loss"],
                    "val_loss": losses["val_loss"][-1] if known else None,
                }
                for name, losses in metrics["domains"].items()
            },
            "trainable_parameters": metrics["trainable_parameters"],
            "total_parameters": metrics["total_parameters"],
            "trainable_percent": metrics["trainable_percent"],
            "seconds": state.seconds,
            "useful_tokens": state.useful_tokens,
            "resumed_from": metrics["resumed_from"],
            "probed": state.choices,
            "samples": metrics["samples"],
        }
        data = {
            "manifest_hash": self.manifest["manifest_hash"],
            **self.places(),
            "sources": self.manifest["sources"],
            "mixture": None if self.mixture is None else self.mixture.to_dict(),
            "streamed": self.batches.stats(),
            "held_out": self.held_out.to_dict(),
            "missing": self.corpus.missing,
        }
        run = run_record(self.config, self.model.device, self.base(), data, training)
        save_model(self.model, folder, run, model_card(run))

    def held_out_lines(self) -> str:
        """The validation documents as JSON lines, for later evaluations on the same ones."""
        return "".join(
            json.dumps(dataclasses.asdict(document), ensure_ascii=False) + "\n"
            for document in self.corpus.validation
        )

    def announce(
        self,
        base: Validation,
        sizes: tuple[int, int],
        micro_batch: int,
        seconds: tuple[float, float],
    ) -> None:
        """Summarise data and plan of a run before its first step.

        Args:
            base: Validation of the base model.
            sizes: Trained and total parameters.
            micro_batch: Rows per micro-batch.
            seconds: Durations of a validation and of an optimizer step.
        """
        config, plan, rows, say = self.config, self.plan, self.rows, console.note
        _show_data(self, base)
        evaluations = sum(plan.evaluates_after(step) for step in range(1, plan.total_steps + 1))
        expected = plan.total_steps * seconds[1] + evaluations * (seconds[0] + 1.0)
        trained, total = sizes
        adapter = f"a LoRA adapter of rank {config.lora_r}"
        what = "all weights" if config.method == "full" else adapter
        say(
            f"Training {what} of {self.model.name}: {trained:,} of {total:,} parameters "
            f"({100 * trained / total:.2f} %)."
        )
        steps = f"{plan.total_steps:,} steps of up to {plan.rows_per_step} rows"
        if rows is None:
            say(f"The texts are read meanwhile: {steps}; validation every {plan.eval_steps} steps.")
        else:
            say(
                f"{int(rows.target_counts().sum()):,} tokens in {len(rows):,} rows of "
                f"{rows.max_length}; {steps}, {plan.epochs:.2g} epochs; validation every "
                f"{plan.eval_steps} steps."
            )
        held_out = self.held_out
        if held_out.scored < held_out.tokens:
            say(
                f"Each validation scores the same {held_out.scored:,} of {held_out.tokens:,} "
                "held-out tokens (--val-tokens); cwgpt evaluate scores all."
            )
        device = self.model.device
        reasons = device.reasons
        compiled = ", compiled" if config.compile else ""
        say(
            f"Device {device.device} ({reasons['device']}), {device.precision} "
            f"({reasons['precision']}), threads: {device.threads} ({reasons['threads']}), "
            f"micro-batches of {console.counted(micro_batch, 'row')}{compiled}."
        )
        say(
            f"Before training: validation loss {base.loss:.4f}, perplexity {base.perplexity:.2f}. "
            f"This will take about {console.duration(expected)} and "
            f"{console.size(devices.peak_memory_bytes(device.device))} of memory."
        )


def prepare(
    config: Config,
    files: Sequence[str],
    corpus: Corpus | StreamedCorpus,
    model: LoadedModel,
    group: ProcessGroup,
) -> TrainingSetup:
    """Tokenize, mix and pack the corpus, and plan the run.

    Args:
        config: The settings.
        files: The files that were given.
        corpus: The documents, read or opened for streaming.
        model: The base model.
        group: The processes that train.

    Raises:
        InputError: There is no text to train or to validate on.
    """
    cache = cache_folder(config.cache_dir)
    max_length = min(config.max_length, model.context_length)
    if max_length < config.max_length:
        console.note(f"max_length is {max_length}: {model.name} sees no more tokens at once")
    shape: dict[str, Any] = {
        "max_length": max_length,
        "bos_id": model.bos_id,
        "eos_id": model.eos_id,
        "mask_prompt": config.mask_prompt,
    }
    mixture = rows = None
    if isinstance(corpus, StreamedCorpus):
        known = corpus.known()
        assert config.max_steps is not None
        plan = plan_run(
            config, config.max_steps * config.batch_size * config.gradient_accumulation_steps
        )
        open_rows = functools.partial(
            StreamedRows, corpus, config, model.tokenizer, shape, group.rank, group.size
        )
        batches: Batches = StreamedBatches(open_rows, plan.rows_per_step, group)
    else:
        known = corpus
        tokens = tokenize(corpus.train, model.tokenizer, cache)
        mixture = mix(
            sources_of(corpus.train), tokens.lengths(), config.mix,
            max_length=max_length, seed=config.seed,
        )  # fmt: skip
        rows = plan_rows(tokens, **shape, seed=config.seed, documents=mixture.documents)
        if not len(rows):
            raise _too_little("train on")
        plan = plan_run(config, len(rows))
        batches = PreparedBatches(rows, plan.rows_of_step, group)
    held_out = validation_rows(
        tokenize(known.validation, model.tokenizer, cache), sources_of(known.validation),
        most=config.val_tokens, seed=config.seed, **shape,
    )  # fmt: skip
    if not held_out.scored:
        raise _too_little("validate on")
    domains = sorted({document.source for document in known.validation})
    index = {name: number for number, name in enumerate(domains)}
    return TrainingSetup(
        config=config,
        files=list(files),
        corpus=known,
        model=model,
        mixture=mixture,
        rows=rows,
        batches=batches,
        held_out=held_out,
        domains=domains,
        domain_ids=np.array([index[document.source] for document in known.validation]),
        manifest=known.manifest(),
        plan=plan,
        group=group,
        scored=MicroBatch(config.batch_size, max_length),
    )


def _too_little(what: str) -> InputError:
    return InputError(
        f"there is no text to {what}",
        "give more documents, or longer ones; cwgpt data inspect shows what was read",
    )


def _show_data(setup: TrainingSetup, base: Validation) -> None:
    """Show what was read from each source and its share in the training tokens."""
    for name, reason in setup.corpus.missing.items():
        console.warn(f"going on without {name}: {reason}")
    reports = setup.corpus.reports
    for report in reports.values():
        for said in report.summary():
            console.note(said)
    if setup.mixture is None:
        held_out = console.counted(len(setup.corpus.validation), "document")
        console.note(f"  {held_out} to validate on")
        return
    shares = {share.name: share for share in setup.mixture.shares}
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
                f"{base.domains[name]:.3f}" if name in base.domains else "",
            )
        )
    # Headings are broken by hand, so that the table fits into 80 columns.
    heads = ["source", "train", "held\nout", "tokens", "share", "passes", "over\na row"]
    console.table("", [*heads, "base\nloss"], rows)
