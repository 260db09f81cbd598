"""The report of ``cwgpt choices``: what there is, how it would be used, and how sure one can be.

Figures of certainty are 95 %: half the width of the interval of an accuracy that is measured on so
many held-out choices is at most 0.98 / √n, and the first place is expected to be taken as often as
a blind writer would, Σ 1/k over choices among k, with the spread of that sum.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..console import counted
from .decisions import Decision, Decisions

FEW = 20
"""Number of choices below which nothing is learnt from them by preference tuning."""
_NAMES = {
    "pick": "taken from several that were shown",
    "retry": "a version kept over others",
    "undo": "taken back, and something else kept",
    "edit": "the model's words replaced by the writer's",
    "token": "another word in the place of one",
    "rejected": "only rejected",
}
_USES = {
    "pick": "one softmax over all that were shown",
    "retry": "one softmax over all versions",
    "undo": "a pair",
    "edit": "the new text as a document, and a pair",
    "token": "a pair of single words",
    "rejected": "a single rejected text",
}


def report(found: Decisions, files: Sequence[str]) -> dict[str, Any]:
    """The figures, ready for JSON.

    Args:
        found: The decisions of all files.
        files: Names of the files.
    """
    compared = [one for one in found.used if one.chosen is not None]
    groups: dict[str, list[Decision]] = {}
    for one in found.used:
        groups.setdefault(one.kind if one.chosen is not None else "rejected", []).append(one)
    kinds = {
        name: {
            "choices": len(groups[name]),
            "alternatives": sum(len(one.rejected) for one in groups[name]),
            "weight": round(sum(one.weight for one in groups[name]), 2),
            "use": _USES[name],
        }
        for name in _NAMES
        if name in groups
    }
    models = Counter(one.model for one in found.used if one.model)
    return {
        "files": list(files),
        "recorded": found.recorded,
        "inferred": found.inferred,
        "usable": len(found.used),
        "compared": len(compared),
        "weight": round(sum(one.weight for one in found.used), 2),
        "kinds": kinds,
        "left_out": dict(found.left_out.most_common()),
        "alternatives_left_out": dict(found.alternatives_left_out.most_common()),
        "models": dict(models.most_common()),
        "places": places(compared),
        "lengths": _lengths(compared),
        "half_width": half_width(len(compared)),
        "few": len(compared) < FEW,
        "remarks": list(found.remarks),
    }


def half_width(count: int) -> float | None:
    """Half the widest 95 % interval of an accuracy on ``count`` choices, 0…1; None for none."""
    return round(min(0.5, 0.98 / math.sqrt(count)), 3) if count else None


def places(compared: Sequence[Decision]) -> dict[str, Any] | None:
    """How often each place on the screen was taken, against a writer who does not look.

    Returns:
        ``choices``; by place ``taken`` and ``expected``; for the first place ``low`` and ``high``,
        between which 95 % of blind writers lie, and whether it lies ``outside``; None where no
        order is known.
    """
    seen = [one for one in compared if one.place is not None and one.shown > 1]
    if not seen:
        return None
    most = max(one.shown for one in seen)
    taken = [sum(one.place == place for one in seen) for place in range(most)]
    expected = [sum(1 / one.shown for one in seen if one.shown > place) for place in range(most)]
    spread = 1.96 * math.sqrt(sum((1 - 1 / one.shown) / one.shown for one in seen))
    low, high = max(0.0, expected[0] - spread), min(len(seen), expected[0] + spread)
    return {
        "choices": len(seen),
        "taken": taken,
        "expected": [round(value, 2) for value in expected],
        "low": round(low, 2),
        "high": round(high, 2),
        "outside": not low <= taken[0] <= high,
    }


def _lengths(compared: Sequence[Decision]) -> dict[str, float] | None:
    """Mean words of chosen and rejected texts, where whole passages were compared."""
    whole = [one for one in compared if one.kind in ("pick", "retry")]
    if not whole:
        return None
    chosen = [len((one.chosen or "").split()) for one in whole]
    rejected = [sum(len(text.split()) for text in one.rejected) / len(one.rejected)
                for one in whole]  # fmt: skip
    longer = sum(a > b for a, b in zip(chosen, rejected, strict=True))
    return {
        "chosen": round(sum(chosen) / len(whole), 1),
        "rejected": round(sum(rejected) / len(whole), 1),
        "longer": round(longer / len(whole), 3),
    }


def render(result: Mapping[str, Any]) -> str:
    """The report as plain text."""
    lines = [
        f"{counted(result['recorded'], 'choice')} recorded"
        + (f", {result['inferred']:,} read from trees" if result["inferred"] else "")
        + f", in {counted(len(result['files']), 'file')}; {result['usable']:,} can be used"
    ]
    if result["kinds"]:
        lines += ["", *_table(
            ("choices", "against", "weight", "what", "used as"),
            [
                (f"{one['choices']:,}", f"{one['alternatives']:,}", f"{one['weight']:g}",
                 _NAMES[name], one["use"])
                for name, one in result["kinds"].items()
            ],
        )]  # fmt: skip
    for title, name in (("left out", "left_out"), ("of the others", "alternatives_left_out")):
        if result[name]:
            listed = ", ".join(f"{reason} ({count:,})" for reason, count in result[name].items())
            lines += ["", f"{title}: {listed}"]
    lines += ["", *sentences(result)]
    return "\n".join(lines) + "\n"


def sentences(result: Mapping[str, Any]) -> list[str]:
    """What the figures mean, a sentence each."""
    said = []
    place = result["places"]
    if place is not None:
        first = f"the first shown was taken {place['taken'][0]:,} of {place['choices']:,} times"
        blind = f"{place['low']:.0f} to {place['high']:.0f} times"
        said.append(
            f"{first}; a writer who does not look takes it {blind}"
            + (": the place seems to matter" if place["outside"] else "")
        )
    lengths = result["lengths"]
    if lengths is not None:
        said.append(
            f"taken texts have {lengths['chosen']:g} words on average, the others "
            f"{lengths['rejected']:g}; {lengths['longer']:.0%} of the choices took the longer one"
        )
    if len(result["models"]) > 1:
        several = ", ".join(f"{name} ({count:,})" for name, count in result["models"].items())
        said.append(f"the texts are by several models: {several}")
    compared = result["compared"]
    if compared:
        said.append(
            f"with {counted(compared, 'choice')} between texts, an accuracy on held-out choices is "
            f"known to ±{100 * result['half_width']:.0f} points"
        )
    if not result["usable"]:
        said.append(
            "there is nothing to learn from yet: /alt and /pick, /retry, /undo and /edit of the "
            "model's passages are recorded in the story"
        )
    elif result["few"]:
        said.append(
            f"below {FEW} choices between texts, ordering drafts and training on accepted text are "
            "what they are enough for"
        )
    return said + list(result["remarks"])


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned columns: the first three are numbers."""
    widths = [max(len(row[n]) for row in (heads, *rows)) for n in range(len(heads))]
    return [
        "  ".join(
            cell.rjust(width) if n < 3 else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (heads, *rows)
    ]
