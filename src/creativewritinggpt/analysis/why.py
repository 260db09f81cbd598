"""The short answer: why this word, in a second or two, as one small paragraph.

One method is enough for it. Integrated gradients of the word's first token take a few passes, are
signed and say when they have not converged; the full explanation is ``analyze``.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from .predictions import predictions
from .subject import Target, read, tokens_of, with_targets
from .words import by_word, words_of

if TYPE_CHECKING:
    from ..models.writer import Writer

# Tokens before the word that are looked at: enough for a page, few enough for a second.
_VIEW = 96
# Few steps rank the words well before their sum is exact.
_STEPS = 24


def why(writer: Writer, text: str, word: str, count: int = 6) -> str:
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
    from .gradients import integrated_gradients

    exact = dataclasses.replace(writer, device=dataclasses.replace(writer.device, precision="fp32"))
    whole = read(exact, text)
    first = tokens_of(whole, word)[0]
    begin = max(1, first - _VIEW)
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
    found = integrated_gradients(exact, subject, baseline="mean", most_steps=_STEPS)
    words = words_of(subject)
    scores = by_word(found.scores, words)[0]
    order = np.argsort(-np.abs(scores))
    for name, sign in (("for it", 1), ("against it", -1)):
        some = [i for i in order if scores[i] * sign > 0 and i > 0][:count]
        if some:
            told = ", ".join(f"{words[i].text.strip() or '⏎'} {scores[i]:+.2f}" for i in some)
            lines.append(f"{name}: {told}")
    note = "in nats, by integrated gradients"
    if not found.per_target[0]["converged"]:
        note += ", which did not converge: take them as a hint"
    return "\n".join([*lines, note])
