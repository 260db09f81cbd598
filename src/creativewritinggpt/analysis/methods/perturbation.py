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

The cost is a pass over the rest of the text for each token and sample
(:mod:`..runtime.prefix_cache`).

**What a token is replaced with** decides what is measured. Any token of the vocabulary
(``uniform``, as the original program does) is mostly debris that no text contains, so that the
model meets what it was never trained on. Tokens by their frequency (``unigram``), with or without a
space before them as the one replaced, keep at least the look of a text; the frequencies are those
of the sample corpus that comes with the package, small and in English, so that rare words are never
drawn. What the model itself expects in that place (``model``; input marginalisation, Kim et al.
2020, arXiv 2010.13984) stays nearest to its training data, and needs one more pass. The token that
is replaced is never drawn, nor are special tokens: an end-of-text token in the middle resets the
context. One sequence of random numbers serves all positions, which lowers the variance of
differences between them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np
import torch

from ...console import CountCallback
from ...errors import InputError
from ...generation.text import encode, special_ids
from ...models.loaded_model import LoadedModel
from ...models.scoring import body_and_head
from ..prefix_cache import Predictions, PrefixCache
from ..registry import Analysis, Attribution, Figure, Method, Score
from ..subject import Subject, with_targets

# Up to so many tokens the influence of each on every later position is computed, too.
MOST_WITH_INFLUENCE = 64
DISTRIBUTIONS = ("uniform", "unigram", "model")
# What marks a leading space in the names of tokens: byte-level vocabularies, and SentencePiece's.
_SPACES = ("Ġ", "▁", " ")
# Positions whose distributions over the vocabulary exist at once.
_CHUNK = 64


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
        settings: Replacement distribution, samples, seed, positions, precision.
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
    model: LoadedModel,
    subject: Subject,
    *,
    distribution: str = "unigram",
    samples: int = 20,
    seed: int = 0,
    positions: str = "targets",
    progress: CountCallback | None = None,
) -> Perturbation:
    """Replace each token by random others and see what becomes of the predictions.

    Args:
        model: The model, in ``eval()`` mode; its adapter works unless this is called within
            ``model.base()``.
        subject: The text with its targets.
        distribution: What the replacements are drawn from: ``unigram``, ``uniform`` or ``model``.
        samples: Replacements of each token, at least 2.
        seed: Of the random numbers.
        positions: ``targets``: the predictions of the targets; ``all``: those at every position,
            for the influence matrix.
        progress: Called with the tokens done and those to do.

    Raises:
        InputError: No such distribution or choice of positions, too few samples, no targets.
    """
    check_distribution(distribution)
    if samples < 2:
        raise InputError(f"the number of samples is {samples}", "it must be at least 2")
    if positions not in ("targets", "all"):
        raise InputError(f"positions is '{positions}'", "choose targets or all")
    subject = with_targets(subject, subject.targets)
    length, everywhere = subject.length, positions == "all"
    indices = sorted({target.position - 1 for target in subject.targets})
    if everywhere:
        indices = list(range(length))
    cache = PrefixCache(model, subject.ids, indices)
    replaced = np.arange(1, indices[-1] + 1)
    chosen = draw_replacements(
        distribution, model, subject.ids, replaced.tolist(), samples=samples, seed=seed
    )
    settings = {
        "law": distribution,
        "samples": samples,
        "seed": seed,
        "positions": positions,
        "precision": model.device.precision,
        "start_token": "not replaced",
    }
    found, noise = _measure(cache, subject, replaced, chosen, progress)
    wanted = np.searchsorted(cache.indices, [target.position - 1 for target in subject.targets])
    at_targets = {name: found[name][:, :, wanted] for name in ("kl", "js", "flips")}

    def by_token(values: np.ndarray) -> np.ndarray:
        """``[tokens replaced, …]`` as ``[…, tokens]``, 0 for tokens that are not replaced."""
        result = np.zeros((length, *values.shape[1:]))
        result[replaced] = values
        return np.moveaxis(result, 0, -1)

    result = Perturbation(
        kl=by_token(_mean(at_targets["kl"])),
        kl_se=by_token(_standard_error(at_targets["kl"])),
        js=by_token(_mean(at_targets["js"])),
        change=by_token(_mean(found["change"])),
        change_se=by_token(_standard_error(found["change"])),
        flip_rate=by_token(_mean(at_targets["flips"])).clip(0.0, 1.0),
        noise_floor=noise,
        settings=settings,
    )
    if not everywhere:
        return result
    # Before the token itself everything is 0, so that the mean is the sum over what it can move.
    affected = found["kl"].sum(2, dtype=np.float64) / (length - replaced)[:, None]
    return dataclasses.replace(
        result,
        influence=by_token(_mean(found["kl"])).T,
        affected=by_token(_mean(affected)),
        affected_se=by_token(_standard_error(affected)),
    )


def _measure(
    cache: PrefixCache,
    subject: Subject,
    replaced: np.ndarray,
    chosen: np.ndarray,
    progress: CountCallback | None,
) -> tuple[dict[str, np.ndarray], float]:
    """Run all variants; a replacement that was drawn twice is computed once.

    Args:
        cache: The text.
        subject: The same with its targets.
        replaced: Positions ``[tokens]``.
        chosen: Token ids ``[tokens, samples]``.
        progress: Called with the tokens done and those to do.

    Returns:
        ``kl``, ``js`` (at the targets' indices only) and ``flips`` ``[tokens, samples, indices]``,
        ``change`` ``[tokens, samples, targets]``; and the noise floor.
    """
    tokens, samples = chosen.shape
    pairs = np.stack([np.repeat(replaced, samples), chosen.ravel()], axis=1)
    unique, inverse = np.unique(pairs, axis=0, return_inverse=True)
    variants = np.tile(cache.ids, (len(unique), 1))
    variants[np.arange(len(unique)), unique[:, 0]] = unique[:, 1]
    predictions = Predictions(cache)
    places = {predictions.place(target) for target in subject.targets}
    shape = (len(unique), len(cache.indices))
    kl, js, flips = (np.zeros(shape, dtype=np.float32) for _ in range(3))
    change = np.zeros((len(unique), len(subject.targets)))
    noise = 0.0
    for part in cache.passes(variants, progress):
        found = predictions.divergences(part, js=places)
        noise = max(noise, found.noise)
        at = (part.rows, part.places)
        kl[at], js[at], flips[at] = found.kl, found.js, found.flips
        change[part.rows] = predictions.drops(part, subject.targets, found)
    every = inverse.reshape(tokens, samples)
    arrays: dict[str, np.ndarray] = {"kl": kl, "js": js, "flips": flips, "change": change}
    return {name: array[every] for name, array in arrays.items()}, noise


def _mean(values: np.ndarray) -> np.ndarray:
    """Means over the samples: ``[tokens, …]`` float64 of ``[tokens, samples, …]``."""
    result: np.ndarray = values.astype(np.float64).mean(1)
    return result


def _standard_error(values: np.ndarray) -> np.ndarray:
    """Standard errors of those means."""
    variance = values.astype(np.float64).var(1, ddof=1)
    result: np.ndarray = np.sqrt(variance / values.shape[1])
    return result


def check_distribution(distribution: str) -> None:
    """Refuse a distribution that does not exist.

    Raises:
        InputError: There is no such distribution.
    """
    if distribution not in DISTRIBUTIONS:
        raise InputError(
            f"there is no replacement distribution '{distribution}'",
            f"choose one of {', '.join(DISTRIBUTIONS)}",
        )


def draw_replacements(
    distribution: str,
    model: LoadedModel,
    ids: Sequence[int],
    positions: Sequence[int],
    *,
    samples: int,
    seed: int,
) -> np.ndarray:
    """Replacements for the tokens at some positions.

    Args:
        distribution: ``uniform``, ``unigram`` or ``model``.
        model: The model with its tokenizer.
        ids: The text as the model reads it.
        positions: Which tokens to replace; not the first for the distribution ``model``.
        samples: How many replacements for each.
        seed: Of the random numbers.

    Returns:
        int64 ``[positions, samples]``: token ids, none equal to the one replaced, none a mark.

    Raises:
        InputError: There is no such distribution, or there is nothing to draw from.
    """
    check_distribution(distribution)
    generator = np.random.default_rng(seed)
    if distribution == "model":
        return _from_model(model, ids, positions, generator.random(samples))
    # More than needed, for what is drawn must differ from what is there.
    numbers = generator.random(2 * samples + 32)
    weights = np.zeros(_rows(model))
    if distribution == "uniform":
        weights[_texts(model)] = 1.0
    else:
        counts = unigrams(model.tokenizer)
        weights[: len(counts)] = counts[: len(weights)]
    weights[sorted(_marks(model))] = 0.0
    inside = np.zeros(len(weights), dtype=bool)
    if distribution == "unigram":
        inside[_spaced(model.tokenizer)] = True
    # By whether the token brings a space before it; None: any token.
    distributions = {True: weights * inside, False: weights * ~inside, None: weights}
    sequences = {k: _drawn(part, numbers) for k, part in distributions.items() if part.any()}
    result = np.empty((len(positions), samples), dtype=np.int64)
    for row, position in enumerate(positions):
        token = ids[position]
        # Where the distribution knows no other token of the kind, any will do.
        own = bool(inside[token])
        kinds = [k for k in (own, None) if distributions[k].sum() > distributions[k][token]]
        if not kinds:
            raise InputError(
                f"the replacement distribution '{distribution}' knows no token to put in the "
                "place of another",
                "choose another law",
            )
        kept = sequences[kinds[0]][sequences[kinds[0]] != token]
        if len(kept) < samples:  # nearly always that token: draw again, without it
            rest = distributions[kinds[0]].copy()
            rest[token] = 0.0
            kept = np.concatenate([kept, _drawn(rest, numbers)])
        result[row] = kept[:samples]
    return result


def _drawn(weights: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Tokens by inverting the cumulative distribution; never one of weight 0."""
    sums = np.cumsum(weights, dtype=np.float64)
    # Rounding may not carry a number past the last token.
    wanted = np.minimum(numbers * sums[-1], np.nextafter(sums[-1], 0))
    result: np.ndarray = np.searchsorted(sums, wanted, side="right").astype(np.int64)
    return result


def _from_model(
    model: LoadedModel, ids: Sequence[int], positions: Sequence[int], numbers: np.ndarray
) -> np.ndarray:
    """What the model expects at each position, by the same numbers for all."""
    if min(positions, default=1) < 1:
        raise InputError("nothing is expected in place of the first token", "leave position 0 out")
    body, head = body_and_head(model.model)
    device = model.device.torch_device
    result = np.empty((len(positions), len(numbers)), dtype=np.int64)
    if not len(positions):
        return result
    marks = sorted(_marks(model))
    with torch.no_grad():
        states = body(input_ids=torch.tensor([list(ids)], device=device), use_cache=False)[0]
        for start in range(0, len(positions), _CHUNK):
            some = list(positions[start : start + _CHUNK])
            logits = head.logits(states[[position - 1 for position in some]])
            expected = torch.softmax(logits.float(), -1).cpu().numpy().astype(np.float64)
            expected[:, marks] = 0.0
            for row, position in enumerate(some):
                expected[row, ids[position]] = 0.0
                if not expected[row].any():
                    raise InputError(
                        "the model expects nothing but the token that is there",
                        "choose the law 'unigram'",
                    )
                result[start + row] = _drawn(expected[row], numbers)
    return result


def _rows(model: LoadedModel) -> int:
    return int(model.bare.get_input_embeddings().weight.shape[0])


def _texts(model: LoadedModel) -> np.ndarray:
    """Tokens that the tokenizer knows; embeddings beyond them were never trained."""
    known = _rows(model)
    if model.tokenizer is not None:
        known = min(known, len(model.tokenizer))
    return np.arange(known)


def _marks(model: LoadedModel) -> set[int]:
    """Tokens that are no text, as far as the model has them."""
    marks = {model.bos_id, model.eos_id}
    if model.tokenizer is not None:
        marks |= special_ids(model.tokenizer)
    return {token for token in marks if 0 <= token < _rows(model)}


@functools.lru_cache(maxsize=4)
def unigrams(tokenizer: Any) -> np.ndarray:
    """How often the sample corpus has each token; one more for those it has at all.

    Args:
        tokenizer: The tokenizer whose tokens are counted.

    Returns:
        float64 ``[tokens]``.

    Raises:
        InputError: There is no tokenizer to count with.
    """
    if tokenizer is None:
        raise InputError(
            "the replacement distribution 'unigram' needs a tokenizer", "choose the law 'uniform'"
        )
    folder = resources.files("creativewritinggpt.data") / "sample"
    counts = np.zeros(len(tokenizer))
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".jsonl"):
            for line in file.read_text("utf-8").splitlines():
                text = "\n\n".join(str(value) for value in json.loads(line).values())
                np.add.at(counts, encode(tokenizer, text), 1)
    return np.where(counts > 0, counts + 1, 0.0)


@functools.lru_cache(maxsize=4)
def _spaced(tokenizer: Any) -> np.ndarray:
    """Tokens that bring a space before them."""
    found = [
        token for name, token in tokenizer.get_vocab().items() if str(name).startswith(_SPACES)
    ]
    return np.array(sorted(found), dtype=np.int64)


def compute(analysis: Analysis) -> None:
    """Random replacements: divergence, change of the target, influence of all on all."""
    settings, subject = analysis.settings, analysis.subject
    everywhere = subject.length <= MOST_WITH_INFLUENCE
    for model in analysis.models:
        with analysis.model(model):
            found = perturb(
                analysis.loaded, subject, distribution=settings.law, samples=settings.samples,
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
