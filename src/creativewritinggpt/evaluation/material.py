"""What ``cwgpt evaluate`` judges on: held-out documents, other domains, the training text.

The training text itself is not kept with a run; its record says from which files or sources, by
which settings and with which result it was made. So it is made again and taken only if it is the
same to the last document; the index over it is kept in the cache, and later evaluations need the
text no more.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import console
from ..config.run import Config
from ..errors import InputError, UserError
from ..files import cache_folder, read_json

if TYPE_CHECKING:
    from ..data.document import Document
    from .metrics.corpus_index import CorpusIndex

_OTHER_WORDS = 3000
"""Words of each domain of the sample corpus that forgetting is measured on by itself."""


def held_out(names: Sequence[str], config: Config) -> list[Document]:
    """The documents that the training of the first of the models that has some held out.

    Raises:
        InputError: None has.
    """
    from ..data.document import Document

    places = [*(Path(name).parent for name in names), Path(config.output_dir)]
    kept = next(
        (p / "validation.jsonl" for p in places if (p / "validation.jsonl").is_file()), None
    )
    if kept is None:
        raise InputError(
            "there are no held-out documents to evaluate on",
            "give a FILE or --sources, or train first: cwgpt train",
        )
    documents = [Document(**json.loads(line)) for line in kept.read_text("utf-8").splitlines()]
    if config.max_documents is not None:
        documents = _first_of_each(documents, config.max_documents)
    console.note(f"{len(documents)} held-out documents from {kept}")
    return documents


def _first_of_each(documents: Sequence[Document], count: int) -> list[Document]:
    """The first documents of each source."""
    seen: Counter[str] = Counter()
    kept = []
    for document in documents:
        seen[document.source] += 1
        if seen[document.source] <= count:
            kept.append(document)
    return kept


def trained_on(model: str) -> set[str]:
    """SHA-1 of every document that a model was trained on, as far as it is known."""
    manifest = Path(model).parent / "manifest.json"
    if not manifest.is_file():
        return set()
    found = read_json(manifest)
    return set(found["train"])


def may_have_streamed(model: str, documents: Sequence[Document]) -> bool:
    """Whether a model was trained on a stream and not all documents are known to be held out."""
    manifest = Path(model).parent / "manifest.json"
    if not manifest.is_file():
        return False
    found = read_json(manifest)
    held_out = set(found["validation"])
    return "streamed" in found and any(d.digest not in held_out for d in documents)


def other_domains(
    files: Sequence[str] | None,
    models: Sequence[str],
    documents: Sequence[Document],
    config: Config,
) -> tuple[list[Document], str | None]:
    """Documents to see on what was forgotten, or the reason why there are none.

    Args:
        files: What the user named; without it the sample corpus, as far as neither a model was
            trained nor is judged on its domains.
        models: The models' folders.
        documents: What the models are judged on.
        config: How files are read.
    """
    from ..data.corpus import read_documents

    known = set().union(*map(trained_on, models))
    if files:
        read = read_documents(files, config)
        left = [document for document in read if document.digest not in known]
        if len(left) < len(read):
            gone = console.counted(len(read) - len(left), "document")
            console.note(f"left out of --forgetting as trained on: {gone}")
        return left, None if left else "all documents given for it were trained on"
    runs = [run for model in models if (run := _run_of(model))]
    if not runs:
        return [], "no model here was tuned, as far as is known"
    taken = {document.source for document in documents}
    taken = taken.union(*(run["data"]["sources"] for run in runs))
    sample = read_documents([], Config(sources=["sample"], cache_dir=config.cache_dir))
    words: dict[str, int] = {}
    chosen = []
    for document in sample:
        so_far = words.get(document.source, 0)
        fresh = document.source not in taken and document.digest not in known
        if fresh and so_far < _OTHER_WORDS:
            words[document.source] = so_far + document.words
            chosen.append(document)
    return (
        chosen,
        None
        if chosen
        else "every domain at hand was trained on; name others with --forgetting FILE",
    )


def training_index(model: str, config: Config) -> tuple[CorpusIndex | None, str | None]:
    """The index over what a model was trained on, or the reason why there is none."""
    from ..data.corpus import load_corpus
    from .metrics.corpus_index import CorpusIndex, build_index

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
            corpus = load_corpus(Config(**settings), run["data"]["files"], tell)
    except UserError as error:
        return None, f"the training text can't be read again: {error.message}"
    if corpus.manifest()["manifest_hash"] != wanted:
        return None, "the training text has changed since the training"
    with console.progress("indexing the training text") as tell:
        build_index(folder, _told(corpus.train, tell))
    return CorpusIndex(folder), None


def _told(documents: Sequence[Document], tell: Any) -> Any:
    for number, document in enumerate(documents):
        tell("indexing the training text", number, len(documents))
        yield document


def _run_of(model: str) -> dict[str, Any] | None:
    """``run.json`` of a model in a folder, where it has one."""
    path = Path(model) / "run.json"
    if not path.is_file():
        return None
    run = read_json(path)
    complete = isinstance(run, dict) and {"config", "data"} <= set(run)
    return run if complete and "manifest_hash" in run["data"] else None
