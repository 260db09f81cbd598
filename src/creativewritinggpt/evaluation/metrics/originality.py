"""Does a model copy what it was trained on?

For each text the longest run of words that stands in the training text, and the share of its runs
of eight words found there, beside the same figures of held-out text by people: everybody shares
some runs with everybody, and only what is beyond that is copying. Case and punctuation don't count,
so that a copy with other commas is a copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..scoring.bootstrap import mean_interval
from .corpus_index import RUN, CorpusIndex
from .style import words_of

_SHOWN = 3


def check(index: CorpusIndex, text: str) -> dict[str, Any]:
    """What one text shares with the training text.

    Returns:
        ``words``; ``longest_run`` in words; ``share_of_8grams`` found, None for shorter texts; and,
        where the run has three words or more, ``passage`` as it stands in the text, ``document``
        and the ``context`` in it.
    """
    words = words_of(text)
    runs = index.longest_runs(words)
    grams = len(words) - RUN + 1
    found: dict[str, Any] = {
        "words": len(words),
        "longest_run": 0,
        "share_of_8grams": float((runs[:grams] == RUN).mean()) if grams > 0 else None,
    }
    match = index.longest_match(words)
    if match is None:
        return found
    found["longest_run"] = match.words
    if match.words >= 3:
        before, own, after = index.passage(match)
        found["passage"] = own
        found["document"] = {"number": match.document, **index.documents[match.document]}
        found["context"] = [before, after]
    return found


def originality(index: CorpusIndex, rows: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The figures of each row of texts (a model's, or people's).

    Args:
        index: Of the training text.
        rows: Texts by label.

    Returns:
        By label ``texts``, mean and highest ``longest_run`` with the mean's interval, mean
        ``share_of_8grams`` with its interval, and the three ``longest`` passages with their
        document.
    """
    result = {}
    for label, texts in rows.items():
        found = [check(index, text) for text in texts]
        runs = [float(entry["longest_run"]) for entry in found]
        shares = [f["share_of_8grams"] for f in found if f["share_of_8grams"] is not None]
        shown = sorted((f for f in found if "passage" in f), key=lambda f: -f["longest_run"])
        result[label] = {
            "texts": len(found),
            "longest_run_mean": sum(runs) / len(runs),
            "longest_run_ci95": mean_interval(runs),
            "longest_run_max": int(max(runs)),
            "share_of_8grams": sum(shares) / len(shares) if shares else None,
            "share_of_8grams_ci95": mean_interval(shares),
            "longest": shown[:_SHOWN],
        }
    return result
