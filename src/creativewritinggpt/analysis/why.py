"""The short answer: why this word, in a few seconds, as one small paragraph.

One method is enough for it: each of the words before is replaced in turn, and what the word's
log-probability loses is told. That takes a short pass for each, and is true by itself. Integrated
gradients of as many passes are far from converged on a trained model, and what they rank first
matters less to it (docs/interpretability.md). The full explanation is ``analyze``.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from .predictions import predictions
from .subject import Target, read, tokens_of, with_targets
from .text.words import word_sums, words_of

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel

# Tokens before the word that the model reads, and those of them whose words are replaced: enough
# for what decides most words, few enough for a few seconds.
_CONTEXT = 192
_VIEW = 40
# In nats: less than this is not told.
_LEAST = 0.05


def why(writer: LoadedModel, text: str, word: str, count: int = 6) -> str:
    """Why a word of a text is there.

    Args:
        writer: The model.
        text: The text that holds the word, to its last place; what follows it is not read.
        word: The word.
        count: How many words to name.

    Returns:
        Some lines: how likely it was, what else could have come, what spoke for and against it.

    Raises:
        InputError: The word is not in the text.
    """
    from .methods.occlusion import leave_one_out

    exact = writer.in_precision("fp32")
    whole = read(exact, text)
    first = tokens_of(whole, word)[0]
    begin = max(1, first - _CONTEXT)
    subject = dataclasses.replace(
        whole,
        ids=(whole.ids[0], *whole.ids[begin:first]),
        spans=(whole.spans[0], *whole.spans[begin:first]),
        view_start=whole.spans[begin][0],
    )
    subject = with_targets(subject, [Target(subject.length, whole.ids[first])])
    said = predictions(exact, subject, 4)[0]
    shown = exact.tokenizer.decode
    token = whole.ids[first]
    others = ", ".join(
        f"{shown([other]).strip()!r} {p:.0%}" for other, p in said.likeliest if other != token
    )
    lines = [
        f"{shown([token]).strip()!r} had a probability of "
        f"{np.exp(said.log_probability):.1%} (rank {said.rank}); others: {others}"
    ]
    if subject.length == 1:
        return lines[0] + "\nNothing stands before it."
    found = leave_one_out(writer, subject, first=max(1, subject.length - _VIEW), exact=False)
    words = words_of(subject)
    scores = word_sums(found.scores[0], [word.tokens for word in words])
    order = np.argsort(-np.abs(scores))
    for name, sign in (("for it", 1), ("against it", -1)):
        some = [i for i in order if scores[i] * sign > _LEAST][:count]
        if some:
            told = ", ".join(f"{words[i].text.strip() or '⏎'} {scores[i]:+.2f}" for i in some)
            lines.append(f"{name}: {told}")
    if len(lines) == 1:
        return lines[0] + "\nNone of the words just before it matters by itself."
    return "\n".join([*lines, "in nats: what it loses without each of these words"])
