"""Whether a text has to do with its prompt: what it copies, and whose names it takes up.

Two opposite faults are told apart. A text that copies long runs of its prompt only echoes it; one
in which no name of the prompt comes up again has forgotten it (See et al. 2019, "Do Massively
Pretrained Language Models Make Better Storytellers?"). Names are told by their capitals, by rule.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .repetition import ngrams
from .style import words_of

_TAG = re.compile(r"^\s*\[[^\]]{1,4}\]\s*")
_NAME = re.compile(r"\b[A-Z][\w’'-]*[a-z][\w’'-]*")
_STARTS = re.compile(r"(?:^|[.!?…:\"“”‘(\n])\s*[\"“‘(*_]*$")
_COMMON = (
    "the a an and but or nor so yet for if when while as at by from in into of on to up with after "
    "before he she it they we you his her its their our your my this that these those there here "
    "what who whom whose which where why how not no yes all every each one two some any many most "
    "only just then now once write tell describe imagine people everyone someone nobody"
)
_NOT_NAMES = frozenset(_COMMON.split())


def copied_share(prompt: str, text: str, n: int) -> float | None:
    """Share of the text's n-grams of words that stand in the prompt; None without n-grams."""
    known = set(ngrams(words_of(prompt), n))
    grams = list(ngrams(words_of(text), n))
    return sum(gram in known for gram in grams) / len(grams) if grams else None


def names_in(prompt: str) -> set[str]:
    """Names in a prompt, in lower case: capitalised words, common words at a beginning left out."""
    prompt = _TAG.sub("", prompt)
    found = set()
    for match in _NAME.finditer(prompt):
        word = match.group().casefold().replace("’", "'").removesuffix("'s")
        starts = bool(_STARTS.search(prompt[: match.start()]))
        again = any(
            other.group().casefold() == match.group().casefold() and other.start() != match.start()
            for other in _NAME.finditer(prompt)
        )
        if word not in _NOT_NAMES and (not starts or again):
            found.add(word)
    return found


def names_used(prompt: str, text: str) -> float | None:
    """Share of the prompt's names that come up in the text; None where the prompt has none."""
    names = names_in(prompt)
    if not names:
        return None
    words = {word.removesuffix("'s") for word in words_of(text)}
    return len(names & words) / len(names)


def prompt_use(pairs: Sequence[tuple[str, str]]) -> dict[str, float | None]:
    """Means over (prompt, text) pairs, each over those where it is defined."""
    columns: dict[str, list[float | None]] = {
        f"copied_{n}gram": [copied_share(prompt, text, n) for prompt, text in pairs]
        for n in (1, 2, 3)
    }
    columns["prompt_names_used"] = [names_used(prompt, text) for prompt, text in pairs]
    result: dict[str, float | None] = {}
    for name, column in columns.items():
        values = [value for value in column if value is not None]
        result[name] = sum(values) / len(values) if values else None
    return result
