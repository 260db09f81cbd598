"""``metrics.json``: what is known of a run while it goes on, and what is said of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..config.run import Config
from ..files import write_json
from .checkpoint import State
from .curves import draw_curves
from .run_dir import CURVES, METRICS
from .validation import Validation

_RISE = 0.005
"""Nats by which a loss must differ to have risen or fallen."""


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
    """Put the base model's losses into the metrics; earlier validations of a domain stay."""
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


def note_evaluation(state: State, result: Validation) -> None:
    """Put a validation into the metrics, with the training loss since the one before."""
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


def note_samples(state: State, sample: Callable[[], list[dict[str, str]]] | None) -> None:
    """Let the model continue its fixed prompts, without a trace in any source of randomness."""
    if sample is None:
        return
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices):
        state.metrics["samples"] += [{"step": state.step, **entry} for entry in sample()]


def patience_ends(state: State, loss: float, warmup_steps: int, config: Config) -> bool:
    """Count evaluations without an improvement, from the end of the warm-up on."""
    if state.reference_loss is None or loss < state.reference_loss - config.min_delta:
        state.reference_loss = loss
        state.evaluations_without_improvement = 0
    elif state.step > warmup_steps:
        state.evaluations_without_improvement += 1
    return 0 < config.patience <= state.evaluations_without_improvement


def evaluation_line(state: State, result: Validation) -> str:
    """One line on a validation, with the base model beside it."""
    base = state.metrics["base_val_loss"]
    mark = " (best so far)" if state.best_step == state.step else ""
    return (
        f"step {state.step}: validation loss {result.loss:.4f}, perplexity "
        f"{result.perplexity:.2f}{mark}; base model {base:.4f}, {math.exp(base):.2f}"
    )


def overfitting(metrics: dict[str, Any]) -> str | None:
    """A sentence on the moment from which the model learns its texts by heart, or None.

    That is when the last two validations are above the best one while the training loss went on
    falling; it is said once, and ``overfits_after`` is the step of the best one from then on.

    Args:
        metrics: The content of ``metrics.json``; changed when the sentence comes.
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
        f"best_model stays that of step {step}. More text or fewer passes would help."
    )


def write_metrics(output: Path, state: State, draw: bool = True) -> None:
    """Write ``metrics.json``, and the picture of it where it is wanted."""
    write_json(output / METRICS, state.metrics)
    if draw:
        draw_curves(state.metrics, output / CURVES)
