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
from .contender import Contender, base_and_tuned
from .perplexity import by_domain, compare, legacy_perplexity, macro_perplexity, summarise
from .records import same_documents
from .scoring import DocumentScore, score_documents
from .settings import EvaluationSettings

Progress = Callable[[str, int, int | None], None]


@dataclasses.dataclass
class Evaluation:
    """What came of it.

    Attributes:
        result: The content of ``evaluation.json``.
        scores: What each model made of each document, by label.
    """

    result: dict[str, Any]
    scores: dict[str, list[DocumentScore]]


@dataclasses.dataclass
class _Turn:
    """What one model did."""

    scores: list[DocumentScore]
    precision: str
    window: int


def run(
    contenders: Sequence[Contender],
    documents: Sequence[Document],
    settings: EvaluationSettings | None = None,
    *,
    earlier: Mapping[str, Sequence[DocumentScore]] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Judge models on the same documents; the first is what the others are compared with.

    Args:
        contenders: The models.
        documents: The held-out documents.
        settings: What is done.
        earlier: Scores of further models from an earlier evaluation, of the same documents.
        progress: Told what is being done, how much of it is done, and how much there is.

    Raises:
        InputError: There is nothing to score, or earlier scores are of other documents.
    """
    settings = settings or EvaluationSettings()
    empty = [document for document in documents if not document.full_text().strip()]
    documents = [document for document in documents if document.full_text().strip()]
    if not documents:
        raise InputError("there is no text to evaluate", "give files with text in them")
    turns: dict[str, _Turn] = {}
    for contender in contenders:
        with contender.open() as writer:
            turns[contender.label] = _turn(writer, contender.label, documents, settings, progress)
    scores: dict[str, list[DocumentScore]] = {}
    for label, of_earlier in (earlier or {}).items():
        scores[label] = list(of_earlier)
    scores.update({label: turn.scores for label, turn in turns.items()})
    same_documents(scores, "the earlier evaluation")
    about = [contender.about for contender in contenders]
    about += [{"role": label, "name": label, "earlier": True} for label in earlier or {}]
    first = next(iter(turns.values()))
    result: dict[str, Any] = {
        "models": about,
        "window": first.window,
        "stride": settings.stride,
        "precision": first.precision,
        "empty_documents": len(empty),
        "domains": figures(scores),
        "macro_perplexity": {
            label: macro_perplexity(by_domain(of_model)) for label, of_model in scores.items()
        },
        "legacy_ppl": {label: legacy_perplexity(of_model) for label, of_model in scores.items()}
        if settings.legacy_ppl
        else None,
    }
    return Evaluation(result, scores)


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
    return run(base_and_tuned(writer, base), documents, settings, progress=progress).result


def _turn(
    writer: Writer,
    label: str,
    documents: Sequence[Document],
    settings: EvaluationSettings,
    progress: Progress | None,
) -> _Turn:
    def tell(what: str) -> Callable[[int, int], None] | None:
        if progress is None:
            return None
        return lambda done, total: progress(f"{what} {label}", done, total)

    scores = score_documents(
        writer,
        documents,
        window=settings.window,
        stride=settings.stride,
        legacy=settings.legacy_ppl,
        progress=tell("scoring"),
    )
    return _Turn(scores, writer.device.precision, min(settings.window, writer.window))


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
