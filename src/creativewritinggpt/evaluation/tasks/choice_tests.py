"""The tests of choice as an evaluation runs them: planned once, put to every model, compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ...console import CountCallback
from ...data.document import Document
from ...models.loaded_model import LoadedModel
from ...processes import ALONE, Processes
from ..settings import EvaluationSettings
from .choices import (
    PROMPTS,
    STORY_TOKENS,
    Answers,
    Item,
    accuracy,
    answer,
    gain,
    order_accuracy,
    order_gain,
    order_items,
    prompt_items,
    read_cloze,
)

RANKING, CLOZE, ORDER = "prompt_ranking", "story_cloze", "sentence_order"


@dataclasses.dataclass(frozen=True)
class ChoiceTest:
    """One test.

    Attributes:
        name: Its key in ``evaluation.json``.
        items: The questions.
        chance: The share of right answers of a coin.
        tokens: How many tokens of each option are scored; all without it.
    """

    name: str
    items: Sequence[Item]
    chance: float
    tokens: int | None = None

    def ask(
        self, writer: LoadedModel, progress: CountCallback | None = None, team: Processes = ALONE
    ) -> Answers:
        """Let a model answer."""
        return answer(writer, self.items, tokens=self.tokens, team=team, progress=progress)


def planned_tests(documents: Sequence[Document], settings: EvaluationSettings) -> list[ChoiceTest]:
    """The tests that the settings ask for.

    Raises:
        InputError: One can't be made of these documents, or the Story Cloze file can't be read.
    """
    tests = []
    if settings.rank:
        items = prompt_items(documents, settings.rank, settings.seed)
        tests.append(ChoiceTest(RANKING, items, 1 / PROMPTS, STORY_TOKENS))
    if settings.cloze:
        tests.append(ChoiceTest(CLOZE, read_cloze(settings.cloze), 0.5))
    if settings.order:
        items = order_items(documents, settings.order, settings.seed)
        tests.append(ChoiceTest(ORDER, items, 0.5))
    return tests


def figures_of_test(test: ChoiceTest, answers: Mapping[str, Answers]) -> dict[str, Any]:
    """Each model's figures, and each model's gain over the first."""
    figures: dict[str, Any] = {}
    for label, given in answers.items():
        if test.name == ORDER:
            figures[label] = order_accuracy(given, test.items)
        else:
            figures[label] = accuracy(given, test.chance)
    first, *others = answers
    figures["gain"] = {
        label: order_gain(answers[first], answers[label], test.items)
        if test.name == ORDER
        else gain(answers[first], answers[label])
        for label in others
    }
    return figures
