"""Exceptions for users: one line that says what is wrong, at most one of advice, an exit code.

Any other exception is a bug; ``--debug`` shows its traceback.
"""

from __future__ import annotations

import re

_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")

LONGEST = 1000
"""Characters of a message; what a file holds may be quoted in it."""


def one_line(text: str) -> str:
    """``text`` in one line that can be written anywhere, shortened in the middle if very long.

    Line ends and other control characters become spaces, lone surrogates question marks.
    """
    text = _BREAKS.sub(" ", text.encode("utf-8", "replace").decode())
    if len(text) > LONGEST:
        text = f"{text[: LONGEST * 2 // 3]} … {text[-LONGEST // 4 :]}"
    return text


class UserError(Exception):
    """An error that a user can understand and act on.

    Args:
        message: One line that says what is wrong.
        advice: At most one line that says what to do.
    """

    exit_code = 1

    def __init__(self, message: str, advice: str | None = None) -> None:
        self.message = one_line(message)
        self.advice = None if advice is None else one_line(advice)
        super().__init__(self.message)


class InputError(UserError):
    """A setting, file or folder that can't be used (exit code 2)."""

    exit_code = 2


class RunError(UserError):
    """A failure of the work: no network, no space, no memory (exit code 1)."""

    exit_code = 1


class Closing(RunError):
    """The server or the studio ends, and takes no more work (status 503)."""

    status = 503

    def __init__(self, what: str = "server") -> None:
        super().__init__(f"the {what} is closing")


class Stopped(UserError):
    """The work was stopped with Ctrl-C (exit code 130)."""

    exit_code = 130
