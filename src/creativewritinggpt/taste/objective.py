"""Gradient of a step on the writer's choices.

All losses here are functions of the log-probabilities of whole texts, so their gradient is a
cross-entropy with one signed weight per text. A pass through the body gives the hidden states and,
without a gradient, each token's log-probability; the loss of the sums is differentiated on its own,
and its slopes weigh the tokens of the chunked cross-entropy (:mod:`~..training.loss`).

The loss of a step is the weighted mean over its decisions of the preference, plus the weighted mean
over their tokens of the accepted texts' negative log-probability.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ..models.loaded_model import LoadedModel
from ..training.loss import chunked_cross_entropy
from .comparisons import (
    Comparison,
    Floats,
    Row,
    Scored,
    log_probabilities,
    score,
    text_log_probabilities,
)
from .losses import choice_loss, kto_loss, odds_ratio_loss
from .settings import ChoiceSettings

_UNDONE = 0.2  # smoothing of an undo: it may have been about the line before


class Objective:
    """The loss of decisions, relative to the model as it is when this is made.

    Args:
        model: The model, trainable, before its first step.
        comparisons: The decisions that are trained on.
        method: ``accepted``, ``preference``, ``kto`` or ``orpo``.
        settings: How choices are learnt from.
        seed: Of the pairs by which KTO estimates the divergence.
        rows_at_once: Rows of a pass.

    Attributes:
        reference: By comparison, [texts] log-probability of each text at the start.
        mismatched: A row for each decision whose text does not belong to its context, for KTO;
            ``mismatched_reference`` their log-probabilities at the start.
    """

    def __init__(
        self,
        model: LoadedModel,
        comparisons: Sequence[Comparison],
        method: str,
        settings: ChoiceSettings,
        seed: int,
        rows_at_once: int,
    ) -> None:
        self.model, self.comparisons, self.method = model, comparisons, method
        self.settings = settings
        self._mean_weight = float(np.mean([one.decision.weight for one in comparisons])) or 1.0
        self.reference: list[Floats] = []
        self._weighted: list[Floats] = []  # the same with the weights of the tails
        self.mismatched: list[Row] = []
        self.mismatched_reference = np.zeros(0)
        if method in ("preference", "kto"):
            self._measure(seed, rows_at_once)

    def _measure(self, seed: int, rows_at_once: int) -> None:
        """Log-probabilities at the start, once."""
        model, comparisons = self.model, self.comparisons
        if all(self._tail(one) == 1 for one in comparisons):
            self.reference = self._weighted = log_probabilities(model, comparisons, rows_at_once)
        else:
            model.model.eval()
            for one in comparisons:
                with torch.no_grad():
                    scored = score(model, one.rows())
                weights = self._tail_weights(scored, [one])
                self.reference.append(scored.sums().numpy())
                self._weighted.append(scored.sums(weights).numpy())
        if self.method == "kto" or not all(one.has_chosen for one in comparisons):
            self.mismatched = _mismatched(comparisons, seed)
            self.mismatched_reference = text_log_probabilities(model, self.mismatched, rows_at_once)

    def gradient(self, indices: Sequence[int], rows_at_once: int) -> float:
        """Add the gradient of a step to the parameters.

        Args:
            indices: Numbers of the step's comparisons.
            rows_at_once: Rows of a pass, unless one decision has more.

        Returns:
            The loss of the step.
        """
        self.model.model.eval()  # without dropout: the start is compared with itself
        chosen = [self.comparisons[index] for index in indices]
        weights = [one.decision.weight for one in chosen]
        # A step of light decisions moves less.
        scale = sum(weights) / (len(weights) * self._mean_weight)
        tokens = sum(one.decision.weight * len(one.texts[0]) for one in chosen if one.has_chosen)
        divergence = self._divergence(indices, rows_at_once)
        per_weight, per_token = scale / sum(weights), scale / max(tokens, 1e-9)
        return sum(
            self._pass(part, per_weight, per_token, divergence)
            for part in self._parts(indices, rows_at_once)
        )

    def _parts(self, indices: Sequence[int], rows_at_once: int) -> Iterator[list[int]]:
        """The comparisons of a step in passes of so many rows, each comparison whole."""
        part, rows = list[int](), 0
        for index in indices:
            count = len(self.comparisons[index].texts)
            if part and rows + count > rows_at_once:
                yield part
                part, rows = [], 0
            part.append(index)
            rows += count
        yield part

    def _pass(
        self, indices: Sequence[int], per_weight: float, per_token: float, divergence: Tensor
    ) -> float:
        """Add the gradient of some decisions; returns their part of the loss."""
        model, part = self.model, [self.comparisons[index] for index in indices]
        scored = score(model, [row for one in part for row in one.rows()])
        tails = self._tail_weights(scored, part)
        weighted = scored.sums(tails).requires_grad_()
        plain = scored.sums().requires_grad_()
        loss = weighted.new_zeros(())
        start = 0
        for index, one in zip(indices, part, strict=True):
            rows = slice(start, start + len(one.texts))
            start += len(one.texts)
            loss = loss + one.decision.weight * per_weight * self._preference(
                index, weighted[rows], plain[rows], divergence
            )
            if one.has_chosen:
                loss = loss - one.decision.weight * per_token * self._alpha * plain[rows][0]
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        tokens = torch.zeros_like(scored.logs, dtype=torch.float64)
        if weighted.grad is not None:
            tokens = tokens + weighted.grad[scored.row] * (1.0 if tails is None else tails)
        if plain.grad is not None:
            tokens = tokens + plain.grad[scored.row]
        states = scored.states
        with model.device.autocast():
            surrogate = chunked_cross_entropy(
                states.hidden, states.head, states.targets, head_forward=states.head_forward,
                weights=-tokens.float().to(states.hidden.device),
            )  # fmt: skip
        surrogate.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    @property
    def _alpha(self) -> float:
        """Weight of the accepted texts' loss per token."""
        alone = self.method in ("accepted", "orpo")
        return 1.0 if alone else self.settings.accepted_weight

    def _preference(
        self, index: int, weighted: Tensor, plain: Tensor, divergence: Tensor
    ) -> Tensor:
        """The part of a decision's loss that compares its texts."""
        one, settings = self.comparisons[index], self.settings
        if self.method == "accepted" or (self.method == "orpo" and not one.has_chosen):
            return plain.new_zeros(())
        if self.method == "orpo":
            if len(one.texts) < 2:
                return plain.new_zeros(())
            counts = torch.from_numpy(one.counts)
            return settings.orpo_weight * odds_ratio_loss(plain, counts)
        delta = weighted - torch.from_numpy(self._weighted[index])
        if self.method == "preference" and one.has_chosen:
            if len(one.texts) < 2:
                return plain.new_zeros(())
            undone = one.decision.kind == "undo"
            smoothing = max(settings.label_smoothing, _UNDONE if undone else 0.0)
            penalty = settings.edit_penalty if one.decision.kind == "edit" else 0.0
            return choice_loss(delta, settings.beta, smoothing, penalty)
        wanted = torch.zeros(len(delta), dtype=torch.bool)
        wanted[0] = one.has_chosen
        losses = kto_loss(delta, wanted, divergence, settings.beta)
        if not one.has_chosen:
            return losses.mean()
        return losses[0] if len(losses) == 1 else losses[0] + losses[1:].mean()

    def _divergence(self, indices: Sequence[int], rows_at_once: int) -> Tensor:
        """KTO's estimate of the divergence: Δ of texts after contexts that they don't belong to."""
        needed = self.method == "kto" or (
            self.method == "preference"
            and not all(self.comparisons[index].has_chosen for index in indices)
        )
        if not needed:
            return torch.zeros(())
        rows = [self.mismatched[index] for index in indices]
        sums = text_log_probabilities(self.model, rows, rows_at_once)
        delta = sums - self.mismatched_reference[list(indices)]
        return torch.tensor(max(0.0, float(delta.mean())))

    def _tail(self, one: Comparison) -> float:
        """Weight of the tokens beyond the shortest of a decision's texts."""
        # What the writer wrote after an undo has a length of its own.
        return 0.0 if one.decision.kind == "undo" and one.has_chosen else self.settings.tail_weight

    def _tail_weights(self, scored: Scored, part: Sequence[Comparison]) -> Tensor | None:
        """[N] weight of each token in a comparison; None where all are 1."""
        if all(self._tail(one) == 1 for one in part):
            return None
        ends, tails = [], []
        for one in part:
            ends += [min(map(len, one.texts))] * len(one.texts)
            tails += [self._tail(one)] * len(one.texts)
        beyond = scored.place >= torch.tensor(ends)[scored.row]
        tail = torch.tensor(tails, dtype=torch.float32)[scored.row]
        return torch.where(beyond, tail, torch.ones_like(tail))


def _mismatched(comparisons: Sequence[Comparison], seed: int) -> list[Row]:
    """The context of each decision with a text of another one, of another prompt where there is."""
    order = np.random.default_rng([seed, 1]).permutation(len(comparisons)).tolist()
    rows: dict[int, Row] = {}
    for place, index in enumerate(order):
        one = comparisons[index]
        others = [comparisons[other] for other in order[place + 1 :] + order[:place]]
        other = next(
            (o for o in others if o.decision.prompt != one.decision.prompt), (others or [one])[0]
        )
        rows[index] = Row(one.context, other.texts[0])
    return [rows[index] for index in range(len(comparisons))]
