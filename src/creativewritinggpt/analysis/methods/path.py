"""The straight path from a baseline to a text: the model's passes over points of it.

One forward pass serves all targets: a causal model computes the same states for the first tokens of
a text, whatever follows. Each target then has a backward pass of its own. Targets far apart are
taken in groups, so that an early one does not pay for the length of the last; what is traded is a
forward pass for each group.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...console import CountCallback
from ...errors import InputError
from ...models.loaded_model import LoadedModel
from ..runtime.forward import check_finite, embeddings, target_gradients, target_scores
from ..runtime.memory import in_batches, micro_batch
from ..subject import Subject, Target
from .baselines import baseline_text

# Steps at most, whatever the text; of trained models nearly every score is settled before that.
_MOST_STEPS = 512
# Steps that the longest explanation still gets.
_FEWEST_STEPS = 64
# Tokens, forward and back, that all steps may read together: some three minutes of a processor with
# two cores and a model like the starter.
_REACH = 100_000


class Path:
    """Scores and slopes at points of the path, as ``quadrature.integrate`` asks for them.

    Args:
        writer: The model.
        subject: The text and its targets.
        baseline: Where the path begins, see ``baselines``.
        progress: Called with the points done and those planned so far; plans grow.

    Raises:
        InputError: No such baseline, or no targets.
    """

    def __init__(
        self,
        writer: LoadedModel,
        subject: Subject,
        baseline: str,
        progress: CountCallback | None = None,
    ) -> None:
        if not subject.targets:
            raise InputError("there is no token to explain", "name one that is in the text")
        self.writer, self.targets, self.progress = writer, subject.targets, progress
        ids = torch.tensor([subject.ids], device=writer.device.torch_device)
        self.text = embeddings(writer, ids)  # [1, tokens, width]
        self.baseline = baseline_text(writer, ids, baseline)
        self.direction = self.text - self.baseline
        self.done = 0

    def equal_to_baseline(self) -> list[int]:
        """Positions after the start token whose token equals the baseline."""
        same = (self.direction[0] == 0).all(-1).nonzero().flatten().tolist()
        return [position for position in same if position]

    def scores(self, points: np.ndarray) -> np.ndarray:
        """Scores of all targets, ``[points, targets]`` float64.

        Args:
            points: Where, 0 (the baseline) … 1 (the text).
        """
        last = max(target.position for target in self.targets)

        def work(start: int, stop: int) -> Tensor:
            with torch.no_grad():
                rows = self._rows(points[start:stop], last)
                return target_scores(self.writer, rows, self.targets)

        size = micro_batch(self.writer, last, gradients=False)
        found = torch.cat(in_batches(len(points), size, work))
        check_finite(found)
        return found.cpu().double().numpy()

    def slopes(self, points: np.ndarray, wanted: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Scores and slopes of some targets.

        Args:
            points: Where.
            wanted: Which targets, in order.

        Returns:
            ``[points, wanted]`` and ``[points, wanted, tokens]``, float64.
        """
        scores = np.zeros((len(points), len(wanted)))
        slopes = np.zeros((len(points), len(wanted), self.text.shape[1]))
        row, together = 0, groups(self.targets, wanted)
        for number, group in enumerate(together):
            self._group(points, group, scores[:, row:], slopes[:, row:])
            row += len(group)
            if self.progress is not None and number + 1 < len(together):
                done = len(points) * (number + 1) // len(together)
                self.progress(self.done + done, self.done + len(points))
        self.done += len(points)
        if self.progress is not None:
            self.progress(self.done, self.done)
        return scores, slopes

    def _group(
        self, points: np.ndarray, group: list[int], scores: np.ndarray, slopes: np.ndarray
    ) -> None:
        """Fill the first columns of scores and slopes with those of a group."""
        targets = [self.targets[index] for index in group]
        last = targets[-1].position

        def work(start: int, stop: int) -> None:
            rows = self._rows(points[start:stop], last)
            for column, (score, gradient) in enumerate(
                target_gradients(self.writer, rows, targets)
            ):
                scores[start:stop, column] = score.cpu().double().numpy()
                slope = (gradient * self.direction[:, :last]).sum(-1)
                slopes[start:stop, column, :last] = slope.cpu().double().numpy()

        in_batches(len(points), micro_batch(self.writer, last, gradients=True), work)

    def _rows(self, points: np.ndarray, last: int) -> Tensor:
        """Embeddings at points of the path, ``[points, last, width]``."""
        part = torch.tensor(points, dtype=self.text.dtype, device=self.text.device)
        return self.baseline[:, :last] + part[:, None, None] * self.direction[:, :last]


def groups(targets: Sequence[Target], wanted: Sequence[int]) -> list[list[int]]:
    """Neighbouring targets that share a forward pass, in as many groups as cost least.

    A forward pass costs about as much a token as a backward pass; each group has one forward pass
    and a backward pass for each target, all of the length of its last target.

    Args:
        targets: In the order of their positions.
        wanted: Which of them to group, in that order.

    Returns:
        The wanted ones, in groups.
    """
    every = list(wanted)
    best: list[list[int]] = [every]
    cheapest = _cost(targets, best) if every else 0
    for count in range(2, len(every) + 1):
        edges = [round(part * len(every) / count) for part in range(count + 1)]
        cut = [every[low:high] for low, high in zip(edges, edges[1:], strict=False)]
        cost = _cost(targets, cut)
        if cost < cheapest:
            best, cheapest = cut, cost
    return best


def most_steps(targets: Sequence[Target], reach: int = _REACH) -> int:
    """How many steps these targets are worth at most: fewer where each takes long.

    Args:
        targets: In the order of their positions.
        reach: Tokens, forward and back, that all steps may read together.
    """
    cost = _cost(targets, groups(targets, range(len(targets))))
    return min(_MOST_STEPS, max(_FEWEST_STEPS, reach // cost))


def _cost(targets: Sequence[Target], cut: Sequence[Sequence[int]]) -> int:
    """Tokens that one step reads, forward and back."""
    return sum((len(part) + 1) * targets[part[-1]].position for part in cut)
