"""Is an attribution true? Take away what it ranks first, and see whether the prediction falls.

The tokens before a target are ranked, those that support it most first. Replacing the first of
them (in place, never deleting) gives the deletion curve of the target's score, keeping only them
the insertion curve; from the same texts come two numbers (DeYoung et al. 2020, "ERASER",
arXiv 1911.03429), as means over the fractions::

    comprehensiveness = score(text) - score(text without the first k %)    high is good
    sufficiency       = score(text) - score(only the first k %)            low is good

Alone they say little, since replacing anything hurts a prediction; so random rankings are judged in
the same way, on the same replacements, and a method that does not beat them is said not to.
The replaced texts are unlike any text, whatever stands in (Hsia et al. 2024, arXiv 2408.11252), so
two replacement laws are used: the end-of-text token, and tokens as frequent texts have them, one
draw for each position. A method is called better than random only if it is under every law.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...console import CountCallback
from ...errors import InputError
from ...models.loaded_model import LoadedModel
from .. import registry
from ..registry import Attribution, Figure, Method
from ..subject import Subject, with_targets
from .rankings import Curves, Replaced, area, mean_drop, ranking
from .replacements import draws

if TYPE_CHECKING:
    from ..run import Analysis

FRACTIONS = (0.05, 0.1, 0.2, 0.3, 0.5)
# The curves go on beyond the fractions, to the text with nothing left.
_REST = (0.75,)
_MOST_TARGETS = 4
# Of so few tokens a random ranking is often as good as the best.
FEW = 10
# Of the random rankings, the share that a good one must beat.
_SHARE = 0.95


@dataclasses.dataclass(frozen=True)
class Faithfulness:
    """How true an attribution is, under each replacement law.

    Attributes:
        method: Of the attribution.
        laws: For each law ``comprehensiveness``, ``sufficiency`` (nats), ``deletion`` and
            ``insertion`` (``fractions``, ``values``, ``random_mean``, ``random_low``,
            ``random_high``, ``auc``), ``random`` (for each number its ``mean``, ``low`` and
            ``high``: the middle 90 % of the random rankings), ``beaten`` (how many random
            rankings are worse, for comprehensiveness and deletion), ``p_value``,
            ``better_than_random``.
        better_than_random: Under every law.
        p_value: The largest of the laws'.
        sentence: The same for people.
        settings: Rankings, fractions, seed, positions of the targets judged, of how many.
    """

    method: str
    laws: dict[str, dict[str, Any]]
    better_than_random: bool
    p_value: float
    sentence: str
    settings: dict[str, Any]

    @property
    def comprehensiveness(self) -> float:
        """Under the first law, nats."""
        return float(next(iter(self.laws.values()))["comprehensiveness"])

    @property
    def sufficiency(self) -> float:
        """Under the first law, nats."""
        return float(next(iter(self.laws.values()))["sufficiency"])

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; the numbers of the first law stand at the top as well."""
        law, first = next(iter(self.laws.items()))
        return {
            "method": self.method,
            "law": law,
            **first,
            "better_than_random": self.better_than_random,
            "verdict": registry.BETTER if self.better_than_random else registry.NO_BETTER,
            "p_value": self.p_value,
            "sentence": self.sentence,
            "laws": self.laws,
            "settings": self.settings,
        }


class Judge:
    """Judges attributions of one text; the random rankings are run once for all of them.

    Args:
        writer: The model, in ``eval()`` mode.
        subject: The text with its targets; of more than 4, as many evenly spaced ones are judged.
        seed: Of the random rankings, of ties and of the unigram replacements.
        random_rankings: How many random rankings there are, at least 1.
        fractions: Shares of the tokens before the target, between 0 and 1.

    Raises:
        InputError: No targets, no rankings, or fractions that are none.
    """

    def __init__(
        self,
        writer: LoadedModel,
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
        self.writer = writer
        self.subject = with_targets(subject, subject.targets)
        self.seed, self.random_rankings = seed, random_rankings
        self.fractions = tuple(sorted(set(fractions)))
        self.points = tuple(sorted({0.0, *self.fractions, *_REST, 1.0}))
        every = len(self.subject.targets)
        self.judged = sorted(
            {round(i) for i in np.linspace(0, every - 1, min(every, _MOST_TARGETS))}
        )
        self.fills = self._fills()
        self._random: dict[str, Curves] | None = None

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
        own = [
            ranking(attribution.scores[i, : self.subject.targets[i].position], attribution.signed,
                    seed=self.seed)[None]
            for i in self.judged
        ]  # fmt: skip
        wanted = own
        if self._random is None:
            wanted = [
                np.concatenate([first, self._random_rankings(first.shape[1])]) for first in own
            ]
        found = self._curves(wanted, progress)
        if self._random is None:
            self._random = {
                law: Curves(curves.deletion[1:], curves.insertion[1:])
                for law, curves in found.items()
            }
        laws = {
            law: _verdict(
                Curves(curves.deletion[0], curves.insertion[0]),
                self._random[law],
                self.points,
                self.fractions,
            )
            for law, curves in found.items()
        }
        return self._faithfulness(attribution.method, laws)

    def _faithfulness(self, method: str, laws: dict[str, dict[str, Any]]) -> Faithfulness:
        better = all(found["better_than_random"] for found in laws.values())
        targets = self.subject.targets
        return Faithfulness(
            method=method,
            laws=laws,
            better_than_random=better,
            p_value=max(found["p_value"] for found in laws.values()),
            sentence=_sentence(method, laws, self.random_rankings, better),
            settings={
                "random_rankings": self.random_rankings,
                "fractions": list(self.fractions),
                "seed": self.seed,
                "targets": [targets[i].position for i in self.judged],
                "targets_in_all": len(targets),
                "score": "logit difference" if targets[0].foil is not None else "log-probability",
            },
        )

    def _fills(self) -> dict[str, np.ndarray]:
        """What stands at each position when it is replaced, ``[tokens]`` a law."""
        ids = np.array(self.subject.ids, dtype=np.int64)
        fills = {"end_of_text": np.full_like(ids, self.writer.eos_id)}
        if self.writer.tokenizer is not None and len(ids) > 1:
            # As many draws as positions, each position taking another: a text of one and the
            # same word would be no law at all.
            count = len(ids) - 1
            drawn = draws(
                "unigram", self.writer, self.subject.ids, range(1, count + 1),
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
        self,
        rankings: list[np.ndarray],
        progress: CountCallback | None,
    ) -> dict[str, Curves]:
        """Curves ``[rankings, points]`` a law, means over the targets.

        Args:
            rankings: ``[rankings, tokens]`` for each target.
            progress: Called with the tokens done and those to do.
        """
        targets = [self.subject.targets[i] for i in self.judged]
        jobs = [
            (law, Replaced(self.writer, self.subject, target, order, fill, self.points))
            for law, fill in self.fills.items()
            for target, order in zip(targets, rankings, strict=True)
        ]
        total = sum(job.cost for _, job in jobs)
        done = 0
        sums: dict[str, list[Curves]] = {law: [] for law in self.fills}
        for law, job in jobs:
            sums[law].append(job.run(_shifted(progress, done, total)))
            done += job.cost
        return {
            law: Curves(
                np.mean([one.deletion for one in curves], axis=0),
                np.mean([one.insertion for one in curves], axis=0),
            )
            for law, curves in sums.items()
        }


def judge(
    writer: LoadedModel,
    subject: Subject,
    attribution: Attribution,
    *,
    seed: int = 0,
    random_rankings: int = 20,
    fractions: Sequence[float] = FRACTIONS,
    progress: CountCallback | None = None,
) -> Faithfulness:
    """Judge one attribution; for several of the same text, make one :class:`Judge`.

    Args:
        writer: The model, in ``eval()`` mode.
        subject: The text with its targets.
        attribution: What each token is said to do for each target.
        seed: Of all that is random.
        random_rankings: How many random rankings it is set against.
        fractions: Shares of the tokens before the target.
        progress: Called with the tokens done and those to do.

    Raises:
        InputError: The attribution belongs to another text; no rankings or fractions.
    """
    room = Judge(writer, subject, seed=seed, random_rankings=random_rankings, fractions=fractions)
    return room.judge(attribution, progress)


def _shifted(progress: CountCallback | None, before: int, total: int) -> CountCallback | None:
    """Progress of a part as progress of the whole."""
    if progress is None:
        return None
    return lambda done, _: progress(before + done, total)


def _verdict(
    own: Curves, chance: Curves, points: Sequence[float], fractions: Sequence[float]
) -> dict[str, Any]:
    """The numbers of a ranking beside those of random ones, under one law.

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


def _sentence(method: str, laws: dict[str, dict[str, Any]], rankings: int, better: bool) -> str:
    """What to tell people, in one or two sentences."""
    found = next(iter(laws.values()))
    name = method.replace("_", " ")
    cost = (
        f"replacing the tokens that {name} ranks first costs {found['comprehensiveness']:.2f} "
        f"nats, random ones {found['random']['comprehensiveness']['mean']:.2f}"
    )
    beaten = {name: min(one["beaten"].values()) for name, one in laws.items()}
    if better:
        least = min(beaten.values())
        return f"{cost}: better than {least} of {rankings} random rankings"
    worst = min(beaten, key=lambda law: beaten[law])
    label = {"end_of_text": "end-of-text tokens", "unigram": "frequent tokens"}[worst]
    return (
        f"no better than random: {cost}; with {label} in their place it beats only "
        f"{beaten[worst]} of {rankings} random rankings"
    )


def compute(analysis: Analysis) -> None:
    """Judge every attribution against random rankings."""
    if analysis.subject.targets[-1].position <= FEW:
        analysis.warn(
            f"with fewer than {FEW} tokens before it hardly any explanation can be told from a "
            "random one"
        )
    judge = Judge(analysis.fp32, analysis.subject, seed=analysis.settings.seed)
    known, part = registry.scores(), {}
    for name, found in analysis.found.items():
        if name not in known or known[name].judged:
            progress = analysis.progress(f"judging {name.replace('_', ' ')}")
            part[name] = judge.judge(found, progress).to_dict()
    analysis.record["faithfulness"] = part


METHOD = Method(
    name="faithfulness",
    title="faithfulness",
    description="Whether an attribution is better than a random one.",
    compute=compute,
    figures=(Figure("curves", "faithfulness"),),
    builds_on=(registry.ANY,),
)
