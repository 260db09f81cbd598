"""Marks of explicit content, for counting; nothing is filtered by them.

A short list of words misses much and is wrong now and then: what it gives is a number to know a
corpus by, not a promise about it.
"""

from __future__ import annotations

import re

_EXPLICIT = re.compile(
    r"\b(?:cocks?|cunts?|dicks?|cum(?:ming)?|orgasms?|blowjobs?|handjobs?|masturbat\w+|penis(?:es)?"
    r"|vaginas?|erections?|clit(?:oris)?|nipples?|porn\w*|rap(?:ed|ist|ing)|fucking (?:her|him|me)"
    r"|disembowel\w+|entrails|decapitat\w+|mutilat\w+)\b",
    re.IGNORECASE,
)
_ENOUGH = 2


def is_explicit(text: str) -> bool:
    """Whether a text has at least two different words of sex or gore."""
    return len({found.lower() for found in _EXPLICIT.findall(text)}) >= _ENOUGH
