"""Scales of LoRA adapters: the strength of one, the weighted sum of several.

Scale 0 is the base model, 1 the tuned one, up to 1.5 exaggerates what was learned. Nothing is
loaded again; a backend with merged weights merges the new sum before the next text. This module
does not import torch before it changes a model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import InputError
from ..files import from_home

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel

MAX_SCALE = 1.5


@dataclasses.dataclass(frozen=True)
class Style:
    """Adapters to add to a model and their weights, or one strength for all it has.

    Attributes:
        parts: Adapter folders and their weights (0…1.5).
        strength: The scale of the active adapters; None leaves it.
    """

    parts: tuple[tuple[str, float], ...] = ()
    strength: float | None = None

    @classmethod
    def parse(cls, adapters: Sequence[str], strength: str | None) -> Style:
        """The style of ``--adapter`` (``FOLDER:WEIGHT``) and ``--style``.

        Raises:
            InputError: A weight or the strength is no number in range, or both are given.
        """
        parts = tuple(parse_part(part) for part in adapters)
        if strength is None:
            return cls(parts)
        if len(parts) > 1 or any(weight != 1 for _, weight in parts):
            raise InputError(
                "--style would take the place of the weights of --adapter",
                "leave it out and set the weights, as in --adapter FOLDER:0.7",
            )
        return cls(parts, parse_strength(strength, "--style"))

    def apply(self, model: LoadedModel) -> dict[str, float]:
        """Set the adapters of ``model`` in place; the weight of each active adapter, by folder."""
        weights = {model.adapter: 1.0} if model.adapter else {}
        if self.parts:
            blend(model, self.parts)
            weights = dict(self.parts)
        if self.strength is not None:
            set_strength(model, self.strength)
            weights = dict.fromkeys(weights, self.strength)
        return weights


def parse_strength(text: str, what: str) -> float:
    """A strength as typed; ``what`` names its flag or command in errors."""
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"{what} is {text!r}", "give a number from 0 to 1.5") from error


def parse_part(text: str) -> tuple[str, float]:
    """``FOLDER:WEIGHT`` or ``FOLDER`` (weight 1), as ``--adapter`` takes it.

    Raises:
        InputError: The weight is no number from 0 to 1.5.
    """
    folder, colon, weight = text.rpartition(":")
    # A colon may belong to the path, as in C:\\styles.
    if not colon or "/" in weight or "\\" in weight:
        return text, 1.0
    try:
        return folder, _checked(float(weight), f"the weight of {folder}")
    except ValueError as error:
        raise InputError(
            f"'{weight}' in --adapter {text} is no number", "write --adapter FOLDER:0.7"
        ) from error


def set_strength(model: LoadedModel, strength: float) -> None:
    """Set the scale of the active adapters, in place.

    Args:
        model: A model with an adapter.
        strength: 0 is the base model, 1 as trained, up to 1.5.

    Raises:
        InputError: There is no adapter, or the strength is out of range.
    """
    _checked(strength, "the style strength")
    if not model.has_adapter:
        raise InputError(
            f"{model.name} has no adapter whose strength could be set",
            "give an adapter folder with --model",
        )
    from ..models.adapter import active_adapters, set_strengths

    # Adapters that a blend left out stay off.
    set_strengths(model, dict.fromkeys(active_adapters(model), strength))


def blend(model: LoadedModel, parts: Sequence[tuple[str, float]]) -> None:
    """Switch to the weighted sum of several adapters, in place.

    Args:
        model: A base model, or a model with adapters; those that are not named are switched off.
        parts: Adapter folders and their weights (0…1.5).

    Raises:
        InputError: An adapter is missing, damaged or of another base, or a weight is out of range.
    """
    from ..models.adapter import load_adapter, set_strengths
    from ..models.loading import use_tokenizer

    weights: dict[str, float] = {}
    known = {_place(model.adapter): "default"} if model.adapter else {}
    known |= {_place(str(folder)): name for name, folder in model.folders.items()}
    for folder, weight in parts:
        _checked(weight, f"the weight of {folder}")
        place = _place(folder)
        if place in known and known[place] in weights:
            raise InputError(f"the adapter {folder} is named twice", "add up its weights")
        if place not in known:
            known[place] = f"adapter{len(known)}" if model.has_adapter else "default"
            load_adapter(model, from_home(folder), name=known[place])
            if model.overlays is not None:  # it may have brought tokens
                use_tokenizer(model, from_home(folder))
        weights[known[place]] = weight
    if not weights:
        raise InputError("a blend needs at least one adapter")
    if model.adapter is None:
        model.adapter = parts[0][0]
    set_strengths(model, weights)


def _checked(weight: float, what: str) -> float:
    if not 0 <= weight <= MAX_SCALE:
        raise InputError(f"{what} is {weight}", f"give a number from 0 to {MAX_SCALE}")
    return weight


def _place(folder: str) -> str:
    return str(from_home(folder).resolve())
