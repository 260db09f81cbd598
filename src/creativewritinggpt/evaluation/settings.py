"""The settings of an evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..config.fields import check, from_mapping, setting

_SCORES = "scoring"
_TEXTS = "generated texts"
_TESTS = "further tests"


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """The settings of one evaluation; see ``docs/evaluation.md``."""

    window: int = setting(
        1024, "Maximum context in tokens.", low=2, high=131072, group=_SCORES, metavar="N"
    )
    stride: int | None = setting(
        None,
        "Also score by sliding windows with a stride of N tokens, for figures comparable with "
        "those of that protocol.",
        low=1,
        group=_SCORES,
        metavar="N",
    )
    legacy_ppl: bool = setting(
        False,
        "Also score the first 512 tokens as the original project did.",
        group=_SCORES,
    )
    texts: int = setting(
        8,
        "Number of texts that each model generates per decoding, from prompts of the documents; "
        "0 generates none.",
        low=0,
        group=_TEXTS,
        metavar="N",
    )
    text_tokens: int = setting(
        100,
        "Maximum length of these texts in tokens.",
        low=8,
        high=100_000,
        group=_TEXTS,
        metavar="N",
    )
    decoding: list[str] = setting(
        ["greedy", "top_p=0.9"],
        "Decoding: greedy, a preset, or settings such as top_p=0.9,temperature=0.8 on top of plain "
        "sampling; can be given several times.",
        group=_TEXTS,
        metavar="HOW",
    )
    seed: int = setting(
        42,
        "Random seed: prompts, texts, wrong options.",
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
        "Texts of a domain that was not trained on, to measure forgetting; can be given several "
        "times. Default: those domains of the sample corpus that were not trained on.",
        group=_TESTS,
        metavar="FILE",
    )
    originality: bool = setting(
        True, "Look for the generated texts in the training text.", group=_TESTS
    )

    def __post_init__(self) -> None:
        check(self)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> EvaluationSettings:
        """Settings from names and values, unknown names refused."""
        return from_mapping(cls, values, "evaluation")
