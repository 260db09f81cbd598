"""Why a word is there: a quick answer by one method, in a few seconds.

The method is occlusion in fp32 (:mod:`.methods.occlusion`): what the word's log-probability loses
without each piece of the text just before it. How far that can be trusted is measured on the spot,
by comprehensiveness at one size (DeYoung et al. 2020, "ERASER", arXiv 1911.03429): the pieces that
are ranked first are replaced together, and so are as many random ones. The whole test, over all
sizes and two replacement distributions, is :mod:`.methods.faithfulness`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from .forward import predictions_from
from .methods.occlusion import leaving_one_out
from .native_passes import native_passes
from .prefix_cache import Predictions, PrefixCache
from .subject import Subject, Target, read, tokens_of, with_targets

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel

# Tokens before the word that are read.
_CONTEXT = 192
# Tokens before the word that are replaced, piece by piece: enough for what decides most words, few
# enough for a few seconds.
_VIEW = 40
_MOST_TOKENS = 32  # that are explained together
_DRAWS = 20  # random choices that the ranking is compared with
_BEATEN = 19  # of them, to be better than chance
_FIRST = 0.2  # share of the pieces that is replaced together
_LEAST_CHOICES = 40  # with fewer ways to choose the test can't tell


@dataclasses.dataclass(frozen=True)
class Piece:
    """A piece of the text before the word.

    Attributes:
        text: Its text.
        span: Its characters in the text that was read.
        tokens: Positions of its tokens.
        score: Log-probability that the word loses without it, in nats.
    """

    text: str
    span: tuple[int, int]
    tokens: tuple[int, ...]
    score: float


@dataclasses.dataclass(frozen=True)
class Trust:
    """How far the ranking of the pieces can be trusted.

    Attributes:
        pieces: Number of pieces, ranked first, that were replaced together.
        loss: Log-probability that the word loses without them, in nats.
        chance: The mean of that for as many random pieces.
        beaten: Number of random choices that cost less.
        draws: Number of random choices; 0 where there are too few pieces to tell.
        whole: What it loses without all pieces together.
        summed: The sum of the pieces' scores, which is ``whole`` where nothing is said twice.
    """

    pieces: int
    loss: float
    chance: float
    beaten: int
    draws: int
    whole: float
    summed: float

    @property
    def better(self) -> bool:
        """Whether the ranking is better than chance."""
        return bool(self.draws) and self.beaten >= _BEATEN

    @property
    def sentence(self) -> str:
        """The figures in a sentence."""
        together = (
            f"All pieces together account for {self.whole:.2f} nats, one by one for "
            f"{self.summed:.2f}."
        )
        if not self.draws:
            return f"Too little stands before it to tell this from chance. {together}"
        verdict = "Better than chance" if self.better else "No better than chance"
        first = "the piece" if self.pieces == 1 else f"the {self.pieces} pieces"
        return (
            f"{verdict}: without {first} ranked first it loses {self.loss:.2f} nats, more than "
            f"without {self.beaten} of {self.draws} random choices ({self.chance:.2f} on average). "
            f"{together}"
        )


@dataclasses.dataclass(frozen=True)
class Reason:
    """What a word came from.

    Attributes:
        target: The token that is explained; the tokens, for several words.
        probability: Its probability, 0…1; of several tokens the product.
        rank: Number of likelier tokens, plus one; of the first of several.
        others: What else could have come in its place, with its probability.
        unit: ``token``, ``word`` or ``sentence``.
        pieces: The pieces of the text before it, in order; empty if nothing stands before it.
        trust: Where it was asked for.
    """

    target: str
    probability: float
    rank: int
    others: list[tuple[str, float]]
    unit: str
    pieces: list[Piece]
    trust: Trust | None = None


def reasons(
    model: LoadedModel,
    text: str,
    span: tuple[int, int],
    *,
    unit: str = "word",
    view: int = _VIEW,
    judge: bool = False,
) -> Generator[None, None, Reason]:
    """Why a word or a few words of a text are there; yields between passes.

    Args:
        model: The model.
        text: The text; what follows the span is not read.
        span: Characters of the word. Of one word the first token is explained, on which the others
            depend; of several words all tokens.
        unit: What is replaced at once: ``token``, ``word`` or ``sentence``.
        view: Tokens before the word whose pieces are replaced; sentences are replaced in all that
            is read.
        judge: Whether to measure how far the answer can be trusted.

    Raises:
        InputError: There is no token in the span, or too many.
    """
    exact = _exact(model)
    whole = read(exact, text)
    places = [
        position
        for position, (first, last) in enumerate(whole.spans)
        if position and first < span[1] and last > span[0]
    ]
    if len(text[span[0] : span[1]].split()) < 2:
        places = places[:1]
    if len(places) > _MOST_TOKENS:
        raise InputError(
            f"{len(places)} tokens are too many for a quick answer",
            f"choose a few words, of {_MOST_TOKENS} tokens at most, or the full explanation",
        )
    subject, places = _cut(whole, places)
    yield
    cache = PrefixCache(exact, subject.ids, sorted({t.position - 1 for t in subject.targets}))
    changes = Predictions(cache)
    said = predictions_from(changes.log_probabilities, subject.targets, 4)
    yield
    shown = exact.tokenizer.decode
    tokens = [target.id for target in subject.targets]
    likeliest = [
        (shown([token]).strip(), p) for token, p in said[0].likeliest if token != tokens[0]
    ]
    reason = Reason(
        target=shown(tokens).strip(),
        probability=math.exp(sum(one.log_probability for one in said)),
        rank=said[0].rank,
        others=likeliest,
        unit=unit,
        pieces=[],
    )
    before = places[0] if places else 0
    if before <= 1:
        return reason
    first = 1 if unit == "sentence" else max(1, before - view)
    found = yield from leaving_one_out(exact, subject, unit=unit, first=first, cache=cache)
    pieces = []
    for one, scores in zip(
        found.settings["units"], np.transpose(found.settings["unit_scores"]), strict=True
    ):
        own = [token for token in one["tokens"] if token < before]
        if own:
            at = subject.spans[own[0]][0], subject.spans[own[-1]][1]
            pieces.append(Piece(subject.text[slice(*at)], at, tuple(own), float(scores.sum())))
    trust = (yield from _trust(cache, changes, subject, pieces)) if judge else None
    return dataclasses.replace(reason, pieces=pieces, trust=trust)


def _cut(whole: Subject, places: Sequence[int]) -> tuple[Subject, list[int]]:
    """The last part of a text before the last of ``places``, with these as targets."""
    if not places:
        return with_targets(whole, []), []
    begin, last = max(1, places[0] - _CONTEXT), places[-1]
    subject = dataclasses.replace(
        whole,
        ids=(whole.ids[0], *whole.ids[begin:last]),
        spans=(whole.spans[0], *whole.spans[begin:last]),
        view_start=whole.spans[begin][0],
    )
    moved = [place - begin + 1 for place in places]
    targets = [Target(at, whole.ids[place]) for at, place in zip(moved, places, strict=True)]
    return with_targets(subject, targets), moved


def _exact(model: LoadedModel) -> LoadedModel:
    """The model in fp32; in its light form where our own forward pass knows it."""
    light = model.in_precision("fp32", light=True)
    return light if native_passes(light) is not None else model.in_precision("fp32")


def _trust(
    cache: PrefixCache, said: Predictions, subject: Subject, pieces: Sequence[Piece]
) -> Generator[None, None, Trust]:
    """Replace the pieces ranked first together, as many random ones, and all."""
    count = max(1, round(_FIRST * len(pieces)))
    told = math.comb(len(pieces), count) >= _LEAST_CHOICES
    order = sorted(range(len(pieces)), key=lambda i: -pieces[i].score)
    generator = np.random.default_rng(len(pieces))
    draws = [generator.permutation(len(pieces))[:count] for _ in range(_DRAWS * told)]
    ids = np.array(subject.ids, dtype=np.int64)
    variants = np.tile(ids, (2 + len(draws), 1))
    for row, chosen in enumerate([order[:count], range(len(pieces)), *draws]):
        tokens = [token for piece in chosen for token in pieces[piece].tokens]
        variants[row, tokens] = cache.model.eos_id
    drops = np.zeros(len(variants))
    for part in cache.passes(variants):
        drops[part.rows] = said.drops(part, subject.targets).sum(1)
        yield
    random = drops[2:]
    return Trust(
        pieces=count,
        loss=float(drops[0]),
        chance=float(random.mean()) if told else 0.0,
        beaten=int((random < drops[0]).sum()),
        draws=len(random),
        whole=float(drops[1]),
        summed=sum(piece.score for piece in pieces),
    )


def why(
    model: LoadedModel,
    text: str,
    word: str,
    count: int = 6,
    *,
    view: int = _VIEW,
    least: float = 0.05,
) -> str:
    """Why a word of a text is there.

    Args:
        model: The model.
        text: The text that holds the word, to its last place; what follows it is not read.
        word: The word.
        count: How many words to name.
        view: Tokens before the word that are replaced, word by word.
        least: Changes below this are not named, in nats.

    Returns:
        Some lines: how likely it was, what else could have come, what spoke for and against it.

    Raises:
        InputError: The word is not in the text.
    """
    whole = read(_exact(model), text)
    first = tokens_of(whole, word)[0]
    steps = reasons(model, text, whole.spans[first], view=view)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return as_lines(end.value, count, least)


def as_lines(reason: Reason, count: int = 6, least: float = 0.05) -> str:
    """A reason as lines for the terminal.

    Args:
        reason: The reason.
        count: Number of pieces to name, for it and against it.
        least: Changes below this are not named, in nats.
    """
    others = ", ".join(f"{text!r} {p:.0%}" for text, p in reason.others)
    lines = [
        f"{reason.target!r} had a probability of "
        f"{reason.probability:.1%} (rank {reason.rank}); others: {others}"
    ]
    if not reason.pieces:
        return lines[0] + "\nNothing stands before it."
    order = sorted(reason.pieces, key=lambda piece: -abs(piece.score))
    for name, sign in (("for it", 1), ("against it", -1)):
        some = [piece for piece in order if piece.score * sign > least][:count]
        if some:
            told = ", ".join(f"{one.text.strip() or '⏎'} {one.score:+.2f}" for one in some)
            lines.append(f"{name}: {told}")
    if len(lines) == 1:
        return lines[0] + "\nNone of the words just before it matters by itself."
    return "\n".join([*lines, "in nats: what it loses without each of these words"])
