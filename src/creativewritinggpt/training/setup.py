"""The parts of a run: rows to train on, rows to validate on, the plan, and what they were made of.

All of it is a function of the settings, the documents and the model's tokenizer, so that each
process of a run, and each continuation of it, makes the same parts again.
"""

from __future__ import annotations

import dataclasses
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
from ..data.rows.stream import StreamedCorpus
from ..data.rows.tokens import definition_of, tokenize
from ..data.splits import ValidationRows, validation_rows
from ..data.store import sources_of
from ..distributed import ProcessGroup
from ..errors import InputError
from ..files import cache_folder
from ..models.adapter import save_model
from ..models.loaded_model import LoadedModel
from .checkpoint import State
from .model_card import model_card
from .record import run_record
from .schedule import Plan, plan_run, plan_stream
from .validation import Validation, validate

# Settings that may change between a run and its continuation without a word: they name places, or
# say how the work is done (that of the run is in its record) ...
PLACES = frozenset(
    {"output_dir", "results_dir", "cache_dir", "device", "precision", "num_workers", "starter_file"}
)
# ... or what is kept and shown of it.
SHOWN = frozenset({"save_total_limit", "samples", "sample_prompts", "track"})
FREE_TO_CHANGE = PLACES | SHOWN


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a run is made of.

    Attributes:
        config: The settings.
        files: The files that were given.
        corpus: What was read.
        writer: The model.
        mixture: What an epoch holds of each source; None of a stream.
        batches: The rows to train on, as the loop asks for them.
        rows: The same where they were prepared; None of a stream.
        held_out: What validations score.
        domains: Names of the sources that validate.
        domain_ids: Index into ``domains`` for each validation document.
        manifest: Hashes of all documents.
        plan: The course of the run.
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

    def validate(self, batch_size: int, group: ProcessGroup) -> Validation:
        """Score the held-out rows with the model as it is."""
        rows, ids = self.held_out.rows, self.domain_ids
        return validate(self.writer, rows, ids, self.domains, batch_size, group)

    def fingerprint(self) -> dict[str, Any]:
        """What a continuation must find unchanged."""
        config = self.config.to_dict()
        return {
            "config": {key: config[key] for key in config if key not in FREE_TO_CHANGE},
            "files": self.files,
            "data": self.manifest["manifest_hash"],
            "base": self.base(),
        }

    def shown(self) -> dict[str, Any]:
        """Settings that a continuation takes over where it says nothing else."""
        return {name: getattr(self.config, name) for name in SHOWN}

    def begun(self) -> dict[str, Any]:
        """What a run that ends before its first checkpoint begins again with."""
        now = self.fingerprint()
        return {
            "config": now["config"],
            "files": self.files,
            "shown": self.shown(),
            "precision": self.config.precision,
        }

    def base(self) -> dict[str, Any]:
        """The base model, as the records name it."""
        writer = self.writer
        return {
            "name": writer.name,
            "kind": writer.kind,
            "base_name": writer.base_name,
            "revision": writer.revision,
        }

    def save(self, folder: Path, state: State) -> None:
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
            "probed": state.fingerprint["probed"],
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
        """The held-out documents as JSON lines, so that later evaluations read the same ones."""
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
) -> Parts:
    """Make the parts of a run.

    Args:
        config: The settings.
        files: The files that were given.
        corpus: What was read of them, or opened to be streamed.
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
        definition = definition_of(writer.tokenizer)
        batches: Batches = StreamedBatches(
            corpus, config, definition, shape, plan.rows_per_step, group
        )
    else:
        known = corpus
        mixture, rows = _rows(config, corpus, writer, shape, cache)
        plan = plan_run(config, len(rows))
        batches = PreparedBatches(rows, plan.rows_of_step, group)
    held_out = validation_rows(
        tokenize(known.validation, writer.tokenizer, cache), sources_of(known.validation),
        most=config.val_tokens, seed=config.seed, **shape,
    )  # fmt: skip
    if not held_out.scored:
        raise _too_little("validate on")
    domains = sorted({document.source for document in known.validation})
    place = {name: index for index, name in enumerate(domains)}
    return Parts(
        config=config,
        files=list(files),
        corpus=known,
        writer=writer,
        mixture=mixture,
        rows=rows,
        batches=batches,
        held_out=held_out,
        domains=domains,
        domain_ids=np.array([place[document.source] for document in known.validation]),
        manifest=known.manifest(),
        plan=plan,
    )


def _rows(
    config: Config, corpus: Corpus, writer: LoadedModel, shape: dict[str, Any], cache: Path
) -> tuple[Mixture, RowPlan]:
    """What an epoch holds, and the rows that it is laid out in."""
    tokens = tokenize(corpus.train, writer.tokenizer, cache)
    mixture = mix(
        sources_of(corpus.train), tokens.lengths(), config.mix,
        max_length=shape["max_length"], seed=config.seed,
    )  # fmt: skip
    rows = plan_rows(tokens, **shape, seed=config.seed, documents=mixture.documents)
    if not len(rows):
        raise _too_little("train on")
    return mixture, rows


def _too_little(what: str) -> InputError:
    return InputError(
        f"there is no text to {what}",
        "give more documents, or longer ones; cwgpt data inspect shows what was read",
    )
