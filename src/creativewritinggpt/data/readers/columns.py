"""Which columns hold the prompt and the text: told by well-known names, never guessed in silence.

Where several columns could be meant, or none, the user is asked; what was chosen is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError

TEXT = (
    "text", "story", "content", "body", "completion", "response", "output", "continuation",
    "chapter", "article", "document", "passage", "essay", "poem", "target",
)  # fmt: skip
PROMPT = ("prompt", "instruction", "premise", "writing_prompt", "question", "source_text")
TITLE = ("title", "storytitle", "name", "headline", "heading")


@dataclass(frozen=True)
class Columns:
    """The columns that hold what a document is made of."""

    text: str
    prompt: str | None = None
    title: str | None = None

    def said(self) -> str:
        """For the user: ``prompt from 'prompt', text from 'story'``."""
        prompt = f"prompt from '{self.prompt}', " if self.prompt else ""
        return f"{prompt}text from '{self.text}'"


def _plain(name: str) -> str:
    return name.strip().casefold().replace(" ", "_").replace("-", "_")


def _named(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    return [column for column in columns if _plain(column) in names]


def _chosen(path: Path, columns: Sequence[str], name: str, flag: str) -> str:
    if name in columns:
        return name
    raise InputError(
        f"{path} has no column '{name}' ({flag})", f"its columns: {', '.join(columns)}"
    )


def find_columns(
    path: Path,
    columns: Sequence[str],
    prompt_column: str | None = None,
    text_column: str | None = None,
) -> Columns:
    """The columns of prompt, text and title.

    Args:
        path: The file, for the messages.
        columns: All columns that could hold text.
        prompt_column: The user's word on the prompt.
        text_column: The user's word on the text.

    Raises:
        InputError: It can't be told; the message lists the columns and names the flags.
    """
    listed = f"its columns: {', '.join(columns)}"
    prompt = _chosen(path, columns, prompt_column, "--prompt-column") if prompt_column else None
    if text_column:
        text = _chosen(path, columns, text_column, "--text-column")
    else:
        found = [column for column in _named(columns, TEXT) if column != prompt]
        if not found and len(columns) == 1:
            found = [column for column in columns if column != prompt]
        if len(found) != 1:
            which = " or ".join(found) or "none of its columns, as far as their names tell"
            raise InputError(
                f"{path} could hold the text in {which}; {listed}",
                "name the column with --text-column (and --prompt-column, if there are prompts)",
            )
        text = found[0]
    if prompt is None:
        prompts = [column for column in _named(columns, PROMPT) if column != text]
        if len(prompts) > 1:
            raise InputError(
                f"{path} could hold the prompt in {' or '.join(prompts)}; {listed}",
                "name the column with --prompt-column",
            )
        prompt = prompts[0] if prompts else None
    titles = [column for column in _named(columns, TITLE) if column not in (text, prompt)]
    return Columns(text, prompt, titles[0] if titles else None)
