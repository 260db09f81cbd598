"""A plain interactive prompt: give a beginning, watch it go on, change a setting, try again.

It needs no terminal features: a line goes in, text comes out, so it works anywhere and can be
tested with two functions. Ctrl-C stops the writing and keeps the session.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..console import printable
from ..errors import UserError
from . import engine
from .settings import GenerationSettings

if TYPE_CHECKING:
    from ..models.writer import Writer

EXAMPLES = (
    "Once upon a time in a kingdom far away,",
    "The future of artificial intelligence",
    "In a world where magic was forbidden,",
)

HELP = """\
A line of text is a prompt; its number takes an example. An empty line goes on with the text.
  /again             the last prompt once more, with a new seed
  /set               show the settings
  /set NAME=VALUE    change one, as in /set temperature=0.8
  help, quit         this text; leave (Ctrl-D leaves too)
Ctrl-C stops the writing and keeps the session."""

ReadLine = Callable[[str], str]
WriteOut = Callable[[str], None]


def run(
    writer: Writer, settings: GenerationSettings, read_line: ReadLine, write_out: WriteOut
) -> None:
    """Talk to the person until ``quit`` or the end of input.

    Args:
        writer: The model.
        settings: How to write at first; without a seed each text gets a new one, which is shown.
        read_line: Shows a prompt and returns a line; raises ``EOFError`` at the end of input and
            ``KeyboardInterrupt`` at Ctrl-C.
        write_out: Shows text, without adding a line end.
    """
    write_out(f"{writer.name}: write a beginning, or take an example by its number.\n")
    for number, example in enumerate(EXAMPLES, 1):
        write_out(f"  {number}  {example}\n")
    write_out("`help` says more, `quit` leaves.\n")
    session = _Session(writer, settings, write_out)
    while True:
        try:
            line = read_line("\n> ")
        except EOFError:
            write_out("\n")
            return
        except KeyboardInterrupt:
            write_out("\n`quit` or Ctrl-D leaves.\n")
            continue
        if line.strip() in ("quit", "exit", "/quit", "/exit"):
            return
        try:
            session.answer(line)
        except UserError as error:
            write_out(f"error: {error.message}\n")
            if error.advice:
                write_out(f"{error.advice}\n")


class _Session:
    """The text so far and the settings."""

    def __init__(self, writer: Writer, settings: GenerationSettings, write_out: WriteOut) -> None:
        self.writer = writer
        self.settings = settings
        self.write_out = write_out
        self.prompt = ""
        self.text = ""

    def answer(self, line: str) -> None:
        """Do what one line asks."""
        command, _, rest = line.strip().partition(" ")
        if command in ("help", "/help", "?"):
            self.write_out(HELP + "\n")
        elif command == "/set":
            self._set(rest)
        elif command == "/again":
            self._write(self.prompt)
        elif command.startswith("/"):
            self.write_out(f"no command '{printable(command)}'; `help` lists them\n")
        elif line.strip() in {str(number) for number in range(1, len(EXAMPLES) + 1)}:
            self._write(EXAMPLES[int(line) - 1])
        elif line.strip():
            self._write(line)
        else:
            self._write(self.text)

    def _set(self, rest: str) -> None:
        name, equals, value = rest.partition("=")
        if equals:
            given = None if value.strip() in ("", "none") else value.strip()
            self.settings = self.settings.changed({name.strip(): given}, "/set")
            shown = {name.strip().replace("-", "_"): given}
        else:
            default = dataclasses.asdict(self.settings)
            shown = {name: default[name] for name in default if not rest or name == rest.strip()}
        for name, setting in shown.items():
            self.write_out(f"  {name} = {setting}\n")

    def _write(self, prompt: str) -> None:
        """Write on after ``prompt``, piece by piece; Ctrl-C ends it early."""
        self.prompt = self.text = prompt
        self.write_out(printable(prompt))
        seed: int | None = None
        pieces = engine.stream(
            self.writer, prompt, self.settings, warn=lambda text: self.write_out(f"[{text}]\n")
        )
        try:
            for piece in pieces:
                self.text += piece.text
                self.write_out(printable(piece.text))
                if piece.result is not None:
                    seed = piece.result.seed
        except KeyboardInterrupt:
            pieces.close()
        self.write_out("\n" if seed is None else f"\n[seed {seed}]\n")
