"""Summaries: one explanation in a few lines for the terminal, several as means."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...files import write_json
from .. import registry
from ..text.words import word_sums

_TOO_SHORT = "the text is too short to tell whether these are better than random ones"


def text_summary(record: dict[str, Any], count: int = 5) -> list[str]:
    """Lines about the first target: what counted most, and how far to trust it.

    Args:
        record: The record of an explanation.
        count: Words named for each method.
    """
    target, text = record["target"], " ".join(record["text"].split())
    shown = text if len(text) <= 70 else f"…{text[-69:]}"
    more = len(record["targets"]) - 1
    foil = target.get("foil")
    against = f" and not “{_shown(foil['text'])}”" if foil else ""
    lines = [
        f"“{shown}”",
        f"  “{_shown(target['text'])}”{against}: probability {target['probability']:.1%}, "
        f"rank {target['rank']}" + (f"; and {more} more tokens" if more else ""),
    ]
    words = record["words"]
    verdicts = set()
    for name, score in registry.scores().items():
        models = record["methods"].get(name)
        if models is None or not score.summary:
            continue
        sums = word_sums(models["tuned"]["scores"][0], [word["tokens"] for word in words])
        order = [i for i in np.argsort(-np.abs(sums)) if i and sums[i]][:count]
        form = "{:+.2f}" if models["tuned"]["signed"] else "{:.2f}"
        said = ", ".join(f"{words[i]['text'].strip() or '⏎'} {form.format(sums[i])}" for i in order)
        verdict = record.get("faithfulness", {}).get(name, {}).get("verdict")
        verdicts.add(verdict)
        doubt = f" ({verdict})" if verdict == registry.NO_BETTER else ""
        lines.append(f"  {score.summary}: {said or 'nothing'}{doubt}")
    if registry.TOO_SHORT in verdicts:
        lines.append(f"  {_TOO_SHORT}")
    return lines


def _shown(token: str) -> str:
    return token.strip() or repr(token)


def aggregate(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over several texts, with standard errors over the texts.

    Returns:
        For the log-probability of the targets, the mass on the first token and every method's
        faithfulness: ``mean``, ``standard_error`` (null for one text) and ``texts``.
    """
    values: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        values.setdefault(name, []).append(float(value))

    for record in records:
        note("log_probability", np.mean([t["log_probability"] for t in record["targets"]]))
        if "attention" in record:
            note("first_token_mass", np.mean(record["attention"]["first_token_mass"]))
        for name, found in record.get("faithfulness", {}).items():
            for key in ("comprehensiveness", "sufficiency"):
                if found.get(key) is not None:
                    note(f"{name}.{key}", found[key])
            note(f"{name}.better_than_random", found["better_than_random"])
    return {
        name: {
            "mean": float(np.mean(found)),
            "standard_error": (
                float(np.std(found, ddof=1) / len(found) ** 0.5) if len(found) > 1 else None
            ),
            "texts": len(found),
        }
        for name, found in values.items()
    }


def save_aggregate(records: Sequence[dict[str, Any]], folder: Path) -> Path:
    """Write ``summary.json`` beside the folders of several texts."""
    path = folder / "summary.json"
    write_json(path, {"texts": len(records), "aggregate": aggregate(records)})
    return path
