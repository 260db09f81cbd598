"""Random replacement: how the predictions move when a token is another one.

Each token is replaced by random others, and the divergence of the predictions that follow is
averaged::

    D[i, j] = mean over r of KL( p(·|x up to j) ‖ p(·|x up to j, with r at i) ),  j ≥ i, in nats

It says how much the predictions after j depend on the token at i, not in which direction; the
change of a target's log-probability has a sign, and how often the likeliest token changes is a
rate. All are means over the samples, never sums over positions: a token can only move what comes
after it, so that a sum would favour the early ones. Being random they come with standard errors,
and being computed in finite precision with a noise floor: what the same path makes of a replacement
of each token by itself. The start token is not replaced, for it is no part of the text.

The cost is a pass over the rest of the text for each token and sample (see :mod:`.suffixes`). Where
the processor is faster in a rougher format all samples are computed in that, and some of them
exactly, which corrects the means (see :mod:`.sampled`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...console import CountCallback
from ...errors import InputError
from ...models.loaded_model import LoadedModel
from ..registry import Attribution, Figure, Method, Score
from ..runtime.changes import Predictions
from ..runtime.prefix_cache import Reading
from ..subject import Subject, with_targets
from .replacements import check_law, draws
from .rough import rough_kind
from .sampled import Sampled

if TYPE_CHECKING:
    from ..run import Analysis

# Up to so many tokens the influence of each on every later position is computed, too.
MOST_WITH_INFLUENCE = 64
# Of each token at least so many samples are exact; fewer are not worth a second pass.
_FEWEST_EXACT = 4
_EXACT_SHARE = 12


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """What random replacements do to the predictions of a text.

    All arrays are float64 and 0 where a token comes too late to matter, and for the start token.

    Attributes:
        kl: ``[targets, tokens]``, KL(original‖perturbed) of the prediction of each target, mean
            over the samples, nats.
        kl_se: Its standard error.
        js: ``[targets, tokens]``, Jensen–Shannon divergence, nats, at most log 2.
        change: ``[targets, tokens]``, score of the target in the original - in the perturbed text;
            the score is the log-probability, or the logit difference to a foil. Positive where the
            token supports the target.
        change_se: Its standard error.
        flip_rate: ``[targets, tokens]``, how often the likeliest token is another one.
        noise_floor: The largest KL that comes out where nothing was replaced, nats.
        settings: Law, samples (and how many of them were exact), seed, positions, precision.
        influence: ``[tokens, tokens]``, D[i, j]: KL of the prediction after j when the token at i
            is replaced; only with ``positions="all"``.
        affected: ``[tokens]``, mean of D[i, j] over all j ≥ i; only with ``positions="all"``.
        affected_se: Its standard error.
    """

    kl: np.ndarray
    kl_se: np.ndarray
    js: np.ndarray
    change: np.ndarray
    change_se: np.ndarray
    flip_rate: np.ndarray
    noise_floor: float
    settings: dict[str, Any]
    influence: np.ndarray | None = None
    affected: np.ndarray | None = None
    affected_se: np.ndarray | None = None

    def kl_attribution(self) -> Attribution:
        """The divergences as an attribution without a sign: a mean below 0 counts as 0."""
        per_target = [
            {"noise_floor": self.noise_floor, "flip_rate": rates.tolist(), "js_nats": js.tolist()}
            for rates, js in zip(self.flip_rate, self.js, strict=True)
        ]
        return KL.attribution(self.kl.clip(min=0.0), dict(self.settings), per_target, self.kl_se)

    def change_attribution(self) -> Attribution:
        """The changes of the targets' scores as an attribution with a sign."""
        return PROBABILITY_CHANGE.attribution(
            self.change, dict(self.settings), standard_error=self.change_se
        )

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: the settings, and the numbers of the first target."""
        record: dict[str, Any] = {
            **self.settings,
            "noise_floor": self.noise_floor,
            "kl_nats": self.kl[0].tolist(),
            "standard_error": self.kl_se[0].tolist(),
            "js_nats": self.js[0].tolist(),
            "flip_rate": self.flip_rate[0].tolist(),
        }
        if self.affected is not None and self.affected_se is not None:
            record["mean_over_positions"] = self.affected.tolist()
            record["mean_over_positions_standard_error"] = self.affected_se.tolist()
        return record


def perturb(
    writer: LoadedModel,
    subject: Subject,
    *,
    law: str = "unigram",
    samples: int = 20,
    seed: int = 0,
    positions: str = "targets",
    progress: CountCallback | None = None,
) -> Perturbation:
    """Replace each token by random others and see what becomes of the predictions.

    Args:
        writer: The model, in ``eval()`` mode; its adapter works unless this is called within
            ``writer.base()``.
        subject: The text with its targets.
        law: What the replacements are drawn from: ``unigram``, ``uniform`` or ``model``.
        samples: Replacements of each token, at least 2.
        seed: Of the random numbers.
        positions: ``targets``: the predictions of the targets; ``all``: those at every position,
            for the influence matrix.
        progress: Called with the tokens done and those to do.

    Raises:
        InputError: No such law or choice of positions, too few samples, no targets.
    """
    check_law(law)
    if samples < 2:
        raise InputError(f"the number of samples is {samples}", "it must be at least 2")
    if positions not in ("targets", "all"):
        raise InputError(f"positions is '{positions}'", "choose targets or all")
    subject = with_targets(subject, subject.targets)
    length, everywhere = subject.length, positions == "all"
    indices = sorted({target.position - 1 for target in subject.targets})
    if everywhere:
        indices = list(range(length))
    reading = Reading(writer, subject.ids, indices)
    replaced = np.arange(1, indices[-1] + 1)
    chosen = draws(law, writer, subject.ids, replaced.tolist(), samples=samples, seed=seed)
    exact = _exact_samples(writer, samples)
    settings = {
        "law": law,
        "samples": samples,
        "exact_samples": exact,
        "seed": seed,
        "positions": positions,
        "precision": writer.device.precision,
        "start_token": "not replaced",
    }
    if exact == samples:
        found = _measure(reading, subject, replaced, chosen, progress)
    else:
        first, second = _two_parts(progress, exact / samples)
        found = _measure(reading, subject, replaced, chosen[:, :exact], first)
        rough = Reading(writer, subject.ids, indices, rounded=True)
        found = _measure(rough, subject, replaced, chosen, second).corrected(found)
    result = _summary(found, subject, reading, replaced, settings)
    return _with_influence(result, found, length, replaced) if everywhere else result


def _exact_samples(writer: LoadedModel, samples: int) -> int:
    """How many samples of each token are computed exactly: all where nothing else is faster."""
    if not writer.device.approximate or rough_kind(writer) == "fp32":
        return samples
    some = max(_FEWEST_EXACT, samples // _EXACT_SHARE)
    return some if 2 * some <= samples else samples


def _two_parts(
    progress: CountCallback | None, share: float
) -> tuple[CountCallback | None, CountCallback | None]:
    """Progress of two pieces of work, one after the other, as one.

    Args:
        progress: Called with the tokens done and those to do of both.
        share: The first piece's tokens by the second's, about.
    """
    if progress is None:
        return None, None
    before = [0]

    def first(done: int, total: int) -> None:
        before[0] = total
        progress(done, total + round(total / share))

    def second(done: int, total: int) -> None:
        progress(before[0] + done, before[0] + total)

    return first, second


@dataclasses.dataclass
class _Measured:
    """The numbers of each replacement before they are averaged, ``[tokens, samples, …]``."""

    noise_floor: float
    kl: Sampled  # [tokens, samples, indices]
    js: Sampled  # [tokens, samples, indices], at the targets' indices only
    flips: Sampled  # [tokens, samples, indices]
    change: Sampled  # [tokens, samples, targets]

    def corrected(self, exact: _Measured) -> _Measured:
        """The same with the exact numbers of the first samples; what is left of noise is theirs."""
        names = ("kl", "js", "flips", "change")
        both = ((getattr(self, name).values, getattr(exact, name).values) for name in names)
        return _Measured(exact.noise_floor, *(Sampled(rough, some) for rough, some in both))


def _measure(
    reading: Reading,
    subject: Subject,
    replaced: np.ndarray,
    chosen: np.ndarray,
    progress: CountCallback | None,
) -> _Measured:
    """Run all variants; a replacement that was drawn twice is computed once.

    Args:
        reading: The text.
        subject: The same with its targets.
        replaced: Positions ``[tokens]``.
        chosen: Token ids ``[tokens, samples]``.
        progress: Called with the tokens done and those to do.
    """
    tokens, samples = chosen.shape
    pairs = np.stack([np.repeat(replaced, samples), chosen.ravel()], axis=1)
    unique, inverse = np.unique(pairs, axis=0, return_inverse=True)
    variants = np.tile(reading.ids, (len(unique), 1))
    variants[np.arange(len(unique)), unique[:, 0]] = unique[:, 1]
    predictions = Predictions(reading)
    places = {predictions.place(target) for target in subject.targets}
    shape = (len(unique), len(reading.indices))
    kl, js, flips = (np.zeros(shape, dtype=np.float32) for _ in range(3))
    change = np.zeros((len(unique), len(subject.targets)))
    noise = 0.0
    for part in reading.passes(variants, progress):
        found = predictions.divergences(part, js=places)
        noise = max(noise, found.noise)
        at = (part.rows, part.places)
        kl[at], js[at], flips[at] = found.kl, found.js, found.flips
        change[part.rows] = predictions.drops(part, subject.targets, found)
    every = inverse.reshape(tokens, samples)
    return _Measured(noise, *(Sampled(array[every]) for array in (kl, js, flips, change)))


def _summary(
    found: _Measured,
    subject: Subject,
    reading: Reading,
    replaced: np.ndarray,
    settings: dict[str, Any],
) -> Perturbation:
    """Means and standard errors for the targets."""
    wanted = np.searchsorted(reading.indices, [t.position - 1 for t in subject.targets])

    def spread(values: Sampled) -> tuple[np.ndarray, np.ndarray]:
        """``[tokens, samples, targets]`` as means and standard errors ``[targets, tokens]``."""
        means = np.zeros((len(subject.targets), subject.length))
        errors = np.zeros_like(means)
        means[:, replaced], errors[:, replaced] = values.mean().T, values.standard_error().T
        return means, errors

    def at_targets(values: Sampled) -> tuple[np.ndarray, np.ndarray]:
        return spread(values.map(lambda array: array[:, :, wanted]))

    kl, kl_se = at_targets(found.kl)
    change, change_se = spread(found.change)
    return Perturbation(
        kl=kl,
        kl_se=kl_se,
        js=at_targets(found.js)[0],
        change=change,
        change_se=change_se,
        flip_rate=at_targets(found.flips)[0].clip(0.0, 1.0),
        noise_floor=found.noise_floor,
        settings=settings,
    )


def _with_influence(
    result: Perturbation, found: _Measured, length: int, replaced: np.ndarray
) -> Perturbation:
    """The same with what each token does to every later prediction."""
    influence = np.zeros((length, length))
    influence[replaced] = found.kl.mean()
    affected, error = np.zeros(length), np.zeros(length)
    # Before the token itself everything is 0, so that the mean is the sum over what it can move.
    each = found.kl.map(lambda kl: kl.sum(2, dtype=np.float64) / (length - replaced)[:, None])
    affected[replaced], error[replaced] = each.mean(), each.standard_error()
    return dataclasses.replace(result, influence=influence, affected=affected, affected_se=error)


def compute(analysis: Analysis) -> None:
    """Random replacements: divergence, change of the target, influence of all on all."""
    settings, subject = analysis.settings, analysis.subject
    everywhere = subject.length <= MOST_WITH_INFLUENCE
    for model in analysis.models:
        with analysis.model(model):
            found = perturb(
                analysis.writer, subject, law=settings.law, samples=settings.samples,
                seed=settings.seed,
                positions="all" if model == "tuned" and everywhere else "targets",
                progress=analysis.progress("random replacements", model),
            )  # fmt: skip
        analysis.add(found.kl_attribution(), model)
        analysis.add(found.change_attribution(), model)
        if model == "tuned":
            analysis.record["perturbation"] = found.to_dict()
            if found.influence is not None:
                analysis.record["influence"] = found.influence.tolist()


def _facts(record: Mapping[str, Any]) -> str:
    """Replacement distribution, samples and noise floor."""
    found = record["perturbation"]
    parts = ["words replaced at random"]
    if found.get("law"):
        parts.append(f"law {found['law']}")
    if found.get("samples"):
        parts.append(f"{found['samples']} samples, bars ± 2 standard errors")
    if found.get("noise_floor") is not None:
        parts.append(f"noise floor {found['noise_floor']:.1e} nats")
    return " · ".join(parts)


KL = Score(
    "kl", "perturbation (KL)",
    "How far the model's expectation of the next word moves when the word is replaced by random "
    "others; a size without a direction.",
    signed=False, summary="by random replacement", axis="KL(original ‖ perturbed), nats",
    facts=_facts, record_key="perturbation_scores",
)  # fmt: skip
PROBABILITY_CHANGE = Score(
    "probability_change", "change in probability",
    "How much log-probability is lost, on average, when the word is replaced by random others.",
    axis="{score} lost, nats", facts=_facts,
)  # fmt: skip
METHOD = Method(
    name="perturbation",
    title="random replacement",
    description="How the predictions change when a token is replaced by random others.",
    compute=compute,
    scores=(KL, PROBABILITY_CHANGE),
    figures=(
        Figure("bars", "perturbation", ("kl", "probability_change")),
        Figure("matrix", "kl_matrix", ("kl",)),
    ),
)


def _plain(
    writer: LoadedModel, ids: Sequence[int], variant: Sequence[int]
) -> dict[str, np.ndarray]:
    """The plain twin of the fast path, for tests: two whole passes, all logits, no differences.

    Args:
        writer: The model.
        ids: The text.
        variant: The text with replacements.

    Returns:
        ``kl``, ``js`` and ``flips`` ``[tokens]``, and the log-probabilities ``[tokens,
        vocabulary]`` as ``original`` and ``variant``.
    """
    device = writer.device.torch_device
    with torch.no_grad():
        log_p, log_q = (
            torch.log_softmax(
                writer.model(input_ids=torch.tensor([list(row)], device=device)).logits[0].double(),
                -1,
            )
            for row in (ids, variant)
        )
    p, q = log_p.exp(), log_q.exp()
    log_m = ((p + q) / 2).log()
    js = ((p * (log_p - log_m)).sum(-1) + (q * (log_q - log_m)).sum(-1)) / 2
    return {
        "kl": (p * (log_p - log_q)).sum(-1).numpy(),
        "js": js.numpy(),
        "flips": (log_p.argmax(-1) != log_q.argmax(-1)).numpy(),
        "original": log_p.numpy(),
        "variant": log_q.numpy(),
    }
