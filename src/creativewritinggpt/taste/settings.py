"""Settings of training on the writer's choices.

The schedule (rate, passes, batch) stands in :class:`~..config.run.Config` as for every run; here is
what a choice adds to it. Defaults follow the published settings named in docs/choices.md; none of
them is for models of this size and so few choices, so ``bench/taste.py`` measures them.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from ..config.fields import check, from_mapping, setting
from ..config.run import CHOICES_RECIPE, Config, load_config

METHODS = ("auto", "accepted", "preference", "kto", "orpo")

_choice = functools.partial(setting, group="learning from choices")


@dataclasses.dataclass(frozen=True)
class ChoiceSettings:
    """How choices are learnt from."""

    choices_method: str = _choice(
        "auto",
        "How to learn: from `accepted` text alone, by `preference` among what was offered (DPO) "
        "with accepted text beside it, by `kto` or `orpo`; auto: by the number of choices.",
        choices=METHODS,
    )
    beta: float = _choice(
        0.1,
        "Scale of a preference: a higher one stays nearer to the start.",
        above=0,
        high=10,
    )
    label_smoothing: float = _choice(
        0.1, "Share of the choices that are taken to be slips.", low=0, high=0.49
    )
    accepted_weight: float = _choice(
        1.0, "Weight of the accepted text's loss per token beside the preference.", low=0, high=100
    )
    edit_penalty: float = _choice(
        5.0, "For edits: cost of the writer's words getting less likely (DPOP).", low=0, high=100
    )
    tail_weight: float = _choice(
        1.0,
        "Weight in a comparison of the tokens beyond the shortest text; 0: equal lengths (LD-DPO).",
        low=0, high=1,
    )  # fmt: skip
    orpo_weight: float = _choice(0.1, "Weight of ORPO's odds ratio.", above=0, high=10)
    context_tokens: int = _choice(
        128, "Tokens of the text before a choice that are read.", low=16, high=100_000
    )
    held_out: float = _choice(
        0.1,
        "Share of the choices that are not trained on but measured; none where that is under 20.",
        low=0, high=0.5,
    )  # fmt: skip
    draft_prompts: int = _choice(
        8, "Drafts written before and after, with the same seeds; 0: none.", low=0, high=64
    )
    draft_tokens: int = _choice(60, "Tokens of such a draft.", low=8, high=1000)
    most_drift: float = _choice(
        0.3, "Divergence from the start (nats per token of its own drafts) that ends the run.",
        above=0,
    )  # fmt: skip
    most_entropy_loss: float = _choice(
        0.2, "Share of the entropy whose loss ends the run.", above=0, high=1
    )
    most_unlikelier: float = _choice(
        0.05, "Nats per token by which chosen text may get less likely.", above=0
    )
    most_repetition: float = _choice(
        10.0, "Percentage points by which repeated 4-grams of drafts may rise.", above=0, high=100
    )

    def __post_init__(self) -> None:
        check(self)

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return dataclasses.asdict(self)


def choices_config(recipe: str | None = None, /, **overrides: Any) -> Config:
    """Settings of a run on choices: the recipe ``choices``, or another, and overrides."""
    return load_config(recipe or CHOICES_RECIPE, overrides)


def choice_settings(**values: Any) -> ChoiceSettings:
    """Settings from values, each checked.

    Raises:
        InputError: A value that does not fit.
    """
    return from_mapping(ChoiceSettings, values, "settings")
