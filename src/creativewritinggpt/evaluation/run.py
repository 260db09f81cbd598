"""One evaluation: each model in turn does all that is asked, then the figures are formed.

Models take turns rather than tasks, so that only one needs to be in memory. Several processes share
the scoring; the first one alone lets the models write and forms the figures, while the others wait.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..console import CountCallback, ProgressCallback, counting
from ..data.document import Document
from ..errors import InputError
from ..models.loaded_model import LoadedModel
from ..processes import ALONE, Processes
from .generated_text import Generation, written_figures
from .metrics.corpus_index import CorpusIndex
from .metrics.forgetting import forgetting
from .model_under_test import Contender, base_and_tuned
from .report.records import same_documents, same_windows, under_names_of
from .scoring.documents import DocumentScore, score_documents
from .scoring.perplexity import by_domain, compare, legacy_perplexity, macro_perplexity, summarise
from .settings import EvaluationSettings
from .tasks.choice_tests import ChoiceTest, figures_of_test, planned_tests
from .tasks.choices import Answers


@dataclasses.dataclass(frozen=True)
class Material:
    """What models are judged on.

    Attributes:
        documents: The held-out documents.
        forgetting: Documents of domains that were not trained on.
        index: Of the training text of the last model.
        without: Why something is not measured, by what it is: ``originality``, ``forgetting``.
    """

    documents: Sequence[Document]
    forgetting: Sequence[Document] = ()
    index: CorpusIndex | None = None
    without: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Evaluation:
    """What came of it.

    Attributes:
        result: The content of ``evaluation.json``; empty in all processes but the first.
        scores: What each model made of each document, by label.
        begins: How each scored document begins.
        texts: All that was written, a row a prompt and way of decoding.
    """

    result: dict[str, Any]
    scores: dict[str, list[DocumentScore]]
    begins: list[str] = dataclasses.field(default_factory=list)
    texts: list[dict[str, Any]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class _Turn:
    """What one model did."""

    precision: str
    window: int
    scores: list[DocumentScore]
    forgetting: list[DocumentScore]
    answers: dict[str, Answers]


def run(
    contenders: Sequence[Contender],
    material: Material,
    settings: EvaluationSettings | None = None,
    *,
    earlier: Mapping[str, Sequence[DocumentScore]] | None = None,
    team: Processes = ALONE,
    progress: ProgressCallback | None = None,
) -> Evaluation:
    """Judge models on the same material; the first is what the others are compared with.

    Args:
        contenders: The models.
        material: Documents and what else is needed.
        settings: What is done.
        earlier: Scores of further models from an earlier evaluation, of the same documents.
        team: The processes that share the work; each is given the same.
        progress: Called as the work goes on.

    Raises:
        InputError: There is nothing to score, a test can't be made of these documents, or earlier
            scores are of other documents or windows.
    """
    settings, earlier = settings or EvaluationSettings(), earlier or {}
    with team.agreed():
        documents = [d for d in material.documents if d.full_text().strip()]
        if not documents:
            raise InputError("there is no text to evaluate", "give files with text in them")
        _refuse_others(earlier, documents, settings)
        tests = planned_tests(documents, settings)
        generation = Generation(documents, settings)
    team.alike(lambda: _digest(contenders, documents, material, tests), "documents or models")
    turns: dict[str, _Turn] = {}
    for contender in contenders:
        with contextlib.ExitStack() as stack:
            opened = functools.partial(stack.enter_context, contender.open())
            writer = team.prepared(opened)
            tell = _teller(contender.label, progress)
            turns[contender.label] = _turn(
                writer, documents, material.forgetting, settings, tests, team, tell
            )
            with team.agreed():
                if team.first:
                    generation.write(writer, contender.label, tell("writing"))
    scores = {label: turn.scores for label, turn in turns.items()}
    scores.update((label, under_names_of(documents, old)) for label, old in earlier.items())
    found = Evaluation({}, scores)
    with team.agreed():
        if team.first:
            found.result = {
                "models": [contender.about for contender in contenders]
                + [{"role": label, "name": label, "earlier": True} for label in earlier],
                "window": next(iter(turns.values())).window,
                "stride": settings.stride,
                "precision": next(iter(turns.values())).precision,
                "empty_documents": len(material.documents) - len(documents),
                **_figures(turns, scores, material, settings, tests, generation),
            }
            texts = [document.full_text() for document in documents]
            found.begins = [" ".join(text[:200].split())[:80] for text in texts]
            found.texts = generation.lines()
    return found


def _figures(
    turns: Mapping[str, _Turn],
    scores: Mapping[str, Sequence[DocumentScore]],
    material: Material,
    settings: EvaluationSettings,
    tests: Sequence[ChoiceTest],
    generation: Generation,
) -> dict[str, Any]:
    """All that is formed of what the models did."""
    legacy = {label: legacy_perplexity(of_model) for label, of_model in scores.items()}
    without = dict(material.without)
    return {
        "domains": figures(scores),
        "macro_perplexity": {
            label: macro_perplexity(by_domain(of_model)) for label, of_model in scores.items()
        },
        "legacy_ppl": legacy if settings.legacy_ppl else None,
        **written_figures(generation, material.index, without),
        "tests": {
            test.name: figures_of_test(
                test, {n: turn.answers[test.name] for n, turn in turns.items()}
            )
            for test in tests
        },
        "forgetting": forgetting({label: turn.forgetting for label, turn in turns.items()})
        if material.forgetting
        else None,
        "without": without,
    }


def _digest(
    contenders: Sequence[Contender],
    documents: Sequence[Document],
    material: Material,
    tests: Sequence[ChoiceTest],
) -> str:
    """SHA-1 of all that decides how often the processes exchange something."""
    content = [
        len(contenders),
        [document.digest for document in documents],
        [document.digest for document in material.forgetting],
        [[test.name, len(test.items)] for test in tests],
    ]
    return hashlib.sha1(json.dumps(content).encode(), usedforsecurity=False).hexdigest()


def evaluate(
    writer: LoadedModel,
    documents: Sequence[Document],
    *,
    base: LoadedModel | None = None,
    settings: EvaluationSettings | None = None,
    progress: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Judge a model, and the base it was tuned from, on the same documents.

    Args:
        writer: The model; its adapter is switched off for the base's figures.
        documents: The held-out documents.
        base: The base of a fully fine-tuned model, which has no adapter to switch off.
        settings: What is done.
        progress: Called as the work goes on.

    Returns:
        The content of ``evaluation.json``.

    Raises:
        InputError: There is nothing to score.
    """
    material = Material(documents)
    return run(base_and_tuned(writer, base), material, settings, progress=progress).result


def _refuse_others(
    earlier: Mapping[str, Sequence[DocumentScore]],
    documents: Sequence[Document],
    settings: EvaluationSettings,
) -> None:
    """Refuse earlier scores of other documents or windows before any work is done."""
    for label, of_model in earlier.items():
        digests = [document.digest for document in documents]
        same_documents([score.digest for score in of_model], digests, label)
        same_windows(of_model, settings, label)


def _teller(label: str, progress: ProgressCallback | None) -> Callable[[str], CountCallback | None]:
    return lambda what: counting(progress, f"{label}: {what}")


def _turn(
    writer: LoadedModel,
    documents: Sequence[Document],
    others: Sequence[Document],
    settings: EvaluationSettings,
    tests: Sequence[ChoiceTest],
    team: Processes,
    tell: Callable[[str], CountCallback | None],
) -> _Turn:
    """Let one model score and answer."""
    scores = score_documents(
        writer,
        documents,
        window=settings.window,
        stride=settings.stride,
        legacy=settings.legacy_ppl,
        team=team,
        progress=tell("scoring"),
    )
    return _Turn(
        precision=writer.device.precision,
        window=min(settings.window, writer.window),
        scores=scores,
        forgetting=score_documents(
            writer,
            others,
            window=settings.window,
            team=team,
            progress=tell("scoring other domains"),
        ),
        answers={test.name: test.ask(writer, tell(test.name), team) for test in tests},
    )


def figures(scores: Mapping[str, Sequence[DocumentScore]]) -> dict[str, Any]:
    """The figures of every domain: of each model, and of each against the first.

    ``difference`` is the last model's (the tuned one's, where base and tuned are judged);
    ``differences`` has that of every model but the first by its label.
    """
    parted = {label: by_domain(of_model) for label, of_model in scores.items()}
    first, *others = parted
    domains: dict[str, Any] = {}
    for name in parted[first]:
        entry: dict[str, Any] = {label: summarise(parted[label][name]) for label in parted}
        if others:
            entry["differences"] = {
                label: compare(parted[first][name], parted[label][name]) for label in others
            }
            entry["difference"] = entry["differences"][others[-1]]
        domains[name] = entry
    return domains
