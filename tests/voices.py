"""Made-up authors, who differ in how often they use the same words."""

import numpy as np

from creativewritinggpt.data.document import Document
from creativewritinggpt.evaluation.stylometry import Sample

_LISTED = """
the of and to in that it was he his with as for had but at on not be by from her they all
were she this which or an him my one so we would who them there when me more no if out up
what into some could than then now over only its down very like after other upon
"""
WORDS = _LISTED.split()
RARE = [f"{a}{b}{c}" for a in "bdfgklmp" for b in "aeiou" for c in ("nd", "st", "rk", "lt", "mp")]


def style(seed, sharpness=0.5):
    """The frequencies of an author: those of all, with the author's own preferences."""
    weights = 1 / (np.arange(len(WORDS)) + 3)
    return weights * np.exp(sharpness * np.random.default_rng(seed).normal(size=len(WORDS)))


def text_of(frequencies, words, seed):
    """Sentences of words of a style, a quarter of them rare, without any name."""
    generator = np.random.default_rng((seed, 17))
    chosen = generator.choice(len(WORDS), size=words, p=frequencies / frequencies.sum()).tolist()
    rare = generator.integers(len(RARE), size=words).tolist()
    pairs = zip(chosen, rare, strict=True)
    drawn = [RARE[r] if i % 4 == 3 else WORDS[c] for i, (c, r) in enumerate(pairs)]
    sentences = [" ".join(drawn[i : i + 11]) for i in range(0, words, 11)]
    return " ".join(f"It {sentence}." for sentence in sentences)


def chapters(author, count, words=900, first=0):
    """Chapters of an author, numbered from ``first``."""
    own = style(author)
    return [
        Document("author", "book", text_of(own, words, (author, first + i))) for i in range(count)
    ]


def samples_of(frequencies, count, words=140, seed=5):
    """Generated texts of a style, two for each prompt."""
    return [Sample(i // 2, text_of(frequencies, words, (seed, i))) for i in range(count)]
