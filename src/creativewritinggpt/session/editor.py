"""The writer's own editor, for a text that is too long for a line."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from ..errors import InputError, RunError

# Editors that take +N as the line to begin at.
_TAKE_LINE = {"vi", "vim", "nvim", "nano", "emacs", "micro", "joe", "ne", "kak"}
_USUAL = ("nano", "vim", "vi")


def edit(text: str) -> str:
    """Let the writer change ``text``, the cursor on its last line.

    Raises:
        InputError: There is no editor.
        RunError: It ended with an error; nothing is changed then.
    """
    words = _command()
    handle, name = tempfile.mkstemp(prefix="story-", suffix=".txt")
    path = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
        if Path(words[0]).name in _TAKE_LINE:
            words.append(f"+{text.count(chr(10)) + 1}")
        try:
            code = subprocess.call([*words, name])
        except OSError as error:
            raise InputError(
                f"the editor {words[0]} can't be started: {error.strerror}",
                "set EDITOR to one that is installed",
            ) from error
        if code:
            raise RunError(f"{words[0]} ended with code {code}", "the text is as it was")
        try:
            new = path.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RunError("what the editor left is no UTF-8 text", "the text is as it was") from (
                error
            )
    finally:
        path.unlink(missing_ok=True)
    new = new.replace("\r\n", "\n") if "\r" not in text else new
    # Most editors end the last line.
    return new[:-1] if new.endswith("\n") and not text.endswith("\n") else new


def _command() -> list[str]:
    given = os.environ.get("VISUAL") or os.environ.get("EDITOR") or ""
    words = shlex.split(given, posix=os.name != "nt")
    if not words:
        words = next(([found] for name in _USUAL if (found := shutil.which(name))), [])
    if not words:
        raise InputError("no editor is set", "set EDITOR, or give the text: /edit TEXT")
    return words
