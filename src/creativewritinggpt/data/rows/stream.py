"""What a run streams, and what it validates on; nothing else of the corpus is kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ...config.run import Config
from ...console import ProgressCallback
from ...errors import InputError
from ..corpus import Corpus, only, opened, tolerated
from ..document import Document
from ..mixing import TEMPERATURE
from ..readers.tables import Reading
from ..report import SourceReport
from ..sources.base import Keep, Source
from .reserved import HeldBack

_WORDS = 0.75  # of a token, about


@dataclass
class StreamedCorpus:
    """What can be streamed, and what validates.

    Attributes:
        sources: The sources that can be read.
        weights: How much text of each comes beside how much of the others.
        repeats: Whether a source that has ended begins again beside the others; without it all
            are read to their ends before any begins again.
        held_back: What validates and what is not trained on.
        reports: The account of what was read for validation, by source.
        missing: The sources that could not be read and were to be skipped, and why.
    """

    sources: list[Source]
    weights: dict[str, float]
    repeats: bool
    held_back: HeldBack
    reports: dict[str, SourceReport]
    missing: dict[str, str] = field(default_factory=dict)

    def known(self) -> Corpus:
        """What is known of it before training: the validation documents and the accounts."""
        return Corpus([], self.held_back.documents, self.reports, self.missing)


def open_corpus(
    config: Config,
    files: Sequence[str] = (),
    progress: ProgressCallback | None = None,
    keep: Mapping[str, Keep] | None = None,
) -> StreamedCorpus:
    """Open what a run streams, and read what it validates on.

    Args:
        config: Sources, sizes, seed, mix.
        files: The FILE arguments; where there are none, ``config.sources`` are read.
        progress: Called while validation documents are looked for.
        keep: By source, which of its documents are wanted besides; the rest is counted.

    Raises:
        InputError: A file or setting is wrong, or there is too little text.
        RunError: A source can't be reached.
    """
    for unfit, what in (
        (config.max_steps is None, "streaming reads on without an end"),
        (config.max_documents is not None, "streaming does not go with max_documents"),
    ):
        if unfit:
            raise InputError(what, "say with max_steps how long to train")
    missing: dict[str, str] = {}
    sources: list[Source] = []
    held_back = HeldBack(config.seed)
    for name, found in opened(config, files, missing):
        with tolerated(name, config, missing):
            wanted = keep or {}
            found = [only(s, wanted[s.name]) if s.name in wanted else s for s in found]
            for source in found:
                # What fails, fails now.
                documents = source.read(_reading(source.name, config))
                if all(document.split == "validation" for document in documents):
                    held_back.without_training.add(source.name)
            sources += found
    if not sources:
        raise InputError(
            f"no source could be read: {'; '.join(missing.values()) or 'none was named'}",
            "name other sources with --sources, or give files",
        )
    reports: dict[str, SourceReport] = {}
    words = float("inf") if config.val_tokens is None else config.val_tokens * _WORDS
    for source in sources:
        reading = _reading(source.name, config, progress, source.size)
        reports[source.name] = reading.report
        documents = _counted(source.read(reading), reading.report)
        most = -(-config.val_size // len(sources))
        reading.report.validation = held_back.take(documents, most, words / len(sources))
    held_back.index()
    return StreamedCorpus(
        sources, _weights(sources, config.mix), config.mix is not None, held_back, reports, missing
    )


def _reading(
    name: str, config: Config, progress: ProgressCallback | None = None, size: int | None = None
) -> Reading:
    return Reading(SourceReport(name), config.skip_bad_rows, progress, size)


def _counted(documents: Iterable[Document], report: SourceReport) -> Iterator[Document]:
    for document in documents:
        report.documents += 1
        report.words += document.words
        yield document


def _weights(sources: Sequence[Source], mix: Mapping[str, float] | None) -> dict[str, float]:
    """How much text of each source comes beside the others, as the user says or as there is."""
    names = [source.name for source in sources]
    if mix is None:
        sizes = [source.size for source in sources]
        known = [float(size) for size in sizes if size is not None]
        return dict(
            zip(names, known if len(known) == len(names) else [1.0] * len(names), strict=True)
        )
    if TEMPERATURE in mix:
        raise InputError(
            "mix: a temperature needs the sizes of all sources, which streaming does not know",
            "give the weights themselves: name=weight",
        )
    if unknown := sorted(set(mix) - set(names)):
        raise InputError(
            f"mix names {', '.join(unknown)}, which is not among the sources read",
            f"they are: {', '.join(names)}",
        )
    return {name: mix[name] for name in names if mix.get(name, 0) > 0}
