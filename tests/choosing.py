"""Decisions by a rule, and a tiny model with an adapter, for tests of training on choices."""

from __future__ import annotations

from typing import Any

import numpy as np
from writers import make_writer

from creativewritinggpt.config.run import Config
from creativewritinggpt.models.adapter import attach
from creativewritinggpt.models.loaded_model import LoadedModel
from creativewritinggpt.story.decisions import Decision

WORDS = ["rain", "lamp", "boat", "door", "salt", "wind", "tower", "bell", "road", "stone"]


def tuned(model: Any, tokenizer: Any, seed: int = 3, precision: str = "fp32") -> LoadedModel:
    """A writer with a trainable adapter that already does something."""
    import torch

    writer = make_writer(model, tokenizer, precision)
    attach(writer, Config(lora_r=4, lora_dropout=0.0, target_modules=["all-linear"], seed=seed))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in writer.model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    return writer


def text(generator: np.random.Generator, mark: str, words: int = 4) -> str:
    """Words at random, each with a mark behind it."""
    chosen = generator.choice(WORDS, words).tolist()
    return "".join(f" {word}{mark}" for word in chosen)


def decisions(count: int, shown: int = 3, rule: bool = True, seed: int = 0) -> list[Decision]:
    """A writer who takes the text with exclamation marks, or any where there is no rule."""
    generator = np.random.default_rng(seed)
    found = []
    for number in range(count):
        marks = ["!", *["."] * (shown - 1)]
        texts = [text(generator, mark) for mark in marks]
        place = 0 if rule else int(generator.integers(shown))
        chosen = texts.pop(place)
        prompt = f"Chapter {number}." + text(generator, "", 2)
        found.append(Decision("pick", prompt, chosen, tuple(texts), 1.0, place=place, shown=shown))
    return found
