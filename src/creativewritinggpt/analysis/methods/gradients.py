"""Attribution by gradients: integrated gradients, saliency, and gradient x input.

Integrated gradients (Sundararajan, Taly and Yan 2017) integrate the gradient of a target's score
along the straight path from a baseline to the text; the parts sum to the difference of the two
scores, and the convergence delta says by how much they don't. Saliency and gradient x input need a
single pass, and add up to nothing.

One forward pass serves all targets, since a causal model computes the same states for the first
tokens whatever follows; each target has a backward pass of its own. Targets far apart are taken in
groups, so that an early one does not pay for the length of the last.

Another baseline is another question, and none is right for all: there are three, and how far their
rankings agree is reported for short texts. The start token is the same in each, since attention
rests on it and no text lacks it; a token that equals the baseline gets 0 by construction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...console import CountCallback
from ...errors import InputError
from ...models.loaded_model import LoadedModel
from ..forward import (
    check_finite,
    embeddings,
    frozen,
    fused_gelu,
    in_batches,
    micro_batch,
    target_gradients,
    target_scores,
)
from ..registry import Analysis, Attribution, Figure, Method, Score
from ..subject import Subject, Target
from .quadrature import Integral, integrate

# Integrated gradients are repeated from the other baselines where so many tokens, forward and back,
# allow the steps that settle most scores: for one target up to 20 tokens of text.
AGREEMENT_REACH = 12_000
AGREEMENT_STEPS = 300
# Steps at most, whatever the text; of trained models nearly every score is settled before that.
_MOST_STEPS = 512
# Steps that the longest explanation still gets.
_FEWEST_STEPS = 64
# Tokens, forward and back, that all steps may read together: some three minutes of a processor with
# two cores and a model like the starter.
_REACH = 100_000
BASELINES = ("end_of_text", "mean", "zero")
# Embeddings summed at once for their mean.
_CHUNK = 8192


def integrated_gradients(
    model: LoadedModel,
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
        model: The model; its adapter works unless this is called within ``model.base()``.
        subject: The text and its targets.
        baseline: ``end_of_text``, ``mean`` or ``zero``; the start token stands before each, so that
            it has 0 by construction, as has every token that equals the baseline.
        steps: A fixed number of Gauss-Legendre steps; without it as many as each target needs.
        tolerance: Of the difference of scores, how much the parts may miss in sum.
        most_steps: Steps after which a target is flagged as not converged; without it up to 512,
            fewer where each takes long (:func:`step_limit`).
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
    passes = Path(model, subject, baseline, progress)
    if most_steps is None:
        most_steps = step_limit(subject.targets)
    with frozen(model), fused_gelu(model):
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


def saliency(model: LoadedModel, subject: Subject) -> Attribution:
    """How fast the scores change with each embedding: the length of the gradient.

    Args:
        model: The model.
        subject: The text and its targets.

    Returns:
        Unsigned, in nats per unit of embedding length.
    """
    return _one_pass(model, subject, SALIENCY)


def gradient_x_input(model: LoadedModel, subject: Subject) -> Attribution:
    """The gradient times the embedding, summed over its width: the slope against nothing.

    Args:
        model: The model.
        subject: The text and its targets.

    Returns:
        Signed nats, which don't add up to the score.
    """
    return _one_pass(model, subject, GRADIENT_X_INPUT)


def baseline_agreement(
    model: LoadedModel,
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
        model: The model of the attribution.
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
            model,
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


def _one_pass(model: LoadedModel, subject: Subject, kind: Score) -> Attribution:
    """Saliency or gradient x input, from the gradients of one pass."""
    targets = subject.targets
    passes = Path(model, subject, "zero")
    scores, values = np.zeros((len(targets), subject.length)), np.zeros(len(targets))
    with frozen(model), fused_gelu(model):
        for group in groups(targets, range(len(targets))):
            rows = passes.text[:, : targets[group[-1]].position]
            found = target_gradients(model, rows, [targets[index] for index in group])
            for index, (score, gradient) in zip(group, found, strict=True):
                if kind is SALIENCY:
                    sizes = torch.linalg.vector_norm(gradient[0], dim=-1)
                else:
                    sizes = (gradient[0] * rows[0]).sum(-1)
                scores[index, : len(sizes)] = sizes.cpu().double().numpy()
                values[index] = score.item()
    return kind.attribution(scores, {"passes": 1}, [{"score": float(value)} for value in values])


class Path:
    """Scores and slopes at points of the path, as ``quadrature.integrate`` asks for them.

    Args:
        model: The model.
        subject: The text and its targets.
        baseline: Where the path begins, see ``baselines``.
        progress: Called with the points done and those planned so far; plans grow.

    Raises:
        InputError: No such baseline, or no targets.
    """

    def __init__(
        self,
        model: LoadedModel,
        subject: Subject,
        baseline: str,
        progress: CountCallback | None = None,
    ) -> None:
        if not subject.targets:
            raise InputError("there is no token to explain", "name one that is in the text")
        self.model, self.targets, self.progress = model, subject.targets, progress
        ids = torch.tensor([subject.ids], device=model.device.torch_device)
        self.text = embeddings(model, ids)  # [1, tokens, width]
        self.baseline = baseline_text(model, ids, baseline)
        self.direction = self.text - self.baseline
        self.done = 0

    def equal_to_baseline(self) -> list[int]:
        """Positions after the start token whose token equals the baseline."""
        same = (self.direction[0] == 0).all(-1).nonzero().flatten().tolist()
        return [position for position in same if position]

    def scores(self, points: np.ndarray) -> np.ndarray:
        """Scores of all targets, ``[points, targets]`` float64.

        Args:
            points: Where, 0 (the baseline) … 1 (the text).
        """
        last = max(target.position for target in self.targets)

        def work(start: int, stop: int) -> Tensor:
            with torch.no_grad():
                rows = self._rows(points[start:stop], last)
                return target_scores(self.model, rows, self.targets)

        size = micro_batch(self.model, last, gradients=False)
        found = torch.cat(in_batches(len(points), size, work))
        check_finite(found)
        return found.cpu().double().numpy()

    def slopes(self, points: np.ndarray, wanted: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Scores and slopes of some targets.

        Args:
            points: Where.
            wanted: Which targets, in order.

        Returns:
            ``[points, wanted]`` and ``[points, wanted, tokens]``, float64.
        """
        scores = np.zeros((len(points), len(wanted)))
        slopes = np.zeros((len(points), len(wanted), self.text.shape[1]))
        row, together = 0, groups(self.targets, wanted)
        for number, group in enumerate(together):
            self._group(points, group, scores[:, row:], slopes[:, row:])
            row += len(group)
            if self.progress is not None and number + 1 < len(together):
                done = len(points) * (number + 1) // len(together)
                self.progress(self.done + done, self.done + len(points))
        self.done += len(points)
        if self.progress is not None:
            self.progress(self.done, self.done)
        return scores, slopes

    def _group(
        self, points: np.ndarray, group: list[int], scores: np.ndarray, slopes: np.ndarray
    ) -> None:
        """Fill the first columns of scores and slopes with those of a group."""
        targets = [self.targets[index] for index in group]
        last = targets[-1].position

        def work(start: int, stop: int) -> None:
            rows = self._rows(points[start:stop], last)
            for column, (score, gradient) in enumerate(target_gradients(self.model, rows, targets)):
                scores[start:stop, column] = score.cpu().double().numpy()
                slope = (gradient * self.direction[:, :last]).sum(-1)
                slopes[start:stop, column, :last] = slope.cpu().double().numpy()

        in_batches(len(points), micro_batch(self.model, last, gradients=True), work)

    def _rows(self, points: np.ndarray, last: int) -> Tensor:
        """Embeddings at points of the path, ``[points, last, width]``."""
        part = torch.tensor(points, dtype=self.text.dtype, device=self.text.device)
        return self.baseline[:, :last] + part[:, None, None] * self.direction[:, :last]


def groups(targets: Sequence[Target], wanted: Sequence[int]) -> list[list[int]]:
    """Neighbouring targets that share a forward pass, in as many groups as cost least.

    A forward pass costs about as much a token as a backward pass; each group has one forward pass
    and a backward pass for each target, all of the length of its last target.

    Args:
        targets: In the order of their positions.
        wanted: Which of them to group, in that order.

    Returns:
        The wanted ones, in groups.
    """
    every = list(wanted)
    best: list[list[int]] = [every]
    cheapest = _cost(targets, best) if every else 0
    for count in range(2, len(every) + 1):
        edges = [round(part * len(every) / count) for part in range(count + 1)]
        cut = [every[low:high] for low, high in zip(edges, edges[1:], strict=False)]
        cost = _cost(targets, cut)
        if cost < cheapest:
            best, cheapest = cut, cost
    return best


def step_limit(targets: Sequence[Target], reach: int = _REACH) -> int:
    """How many steps these targets are worth at most: fewer where each takes long.

    Args:
        targets: In the order of their positions.
        reach: Tokens, forward and back, that all steps may read together.
    """
    cost = _cost(targets, groups(targets, range(len(targets))))
    return min(_MOST_STEPS, max(_FEWEST_STEPS, reach // cost))


def _cost(targets: Sequence[Target], cut: Sequence[Sequence[int]]) -> int:
    """Tokens that one step reads, forward and back."""
    return sum((len(part) + 1) * targets[part[-1]].position for part in cut)


def check_baseline(kind: str) -> None:
    """Refuse a baseline that does not exist.

    Raises:
        InputError: There is no such baseline.
    """
    if kind not in BASELINES:
        raise InputError(f"there is no baseline '{kind}'", f"choose one of {', '.join(BASELINES)}")


def baseline_embedding(model: LoadedModel, kind: str) -> Tensor:
    """The embedding that stands at every position of the baseline.

    Args:
        model: The model.
        kind: ``end_of_text`` (the token that ends a text), ``mean`` (of all tokens) or ``zero``.

    Returns:
        ``[width]``.

    Raises:
        InputError: There is no such baseline.
    """
    check_baseline(kind)
    device = model.device.torch_device
    end = embeddings(model, torch.tensor([model.eos_id], device=device))[0]
    if kind == "zero":
        return torch.zeros_like(end)
    if kind == "mean":
        rows = int(model.bare.get_input_embeddings().weight.shape[0])
        total = torch.zeros_like(end)
        for ids in torch.split(torch.arange(rows, device=device), _CHUNK):
            total += embeddings(model, ids).sum(0)
        return total / rows
    return end


def baseline_text(model: LoadedModel, ids: Tensor, kind: str) -> Tensor:
    """The baseline of a text: the start token, and what says nothing at every other position.

    Args:
        model: The model.
        ids: ``[rows, tokens]``, the start token first.
        kind: As for :func:`baseline_embedding`.

    Returns:
        ``[rows, tokens, width]``.
    """
    start = embeddings(model, ids[:, :1])
    rest = baseline_embedding(model, kind).expand(len(ids), ids.shape[1] - 1, -1)
    return torch.cat([start, rest], 1)


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation of two vectors, ties at their mean rank.

    Returns:
        -1…1; nan where a vector has fewer than two different values.
    """
    ranks = [_ranks(np.asarray(values, dtype=np.float64)) for values in (first, second)]
    a, b = (rank - rank.mean() for rank in ranks)
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else float("nan")


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0 on; equal values share their mean rank."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    result: np.ndarray = (last - (counts + 1) / 2)[group]
    return result


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
    most = step_limit(subject.targets, AGREEMENT_REACH)
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
