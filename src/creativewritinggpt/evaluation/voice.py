"""Voice: whose texts a model's are like, by the frequencies of the most frequent words.

The distance is Cosine Delta: frequencies of words as z-scores, then one minus the cosine (Evert et
al. 2017, "Understanding and explaining Delta measures for authorship attribution"). It is given as
a place on a scale: 0 is as far from the author's held-out chapters as other authors are, 1 is as
near as the author's other chapters are.

- *Pools.* Distances shrink as texts grow, so only pools of the same number of words are compared,
  the human ones too. A pool is drawn from whole sentences at random; scattered sentences tell more
  of an author than one passage of that length (Eder 2015, "Does size matter?").
- *Words.* The most frequent ones of the human pools, a fiftieth of the pool's length, without names
  and numbers; each stands in at least 80 % of the pools. Half and twice as many are a check.
- *z-scores.* Mean and deviation are of the human pools alone, each author with the same weight, so
  that one model's text moves no other's figure. A deviation is never below that of counting.
- *Intervals.* 2,000 times half of the chapters and half of the prompts are drawn without
  replacement, and other authors with replacement; all models have the same prompts. Half-samples
  vary as much as a bootstrap's, and repeat no sentence, which would narrow the vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..console import counted
from ..data.document import Document
from ..errors import InputError
from . import imposters
from .stylometry import (
    FEWEST_FEATURES,
    MOST_POOLS,
    Floats,
    Generator,
    Ints,
    Reference,
    Sample,
    Units,
    Writing,
    burrows_delta,
    cosine_delta,
    favoured,
    make_reference,
    names_in,
)

POOL_WORDS, FEWEST_WORDS = 5000, 2000
"""Words of a pool: what novels need (Eder 2015), and below what nothing is said."""
FEWEST_OTHERS = 3
"""Other authors that a scale needs."""
RESAMPLES = 2000

_WORDS_PER_FEATURE, _MOST_FEATURES = 50, 1000
_DRAWS = 60
_MOST_WORDS = 60_000  # of each other author
_SAME = 0.2  # of long sentences that two authors share: one text under two names
_PRONOUNS = """
i me my mine myself you your yours yourself he him his himself she her hers herself it its
itself we us our ours ourselves they them their theirs themselves
"""
PRONOUNS = frozenset(_PRONOUNS.split())


@dataclasses.dataclass(frozen=True)
class VoiceTexts:
    """The human texts of a measurement.

    Attributes:
        author: The author's name in reports.
        held_out: The author's chapters that no model was trained on.
        others: Other authors' texts by name.
        training: The author's other chapters.
        others_from: Where the others are from, in words.
    """

    author: str
    held_out: Sequence[Document]
    others: Mapping[str, Sequence[Document]]
    training: Sequence[Document] = ()
    others_from: str = "the files given"


def measure(
    texts: VoiceTexts,
    generated: Mapping[str, Sequence[Sample]] | None = None,
    *,
    words: int = POOL_WORDS,
    prompts: Sequence[str] = (),
    seed: int = 0,
    resamples: int = RESAMPLES,
    fewest: int = FEWEST_WORDS,
) -> dict[str, Any]:
    """The ``voice`` of ``evaluation.json``, but for profile and copying.

    Args:
        texts: The human texts.
        generated: By model, texts after the same prompts. Without any, authors are told apart.
        words: Words of a pool; fewer where a writer has fewer.
        prompts: What was continued: content words that they favour are not counted.
        seed: Of all that is drawn.
        resamples: Half-samples for the intervals.
        fewest: Words of a pool below which nothing is said.

    Raises:
        InputError: There is too little text, or none to compare with, or it is the same text.
    """
    writers = _writers(texts, words, fewest)
    author, others = writers.author, writers.others
    models = {label: Writing.of_samples(of) for label, of in (generated or {}).items()}
    apart = writers.training is not None
    size, others, left_out = _size(words, fewest, writers, models)
    whole = Writing.of_documents([*texts.held_out, *texts.training]) if apart else author
    human = {texts.author: whole, **others}
    names = names_in([*texts.held_out, *texts.training, *(d for of in texts.others.values()
                                                        for d in of)])  # fmt: skip
    count = min(_MOST_FEATURES, max(FEWEST_FEATURES, size // _WORDS_PER_FEATURE))
    avoided = names | favoured(prompts, whole)
    reference = make_reference(human, size, 2 * count, avoided, seed)
    units = functools.partial(Units.of, words=reference.words)
    pools = _Pools(
        units(author), units(writers.training) if writers.training else None,
        {name: units(of) for name, of in others.items()},
        {label: units(of) for label, of in models.items()},
        reference, size,
    )  # fmt: skip
    kept = min(count, len(reference.words))
    main = _View(np.arange(kept))
    nouns = [i for i in range(kept) if reference.words[i].partition("'")[0] not in PRONOUNS]
    views = {
        "voice": main,
        "half as many words": _View(np.arange(kept // 2)),
        "twice as many words": _View(np.arange(len(reference.words))),
        "without pronouns": _View(np.array(nouns)),
        "Burrows's Delta": _View(np.arange(kept), burrows_delta),
    }
    if apart:  # no prompt is from these
        views["to the other chapters"] = _View(np.arange(kept), swapped=True)
    points = pools.distances(views, seed)
    draws = pools.resampled(main, resamples, seed)
    found = _figures(points, draws, list(models), len(others))
    found |= {
        "author": texts.author,
        "words": size,
        "words_asked": words,
        "features": kept,
        "first_features": list(reference.words[:12]),
        "chapters": len(texts.held_out),
        "others": {
            name: {"words": of.words, "distance": points["voice"].others[name]}
            for name, of in others.items()
        },
        "others_from": texts.others_from,
        "others_left_out": left_out,
        "without_loops": _without_loops(generated or {}, pools, main, points["voice"], seed),
        "imposters": pools.verification(main.columns, texts.author, seed),
    }
    if found["imposters"] and not found["told_apart"]:
        for asked in found["imposters"]["models"].values():
            asked["verdict"] = None
    found["warnings"] = _warnings(found, apart)
    found["sentence"] = sentence(found)
    return found


@dataclasses.dataclass(frozen=True)
class _Writers:
    """The human writers.

    Attributes:
        author: The held-out chapters.
        training: The author's other chapters, where there are enough.
        others: Other authors by name.
    """

    author: Writing
    training: Writing | None
    others: dict[str, Writing]


def _writers(texts: VoiceTexts, words: int, fewest: int) -> _Writers:
    author = Writing.of_documents(texts.held_out)
    training = Writing.of_documents(texts.training, _MOST_WORDS)
    others = {
        name: Writing.of_documents(documents, _MOST_WORDS)
        for name, documents in sorted(texts.others.items())
    }
    _check_apart(texts.author, author, training, others)
    enough = training.words >= max(fewest, min(words, author.words))
    return _Writers(author, training if enough else None, others)


def check_texts(texts: VoiceTexts, words: int = POOL_WORDS) -> None:
    """Whether the human texts are enough for a measurement.

    Raises:
        InputError: They are too short or of one author alone, or it is one text under two names.
    """
    _size(words, FEWEST_WORDS, _writers(texts, words, FEWEST_WORDS), {})


def _check_apart(
    name: str, author: Writing, training: Writing, others: Mapping[str, Writing]
) -> None:
    """Refuse too little text, and one text under two names."""
    total = author.words + training.words
    if not total:
        raise InputError(f"there is no text of {name}", "give files with text in them")
    if not others:
        raise InputError(
            f"there is nobody to tell {name} from",
            f"give texts of other authors with --others, of {FEWEST_OTHERS} at least",
        )
    known = {
        tuple(sentence)
        for writing in (author, training)
        for sentence in writing.sentences
        if len(sentence) >= 8
    }
    for other, writing in others.items():
        theirs = {tuple(sentence) for sentence in writing.sentences if len(sentence) >= 8}
        if theirs and len(theirs & known) > _SAME * min(len(theirs), len(known)):
            raise InputError(
                f"{other} holds the same text as {name}",
                "give texts of other authors with --others, a file for each",
            )


def _size(
    asked: int,
    fewest: int,
    writers: _Writers,
    models: Mapping[str, Writing],
) -> tuple[int, dict[str, Writing], list[str]]:
    """Words of a pool, the other authors that have so many, and those that don't."""
    # Without other chapters, those held out are halved; halves of chapters are not quite equal.
    author, training, others = writers.author, writers.training, writers.others
    own = int(0.45 * author.words) if training is None else min(author.words, training.words)
    lengths = {"the author": own, **{label: of.words for label, of in models.items()}}
    shortest = min(lengths, key=lambda name: lengths[name])
    if lengths[shortest] < fewest:
        raise InputError(
            f"{shortest} has text for pools of {lengths[shortest]:,} words, and below "
            f"{fewest:,} no voice can be told",
            "give more chapters" if shortest == "the author" else "let more be written",
        )
    size = min(max(asked, fewest), lengths[shortest])
    ranked = sorted((of.words for of in others.values()), reverse=True)
    enough = [words for words in ranked if words >= fewest]
    if not enough:
        raise InputError(f"no other author has {fewest:,} words", "give longer texts with --others")
    size = min(size, enough[:FEWEST_OTHERS][-1])
    kept = {name: of for name, of in others.items() if of.words >= size}
    return size, kept, sorted(set(others) - set(kept))


@dataclasses.dataclass(frozen=True)
class _Distances:
    """Distances of pools to the author's held-out chapters.

    Attributes:
        author: Of the author's other chapters.
        others: Of each other author.
        models: Of each model.
        lengths: Mean length of the z-scores of each model, in deviations per word.
    """

    author: float
    others: dict[str, float]
    models: dict[str, float]
    lengths: dict[str, float]

    @property
    def floor(self) -> float:
        return float(np.mean(list(self.others.values())))

    def voice(self, label: str) -> float:
        """The place of a model on the scale."""
        return (self.floor - self.models[label]) / (self.floor - self.author)


@dataclasses.dataclass(frozen=True)
class _View:
    """A way to compare pools.

    Attributes:
        columns: Of the words that count.
        distance: Of two vectors of z-scores.
        swapped: Whether distances are to the author's other chapters instead of those held out.
    """

    columns: Ints
    distance: Callable[[Floats, Floats], float] = cosine_delta
    swapped: bool = False


@dataclasses.dataclass(frozen=True)
class _Pools:
    """All writers of a measurement, counted.

    Attributes:
        author: The held-out chapters.
        training: The author's other chapters; None where the held-out ones are halved instead.
        others, models: By name.
        reference: The words.
        size: Words of a pool.
    """

    author: Units
    training: Units | None
    others: dict[str, Units]
    models: dict[str, Units]
    reference: Reference
    size: int

    def _sides(self, generator: Generator) -> tuple[Units, Units]:
        """The held-out chapters and the author's others, or two halves of similar length."""
        if self.training is not None:
            return self.author, self.training
        numbers = np.unique(self.author.chapters)
        lengths = np.bincount(self.author.chapters, weights=self.author.lengths)
        sides: tuple[list[int], list[int]] = ([], [])
        totals = [0.0, 0.0]
        order = generator.permutation(numbers)
        for number in sorted(order.tolist(), key=lambda n: -lengths[n] // 500):
            lighter = int(totals[1] < totals[0])
            sides[lighter].append(number)
            totals[lighter] += float(lengths[number])
        swap = int(generator.integers(2))
        return (
            self.author.only(np.array(sides[swap])),
            self.author.only(np.array(sides[1 - swap])),
        )

    def distances(self, views: Mapping[str, _View], seed: int) -> dict[str, _Distances]:
        """Means over random pools, for each way to compare them."""
        draws: dict[str, list[_Distances]] = {name: [] for name in views}
        for number in range(_DRAWS):
            generator = np.random.default_rng((seed, number))
            humans = [*self._sides(generator), *self.others.values()]
            drawn = [self._z(units, self.size, generator) for units in humans]
            for units in self.models.values():
                drawn.append(self._z(units, self.size, np.random.default_rng((seed, number, 1))))
            for name, view in views.items():
                draws[name].append(self._compared(drawn, view))
        return {name: _mean(found) for name, found in draws.items()}

    def resampled(self, view: _View, resamples: int, seed: int) -> list[_Distances]:
        """Distances between half-samples: of chapters, of prompts (the same for all models)."""
        found = []
        for number in range(resamples):
            generator = np.random.default_rng((seed, number))
            humans = [*self._sides(generator), *self.others.values()]
            drawn = [self._z(u.half(generator), self.size // 2, generator) for u in humans]
            for units in self.models.values():
                same = np.random.default_rng((seed, number, 1))
                drawn.append(self._z(units.half(same), self.size // 2, same))
            one = self._compared(drawn, view)
            names = list(one.others)
            chosen = generator.integers(len(names), size=len(names)).tolist()
            again = {f"{place}": one.others[names[index]] for place, index in enumerate(chosen)}
            found.append(dataclasses.replace(one, others=again))
        return found

    def _z(self, units: Units, words: int, generator: Generator) -> Floats:
        return self.reference.z(units.pool(words, generator))

    def _compared(self, drawn: Sequence[Floats], view: _View) -> _Distances:
        profile, *rest = (z[view.columns] for z in drawn)
        if view.swapped:
            profile, rest[0] = rest[0], profile
        own, *far = (view.distance(z, profile) for z in rest)
        lengths = [float(np.sqrt((z**2).mean())) for z in rest[len(self.others) + 1 :]]
        return _Distances(
            own,
            dict(zip(self.others, far, strict=False)),
            dict(zip(self.models, far[len(self.others) :], strict=True)),
            dict(zip(self.models, lengths, strict=True)),
        )

    def verification(self, columns: Ints, author: str, seed: int) -> dict[str, Any] | None:
        """General Imposters: is each model's pool the author's? None where there are too few."""
        generator = np.random.default_rng(seed)
        own = self.author if self.training is None else self.author.joined(self.training)
        human = {
            name: self.reference.z(units.pools(self.size, MOST_POOLS, generator))[:, columns]
            for name, units in {author: own, **self.others}.items()
        }
        asked = {
            label: self._z(units, self.size, np.random.default_rng(seed))[columns]
            for label, units in self.models.items()
        }
        return imposters.verify(human, author, asked, seed)


def _mean(found: Sequence[_Distances]) -> _Distances:
    def means(name: str) -> dict[str, float]:
        keys = getattr(found[0], name)
        return {key: float(np.mean([getattr(one, name)[key] for one in found])) for key in keys}

    author = float(np.mean([one.author for one in found]))
    return _Distances(author, means("others"), means("models"), means("lengths"))


def _interval(point: float, draws: Sequence[float]) -> list[float]:
    """A 95 % interval about a point: half-samples' distances are larger, but vary as much."""
    low, high = np.percentile(draws, [2.5, 97.5]) - np.mean(draws)
    return [point + float(low), point + float(high)]


def _entry(point: float, draws: Sequence[float]) -> dict[str, Any]:
    return {"value": point, "ci95": _interval(point, draws)}


def _figures(
    points: Mapping[str, _Distances], draws: Sequence[_Distances], models: list[str], others: int
) -> dict[str, Any]:
    """Distances, scale and differences, with their intervals."""
    point = points["voice"]
    author = _entry(point.author, [one.author for one in draws])
    floor = _entry(point.floor, [one.floor for one in draws])
    distances: dict[str, Any] = {"author": author, "others": floor}
    for label in models:
        distances[label] = _entry(point.models[label], [one.models[label] for one in draws])
        distances[label]["z_length"] = point.lengths[label]
    apart = author["ci95"][1] < floor["ci95"][0]
    scaled = apart and others >= FEWEST_OTHERS
    # Where two half-samples lie beside each other by chance the scale has no length.
    wide = [one for one in draws if one.floor - one.author > 0.1 * (point.floor - point.author)]
    voice, differences = {}, {}
    for label in models if scaled else ():
        voice[label] = _entry(point.voice(label), [one.voice(label) for one in wide])
    for label in models[1:]:
        gain = [one.models[models[0]] - one.models[label] for one in draws]
        nearer = point.models[models[0]] - point.models[label]
        differences[label] = {"nearer": _entry(nearer, gain)}
        if scaled:
            differences[label]["voice"] = _entry(
                point.voice(label) - point.voice(models[0]),
                [one.voice(label) - one.voice(models[0]) for one in wide],
            )
    checks = {
        name: {
            "told_apart": found.author < found.floor,
            "voice": {label: found.voice(label) for label in models} if scaled else {},
        }
        for name, found in points.items()
        if name != "voice"
    }
    return {
        "told_apart": apart,
        "distances": distances,
        "voice": voice if scaled and models else None,
        "differences": differences,
        "checks": checks,
    }


def _without_loops(
    generated: Mapping[str, Sequence[Sample]],
    pools: _Pools,
    view: _View,
    point: _Distances,
    seed: int,
) -> dict[str, Any]:
    """Of models with texts that end in loops: how many, and the voice of the others."""
    found: dict[str, Any] = {}
    for label, samples in generated.items():
        rest = [sample for sample in samples if not sample.loops]
        if len(rest) == len(samples):
            continue
        found[label] = {"loops": len(samples) - len(rest), "texts": len(samples), "voice": None}
        writing = Writing.of_samples(rest)
        if writing.words >= pools.size and point.floor != point.author:
            units = {label: Units.of(writing, pools.reference.words)}
            alone = dataclasses.replace(pools, models=units)
            found[label]["voice"] = alone.distances({"": view}, seed)[""].voice(label)
    return found


def _warnings(found: Mapping[str, Any], apart: bool) -> list[str]:
    """What a reader of the figures must know."""
    said = []
    if found["words"] < POOL_WORDS:
        said.append(
            f"pools of {found['words']:,} words are short: novels need {POOL_WORDS:,} to be told "
            "apart with confidence"
        )
    if found["chapters"] < 5:
        count = counted(found["chapters"], "chapter")
        said.append(
            f"{count} of the author held out is little to go by: another would move the scale, and "
            "the intervals are too narrow"
        )
    if not apart and len(found["distances"]) > 2:
        said.append(
            "the author has no other chapters at hand: those held out were compared by halves"
        )
    if len(found["others"]) < FEWEST_OTHERS:
        said.append(
            f"a scale needs {FEWEST_OTHERS} other authors of {found['words']:,} words: only "
            "distances are given"
        )
    above = [label for label, entry in (found["voice"] or {}).items() if entry["value"] > 1.1]
    said += [
        f"{label} is nearer than the author's other chapters: copied, of few different words, or "
        "led by its prompts from the same chapters? See what was copied, and the checks"
        for label in above
    ]
    if found["others_left_out"]:
        said.append(f"too short, and left out: {', '.join(found['others_left_out'])}")
    return said


def sentence(found: Mapping[str, Any]) -> str:
    """The result in one sentence."""
    size = f"pools of {found['words']:,} words"
    if not found["told_apart"]:
        return f"{found['author']} can't be told from the others at this length ({size})"
    if found["voice"] is None:
        return f"{found['author']} can be told from the others ({size})"
    labels = list(found["voice"])
    values = " → ".join(f"voice({label}) {found['voice'][label]['value']:.2f}" for label in labels)
    if len(labels) == 1:
        low, high = found["voice"][labels[0]]["ci95"]
        values += f" (95 % {low:.2f} to {high:.2f})"
    else:
        change = found["differences"][labels[-1]]["voice"]
        low, high = change["ci95"]
        values += f" (difference {change['value']:+.2f}, 95 % {low:+.2f} to {high:+.2f})"
    return f"{values}, of a scale from other authors (0) to the author's own chapters (1); {size}"
