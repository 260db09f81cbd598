"""What a changed text does to the predictions: from hidden states to divergences, in nats.

Let p be a prediction of the text and q that of a variant. Their logits differ by d = W (h' - h), a
product of the *difference* of hidden states with the output head. It is exactly 0 where nothing
changed, and in bf16 its rounding error is a small part of the change, where logits themselves (of
a size of 100 in GPT-2) would be off by half a unit. With log q = log p + d - Z and
Z = log Σ p exp(d)::

    KL(p‖q)             = Z - Σ p d
    log p(t) - log q(t) = Z - d(t)

The logits of a few hundred predictions exist at a time.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...models.scoring import body_and_head
from ..subject import Target
from .forward import check_finite
from .prefix_cache import Pass, Reading

# Numbers in a chunk of logits: 26 MB in fp32, and enough rows for the product with the head.
_CHUNK = 6_500_000
# Words of the vocabulary in a product on a processor, where so many are faster than all.
_WORDS = 1024


@dataclasses.dataclass(frozen=True)
class Divergences:
    """How far the predictions of a pass have moved, float32 ``[rows, places]``.

    Attributes:
        kl: KL(original‖variant), nats.
        js: Jensen–Shannon divergence, nats, at most log 2; 0 where it was not asked for.
        flips: Whether the likeliest token is another one.
        normaliser: Z.
        noise: The largest KL between the unchanged row of the pass and the reading: pure rounding.
    """

    kl: np.ndarray
    js: np.ndarray
    flips: np.ndarray
    normaliser: np.ndarray
    noise: float


class Predictions:
    """What the model predicts at a reading's indices, and what variants do to it.

    Args:
        reading: The text.

    Attributes:
        log_probabilities: float32 ``[indices, vocabulary]``.
    """

    def __init__(self, reading: Reading) -> None:
        _, weight, bias = body_and_head(reading.writer.model)
        self._reading = reading
        with torch.no_grad():
            self._weight = weight.detach().float()
            bias = None if bias is None else bias.detach().float()
            logits = F.linear(reading.states, self._weight, bias)
            check_finite(logits)
            self.log_probabilities = torch.log_softmax(logits, -1)
            self._zero = torch.logsumexp(self.log_probabilities, -1)
            self._top = self.log_probabilities.argmax(-1)
            self._head = self._weight
            if reading.writer.device.precision == "bf16" and not reading.exact:
                # What all logits have in common means nothing, but would be most of the rounding.
                self._head = (self._weight - self._weight.mean(0)).bfloat16()

    def score(self, target: Target) -> float:
        """The score of a target in the unchanged text: log-probability or logit difference."""
        row = self.log_probabilities[self.place(target)]
        value = row[target.id] if target.foil is None else row[target.id] - row[target.foil]
        return float(value)

    def place(self, target: Target) -> int:
        """Which of the reading's indices predicts a target."""
        return int(np.searchsorted(self._reading.indices, target.position - 1))

    def divergences(self, part: Pass, *, js: Collection[int] = ()) -> Divergences:
        """How far each prediction of a pass has moved.

        Args:
            part: The pass.
            js: Where to compute the Jensen–Shannon divergence too (at least there): numbers of
                the reading's indices.
        """
        rounding = part.original - self._reading.states[part.places]
        changes = torch.cat([part.states - part.original, rounding[None]])
        shape = changes.shape[:2]
        found = {name: torch.zeros(shape) for name in ("kl", "js", "flips", "normaliser")}
        for rows, places, differences in self._chunks(changes):
            log_p = self.log_probabilities[part.places][places]
            p = log_p.exp()
            mean = torch.einsum("rpv,pv->rp", differences, p)
            moved = differences.add_(log_p)
            normaliser = torch.logsumexp(moved, -1) - self._zero[part.places][places]
            found["normaliser"][rows, places] = normaliser.cpu()
            found["kl"][rows, places] = (normaliser - mean).cpu()
            # A tenth of the time of finding out which token is the likeliest.
            top = self._top[part.places][places].expand(len(moved), -1)
            flips = moved.amax(-1) > moved.gather(-1, top[..., None])[..., 0]
            found["flips"][rows, places] = flips.float().cpu()
            if any(part.places.start + place in js for place in range(places.start, places.stop)):
                log_q = moved.sub_(normaliser[..., None])
                found["js"][rows, places] = _jensen_shannon(p, log_p, log_q).cpu()
        check_finite(found["kl"])
        noise = float(found["kl"][-1].abs().max())
        arrays = {name: values[:-1].numpy() for name, values in found.items()}
        return Divergences(**arrays, noise=noise)

    def drops(
        self, part: Pass, targets: Sequence[Target], known: Divergences | None = None
    ) -> np.ndarray:
        """How much each variant lowers the score of each target.

        Args:
            part: The pass.
            targets: The targets, each predicted at one of the reading's indices.
            known: The divergences of the same pass, which spare the sum over the vocabulary.

        Returns:
            float64 ``[rows, targets]``: original - variant, so that a positive number is what the
            replaced tokens did for the target; 0 for targets that the pass does not reach.
        """
        result = np.zeros((len(part.rows), len(targets)))
        first = part.places.start
        reached = [i for i, target in enumerate(targets) if self.place(target) >= first]
        needed = sorted({self.place(targets[i]) for i in reached if targets[i].foil is None})
        if needed and known is None:
            normaliser = self._normalisers(part, needed)
        elif known is not None:
            normaliser = {place: known.normaliser[:, place - first] for place in needed}
        else:
            normaliser = {}
        for i in reached:
            target, place = targets[i], self.place(targets[i])
            change = part.states[:, place - first] - part.original[place - first]
            if target.foil is None:
                # Rounded as in the whole product, so that what is rounded cancels with Z.
                moved = _product(change, self._head[target.id])
                result[:, i] = normaliser[place] - moved
            else:
                contrast = self._weight[target.foil] - self._weight[target.id]
                result[:, i] = _product(change, contrast)
        return result

    def _normalisers(self, part: Pass, places: Sequence[int]) -> dict[int, np.ndarray]:
        """Z at some places, ``{place: [rows]}``."""
        result = {}
        for place in places:
            at = place - part.places.start
            changes = part.states[:, at : at + 1] - part.original[at]
            pieces = [
                torch.logsumexp(differences.add_(self.log_probabilities[place]), -1)
                for _, _, differences in self._chunks(changes)
            ]
            result[place] = (torch.cat(pieces)[:, 0] - self._zero[place]).cpu().numpy()
        return result

    def _chunks(self, changes: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        """Differences of logits, float32 ``[rows, places, vocabulary]``, some at a time.

        Args:
            changes: Differences of hidden states, ``[rows, places, width]``.
        """
        rows, places = changes.shape[:2]
        most = max(1, _CHUNK // len(self._head))
        wide = min(places, max(1, math.isqrt(most), most // max(rows, 1)))
        for first in range(0, places, wide):
            at = slice(first, min(first + wide, places))
            tall = max(1, most // (at.stop - at.start))
            for start in range(0, rows, tall):
                some = slice(start, min(start + tall, rows))
                with torch.no_grad():
                    change = changes[some, at].to(self._head.dtype)
                    # Flat: of rows that don't lie one after the other torch makes many products.
                    moved = _logits(change.flatten(0, 1), self._head)
                    yield some, at, moved.view(*change.shape[:2], -1)


def _logits(states: Tensor, head: Tensor) -> Tensor:
    """``[rows, width]`` through the head, float32 ``[rows, vocabulary]``."""
    if head.device.type != "cpu" or head.dtype != torch.float32:
        return F.linear(states, head).float()
    result = states.new_empty(len(states), len(head))
    pairs = zip(torch.split(head, _WORDS), torch.split(result, _WORDS, 1), strict=True)
    for words, out in pairs:
        torch.mm(states, words.t(), out=out)
    return result


def _product(change: Tensor, row: Tensor) -> np.ndarray:
    """``[rows]``: changes ``[rows, width]`` times a row of the head, in the head's precision."""
    with torch.no_grad():
        moved = F.linear(change.to(row.dtype), row[None])[:, 0].float()
    result: np.ndarray = moved.cpu().numpy().astype(np.float64)
    return result


def _jensen_shannon(p: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
    """``[rows, places]`` of ``[places, vocabulary]`` and ``[rows, places, vocabulary]``."""
    q = log_q.exp()
    middle = (q + p).mul_(0.5).clamp_min_(torch.finfo(torch.float32).tiny).log_()
    second = q.mul_(log_q.sub_(middle)).sum(-1)
    first = torch.einsum("rpv,pv->rp", middle.neg_().add_(log_p), p)
    return (first + second) / 2
