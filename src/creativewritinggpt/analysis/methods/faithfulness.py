"""Faithfulness: whether the prediction falls when what an attribution ranks first is replaced.

The tokens before a target are ranked, those that support it most first. Replacing the first of
them (in place, never deleting) gives the deletion curve of the target's score, keeping only them
the insertion curve; from the same texts come two numbers (DeYoung et al. 2020, "ERASER",
arXiv 1911.03429), as means over the fractions::

    comprehensiveness = score(text) - score(text without the first k %)    high is good
    sufficiency       = score(text) - score(only the first k %)            low is good

Alone they say little, since replacing anything hurts a prediction; so R random rankings are judged
in the same way, on the same replacements. An attribution is *better than random* if it beats 95 %
of them in comprehensiveness and in the area under the deletion curve. The replaced texts are unlike
any text, whatever stands in (Hsia et al. 2024, arXiv 2408.11252), so that there are two replacement
distributions, the end-of-text token and tokens as frequent texts have them, and the attribution has
to be better under each.

**Power.** In a short text that test can't tell even a true ranking from random ones: of n tokens
one random ranking in n begins with the same token, and two such among 20 are enough to fail. The
power is computed for each text: let q be the chance that the best ranking known beats a random
one; it passes with probability::

    power = P(Binomial(R, q) ≥ 0.95 R)

The rankings known are those of all attributions judged, and that by single-token occlusion under
the same replacements; q is the share of the R random rankings that one beats, the least over
distributions and statistics (they are tested together, so that this is an upper bound), and of the
best of them. Beyond 50 tokens q is 1 - 1/n at least, the chance that a random ranking does not
begin with the one token that decides. Where the power is below 0.8, an attribution that is not
better than random is called *too short to tell*.

Trade-off: R = 20 keeps judging cheap, and makes q coarse: with 18 of 20 beaten the power is 0.39,
with 19 it is 0.74.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...console import CountCallback
from ...errors import InputError
from ...models.loaded_model import LoadedModel
from .. import registry
from ..prefix_cache import Predictions, PrefixCache
from ..registry import Analysis, Attribution, Figure, Method
from ..subject import Subject, Target, with_targets
from .perturbation import draw_replacements

FRACTIONS = (0.05, 0.1, 0.2, 0.3, 0.5)
# The curves go on beyond the fractions, to the text with nothing left.
_REST = (0.75,)
_MOST_TARGETS = 4
# Of the random rankings, the share that a good one must beat.
_SHARE = 0.95
# The usual convention (Cohen 1988, Statistical Power Analysis for the Behavioral Sciences). With
# less power an attribution that is not better than random may be a true one.
LEAST_POWER = 0.8
# Up to so many tokens before a target the power is computed from single-token occlusion.
_MOST_OCCLUDED = 50


@dataclasses.dataclass(frozen=True)
class Curves:
    """Scores of the target along a ranking, mean over the targets.

    Attributes:
        deletion: ``[…, points]``, with the first tokens of the ranking replaced.
        insertion: ``[…, points]``, with all others replaced.
    """

    deletion: np.ndarray
    insertion: np.ndarray


class _Scorer:
    """Scores of one target after variants of the text, each computed once.

    Args:
        model: The model, in ``eval()`` mode.
        subject: The text.
        target: One of its targets.

    Attributes:
        ids: The text before the target, ``[tokens]``.
    """

    def __init__(self, model: LoadedModel, subject: Subject, target: Target) -> None:
        self.target = target
        self._cache = PrefixCache(model, subject.ids[: target.position], [target.position - 1])
        self._predictions = Predictions(self._cache)
        self.ids = self._cache.ids
        self._known: dict[bytes, float] = {}

    def scores(self, variants: np.ndarray, progress: CountCallback | None) -> np.ndarray:
        """``[variants]`` of texts ``[variants, tokens]``."""
        keys = [variant.tobytes() for variant in variants]
        rows = {key: row for row, key in enumerate(keys) if key not in self._known}
        new = variants[list(rows.values())]
        drops = np.zeros(len(new))
        for part in self._cache.passes(new, progress):
            drops[part.rows] = self._predictions.drops(part, [self.target])[:, 0]
        scores = self._predictions.score(self.target) - drops
        self._known |= dict(zip(rows, scores.tolist(), strict=True))
        return np.array([self._known[key] for key in keys])


class _ReplacedTexts:
    """One target's text with the first of a ranking replaced, or all others.

    Every text is run once, however many rankings lead to it.

    Args:
        scorer: Of the target.
        rankings: ``[rankings, tokens]``: the positions before the target but the first.
        fill: ``[tokens]``, what stands at each position of the text when it is replaced.
        points: Shares of the tokens, from 0 to 1.

    Attributes:
        cost: How many tokens the passes read at least.
    """

    def __init__(
        self, scorer: _Scorer, rankings: np.ndarray, fill: np.ndarray, points: Sequence[float]
    ) -> None:
        self.scorer, ids = scorer, scorer.ids
        tokens = rankings.shape[1]
        counts = np.array([_count(point, tokens) for point in points])
        rank = np.full((len(rankings), len(ids)), -1)
        np.put_along_axis(rank, rankings, np.arange(tokens), axis=1)
        first = rank[:, None] < counts[:, None]  # [rankings, points, tokens]
        replaced = np.stack([first, ~first]) & (rank >= 0)[:, None]
        texts = np.where(replaced, fill[: len(ids)], ids)
        flat = texts.reshape(-1, len(ids))
        self.texts, index = np.unique(flat, axis=0, return_inverse=True)
        self.deletion, self.insertion = index.reshape(texts.shape[:-1])
        same = self.texts == ids
        begins = np.where(same.all(1), len(ids), (~same).argmax(1))
        self.cost = int((len(ids) - begins).sum())

    def run(self, progress: CountCallback | None) -> Curves:
        """Scores ``[rankings, points]``."""
        scores = self.scorer.scores(self.texts, progress)
        return Curves(scores[self.deletion], scores[self.insertion])


def ranking(scores: np.ndarray, signed: bool, *, seed: int = 0) -> np.ndarray:
    """Positions in the order of their scores, the start token left out.

    Args:
        scores: ``[tokens]``, the start token's first.
        signed: Supporting first; else by size.
        seed: Ties are ordered at random, so that a method that says nothing gains nothing.

    Returns:
        int64 ``[tokens - 1]``.
    """
    value = scores[1:] if signed else np.abs(scores[1:])
    ties = np.random.default_rng(seed).random(len(value))
    return np.lexsort((ties, -value)) + 1


def area(points: Sequence[float], values: np.ndarray) -> np.ndarray:
    """The area under a curve by the trapezoid rule, ``[…]`` of ``[…, points]``."""
    return np.asarray(((values[..., 1:] + values[..., :-1]) / 2 * np.diff(points)).sum(-1))


def mean_drop(
    points: Sequence[float], fractions: Sequence[float], values: np.ndarray, whole: np.ndarray
) -> np.ndarray:
    """Mean of whole - value over the fractions (AOPC), ``[…]`` of ``[…, points]`` and ``[…]``."""
    columns = [list(points).index(fraction) for fraction in fractions]
    result: np.ndarray = (whole[..., None] - values[..., columns]).mean(-1)
    return result


def _count(fraction: float, tokens: int) -> int:
    """How many tokens a fraction is: at least one where it is not 0."""
    return 0 if fraction == 0 else min(tokens, max(1, round(fraction * tokens)))


@dataclasses.dataclass(frozen=True)
class Faithfulness:
    """How faithful an attribution is, under each replacement distribution.

    Attributes:
        method: Of the attribution.
        laws: For each replacement distribution ``comprehensiveness``, ``sufficiency`` (nats),
            ``deletion`` and ``insertion`` (``fractions``, ``values``, ``random_mean``,
            ``random_low``, ``random_high``, ``auc``), ``random`` (for each number its ``mean``,
            ``low`` and ``high``: the middle 90 % of the random rankings), ``beaten`` (how many
            random rankings are worse, for comprehensiveness and deletion), ``p_value``,
            ``better_than_random``.
        better_than_random: Under every distribution.
        p_value: The largest of the distributions'.
        power: The chance that the best ranking known would be told from random ones.
        settings: Rankings, fractions, seed, positions of the targets judged, of how many.
    """

    method: str
    laws: dict[str, dict[str, Any]]
    better_than_random: bool
    p_value: float
    power: float
    settings: dict[str, Any]

    @property
    def comprehensiveness(self) -> float:
        """Under the first distribution, nats."""
        return float(next(iter(self.laws.values()))["comprehensiveness"])

    @property
    def verdict(self) -> str:
        """``registry.BETTER``, ``NO_BETTER``, or ``TOO_SHORT`` where the test has no power."""
        if self.better_than_random:
            return registry.BETTER
        return registry.NO_BETTER if self.power >= LEAST_POWER else registry.TOO_SHORT

    @property
    def sentence(self) -> str:
        """The verdict with its numbers."""
        found = next(iter(self.laws.values()))
        name, rankings = self.method.replace("_", " "), self.settings["random_rankings"]
        cost = (
            f"replacing the tokens that {name} ranks first costs {found['comprehensiveness']:.2f} "
            f"nats, random ones {found['random']['comprehensiveness']['mean']:.2f}"
        )
        beaten = {law: min(one["beaten"].values()) for law, one in self.laws.items()}
        least = min(beaten, key=lambda law: beaten[law])
        if self.better_than_random:
            return f"{cost}: better than {beaten[least]} of {rankings} random rankings"
        label = {"end_of_text": "end-of-text tokens", "unigram": "frequent tokens"}[least]
        more = (
            f"with {label} in their place it beats only {beaten[least]} of {rankings} random "
            "rankings"
        )
        if self.verdict == registry.TOO_SHORT:
            more += (
                f", and the best ranking known would pass with a probability of {self.power:.0%}"
            )
        return f"{self.verdict}: {cost}; {more}"

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; the numbers of the first distribution stand at the top as well."""
        law, first = next(iter(self.laws.items()))
        return {
            "method": self.method,
            "law": law,
            **first,
            "better_than_random": self.better_than_random,
            "verdict": self.verdict,
            "p_value": self.p_value,
            "power": self.power,
            "sentence": self.sentence,
            "laws": self.laws,
            "settings": self.settings,
        }


class Judge:
    """Judges attributions of one text; the random rankings are run once for all of them.

    Args:
        model: The model, in ``eval()`` mode.
        subject: The text with its targets; of more than 4, as many evenly spaced ones are judged.
        seed: Of the random rankings, of ties and of the unigram replacements.
        random_rankings: How many random rankings there are, at least 1.
        fractions: Shares of the tokens before the target, between 0 and 1.

    Raises:
        InputError: No targets, no rankings, or fractions that are none.
    """

    def __init__(
        self,
        model: LoadedModel,
        subject: Subject,
        *,
        seed: int = 0,
        random_rankings: int = 20,
        fractions: Sequence[float] = FRACTIONS,
    ) -> None:
        if random_rankings < 1:
            raise InputError(
                f"the number of random rankings is {random_rankings}", "it must be at least 1"
            )
        if not fractions or not all(0 < fraction < 1 for fraction in fractions):
            raise InputError(f"the fractions are {tuple(fractions)}", "give some between 0 and 1")
        self.model = model
        self.subject = with_targets(subject, subject.targets)
        self.seed, self.random_rankings = seed, random_rankings
        self.fractions = tuple(sorted(set(fractions)))
        self.points = tuple(sorted({0.0, *self.fractions, *_REST, 1.0}))
        every = len(self.subject.targets)
        judged = sorted({round(i) for i in np.linspace(0, every - 1, min(every, _MOST_TARGETS))})
        self.judged = judged
        self.targets = [self.subject.targets[i] for i in judged]
        self._scorers = [_Scorer(model, self.subject, target) for target in self.targets]
        self.fills = self._fills()
        self._random: dict[str, Curves] = {}
        self._power = 0.0

    def judge(
        self, attribution: Attribution, progress: CountCallback | None = None
    ) -> Faithfulness:
        """Judge one attribution.

        Args:
            attribution: Of the same subject, ``[targets, tokens]``.
            progress: Called with the tokens done and those to do.

        Raises:
            InputError: The attribution belongs to another text.
        """
        expected = (len(self.subject.targets), self.subject.length)
        if attribution.scores.shape != expected:
            raise InputError(
                f"the scores have the shape {attribution.scores.shape}, the text {expected}",
                "give an attribution of the same text and targets",
            )
        wanted = [
            ranking(attribution.scores[i, : target.position], attribution.signed, seed=self.seed)[
                None
            ]
            for i, target in zip(self.judged, self.targets, strict=True)
        ]
        first = not self._random
        if first:
            wanted = [np.concatenate([own, self._random_rankings(own.shape[1])]) for own in wanted]
        found = self._curves(dict.fromkeys(self.fills, wanted), progress)
        if first:
            self._random = {
                law: Curves(curves.deletion[1:], curves.insertion[1:])
                for law, curves in found.items()
            }
            self._power = self._power_by_occlusion()
        return self._faithfulness(attribution.method, self._against_random(found))

    def _against_random(self, found: dict[str, Curves]) -> dict[str, dict[str, Any]]:
        """The numbers of the first ranking beside those of the random ones, by distribution."""
        return {
            law: _numbers(
                Curves(curves.deletion[0], curves.insertion[0]),
                self._random[law],
                self.points,
                self.fractions,
            )
            for law, curves in found.items()
        }

    def _power_by_occlusion(self) -> float:
        """The power by single-token occlusion, or by the number of tokens; see the module."""
        tokens = float(np.mean([target.position - 1 for target in self.targets]))
        if tokens > _MOST_OCCLUDED:
            return power(1 - 1 / tokens, self.random_rankings)
        best = {
            law: [self._by_occlusion(scorer, fill) for scorer in self._scorers]
            for law, fill in self.fills.items()
        }
        return self._power_of(self._against_random(self._curves(best, None)))

    def _power_of(self, laws: dict[str, dict[str, Any]]) -> float:
        """The power by the random rankings that one ranking beats."""
        beaten = min(min(found["beaten"].values()) for found in laws.values())
        return power(beaten / self.random_rankings, self.random_rankings)

    def _by_occlusion(self, scorer: _Scorer, fill: np.ndarray) -> np.ndarray:
        """The ranking by what the target loses without each single token, ``[1, tokens]``."""
        ids = scorer.ids
        variants = np.tile(ids, (len(ids), 1))
        np.fill_diagonal(variants[1:, 1:], fill[1 : len(ids)])
        scores = scorer.scores(variants, None)
        return ranking(scores[0] - scores, True, seed=self.seed)[None]

    def _faithfulness(self, method: str, laws: dict[str, dict[str, Any]]) -> Faithfulness:
        better = all(found["better_than_random"] for found in laws.values())
        return Faithfulness(
            method=method,
            laws=laws,
            better_than_random=better,
            p_value=max(found["p_value"] for found in laws.values()),
            power=max(self._power, self._power_of(laws)),
            settings={
                "random_rankings": self.random_rankings,
                "fractions": list(self.fractions),
                "seed": self.seed,
                "targets": [target.position for target in self.targets],
                "targets_in_all": len(self.subject.targets),
                "score": "log-probability" if self.targets[0].foil is None else "logit difference",
            },
        )

    def _fills(self) -> dict[str, np.ndarray]:
        """What stands at each position when it is replaced, ``[tokens]`` by distribution."""
        ids = np.array(self.subject.ids, dtype=np.int64)
        fills = {"end_of_text": np.full_like(ids, self.model.eos_id)}
        if self.model.tokenizer is not None and len(ids) > 1:
            # As many draws as positions, each position taking another: a text of one and the
            # same word would be no distribution at all.
            count = len(ids) - 1
            drawn = draw_replacements(
                "unigram", self.model, self.subject.ids, range(1, count + 1),
                samples=count, seed=self.seed,
            )  # fmt: skip
            fills["unigram"] = np.concatenate([ids[:1], drawn[np.arange(count), np.arange(count)]])
        return fills

    def _random_rankings(self, tokens: int) -> np.ndarray:
        """``[rankings, tokens]`` of positions from 1 on."""
        generator = np.random.default_rng([self.seed, tokens])
        rows = np.tile(np.arange(1, tokens + 1), (self.random_rankings, 1))
        result: np.ndarray = generator.permuted(rows, axis=1)
        return result

    def _curves(
        self, rankings: dict[str, list[np.ndarray]], progress: CountCallback | None
    ) -> dict[str, Curves]:
        """Curves ``[rankings, points]`` by distribution, means over the targets.

        Args:
            rankings: By distribution, for each target ``[rankings, tokens]``.
            progress: Called with the tokens done and those to do.
        """
        jobs = [
            (law, _ReplacedTexts(scorer, order, fill, self.points))
            for law, fill in self.fills.items()
            for scorer, order in zip(self._scorers, rankings[law], strict=True)
        ]
        total = sum(job.cost for _, job in jobs)
        done = 0
        found: dict[str, list[Curves]] = {law: [] for law in self.fills}
        for law, job in jobs:
            found[law].append(job.run(_shifted(progress, done, total)))
            done += job.cost
        return {
            law: Curves(
                np.mean([one.deletion for one in curves], axis=0),
                np.mean([one.insertion for one in curves], axis=0),
            )
            for law, curves in found.items()
        }


def _shifted(progress: CountCallback | None, before: int, total: int) -> CountCallback | None:
    """Progress of a part as progress of the whole."""
    if progress is None:
        return None
    return lambda done, _: progress(before + done, total)


def power(q: float, rankings: int) -> float:
    """The chance to beat 95 % of some random rankings, each of them with probability ``q``."""
    needed = math.ceil(_SHARE * rankings)
    return sum(
        math.comb(rankings, k) * q**k * (1 - q) ** (rankings - k)
        for k in range(needed, rankings + 1)
    )


def _numbers(
    own: Curves, chance: Curves, points: Sequence[float], fractions: Sequence[float]
) -> dict[str, Any]:
    """The numbers of a ranking beside those of random ones, under one distribution.

    Args:
        own: ``[points]``.
        chance: ``[rankings, points]``.
        points: Shares of the tokens along the curves, from 0 to 1.
        fractions: Those of them that the means are taken over.
    """

    def numbers(curves: Curves) -> dict[str, np.ndarray]:
        whole = curves.deletion[..., 0]
        return {
            "comprehensiveness": mean_drop(points, fractions, curves.deletion, whole),
            "sufficiency": mean_drop(points, fractions, curves.insertion, whole),
            "deletion": area(points, curves.deletion),
            "insertion": area(points, curves.insertion),
        }

    mine, theirs = numbers(own), numbers(chance)
    rankings = len(chance.deletion)
    beaten = {
        "comprehensiveness": int((theirs["comprehensiveness"] < mine["comprehensiveness"]).sum()),
        "deletion": int((theirs["deletion"] > mine["deletion"]).sum()),
    }
    return {
        "comprehensiveness": float(mine["comprehensiveness"]),
        "sufficiency": float(mine["sufficiency"]),
        "deletion": _curve(points, own.deletion, chance.deletion, float(mine["deletion"])),
        "insertion": _curve(points, own.insertion, chance.insertion, float(mine["insertion"])),
        "random": {name: _band(values) for name, values in theirs.items()},
        "beaten": beaten,
        "p_value": max((1 + rankings - count) / (1 + rankings) for count in beaten.values()),
        "better_than_random": all(count >= _SHARE * rankings for count in beaten.values()),
    }


def _curve(
    points: Sequence[float], own: np.ndarray, chance: np.ndarray, auc: float
) -> dict[str, Any]:
    low, high = np.percentile(chance, [5, 95], axis=0)
    return {
        "fractions": list(points),
        "values": own.tolist(),
        "random_mean": chance.mean(0).tolist(),
        "random_low": low.tolist(),
        "random_high": high.tolist(),
        "auc": auc,
    }


def _band(values: np.ndarray) -> dict[str, float]:
    low, high = np.percentile(values, [5, 95])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def with_power_of_the_best(found: dict[str, Faithfulness]) -> dict[str, Faithfulness]:
    """The same judgements of one text, each with the power of the best ranking among them."""
    best = max((one.power for one in found.values()), default=0.0)
    return {name: dataclasses.replace(one, power=best) for name, one in found.items()}


def compute(analysis: Analysis) -> None:
    """Judge every attribution against random rankings."""
    judge = Judge(analysis.fp32, analysis.subject, seed=analysis.settings.seed)
    known, found = registry.scores(), {}
    for name, attribution in analysis.found.items():
        if name not in known or known[name].judged:
            progress = analysis.progress(f"judging {name.replace('_', ' ')}")
            found[name] = judge.judge(attribution, progress)
    found = with_power_of_the_best(found)
    analysis.record["faithfulness"] = {name: one.to_dict() for name, one in found.items()}
    short = [one for one in found.values() if one.verdict == registry.TOO_SHORT]
    if short:
        analysis.warn(
            f"{len(short)} of {len(found)} explanations can't be told from random ones: the text "
            f"is too short for the test (power {short[0].power:.2f})"
        )


METHOD = Method(
    name="faithfulness",
    title="faithfulness",
    description="Whether an attribution is better than a random one.",
    compute=compute,
    figures=(Figure("curves", "faithfulness"),),
    builds_on=(registry.ANY,),
)
