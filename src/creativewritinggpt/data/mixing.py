"""Mixture of sources in an epoch, in shares of tokens.

Without weights an epoch holds every document once. With weights it holds about as many tokens as
there are, but no source more than four times over: further repeats teach little but its wording. A
source that is to give less than it has gives a random part, the same for the same seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError

TEMPERATURE = "temperature"
"""The key of ``mix`` that stands for shares in proportion to tokens ** (1 / temperature)."""

_MOST_EPOCHS = 4.0

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SourceShare:
    """Share of one source in an epoch; tokens count each document's end as one.

    Attributes:
        available, tokens: Its tokens, and those in the epoch.
        wanted, share: Its share of the tokens as the settings ask, and as it came out.
        documents, epochs: Its documents in the epoch, repeats counted, and passes over it.
        cut, continued: Documents longer than a row, and the share of tokens past a first row.
    """

    name: str
    available: int
    wanted: float
    share: float
    tokens: int
    documents: int
    epochs: float
    cut: int
    continued: float


@dataclass(frozen=True)
class Mixture:
    """Documents of an epoch and the share of each source.

    Attributes:
        documents: The numbers of its documents, repeats included.
        shares: What it holds of each source.
    """

    documents: Numbers
    shares: list[SourceShare]

    def to_dict(self) -> dict[str, Any]:
        """The shares by source, ready for JSON."""
        return {
            share.name: {key: value for key, value in asdict(share).items() if key != "name"}
            for share in self.shares
        }


def wanted_shares(
    available: Mapping[str, int], mix: Mapping[str, float] | None
) -> dict[str, float]:
    """Target share of the tokens of each source.

    Args:
        available: The tokens of each source.
        mix: Weights by source, sources without one being left out; or the one key
            ``temperature``; or None for what there is.

    Raises:
        InputError: A name is not among the sources, or no source with a weight has any text.
    """
    if mix is None:
        weights = {name: float(tokens) for name, tokens in available.items()}
    elif set(mix) == {TEMPERATURE}:
        if mix[TEMPERATURE] <= 0:
            raise InputError("mix: temperature must be above 0", "1 keeps the sources' own shares")
        largest = max(available.values(), default=1)
        weights = {
            name: (tokens / largest) ** (1 / mix[TEMPERATURE]) for name, tokens in available.items()
        }
    else:
        unknown = sorted(set(mix) - set(available))
        if unknown:
            raise InputError(
                f"mix names {', '.join(unknown)}, which is not among the sources read",
                f"they are: {', '.join(available)}",
            )
        weights = {name: float(mix.get(name, 0)) for name in available}
    weights = {name: weight if available[name] else 0.0 for name, weight in weights.items()}
    total = sum(weights.values())
    if total <= 0:
        raise InputError(
            "mix leaves nothing to train on", "give a source with text a weight above 0"
        )
    return {name: weight / total for name, weight in weights.items()}


def mix(
    sources: Sequence[str],
    lengths: Numbers,
    weights: Mapping[str, float] | None,
    *,
    max_length: int,
    seed: int = 0,
    budget: int | None = None,
) -> Mixture:
    """Choose the documents of an epoch.

    Args:
        sources: [documents] the source of each.
        lengths: [documents] its tokens, without begin and end of text.
        weights: See :func:`wanted_shares`.
        max_length: Positions in a row, for telling which documents are cut.
        seed: Which documents a source gives that gives a part.
        budget: Tokens in the epoch; without it, as many as the sources with a weight have, as far
            as none is gone through more than four times.

    Raises:
        InputError: The weights name what is not there.
    """
    names = list(dict.fromkeys(sources))
    number = {name: place for place, name in enumerate(names)}
    belongs = np.fromiter((number[name] for name in sources), dtype=np.int64, count=len(sources))
    counts = np.asarray(lengths, dtype=np.int64) + 1
    available = {name: int(counts[belongs == number[name]].sum()) for name in names}
    wanted = wanted_shares(available, weights)
    if budget is None:
        used = {name: share for name, share in wanted.items() if share > 0}
        budget = sum(available[name] for name in used)
        if weights is not None:
            most = min(_MOST_EPOCHS * available[name] / share for name, share in used.items())
            budget = min(budget, int(most))
    chosen: dict[str, Numbers] = {}
    for name in names:
        own = np.flatnonzero(belongs == number[name])
        target = available[name] if weights is None else round(wanted[name] * budget)
        chosen[name] = _take(own, counts[own], target, np.random.default_rng([seed, number[name]]))
    total = sum(int(counts[documents].sum()) for documents in chosen.values())
    shares = [
        _share(name, available[name], wanted[name], counts[chosen[name]], total, max_length)
        for name in names
    ]
    return Mixture(np.concatenate([*chosen.values(), np.zeros(0, dtype=np.int64)]), shares)


def _take(own: Numbers, counts: Numbers, target: int, generator: np.random.Generator) -> Numbers:
    """Documents with about ``target`` tokens: whole passes, then a random part of one."""
    total = int(counts.sum())
    if not total or target <= 0:
        return own[:0]
    passes, rest = divmod(target, total)
    parts = [own] * passes
    if rest:
        order = generator.permutation(len(own))
        sums = np.cumsum(counts[order])
        fitting = int(np.searchsorted(sums, rest, side="right"))
        # One more where that comes closer.
        before = int(sums[fitting - 1]) if fitting else 0
        if fitting < len(order) and int(sums[fitting]) - rest < rest - before:
            fitting += 1
        if not passes:
            fitting = max(1, fitting)
        parts.append(own[np.sort(order[:fitting])])
    return np.concatenate(parts)


def _share(
    name: str, available: int, wanted: float, counts: Numbers, total: int, max_length: int
) -> SourceShare:
    tokens = int(counts.sum())
    over = np.maximum(counts - max_length, 0)
    return SourceShare(
        name=name,
        available=available,
        wanted=wanted,
        share=tokens / max(1, total),
        tokens=tokens,
        documents=len(counts),
        epochs=tokens / max(1, available),
        cut=int((over > 0).sum()),
        continued=float(over.sum()) / max(1, tokens),
    )
