"""An explanation in a few lines for the terminal: what counted most, and how far to trust it."""

from __future__ import annotations

import numpy as np

from ..run import Explanation
from ..text.words import by_word

_SHOWN = {
    "integrated_gradients": "by integrated gradients",
    "kl": "by random replacement",
    "occlusion": "by leaving out",
}


def told(found: Explanation, count: int = 5) -> list[str]:
    """Lines about the first target.

    Args:
        found: The explanation.
        count: Words named for each method.
    """
    record = found.record
    target, text = record["target"], " ".join(record["text"].split())
    shown = text if len(text) <= 70 else f"…{text[-69:]}"
    token = target["text"].strip() or repr(target["text"])
    more = len(record["targets"]) - 1
    foil = target.get("foil")
    against = f" and not “{foil['text'].strip() or repr(foil['text'])}”" if foil else ""
    lines = [
        f"“{shown}”",
        f"  “{token}”{against}: probability {target['probability']:.1%}, rank {target['rank']}"
        + (f"; and {more} more tokens" if more else ""),
    ]
    for name, said in _SHOWN.items():
        models = record["methods"].get(name)
        if models is None:
            continue
        scores = by_word(np.asarray(models["tuned"]["scores"]), found.words)[0]
        order = [i for i in np.argsort(-np.abs(scores)) if i and scores[i]][:count]
        form = "{:+.2f}" if models["tuned"]["signed"] else "{:.2f}"
        words = ", ".join(
            f"{found.words[i].text.strip() or '⏎'} {form.format(scores[i])}" for i in order
        )
        judged = record.get("faithfulness", {}).get(name)
        doubt = "" if judged is None or judged["better_than_random"] else " (no better than random)"
        lines.append(f"  {said}: {words or 'nothing'}{doubt}")
    return lines
