"""One evaluation: each model in turn does all that is asked, then the figures are computed.

Models take turns rather than tasks, so only one needs to be in memory; a tuned model and its base
are usually one model with its adapter on or off. Several processes share the scoring; the first one
alone generates texts and computes the figures, while the others wait.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from ..console import CountCallback, ProgressCallback, counting
from ..data.document import Document, joint_name
from ..distributed import SINGLE_PROCESS, ProcessGroup
from ..errors import InputError
from ..files import to_home
from ..models.loaded_model import LoadedModel
from .material import Material
from .perplexity import (
    domain_figures,
    forgetting,
    legacy_perplexity,
    macro_perplexity,
    summarise,
)
from .scoring import DocumentScore, score_documents
from .settings import EvaluationSettings
from .tasks import Answers, ChoiceTest, answer, choice_figures, planned_tests
from .texts import GeneratedTexts
from .voice_texts import (
    VoiceSamples,
)

BASE, TUNED = "base", "tuned"


@dataclasses.dataclass(frozen=True)
class ModelUnderTest:
    """One model of an evaluation.

    Attributes:
        label: Its name in the results: ``base``, ``tuned`` or the name it was given by.
        about: Name, adapter and revision, for the report.
        open: Gives the loaded model, ready to be used within the block.
    """

    label: str
    about: dict[str, Any]
    open: Callable[[], AbstractContextManager[LoadedModel]]


def base_and_tuned(model: LoadedModel, base: LoadedModel | None = None) -> list[ModelUnderTest]:
    """A model and the base it was tuned from, or the model alone where it is a base.

    Args:
        model: The model; its adapter is switched off for the base's turn.
        base: The base of a fully fine-tuned model, which has no adapter to switch off.
    """

    @contextlib.contextmanager
    def adapter_off() -> Iterator[LoadedModel]:
        with model.base():
            yield model

    about_base = {"role": BASE, "name": model.base_name, "revision": model.revision}
    about_tuned = {"role": TUNED, "name": model.name, "adapter": model.adapter}
    tuned = ModelUnderTest(TUNED, about_tuned, lambda: contextlib.nullcontext(model))
    if model.has_adapter:
        return [ModelUnderTest(BASE, about_base, adapter_off), tuned]
    if base is not None:
        return [ModelUnderTest(BASE, about_base, lambda: contextlib.nullcontext(base)), tuned]
    return [ModelUnderTest(BASE, about_base, lambda: contextlib.nullcontext(model))]


def named(names: Sequence[str], load: Callable[[str], LoadedModel]) -> list[ModelUnderTest]:
    """Models by name, each loaded for its turn only.

    Raises:
        InputError: A name is given twice.
    """
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"{twice[0]} is named twice", "name each model once")

    @contextlib.contextmanager
    def opened(name: str) -> Iterator[LoadedModel]:
        yield load(name)

    return [
        ModelUnderTest(name, {"role": name, "name": name}, functools.partial(opened, name))
        for name in names
    ]


@dataclasses.dataclass
class Evaluation:
    """The result of an evaluation.

    Attributes:
        result: The content of ``evaluation.json``; empty in all processes but the first.
        scores: The scores of each document, by model.
        begins: How each scored document begins.
        texts: All generated texts, a row per prompt and decoding.
    """

    result: dict[str, Any]
    scores: dict[str, list[DocumentScore]]
    begins: list[str] = dataclasses.field(default_factory=list)
    texts: list[dict[str, Any]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class _Turn:
    """The scores and answers of one model."""

    precision: str
    window: int
    scores: list[DocumentScore]
    forgetting: list[DocumentScore]
    answers: dict[str, Answers]


def run(
    models: Sequence[ModelUnderTest],
    material: Material,
    settings: EvaluationSettings | None = None,
    *,
    earlier: Mapping[str, Sequence[DocumentScore]] | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
    progress: ProgressCallback | None = None,
) -> Evaluation:
    """Evaluate models on the same material; the others are compared with the first.

    Args:
        models: The models.
        material: Documents and what else is needed.
        settings: What is done.
        earlier: Scores of further models from an earlier evaluation, of the same documents.
        group: The processes that share the work; each is given the same.
        progress: Called as the work goes on.

    Raises:
        InputError: There is nothing to score, a test can't be made of these documents, or earlier
            scores are of other documents or windows.
    """
    settings = settings or EvaluationSettings()
    with group.share_errors():
        documents = [d for d in material.documents if d.full_text().strip()]
        if not documents:
            raise InputError("there is no text to evaluate", "give files with text in them")
        kept = {
            label: _checked(scores, documents, settings, label)
            for label, scores in (earlier or {}).items()
        }
        tests = planned_tests(documents, settings)
        generated = GeneratedTexts(documents, settings)
        voice = VoiceSamples(material.voice, settings) if material.voice else None
    group.assert_same(lambda: _digest(models, documents, material, tests), "documents or models")
    turns: dict[str, _Turn] = {}
    for under_test in models:
        label = under_test.label
        with contextlib.ExitStack() as stack:
            opened = functools.partial(stack.enter_context, under_test.open())
            model = group.run_main_first(opened)
            tell = _teller(label, progress)
            turns[label] = _turn(
                model, documents, material.forgetting, settings, tests, group, tell
            )
            with group.share_errors():
                if group.is_main:
                    generated.generate(model, label, tell("writing"))
                    if voice is not None:
                        voice.generate(model, label, tell("writing words for the voice"))
    found = Evaluation({}, {label: turn.scores for label, turn in turns.items()} | kept)
    with group.share_errors():
        if group.is_main:
            one = next(iter(turns.values()))
            found.result = {
                "models": [to_home(under_test.about) for under_test in models]
                + [{"role": label, "name": label, "earlier": True} for label in kept],
                "window": one.window,
                "stride": settings.stride,
                "precision": one.precision,
                "empty_documents": len(material.documents) - len(documents),
                **_figures(turns, found.scores, material, settings, tests, generated),
            }
            texts = [document.full_text() for document in documents]
            found.begins = [" ".join(text[:200].split())[:80] for text in texts]
            found.texts = generated.lines()
            if voice is not None:
                found.texts += voice.lines()
                _add_voice(found, voice)
    return found


def _add_voice(found: Evaluation, voice: VoiceSamples) -> None:
    """Measure the voice, with the loss on the same chapters beside it."""
    try:
        figures = voice.figures()
    except InputError as error:
        found.result["without"]["voice"] = error.message
        return
    held_out = {document.digest for document in voice.texts.held_out}
    figures["bits_per_byte"] = {
        label: summarise(own)["bits_per_byte"]
        for label, scores in found.scores.items()
        if (own := [score for score in scores if score.digest in held_out])
    }
    found.result["voice"] = figures


def _turn(
    model: LoadedModel,
    documents: Sequence[Document],
    others: Sequence[Document],
    settings: EvaluationSettings,
    tests: Sequence[ChoiceTest],
    group: ProcessGroup,
    tell: Callable[[str], CountCallback | None],
) -> _Turn:
    """Let one model score and answer."""
    score = functools.partial(score_documents, model, window=settings.window, group=group)
    return _Turn(
        precision=model.device.precision,
        window=min(settings.window, model.context_length),
        scores=score(
            documents,
            stride=settings.stride,
            legacy=settings.legacy_ppl,
            progress=tell("scoring"),
        ),
        forgetting=score(others, progress=tell("scoring other domains")),
        answers={
            test.name: answer(model, test, group=group, progress=tell(test.name)) for test in tests
        },
    )


def _teller(label: str, progress: ProgressCallback | None) -> Callable[[str], CountCallback | None]:
    return lambda what: counting(progress, f"{label}: {what}")


def _figures(
    turns: Mapping[str, _Turn],
    scores: Mapping[str, Sequence[DocumentScore]],
    material: Material,
    settings: EvaluationSettings,
    tests: Sequence[ChoiceTest],
    generated: GeneratedTexts,
) -> dict[str, Any]:
    """All figures of ``evaluation.json``."""
    without = dict(material.without)
    if not generated.decodings:
        without.setdefault(
            "generation", "no text was written (--texts 0, or nothing to go on with)"
        )
        without.setdefault("originality", "no text was written")
    domains = domain_figures(scores)
    for entry in domains.values():
        if entry["differences"]:
            # That of the tuned model, where base and tuned are evaluated.
            entry["difference"] = list(entry["differences"].values())[-1]
        else:
            del entry["differences"]
    legacy = {label: legacy_perplexity(of_model) for label, of_model in scores.items()}
    return {
        "domains": domains,
        "macro_perplexity": {label: macro_perplexity(s) for label, s in scores.items()},
        "legacy_ppl": legacy if settings.legacy_ppl else None,
        **generated.figures(material.index),
        "tests": {
            test.name: choice_figures(
                test, {label: turn.answers[test.name] for label, turn in turns.items()}
            )
            for test in tests
        },
        "forgetting": forgetting({label: turn.forgetting for label, turn in turns.items()})
        if material.forgetting
        else None,
        "voice": None,
        "without": without,
    }


def _digest(
    models: Sequence[ModelUnderTest],
    documents: Sequence[Document],
    material: Material,
    tests: Sequence[ChoiceTest],
) -> str:
    """SHA-1 of all that decides how often the processes exchange something."""
    content = [
        len(models),
        [document.digest for document in documents],
        [document.digest for document in material.forgetting],
        [[test.name, len(test.items)] for test in tests],
    ]
    return hashlib.sha1(json.dumps(content).encode(), usedforsecurity=False).hexdigest()


def _checked(
    scores: Sequence[DocumentScore],
    documents: Sequence[Document],
    settings: EvaluationSettings,
    label: str,
) -> list[DocumentScore]:
    """Earlier scores under the domains and groups that the same documents have now.

    Args:
        scores: The earlier scores; old records don't say their window, and pass.
        documents: What is evaluated.
        settings: How it is scored.
        label: Name of the earlier result.

    Raises:
        InputError: They are of other documents, in another order, or of other windows: more
            context alone makes a loss lower.
    """
    before = [score.digest for score in scores]
    now = [document.digest for document in documents]
    if before != now:
        missing = len(set(before) ^ set(now))
        raise InputError(
            f"{label} is of other documents: {missing} stand on one side only"
            if missing
            else f"{label} has the documents in another order",
            "evaluate both on the same files, with the same --max-documents",
        )
    for score, document in zip(scores, documents, strict=True):
        if document.prompt and score.joint != document.joint:
            raise InputError(
                f"{label} was made with {joint_name(score.joint)} between prompt and text of "
                f"{document.source}, and not {joint_name(document.joint)}",
                "evaluate that model again",
            )
    for name in ("window", "stride"):
        has = getattr(settings, name)
        for had in {getattr(score, name) for score in scores} - {None}:
            if has not in (None, had):
                raise InputError(
                    f"{label} was made with a {name} of {had} tokens, and not {has}",
                    f"give --{name} {had}",
                )
    return [
        dataclasses.replace(score, source=document.source, group=document.group)
        for score, document in zip(scores, documents, strict=True)
    ]
