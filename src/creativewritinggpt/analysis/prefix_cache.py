"""Many variants of one text through the model, on the keys and values of their shared prefix.

A variant that changes the token at position i leaves everything before it as it was, so its pass
begins there, on the keys and values that one reading of the text has left::

    text       a b c d e        read once, keys and values kept
    variants       x d e        both begin at c and share a b
                   y d e

Rows of a pass begin at the same place and are equally long, so that nothing is padded; short ones
of neighbouring beginnings are batched together, since a product of few rows costs nearly as much as
one of many. Every pass of transformers' modules carries the unchanged text along as one more row:
results are differences between rows of the same pass, in which rounding errors of bf16 largely
cancel, and how far that row lies from the first reading is the noise floor. Our own passes, which
are in fp32, go without: the first reading takes its place.

Trade-off: one more row per pass. The passes are those of transformers' modules
(:mod:`.module_passes`), or, where the model is in its light form, those of ``models.forward``
(:mod:`.native_passes`): 1.04 (GPT-2's shape) to 1.20 times (the starter) as fast for 1,024 tokens
in fp32 on one core of an AMD EPYC (Zen 4), and without seconds of importing and building.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from ..models.loaded_model import LoadedModel
from .forward import check_finite, in_batches, micro_batch
from .native_passes import native_passes
from .subject import Target

# Passes of fewer tokens are joined with their neighbours; without an unchanged row they cost less.
_WORTH_A_PASS = 192
_WORTH_A_NATIVE_PASS = 96
# Tokens of a pass on a processor: more only leave its caches.
TOKENS_ON_A_PROCESSOR = 1024
_MOST_ROWS = 4096
# Numbers in a chunk of logits: 26 MB in fp32, and enough rows for the product with the head.
LOGITS_AT_ONCE = 6_500_000
# Columns of the output head in one product on a processor, where that is faster than all at once.
_COLUMNS = 1024


@dataclasses.dataclass(frozen=True)
class Pass:
    """Hidden states of some variants.

    Attributes:
        rows: Which variants, ``[rows]``.
        places: Which of the ``indices`` of the cache the pass reaches, as a slice of them: what
            lies before its first changed token is untouched.
        states: Hidden states at those indices, float32 ``[rows, places, width]``.
        original: Those of the unchanged text, in the same pass where there is such a row, float32
            ``[places, width]``.
    """

    rows: np.ndarray
    places: slice
    states: Tensor
    original: Tensor


class PrefixCache:
    """One reading of a text, from which passes over its variants go on.

    Args:
        model: The model, in ``eval()`` mode, and the precision of the passes; its adapter works
            unless this is made and used within ``model.base()``.
        ids: The text as the model reads it, start token included.
        indices: Where predictions are wanted, in ascending order: index j predicts token j + 1.

    Attributes:
        states: Hidden states at ``indices``, float32 ``[indices, width]``.
        head: The output head, of such states.

    Raises:
        InputError: An index lies outside the text.
    """

    def __init__(self, model: LoadedModel, ids: Sequence[int], indices: Sequence[int]) -> None:
        if not indices or indices[0] < 0 or indices[-1] >= len(ids):
            raise InputError(
                f"predictions {list(indices)} are asked of a text of {len(ids)} tokens",
                f"choose some from 0 to {len(ids) - 1}",
            )
        self.model = model
        self.ids = np.asarray(ids[: indices[-1] + 1], dtype=np.int64)
        self.indices = np.asarray(indices, dtype=np.int64)
        self._native = native_passes(model)
        passes: Any = self._native
        if passes is None:
            from .module_passes import ModulePasses

            passes = ModulePasses(model)
        self._passes, self.head = passes, passes.head
        states = passes.read(self._tensor(self.ids))
        self.states = states[self._tensor(self.indices)].float()

    def beginnings(self, variants: np.ndarray) -> np.ndarray:
        """Where each variant first differs, ``[variants]``; the text's length where nowhere."""
        differs = variants[:, : len(self.ids)] != self.ids
        return np.where(differs.any(1), differs.argmax(1), len(self.ids))

    def passes(
        self, variants: np.ndarray, progress: Callable[[int, int], None] | None = None
    ) -> Iterator[Pass]:
        """Hidden states of variants, in passes whose size the memory allows.

        Args:
            variants: ``[variants, tokens]``, in-place replacements: each as long as the text or
                longer, position for position.
            progress: Called with the tokens done and those to do.

        Yields:
            Each variant that can differ at one of the indices in exactly one pass.
        """
        beginnings = self.beginnings(variants)
        lengths = len(self.ids) - beginnings
        done = 0
        for group in self._groups(beginnings):
            begin = int(beginnings[group].min())

            def work(start: int, stop: int, rows: np.ndarray = group, at: int = begin) -> Pass:
                return self._pass(variants, rows[start:stop], at)

            yield from in_batches(len(group), self._size(begin), work)
            done += int(lengths[group].sum())
            if progress is not None:
                progress(done, int(lengths.sum()))

    def branch(self, ids: Tensor, begin: int, wanted: Tensor) -> Tensor:
        """One pass of rows that go on from the first ``begin`` tokens of the text.

        Args:
            ids: ``[rows, tokens]``.
            begin: Tokens that they share with the text.
            wanted: Places ``[places]`` in a row, in ascending order.

        Returns:
            Hidden states there after the last norm, float32 ``[rows, places, width]``.
        """
        states: Tensor = self._passes.branch(ids, begin, wanted)
        return states.float()

    def _size(self, begin: int) -> int:
        """Variants in a pass that begins there; the unchanged row comes on top."""
        tokens = len(self.ids) - begin
        most = _MOST_ROWS
        if self.model.device.torch_device.type == "cpu":
            most = max(1, TOKENS_ON_A_PROCESSOR // tokens)
        if self._native is not None:
            return max(1, min(most, self._native.most_rows(tokens)) - 1)
        return max(1, micro_batch(self.model, tokens, gradients=False, most=most) - 1)

    def _groups(self, beginnings: np.ndarray) -> Iterator[np.ndarray]:
        """Variants that go through the model together, the shortest suffixes first."""
        length = len(self.ids)
        order = np.argsort(-beginnings, kind="stable")
        order = order[beginnings[order] < length]
        least = _WORTH_A_PASS if self._native is None else _WORTH_A_NATIVE_PASS
        group: list[int] = []
        for row in order.tolist():
            begin = int(beginnings[row])
            if group:
                start = int(beginnings[group[-1]])
                worth = begin != start and len(group) * (length - start) >= least
                if worth or len(group) >= self._size(begin):
                    yield np.array(group)
                    group = []
            group.append(row)
        if group:
            yield np.array(group)

    def _pass(self, variants: np.ndarray, rows: np.ndarray, begin: int) -> Pass:
        end = len(self.ids)
        first = int(np.searchsorted(self.indices, begin))
        ids, places = variants[rows, begin:end], slice(first, len(self.indices))
        wanted = self._tensor(self.indices[first:] - begin)
        if self._native is not None:
            return Pass(
                rows, places, self.branch(self._tensor(ids), begin, wanted), self.states[places]
            )
        ids = np.concatenate([self.ids[None, begin:], ids])
        states = self.branch(self._tensor(ids), begin, wanted)
        return Pass(rows, places, states[1:], states[0])

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, device=self.model.device.torch_device)


@dataclasses.dataclass(frozen=True)
class Divergences:
    """How far the predictions of a pass lie from the text's, float32 ``[rows, places]``.

    Attributes:
        kl: KL(original‖variant), nats.
        js: Jensen–Shannon divergence, nats, at most log 2; 0 where it was not asked for.
        flips: Whether the likeliest token is another one.
        normalizer: Z, see :class:`Predictions`.
        noise: The largest KL between the unchanged row of the pass and the reading: pure rounding.
    """

    kl: np.ndarray
    js: np.ndarray
    flips: np.ndarray
    normalizer: np.ndarray
    noise: float


class Predictions:
    """The predictions at the indices of a cache, and how variants change them.

    Let p be a prediction of the text and q that of a variant. Their logits differ by
    d = W (h' - h), a product of the *difference* of hidden states with the output head: exactly 0
    where nothing changed, and in bf16 with a rounding error that is a small part of the change,
    where logits themselves (of a size of 100 in GPT-2) would be off by half a unit. With
    log q = log p + d - Z and Z = log Σ p exp(d)::

        KL(p‖q)             = Z - Σ p d
        log p(t) - log q(t) = Z - d(t)

    Args:
        cache: The text.

    Attributes:
        log_probabilities: float32 ``[indices, vocabulary]``.
    """

    def __init__(self, cache: PrefixCache) -> None:
        head = cache.head
        self._cache = cache
        with torch.no_grad():
            self._weight = head.weight.detach().float()
            bias = None if head.bias is None else head.bias.detach().float()
            products = F.linear(cache.states, self._weight, bias)
            self._scale, self._cap = head.scale, head.cap
            # How far along its bend each logit is: tanh of the product over the cap.
            self._bent = None
            if head.cap is not None:
                self._bent = torch.tanh(products * head.scale / head.cap)
            logits = head.bend(products)
            check_finite(logits)
            self.log_probabilities = torch.log_softmax(logits, -1)
            self._zero = torch.logsumexp(self.log_probabilities, -1)
            self._top = self.log_probabilities.argmax(-1)
            self._head = self._weight
            if cache.model.device.precision == "bf16":
                # What all logits have in common means nothing, but would be most of the rounding.
                self._head = (self._weight - self._weight.mean(0)).bfloat16()

    def score(self, target: Target) -> float:
        """The score of a target in the unchanged text: log-probability or logit difference."""
        row = self.log_probabilities[self.place(target)]
        value = row[target.id] if target.foil is None else row[target.id] - row[target.foil]
        return float(value)

    def place(self, target: Target) -> int:
        """Which of the cache's indices predicts a target."""
        return int(np.searchsorted(self._cache.indices, target.position - 1))

    def divergences(self, part: Pass, *, js: Collection[int] = ()) -> Divergences:
        """How far each prediction of a pass lies from the text's.

        Args:
            part: The pass.
            js: Where to compute the Jensen–Shannon divergence too (at least there): numbers of
                the cache's indices.
        """
        rounding = part.original - self._cache.states[part.places]
        changes = torch.cat([part.states - part.original, rounding[None]])
        shape = changes.shape[:2]
        found = {name: torch.zeros(shape) for name in ("kl", "js", "flips", "normalizer")}
        for rows, places, differences in self._chunks(changes, part.places.start):
            log_p = self.log_probabilities[part.places][places]
            p = log_p.exp()
            mean = torch.einsum("rpv,pv->rp", differences, p)
            moved = differences.add_(log_p)
            normalizer = torch.logsumexp(moved, -1) - self._zero[part.places][places]
            found["normalizer"][rows, places] = normalizer.cpu()
            found["kl"][rows, places] = (normalizer - mean).cpu()
            # A tenth of the time of finding out which token is the likeliest.
            top = self._top[part.places][places].expand(len(moved), -1)
            flips = moved.amax(-1) > moved.gather(-1, top[..., None])[..., 0]
            found["flips"][rows, places] = flips.float().cpu()
            if any(part.places.start + place in js for place in range(places.start, places.stop)):
                log_q = moved.sub_(normalizer[..., None])
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
            targets: The targets, each predicted at one of the cache's indices.
            known: The divergences of the same pass, which spare the sum over the vocabulary.

        Returns:
            float64 ``[rows, targets]``: original - variant, so that a positive number is what the
            replaced tokens did for the target; 0 for targets that the pass does not reach.
        """
        result = np.zeros((len(part.rows), len(targets)))
        first = part.places.start
        for column, target in enumerate(targets):
            place = self.place(target)
            if place < first:
                continue
            change = part.states[:, place - first] - part.original[place - first]
            if target.foil is not None:
                rows = self._weight[[target.foil, target.id]]
                if self._cap is None:  # one product rounds less than two
                    rows = (rows[0] - rows[1])[None]
                moved = self._difference(change, place, [target.foil, target.id], rows)
                result[:, column] = moved[:, 0] - (moved[:, 1] if len(rows) > 1 else 0)
                continue
            if known is None:
                normalizer = self._normalizer(part, place)
            else:
                normalizer = known.normalizer[:, place - first]
            # Rounded as in the whole product, so that what is rounded cancels with Z.
            own = self._head[target.id : target.id + 1]
            moved = self._difference(change, place, [target.id], own)
            result[:, column] = normalizer - moved[:, 0]
        return result

    def _normalizer(self, part: Pass, place: int) -> np.ndarray:
        """Z at one place, ``[rows]``."""
        at = place - part.places.start
        changes = part.states[:, at : at + 1] - part.original[at]
        pieces = [
            torch.logsumexp(differences.add_(self.log_probabilities[place]), -1)
            for _, _, differences in self._chunks(changes, place)
        ]
        result: np.ndarray = (torch.cat(pieces)[:, 0] - self._zero[place]).cpu().numpy()
        return result

    def _chunks(self, changes: Tensor, first_place: int) -> Iterator[tuple[slice, slice, Tensor]]:
        """Differences of logits, float32 ``[rows, places, vocabulary]``, some at a time.

        Args:
            changes: Differences of hidden states, ``[rows, places, width]``.
            first_place: Which of the cache's indices the first place is.
        """
        rows, places = changes.shape[:2]
        most = max(1, LOGITS_AT_ONCE // len(self._head))
        wide = min(places, max(1, math.isqrt(most), most // max(rows, 1)))
        for first in range(0, places, wide):
            at = slice(first, min(first + wide, places))
            tall = max(1, most // (at.stop - at.start))
            for start in range(0, rows, tall):
                some = slice(start, min(start + tall, rows))
                with torch.no_grad():
                    change = changes[some, at].to(self._head.dtype)
                    # Flat: of rows that don't lie one after the other torch makes many products.
                    moved = _logits(change.flatten(0, 1), self._head).view(*change.shape[:2], -1)
                    bent = None
                    if self._bent is not None:
                        bent = self._bent[first_place + at.start : first_place + at.stop]
                    yield some, at, self._bend(moved, bent)

    def _bend(self, products: Tensor, bent: Tensor | None) -> Tensor:
        """Differences of ``W h`` to differences of logits, 0 where nothing changed.

        With a cap: tanh(a + b) - tanh(a) = tanh(b) (1 - tanh(a) tanh(a + b)).
        """
        if self._scale != 1.0:
            products = products.mul_(self._scale)
        if bent is None or self._cap is None:
            return products
        step = torch.tanh(products / self._cap)
        after = (bent + step) / (1 + bent * step)
        return step.mul_(1 - bent * after).mul_(self._cap)

    def _difference(
        self, change: Tensor, place: int, tokens: list[int], rows: Tensor
    ) -> np.ndarray:
        """``[rows, tokens]``: how changes ``[rows, width]`` at a place move some tokens' logits."""
        with torch.no_grad():
            moved = F.linear(change.to(rows.dtype), rows).float()
            bent = None if self._bent is None else self._bent[place, tokens]
            result: np.ndarray = self._bend(moved, bent).cpu().numpy().astype(np.float64)
        return result


def _logits(states: Tensor, head: Tensor) -> Tensor:
    """``[rows, width]`` through the head, float32 ``[rows, vocabulary]``."""
    if head.device.type != "cpu" or head.dtype != torch.float32:
        return F.linear(states, head).float()
    result = states.new_empty(len(states), len(head))
    pairs = zip(torch.split(head, _COLUMNS), torch.split(result, _COLUMNS, 1), strict=True)
    for columns, out in pairs:
        torch.mm(states, columns.t(), out=out)
    return result


def _jensen_shannon(p: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
    """``[rows, places]`` of ``[places, vocabulary]`` and ``[rows, places, vocabulary]``."""
    q = log_q.exp()
    middle = (q + p).mul_(0.5).clamp_min_(torch.finfo(torch.float32).tiny).log_()
    second = q.mul_(log_q.sub_(middle)).sum(-1)
    first = torch.einsum("rpv,pv->rp", middle.neg_().add_(log_p), p)
    return (first + second) / 2
