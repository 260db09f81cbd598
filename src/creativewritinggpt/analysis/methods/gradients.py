"""Attribution by gradients: integrated gradients, saliency, and gradient x input.

Integrated gradients (Sundararajan, Taly and Yan 2017) integrate the gradient of a target's score
along the straight path from a baseline to the text; the parts sum to the difference of the two
scores, and the convergence delta says by how much they don't. Saliency and gradient x input need a
single pass, and add up to nothing.

The integrand is the slope of a score along the path, split by token. The score itself comes with
every slope at no cost, and says what the slopes must add up to between any two steps and not only
at the end: an integral that is right by luck is told from one that is right. A smooth path (GPT-2
with few layers, random weights) converges with 12 Gauss-Legendre nodes. In trained models of many
layers the score jumps along the path, and any fixed number of nodes is off by more than the whole;
then the path is cut into panels, each with Boole's rule, and those whose slopes don't account for
the score's change are halved, every node being reused. Trade-off: the first 12 nodes are lost where
they don't suffice.

One forward pass serves all targets, since a causal model computes the same states for the first
tokens whatever follows; each target has a backward pass of its own. Targets far apart are taken in
groups, so that an early one does not pay for the length of the last.

Another baseline is another question, and none is right for all: there are three, and how far their
rankings agree is reported for short texts. The start token is the same in each, since attention
rests on it and no text lacks it; a token that equals the baseline gets 0 by construction.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...console import CountCallback
from ...errors import InputError
from ...models.loaded_model import LoadedModel
from ..forward import (
    BASELINES,
    baseline_text,
    check_finite,
    embeddings,
    frozen,
    fused_gelu,
    groups,
    in_batches,
    micro_batch,
    pass_cost,
    target_gradients,
    target_scores,
)
from ..registry import Analysis, Attribution, Figure, Method, Score
from ..subject import Subject, Target

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
# An integral counts as right when it misses the score's change by no more than this, in nats.
SMALLEST_TOLERANCE = 1e-3
# How much more than at the end it may miss along the way, where errors cancel.
_ON_THE_WAY = 5.0
_FIRST = 12
_PANELS = 4
# With fewer steps all in one Gauss-Legendre rule come nearer than panels.
_WORTH_PANELS = 96
# Boole's rule (Newton and Cotes with five points), whose points all serve the halves again.
_BOOLE = np.array([7.0, 32.0, 12.0, 32.0, 7.0]) / 90.0
# Panels within this factor of the worst are halved together, so that batches are full.
_TOGETHER = 8.0


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
        missed along the way), ``converged``, ``steps``, ``score`` and ``baseline_score``.

    Raises:
        InputError: No such baseline, or no targets, or a number of steps below 1.
        RunError: The model gives no numbers, or memory does not suffice for one pass.
    """
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
    same = (passes.direction[0] == 0).all(-1).nonzero().flatten().tolist()
    settings: dict[str, Any] = {
        "baseline": baseline,
        "steps": steps,
        "rule": "adaptive" if steps is None else "gauss_legendre",
        "tolerance": tolerance,
        "most_steps": most_steps,
        "tokens_equal_to_baseline": [place for place in same if place],
    }
    return INTEGRATED_GRADIENTS.attribution(
        np.stack([integral.parts for integral in integrals]),
        settings,
        [integral.to_dict() for integral in integrals],
    )


def baseline_agreement(
    model: LoadedModel, subject: Subject, attribution: Attribution, **options: Any
) -> dict[str, float]:
    """Whether another baseline would have ranked the tokens alike.

    Args:
        model: The model of the attribution.
        subject: Its subject.
        attribution: Integrated gradients against one baseline.
        **options: Of :func:`integrated_gradients`.

    Returns:
        For every other baseline Spearman's rank correlation of the signed scores, the mean over
        targets that converged from both; the start token does not count, and targets with fewer
        than two tokens after it neither. Nothing for a baseline that no target can be compared on.
    """
    result = {}
    for kind in BASELINES:
        if kind == attribution.settings.get("baseline"):
            continue
        other = integrated_gradients(model, subject, baseline=kind, **options)
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


def one_pass(model: LoadedModel, subject: Subject) -> tuple[Attribution, Attribution]:
    """Gradient x input and saliency, from the gradients of one pass.

    Args:
        model: The model.
        subject: The text and its targets.

    Returns:
        The gradient times the embedding, summed over its width: signed nats, which don't add up to
        the score; and the length of the gradient, in nats per unit of embedding length.
    """
    targets = subject.targets
    text = Path(model, subject, "zero").text
    products, lengths = np.zeros((2, len(targets), subject.length))
    values: list[dict[str, Any]] = []
    with frozen(model), fused_gelu(model):
        for group in groups(targets, range(len(targets))):
            rows = text[:, : targets[group[-1]].position]
            found = target_gradients(model, rows, [targets[index] for index in group])
            for index, (score, gradient) in zip(group, found, strict=True):
                last = rows.shape[1]
                product = (gradient[0] * rows[0]).sum(-1)
                products[index, :last] = product.cpu().double().numpy()
                length = torch.linalg.vector_norm(gradient[0], dim=-1)
                lengths[index, :last] = length.cpu().double().numpy()
                values.append({"score": score.item()})
    return (
        GRADIENT_X_INPUT.attribution(products, {"passes": 1}, values),
        SALIENCY.attribution(lengths, {"passes": 1}, values),
    )


class Path:
    """Scores and slopes at points of the path, as :func:`integrate` asks for them.

    Args:
        model: The model.
        subject: The text and its targets.
        baseline: Where the path begins, see ``forward.baseline_text``.
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


@dataclasses.dataclass(frozen=True)
class Integral:
    """The integral of one target's slopes over the path.

    Attributes:
        parts: By token, ``[tokens]``; their sum is what the score should have changed by.
        first: The score at the baseline.
        last: The score of the text.
        steps: How many slopes were computed for it.
        on_the_way: By how much the slopes miss the score along the path: the largest miss up to any
            step, or the sum of the panels' absolute misses.
        converged: Whether both are within the tolerance.
    """

    parts: np.ndarray
    first: float
    last: float
    steps: int
    on_the_way: float
    converged: bool

    @property
    def delta(self) -> float:
        """What the parts sum to beyond the change of the score: the convergence delta."""
        return float(self.parts.sum() - (self.last - self.first))

    def to_dict(self) -> dict[str, Any]:
        """What belongs to one target alone."""
        change = self.last - self.first
        return {
            "convergence_delta": self.delta,
            "relative_delta": abs(self.delta / change) if change else None,
            "path_delta": self.on_the_way,
            "converged": self.converged,
            "steps": self.steps,
            "score": self.last,
            "baseline_score": self.first,
        }


def integrate(
    path: Any, targets: int, *, steps: int | None, tolerance: float, most: int
) -> list[Integral]:
    """Integrate the slopes of every target over the path 0…1.

    Args:
        path: A :class:`Path`, or what has its ``scores`` and ``slopes``.
        targets: How many there are; they share their steps until each has enough.
        steps: A fixed number of Gauss-Legendre nodes; without it as many as each target needs.
        tolerance: Of the change of the score, how much the integral may miss.
        most: Steps after which a target is left as it is and flagged.

    Returns:
        One integral for each target.
    """
    everyone = list(range(targets))
    ends = path.scores(np.array([0.0, 1.0]))
    allowed = np.maximum(tolerance * np.abs(ends[1] - ends[0]), SMALLEST_TOLERANCE)
    nodes = steps if steps is not None else min(_FIRST, most)
    results = _by_gauss(path, everyone, ends, allowed, nodes)
    rough = [index for index in everyone if not results[index].converged]
    if steps is None and rough and most >= 2 * nodes:
        if most < _WORTH_PANELS:
            more = _by_gauss(path, rough, ends, allowed, most - nodes, spent=nodes)
        else:
            more = _by_panels(path, rough, ends, allowed, most, nodes)
        for index, result in more.items():
            # At the cap the better of the two stays.
            if result.converged or abs(result.delta) <= abs(results[index].delta):
                results[index] = result
    return [results[index] for index in everyone]


def gauss_legendre(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Points in 0…1 and their weights, which sum to 1."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    return (points + 1) / 2, weights / 2


def _by_gauss(
    path: Any, wanted: list[int], ends: np.ndarray, allowed: np.ndarray, nodes: int, spent: int = 0
) -> dict[int, Integral]:
    """Some targets with the same fixed nodes."""
    points, weights = gauss_legendre(nodes)
    scores, slopes = path.slopes(points, wanted)
    parts = np.einsum("k,ktn->tn", weights, slopes)
    running = ends[0, wanted] + running_integrals(points, weights, slopes.sum(-1))
    misses = np.abs(running - scores).max(0)
    results = {}
    for row, index in enumerate(wanted):
        first, last, bound = float(ends[0, index]), float(ends[1, index]), allowed[index]
        delta = float(parts[row].sum() - (last - first))
        good = bool(abs(delta) <= bound and misses[row] <= _ON_THE_WAY * bound)
        steps = spent + nodes
        results[index] = Integral(parts[row], first, last, steps, float(misses[row]), good)
    return results


def running_integrals(points: np.ndarray, weights: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """Integrals from 0 up to each Gauss-Legendre point of the polynomial through the slopes.

    Args:
        points: ``[points]`` in 0…1.
        weights: Theirs, ``[points]``.
        slopes: ``[points, targets]``.

    Returns:
        ``[points, targets]``.
    """
    legendre = np.polynomial.legendre
    place = 2 * points - 1
    basis = legendre.legvander(place, len(points) - 1)  # [points, degree]
    norms = 2 * np.arange(len(points)) + 1
    coefficients = norms[:, None] * (basis.T @ (weights[:, None] * slopes))
    integral = legendre.legint(coefficients, lbnd=-1, axis=0) / 2
    result: np.ndarray = legendre.legvander(place, len(points)) @ integral
    return result


def _by_panels(
    path: Any, active: list[int], ends: np.ndarray, allowed: np.ndarray, most: int, spent: int
) -> dict[int, Integral]:
    """Halve panels until each target's slopes account for its score, or ``most`` is reached."""
    results: dict[int, Integral] = {}
    scores: dict[float, np.ndarray] = {}  # by point, [targets]
    slopes: dict[float, np.ndarray] = {}  # by point, [targets, tokens]
    panels = [(index / _PANELS, (index + 1) / _PANELS) for index in range(_PANELS)]
    while active:
        points = sorted({point for panel in panels for point in _points(*panel)} - set(scores))
        found = path.slopes(np.array(points), active)
        scores |= dict(zip(points, found[0], strict=True))
        slopes |= dict(zip(points, found[1], strict=True))
        spent += len(points)
        # [panels, targets]: what each panel's slopes miss of the change of the score over it.
        misses = np.stack([
            _boole(low, high, [slopes[point].sum(-1) for point in _points(low, high)])
            - (scores[high] - scores[low])
            for low, high in panels
        ])  # fmt: skip
        bound = allowed[active]
        missed = np.abs(misses).sum(0)
        good = (np.abs(misses.sum(0)) <= bound) & (missed <= _ON_THE_WAY * bound)
        # The worst panels are halved, and those not far from them, while there is room.
        worst = (np.abs(misses) / bound)[:, ~good].max(1, initial=0.0)
        order = np.argsort(-worst, kind="stable")[: max((most - spent) // 4, 0)]
        bar = worst.max(initial=0.0) / _TOGETHER
        # Where the score jumps (other experts are asked), halving would never end.
        halved = [
            panels[index]
            for index in order
            if worst[index] > bar and _can_be_halved(*panels[index])
        ]
        for row, index in enumerate(active):
            if good[row] or not halved:
                parts = sum(
                    _boole(*panel, [slopes[point][row] for point in _points(*panel)])
                    for panel in panels
                )
                first, last = float(ends[0, index]), float(ends[1, index])
                results[index] = Integral(
                    np.asarray(parts), first, last, spent, float(missed[row]), bool(good[row])
                )
        left = [row for row in range(len(active)) if not good[row]] if halved else []
        scores = {point: values[left] for point, values in scores.items()}
        slopes = {point: values[left] for point, values in slopes.items()}
        active = [active[row] for row in left]
        panels = [panel for panel in panels if panel not in halved] + [
            half
            for low, high in halved
            for half in ((low, (low + high) / 2), ((low + high) / 2, high))
        ]
    return results


def _points(low: float, high: float) -> list[float]:
    """The five points of a panel: binary fractions, so that halves find them again exactly."""
    return [low + (high - low) * part / 4 for part in range(5)]


def _can_be_halved(low: float, high: float) -> bool:
    """Whether the points of its halves are numbers of their own."""
    return low < low + (high - low) / 8 and high - (high - low) / 8 < high


def _boole(low: float, high: float, values: list[np.ndarray]) -> np.ndarray:
    """The integral over a panel of what has these values at its points."""
    result: np.ndarray = (high - low) * (_BOOLE @ np.stack(values))
    return result


def step_limit(targets: Sequence[Target], reach: int = _REACH) -> int:
    """How many steps these targets are worth at most: fewer where each takes long.

    Args:
        targets: In the order of their positions.
        reach: Tokens, forward and back, that all steps may read together.
    """
    cost = pass_cost(targets, groups(targets, range(len(targets))))
    return min(_MOST_STEPS, max(_FEWEST_STEPS, reach // cost))


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation of two vectors, ties at their mean rank.

    Returns:
        -1…1; nan where a vector has fewer than two different values.
    """
    ranks = []
    for values in (first, second):
        _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts + 1) / 2)[group])
    a, b = (rank - rank.mean() for rank in ranks)
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else float("nan")


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
            for one in one_pass(fp32, subject):
                analysis.add(one, model)
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
