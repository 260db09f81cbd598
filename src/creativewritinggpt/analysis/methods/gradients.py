"""Explanations by gradients: what the score of a token owes to the embedding of each other token.

Integrated gradients (Sundararajan, Taly and Yan 2017) add up the slope of a score along the
straight path from a baseline to the text; the parts sum to the difference of the two scores, and by
how much they don't is reported for every target. Saliency and gradient x input need a single pass:
cheap views that add up to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...console import CountCallback
from ...errors import InputError
from ...models.loaded_model import LoadedModel
from ..registry import Attribution, Figure, Method, Score
from ..runtime.forward import frozen, target_gradients, whole_gelu
from ..subject import Subject
from . import path
from .baselines import BASELINES, check_baseline, rank_correlation
from .path import Path, groups
from .quadrature import Integral, integrate

if TYPE_CHECKING:
    from ..run import Analysis

# Integrated gradients are repeated from the other baselines where so many tokens, forward and back,
# allow the steps that settle most scores: for one target up to 20 tokens of text.
AGREEMENT_REACH = 12_000
AGREEMENT_STEPS = 300


def integrated_gradients(
    writer: LoadedModel,
    subject: Subject,
    *,
    baseline: str = "end_of_text",
    steps: int | None = None,
    tolerance: float = 0.01,
    most_steps: int | None = None,
    progress: CountCallback | None = None,
) -> Attribution:
    """What each token adds to the scores of the targets, against a baseline.

    Args:
        writer: The model; its adapter works unless this is called within ``writer.base()``.
        subject: The text and its targets.
        baseline: ``end_of_text``, ``mean`` or ``zero``; the start token stands before each, so that
            it has 0 by construction, as has every token that equals the baseline.
        steps: A fixed number of Gauss-Legendre steps; without it as many as each target needs.
        tolerance: Of the difference of scores, how much the parts may miss in sum.
        most_steps: Steps after which a target is flagged as not converged; without it up to 512,
            fewer where each takes long (:func:`~.path.most_steps`).
        progress: Called with the steps done and those planned so far; plans grow.

    Returns:
        Signed nats. ``per_target`` has ``convergence_delta`` (sum of the parts less the difference
        of scores), ``relative_delta`` (None where the scores are equal), ``path_delta`` (what is
        missed along the way, see ``quadrature``), ``converged``, ``steps``, ``score`` and
        ``baseline_score``.

    Raises:
        InputError: No such baseline, or no targets, or a number of steps below 1.
        RunError: The model gives no numbers, or memory does not suffice for one pass.
    """
    check_baseline(baseline)
    for name, value in (("steps", steps), ("most_steps", most_steps)):
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}", "it must be at least 1")
    passes = Path(writer, subject, baseline, progress)
    if most_steps is None:
        most_steps = path.most_steps(subject.targets)
    with frozen(writer), whole_gelu(writer):
        integrals = integrate(
            passes, len(subject.targets), steps=steps, tolerance=tolerance, most=most_steps
        )
    settings: dict[str, Any] = {
        "baseline": baseline,
        "steps": steps,
        "rule": "adaptive" if steps is None else "gauss_legendre",
        "tolerance": tolerance,
        "most_steps": most_steps,
        "tokens_equal_to_baseline": passes.equal_to_baseline(),
    }
    return INTEGRATED_GRADIENTS.attribution(
        np.stack([integral.parts for integral in integrals]),
        settings,
        [_report(integral) for integral in integrals],
    )


def saliency(
    writer: LoadedModel, subject: Subject, *, progress: CountCallback | None = None
) -> Attribution:
    """How fast the scores change with each embedding: the length of the gradient.

    Args:
        writer: The model.
        subject: The text and its targets.
        progress: Called when the pass is done.

    Returns:
        Unsigned, in nats per unit of embedding length.
    """
    return _one_pass(writer, subject, SALIENCY, progress)


def gradient_x_input(
    writer: LoadedModel, subject: Subject, *, progress: CountCallback | None = None
) -> Attribution:
    """The gradient times the embedding, summed over its width: the slope against nothing.

    Args:
        writer: The model.
        subject: The text and its targets.
        progress: Called when the pass is done.

    Returns:
        Signed nats, which don't add up to the score.
    """
    return _one_pass(writer, subject, GRADIENT_X_INPUT, progress)


def baseline_agreement(
    writer: LoadedModel,
    subject: Subject,
    attribution: Attribution,
    *,
    steps: int | None = None,
    tolerance: float = 0.01,
    most_steps: int | None = None,
    progress: CountCallback | None = None,
) -> dict[str, float]:
    """Whether another baseline would have ranked the tokens alike.

    Args:
        writer: The model of the attribution.
        subject: Its subject.
        attribution: Integrated gradients against one baseline.
        steps: As for :func:`integrated_gradients`.
        tolerance: As there.
        most_steps: As there.
        progress: As there.

    Returns:
        For every other baseline Spearman's rank correlation of the signed scores, the mean over
        targets that converged from both; the start token does not count, and targets with fewer
        than two tokens after it neither. Nothing for a baseline that no target can be compared on.
    """
    result = {}
    for kind in BASELINES:
        if kind == attribution.settings.get("baseline"):
            continue
        other = integrated_gradients(
            writer,
            subject,
            baseline=kind,
            steps=steps,
            tolerance=tolerance,
            most_steps=most_steps,
            progress=progress,
        )
        found = [
            rank_correlation(
                attribution.scores[row, 1 : target.position],
                other.scores[row, 1 : target.position],
            )
            for row, target in enumerate(subject.targets)
            if target.position > 2
            and attribution.per_target[row]["converged"]
            and other.per_target[row]["converged"]
        ]
        numbers = [value for value in found if not np.isnan(value)]
        if numbers:
            result[kind] = float(np.mean(numbers))
    return result


def _report(integral: Integral) -> dict[str, Any]:
    """What belongs to one target alone."""
    change = integral.last - integral.first
    return {
        "convergence_delta": integral.delta,
        "relative_delta": abs(integral.delta / change) if change else None,
        "path_delta": integral.on_the_way,
        "converged": integral.converged,
        "steps": integral.steps,
        "score": integral.last,
        "baseline_score": integral.first,
    }


def _one_pass(
    writer: LoadedModel, subject: Subject, kind: Score, progress: CountCallback | None
) -> Attribution:
    """Saliency or gradient x input, from the gradients of one pass."""
    targets = subject.targets
    passes = Path(writer, subject, "zero")
    scores, values = np.zeros((len(targets), subject.length)), np.zeros(len(targets))
    with frozen(writer), whole_gelu(writer):
        for group in groups(targets, range(len(targets))):
            rows = passes.text[:, : targets[group[-1]].position]
            found = target_gradients(writer, rows, [targets[index] for index in group])
            for index, (score, gradient) in zip(group, found, strict=True):
                if kind is SALIENCY:
                    sizes = torch.linalg.vector_norm(gradient[0], dim=-1)
                else:
                    sizes = (gradient[0] * rows[0]).sum(-1)
                scores[index, : len(sizes)] = sizes.cpu().double().numpy()
                values[index] = score.item()
    if progress is not None:
        progress(1, 1)
    return kind.attribution(scores, {"passes": 1}, [{"score": float(value)} for value in values])


def compute(analysis: Analysis) -> None:
    """Integrated gradients with their agreement over baselines, and the two one-pass scores."""
    settings, subject, fp32 = analysis.settings, analysis.subject, analysis.fp32

    def add_all(model: str) -> Attribution:
        with analysis.model(model):
            found = integrated_gradients(
                fp32, subject, baseline=settings.baseline, steps=settings.steps,
                progress=analysis.progress("integrated gradients", model),
            )  # fmt: skip
            analysis.add(found, model)
            analysis.add(gradient_x_input(fp32, subject), model)
            analysis.add(saliency(fp32, subject), model)
        return found

    main = add_all("tuned")
    part: dict[str, Any] = {
        "signed": main.scores[0].tolist(),
        "baseline": settings.baseline,
        **main.per_target[0],
    }
    failed = sum(not target["converged"] for target in main.per_target)
    if failed:
        analysis.warn(
            f"integrated gradients did not converge for {failed} of {len(main.per_target)} tokens; "
            "they are marked"
        )
    most = path.most_steps(subject.targets, AGREEMENT_REACH)
    if most >= AGREEMENT_STEPS:
        part["baseline_agreement"] = baseline_agreement(
            fp32, subject, main, steps=settings.steps, most_steps=most,
            progress=analysis.progress("other baselines"),
        )  # fmt: skip
    analysis.record["gradients"] = part
    if "base" in analysis.models:
        add_all("base")


def _facts(record: Mapping[str, Any]) -> str:
    """Baseline, steps and convergence of the first target."""
    found = record["gradients"]
    parts = ["integrated gradients"]
    if found.get("baseline"):
        parts.append(f"baseline {str(found['baseline']).replace('_', ' ')}")
    if found.get("steps"):
        parts.append(f"{found['steps']} steps")
    if found.get("convergence_delta") is not None:
        verdict = "converged" if found.get("converged") else "NOT CONVERGED"
        delta = f"{found['convergence_delta']:.2g}".replace("-", "−")
        parts.append(f"{verdict}: parts and whole differ by {delta} nats")
    return " · ".join(parts)


INTEGRATED_GRADIENTS = Score(
    "integrated_gradients", "integrated gradients",
    "What each word adds to the log-probability of the chosen one, along the way from a text "
    "without content (the baseline) to this one. The parts sum to the whole.",
    summary="by integrated gradients", axis="part of the {score}, nats", facts=_facts,
    record_key="gradient_scores",
)  # fmt: skip
GRADIENT_X_INPUT = Score(
    "gradient_x_input", "gradient × input",
    "The gradient of the log-probability times the word's embedding: quick, and right only close "
    "to where the model stands.",
)  # fmt: skip
SALIENCY = Score(
    "saliency", "saliency",
    "How strongly the log-probability reacts to the word's embedding; a size without a direction.",
    signed=False, unit="nats per unit of length", axis="gradient norm of the {score}",
)  # fmt: skip
METHOD = Method(
    name="gradients",
    title="gradients",
    description="What each token adds to the score of the target, from the model's gradients.",
    compute=compute,
    scores=(INTEGRATED_GRADIENTS, GRADIENT_X_INPUT, SALIENCY),
    figures=(
        Figure("bars", "gradients", ("integrated_gradients",)),
        Figure("matrix", "integrated_gradients_matrix", ("integrated_gradients",)),
    ),
)
