"""What happened to the documents of a source on the way in, told to the user and recorded."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from ..console import counted

_NOTES = 5
"""Notes that are shown; the record has all."""


@dataclass
class SourceReport:
    """The account of one source.

    Attributes:
        name: The source's name, which is the domain of its documents.
        form: How its files were understood, in words.
        documents: Documents after cleaning, before duplicates go.
        words: Their words.
        dropped: Why things were left out, and how many.
        flagged: What was noticed but kept, and how many.
        duplicates: Exact duplicates that went.
        near_duplicates: Training documents that went because they nearly equal a validation one.
        train: Documents for training.
        validation: Documents for validation.
        notes: What the user should know besides.
        origin: Where it came from: paths with SHA-256, or hub id with the resolved revision.
    """

    name: str
    form: str = ""
    documents: int = 0
    words: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    flagged: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    near_duplicates: int = 0
    train: int = 0
    validation: int = 0
    notes: list[str] = field(default_factory=list)
    origin: dict[str, Any] = field(default_factory=dict)

    def drop(self, reason: str, count: int = 1) -> None:
        """Count something that was left out."""
        if count:
            self.dropped[reason] += count

    def flag(self, what: str, count: int = 1) -> None:
        """Count something that was noticed and kept."""
        if count:
            self.flagged[what] += count

    def say(self, note: str) -> None:
        """Remember something for the user, once."""
        if note not in self.notes:
            self.notes.append(note)

    def understood(self, form: str) -> None:
        """Add a way in which files of this source were understood."""
        if form not in self.form.split("; "):
            self.form = f"{self.form}; {form}" if self.form else form

    def add(self, other: SourceReport) -> None:
        """Add the account of another part of the same source."""
        for form in other.form.split("; "):
            if form:
                self.understood(form)
        self.dropped += other.dropped
        self.flagged += other.flagged
        for note in other.notes:
            self.say(note)

    def told(self) -> list[str]:
        """The account in a few lines: form, size and :meth:`details`."""
        size = f"  {counted(self.documents, 'document')}, {counted(self.words, 'word')}"
        return [f"{self.name}: {self.form}", size, *self.details()]

    def details(self) -> list[str]:
        """What was left out, what was noticed, and the first notes; a line each."""
        gone = [f"{count:,} {reason}" for reason, count in self.dropped.items()]
        gone += [counted(self.duplicates, "duplicate")] if self.duplicates else []
        near = self.near_duplicates
        gone += [f"{counted(near, 'near duplicate')} of held-out documents"] if near else []
        lines = [f"  left out: {', '.join(gone)}"] if gone else []
        flagged = [f"{count:,} {what}" for what, count in self.flagged.items()]
        lines += [f"  noticed and kept: {', '.join(flagged)}"] if flagged else []
        lines += [f"  note: {note}" for note in self.notes[:_NOTES]]
        more = len(self.notes) - _NOTES
        return [*lines, f"  and {more:,} more notes"] if more > 0 else lines

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return {**asdict(self), "dropped": dict(self.dropped), "flagged": dict(self.flagged)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SourceReport:
        """The report that :meth:`to_dict` made."""
        made = cls(**values)
        made.dropped, made.flagged = Counter(values["dropped"]), Counter(values["flagged"])
        return made
