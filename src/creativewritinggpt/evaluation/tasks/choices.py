"""Tests in which a model has to tell the right text from wrong ones by their probability.

Three of them, each with chance beside it. *Prompt ranking* (Fan et al. 2018, "Hierarchical Neural
Story Generation"): of ten prompts, which one was the story written for? *Story Cloze* (Mostafazadeh
et al. 2016): of two endings, which one is right? *Sentence order* (after See et al. 2019): is the
story likelier than itself with its sentences shuffled? In each, what is compared are sums of
log-probabilities of tokens, and in the first the very same tokens under every prompt. Formatting
moves such figures by several points, so that only figures of one protocol can be compared.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...console import CountCallback
from ...data.document import SEPARATOR, Document
from ...data.rows.tokens import encode
from ...errors import InputError
from ...models.loaded_model import LoadedModel
from ...processes import ALONE, Processes
from ..metrics.style import sentences_of
from ..scoring.bootstrap import Interval, interval_of
from ..scoring.documents import score_continuations
from ..texts import choose_documents

PROMPTS = 10
STORY_TOKENS = 128
"""Tokens of a story that are scored under each prompt."""

SENTENCES = 15
SHUFFLES = 14


@dataclasses.dataclass(frozen=True)
class Item:
    """One question: the right text is the first.

    Attributes:
        group: What it is resampled with.
        options: (context, text) pairs; the texts are scored.
    """

    group: str
    options: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Answers:
    """How a model answered.

    Attributes:
        groups: [items] what each is resampled with.
        right: [items] 1 where the right option was the likeliest, a share where options tie.
        ranks: [items] the place of the right option among all, from 1; ties count half.
    """

    groups: list[str]
    right: list[float]
    ranks: list[float]


def prompt_items(documents: Sequence[Document], count: int, seed: int) -> list[Item]:
    """Stories with their own prompt and nine of others, drawn without replacement.

    Raises:
        InputError: There are fewer than ten different prompts.
    """
    with_prompt = [d for d in documents if d.prompt and d.text.strip()]
    prompts = sorted({document.prompt for document in with_prompt if document.prompt})
    if len(prompts) < PROMPTS:
        raise InputError(
            f"prompt ranking needs {PROMPTS} different prompts, and there are {len(prompts)}",
            "give documents with prompts, or leave --rank out",
        )
    items = []
    for number, document in enumerate(choose_documents(with_prompt, count, seed)):
        others = [prompt for prompt in prompts if prompt != document.prompt]
        wrong = random.Random(f"{seed} {number}").sample(others, PROMPTS - 1)
        options = [(f"{prompt}{SEPARATOR}", document.text) for prompt in (document.prompt, *wrong)]
        items.append(Item(document.group, tuple(options)))
    return items


def order_items(documents: Sequence[Document], count: int, seed: int) -> list[Item]:
    """Beginnings of stories, and 14 shuffles of their sentences.

    The first 15 sentences are taken; where fewer orders exist than shuffles, all of them.

    Raises:
        InputError: No document has three sentences, or none whose order shows.
    """
    usable = {d: s for d in documents if len(s := sentences_of(d.text)[:SENTENCES]) >= 3}
    if not usable:
        raise InputError(
            "the sentence-order test needs documents of three sentences or more",
            "leave --order out",
        )
    items = []
    for number, document in enumerate(choose_documents(list(usable), count, seed)):
        sentences = usable[document]
        generator = random.Random(f"{seed} {number}")
        found = [" ".join(sentences)]
        wanted = 1 + min(SHUFFLES, math.factorial(min(len(sentences), 9)) - 1)
        for _ in range(50 * SHUFFLES):
            shuffled = " ".join(generator.sample(sentences, len(sentences)))
            if shuffled not in found:
                found.append(shuffled)
            if len(found) == wanted:
                break
        if len(found) > 1:
            items.append(Item(document.group, tuple(("", text) for text in found)))
    if not items:
        raise InputError(
            "the sentence-order test needs documents whose sentences differ", "leave --order out"
        )
    return items


def read_cloze(path: str | Path) -> list[Item]:
    """The items of a Story Cloze file in its official form.

    Args:
        path: A CSV with ``InputSentence1`` to ``4``, ``RandomFifthSentenceQuiz1`` and ``2`` and
            ``AnswerRightEnding``.

    Raises:
        InputError: It can't be read, or has not these columns or no answers.
    """
    needed = [f"InputSentence{n}" for n in range(1, 5)]
    needed += ["RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2", "AnswerRightEnding"]
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} can't be read: {error}") from error
    missing = [name for name in needed if not rows or name not in rows[0]]
    if missing:
        raise InputError(
            f"{path} is no Story Cloze file: {missing[0]} is missing",
            "the official CSV with its answers is needed",
        )
    items = []
    for number, row in enumerate(rows, 1):
        answer = (row["AnswerRightEnding"] or "").strip()
        cells = [(row[name] or "").strip() for name in needed[:6]]
        if answer not in ("1", "2") or not all(cells):
            raise InputError(f"{path}: row {number} has no answer or an empty sentence")
        right, wrong = cells[4:] if answer == "1" else cells[:3:-1]
        context = " ".join(cells[:4])
        items.append(Item(str(number), ((context, f" {right}"), (context, f" {wrong}"))))
    return items


def answer(
    writer: LoadedModel,
    items: Sequence[Item],
    *,
    tokens: int | None = None,
    team: Processes = ALONE,
    progress: CountCallback | None = None,
) -> Answers:
    """Let a model answer.

    Args:
        writer: The model.
        items: The questions.
        tokens: Score the first tokens of each text only.
        team: The processes that share the work; each gives all questions and gets all answers.
        progress: Called with (options scored, options in all).
    """
    pairs = [
        (encode(writer.tokenizer, context), encode(writer.tokenizer, text)[:tokens])
        for item in items
        for context, text in item.options
    ]
    scores = iter(score_continuations(writer, pairs, team=team, progress=progress))
    right, ranks = [], []
    for item in items:
        own, *others = [next(scores) for _ in item.options]
        above = sum(other > own for other in others)
        ties = sum(other == own for other in others)
        ranks.append(1 + above + ties / 2)
        right.append(0.0 if above else 1 / (1 + ties))
    return Answers([item.group for item in items], right, ranks)


def accuracy(answers: Answers, chance: float) -> dict[str, Any]:
    """Share of right answers with its interval, mean reciprocal rank, and chance."""
    count = len(answers.right)
    share = sum(answers.right) / count
    return {
        "items": count,
        "accuracy": share,
        "ci95": wilson(share, count),
        "mean_reciprocal_rank": sum(1 / rank for rank in answers.ranks) / count,
        "chance": chance,
    }


def order_accuracy(answers: Answers, items: Sequence[Item]) -> dict[str, Any]:
    """Share of shuffles that are less likely than the true order, over all stories."""
    wrong = [len(item.options) - 1 for item in items]
    below = [w + 1 - rank for w, rank in zip(wrong, answers.ranks, strict=True)]
    return {
        "items": len(items),
        "shuffles": sum(wrong),
        "accuracy": sum(below) / sum(wrong),
        "ci95": interval_of(answers.groups, below, wrong),
        "best_of_all": sum(answers.right) / len(items),
        "chance": 0.5,
    }


def order_gain(first: Answers, second: Answers, items: Sequence[Item]) -> dict[str, Any]:
    """Second minus first in the share of shuffles that are less likely, with its interval."""
    changes = [a - b for a, b in zip(first.ranks, second.ranks, strict=True)]
    wrong = [len(item.options) - 1 for item in items]
    return {
        "accuracy": sum(changes) / sum(wrong),
        "ci95": interval_of(first.groups, changes, wrong),
    }


def gain(first: Answers, second: Answers) -> dict[str, Any]:
    """Second minus first in the share of right answers, paired, with its interval."""
    changes = [b - a for a, b in zip(first.right, second.right, strict=True)]
    return {
        "accuracy": sum(changes) / len(changes),
        "ci95": interval_of(first.groups, changes, [1.0] * len(changes)),
    }


def wilson(share: float, count: int) -> Interval:
    """The 95 % interval of a share of independent answers (Wilson 1927)."""
    z = 1.959964
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    half /= 1 + z * z / count
    return [max(0.0, middle - half), min(1.0, middle + half)]
