"""What a passage by the model is kept with: its whole characters, and how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..generation.sampling.settings import GenerationSettings
from .tree import Setup

if TYPE_CHECKING:
    from .context import StoryView


def complete(text: str) -> str:
    """``text`` without an incomplete character at its end."""
    return text.rstrip("\ufffd")


def setup_of(
    model: str,
    adapters: Mapping[str, float],
    preset: str | None,
    settings: GenerationSettings,
    weights: str,
    view: StoryView,
) -> Setup:
    """How a passage is made.

    Args:
        model: Name of the model.
        adapters: Weights of the adapters that are on, by folder.
        preset: The preset, if one was chosen.
        settings: The generation settings.
        weights: The weight format itself, since "auto" depends on the machine and the packages.
        view: What the model sees.
    """
    values = settings.to_dict()
    values.pop("seed")
    values["weights"] = weights
    return Setup(model, dict(adapters), preset, values, view.memory, view.note)
