"""Documents, and the state and the report of reading a source."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..console import ProgressCallback, counted
from ..errors import InputError
from .text import count_words

SEPARATOR = "\n\n"
"""What stands between a prompt and its text where their source says nothing else."""

CHUNK_ROWS = 128
"""Consecutive rows of a table that belong to the same shard."""

_WHITE_SPACE = tuple(map(chr, (*range(9, 14), 32, 0x85, 0xA0, 0x3000)))

_NOTES = 5
"""Notes that are shown; the record has all."""
_FILES = 12
"""Files that are shown, those of which most was left out first; the record has all."""
_LITTLE = 0.9
"""A file of which less became documents is warned of."""
_PROGRESS_BYTES = 1_000_000

RawRow = tuple[int, Any]
"""The number of a row, from 1, and the row as its file has it: a line, or values by column."""


def characters(text: str) -> int:
    """Number of characters of a text that are not white space."""
    return len(text) - sum(map(text.count, _WHITE_SPACE))


def joint_name(joint: str) -> str:
    """What stands between a prompt and its text, in words."""
    known = {" ": "a space", SEPARATOR: "an empty line", "\n": "a line end", "": "nothing"}
    return known.get(joint, repr(joint))


@dataclass(frozen=True, slots=True)
class Document:
    """One cleaned piece of writing.

    Attributes:
        source: Its domain in reports: the name of its source or the stem of its file.
        group: Documents of one group never stand on both sides of the split.
        text: The cleaned text, without the prompt.
        prompt: What the text was written for, where the source has it.
        title: Its title or chapter heading; not trained on.
        split: ``"train"`` or ``"validation"`` where the source has official splits.
        original_words, original_bytes: Of the text as it came (UTF-8), where cleaning joins or
            parts words; figures by the word are over these, as the field's are.
        joint: What stands between the prompt and the text.
    """

    source: str
    group: str
    text: str
    prompt: str | None = None
    title: str | None = None
    split: str | None = None
    original_words: int | None = None
    original_bytes: int | None = None
    joint: str = SEPARATOR

    def full_text(self) -> str:
        """What the model reads: the prompt, the joint, the text."""
        return self.text if not self.prompt else f"{self.prompt}{self.joint}{self.text}"

    def parts(self) -> tuple[str, str]:
        """The full text as what a model is given to continue, and the continuation.

        Spaces at the end of the joint belong to the continuation, since a token begins with its
        space: after one the model would have to write a word as it hardly ever stands in a text.
        """
        if not self.prompt:
            return "", self.text
        given = (self.prompt + self.joint).rstrip(" ") if self.joint.strip(" ") else self.prompt
        return given, self.full_text()[len(given) :]

    @property
    def digest(self) -> str:
        """SHA-1 of prompt and text, for manifests and caches (not for security)."""
        content = f"{self.prompt or ''}\0{self.text}".encode("utf-8", "surrogatepass")
        return hashlib.sha1(content, usedforsecurity=False).hexdigest()

    @property
    def words(self) -> int:
        """Words of the text."""
        return count_words(self.text)


@dataclass
class FileReport:
    """What became of the characters of one file; white space is not counted.

    Attributes:
        name: The file, as reports call it.
        form: What it was taken for, in words.
        characters: Characters of text in it. Markup is not text: tags and codes are not counted.
        kept: Characters of its documents: text, prompt and title.
        left_out: Characters that are in no document, by reason.
        refused: Why it was not read, where it was not.
    """

    name: str
    form: str = ""
    characters: int = 0
    kept: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    refused: str = ""

    @property
    def share(self) -> float:
        """Share of the characters that became documents, from 0 to 1."""
        return min(1.0, self.kept / self.characters) if self.characters else 1.0

    @property
    def is_little(self) -> bool:
        """Whether so much was left out that the user should look at it."""
        return not self.refused and self.share < _LITTLE

    def describe(self) -> str:
        """A line for the user: what it was taken for, the share that was kept, what was not."""
        form = f"{self.name}: {self.form or 'read'}"
        if not self.characters:
            return f"{form}; {counted(self.kept, 'character')} kept"
        said = f"{form}; {self.share:.1%} of {counted(self.characters, 'character')} kept"
        gone = [f"{count:,} {reason}" for reason, count in self.left_out.most_common()]
        rest = self.characters - self.kept - self.left_out.total()
        if rest > 0.005 * self.characters:
            gone.append(f"{rest:,} marks and layout")
        return said + (f"; left out: {', '.join(gone)}" if gone else "")

    def leave_out(self, reason: str, text: str) -> None:
        """Count the characters of a text that no document gets."""
        count = characters(text)
        if count:
            self.left_out[reason] += count

    def add(self, other: FileReport) -> None:
        """Add the counts of another part of the same file."""
        self.form = self.form or other.form
        self.refused = self.refused or other.refused
        self.characters += other.characters
        self.kept += other.kept
        self.left_out += other.left_out


@dataclass
class SourceReport:
    """Counts and notes of one source.

    Attributes:
        name: The source's name, which is the domain of its documents.
        form: How its files were understood, in words.
        documents, words: After cleaning, before duplicates go.
        dropped, flagged: What was left out, or noticed and kept, and how many.
        duplicates: Exact duplicates that went.
        near_duplicates: Training documents that went because they nearly equal a validation one.
        train, validation: Documents of each split.
        notes: What the user should know besides.
        origin: Paths with SHA-256, or hub id with the resolved revision.
        files: What became of the characters of each file, by its name in reports.
        joints: What stands between prompt and text, and in how many documents.
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
    files: dict[str, FileReport] = field(default_factory=dict)
    joints: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        # Damaged files have tens of thousands of notes.
        self._noted = set(self.notes)

    def drop(self, reason: str, count: int = 1) -> None:
        """Count something that was left out."""
        if count:
            self.dropped[reason] += count

    def flag(self, what: str, count: int = 1) -> None:
        """Count something that was noticed and kept."""
        if count:
            self.flagged[what] += count

    def note(self, text: str) -> None:
        """Add a note for the user, once."""
        if text not in self._noted:
            self._noted.add(text)
            self.notes.append(text)

    def add_form(self, form: str) -> None:
        """Add a way in which files of this source were understood."""
        if form not in self.form.split("; "):
            self.form = f"{self.form}; {form}" if self.form else form

    def add(self, other: SourceReport) -> None:
        """Add the counts and notes of another chunk of the same source."""
        for form in other.form.split("; "):
            if form:
                self.add_form(form)
        self.dropped += other.dropped
        self.flagged += other.flagged
        for text in other.notes:
            self.note(text)
        for name, file in other.files.items():
            self.files.setdefault(name, FileReport(name)).add(file)

    def summary(self) -> list[str]:
        """A few lines for the user: form, size and :meth:`details`."""
        size = f"  {counted(self.documents, 'document')}, {counted(self.words, 'word')}"
        return [f"{self.name}: {self.form}", size, *self.details()]

    def file_lines(self, only_warnings: bool = False) -> list[str]:
        """A line for each file, with a warning where little of it was kept; a few where many."""
        read = [file for file in self.files.values() if not file.refused]
        read.sort(key=lambda file: file.share)
        shown = [file for file in read if file.is_little or not only_warnings]
        lines = [
            f"  {'warning: ' if file.is_little else ''}{file.describe()}" for file in shown[:_FILES]
        ]
        more = shown[_FILES:]
        if more:
            total = FileReport(f"and {counted(len(more), 'more file')}", form="of the same kinds")
            for file in more:
                total.add(file)
            lines.append(f"  {total.describe()}")
        refused = [f"{file.name} ({file.refused})" for file in self.files.values() if file.refused]
        if refused:
            rest = len(refused) - _FILES
            named = ", ".join(refused[:_FILES]) + (f", and {rest:,} more" if rest > 0 else "")
            lines.append(f"  not read: {named}")
        return lines

    def details(self, files: bool = False) -> list[str]:
        """What was left out, what was noticed, and the first notes; a line each.

        Args:
            files: Whether every file has a line, or only those of which little was kept.
        """
        lines = self.file_lines(only_warnings=not files)
        gone = [f"{count:,} {reason}" for reason, count in self.dropped.items()]
        gone += [counted(self.duplicates, "duplicate")] if self.duplicates else []
        near = self.near_duplicates
        gone += [f"{counted(near, 'near duplicate')} of held-out documents"] if near else []
        if self.joints:
            joints = " or ".join(map(joint_name, self.joints))
            lines.append(f"  between prompt and text: {joints}")
        lines += [f"  left out: {', '.join(gone)}"] if gone else []
        flagged = [f"{count:,} {what}" for what, count in self.flagged.items()]
        lines += [f"  noticed and kept: {', '.join(flagged)}"] if flagged else []
        lines += [f"  note: {note}" for note in self.notes[:_NOTES]]
        more = len(self.notes) - _NOTES
        return [*lines, f"  and {more:,} more notes"] if more > 0 else lines

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        plain = {
            name: vars(file) | {"left_out": dict(file.left_out), "share": file.share}
            for name, file in self.files.items()
        }
        return {one.name: getattr(self, one.name) for one in fields(self)} | {
            "dropped": dict(self.dropped),
            "flagged": dict(self.flagged),
            "joints": dict(self.joints),
            "notes": list(self.notes),
            "files": plain,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SourceReport:
        """The report that :meth:`to_dict` made."""
        made = cls(**values)
        files = {
            name: {key: value for key, value in file.items() if key != "share"}
            for name, file in values["files"].items()
        }
        for name in ("dropped", "flagged", "joints"):
            setattr(made, name, Counter(values[name]))
        made.files = {
            name: FileReport(**{**file, "left_out": Counter(file["left_out"])})
            for name, file in files.items()
        }
        return made


@dataclass
class Reading:
    """State of reading one source: options, position, report.

    Rows of a divisible table belong to shards, ``CHUNK_ROWS`` at a time and round and round; whole
    files of a data set on the hub do where there are enough of them.

    Attributes:
        report: Its counts and notes.
        file: What becomes of the file that is read now.
        skip_bad_rows: Whether rows that can't be read are left out.
        progress: Called as the work goes on.
        total: Bytes to be read, where known.
        done: Bytes read.
        shard: Which shard is read here ...
        num_shards: ... of how many.
        at: Position of the row read last, in the order of the source: the number of its file in
            the bits from 40 up, that of its chunk below.
        start: Position where reading begins; what stands before has been read at another time.
        by_file: Whether shards are whole files, so that every row of the current one is read.
        whole: Whether the rows of the current file belong together, so that all of them are read.
        raw: Rows of a table that have been read already; where given, the file is not.
    """

    report: SourceReport
    skip_bad_rows: bool = False
    progress: ProgressCallback | None = None
    total: int | None = None
    done: int = 0
    shard: int = 0
    num_shards: int = 1
    at: int = 0
    start: int = 0
    by_file: bool = False
    whole: bool = False
    raw: list[RawRow] | None = None
    file: FileReport = field(default_factory=lambda: FileReport(""))
    _file: int = -1
    _told: int = 0

    def begin(self, name: str) -> None:
        """Note that the file of this name in reports is read from now on."""
        self.file = self.report.files.setdefault(name, FileReport(name))

    def keep(self, document: Document) -> None:
        """Count a document's characters as kept."""
        parts = (document.text, document.prompt, document.title)
        self.file.kept += sum(characters(part) for part in parts if part)

    def next_file(self) -> bool:
        """Note that another file begins, and say whether any of it is at or after the start."""
        self._file += 1
        self.at = self._file << 40
        return self.start < (self._file + 1) << 40

    @property
    def rows_before(self) -> int:
        """How many rows of the current file stand before the start."""
        if self.whole or self.start >> 40 != max(self._file, 0):
            return 0
        return max(0, (self.start & ((1 << 40) - 1)) * CHUNK_ROWS - 1)

    def is_mine(self, number: int) -> bool:
        """Note that row ``number`` is next, and say whether it is of this shard."""
        if self.whole:
            return True
        chunk = number // CHUNK_ROWS
        self.at = (max(self._file, 0) << 40) + chunk
        mine = self.by_file or chunk % self.num_shards == self.shard
        return mine and self.at >= self.start

    def advance(self, count: int) -> None:
        """Note that so many more bytes have been read."""
        self.done += count
        if self.progress is not None and self.done - self._told >= _PROGRESS_BYTES:
            self._told = self.done
            self.progress(f"reading {self.report.name}", self.done, self.total)

    def bad_row(self, path: Path, line: int, what: str, unit: str = "line") -> None:
        """Count a row that can't be read, or stop.

        Raises:
            InputError: Bad rows are not to be left out.
        """
        if not self.skip_bad_rows:
            raise InputError(
                f"{path}, {unit} {line}: {what}",
                "mend it, or leave out such rows with --skip-bad-rows",
            )
        self.report.drop("bad rows")
        self.report.note(f"{path.name}, {unit} {line} was left out: {what}")
