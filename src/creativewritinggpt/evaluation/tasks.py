"""Tasks: choice tests of our own, and tasks of lm-evaluation-harness where it is installed.

A choice test asks whether a model tells the right text from wrong ones by their log-probability.
There are three, each with chance beside it. *Prompt ranking* (Fan et al. 2018, "Hierarchical Neural
Story Generation"): of ten prompts, which one was the story written for? *Story Cloze* (Mostafazadeh
et al. 2016): of two endings, which one is right? *Sentence order* (after See et al. 2019): is the
story likelier than itself with its sentences shuffled? Sums of log-probabilities of tokens are
compared, in prompt ranking of the very same tokens under every prompt. Formatting moves such
figures by several points, so only figures of one protocol can be compared.

The harness is heavy and fetches its tasks' data from the hub, so it is an optional dependency; a
task can also be a YAML file that names local data.
"""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import math
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..console import CountCallback
from ..data.document import Document
from ..data.rows.packing import encode
from ..data.text import sentences
from ..distributed import SINGLE_PROCESS, ProcessGroup
from ..errors import InputError, RunError
from ..files import parse_yaml, read_text
from ..models.checks import first_line, quiet
from ..models.loaded_model import LoadedModel
from .perplexity import Interval, interval_of
from .scoring import score_continuations
from .settings import EvaluationSettings
from .texts import choose_documents

RANKING, CLOZE, ORDER = "prompt_ranking", "story_cloze", "sentence_order"
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
class ChoiceTest:
    """One test.

    Attributes:
        name: Its key in ``evaluation.json``.
        items: The questions.
        chance: The accuracy of guessing.
        tokens: How many tokens of each option are scored; all without it.
    """

    name: str
    items: Sequence[Item]
    chance: float
    tokens: int | None = None


@dataclasses.dataclass(frozen=True)
class Answers:
    """The answers of one model.

    Attributes:
        groups: [items] what each is resampled with.
        right: [items] 1 where the right option was the likeliest, a share where options tie.
        ranks: [items] the rank of the right option among all, from 1; ties count half.
    """

    groups: list[str]
    right: list[float]
    ranks: list[float]


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
        options = [
            dataclasses.replace(document, prompt=prompt).parts()
            for prompt in (document.prompt, *wrong)
        ]
        items.append(Item(document.group, tuple(options)))
    return items


def order_items(documents: Sequence[Document], count: int, seed: int) -> list[Item]:
    """Beginnings of stories, and 14 shuffles of their sentences.

    The first 15 sentences are taken; where fewer orders exist than shuffles, all of them.

    Raises:
        InputError: No document has three sentences, or none whose order shows.
    """
    usable = {d: s for d in documents if len(s := sentences(d.text)[:SENTENCES]) >= 3}
    if not usable:
        raise InputError(
            "the sentence-order test needs documents of three sentences or more",
            "leave --order out",
        )
    items = []
    for number, document in enumerate(choose_documents(list(usable), count, seed)):
        parts = usable[document]
        generator = random.Random(f"{seed} {number}")
        found = [" ".join(parts)]
        wanted = 1 + min(SHUFFLES, math.factorial(min(len(parts), 9)) - 1)
        for _ in range(50 * SHUFFLES):
            shuffled = " ".join(generator.sample(parts, len(parts)))
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
    model: LoadedModel,
    test: ChoiceTest,
    *,
    group: ProcessGroup = SINGLE_PROCESS,
    progress: CountCallback | None = None,
) -> Answers:
    """Let a model answer the questions of a test.

    Args:
        model: The model.
        test: The test.
        group: The processes that share the work; each passes all questions and gets all answers.
        progress: Called with (options scored, options in all).
    """
    pairs = [
        (encode(model.tokenizer, context), encode(model.tokenizer, text)[: test.tokens])
        for item in test.items
        for context, text in item.options
    ]
    scores = iter(score_continuations(model, pairs, group=group, progress=progress))
    right, ranks = [], []
    for item in test.items:
        own, *others = [next(scores) for _ in item.options]
        above = sum(other > own for other in others)
        ties = sum(other == own for other in others)
        ranks.append(1 + above + ties / 2)
        right.append(0.0 if above else 1 / (1 + ties))
    return Answers([item.group for item in test.items], right, ranks)


def choice_figures(test: ChoiceTest, answers: Mapping[str, Answers]) -> dict[str, Any]:
    """Each model's accuracy by its label, and each model's gain over the first."""
    first, *others = answers
    return {
        **{label: accuracy(test, given) for label, given in answers.items()},
        "gain": {label: gain(test, answers[first], answers[label]) for label in others},
    }


def accuracy(test: ChoiceTest, answers: Answers) -> dict[str, Any]:
    """Accuracy with its 95 % interval, and chance.

    In sentence order it is the share of shuffles that are less likely than the true order, over all
    stories, with the share of stories whose true order is the likeliest (``best_of_all``); in the
    others the share of right answers, with the mean reciprocal rank.
    """
    points, weights = _points(test, answers)
    count, share = len(points), sum(points) / sum(weights)
    found: dict[str, Any] = {"items": count}
    if test.name == ORDER:
        found |= {
            "shuffles": sum(weights),
            "accuracy": share,
            "ci95": interval_of(answers.groups, points, weights),
            "best_of_all": sum(answers.right) / count,
        }
    else:
        found |= {
            "accuracy": share,
            "ci95": wilson(share, count),
            "mean_reciprocal_rank": sum(1 / rank for rank in answers.ranks) / count,
        }
    return found | {"chance": test.chance}


def gain(test: ChoiceTest, first: Answers, second: Answers) -> dict[str, Any]:
    """Second minus first in accuracy, paired, with its interval."""
    before, weights = _points(test, first)
    after, _ = _points(test, second)
    changes = [b - a for a, b in zip(before, after, strict=True)]
    return {
        "accuracy": sum(changes) / sum(weights),
        "ci95": interval_of(first.groups, changes, weights),
    }


def _points(test: ChoiceTest, answers: Answers) -> tuple[list[float], list[int]]:
    """Points of each item and how many there were to get: accuracy is the ratio of their sums."""
    if test.name != ORDER:
        return answers.right, [1] * len(answers.right)
    shuffles = [len(item.options) - 1 for item in test.items]
    below = [n + 1 - rank for n, rank in zip(shuffles, answers.ranks, strict=True)]
    return below, shuffles


def wilson(share: float, count: int) -> Interval:
    """The 95 % interval of a share of independent answers (Wilson 1927)."""
    z = 1.959964
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    half /= 1 + z * z / count
    return [max(0.0, middle - half), min(1.0, middle + half)]


def require_lm_eval() -> None:
    """Refuse tasks where lm-evaluation-harness is not installed.

    Raises:
        InputError: It is not.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise InputError(
            "--tasks needs lm-evaluation-harness, which is not installed", "pip install lm-eval"
        )


def run_tasks(
    model: LoadedModel, tasks: Sequence[str], *, limit: int | None = None, batch_size: int = 8
) -> dict[str, dict[str, Any]]:
    """Run tasks on a model as it is.

    Args:
        model: The model; its adapter is active unless called within ``model.base()``.
        tasks: Names of tasks, or YAML files that define one.
        limit: Maximum items per task.
        batch_size: Items per batch.

    Returns:
        The metrics of each task under the harness's names.

    Raises:
        InputError: The harness is not installed, or there is no such task.
        RunError: A task's data can't be had.
    """
    require_lm_eval()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with quiet():
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        manager = TaskManager()
        known = set(manager.all_tasks)
        chosen = [_task(task, known) for task in tasks]
        harness_model = HFLM(
            pretrained=model.model,
            tokenizer=model.tokenizer,
            backend="causal",
            max_length=model.context_length,
            batch_size=batch_size,
        )
        try:
            found = simple_evaluate(
                model=harness_model,
                tasks=chosen,
                limit=limit,
                task_manager=manager,
                bootstrap_iters=1000,
            )
        except (OSError, ConnectionError, ValueError) as error:
            raise RunError(
                f"the tasks could not be run: {first_line(error)}",
                "their data comes from the hub; a YAML file can name local data",
            ) from error
    return {
        task: {name: value for name, value in metrics.items() if isinstance(value, (int, float))}
        for task, metrics in found["results"].items()
    }


def _task(name: str, known: set[str]) -> str | dict[str, Any]:
    """A task's name, or its definition where a file is named."""
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise InputError(f"there is no task file {name}")
        read = parse_yaml(read_text(Path(name)), name)
        if not isinstance(read, dict) or "task" not in read:
            raise InputError(f"{name} defines no task", "it needs a line `task: NAME`")
        return read
    if name not in known:
        raise InputError(
            f"lm-evaluation-harness has no task '{name}'", "lm_eval --tasks list shows what it has"
        )
    return name
