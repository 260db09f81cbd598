"""What an evaluation does beyond scoring the documents, and how much of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..config.fields import check, from_mapping, setting

_SCORES = "what is scored"
_TEXTS = "what is written"
_TESTS = "further tests"


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """The settings of one evaluation; see ``docs/evaluation.md``."""

    window: int = setting(
        1024, "Tokens of context at most.", low=2, high=131072, group=_SCORES, metavar="N"
    )
    stride: int | None = setting(
        None,
        "Score a second time by windows that move on by N tokens, for figures comparable with "
        "those of that protocol.",
        low=1,
        group=_SCORES,
        metavar="N",
    )
    legacy_ppl: bool = setting(
        False,
        "Score the first 512 tokens a further time as the original project did.",
        group=_SCORES,
    )
    texts: int = setting(
        8,
        "Texts that each model writes in each way of decoding, after prompts of the documents; "
        "0 writes none.",
        low=0,
        group=_TEXTS,
        metavar="N",
    )
    text_tokens: int = setting(
        100, "Length of these texts, at most.", low=8, high=100_000, group=_TEXTS, metavar="N"
    )
    decoding: list[str] = setting(
        ["greedy", "top_p=0.9"],
        "A way of decoding: greedy, a preset, or settings as top_p=0.9,temperature=0.8 on top of "
        "plain sampling; can be given several times.",
        group=_TEXTS,
        metavar="HOW",
    )
    seed: int = setting(
        42,
        "Seed of what is drawn: prompts, texts, wrong options.",
        low=0,
        high=2**31 - 1,
        group=_TEXTS,
        metavar="N",
    )
    rank: int = setting(
        0,
        "Prompt ranking: for N stories, tell their prompt from nine others.",
        low=0,
        group=_TESTS,
        metavar="N",
    )
    order: int = setting(
        0,
        "Sentence order: for N stories, tell the true order from 14 shuffles.",
        low=0,
        group=_TESTS,
        metavar="N",
    )
    cloze: str | None = setting(
        None,
        "Story Cloze: the official CSV with its answers.",
        group=_TESTS,
        metavar="FILE",
    )
    forgetting: list[str] | None = setting(
        None,
        "Texts of a kind that was not trained on, to see what was forgotten; can be given several "
        "times. Without it those domains of the sample corpus that were not trained on.",
        group=_TESTS,
        metavar="FILE",
    )
    originality: bool = setting(
        True, "Look for what is written in the training text.", group=_TESTS
    )

    def __post_init__(self) -> None:
        check(self)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> EvaluationSettings:
        """Settings from names and values, unknown names refused."""
        return from_mapping(cls, values, "evaluation")
