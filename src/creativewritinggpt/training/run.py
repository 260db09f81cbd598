"""A whole fine-tuning run: from documents to a folder with a model, its curves and its record."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import console, devices
from ..config import Config
from ..data.corpus import Corpus, load_corpus
from ..data.mixing import mix
from ..data.packing import pack, plan_rows
from ..data.store import sources_of
from ..data.tokens import tokenize
from ..errors import InputError
from ..files import cache_folder, write_json, write_text
from ..models.adapter import attach, save_model, trainable
from ..models.loading import load_base
from ..models.writer import Writer
from .announce import Announcement, announce
from .card import model_card
from .checkpoint import (
    State,
    newest_checkpoint,
    refuse_changes,
    restore,
    trained_parameters,
)
from .loop import fit, new_metrics, write_metrics
from .output import CHECKPOINTS, FINAL, MANIFEST, VALIDATION, claimed, clear
from .projections import fused_projections
from .record import run_record
from .schedule import Plan, plan_run
from .validation import Validation, validate

# Settings that may change between a run and its continuation: they name places, or say how far
# to go on reading the same data.
_FREE_TO_CHANGE = frozenset(
    {"output_dir", "results_dir", "cache_dir", "device", "precision", "num_workers", "starter_file"}
)


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """What came of a run. Losses are in nats a token."""

    outcome: str
    output_dir: str
    steps: int
    total_steps: int
    best_step: int
    base_val_loss: float
    best_val_loss: float | None
    seconds: float
    useful_tokens_per_second: float
    peak_memory_bytes: int
    domains: dict[str, dict[str, float | None]]

    def to_dict(self) -> dict[str, Any]:
        """All fields, and the perplexities, ready for JSON."""
        best = self.best_val_loss
        return {
            **dataclasses.asdict(self),
            "base_val_perplexity": math.exp(self.base_val_loss),
            "best_val_perplexity": None if best is None else math.exp(best),
        }


def train(
    config: Config, files: Sequence[str] = (), *, resume: bool = False, overwrite: bool = False
) -> TrainingResult:
    """Fine-tune a model.

    Args:
        config: The settings.
        files: The texts to train on; without any, ``config.sources``.
        resume: Go on with the run in ``config.output_dir``.
        overwrite: Replace the run in ``config.output_dir``.

    Raises:
        InputError: Settings, files or the output folder can't be used.
        RunError: The work failed.
    """
    output = Path(config.output_dir)
    with claimed(output, resume=resume, overwrite=overwrite):
        found = newest_checkpoint(output / CHECKPOINTS) if resume else None
        if resume and found is None:
            console.note(f"no checkpoint in {output}: starting from the first step")
        if found is not None:
            config, files = _recorded(found[1], config, files)
        with console.progress("reading") as tell:
            corpus = load_corpus(config, files, tell)
        device = devices.choose(config.device, config.precision, config.num_workers)
        device.apply()
        writer = load_base(
            config.model_name, device, cache_dir=config.cache_dir, starter_file=config.starter_file
        )
        return _Run(config, list(files), corpus, writer).go(found, fresh=found is None)


def _recorded(state: State, config: Config, files: Sequence[str]) -> tuple[Config, Sequence[str]]:
    """Settings and files of the run that is resumed, with this machine's places."""
    then = state.fingerprint
    now = {key: value for key, value in config.to_dict().items() if key not in _FREE_TO_CHANGE}
    default = {key: value for key, value in Config().to_dict().items() if key in now}
    if now != default:
        refuse_changes(then["config"], now)
    if files and list(files) != then["files"]:
        refuse_changes({"files": then["files"]}, {"files": list(files)})
    kept = {**config.to_dict(), **then["config"], **then["probed"]}
    return Config(**kept), then["files"]


class _Run:
    """The parts of one run, put together."""

    def __init__(self, config: Config, files: list[str], corpus: Corpus, writer: Writer) -> None:
        self.config, self.files, self.corpus, self.writer = config, files, corpus, writer
        cache = cache_folder(config.cache_dir)
        max_length = min(config.max_length, writer.window)
        if max_length < config.max_length:
            console.note(f"max_length is {max_length}: {writer.name} sees no more tokens at once")
        shape: dict[str, Any] = {
            "max_length": max_length,
            "bos_id": writer.bos_id,
            "eos_id": writer.eos_id,
            "mask_prompt": config.mask_prompt,
            "seed": config.seed,
        }
        tokens = tokenize(corpus.train, writer.tokenizer, cache)
        self.mixture = mix(
            sources_of(corpus.train), tokens.lengths(), config.mix,
            max_length=max_length, seed=config.seed,
        )  # fmt: skip
        self.rows = plan_rows(tokens, **shape, documents=self.mixture.documents)
        self.held_out = pack(tokenize(corpus.validation, writer.tokenizer, cache), **shape)
        for count, what in ((len(self.rows), "train on"), (len(self.held_out), "validate on")):
            if not count:
                raise InputError(
                    f"there is no text to {what}",
                    "give more documents, or longer ones; cwgpt data inspect shows what was read",
                )
        self.domains = sorted({document.source for document in corpus.validation})
        place = {name: index for index, name in enumerate(self.domains)}
        self.domain_ids = np.array([place[document.source] for document in corpus.validation])
        self.manifest = corpus.manifest()
        self.plan: Plan = plan_run(config, len(self.rows))

    def validate(self) -> Validation:
        """Score the held-out rows with the model as it is."""
        return validate(
            self.writer, self.held_out, self.domain_ids, self.domains, self.config.batch_size
        )

    def go(self, found: tuple[Path, State] | None, fresh: bool) -> TrainingResult:
        """Run from the start or from a checkpoint, and save what comes of it."""
        config, writer, output = self.config, self.writer, Path(self.config.output_dir)
        began = time.monotonic()
        before = self.validate() if fresh else None
        scoring_seconds = time.monotonic() - began
        torch.manual_seed(config.seed)
        attach(writer, config)
        sizes = trainable(writer.model)
        optimizer = torch.optim.AdamW(
            trained_parameters(writer.model).values(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
        )
        if found is not None:
            path, state = found
            refuse_changes(state.fingerprint, self._fingerprint())
            restore(path, writer.model, optimizer)
            state.metrics["resumed_from"].append(state.step)
            console.note(f"going on from step {state.step} of {self.plan.total_steps}")
        else:
            assert before is not None
            state = State(
                metrics=new_metrics(config, before, sizes), fingerprint=self._fingerprint()
            )
            announce(
                Announcement(
                    config, writer, self.corpus, self.mixture, self.rows, self.plan, before, sizes
                ),
                scoring_seconds,
            )
            clear(output)
            write_json(output / MANIFEST, self.manifest)
            write_text(output / VALIDATION, _as_lines(self.corpus))
        with fused_projections(writer):
            outcome = fit(
                writer, self.rows, self.plan, config, state, optimizer, self.validate, self._save
            )
        metrics = state.metrics
        metrics["seconds"] = state.seconds
        metrics["useful_tokens_per_second"] = state.useful_tokens / max(state.step_seconds, 1e-9)
        metrics["peak_memory_bytes"] = devices.peak_memory_bytes(self.writer.device.device)
        self._save(output / FINAL, state)
        write_metrics(output, state)
        return TrainingResult(
            outcome=outcome,
            output_dir=str(output),
            steps=state.step,
            total_steps=self.plan.total_steps,
            best_step=state.best_step,
            base_val_loss=metrics["base_val_loss"],
            best_val_loss=state.best_loss,
            seconds=state.seconds,
            useful_tokens_per_second=metrics["useful_tokens_per_second"],
            peak_memory_bytes=metrics["peak_memory_bytes"],
            domains=_at_best(metrics),
        )

    def _fingerprint(self) -> dict[str, Any]:
        """What a continuation must find unchanged."""
        config = self.config.to_dict()
        return {
            "config": {key: config[key] for key in config if key not in _FREE_TO_CHANGE},
            "files": self.files,
            "data": self.manifest["manifest_hash"],
            "base": self._base(),
            "probed": {
                "precision": self.writer.device.precision,
                "num_workers": self.writer.device.threads,
            },
        }

    def _base(self) -> dict[str, Any]:
        writer = self.writer
        return {
            "name": writer.name,
            "kind": writer.kind,
            "base_name": writer.base_name,
            "revision": writer.revision,
        }

    def _save(self, folder: Path, state: State) -> None:
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
        }
        data = {
            "manifest_hash": self.manifest["manifest_hash"],
            "files": self.files,
            "sources": self.manifest["sources"],
            "mixture": self.mixture.to_dict(),
            "missing": self.corpus.missing,
        }
        run = run_record(self.config, self.writer.device, self._base(), data, training)
        save_model(self.writer, folder, run, model_card(run))


def _at_best(metrics: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Each domain's validation loss, of the base model and of the best one."""
    best, at = metrics["best_step"], metrics["evaluation_steps"]
    place = at.index(best) if best in at else None
    return {
        name: {
            "base_val_loss": losses["base_val_loss"],
            "best_val_loss": None if place is None else losses["val_loss"][place],
        }
        for name, losses in metrics["domains"].items()
    }


def _as_lines(corpus: Corpus) -> str:
    """The held-out documents as JSON lines, so that later evaluations read the same ones."""
    return "".join(
        json.dumps(dataclasses.asdict(document), ensure_ascii=False) + "\n"
        for document in corpus.validation
    )
