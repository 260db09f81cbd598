"""Occlusion: what a target's score loses when a piece of the text is replaced.

The piece (a token, a word, a sentence, the prompt) is replaced in place and never deleted, since
that would move everything after it. One pass per piece serves all targets. A score is the target's
log-probability in the text as it is, less that with the piece replaced: positive where the piece
supports the target. Pieces that say the same thing twice get little each; sentences and parts are
there for that.

The passes are in fp32 whatever the model's precision.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np

from ...console import CountCallback
from ...data.text import paragraph_ends, sentence_ends
from ...errors import InputError
from ...models.loaded_model import LoadedModel
from ..prefix_cache import Predictions, PrefixCache
from ..registry import Analysis, Attribution, Method, Score
from ..subject import Subject, with_targets, words_of
from .perturbation import DISTRIBUTIONS, draw_replacements

UNITS = ("token", "word", "sentence", "part")
REPLACEMENTS = ("end_of_text", *DISTRIBUTIONS)


def leave_one_out(
    model: LoadedModel,
    subject: Subject,
    *,
    unit: str = "word",
    replacement: str = "end_of_text",
    samples: int = 10,
    seed: int = 0,
    first: int = 1,
    progress: CountCallback | None = None,
) -> Attribution:
    """What each piece of the text does for each target.

    Args:
        model: The model, in ``eval()`` mode; its adapter works unless this is called within
            ``model.base()``.
        subject: The text with its targets.
        unit: ``token``, ``word``, ``sentence`` or ``part`` (prompt and what was written after it).
        replacement: What stands in its place: ``end_of_text``, or random tokens by one of the
            replacement distributions, over which the score is averaged.
        samples: Random replacements of each piece, at least 2.
        seed: Of the random numbers.
        first: Pieces that end before this position stay, and score 0.
        progress: Called with the tokens done and those to do.

    Returns:
        Scores of tokens: each piece's in equal shares on its tokens before the target, so that
        they sum to the piece's. ``settings["units"]`` lists the pieces (``text``, ``tokens``),
        ``settings["unit_scores"]`` their scores ``[targets][units]``.

    Raises:
        InputError: No such unit or replacement, too few samples, no targets.
    """
    steps = leaving_one_out(
        model, subject, unit=unit, replacement=replacement, samples=samples, seed=seed,
        first=first, progress=progress,
    )  # fmt: skip
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: Attribution = end.value
            return found


def leaving_one_out(
    model: LoadedModel,
    subject: Subject,
    *,
    unit: str = "word",
    replacement: str = "end_of_text",
    samples: int = 10,
    seed: int = 0,
    first: int = 1,
    cache: PrefixCache | None = None,
    progress: CountCallback | None = None,
) -> Generator[None, None, Attribution]:
    """The same as :func:`leave_one_out`, a pass at a time, for who shares the model.

    A ``cache`` of the subject, with predictions at its targets, spares reading the text again.
    """
    if replacement not in REPLACEMENTS:
        raise InputError(
            f"there is no replacement '{replacement}'", f"choose one of {', '.join(REPLACEMENTS)}"
        )
    if samples < 2:
        raise InputError(f"the number of samples is {samples}", "it must be at least 2")
    subject = with_targets(subject, subject.targets)
    if model.device.precision != "fp32":
        model = model.in_precision("fp32")
    units = [tokens for tokens in units_of(subject, unit) if tokens[-1] >= first]
    fills = _fills(model, subject, replacement, samples, seed)
    # [targets, units, fills]
    scores = yield from _scores(model, subject, units, fills, cache, progress)
    means = scores.mean(2)
    settings: dict[str, Any] = {
        "unit": unit,
        "replacement": replacement,
        "units": [{"text": _text(subject, tokens), "tokens": tokens} for tokens in units],
        "unit_scores": means.tolist(),
        "precision": "fp32",
    }
    error = None
    if replacement != "end_of_text":
        settings |= {"samples": samples, "seed": seed}
        error = _shared(subject, units, scores.std(2, ddof=1) / np.sqrt(samples))
    return OCCLUSION.attribution(_shared(subject, units, means), settings, standard_error=error)


def units_of(subject: Subject, unit: str) -> list[list[int]]:
    """The pieces of a text, each as the positions of its tokens; the start token is in none.

    Args:
        subject: The text.
        unit: ``token``, ``word``, ``sentence`` or ``part``.

    Raises:
        InputError: There is no such unit.
    """
    if unit not in UNITS:
        raise InputError(f"there is no unit '{unit}'", f"choose one of {', '.join(UNITS)}")
    if unit == "token":
        return [[position] for position in range(1, subject.length)]
    words = words_of(subject)[1:]
    if unit == "word":
        return [list(word.tokens) for word in words]
    if unit == "part":
        groups = [[word for word in words if word.written is written] for written in (False, True)]
        return [[token for word in group for token in word.tokens] for group in groups if group]
    ends = sorted([*sentence_ends(subject.text), *paragraph_ends(subject.text)])
    sentences: dict[int, list[int]] = {}
    for word in words:
        number = int(np.searchsorted(ends, word.span[0], side="right"))
        sentences.setdefault(number, []).extend(word.tokens)
    return list(sentences.values())


def _fills(
    model: LoadedModel, subject: Subject, replacement: str, samples: int, seed: int
) -> np.ndarray:
    """What stands at each position when it is replaced, ``[fills, tokens]``."""
    ids = np.array(subject.ids, dtype=np.int64)
    if replacement == "end_of_text":
        return np.full((1, len(ids)), model.eos_id, dtype=np.int64)
    positions = range(1, len(ids))
    drawn = draw_replacements(
        replacement, model, subject.ids, positions, samples=samples, seed=seed
    )
    if replacement != "model" and len(drawn):
        # One sequence serves all positions, but a piece should not repeat a single token. Each
        # row is put in another order, which changes nothing about its distribution.
        generator = np.random.default_rng([seed, 1])
        drawn = generator.permuted(drawn, axis=1)
    return np.concatenate([np.repeat(ids[:1, None], samples, 1), drawn]).T


def _scores(
    model: LoadedModel,
    subject: Subject,
    units: list[list[int]],
    fills: np.ndarray,
    cache: PrefixCache | None,
    progress: CountCallback | None,
) -> Generator[None, None, np.ndarray]:
    """How much each replaced piece lowers each target's score, ``[targets, units, fills]``."""
    indices = sorted({target.position - 1 for target in subject.targets})
    cache = cache or PrefixCache(model, subject.ids, indices)
    predictions = Predictions(cache)
    variants = np.tile(np.array(subject.ids, dtype=np.int64), (len(units) * len(fills), 1))
    for index, tokens in enumerate(units):
        rows = slice(index * len(fills), (index + 1) * len(fills))
        variants[rows, tokens] = fills[:, tokens]
    drops = np.zeros((len(variants), len(subject.targets)))
    for part in cache.passes(variants, progress):
        drops[part.rows] = predictions.drops(part, subject.targets)
        yield
    return drops.T.reshape(len(subject.targets), len(units), len(fills))


def _shared(subject: Subject, units: list[list[int]], scores: np.ndarray) -> np.ndarray:
    """Scores of pieces ``[targets, units]`` on their tokens before the target, in equal shares."""
    result = np.zeros((len(subject.targets), subject.length))
    for row, target in enumerate(subject.targets):
        for column, tokens in enumerate(units):
            before = [token for token in tokens if token < target.position]
            if before:
                result[row, before] = scores[row, column] / len(before)
    return result


def _text(subject: Subject, tokens: list[int]) -> str:
    """The characters that some tokens stand for."""
    return subject.text[subject.spans[tokens[0]][0] : subject.spans[tokens[-1]][1]]


def compute(analysis: Analysis) -> None:
    """Leave each piece of the text out."""
    for model in analysis.models:
        with analysis.model(model):
            found = leave_one_out(
                analysis.fp32, analysis.subject, unit=analysis.settings.unit,
                progress=analysis.progress("leaving words out"),
            )  # fmt: skip
        analysis.add(found, model)


OCCLUSION = Score(
    "occlusion", "occlusion",
    "How much log-probability is lost when the word is taken out (replaced where it stands).",
    summary="by leaving out", axis="{score} lost, nats",
)  # fmt: skip
METHOD = Method(
    name="occlusion",
    title="occlusion",
    description="What the score of the target loses without a piece of the text.",
    compute=compute,
    scores=(OCCLUSION,),
    quick=True,
)
