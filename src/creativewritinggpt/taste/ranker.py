"""A ranker of drafts: a few named habits of style, weighed by what the writer took before.

Ten to a hundred choices can teach few parameters, so a draft is some twenty figures that don't grow
with its length. A decision is one softmax over all that was offered (a conditional logit: McFadden
1974, "Conditional logit analysis of qualitative choice behavior"; of two texts it is a logistic
regression on their difference), with a Gaussian prior on the weights. It is convex and found by
Newton's method in milliseconds. Who takes the first on the screen without looking shows as a weight
of its own, which is left out when drafts are ordered.

Whether anything was learnt is told by choices that the ranker has not seen: each in turn, by folds.
Where it doesn't predict them beyond chance it orders nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..data.names import action_forms, quoted
from ..errors import InputError
from ..evaluation.metrics import ngrams, sentence_lengths, words_of
from ..story.choice_files import read_any
from ..story.decisions import Decision, Decisions

Floats = npt.NDArray[np.float64]

FEWEST = 10
"""Choices below which nothing is learnt."""

_PRIOR = 4.0  # of the weights, in 1 / variance; habits are in standard deviations
_FOLDS = 10
_LEAST_WORDS = 5
_NEAR = 40  # words within which a repetition counts: in a longer text more of them happen
_SURE = 1.645  # standard errors: one writer in twenty who picks at random is believed
_KINDS = frozenset({"pick", "retry", "undo", "edit"})


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NAMED = {
    "I and we": _words("i me my mine we us our i'm i'd i'll i've we're we'd we'll"),
    "you": _words("you your yours you're you'd you'll you've"),
    "he, she and they": _words("he him his she her hers they them their he's she's he'd she'd"),
    "negations": _words("not no never nothing nobody none nor cannot"),
    "the past (was, had, said …)": _words("was were had did said went came saw felt looked stood"),
    "the present (is, has, says …)": _words(
        "is are am has have do does says goes comes sees feels"
    ),
    "words of the senses": _words(
        "smell smelled smelt scent taste tasted sound sounds heard cold warm hot wet rough soft "
        "sweet bitter bright dark loud quiet silent light shadow salt smoke dust skin touch"
    ),
}
_SIGNS = {
    "commas": r",", "semicolons and colons": r"[;:]", "exclamation marks": r"!",
    "question marks": r"\?", "dashes": r"[—–]|--+", "ellipses": r"…|\.\.\.+",
}  # fmt: skip
HABITS = (
    "long sentences", "short sentences (under 6 words)", "dialogue", "adverbs in -ly",
    "action verbs", "long words", "varied words", "repetition", "paragraphs", "contractions",
    *_NAMED, *_SIGNS,
)  # fmt: skip


_UNCOUNTED = frozenset({"dialogue", "repetition", *_NAMED})


def _liked(habit: str, weight: float) -> str:
    if weight > 0:
        return f"more {habit}"
    counted = habit not in _UNCOUNTED or habit in ("negations", "words of the senses")
    return f"{'fewer' if counted else 'less'} {habit}"


@functools.lru_cache(maxsize=4096)
def features(text: str) -> Floats:
    """[habits] figures of a draft that don't depend on its length; see :data:`HABITS`."""
    words = words_of(text)
    count = max(1, len(words))
    lengths = np.array(sentence_lengths(text) or [0])
    said = sum(len(words_of(text[start:end])) for start, end in quoted(text))
    forms = action_forms()
    # Among 25 words at a time, or more words would mean less variety.
    windows = [words[i : i + 25] for i in range(max(1, len(words) - 24))]
    varied = [len(set(window)) / max(1, len(window)) for window in windows]
    last: dict[object, int] = {}
    repeated = 0
    for place, gram in enumerate(ngrams(words, 3)):
        repeated += place - last.get(gram, -_NEAR) < _NEAR
        last[gram] = place
    adverbs = sum(len(word) > 4 and word.endswith("ly") for word in words)
    values = [
        math.log1p(float(lengths.mean())),
        float((lengths < 6).mean()),
        said / count,
        adverbs / count,
        sum(word in forms for word in words) / count,
        sum(map(len, words)) / count,
        sum(varied) / len(varied),
        repeated / count,
        text.strip().count("\n") / count,
        sum("'" in word and not word.endswith("'s") for word in words) / count,
        *(sum(word in listed for word in words) / count for listed in _NAMED.values()),
        *(len(re.findall(sign, text)) / count for sign in _SIGNS.values()),
    ]
    return np.array(values, dtype=np.float64)


@dataclasses.dataclass(frozen=True)
class Trial:
    """How well choices were predicted that had not been learnt from.

    Attributes:
        choices: How many.
        first: Share in which the text that was taken is put first; ties count their share.
        chance: That share for an order at random.
        error: Standard error of what ``first`` is above chance.
    """

    choices: int
    first: float
    chance: float
    error: float

    @property
    def beyond_chance(self) -> bool:
        """Whether that is hardly chance."""
        return self.choices >= FEWEST and self.first - self.chance > _SURE * self.error


@dataclasses.dataclass(frozen=True)
class Ranker:
    """Scores of drafts.

    Attributes:
        mean: [habits] of all texts learnt from.
        spread: [habits] their standard deviation.
        weights: [habits] by which a deviation raises the score.
        first_place: What standing first on the screen adds; not used for scores.
        trial: How well unseen choices are predicted.
    """

    mean: Floats
    spread: Floats
    weights: Floats
    first_place: float
    trial: Trial

    def scores(self, texts: Sequence[str]) -> list[float]:
        """A score for each text, higher for what the writer would rather take."""
        if not texts:
            return []
        table = (np.stack([features(text) for text in texts]) - self.mean) / self.spread
        found: list[float] = (table @ self.weights).tolist()
        return found

    def order(self, texts: Sequence[str]) -> list[int]:
        """Indices of the texts, best first; as they are where nothing was learnt."""
        if not self.trial.beyond_chance:
            return list(range(len(texts)))
        scores = self.scores(texts)
        return sorted(range(len(texts)), key=lambda index: -scores[index])

    def liked(self, most: int = 3) -> list[tuple[str, float]]:
        """The habits that weigh most, with their weights."""
        ranked = np.argsort(-np.abs(self.weights))[:most]
        return [(HABITS[index], float(self.weights[index])) for index in ranked.tolist()]

    @property
    def sentence(self) -> str:
        """What was learnt, and how sure it is."""
        trial = self.trial
        if trial.choices < FEWEST:
            few = "1 choice is" if trial.choices == 1 else f"{trial.choices} choices are"
            return f"{few} too few to learn from; {FEWEST} are the least"
        told = (
            f"of {trial.choices} choices held out in turn, what you took comes first in "
            f"{trial.first:.0%} (by chance {trial.chance:.0%})"
        )
        if not trial.beyond_chance:
            return f"nothing is learnt yet: {told}, which may be chance"
        habits = ", ".join(_liked(name, weight) for name, weight in self.liked())
        return f"{told}; you take {habits}"


@dataclasses.dataclass(frozen=True)
class _Table:
    """Decisions as figures, padded to the same number of texts.

    Attributes:
        x: [decisions, texts, habits and place]; the text that was taken is the first.
        there: [decisions, texts] which are no padding.
        weights: [decisions].
    """

    x: Floats
    there: npt.NDArray[np.bool_]
    weights: Floats

    def rows(self, chosen: npt.NDArray[np.int64]) -> _Table:
        return _Table(self.x[chosen], self.there[chosen], self.weights[chosen])

    def log_shares(self, weights: Floats) -> Floats:
        """[decisions, texts] log-probability of each text to be taken."""
        scores = np.where(self.there, self.x @ weights, -np.inf)
        top = scores.max(1, keepdims=True)
        shares: Floats = scores - top - np.log(np.exp(scores - top).sum(1, keepdims=True))
        return shares


def usable(decisions: Sequence[Decision]) -> list[Decision]:
    """The decisions between texts of a few words or more."""
    return [
        one
        for one in decisions
        if one.kind in _KINDS
        and one.chosen is not None
        and one.rejected
        and all(len(words_of(text)) >= _LEAST_WORDS for text in (one.chosen, *one.rejected))
    ]


def learn(decisions: Sequence[Decision]) -> Ranker:
    """Learn from decisions; those with single words or without a text that was taken are left out.

    Args:
        decisions: From :func:`~..story.decisions.decisions` or a file of choices, oldest first.

    Raises:
        InputError: None can be learnt from.
    """
    used = usable(decisions)
    if not used:
        raise InputError(
            "there is no choice between drafts to learn from",
            "take some with /alt and /pick first; cwgpt choices FILE says what there is",
        )
    texts = [(one.chosen or "", *one.rejected) for one in used]
    raw = [np.stack([features(text) for text in offered]) for offered in texts]
    # Within a decision: what differs between stories was no choice.
    inner = np.concatenate([table - table.mean(0) for table in raw])
    mean = np.concatenate(raw).mean(0)
    spread = np.sqrt((inner**2).mean(0))
    spread = np.where(spread > 1e-9, spread, 1.0)
    most = max(map(len, texts))
    x = np.zeros((len(used), most, len(HABITS) + 1))
    there = np.zeros((len(used), most), dtype=bool)
    for row, (one, table) in enumerate(zip(used, raw, strict=True)):
        x[row, : len(table), :-1] = np.clip((table - mean) / spread, -4, 4)
        there[row, : len(table)] = True
        if one.place == 0:
            x[row, 0, -1] = 1
        elif one.place is not None and len(one.rejected) == one.shown - 1:
            x[row, 1, -1] = 1  # the rejected ones are in their order on the screen
    table_of = _Table(x, there, np.array([one.weight for one in used]))
    weights = fit(table_of.x, table_of.there, table_of.weights)
    return Ranker(mean, spread, weights[:-1], float(weights[-1]), _trial(table_of))


def learn_from(files: Sequence[str]) -> Ranker:
    """Learn from stories and files of choices.

    Raises:
        InputError: One can't be read, or none has a choice to learn from.
    """
    found = Decisions()
    for file in files:
        found.add(read_any(file))
    found.drop_contradicting()
    return learn(found.used)


def fit(x: Floats, there: npt.NDArray[np.bool_], weights: Floats, prior: float = _PRIOR) -> Floats:
    """The weights that make what was taken most probable, by Newton's method.

    Minimises - sum_d weight_d log softmax_d(first text) + prior / 2 |w|^2.

    Args:
        x: [decisions, texts, figures]; the text that was taken is the first.
        there: [decisions, texts] which texts are no padding.
        weights: [decisions].
        prior: Strength of the prior.
    """
    table = _Table(x, there, weights)
    found = np.zeros(x.shape[2])

    def loss(w: Floats) -> float:
        return float(prior / 2 * w @ w - weights @ table.log_shares(w)[:, 0])

    for _ in range(50):
        shares = np.exp(table.log_shares(found))  # [decisions, texts]
        mean = np.einsum("dt,dtf->df", shares, x)
        gradient = prior * found - weights @ (x[:, 0] - mean)
        outer = np.einsum("d,dt,dtf,dtg->fg", weights, shares, x, x, optimize=True)
        hessian = outer - (mean * weights[:, None]).T @ mean + prior * np.eye(len(found))
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while size > 1e-6 and loss(found - size * step) > loss(found) + 1e-12:
            size /= 2
        found = found - size * step
        if float(np.abs(step).max()) < 1e-9:
            break
    return found


def _trial(table: _Table) -> Trial:
    """Predict the choices of each fold from the others; a fold is every tenth choice."""
    count = len(table.weights)
    sizes = table.there.sum(1)
    weights = table.weights / table.weights.sum()
    chance = float(weights @ (1 / sizes))
    if count < FEWEST:
        return Trial(count, chance, chance, math.inf)
    firsts = np.zeros(count)
    rows = np.arange(count)
    for fold in range(min(_FOLDS, count)):
        out = rows % _FOLDS == fold
        rest, held_out = table.rows(rows[~out]), table.rows(rows[out])
        learnt = fit(rest.x, rest.there, rest.weights)
        learnt[-1] = 0  # by taste alone
        shares = held_out.log_shares(learnt)
        best = shares.max(1)
        firsts[out] = (shares[:, 0] == best) / (shares == best[:, None]).sum(1)
    # Under chance the first is right with 1/k of k texts, whatever the ranker.
    error = float(np.sqrt((weights**2) @ ((1 - 1 / sizes) / sizes)))
    return Trial(count, float(weights @ firsts), chance, error)
