"""The one thing that every source yields and everything after it takes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

SEPARATOR = "\n\n"
"""What stands between a prompt and its text, in training as in writing."""


@dataclass(frozen=True, slots=True)
class Document:
    """One cleaned piece of writing.

    Attributes:
        source: The domain it is reported under: the name of its source or the stem of its file.
        group: Documents of one group never stand on both sides of the split.
        text: The cleaned text, without the prompt.
        prompt: What the text was written for, where the source has it.
        title: Its title or chapter heading; not part of what is trained on.
        split: ``"train"`` or ``"validation"`` where the source has official splits.
        original_words: Words of the text as it came, where cleaning joins or parts words; figures
            by the word are over these, as the field's are.
        original_bytes: Bytes in UTF-8 of the text as it came, in the same case.
    """

    source: str
    group: str
    text: str
    prompt: str | None = None
    title: str | None = None
    split: str | None = None
    original_words: int | None = None
    original_bytes: int | None = None

    def full_text(self) -> str:
        """What the model reads: the prompt, an empty line, the text."""
        return self.text if not self.prompt else f"{self.prompt}{SEPARATOR}{self.text}"

    @property
    def digest(self) -> str:
        """SHA-1 of prompt and text, for manifests and caches (not for security)."""
        content = f"{self.prompt or ''}\0{self.text}".encode("utf-8", "surrogatepass")
        return hashlib.sha1(content, usedforsecurity=False).hexdigest()

    @property
    def words(self) -> int:
        """Words of the text, told apart by white space."""
        return len(self.text.split())
