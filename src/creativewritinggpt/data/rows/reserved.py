"""What a streamed corpus holds back for validation, decided for each document by itself.

A corpus that is never seen as a whole can't be split by quotas. A group is held back where the hash
of seed and name says so (about one in fifty), or its source's official split; validation takes the
first of them. The price beside :mod:`..splits`: documents that are held back but not needed for
validation are lost, and duplicates go only where they equal or nearly equal a validation document,
not within the training set.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ..document import Document
from ..duplicates import NearDuplicates, fingerprint
from ..report import SourceReport
from ..store import hash_text

_ONE_IN = 50


@dataclass
class HeldBack:
    """The rule, and the documents that validate.

    Attributes:
        seed: Another seed holds back other groups.
        documents: Those that validate.
        groups: Groups held back besides, by hash: of sources too small to have one by the rule.
        without_training: Sources that are an official validation part and nothing else: they are
            split like any other text, since holding them back would leave nothing of them.
    """

    seed: int
    documents: list[Document] = field(default_factory=list)
    groups: set[int] = field(default_factory=set)
    without_training: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._near: NearDuplicates | None = None
        self._fingerprints: set[int] = set()

    def by_rule(self, document: Document) -> bool:
        """Whether a document is held back whatever else the corpus has."""
        if document.split == "validation" and document.source not in self.without_training:
            return True
        return self._hash(document) < 2**64 // _ONE_IN

    def _hash(self, document: Document) -> int:
        return hash_text(document.group, str(self.seed))

    def take(self, documents: Iterable[Document], most: int, words: float) -> int:
        """Take a source's documents for validation, and say how many.

        Args:
            documents: The source from its beginning; it is read until there are enough.
            most: Documents to take, at most.
            words: Words after which no more are taken.
        """
        found: list[Document] = []
        smallest: tuple[int, list[Document]] | None = None
        for document in documents:
            if self.by_rule(document):
                found.append(document)
                words -= document.words
                if len(found) >= most or words <= 0:
                    break
            elif not found:
                place = self._hash(document)
                if smallest is None or place < smallest[0]:
                    smallest = (place, [document])
                elif place == smallest[0]:
                    smallest[1].append(document)
        if not found and smallest is not None:
            self.groups.add(smallest[0])
            found = smallest[1][:most]
        self.documents += found
        return len(found)

    def index(self) -> None:
        """Make ready for :meth:`lets_through` once all sources have been asked."""
        texts = [document.full_text() for document in self.documents]
        self._near = NearDuplicates(texts)
        self._fingerprints = {fingerprint(text) for text in texts}

    def lets_through(self, document: Document, report: SourceReport) -> bool:
        """Whether a document may be trained on; if not, it is counted."""
        if self.by_rule(document) or self._hash(document) in self.groups:
            report.drop("held back")
            return False
        text = document.full_text()
        assert self._near is not None
        if fingerprint(text) in self._fingerprints or self._near.find(text) is not None:
            report.near_duplicates += 1
            return False
        return True
