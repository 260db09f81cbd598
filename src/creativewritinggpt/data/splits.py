"""Training and validation split, without leaks.

Prepared corpus. Groups (a prompt, a story, an article, a chapter) never stand on both sides. Those
with the smallest hashes of seed and name validate, whatever the order of files or rows; one that
holds more than a fifth of its source's text is spared for training. An official split is used where
it has both sides; a single document holds out its tail. Texts are read again only to look for near
duplicates of what validates.

Streamed corpus, which is never seen as a whole. A group is reserved where the hash of seed and name
says so (one in fifty), or its official split; the first of them validate. Trade-off: reserved
documents that are not needed are lost, and duplicates within the training set stay.

Validation rows. With a bound, chunks (at most a row of a document each) are taken at random, of
each source in proportion to its tokens: an unbiased estimate of the loss of all held-out text. The
choice depends on the seed, the documents and the settings only, so that base and tuned model, every
validation and every process score the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..console import ProgressCallback
from ..errors import InputError
from .document import Document, SourceReport
from .duplicates import NearDuplicates, fingerprint
from .rows.packing import Chunks, PackedRows, TokenizedDocuments, cut_chunks, plan_rows
from .rows.pool import in_order
from .store import Documents, DocumentStore, hash_text, in_parts
from .text import paragraph_ends, sentence_ends

_SHARE = 10
_LARGEST_SHARE = 0.2
_TRAIN, _VALIDATION = 1, 2
_RESERVED_ONE_IN = 50

Numbers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass
class _Choice:
    """Split of one store's documents."""

    store: DocumentStore
    left: Mask
    validation: Mask
    held_out: Mask
    one_group: bool = False
    extra_train: list[Document] = field(default_factory=list)
    extra_validation: list[Document] = field(default_factory=list)

    @property
    def train(self) -> Mask:
        return self.left & ~self.validation & ~self.held_out


def hold_out_tail(text: str) -> tuple[str, str] | None:
    """Cut a text near nine tenths, at the end of a paragraph or else of a sentence.

    Returns:
        The part to train on and the part to hold out, or None where there is no place to cut.
    """
    wanted = 1 - 1 / _SHARE
    for ends, most in ((paragraph_ends(text), 0.25), (sentence_ends(text), 0.5)):
        cuts = [end for end in ends if 1 - most <= end / len(text) <= 1 - 0.2 / _SHARE]
        if cuts:
            cut = min(cuts, key=lambda end: abs(end / len(text) - wanted))
            return text[:cut].rstrip(), text[cut:].lstrip()
    return None


def split(
    stores: Sequence[DocumentStore],
    *,
    train_size: int,
    val_size: int,
    seed: int,
    progress: ProgressCallback | None = None,
    processes: int | None = None,
) -> tuple[Documents, Documents]:
    """Choose what is trained on and what validates; the stores' reports are completed.

    Args:
        stores: The documents of each source.
        train_size: Documents to train on, at most.
        val_size: Documents to validate on, at most; a tenth of each source at most, and at least
            one group of each as far as ``val_size`` reaches.
        seed: Another seed chooses other groups.
        progress: Called while texts are compared.
        processes: How many share the comparing; one for each core without it.

    Raises:
        InputError: There is too little text to hold something out.
    """
    choices = _without_duplicates(stores)
    quotas = _quotas([int(choice.left.sum()) for choice in choices], val_size)
    for choice, quota in zip(choices, quotas, strict=True):
        _choose(choice, quota, seed)
    _keep_groups_apart(choices)
    _limit(choices, train_size, seed)
    _drop_near_duplicates(choices, progress, processes)
    train = _collect(choices, "train")
    validation = _collect(choices, "validation")
    for choice in choices:
        report = choice.store.report
        report.train = int(choice.train.sum()) + len(choice.extra_train)
        report.validation = int(choice.validation.sum()) + len(choice.extra_validation)
    if not train or not validation:
        what = "hold out for validation" if train else "train on"
        raise InputError(
            f"there is too little text to {what}", "give more documents or a longer text"
        )
    return train, validation


def _without_duplicates(stores: Sequence[DocumentStore]) -> list[_Choice]:
    """Keep one of each text, the one in an official validation split before others."""
    sizes = [len(store) for store in stores]
    fingerprints = np.concatenate([store.fingerprints for store in stores])
    official = np.concatenate([store.splits for store in stores]) == _VALIDATION
    order = np.lexsort((np.arange(len(official)), ~official))
    _, firsts = np.unique(fingerprints[order], return_index=True)
    kept = np.zeros(len(official), dtype=np.bool_)
    kept[order[firsts]] = True
    choices = []
    for store, left in zip(stores, np.split(kept, np.cumsum(sizes)[:-1]), strict=True):
        store.report.duplicates = int(len(store) - left.sum())
        nothing = np.zeros(len(store), dtype=np.bool_)
        choices.append(_Choice(store, left, nothing, nothing.copy()))
    return choices


def _quotas(sizes: Sequence[int], val_size: int) -> list[int]:
    """How many documents of each source validate: its share of ``val_size``, at least one."""
    total = max(1, sum(sizes))
    quotas = [0] * len(sizes)
    left = val_size
    for number in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        if sizes[number] and left:
            quotas[number], left = 1, left - 1
    for number, size in enumerate(sizes):
        wanted = min(size // _SHARE, val_size * size // total)
        more = min(left, max(0, wanted - quotas[number]))
        quotas[number] += more
        left -= more
    return quotas


def _choose(choice: _Choice, quota: int, seed: int) -> None:
    """Choose the validation documents of one source."""
    store, splits = choice.store, choice.store.splits
    official = choice.left & (splits == _VALIDATION)
    if official.any() and (choice.left & ~official).any():
        # Official validation documents beyond the quota are not trained on either.
        choice.validation = _groups_within(store, official, quota, seed)
        choice.held_out = official & ~choice.validation
        store.report.drop(
            "official validation documents beyond val_size", int(choice.held_out.sum())
        )
        return
    groups = len(np.unique(store.groups[choice.left]))
    if groups > 1:
        candidates = choice.left & ~_giants(store, choice.left)
        if not candidates.any():
            candidates = choice.left
        choice.validation = _groups_within(store, candidates, quota, seed)
    elif quota:
        _choose_tail(choice)


def _giants(store: DocumentStore, candidates: Mask) -> Mask:
    """Documents of groups that hold too much of the source's text to be spared from training."""
    sizes = np.diff(store.offsets)[candidates]
    _, group = np.unique(store.groups[candidates], return_inverse=True)
    shares = np.bincount(group, weights=sizes) / max(1, int(sizes.sum()))
    giants = np.zeros(len(store), dtype=np.bool_)
    giants[candidates] = shares[group] > _LARGEST_SHARE
    return giants


def _groups_within(store: DocumentStore, candidates: Mask, quota: int, seed: int) -> Mask:
    """The groups with the smallest hashes that fit in the quota; at least one if it is not 0."""
    chosen = np.zeros(len(store), dtype=np.bool_)
    if not quota:
        return chosen
    groups, counts = np.unique(store.groups[candidates], return_counts=True)
    salt = str(seed)
    hashes = np.array([hash_text(format(group, "x"), salt) for group in groups.tolist()], np.uint64)
    order = np.argsort(hashes, kind="stable")
    taken: list[int] = []
    left = quota
    for group in order.tolist():
        if counts[group] <= left:
            taken.append(group)
            left -= int(counts[group])
        if not left:
            break
    if not taken:
        smallest = counts[order] == counts.min()
        taken = [int(order[smallest][0])]
    return candidates & np.isin(store.groups, groups[taken])


def _choose_tail(choice: _Choice) -> None:
    """One group: its last documents validate, or the tail of its one document."""
    numbers = np.flatnonzero(choice.left)
    report = choice.store.report
    choice.one_group = True
    if len(numbers) > 1:
        choice.validation[numbers[-max(1, len(numbers) // _SHARE) :]] = True
        report.note("all documents are of one group; the last ones are held out")
        return
    if not len(numbers):
        return
    document = choice.store[int(numbers[0])]
    cut = hold_out_tail(document.text)
    if cut is None:
        raise InputError(
            f"{report.name} is too short to hold out a part of it for validation",
            "give more text: at least a few sentences",
        )
    choice.left[numbers[0]] = False
    parts = replace(document, original_words=None, original_bytes=None)
    choice.extra_train = [replace(parts, text=cut[0])]
    choice.extra_validation = [replace(parts, text=cut[1], prompt=None)]
    report.note("it is a single document; its last part is held out")


def _keep_groups_apart(choices: Sequence[_Choice]) -> None:
    """What shares a group with a validation document, in any source, is not trained on."""
    for choice in choices:
        # A source of one group had to cut it; what other sources hold out still counts.
        others = [c for c in choices if not (choice.one_group and c is choice)]
        held = [np.zeros(0, dtype=np.uint64)]
        held += [c.store.groups[c.validation | c.held_out] for c in others]
        leaking = choice.train & np.isin(choice.store.groups, np.concatenate(held))
        choice.store.report.drop("their group is held out", int(leaking.sum()))
        choice.left &= ~leaking


def _limit(choices: Sequence[_Choice], train_size: int, seed: int) -> None:
    """Keep ``train_size`` documents to train on, those with the smallest hashes."""
    total = sum(int(choice.train.sum()) for choice in choices)
    room = max(0, train_size - sum(len(choice.extra_train) for choice in choices))
    if total <= room:
        return
    # The first 8 bytes of SHA-1 are as good as random; the seed turns them into another order.
    factor = np.uint64(hash_text("train", str(seed)) | 1)
    ranks = [
        np.ascontiguousarray(choice.store.digests[:, :8]).view(np.uint64)[:, 0] * factor
        for choice in choices
    ]
    everything = np.concatenate([rank[c.train] for rank, c in zip(ranks, choices, strict=True)])
    highest = np.partition(everything, room - 1)[room - 1] if room else np.uint64(0)
    for rank, choice in zip(ranks, choices, strict=True):
        over = choice.train & (rank > highest if room else True)
        choice.store.report.drop("beyond train_size", int(over.sum()))
        choice.left &= ~over


def _drop_near_duplicates(
    choices: Sequence[_Choice], progress: ProgressCallback | None, processes: int | None
) -> None:
    held: list[str] = []
    for choice in choices:
        held += [choice.store[int(i)].full_text() for i in np.flatnonzero(choice.validation)]
        held += [document.full_text() for document in choice.extra_validation]
    chosen = [np.flatnonzero(choice.train) for choice in choices]
    train = Documents([choice.store for choice in choices], chosen)
    found = [np.zeros(0, dtype=np.bool_)]
    done = 0
    for part in in_order(
        in_parts(train), near_duplicate_finder, (held,), size=train.size, processes=processes
    ):
        found.append(part)
        done += len(part)
        if progress is not None:
            progress("looking for near duplicates", done, len(train))
    ends = np.cumsum([len(numbers) for numbers in chosen])
    for choice, numbers, near in zip(
        choices, chosen, np.split(np.concatenate(found), ends[:-1]), strict=True
    ):
        choice.left[numbers[near]] = False
        choice.store.report.near_duplicates += int(near.sum())


def near_duplicate_finder(validation: list[str]) -> Callable[[list[Document]], Mask]:
    """Function that says of documents whether each nearly equals one of ``validation``."""
    find = NearDuplicates(validation).find
    return lambda documents: np.array(
        [find(d.full_text()) is not None for d in documents], np.bool_
    )


def _collect(choices: Sequence[_Choice], side: str) -> Documents:
    return Documents(
        [choice.store for choice in choices],
        [np.flatnonzero(getattr(choice, side)) for choice in choices],
        [document for c in choices for document in getattr(c, f"extra_{side}")],
    )


@dataclass
class ReservedGroups:
    """Validation split of a streamed corpus: reserved groups and the documents that validate.

    Attributes:
        seed: Another seed reserves other groups.
        documents: Those that validate.
        groups: Hashes of groups reserved besides: of sources too small to have one by the rule.
        without_training: Sources that are an official validation part only, split like any text.
    """

    seed: int
    documents: list[Document] = field(default_factory=list)
    groups: set[int] = field(default_factory=set)
    without_training: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._near: NearDuplicates | None = None
        self._fingerprints: set[int] = set()

    def by_rule(self, document: Document) -> bool:
        """Whether a document is reserved whatever else the corpus has."""
        if document.split == "validation" and document.source not in self.without_training:
            return True
        return self._hash(document) < 2**64 // _RESERVED_ONE_IN

    def _hash(self, document: Document) -> int:
        return hash_text(document.group, str(self.seed))

    def take(self, documents: Iterable[Document], most: int, words: float) -> int:
        """Take up to ``most`` documents or so many ``words`` of a source for validation.

        The source is given from its beginning and read until there are enough.

        Returns:
            The number of documents taken.
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
        """Index the validation documents; call it before :meth:`may_train`."""
        texts = [document.full_text() for document in self.documents]
        self._near = NearDuplicates(texts)
        self._fingerprints = {fingerprint(text) for text in texts}

    def may_train(self, document: Document, report: SourceReport) -> bool:
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


@dataclass(frozen=True)
class ValidationRows:
    """Rows that validations score: ``scored`` of the ``tokens`` that are held-out targets."""

    rows: PackedRows
    tokens: int
    scored: int

    def to_dict(self) -> dict[str, Any]:
        """The counts, ready for JSON."""
        return {"tokens": self.tokens, "scored": self.scored}


def validation_rows(
    tokens: TokenizedDocuments, sources: Sequence[str], *, most: int | None, seed: int, **shape: Any
) -> ValidationRows:
    """Pack held-out documents, or a part of them.

    Args:
        tokens: The ids of the documents.
        sources: [documents] the source of each.
        most: Tokens to be scored, at most about so many (a chunk of each source always is);
            without it, all.
        seed: Which chunks are taken, and which share a row.
        **shape: ``max_length``, ``bos_id``, ``eos_id`` and ``mask_prompt`` of the rows.
    """
    mask_prompt = bool(shape.get("mask_prompt", False))
    chunks = cut_chunks(tokens, max_length=shape["max_length"], mask_prompt=mask_prompt)
    total = int(chunks.target_counts(tokens, mask_prompt).sum())
    if most is not None and total > most:
        chunks = chunks.take(_part(chunks, sources, most / total, seed))
    plan = plan_rows(tokens, **shape, chunks=chunks, seed=seed)
    scored = int(chunks.target_counts(tokens, mask_prompt).sum())
    return ValidationRows(plan.take(slice(None)), total, scored)


def _part(chunks: Chunks, sources: Sequence[str], share: float, seed: int) -> Numbers:
    """Numbers of random chunks that hold a share of each source's tokens, one of each at least."""
    names = {name: number for number, name in enumerate(dict.fromkeys(sources))}
    belongs = np.array([names[name] for name in sources], dtype=np.int64)[chunks.documents]
    chosen = [np.zeros(0, dtype=np.int64)]
    for number in names.values():
        own = np.flatnonzero(belongs == number)
        own = own[np.random.default_rng([seed, number]).permutation(len(own))]
        # A chunk that is nothing but an end of text says nothing of a source by itself.
        own = own[np.argsort(chunks.lengths[own] == 1, kind="stable")]
        sums = np.cumsum(chunks.lengths[own])
        fitting = int(np.searchsorted(sums, share * sums[-1], side="right")) if len(own) else 0
        chosen.append(own[: max(1, fitting)])
    return np.sort(np.concatenate(chosen))
