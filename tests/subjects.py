"""Texts and attention maps for tests of explanations, made without a tokenizer or a model."""

from __future__ import annotations

import numpy as np

from creativewritinggpt.analysis.methods.attention import AttentionMaps
from creativewritinggpt.analysis.subject import Subject, Target


def plain_subject(length: int, targets: tuple[int, ...] = ()) -> Subject:
    """Tokens that are letters of a text."""
    text = ("abc defg. " * length)[: length - 1]
    spans = ((0, 0), *((i, i + 1) for i in range(length - 1)))
    found = tuple(Target(position, 1) for position in targets)
    return Subject(text, tuple(range(length)), spans, found, len(text))


def random_maps(seed: int, layers: int, heads: int, tokens: int) -> AttentionMaps:
    generator = np.random.default_rng(seed)
    weights = np.tril(generator.gamma(0.3, 1, (layers, heads, tokens, tokens)) + 1e-6)
    weights /= weights.sum(-1, keepdims=True)
    return AttentionMaps(weights.astype(np.float32))
