"""What came of a run on choices: its ``choices_report.json``, and that in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

from ..errors import InputError
from .measures import baselines, trial
from .ranker import learn
from .setup import ChoiceSetup


def report(setup: ChoiceSetup, metrics: Mapping[str, Any], outcome: str) -> dict[str, Any]:
    """Content of ``choices_report.json``.

    Args:
        setup: The run, finished.
        metrics: Content of its ``metrics.json``.
        outcome: ``finished``, ``early`` or ``interrupted``.
    """
    entries, best = metrics["choices"], metrics["best_step"] or 0
    plain = [{key: entry[key] for key in entry if key != "drafts"} for entry in entries]
    found = next(entry for entry in plain if entry["step"] == best)
    guard = plain[-1]["guard"]
    tested = trial(setup.measured, found["accuracy"])
    result: dict[str, Any] = {
        "format": 1,
        "outcome": "guard" if guard else outcome,
        "guard": guard,
        "method": setup.method,
        "asked": setup.settings.choices_method,
        "choices": {
            **setup.material.record,
            "kinds": setup.kinds(),
            "trained_on": len(setup.training),
            "held_out": len(setup.held_out),
            "not_comparable": setup.lost,
        },
        "settings": setup.settings.to_dict(),
        "config": {
            name: getattr(setup.config, name)
            for name in ("learning_rate", "num_epochs", "batch_size", "seed", "init_adapter")
        },
        "measured_on": "held out" if setup.measured is setup.held_out else "trained on",
        "baselines": baselines(setup.measured, setup.base),
        "start": plain[0],
        "best": found,
        "best_step": best,
        "evaluations": plain,
        "beyond_chance": bool(setup.held_out)
        and tested.first - tested.chance > _surety(len(plain) - 1) * tested.error,
        "uncertainty_points": None if not tested.choices else 98 / math.sqrt(tested.choices),
        "drafts": setup.drafts(),
        "ranker": _ranker(setup),
    }
    result["sentences"] = sentences(result)
    if result["ranker"]:
        result["sentences"].append(f"The ranker, from the same choices: {result['ranker']}.")
    return result


def _surety(looks: int) -> float:
    """Standard errors that one run in twenty passes by chance, the best of so many looks taken."""
    return NormalDist().inv_cdf(1 - 0.05 / max(1, looks))


def _ranker(setup: ChoiceSetup) -> str | None:
    """What the ranker of drafts has learnt from the same choices."""
    try:
        return learn(setup.material.decisions).sentence
    except InputError:  # single words only
        return None


def sentences(result: Mapping[str, Any]) -> list[str]:
    """What came of it, in plain sentences."""
    start, best, said = result["start"], result["best"], []
    if result["guard"]:
        said.append(f"The run was ended: {result['guard']}.")
    if result["best_step"] == 0:
        why = {
            "guard": "No state before that was measured",
            "interrupted": "It was stopped before anything could be kept",
        }.get(result["outcome"], "Nothing that it learnt held on the choices it had not seen")
        said.append(f"{why}: best_model is the model as it was.")
        return said
    held_out = result["measured_on"] == "held out"
    if best["choices"]:
        chance = result["baselines"].get("chance", 0.0)
        told = (
            f"Of {best['choices']} {'held-out ' if held_out else ''}choices, what you took gained "
            f"most in "
            f"{best['accuracy']:.0%} (by chance {chance:.0%}, ±{result['uncertainty_points']:.0f} "
            "points)"
        )
        if not held_out:
            told += "; they were trained on, which proves nothing"
        elif not result["beyond_chance"]:
            told += ", which may be chance"
        said.append(f"{told}.")
    said.append(
        f"Text that you took became {abs(best['gain']):.3f} nats a token "
        f"{'likelier' if best['gain'] > 0 else 'less likely'}."
    )
    if "drift" in best:
        said.append(
            f"Drafts: {best['words']:.0f} words ({start['words']:.0f} before), repetition "
            f"{best['repetition']:.0f}% ({start['repetition']:.0f}%), entropy "
            f"{best['entropy']:.2f} nats ({start['entropy']:.2f}), moved by {best['drift']:.3f} "
            "nats a token."
        )
    said.append("Whether it is what you like, only your own choices will tell: go on choosing.")
    return said
