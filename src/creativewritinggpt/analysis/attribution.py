"""One object for a result: what each input token contributed to each target, and how it was found.

Scores are kept as they are, signed and in nats; whatever is normalised is made on request and is
refused where there is nothing but rounding noise to blow up.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

# Below this the largest score of a target is noise of fp32 arithmetic, in nats.
NOISE_FLOOR = 1e-6


@dataclasses.dataclass(frozen=True)
class Attribution:
    """What each input token contributed to each target.

    Attributes:
        method: ``integrated_gradients``, ``saliency``, ``gradient_x_input``, ``occlusion``,
            ``kl`` and so on.
        scores: ``[targets, tokens]`` float64; 0 at and after a target's own position.
        signed: Whether the sign means something (supports or opposes).
        unit: Of the scores, as ``nats``.
        settings: How it was found: baseline, steps, law, samples, seed.
        per_target: For each target what belongs to it alone, as its convergence delta.
        standard_error: ``[targets, tokens]``, where the method draws at random.
    """

    method: str
    scores: np.ndarray
    signed: bool
    unit: str
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    per_target: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    standard_error: np.ndarray | None = None

    def normalised(self, floor: float = NOISE_FLOOR) -> np.ndarray:
        """``[targets, tokens]`` of 0…1: absolute values over the largest; zeros below ``floor``."""
        size = np.abs(self.scores)
        largest = size.max(axis=-1, keepdims=True, initial=0.0)
        return np.where(largest > floor, size / np.maximum(largest, floor), 0.0)

    def shares(self, floor: float = NOISE_FLOOR) -> np.ndarray:
        """``[targets, tokens]`` whose absolute values sum to 1; zeros below ``floor``."""
        total = np.abs(self.scores).sum(axis=-1, keepdims=True)
        return np.where(total > floor, self.scores / np.maximum(total, floor), 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        record: dict[str, Any] = {
            "method": self.method,
            "signed": self.signed,
            "unit": self.unit,
            "settings": self.settings,
            "scores": self.scores.tolist(),
            "per_target": self.per_target,
        }
        if self.standard_error is not None:
            record["standard_error"] = self.standard_error.tolist()
        return record
