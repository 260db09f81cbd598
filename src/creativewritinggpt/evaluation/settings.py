"""What an evaluation does beyond scoring the documents, and how much of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..settings import check, from_mapping, setting

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

    def __post_init__(self) -> None:
        check(self)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> EvaluationSettings:
        """Settings from names and values, unknown names refused."""
        return from_mapping(cls, values, "evaluation")
