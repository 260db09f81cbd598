"""One evaluation: each model in turn does all that is asked, then the figures are computed.

Models take turns rather than tasks, so only one needs to be in memory; a tuned model and its base
are usually one model with its adapter on or off. Several processes share the scoring; the first one
alone generates texts and computes the figures, while the others wait.

The training text is not kept with a run; its record holds the files or sources and the settings it
was made from, and a hash of the result. For originality the text is made again and used only if the
hash is the same; the index over it is kept in the cache, so later evaluations don't need the text.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from .. import console
from ..config.run import Config
from ..console import CountCallback, ProgressCallback, counting
from ..data.corpus import load_corpus, read_documents
from ..data.document import Document, joint_name
from ..data.sources.files import files_again
from ..distributed import SINGLE_PROCESS, ProcessGroup
from ..errors import InputError, UserError
from ..files import cache_folder, from_home, read_json
from ..models.adapter_files import is_adapter
from ..models.loaded_model import LoadedModel
from .originality import CorpusIndex, build_index
from .perplexity import domain_figures, forgetting, legacy_perplexity, macro_perplexity
from .scoring import DocumentScore, score_documents
from .settings import EvaluationSettings
from .tasks import Answers, ChoiceTest, answer, choice_figures, planned_tests
from .texts import GeneratedTexts

BASE, TUNED = "base", "tuned"


_OTHER_WORDS = 3000
"""Words of each domain of the sample corpus that forgetting is measured on by default."""


@dataclasses.dataclass(frozen=True)
class Material:
    """What models are evaluated on.

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


def gather_material(
    documents: Sequence[Document],
    models: Sequence[str],
    settings: EvaluationSettings,
    config: Config,
    *,
    with_index: bool = True,
) -> Material:
    """Documents, other domains, and the index over what the last model was trained on.

    Warns of documents that a model was trained on.

    Args:
        documents: The held-out documents.
        models: Names or folders of the models.
        settings: What is measured.
        config: How files are read, and where the cache is.
        with_index: Whether this process computes figures of generated texts.
    """
    for model in models:
        if may_have_streamed(model, documents):
            console.note(f"{model} was trained on a stream: it may have read some of these texts")
        known = trained_on(model)
        count = sum(document.digest in known for document in documents)
        if count:
            console.warn(
                f"{count} of {len(documents)} documents were trained on by {model}: its figures on "
                "them are too good"
            )
    without = {}
    others, why = other_domains(settings.forgetting, models, documents, config)
    if why:
        without["forgetting"] = why
    index, why = None, "it was switched off" if settings.texts else "no text was written"
    if settings.texts and settings.originality and with_index:
        index, why = training_index(models[-1], config)
    if why:
        without["originality"] = why
    return Material(documents, others, index, without)


def held_out(models: Sequence[str], config: Config) -> list[Document]:
    """The documents held out by the training of the first of the models that has some.

    Raises:
        InputError: None has.
    """
    folders = [*(Path(model).parent for model in models), Path(config.output_dir)]
    files = [folder / "validation.jsonl" for folder in folders]
    kept = next((file for file in files if file.is_file()), None)
    if kept is None:
        raise InputError(
            "there are no held-out documents to evaluate on",
            "give a FILE or --sources, or train first: cwgpt train",
        )
    documents, seen = [], Counter[str]()
    for line in kept.read_text("utf-8").splitlines():
        document = Document(**json.loads(line))
        seen[document.source] += 1
        if config.max_documents is None or seen[document.source] <= config.max_documents:
            documents.append(document)
    console.note(f"{len(documents)} held-out documents from {kept}")
    return documents


def trained_on(model: str) -> set[str]:
    """SHA-1 of every document that a model was trained on, as far as it is known."""
    return set(_manifest_of(model).get("train", ()))


def may_have_streamed(model: str, documents: Sequence[Document]) -> bool:
    """Whether a model was trained on a stream and not all documents are known to be held out."""
    manifest = _manifest_of(model)
    held_out = set(manifest.get("validation", ()))
    return "streamed" in manifest and any(d.digest not in held_out for d in documents)


def _manifest_of(model: str) -> dict[str, Any]:
    """``manifest.json`` of the training of a model in a folder; empty where there is none."""
    path = Path(model).parent / "manifest.json"
    return dict(read_json(path)) if path.is_file() else {}


def other_domains(
    files: Sequence[str] | None,
    models: Sequence[str],
    documents: Sequence[Document],
    config: Config,
) -> tuple[list[Document], str | None]:
    """Documents to measure forgetting on, or the reason why there are none.

    Args:
        files: Named by the user; without it the domains of the sample corpus that no model was
            trained on and that are not evaluated.
        models: The models' folders.
        documents: What the models are evaluated on.
        config: How files are read.
    """
    known = set().union(*map(trained_on, models))
    if files:
        read = read_documents(files, config)
        left = [document for document in read if document.digest not in known]
        if len(left) < len(read):
            gone = console.counted(len(read) - len(left), "document")
            console.note(f"left out of --forgetting as trained on: {gone}")
        return left, None if left else "all documents given for it were trained on"
    runs = [run for model in models if (run := _run_of(model))]
    # An adapter of another tool is tuned, on texts that nobody noted.
    if not runs and not any(is_adapter(from_home(model)) for model in models):
        return [], "no model here was tuned, as far as is known"
    taken = {document.source for document in documents}
    taken = taken.union(*(run["data"]["sources"] for run in runs))
    words: Counter[str] = Counter()
    chosen = []
    for document in read_documents([], Config(sources=["sample"], cache_dir=config.cache_dir)):
        fresh = document.source not in taken and document.digest not in known
        if fresh and words[document.source] < _OTHER_WORDS:
            words[document.source] += document.words
            chosen.append(document)
    why = "every domain at hand was trained on; name others with --forgetting FILE"
    return chosen, None if chosen else why


def training_index(model: str, config: Config) -> tuple[CorpusIndex | None, str | None]:
    """The index over what a model was trained on, or the reason why there is none."""
    run = _run_of(model)
    if run is None:
        return None, f"there is no record of the training of {model}"
    if run["config"].get("streaming"):
        return None, "the training text was streamed, and no copy of it is kept"
    wanted = run["data"]["manifest_hash"]
    folder = cache_folder(config.cache_dir) / "originality" / wanted
    with contextlib.suppress(InputError):
        return CorpusIndex(folder), None
    settings = {**run["config"], "cache_dir": config.cache_dir, "num_workers": config.num_workers}
    try:
        with console.progress("reading the training text") as tell:
            corpus = load_corpus(Config(**settings), files_again(run["data"]), tell)
    except UserError as error:
        return None, f"the training text can't be read again: {error.message}"
    if corpus.manifest()["manifest_hash"] != wanted:
        return None, "the training text has changed since the training"
    with console.progress("indexing the training text") as tell:

        def documents() -> Iterator[Document]:
            for number, document in enumerate(corpus.train):
                tell("indexing the training text", number, len(corpus.train))
                yield document

        build_index(folder, documents())
    return CorpusIndex(folder), None


def _run_of(model: str) -> dict[str, Any] | None:
    """``run.json`` of a model in a folder, where it has one."""
    path = Path(model) / "run.json"
    if not path.is_file():
        return None
    run = read_json(path)
    complete = isinstance(run, dict) and {"config", "data"} <= set(run)
    return run if complete and "manifest_hash" in run["data"] else None


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
    found = Evaluation({}, {label: turn.scores for label, turn in turns.items()} | kept)
    with group.share_errors():
        if group.is_main:
            one = next(iter(turns.values()))
            found.result = {
                "models": [under_test.about for under_test in models]
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
    return found


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
