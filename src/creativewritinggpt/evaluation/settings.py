"""The settings of an evaluation."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from ..config.fields import check, from_mapping, setting

_scoring = functools.partial(setting, group="scoring")
_texts = functools.partial(setting, group="generated texts")
_voice = functools.partial(setting, group="voice")
_tests = functools.partial(setting, group="further tests")


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """The settings of one evaluation; see ``docs/evaluation.md``."""

    window: int = _scoring(1024, "Maximum context in tokens.", low=2, high=131072)
    stride: int | None = _scoring(
        None,
        "Also score by sliding windows with a stride of N tokens, for figures comparable with "
        "those of that protocol.",
        low=1,
    )  # fmt: skip
    legacy_ppl: bool = _scoring(
        False, "Also score the first 512 tokens as the original project did."
    )
    texts: int = _texts(
        8,
        "Number of texts that each model generates per decoding, from prompts of the documents; "
        "0 generates none.",
        low=0,
    )  # fmt: skip
    text_tokens: int = _texts(100, "Maximum length of these texts in tokens.", low=8, high=100_000)
    decoding: list[str] = _texts(
        ["greedy", "top_p=0.9"],
        "Decoding: greedy, a preset, or settings such as top_p=0.9,temperature=0.8 on top of plain "
        "sampling; can be given several times.",
        metavar="HOW",
    )  # fmt: skip
    seed: int = _texts(42, "Random seed: prompts, texts, wrong options.", low=0, high=2**31 - 1)
    rank: int = _tests(
        0, "Prompt ranking: for N stories, tell their prompt from nine others.", low=0
    )
    order: int = _tests(
        0, "Sentence order: for N stories, tell the true order from 14 shuffles.", low=0
    )
    cloze: str | None = _tests(
        None, "Story Cloze: the official CSV with its answers.", metavar="FILE"
    )
    forgetting: list[str] | None = _tests(
        None,
        "Texts of a domain that was not trained on, to measure forgetting; can be given several "
        "times. Default: those domains of the sample corpus that were not trained on.",
        metavar="FILE",
    )  # fmt: skip
    forgetting_words: int = _tests(
        3000,
        "Words of each domain of the sample corpus, where --forgetting names no texts; 0 measures "
        "no forgetting.",
        low=0,
    )  # fmt: skip
    originality: bool = _tests(True, "Look for the generated texts in the training text.")

    voice: list[str] | None = _voice(
        None,
        "Texts of one author: say how near the model's texts are to the author's. Default: the "
        "documents held out in training, where a model was tuned on one author.",
        metavar="FILE",
    )  # fmt: skip
    others: list[str] | None = _voice(
        None,
        "Texts of other authors, a file or folder each. Default: the sample corpus by its domains.",
        metavar="FILE",
    )  # fmt: skip
    voice_words: int = _voice(
        5000,
        "Words that each model writes for it; 0 leaves it out, and below 2,000 nothing can be "
        "told.",
        low=0, high=100_000,
    )  # fmt: skip

    def __post_init__(self) -> None:
        check(self)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> EvaluationSettings:
        """Settings from names and values, unknown names refused."""
        return from_mapping(cls, values, "evaluation")
