"""What models are evaluated on: held-out documents, other domains, the training text, a voice.

The training text is not kept with a run; its record holds the files or sources and the settings it
was made from, and a hash of the result. For originality the text is made again and used only if the
hash is the same; the index over it is kept in the cache, so later evaluations don't need the text.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import console
from ..config.run import Config
from ..data.corpus import Corpus, load_corpus, read_documents
from ..data.document import Document
from ..data.sources.files import files_again
from ..errors import InputError, UserError
from ..files import cache_folder, from_home, read_json, read_text
from ..models.adapter_files import is_adapter
from .originality import CorpusIndex, build_index
from .settings import EvaluationSettings
from .voice import VoiceTexts
from .voice_texts import checked, only_author, other_authors, sampling, voice_texts

_STREAMED = "the training text was streamed, and no copy of it is kept"


@dataclasses.dataclass(frozen=True)
class Material:
    """What models are evaluated on.

    Attributes:
        documents: The held-out documents.
        forgetting: Documents of domains that were not trained on.
        index: Of the training text of the last model.
        voice: The human texts that the models' voice is measured against.
        without: Why something is not measured, by what it is: ``originality``, ``forgetting``.
    """

    documents: Sequence[Document]
    forgetting: Sequence[Document] = ()
    index: CorpusIndex | None = None
    without: Mapping[str, str] = dataclasses.field(default_factory=dict)
    voice: VoiceTexts | None = None


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
    others, why = other_domains(
        settings.forgetting, models, documents, config, settings.forgetting_words
    )
    if why:
        without["forgetting"] = why
    index, why = None, "it was switched off" if settings.texts else "no text was written"
    if settings.texts and settings.originality and with_index:
        index, why = training_index(models[-1], config)
    if why:
        without["originality"] = why
    voice = None
    if with_index:
        voice, why = voice_material(documents, models[-1], settings, config, index)
        if why:
            without["voice"] = why
    return Material(documents, others, index, without, voice)


def voice_material(
    documents: Sequence[Document],
    model: str,
    settings: EvaluationSettings,
    config: Config,
    index: CorpusIndex | None,
) -> tuple[VoiceTexts | None, str | None]:
    """What a voice is measured against, or the reason why there is nothing.

    Neither where nobody asked and the model was not tuned on one author.

    Args:
        documents: What is evaluated.
        model: The name or folder of the model that was tuned last.
        settings: What is measured.
        config: How files are read, and where the cache is.
        index: Of the model's training text, where there is one.

    Raises:
        InputError: It was asked for, and the texts don't do.
    """
    run = _run_of(model)
    author = only_author(run) if run else None
    if not settings.voice and author is None:
        return None, None
    if not (settings.texts and settings.voice_words):
        return None, "it was switched off"
    manifest = _manifest_of(model)
    known, kept = set(manifest.get("train", ())), set(manifest.get("validation", ()))
    training: list[Document] = []
    try:
        sampling(settings)
        if settings.voice:
            own = list(read_documents(settings.voice, config))
        else:
            own = [document for document in documents if document.source == author]
            if not own:
                return None, "none of the documents is by the author whom it was tuned on"
            corpus = _training_corpus(model, config)
            if not isinstance(corpus, str):
                training = [document for document in corpus.train if document.source == author]
        sources = {document.source for document in own} | ({author} if author else set())
        others = other_authors(settings.others, documents, sources, known, config)
        texts = voice_texts(own, training, known, kept, index, *others)
        return checked(texts, settings.voice_words), None
    except InputError as error:
        if settings.voice:
            raise
        return None, error.message


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
    for line in read_text(kept).split("\n"):
        if not line:
            continue
        try:
            document = Document(**json.loads(line))
            seen[document.source] += 1
            document.full_text().encode()
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(
                f"{kept} is damaged: one of its lines is no document", "give a FILE or --sources"
            ) from error
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
    most_words: int = 3000,
) -> tuple[list[Document], str | None]:
    """Documents to measure forgetting on, or the reason why there are none.

    Args:
        files: Named by the user; without it the domains of the sample corpus that no model was
            trained on and that are not evaluated.
        models: The models' folders.
        documents: What the models are evaluated on.
        config: How files are read.
        most_words: About how many words of each domain of the sample corpus.
    """
    if not files and not most_words:
        return [], "it was switched off"
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
        if fresh and words[document.source] < most_words:
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
        return None, _STREAMED
    wanted = run["data"]["manifest_hash"]
    folder = cache_folder(config.cache_dir) / "originality" / wanted
    with contextlib.suppress(InputError):
        return CorpusIndex(folder), None
    corpus = _training_corpus(model, config)
    if isinstance(corpus, str):
        return None, corpus
    with console.progress("indexing the training text") as tell:

        def documents() -> Iterator[Document]:
            for number, document in enumerate(corpus.train):
                tell("indexing the training text", number, len(corpus.train))
                yield document

        build_index(folder, documents())
    return CorpusIndex(folder), None


def _training_corpus(model: str, config: Config) -> Corpus | str:
    """What a model was trained on, read again, or the reason why it can't be had."""
    run = _run_of(model)
    if run is None:
        return f"there is no record of the training of {model}"
    if run["config"].get("streaming"):
        return _STREAMED
    settings = {**run["config"], "cache_dir": config.cache_dir, "num_workers": config.num_workers}
    try:
        with console.progress("reading the training text") as tell:
            corpus = load_corpus(Config(**settings), files_again(run["data"]), tell)
    except UserError as error:
        return f"the training text can't be read again: {error.message}"
    if corpus.manifest()["manifest_hash"] != run["data"]["manifest_hash"]:
        return "the training text has changed since the training"
    return corpus


def _run_of(model: str) -> dict[str, Any] | None:
    """``run.json`` of a model in a folder, where it has one."""
    path = Path(model) / "run.json"
    if not path.is_file():
        return None
    run = read_json(path)
    complete = isinstance(run, dict) and {"config", "data"} <= set(run)
    return run if complete and "manifest_hash" in run["data"] else None
