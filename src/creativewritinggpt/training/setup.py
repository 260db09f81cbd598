"""Setup of a run: rows to train on, rows to validate on, schedule, and records of the data.

All of it is a function of the settings, the documents and the model's tokenizer, so every process
and every resume of a run builds the same setup.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import console
from ..config.run import Config
from ..data.corpus import Corpus
from ..data.mixing import Mixture, mix
from ..data.rows.batches import Batches, PreparedBatches, StreamedBatches
from ..data.rows.packing import RowPlan, plan_rows
from ..data.rows.stream import StreamedCorpus, StreamedRows
from ..data.rows.tokens import tokenize
from ..data.splits import ValidationRows, validation_rows
from ..data.store import sources_of
from ..distributed import ProcessGroup
from ..errors import InputError
from ..files import cache_folder
from ..models.adapter import save_model
from ..models.loaded_model import LoadedModel
from .checkpoint import FREE_TO_CHANGE, SHOWN, TrainState
from .memory import MicroBatch
from .metrics import Validation, validate
from .record import model_card, run_record
from .schedule import Plan, plan_run, plan_stream


@dataclasses.dataclass(frozen=True)
class TrainingSetup:
    """Model, data and schedule of a run.

    Attributes:
        config: The settings.
        files: The files that were given.
        corpus: The documents.
        writer: The model.
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
    writer: LoadedModel
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
            lambda size: validate(self.writer, rows, ids, self.domains, size, self.group)
        )

    def fingerprint(self) -> dict[str, Any]:
        """What a resume is compared with, and the settings that it takes over (``shown``)."""
        config = self.config.to_dict()
        return {
            "config": {key: config[key] for key in config if key not in FREE_TO_CHANGE},
            "files": self.files,
            "data": self.manifest["manifest_hash"],
            "base": self.base(),
            "shown": {name: config[name] for name in SHOWN},
        }

    def full_manifest(self) -> dict[str, Any]:
        """Content of ``manifest.json``: the documents, and what a restart needs."""
        now = self.fingerprint()
        run = {
            **{key: now[key] for key in ("config", "files", "shown")},
            "precision": self.config.precision,
            "compile": self.config.compile,
        }
        return {**self.manifest, "run": run}

    def base(self) -> dict[str, Any]:
        """The base model, as the records name it."""
        writer = self.writer
        return {
            "name": writer.name,
            "kind": writer.kind,
            "base_name": writer.base_name,
            "revision": writer.revision,
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
            "files": self.files,
            "sources": self.manifest["sources"],
            "mixture": None if self.mixture is None else self.mixture.to_dict(),
            "streamed": self.batches.stats(),
            "held_out": self.held_out.to_dict(),
            "missing": self.corpus.missing,
        }
        run = run_record(self.config, self.writer.device, self.base(), data, training)
        save_model(self.writer, folder, run, model_card(run))

    def held_out_lines(self) -> str:
        """The validation documents as JSON lines, for later evaluations on the same ones."""
        return "".join(
            json.dumps(dataclasses.asdict(document), ensure_ascii=False) + "\n"
            for document in self.corpus.validation
        )


def prepare(
    config: Config,
    files: Sequence[str],
    corpus: Corpus | StreamedCorpus,
    writer: LoadedModel,
    group: ProcessGroup,
) -> TrainingSetup:
    """Tokenize, mix and pack the corpus, and plan the run.

    Args:
        config: The settings.
        files: The files that were given.
        corpus: The documents, read or opened for streaming.
        writer: The base model.
        group: The processes that train.

    Raises:
        InputError: There is no text to train or to validate on.
    """
    cache = cache_folder(config.cache_dir)
    max_length = min(config.max_length, writer.window)
    if max_length < config.max_length:
        console.note(f"max_length is {max_length}: {writer.name} sees no more tokens at once")
    shape: dict[str, Any] = {
        "max_length": max_length,
        "bos_id": writer.bos_id,
        "eos_id": writer.eos_id,
        "mask_prompt": config.mask_prompt,
    }
    mixture = rows = None
    if isinstance(corpus, StreamedCorpus):
        known = corpus.known()
        plan = plan_stream(config)
        open_rows = functools.partial(
            StreamedRows, corpus, config, writer.tokenizer, shape, group.rank, group.size
        )
        batches: Batches = StreamedBatches(open_rows, plan.rows_per_step, group)
    else:
        known = corpus
        tokens = tokenize(corpus.train, writer.tokenizer, cache)
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
        tokenize(known.validation, writer.tokenizer, cache), sources_of(known.validation),
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
        writer=writer,
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
