"""One evaluation: each model in turn does all that is asked, then the figures are formed.

Models take turns rather than tasks, so that only one needs to be in memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..data.document import Document
from ..errors import InputError
from ..models.writer import Writer
from .choice_tests import ChoiceTest, figures_of_test, planned_tests
from .choices import Answers
from .contender import Contender, base_and_tuned
from .corpus_index import CorpusIndex
from .forgetting import forgetting
from .perplexity import by_domain, compare, legacy_perplexity, macro_perplexity, summarise
from .records import same_documents
from .scoring import DocumentScore, score_documents
from .settings import EvaluationSettings
from .written import Generation, written_figures

Progress = Callable[[str, int, int | None], None]


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
        result: The content of ``evaluation.json``.
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
    progress: Progress | None = None,
) -> Evaluation:
    """Judge models on the same material; the first is what the others are compared with.

    Args:
        contenders: The models.
        material: Documents and what else is needed.
        settings: What is done.
        earlier: Scores of further models from an earlier evaluation, of the same documents.
        progress: Told what is being done, how much of it is done, and how much there is.

    Raises:
        InputError: There is nothing to score, a test can't be made of these documents, or earlier
            scores are of other documents.
    """
    settings = settings or EvaluationSettings()
    documents = [d for d in material.documents if d.full_text().strip()]
    if not documents:
        raise InputError("there is no text to evaluate", "give files with text in them")
    if earlier:
        digests = [document.digest for document in documents]
        _refuse_others(earlier, digests)
    tests = planned_tests(documents, settings)
    generation = Generation(documents, settings)
    turns: dict[str, _Turn] = {}
    for contender in contenders:
        with contender.open() as writer:
            tell = _teller(contender.label, progress)
            turns[contender.label] = _turn(
                writer, documents, material.forgetting, settings, tests, tell
            )
            generation.write(writer, contender.label, tell("writing"))
    scores = {label: list(of_earlier) for label, of_earlier in (earlier or {}).items()}
    scores = {**{label: turn.scores for label, turn in turns.items()}, **scores}
    first = next(iter(turns.values()))
    legacy = {label: legacy_perplexity(of_model) for label, of_model in scores.items()}
    without = dict(material.without)
    result: dict[str, Any] = {
        "models": [contender.about for contender in contenders]
        + [{"role": label, "name": label, "earlier": True} for label in earlier or {}],
        "window": first.window,
        "stride": settings.stride,
        "precision": first.precision,
        "empty_documents": len(material.documents) - len(documents),
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
    begins = [" ".join(document.full_text()[:200].split())[:80] for document in documents]
    return Evaluation(result, scores, begins, generation.lines())


def evaluate(
    writer: Writer,
    documents: Sequence[Document],
    *,
    base: Writer | None = None,
    settings: EvaluationSettings | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Judge a model, and the base it was tuned from, on the same documents.

    Args:
        writer: The model; its adapter is switched off for the base's figures.
        documents: The held-out documents.
        base: The base of a fully fine-tuned model, which has no adapter to switch off.
        settings: What is done.
        progress: Told what is being done, how much of it is done, and how much there is.

    Returns:
        The content of ``evaluation.json``.

    Raises:
        InputError: There is nothing to score.
    """
    material = Material(documents)
    return run(base_and_tuned(writer, base), material, settings, progress=progress).result


def _refuse_others(earlier: Mapping[str, Sequence[DocumentScore]], digests: Sequence[str]) -> None:
    """Refuse earlier scores of other documents before any work is done."""
    for label, of_model in earlier.items():
        same_documents([score.digest for score in of_model], digests, label)


def _teller(
    label: str, progress: Progress | None
) -> Callable[[str], Callable[[int, int], None] | None]:
    def teller(what: str) -> Callable[[int, int], None] | None:
        if progress is None:
            return None
        return lambda done, total: progress(f"{label}: {what}", done, total)

    return teller


def _turn(
    writer: Writer,
    documents: Sequence[Document],
    others: Sequence[Document],
    settings: EvaluationSettings,
    tests: Sequence[ChoiceTest],
    tell: Callable[[str], Callable[[int, int], None] | None],
) -> _Turn:
    """Let one model score and answer."""
    scores = score_documents(
        writer,
        documents,
        window=settings.window,
        stride=settings.stride,
        legacy=settings.legacy_ppl,
        progress=tell("scoring"),
    )
    return _Turn(
        precision=writer.device.precision,
        window=min(settings.window, writer.window),
        scores=scores,
        forgetting=score_documents(
            writer, others, window=settings.window, progress=tell("scoring other domains")
        ),
        answers={test.name: test.ask(writer, tell(test.name)) for test in tests},
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
