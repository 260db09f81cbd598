"""What a slash command is, and how a line becomes one."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping

from ..errors import InputError
from .session import Session


@dataclasses.dataclass(frozen=True)
class Command:
    """A slash command.

    Attributes:
        name: Without the slash.
        words: What can stand after it, for the help.
        help: One line on what it does.
        run: Does it, with the rest of the line.
        completions: What could be typed after it; a mapping gives each its reason.
    """

    name: str
    words: str
    help: str
    run: Callable[[Session, str], None]
    completions: Callable[[Session], Iterable[str]] | None = None


def find(name: str, commands: Mapping[str, Command]) -> Command:
    """The command of that name; the start of a name will do where it is the only one.

    Raises:
        InputError: There is none, or there are several.
    """
    if name in commands:
        return commands[name]
    begun = [known for known in commands if name and known.startswith(name)]
    if len(begun) == 1:
        return commands[begun[0]]
    if begun:
        raise InputError(f"/{name} could be {', '.join('/' + known for known in begun)}")
    near = difflib.get_close_matches(name, commands, n=1, cutoff=0.5)
    raise InputError(
        f"there is no command /{name}",
        f"did you mean /{near[0]}?" if near else "/help lists them; // begins a line with a slash",
    )


def number(text: str, what: str, *, low: int = 1, high: int = 10_000, default: int = 1) -> int:
    """A whole number that the writer typed.

    Raises:
        InputError: It is none, or out of range.
    """
    text = text.strip()
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high):
        raise InputError(f"{what} takes a number from {low} to {high:,}, not '{text[:60]}'")
    return int(text)


def typed(text: str) -> str:
    r"""Text as the writer meant it: ``\n`` is a line end, blanks at line ends are dropped."""
    text = text.replace("\\n", "\n")
    return "\n".join(line.rstrip(" \t") for line in text.split("\n"))


def joined(before: str, text: str) -> str:
    """``text`` as it is added to a story: with a space before it where one is missing."""
    if text.startswith("+"):
        return text[1:]
    if not before or before[-1].isspace() or text[0].isspace():
        return text
    # Closing marks and the commas of a dialogue tag stand close to the word before them.
    return text if text[0] in ",.;:!?…)]}’”" else f" {text}"
