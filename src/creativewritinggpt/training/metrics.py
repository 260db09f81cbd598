"""Validation of a model in training, and the metrics of a run (``metrics.json``)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config.run import Config
from ..data.rows.packing import IGNORE, PackedRows
from ..distributed import SINGLE_PROCESS, ProcessGroup
from ..files import write_json
from ..models.loaded_model import LoadedModel
from ..models.scoring import token_nll
from .checkpoint import TrainState
from .curves import draw_curves
from .run_dir import CURVES, METRICS

_RISE = 0.005
"""Nats by which a loss must differ to count as risen or fallen."""


@dataclasses.dataclass(frozen=True)
class Validation:
    """Losses of the held-out rows, in nats per token; end-of-text tokens apart."""

    loss: float
    eos_loss: float | None
    domains: dict[str, float]

    @property
    def perplexity(self) -> float:
        """Exp of the loss, kept finite for a diverged model."""
        return math.exp(min(self.loss, 700.0))


def validate(
    model: LoadedModel,
    rows: PackedRows,
    domains: np.ndarray,
    names: list[str],
    batch_size: int,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Validation:
    """Score held-out rows, deterministic and without dropout.

    Args:
        model: The model.
        rows: Packed validation documents.
        domains: Index into ``names`` for each document, [documents].
        names: Names of the domains.
        batch_size: Rows per forward pass; it does not change the result.
        group: Processes that share the rows.

    Returns:
        Losses over text tokens, over end-of-text tokens, and over text tokens by domain.
    """
    model.model.eval()
    mine = slice(group.rank, None, group.size)
    part, nll = rows.take(mine), np.zeros(rows.targets.shape, dtype=np.float64)
    if len(part):
        nll[mine] = token_nll(model, part, batch_size)
    nll = group.all_reduce(nll)
    scored = rows.targets != IGNORE
    text = scored & ~rows.is_eos
    ends = scored & rows.is_eos
    if not text.any():
        text = scored
    by_domain: dict[str, float] = {}
    domain_of = np.where(rows.document_ids >= 0, domains[rows.document_ids], -1)
    for index, name in enumerate(names):
        chosen = text & (domain_of == index)
        if chosen.any():
            by_domain[name] = float(nll[chosen].sum() / chosen.sum())
    return Validation(
        loss=float(nll[text].sum() / text.sum()),
        eos_loss=float(nll[ends].sum() / ends.sum()) if ends.any() else None,
        domains=by_domain,
    )


def new_metrics(config: Config, base: Validation, sizes: tuple[int, int]) -> dict[str, Any]:
    """The content of ``metrics.json`` before the first step.

    Args:
        config: The settings.
        base: Losses of the base model.
        sizes: Trained and total parameters.
    """
    trainable, total = sizes
    metrics: dict[str, Any] = {
        "train_loss": [],
        "val_loss": [],
        "val_perplexity": [],
        "val_eos_loss": [],
        "evaluation_steps": [],
        "learning_rate": [],
        "batch_losses": [],
        "best_step": None,
        "overfits_after": None,
        "trainable_parameters": trainable,
        "total_parameters": total,
        "trainable_percent": 100 * trainable / total,
        "useful_tokens_per_second": None,
        "peak_memory_bytes": None,
        "seconds": None,
        "samples": [],
        "resumed_from": [],
        "forced": [],
        "config": config.to_dict(),
    }
    note_base(metrics, base)
    return metrics


def note_base(metrics: dict[str, Any], base: Validation) -> None:
    """Record the base model's losses; earlier validations of a domain stay."""
    known = metrics.get("domains", {})
    unknown = [None] * len(metrics["evaluation_steps"])
    metrics["base_val_loss"] = base.loss
    metrics["base_val_perplexity"] = base.perplexity
    metrics["base_val_eos_loss"] = base.eos_loss
    metrics["domains"] = {
        name: {
            "base_val_loss": loss,
            "val_loss": known[name]["val_loss"] if name in known else list(unknown),
        }
        for name, loss in base.domains.items()
    }


def note_evaluation(state: TrainState, result: Validation) -> None:
    """Record a validation, with the mean training loss since the previous one."""
    metrics, since = state.metrics, state.since_evaluation
    tokens = sum(count for _, count in since)
    metrics["evaluation_steps"].append(state.step)
    metrics["train_loss"].append(sum(loss * count for loss, count in since) / max(tokens, 1))
    metrics["val_loss"].append(result.loss)
    metrics["val_perplexity"].append(result.perplexity)
    metrics["val_eos_loss"].append(result.eos_loss)
    for name, loss in result.domains.items():
        metrics["domains"][name]["val_loss"].append(loss)
    state.since_evaluation = []


def note_samples(state: TrainState, sample: Callable[[], list[dict[str, str]]] | None) -> None:
    """Record samples of the model; the random state is restored afterwards."""
    if sample is None:
        return
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices):
        state.metrics["samples"] += [{"step": state.step, **entry} for entry in sample()]


def patience_ends(state: TrainState, loss: float, warmup_steps: int, config: Config) -> bool:
    """Count validations without improvement after the warm-up; whether patience has run out."""
    if state.reference_loss is None or loss < state.reference_loss - config.min_delta:
        state.reference_loss = loss
        state.evaluations_without_improvement = 0
    elif state.step > warmup_steps:
        state.evaluations_without_improvement += 1
    return 0 < config.patience <= state.evaluations_without_improvement


def evaluation_line(state: TrainState, result: Validation) -> str:
    """A line with the losses of a validation and of the base model."""
    base = state.metrics["base_val_loss"]
    mark = " (best so far)" if state.best_step == state.step else ""
    return (
        f"step {state.step}: validation loss {result.loss:.4f}, perplexity "
        f"{result.perplexity:.2f}{mark}; base model {base:.4f}, {math.exp(base):.2f}"
    )


def overfitting(metrics: dict[str, Any]) -> str | None:
    """A warning when overfitting begins, else None; given once per run.

    Overfitting: the last two validations are above the best one while the training loss fell.

    Args:
        metrics: The content of ``metrics.json``; ``overfits_after`` is set with the warning.
    """
    losses, training = metrics["val_loss"], metrics["train_loss"]
    if metrics["overfits_after"] is not None or len(losses) < 3:
        return None
    best = min(range(len(losses)), key=losses.__getitem__)
    rose = len(losses) - best > 2 and min(losses[-2:]) > losses[best] + _RISE
    if not rose or training[-1] > training[best] - _RISE:
        return None
    step = metrics["overfits_after"] = metrics["evaluation_steps"][best]
    return (
        f"The model begins to overfit: since step {step} the validation loss rose from "
        f"{losses[best]:.3f} to {losses[-1]:.3f} while the training loss fell from "
        f"{training[best]:.3f} to {training[-1]:.3f}. It now learns these texts by heart; "
        f"best_model stays that of step {step}. More text or fewer epochs would help."
    )


def write_metrics(output: Path, state: TrainState, draw: bool = True) -> None:
    """Write ``metrics.json`` and, if ``draw``, the training curves."""
    write_json(output / METRICS, state.metrics)
    if draw:
        draw_curves(state.metrics, output / CURVES)
